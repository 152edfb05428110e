//! The doors of proxies over HTTP: nginx, Traefik, Caddy, HAProxy, Envoy's `ext_authz` by HTTP, and proxies that asked
//! oauth2-proxy.
//!
//! A proxy states the request that it holds back and forwards it if the answer is 200. The doors differ in the form of
//! the question and in the statuses of the answer; the decision is the gate's (`gate::asked`). A permitted request is
//! answered with the headers that the proxy must set, each of them always there.
//!
//! SECURITY: the statements count only from loopback or one of `trusted_proxies`. Behind `listen.decision.auth` the
//! proxy also shows a token, in `x-cedargate-door-token`. Every refusal is a status that each of these proxies takes
//! for a refusal.

mod oauth2_proxy;

use std::net::IpAddr;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::{Door, Redacted};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::config::{IdentityPages, StatedIn};
use crate::gate::{AskedRequest, Checked, Gate, Removal};
use crate::http::credentials::check_listener_token;
use crate::http::request::{StatedRequest, X_REQUEST_ID, check_head_size, is_trusted};
use crate::http::upstream::Body;

/// The prefix of Envoy's questions.
const EXT_AUTHZ_PREFIX: &str = "/ext-authz";
/// The listener's token, from a proxy.
static DOOR_TOKEN: HeaderName = HeaderName::from_static("x-cedargate-door-token");
/// The login that helps a refused navigation, for a proxy that cannot pass a redirect on.
static LOGIN: HeaderName = HeaderName::from_static("x-cedargate-login");
/// The code of the refusal, for the same proxy.
static REASON: HeaderName = HeaderName::from_static("x-cedargate-reason");

/// The form of a proxy's question and of its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyDoor {
    /// nginx: `X-Original-*`; only 200, 401 and 403, without a body.
    AuthRequest,
    /// Traefik, Caddy, HAProxy: `X-Forwarded-*`; the client gets the answer to a refusal as it is.
    ForwardAuth,
    /// Envoy: the client's own method and path behind a prefix.
    ExtAuthz,
    /// A proxy that was configured for oauth2-proxy: only 202, 401 and 403, without a body. At the proxy listener.
    OAuth2Proxy(StatedIn),
}

impl ProxyDoor {
    /// The door at a path of the proxy listener.
    pub fn at_proxy_listener(identity: &IdentityPages, path: &str) -> Option<Self> {
        oauth2_proxy::statement_at(identity, path).map(Self::OAuth2Proxy)
    }

    /// The door at a path of the decision listener.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/auth-request" => Some(Self::AuthRequest),
            "/forward-auth" => Some(Self::ForwardAuth),
            _ => {
                let rest = path.strip_prefix(EXT_AUTHZ_PREFIX)?;
                rest.starts_with('/').then_some(Self::ExtAuthz)
            }
        }
    }

    fn label(self) -> Door {
        match self {
            Self::AuthRequest | Self::ForwardAuth | Self::OAuth2Proxy(_) => Door::ForwardAuth,
            Self::ExtAuthz => Door::ExtAuthz,
        }
    }
}

/// Answers one question; never fails.
pub async fn handle(gate: &Gate, tokens: &[Redacted<String>], door: ProxyDoor, head: Parts, peer: IpAddr) -> Response<Body> {
    let ids = head.headers.clone();
    let asked = read(gate, tokens, door, head, peer);
    let checked = gate.check(door.label(), &ids, asked).await;
    answer(door, checked)
}

/// Answers one question at the proxy listener, which is open to clients, too; never fails.
pub async fn handle_at_proxy_listener(gate: &Gate, door: ProxyDoor, head: Parts, peer: IpAddr) -> Response<Body> {
    let slot = gate.limits.acquire_slot();
    let ids = head.headers.clone();
    let asked = match &slot {
        // a peer whose statements do not count is counted by its own address
        Some(_) => check_peer(gate, peer)
            .or_else(|refusal| gate.limits.check_address(peer).and(Err(refusal)))
            .and_then(|()| read(gate, &[], door, head, peer)),
        None => Err(Refusal::over_limit(Denial::Overloaded, "limits.requests")),
    };
    let checked = gate.check(door.label(), &ids, asked).await;
    answer(door, checked).map(|body| body.with_request_slot(slot))
}

fn read(
    gate: &Gate,
    tokens: &[Redacted<String>],
    door: ProxyDoor,
    mut head: Parts,
    peer: IpAddr,
) -> Result<AskedRequest, Refusal> {
    check_head_size(&head, &gate.config.limits)?;
    check_peer(gate, peer)?;
    let token = head.headers.remove(&DOOR_TOKEN);
    if !tokens.is_empty() {
        let presented = token.as_ref().and_then(|token| token.to_str().ok());
        let presented = presented.ok_or(Refusal::new(
            Denial::TokenMissing,
            "this listener needs one of its tokens, in `x-cedargate-door-token`",
        ))?;
        check_listener_token(tokens, presented)?;
    }
    let only = match door {
        ProxyDoor::OAuth2Proxy(_) => oauth2_proxy::only_for(&head)?,
        ProxyDoor::AuthRequest | ProxyDoor::ForwardAuth | ProxyDoor::ExtAuthz => None,
    };
    let stated = match door {
        ProxyDoor::AuthRequest => StatedRequest::from_original(head.headers),
        ProxyDoor::ForwardAuth => StatedRequest::from_forwarded(head.headers),
        ProxyDoor::ExtAuthz => StatedRequest::below(EXT_AUTHZ_PREFIX, &mut head),
        ProxyDoor::OAuth2Proxy(stated_in) => oauth2_proxy::stated(stated_in, &gate.config, &mut head),
    };
    Ok(AskedRequest {
        stated: stated?,
        removal: Removal::Impossible,
        portal: None,
        only,
    })
}

/// Refuses a peer whose statements about requests do not count.
fn check_peer(gate: &Gate, peer: IpAddr) -> Result<(), Refusal> {
    if peer.to_canonical().is_loopback() || is_trusted(peer, &gate.config.trusted_proxies) {
        return Ok(());
    }
    Err(Refusal::new(
        Denial::NotPermitted,
        format!("`{peer}` is not one of `trusted_proxies`, so its statements about a request do not count"),
    ))
}

fn answer(door: ProxyDoor, checked: Checked) -> Response<Body> {
    match checked.verdict {
        Ok(forwardable) => {
            let mut response = match door {
                ProxyDoor::OAuth2Proxy(_) => oauth2_proxy::accepted(&forwardable),
                ProxyDoor::AuthRequest | ProxyDoor::ForwardAuth | ProxyDoor::ExtAuthz => {
                    let mut response = Response::new(Body::empty());
                    *response.headers_mut() = forwardable.set;
                    response
                }
            };
            let headers = response.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(&X_REQUEST_ID, checked.request_id);
            response
        }
        Err(refused) if matches!(door, ProxyDoor::AuthRequest | ProxyDoor::OAuth2Proxy(_)) => {
            bodiless(refused.response, refused.refusal.denial)
        }
        Err(refused) => refused.response,
    }
}

/// The answer that nginx understands: 401 or 403, and nothing to read but headers.
fn bodiless(response: Response<Body>, denial: Denial) -> Response<Body> {
    let (mut head, _) = response.into_parts();
    if let Some(location) = head.headers.remove(LOCATION) {
        head.headers.insert(&LOGIN, location);
    }
    head.status = match denial.status() {
        StatusCode::UNAUTHORIZED => StatusCode::UNAUTHORIZED,
        _ => StatusCode::FORBIDDEN,
    };
    for name in [CONTENT_TYPE, CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    head.headers.insert(&REASON, HeaderValue::from_static(denial.code()));
    Response::from_parts(head, Body::empty())
}
