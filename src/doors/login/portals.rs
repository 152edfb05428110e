//! `GET portals/` and `GET portals/<slug>/`: public metadata of portals. A browser gets the list as a page.
//!
//! The response has public data only: portals of the requested host, and those of their flags that are marked public.

use cedargate_policy::denial::{Denial, Refusal};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::page::PortalLink;
use super::portal_lookup::{self, LoginChoice};
use super::{EndpointRequest, LoginDoor};
use crate::http::answer::{self, Style};
use crate::http::upstream::Body;
use crate::portals::Portal;

pub(super) fn list(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let portals = request.portals.portals.iter();
    let portals = portals.filter(|portal| portal.is_at(&request.client.host));
    if request.style == Style::Page {
        let links: Vec<PortalLink> = portals.map(|portal| link(portal)).collect();
        return Ok(door.pages(request).chooser(&links));
    }
    let all: Vec<Value> = portals.map(|portal| describe(door, portal)).collect();
    Ok(answer::json(StatusCode::OK, &json!({"portals": all})))
}

pub(super) fn show(door: &LoginDoor, request: &EndpointRequest<'_>, slug: &str) -> Result<Response<Body>, Refusal> {
    let portal = portal_lookup::find(request, slug)?;
    if !portal.is_at(&request.client.host) {
        return Err(Refusal::new(Denial::PortalUnknown, "the portal is at another host"));
    }
    Ok(answer::json(StatusCode::OK, &describe(door, portal)))
}

fn describe(door: &LoginDoor, portal: &Portal) -> Value {
    let prefix = &door.config.identity.prefix;
    let slug = &*portal.name;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("portal", slug)
        .append_pair("rd", &portal.config.matches.path_prefix)
        .finish();
    let url = format!("{prefix}/auth/login?{query}");
    let login = portal_lookup::provider(door, portal, None).ok().map(|choice| match choice {
        LoginChoice::One(provider) => json!({"provider": provider.title, "url": url}),
        LoginChoice::Several(providers) => {
            let each = providers
                .iter()
                .map(|provider| json!({"provider": provider.title, "url": format!("{url}&provider={}", provider.name)}));
            json!({"url": url, "providers": each.collect::<Value>()})
        }
    });
    let file = portal_lookup::file(portal);
    let flags = file.iter().flat_map(|file| &file.flags).filter(|(_, flag)| flag.public);
    let flags: Map<String, Value> = flags.map(|(name, flag)| (name.clone(), Value::Bool(flag.value))).collect();
    json!({
        "slug": slug,
        "title": portal_lookup::title(portal),
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

fn link(portal: &Portal) -> PortalLink {
    PortalLink {
        slug: portal.name.to_string(),
        title: portal_lookup::title(portal),
        href: portal.config.matches.path_prefix.clone(),
    }
}
