//! What is counted on one thread: decisions as the gate makes them, what is made for them, and tokens.

use std::hint::black_box;
use std::path::Path;

use cedargate::bench::{Question, Tokens, World};
use serde_json::{Value, json};

use crate::measure;
use crate::world::{QUESTIONS, claims, world};

/// Made once with keys that nobody has any more, for the claims of `world`; they expire in 2100.
const TOKENS: &str = include_str!("tokens.json");
const POLICIES: usize = 1_000;

pub fn decisions() {
    let world = world(POLICIES);
    for (name, method, path) in QUESTIONS {
        let question = world.question(&claims(), method, path).unwrap();
        decision(&world, name, &question, true);
    }
    let mut suspended = claims();
    suspended.insert("department".to_owned(), json!("suspended"));
    let denied = world.question(&suspended, "PUT", "/shop/cart").unwrap();
    decision(&world, "denied by a condition", &denied, false);
    let question = world.question(&claims(), "GET", "/a/b/c/d/e/f/g/h").unwrap();
    measure("target/deep path", 200, || {
        black_box(world.target(&question).unwrap());
    });
    let question = world.question(&claims(), "GET", "/orders/17").unwrap();
    measure("target/routed", 200, || {
        black_box(world.target(&question).unwrap());
    });
    measure("principal", 200, || {
        black_box(world.principal(&question).unwrap());
    });
    measure("context", 200, || {
        black_box(world.context(&question).unwrap());
    });
}

fn decision(world: &World, name: &str, question: &Question, allowed: bool) {
    assert_eq!(world.decide(question), allowed, "{name}");
    // the first question made the slices, which wait for their twins
    world.make_twins();
    measure(&format!("decide/{name}"), 200, || {
        assert_eq!(black_box(world.decide(black_box(question))), allowed);
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
