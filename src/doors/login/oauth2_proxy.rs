//! `start`, `sign_in`, `sign_out` and `userinfo` of oauth2-proxy, for pages and proxies that link to them
//! (`identity.oauth2_proxy`).
//!
//! Each is a translation: `start` and `sign_in` lead to `auth/login` of the portal of `rd`, `sign_out` is
//! `auth/logout`, and `userinfo` is `auth/session` under other names. `auth` is a door of proxies
//! (`doors::forward_auth`).
//!
//! SECURITY: `rd` may be a full URL here, and so may `X-Auth-Request-Redirect`, in which a proxy in front says it. Both
//! choose a portal, and the browser returns to a path of that portal's own origin.

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::path::CanonicalPath;
use http::{HeaderName, Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, json};

use super::caller::principal_id;
use super::completion::see_other;
use super::input::Parameters;
use super::session::{CallerAtPortal, caller_at_portal};
use super::{EndpointRequest, LoginDoor, ReturnPath, ReturnRules, logout};
use crate::config::host_of;
use crate::http::answer::{self, Style};
use crate::http::upstream::Body;
use crate::portals::Portal;

/// The header of a proxy that says where the browser was going; read where a link has no `rd`.
const ASKED_BY_PROXY: HeaderName = HeaderName::from_static("x-auth-request-redirect");

/// A path of this gate to which `rd` leads.
struct Destination {
    /// Of the URL; of the request, if `rd` is a path.
    host: String,
    return_to: ReturnPath,
}

impl Destination {
    fn parse(rd: &str, request: &EndpointRequest<'_>, rules: ReturnRules<'_>) -> Result<Self, Refusal> {
        let Some((scheme, rest)) = rd.split_once("://").filter(|_| !rd.starts_with('/')) else {
            let host = request.client.host.clone();
            let return_to = ReturnPath::parse(rd, rules)?;
            return Ok(Self { host, return_to });
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_authority = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if !["http", "https"].contains(&scheme) || authority.is_empty() || !authority.chars().all(is_authority) {
            return Err(invalid("`rd` is neither a path nor a plain URL"));
        }
        Ok(Self {
            host: host_of(&format!("{scheme}://{authority}")),
            return_to: ReturnPath::parse(if path.is_empty() { "/" } else { path }, rules)?,
        })
    }

    /// The portal of the destination, if the configuration puts it at this host.
    fn portal<'a>(&self, door: &LoginDoor, request: &EndpointRequest<'a>) -> Result<&'a Portal, Refusal> {
        let text = self.return_to.as_str();
        let path = text.split_once('?').map_or(text, |(path, _query)| path);
        let path = CanonicalPath::parse(path).map_err(|error| Refusal::new(Denial::RequestInvalid, error.to_string()))?;
        let portal = request.portals.find(&self.host, &path)?;
        let portal = portal.ok_or_else(|| Refusal::new(Denial::PortalUnknown, "no portal matches host and path of `rd`"))?;
        let origin = door.config.origin_of(&portal.config, &self.host);
        let is_there = self.host == request.client.host || origin.is_some_and(|origin| host_of(&origin) == self.host);
        is_there.then_some(&**portal).ok_or(invalid("`rd` is a URL of another host"))
    }
}

/// Where the login leads back to, and at which portal it is.
struct LoginAt<'a> {
    destination: Destination,
    portal: &'a Portal,
}

impl<'a> LoginAt<'a> {
    fn parse(rd: &str, door: &LoginDoor, request: &EndpointRequest<'a>) -> Result<Self, Refusal> {
        let destination = Destination::parse(rd, request, ReturnRules::of(&door.config))?;
        let portal = destination.portal(door, request)?;
        Ok(Self { destination, portal })
    }

    /// The place that the proxy in front states. As in oauth2-proxy, a statement that leads nowhere counts as none:
    /// proxies send it with every request, also with those for the login's own paths.
    fn stated(door: &LoginDoor, request: &EndpointRequest<'a>) -> Option<Self> {
        let mut stated = request.head.headers.get_all(ASKED_BY_PROXY).iter();
        match (stated.next(), stated.next()) {
            (Some(only), None) => Self::parse(only.to_str().ok()?, door, request).ok(),
            _ => None,
        }
    }
}

/// Redirects to the login of the portal of `rd`; without `rd` to that of the only portal at this host.
pub(super) fn start(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let prefix = &door.config.identity.prefix;
    let login = match Parameters::from_query(request.head).optional("rd")? {
        Some(rd) => Some(LoginAt::parse(&rd, door, request)?),
        None => LoginAt::stated(door, request),
    };
    if let Some(LoginAt { destination, portal }) = login {
        return see_other(&destination.return_to.login_at(&portal.name, prefix));
    }
    let here = |portal: &&std::sync::Arc<Portal>| portal.is_at(&request.client.host) && portal.has_login(&door.config);
    let mut portals = request.portals.portals.iter().filter(here);
    match (portals.next(), portals.next()) {
        (Some(only), None) => see_other(&format!("{prefix}/auth/login?portal={}", only.name)),
        _ => see_other(&format!("{prefix}/portals/")),
    }
}

/// Ends the session if a page of this origin asked for it; asks the user first if another site may have made the link.
pub(super) async fn sign_out(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    let parameters = Parameters::from_form_or_query(&door.config.limits, request.head, body).await?;
    let rd = parameters.optional("rd")?;
    // the logout of a provider is the gate's own affair, so a URL of the provider leads nowhere
    let destination = rd.and_then(|rd| Destination::parse(&rd, request, ReturnRules::of(&door.config)).ok());
    let here = destination.filter(|destination| destination.host == request.client.host);
    let return_to = here.map(|destination| destination.return_to);
    match door.check_same_origin(request) {
        Ok(()) if request.head.method != Method::HEAD => {
            logout::end_session(
                door,
                request,
                logout::LogoutEnd {
                    return_to,
                    ..logout::LogoutEnd::default()
                },
            )
            .await
        }
        Err(refusal) if request.style != Style::Page => Err(refusal),
        _ => Ok(door.pages(request).confirm_logout(return_to.as_ref())),
    }
}

pub(super) async fn user_info(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let CallerAtPortal { portal, identity, .. } = caller_at_portal(door, request).await?;
    let claim = |name: &str| portal.claim(&identity.claims, name);
    let text = |name: &str| Ok::<_, Refusal>(claim(name)?.filter(|value| value.is_string()).cloned());
    let mut body = Map::new();
    body.insert("user".to_owned(), json!(principal_id(portal, &identity)?));
    body.insert("email".to_owned(), text("email")?.unwrap_or(json!("")));
    body.insert("groups".to_owned(), json!(portal.groups(claim("groups")?, &identity)));
    if let Some(name) = text("preferred_username")? {
        body.insert("preferredUsername".to_owned(), name);
    }
    Ok(answer::json(StatusCode::OK, &body))
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}
