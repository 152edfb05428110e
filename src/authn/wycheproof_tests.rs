//! Wycheproof's JWS and JWK vectors, one token against one key set each.
//!
//! The data lies outside the project, in `CEDARGATE_TEST_DATA`; without it the tests print that they skipped. The
//! payloads are not claims, so the vectors go through `jws` and `jwk` only.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::jwk::{KeyChoice, KeySet};
use super::jws::{self, TokenKind};
use crate::config::Algorithm;

/// Vectors that are marked valid although the JWK's `alg` differs from the header's.
const ALG_DIFFERS: [u64; 4] = [346, 347, 350, 351];
/// Vectors with a wrong `use` or `key_ops`.
const WRONG_USE: std::ops::RangeInclusive<u64> = 353..=356;

fn vectors(file: &str) -> Option<Value> {
    let Some(dir) = std::env::var_os("CEDARGATE_TEST_DATA") else {
        println!("SKIPPED: CEDARGATE_TEST_DATA is not set, {file} was not read");
        return None;
    };
    let text = std::fs::read(PathBuf::from(dir).join("jose").join(file)).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

fn algorithms() -> [Algorithm; 9] {
    [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ]
    .map(|name| jws::algorithm_named(name).unwrap())
}

/// Checks header, key choice and signature as the verifier does; the payload may be anything.
fn verifies(token: &str, jwks: &Value) -> bool {
    let Some((input, signature)) = token.rsplit_once('.') else {
        return false;
    };
    let Some((header, payload)) = input.split_once('.') else {
        return false;
    };
    let (Ok(header), Ok(_), Ok(signature)) = (jws::decode(header), jws::decode(payload), jws::decode(signature)) else {
        return false;
    };
    let Ok(header) = cedargate_policy::json::object_from_slice(&header) else {
        return false;
    };
    let Ok(header) = jws::parse_header(&header, TokenKind::Bearer) else {
        return false;
    };
    assert!(algorithms().contains(&header.algorithm));
    let Ok(set) = KeySet::parse(jwks.to_string().as_bytes(), 1) else {
        return false;
    };
    match set.choose(header.kid.as_deref(), header.algorithm) {
        KeyChoice::Keys(keys) => keys
            .iter()
            .any(|key| key.verifies(header.algorithm, input.as_bytes(), &signature)),
        KeyChoice::UnknownKid { .. } | KeyChoice::Unusable(_) => false,
    }
}

/// True if the gate must accept the vector. Groups with a public part are asymmetric; the other groups are
/// `oct`, which the gate never accepts.
fn expected(group: &Value, test: &Value) -> bool {
    let algorithm_known = test["jws"]
        .as_str()
        .and_then(|token| jws::decode(token.split('.').next()?).ok())
        .and_then(|header| serde_json::from_slice::<Value>(&header).ok())
        .is_some_and(|header| {
            header["alg"]
                .as_str()
                .is_some_and(|name| jws::algorithm_named(name).is_some())
        });
    test["result"] == "valid" && group.get("public").is_some() && algorithm_known
}

fn run(file: &str, as_set: fn(&Value) -> Value, exception: fn(u64) -> bool) {
    let Some(data) = vectors(file) else {
        return;
    };
    let mut accepted = 0;
    let mut refused = 0;
    let mut wrong = Vec::new();
    for group in data["testGroups"].as_array().unwrap() {
        let public = group.get("public").or_else(|| group.get("private")).unwrap();
        for test in group["tests"].as_array().unwrap() {
            let id = test["tcId"].as_u64().unwrap();
            let token = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
            let outcome = verifies(&token, &as_set(public));
            if outcome {
                accepted += 1;
            } else {
                refused += 1;
            }
            if outcome != (expected(group, test) && !exception(id)) {
                wrong.push(format!("{id} {} {}", test["comment"], test["result"]));
            }
        }
    }
    println!("{file}: {accepted} accepted, {refused} refused");
    assert_eq!(
        Some(accepted + refused),
        data["numberOfTests"].as_u64(),
        "every vector was run"
    );
    assert!(accepted > 0);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn wycheproof_signatures_verify_as_published_except_where_the_keys_alg_differs() {
    run(
        "json_web_signature_test.json",
        |jwk| json!({"keys": [jwk]}),
        |id| {
            assert!(!(ALG_DIFFERS.contains(&id) && WRONG_USE.contains(&id)));
            ALG_DIFFERS.contains(&id)
        },
    );
}

#[test]
fn wycheproof_key_sets_verify_as_published() {
    run("json_web_key_test.json", Value::clone, |_| false);
}

#[test]
fn cookbook_signatures_are_accepted_where_the_gate_supports_them() {
    let mut seen = 0;
    for file in [
        "cookbook/jws/4_1.rsa_v15_signature.json",
        "cookbook/jws/4_2.rsa-pss_signature.json",
        "cookbook/curve25519/jws.json",
    ] {
        let Some(dir) = std::env::var_os("CEDARGATE_TEST_DATA") else {
            println!("SKIPPED: CEDARGATE_TEST_DATA is not set, {file} was not read");
            return;
        };
        let text = std::fs::read(PathBuf::from(dir).join("jose").join(file)).unwrap();
        let example: Value = serde_json::from_slice(&text).unwrap();
        let mut key = example["input"]["key"].clone();
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            key.as_object_mut().unwrap().remove(private);
        }
        assert!(
            verifies(example["output"]["compact"].as_str().unwrap(), &json!({"keys": [key]})),
            "{file}"
        );
        seen += 1;
    }
    assert_eq!(seen, 3);
}
