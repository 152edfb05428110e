//! The decision listener: finds the door of a request by its path.
//!
//! Each door authenticates its caller: an app shows the listener's token in `Authorization`; a proxy shows it in a
//! header of its own, because `Authorization` is its client's. An unknown path is 404 and a wrong method 405; neither
//! is a decision.

use std::net::IpAddr;

use cedargate_policy::types::Redacted;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::doors::authorize;
use crate::doors::authzen::{self, Endpoint};
use crate::doors::forward_auth::{self, ProxyDoor};
use crate::gate::{Gate, JWKS_PATH};
use crate::http::answer;
use crate::http::upstream::Body;

/// The description of this listener and of the gate's other endpoints.
const OPENAPI: &str = include_str!("../../schemas/openapi.json");
const OPENAPI_PATH: &str = "/openapi.json";

/// Answers one request of the app or of a proxy; never fails.
pub async fn handle(gate: &Gate, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
    let tokens = tokens(gate);
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some(door) = ProxyDoor::at(path) {
        return forward_auth::handle(gate, tokens, door, head, peer).await;
    }
    if let Some(endpoint) = Endpoint::at(path) {
        return authzen::handle(gate, tokens, endpoint, head, body).await;
    }
    match path {
        OPENAPI_PATH if head.method == Method::GET => answer::json_text(StatusCode::OK, OPENAPI.into()),
        // public keys: an app whose gate serves TLS to clients reads them here, over loopback or the Unix socket
        JWKS_PATH if head.method == Method::GET => gate.published_keys(),
        OPENAPI_PATH | JWKS_PATH => answer::method_not_allowed("GET"),
        authorize::PATH | authorize::BATCH_PATH if head.method == Method::POST => {
            authorize::handle(gate, tokens, head, body).await
        }
        authorize::PATH | authorize::BATCH_PATH => answer::method_not_allowed("POST"),
        _ => answer::json(
            StatusCode::NOT_FOUND,
            &json!({"error": "there is no such endpoint on this listener"}),
        ),
    }
}

/// The tokens that callers must present; empty: no check.
fn tokens(gate: &Gate) -> &[Redacted<String>] {
    let decision = gate.config.listen.decision.as_ref();
    decision.map(|decision| decision.tokens.as_slice()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cedargate_policy::denial::Denial;
    use serde_json::Value;

    use super::OPENAPI;

    #[test]
    fn the_openapi_document_names_every_code() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let named = document["components"]["schemas"]["Code"]["enum"].as_array().unwrap();
        let named: BTreeSet<&str> = named.iter().filter_map(Value::as_str).collect();
        assert_eq!(named, Denial::ALL.map(Denial::code).into_iter().collect());
    }
}
