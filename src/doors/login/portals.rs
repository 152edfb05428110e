//! `GET portals/` and `GET portals/<slug>/`: public metadata of portals. A browser gets the list as a page.
//!
//! The response has public data only: portals of the requested host, and those of their flags that are marked public.

use cedargate_policy::denial::{Denial, Refusal};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::page::PortalLink;
use super::permissions::KnownCaller;
use super::portal_lookup::{self, LoginChoice};
use super::{EndpointRequest, LoginDoor};
use crate::config::host_of;
use crate::http::answer::{self, Style};
use crate::http::upstream::Body;
use crate::portals::Portal;

pub(super) fn list(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let portals = request.portals.portals.iter();
    let portals = portals.filter(|portal| portal.is_at(&request.client.host));
    if request.style == Style::Page {
        let with_login = portals.filter(|portal| portal.has_login(&door.config));
        let links: Vec<PortalLink> = with_login.map(|portal| link(request, portal)).collect();
        return Ok(door.pages(request).chooser(&links));
    }
    let all: Vec<Value> = portals.map(|portal| describe(door, request, portal)).collect();
    Ok(answer::json(StatusCode::OK, &json!({"portals": all})))
}

pub(super) async fn show(door: &LoginDoor, request: &EndpointRequest<'_>, slug: &str) -> Result<Response<Body>, Refusal> {
    let portal = portal_lookup::find(request, slug)?;
    if !portal.is_at(&request.client.host) {
        return Err(Refusal::new(Denial::PortalUnknown, "the portal is at another host"));
    }
    let mut body = describe(door, request, portal);
    // an unusable credential counts as none: the answer has public data only
    if let Ok(known) = KnownCaller::of(door, request, Some(slug)).await
        && let Some(flags) = body.get_mut("flags")
    {
        let caller = &known.caller;
        *flags = Value::Object(caller.active.revision.rules.flags.public(&caller.principal.flags));
    }
    Ok(answer::json(StatusCode::OK, &body))
}

fn describe(door: &LoginDoor, request: &EndpointRequest<'_>, portal: &Portal) -> Value {
    let prefix = &door.config.identity.prefix;
    let origin = elsewhere(request, portal);
    let slug = &*portal.name;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("portal", slug)
        .append_pair("rd", &portal.config.matches.path_prefix)
        .finish();
    let url = format!("{origin}{prefix}/auth/login?{query}");
    let login = portal_lookup::provider(door, portal, None).ok().map(|choice| match choice {
        LoginChoice::One(provider) => json!({"provider": provider.title, "url": url}),
        LoginChoice::Several(providers) => {
            let each = providers
                .iter()
                .map(|provider| json!({"provider": provider.title, "url": format!("{url}&provider={}", provider.name)}));
            json!({"url": url, "providers": each.collect::<Value>()})
        }
    });
    let active = portal.active.load();
    let flags = active.as_ref().map(|active| &active.revision.rules.flags);
    let flags: Map<String, Value> = flags.map(|flags| flags.public(&flags.anonymous)).unwrap_or_default();
    json!({
        "slug": slug,
        "title": portal_lookup::title(portal),
        "path_prefix": portal.config.matches.path_prefix,
        "login": login,
        "flags": flags,
        "links": {
            "self": format!("{prefix}/portals/{slug}/"),
            "portal": format!("{origin}{}", portal.config.matches.path_prefix),
            "session": format!("{prefix}/auth/session?portal={slug}"),
        },
    })
}

fn link(request: &EndpointRequest<'_>, portal: &Portal) -> PortalLink {
    PortalLink {
        title: portal.title(),
        href: format!("{}{}", elsewhere(request, portal), portal.config.matches.path_prefix),
    }
}

/// The portal's origin if `public_url` puts it at another host; else empty: the portal is at the requested one.
fn elsewhere(request: &EndpointRequest<'_>, portal: &Portal) -> String {
    let own = portal.config.public_url.as_ref();
    own.filter(|own| host_of(own) != request.client.host)
        .cloned()
        .unwrap_or_default()
}
