//! The operations that are counted on one thread: decisions, the parts of a decision, and tokens.

use std::hint::black_box;
use std::path::Path;

use cedargate_benches::portal::{CallerRequest, LoadedPortal};
use cedargate_benches::shop::{NamedRequest, REQUESTS, claims, load};
use cedargate_benches::tokens::Tokens;
use serde_json::{Value, json};

use crate::measure;

/// Signed for the claims of `shop` with keys whose private parts were deleted; the tokens expire in 2100.
const TOKENS: &str = include_str!("tokens.json");
const POLICIES: usize = 1_000;
const DENIED: NamedRequest = NamedRequest::new("denied by a condition", "PUT", "/shop/cart");

pub fn decisions() {
    let portal = load(POLICIES);
    let allowed = REQUESTS.map(|case| (case.name, portal.request(&claims(), case.method, case.path).unwrap()));
    let mut suspended = claims();
    suspended.insert("department".to_owned(), json!("suspended"));
    let denied = portal.request(&suspended, DENIED.method, DENIED.path).unwrap();
    // the match sets are there since the requests were prepared
    portal.make_condition_only();
    for (name, request) in &allowed {
        decision(&portal, name, request, true);
    }
    decision(&portal, DENIED.name, &denied, false);
    let request = portal.request(&claims(), "GET", "/orders/17").unwrap();
    measure("principal", 200, || {
        black_box(portal.principal(&request).unwrap());
    });
    measure("context", 200, || {
        black_box(portal.context(&request).unwrap());
    });
}

/// The whole decision function, and of it the evaluation of the policies alone.
fn decision(portal: &LoadedPortal, name: &str, request: &CallerRequest, is_allowed: bool) {
    measure(&format!("decide/{name}"), 200, || {
        assert_eq!(black_box(portal.decide(black_box(request))), is_allowed);
    });
    measure(&format!("evaluate/{name}"), 200, || {
        assert_eq!(black_box(portal.evaluate(black_box(request))), is_allowed);
    });
}

pub fn tokens() {
    let file = Path::new("jwks.json");
    std::fs::write(file, jwks()).unwrap();
    let tokens = Tokens::new(file).unwrap();
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = token(algorithm);
        measure(&format!("token/first sight, {algorithm}"), 40, || {
            black_box(tokens.verify(black_box(&token)).unwrap());
        });
    }
    let token = token("RS256");
    tokens.remember(&token).unwrap();
    measure("token/seen before", 200, || assert!(tokens.seen_before(black_box(&token))));
}

pub fn jwks() -> String {
    part("/jwks").to_string()
}

pub fn token(algorithm: &str) -> String {
    part(&format!("/tokens/{algorithm}")).as_str().unwrap().to_owned()
}

fn part(pointer: &str) -> Value {
    let tokens: Value = serde_json::from_str(TOKENS).unwrap();
    tokens.pointer(pointer).unwrap().clone()
}
