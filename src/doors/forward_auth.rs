//! The doors of proxies over HTTP: nginx, Traefik, Caddy, HAProxy, and Envoy's `ext_authz` by HTTP.
//!
//! A proxy states the request that it holds back and forwards it if the answer is 200. The three doors differ in the form of the
//! question and in the statuses of the answer; the decision is the gate's (`gate::asked`). A permitted request is answered with
//! the headers that the proxy must set, each of them always there.
//!
//! SECURITY: the statements count only from loopback or one of `trusted_proxies`. Behind `listen.decision.auth` the proxy also
//! shows a token, in `x-cedargate-door-token`. Every refusal is a status that each of these proxies takes for a refusal.

use std::net::IpAddr;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::{Door, Redacted};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};

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
}

impl ProxyDoor {
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
            Self::AuthRequest | Self::ForwardAuth => Door::ForwardAuth,
            Self::ExtAuthz => Door::ExtAuthz,
        }
    }
}

/// Answers one question; never fails.
pub async fn handle(gate: &Gate, tokens: &[Redacted<String>], door: ProxyDoor, head: Parts, peer: IpAddr) -> Response<Body> {
    let ids = head.headers.clone();
    let stated = read(gate, tokens, door, head, peer);
    let asked = stated.map(|stated| AskedRequest {
        stated,
        removal: Removal::Impossible,
        portal: None,
    });
    let checked = gate.check(door.label(), &ids, asked).await;
    answer(door, checked)
}

fn read(
    gate: &Gate,
    tokens: &[Redacted<String>],
    door: ProxyDoor,
    mut head: Parts,
    peer: IpAddr,
) -> Result<StatedRequest, Refusal> {
    check_head_size(&head, &gate.config.limits)?;
    if !peer.to_canonical().is_loopback() && !is_trusted(peer, &gate.config.trusted_proxies) {
        return Err(Refusal::new(
            Denial::NotPermitted,
            format!("`{peer}` is not one of `trusted_proxies`, so its statements about a request do not count"),
        ));
    }
    let token = head.headers.remove(&DOOR_TOKEN);
    if !tokens.is_empty() {
        let presented = token.as_ref().and_then(|token| token.to_str().ok());
        let presented = presented.ok_or(Refusal::new(
            Denial::TokenMissing,
            "this listener needs one of its tokens, in `x-cedargate-door-token`",
        ))?;
        check_listener_token(tokens, presented)?;
    }
    match door {
        ProxyDoor::AuthRequest => StatedRequest::from_original(head.headers),
        ProxyDoor::ForwardAuth => StatedRequest::from_forwarded(head.headers),
        ProxyDoor::ExtAuthz => StatedRequest::below(EXT_AUTHZ_PREFIX, &mut head),
    }
}

fn answer(door: ProxyDoor, checked: Checked) -> Response<Body> {
    match checked.verdict {
        Ok(forwardable) => {
            let mut response = Response::new(Body::empty());
            let headers = response.headers_mut();
            *headers = forwardable.set;
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(&X_REQUEST_ID, checked.request_id);
            response
        }
        Err(refused) if door == ProxyDoor::AuthRequest => bodiless(refused.response, refused.refusal.denial),
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
