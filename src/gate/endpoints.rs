//! What the proxy listener answers itself: the assertion's public keys, and the reserved identity prefix.
//!
//! Nothing else of the app's address space is the gate's; these paths never reach the app.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Response};

use super::Worker;
use crate::denial::{Denial, Refusal};
use crate::portal::path::{CanonicalPath, ancestors_of};
use crate::upstream::Body;

/// Public keys of the assertion.
pub const JWKS_PATH: &str = "/.well-known/cedargate/jwks.json";
/// Everything below it is the gate's.
const OWN_PREFIX: &str = "/.well-known/cedargate";

impl Worker {
    /// The gate's own answer, if the path is the gate's.
    pub(super) fn own_endpoint(&self, head: &Parts, path: &CanonicalPath) -> Option<Result<Response<Body>, Refusal>> {
        let id = path.plain_id();
        let below = |prefix: &str| id == prefix || ancestors_of(id).any(|a| a == prefix);
        if id == JWKS_PATH {
            return Some(self.jwks(&head.method));
        }
        let own = below(OWN_PREFIX) || below(&self.gate.config.identity_prefix);
        own.then(|| {
            Err(Refusal::new(
                Denial::PortalUnknown,
                "this path is the gate's and has no endpoint",
            ))
        })
    }

    fn jwks(&self, method: &Method) -> Result<Response<Body>, Refusal> {
        if *method != Method::GET && *method != Method::HEAD {
            return Err(Refusal::new(Denial::RequestInvalid, "the keys can only be read"));
        }
        let mut response = Response::new(Body::full(Bytes::from(self.gate.assertions.jwks().to_string())));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
        Ok(response)
    }
}
