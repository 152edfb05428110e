//! `GET portals/` and `portals/<slug>/`: public metadata. In a browser, the chooser.
//!
//! Only what anybody may know: portals of the host that was asked, and of their flags those that say so.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Map, Value, json as object};
use url::form_urlencoded;

use super::page::PortalCard;
use super::visitor::portal_named;
use super::{IdentityDoor, Visit, json};
use crate::denial::{Denial, Refusal};
use crate::http::answer::Style;
use crate::http::upstream::Body;
use crate::portals::Portal;
use cedargate_policy::portal::file::PortalFile;

impl IdentityDoor {
    pub(super) fn portals(&self, visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        let here = visit.serving.portals.iter().filter(|portal| portal.is_at(&visit.client.host));
        if visit.style == Style::Page {
            let cards: Vec<PortalCard> = here.map(|portal| card(portal)).collect();
            return Ok(self.chooser_page(visit, &cards));
        }
        let all: Vec<Value> = here.map(|portal| self.described(portal)).collect();
        Ok(json(StatusCode::OK, &object!({"portals": all})))
    }

    pub(super) fn portal(&self, visit: &Visit<'_>, slug: &str) -> Result<Response<Body>, Refusal> {
        let portal = portal_named(visit, slug)?;
        if !portal.is_at(&visit.client.host) {
            return Err(Refusal::new(Denial::PortalUnknown, "the portal is at another host"));
        }
        Ok(json(StatusCode::OK, &self.described(&portal)))
    }

    fn described(&self, portal: &Portal) -> Value {
        let (prefix, slug) = (&self.config.identity.prefix, &*portal.name);
        let file = file(portal);
        let login = self.provider_of(portal, None).ok().map(|provider| {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("portal", slug)
                .append_pair("rd", &portal.config.matches.path_prefix)
                .finish();
            object!({"provider": provider.title, "url": format!("{prefix}/auth/login?{query}")})
        });
        let flags = file.iter().flat_map(|file| &file.flags).filter(|(_, flag)| flag.public);
        let flags: Map<String, Value> = flags.map(|(name, flag)| (name.clone(), Value::Bool(flag.value))).collect();
        object!({
            "slug": slug,
            "title": title(portal),
            "path_prefix": portal.config.matches.path_prefix,
            "login": login,
            "flags": flags,
            "links": {
                "self": format!("{prefix}/portals/{slug}/"),
                "portal": portal.config.matches.path_prefix,
                "session": format!("{prefix}/auth/session?portal={slug}"),
            },
        })
    }
}

fn card(portal: &Portal) -> PortalCard {
    PortalCard {
        slug: portal.name.to_string(),
        title: title(portal),
        href: portal.config.matches.path_prefix.clone(),
    }
}

/// What the revision in force says; `None`: nothing is loaded.
fn file(portal: &Portal) -> Option<Arc<PortalFile>> {
    portal.active.load().as_ref().map(|active| Arc::clone(&active.revision.file))
}

fn title(portal: &Portal) -> String {
    let title = file(portal).and_then(|file| file.title.clone());
    title.unwrap_or_else(|| portal.name.to_string())
}
