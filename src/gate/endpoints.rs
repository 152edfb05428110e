//! Endpoints that the proxy listener answers itself: the assertion's public keys, and the reserved identity prefix.
//!
//! Requests for these paths never reach an app; requests for every other path go to a portal.

use std::cell::Cell;

use bytes::Bytes;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::path::{CanonicalPath, is_at_or_below};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response};
use hyper::body::Incoming;

use super::authenticate::Cookie;
use super::record::Progress;
use super::{Gate, RequestHead, Worker};
use crate::config::RESERVED_PREFIX;
use crate::doors::login::EndpointRequest;
use crate::http::answer::Style;
use crate::http::upstream::Body;

/// Public keys of the assertion.
pub const JWKS_PATH: &str = "/.well-known/cedargate/jwks.json";

/// A path of the gate's own.
#[derive(Clone, Copy, Debug)]
pub(super) enum GateEndpoint<'a> {
    Jwks,
    /// The rest of the path below `identity.prefix`.
    Identity(&'a str),
    Nothing,
}

impl Gate {
    /// The gate's own endpoint at this path; `None` for a path of a portal.
    pub(super) fn gate_endpoint<'a>(&self, path: &'a CanonicalPath) -> Result<Option<GateEndpoint<'a>>, Refusal> {
        let found = self.endpoint_at(path.plain_id());
        let readings = path.opaque().map(|part| part.readings.as_slice()).unwrap_or_default();
        let could_be_one = found.is_some() || readings.iter().any(|id| self.endpoint_at(id).is_some());
        match path.opaque() {
            Some(_) if could_be_one => Err(path.not_opaque()),
            _ => Ok(found),
        }
    }

    /// The answer with the assertion's public keys, on the proxy and on the decision listener.
    pub fn published_keys(&self) -> Response<Body> {
        let mut response = Response::new(Body::full(Bytes::from(self.assertions.jwks().to_string())));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
        response
    }

    fn endpoint_at<'a>(&self, id: &'a str) -> Option<GateEndpoint<'a>> {
        if id == JWKS_PATH {
            return Some(GateEndpoint::Jwks);
        }
        let prefix = &*self.config.identity.prefix;
        let below = id
            .strip_prefix(prefix)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(rest) = below {
            return Some(GateEndpoint::Identity(rest.trim_matches('/')));
        }
        is_at_or_below(id, RESERVED_PREFIX).then_some(GateEndpoint::Nothing)
    }
}

impl Worker {
    /// The endpoint that answers where no portal does: at `/` a person chooses a portal, or reads that a logout at a
    /// provider is done.
    pub(super) fn endpoint_without_portal(&self, head: &RequestHead, progress: &Progress) -> Option<GateEndpoint<'static>> {
        let visit = progress.visit.as_ref().filter(|visit| visit.target.is_some())?;
        if head.path.as_str() != "/" {
            return None;
        }
        match visit.is_after_logout {
            true => Some(GateEndpoint::Identity("auth/logged-out")),
            false => self
                .gate
                .has_chooser(&visit.host)
                .then_some(GateEndpoint::Identity("portals")),
        }
    }

    pub(super) async fn answer_endpoint(
        &self,
        endpoint: GateEndpoint<'_>,
        head: &RequestHead,
        body: Incoming,
        progress: &mut Progress,
    ) -> Result<Response<Body>, Refusal> {
        progress.record.permitted();
        progress.is_gate_endpoint = true;
        if self.gate.sessions.cookies.has_session(&head.parts.headers) {
            progress.cookie = Cookie::Presented;
        }
        let endpoint = match endpoint {
            GateEndpoint::Jwks => return self.jwks(&head.parts.method),
            GateEndpoint::Identity(rest) => rest,
            GateEndpoint::Nothing => {
                return Err(Refusal::new(
                    Denial::PortalUnknown,
                    "this path is the gate's and has no endpoint",
                ));
            }
        };
        let request = EndpointRequest {
            head: &head.parts,
            client: &head.client,
            style: Style::for_request(&head.parts.method, &head.parts.headers),
            decision_id: progress.decision_id,
            portals: &self.gate.portals.load(),
            endpoint,
            certificate: head.certificate.as_ref(),
            next_nonce: &Cell::new(None),
        };
        self.gate.identity.handle(&request, body).await
    }

    fn jwks(&self, method: &Method) -> Result<Response<Body>, Refusal> {
        if *method != Method::GET && *method != Method::HEAD {
            return Err(Refusal::new(Denial::RequestInvalid, "the keys can only be read"));
        }
        Ok(self.gate.published_keys())
    }
}
