//! Tokens as well-known identity providers publish them, and the places where proxies put them.
//!
//! `tests/corpus/provider_tokens` holds one file for each provider: the issuer's configuration, header and claims of a
//! token as its documentation shows them, the identity that the app must see, and changes that must be refused. One
//! gate trusts all of them.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::support::token_cases::KEYS;
use crate::support::{Gate, ISSUER, OPEN_POLICY, OPEN_SCHEMA, PAGE, RawConnection, Setup, Signer, claims, now, open_portal};

/// One file of the corpus.
struct Provider {
    name: String,
    of: Value,
}

impl Provider {
    fn all() -> Vec<Self> {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/provider_tokens"));
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<Self> = entries
            .map(|path| Self {
                name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                of: serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap(),
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    fn signer(&self) -> &'static Signer {
        if self.of["key"] == "ec" { &KEYS.ec } else { &KEYS.rsa }
    }

    fn issuer(&self) -> Value {
        let mut issuer = self.of["issuer"].clone();
        issuer["name"] = json!(self.name);
        issuer["jwks"] = json!({"file": "keys.json"});
        issuer
    }

    /// The published token with some claims replaced or left out.
    fn token(&self, changed: &Value, without: &Value) -> String {
        let mut header = self.signer().header();
        extend(&mut header, &self.of["header"]);
        remove(&mut header, &self.of["without_header"]);
        let mut claims = json!({"iss": self.of["issuer"]["issuer"], "iat": now() - 5, "exp": now() + 300});
        extend(&mut claims, &self.of["claims"]);
        extend(&mut claims, changed);
        remove(&mut claims, without);
        self.signer().token_with(&header, &claims)
    }

    fn send(&self, gate: &Gate, token: &str) -> (u16, String) {
        let bearer = format!("Bearer {token}");
        let line = match self.of["place"]["header"].as_str() {
            Some(header) => (header, token),
            None => ("authorization", bearer.as_str()),
        };
        answered(gate, &[line])
    }
}

fn extend(to: &mut Value, from: &Value) {
    let of = from.as_object().cloned().unwrap_or_else(Map::new);
    for (name, value) in of {
        let time = value.get("$now").and_then(Value::as_i64);
        to[name] = time.map_or(value, |seconds| json!(now() + seconds));
    }
}

fn remove(from: &mut Value, names: &Value) {
    for name in names.as_array().into_iter().flatten() {
        from.as_object_mut().unwrap().remove(name.as_str().unwrap());
    }
}

fn answered(gate: &Gate, headers: &[(&str, &str)]) -> (u16, String) {
    asked(gate, "GET", headers)
}

fn asked(gate: &Gate, method: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let answer = gate.send(method, PAGE, headers);
    let code = if answer.status == 200 { String::new() } else { answer.code() };
    (answer.status, code)
}

fn is(found: (u16, String), expected: (u16, &str)) {
    assert_eq!((found.0, found.1.as_str()), expected);
}

fn trusting(issuers: &Value) -> Setup {
    let mut setup = open_portal().file("keys.json", &json!({"keys": [KEYS.rsa.jwk, KEYS.ec.jwk]}).to_string());
    setup.issuers = Some(format!("issuers: {issuers}"));
    setup
}

#[test]
fn tokens_of_well_known_providers_give_the_identity_that_their_documentation_shows() {
    let providers = Provider::all();
    assert!(providers.len() >= 10);
    let issuers: Vec<Value> = providers.iter().map(Provider::issuer).collect();
    let gate = trusting(&json!(issuers)).start();
    for provider in &providers {
        let published = provider.token(&json!({}), &provider.of["without"]);
        assert_eq!(provider.send(&gate, &published), (200, String::new()), "{}", provider.name);
        let seen = gate.app.last().headers;
        let header = |name: &str| seen[name].to_str().unwrap().replace("%7C", "|");
        let expect = &provider.of["expect"];
        let user = format!("{}|{}", provider.name, expect["user"].as_str().unwrap());
        assert_eq!(header("x-forwarded-user"), user);
        for (name, member) in [("x-cedargate-tenant", "tenant"), ("x-cedargate-roles", "roles")] {
            assert_eq!(header(name), expect[member].as_str().unwrap(), "{} {name}", provider.name);
        }
        let place = provider.of["place"]["header"].as_str().unwrap_or("authorization");
        assert!(!seen.contains_key(place), "{}: the app got the token", provider.name);
        for change in provider.of["refused"].as_array().unwrap() {
            let mut without = provider.of["without"].as_array().cloned().unwrap_or_default();
            without.extend(change["without"].as_array().cloned().unwrap_or_default());
            without.retain(|name| change["claims"].get(name.as_str().unwrap()).is_none());
            let token = provider.token(&change["claims"], &json!(without));
            let code = change["code"].as_str().unwrap().to_owned();
            assert_eq!(provider.send(&gate, &token), (401, code), "{} {change}", provider.name);
        }
    }
}

const ISSUER_A: &str = "https://a.test/";
const ISSUER_B: &str = "https://b.test/";

fn token_of(issuer: &str, sub: &str) -> String {
    let claims = json!({"iss": issuer, "sub": sub, "aud": "shop", "exp": now() + 300, "iat": now()});
    KEYS.ec.token(&claims)
}

/// Issuer `a` has tokens in a header, a cookie and a subprotocol; issuer `b` in `Authorization` alone.
fn places() -> Gate {
    let issuer = |name: &str, iss: &str, places: Value| json!({"name": name, "issuer": iss, "audiences": ["shop"], "jwks": {"file": "keys.json"}, "token_from": places});
    let from = json!([{"header": "X-Edge-Token"}, {"cookie": "edge"}, {"websocket_protocol": "bearer"}]);
    trusting(&json!([issuer("a", ISSUER_A, from), issuer("b", ISSUER_B, json!([]))]))
        .config("public_url: 'https://shop.test'")
        .start()
}

#[test]
fn a_token_is_taken_from_the_places_of_its_issuer_and_never_reaches_the_app() {
    let gate = places();
    let token = token_of(ISSUER_A, "alice");
    for headers in [
        vec![("x-edge-token", token.clone())],
        vec![("X-EDGE-TOKEN", format!("Bearer {token}"))],
        vec![("cookie", format!("theme=dark; edge={token}"))],
        vec![
            ("x-edge-token", token.clone()),
            ("cookie", format!("theme=dark; edge={token}")),
        ],
        vec![("sec-websocket-protocol", format!("chat, bearer, {token}"))],
    ] {
        let lines: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        is(answered(&gate, &lines), (200, ""));
        let seen = gate.app.last().headers;
        assert_eq!(seen["x-forwarded-user"], "a|alice");
        assert!(!format!("{seen:?}").contains(&token[..40]), "{seen:?}");
        if lines.iter().any(|(name, _)| *name == "cookie") {
            assert_eq!(seen["cookie"], "theme=dark");
        }
    }
    for record in gate.records(5) {
        assert!(!record.to_string().contains(&token[40..80]), "{record}");
    }
}

#[test]
fn authorization_goes_first_and_two_tokens_elsewhere_are_ambiguous() {
    let gate = places();
    let (alice, bob, partner) = (
        token_of(ISSUER_A, "alice"),
        token_of(ISSUER_A, "bob"),
        token_of(ISSUER_B, "carol"),
    );
    let bearer = format!("Bearer {partner}");
    is(
        answered(&gate, &[("authorization", &bearer), ("x-edge-token", &alice)]),
        (200, ""),
    );
    let seen = gate.app.last().headers;
    assert_eq!(seen["x-forwarded-user"], "b|carol");
    assert!(!seen.contains_key("x-edge-token") && !seen.contains_key("authorization"));
    let edge = |token: &str| format!("edge={token}");
    for (headers, expected) in [
        (
            vec![("authorization", "Bearer x"), ("x-edge-token", &alice)],
            (401, "token_invalid"),
        ),
        (
            vec![("x-edge-token", alice.as_str()), ("cookie", &edge(&bob))],
            (400, "request_invalid"),
        ),
        (
            vec![("x-edge-token", &alice), ("x-edge-token", &bob)],
            (400, "request_invalid"),
        ),
        (
            vec![("cookie", &format!("{}; {}", edge(&alice), edge(&bob)))],
            (400, "request_invalid"),
        ),
        (vec![("x-edge-token", "x.y.z")], (401, "token_invalid")),
        (vec![("x-edge-token", "")], (401, "token_missing")),
        (vec![("x-edge-token", &partner)], (401, "issuer_unknown")),
        (vec![("cookie", &edge(&partner))], (401, "issuer_unknown")),
        (vec![("x_edge_token", &alice)], (401, "token_missing")),
        (vec![("x-other-token", &alice)], (401, "token_missing")),
    ] {
        is(answered(&gate, &headers), expected);
    }
    // the same token is remembered from its own place, and still refused in another issuer's
    is(answered(&gate, &[("x-edge-token", &partner)]), (401, "issuer_unknown"));
}

#[test]
fn a_token_that_a_browser_sends_by_itself_needs_evidence_of_its_origin() {
    let gate = places();
    let token = token_of(ISSUER_A, "alice");
    let cookie = format!("edge={token}");
    let mismatch = (403, "origin_mismatch");
    for (headers, expected) in [
        (vec![("cookie", cookie.as_str())], mismatch),
        (vec![("cookie", &cookie), ("origin", "https://evil.test")], mismatch),
        (vec![("cookie", &cookie), ("sec-fetch-site", "cross-site")], mismatch),
        (vec![("cookie", &cookie), ("sec-fetch-site", "same-origin")], (200, "")),
        (vec![("cookie", &cookie), ("origin", "https://shop.test")], (200, "")),
        (vec![("x-edge-token", &token)], (200, "")),
        (vec![("x-edge-token", &token), ("origin", "https://evil.test")], mismatch),
        (vec![("x-edge-token", &token), ("sec-fetch-site", "same-site")], mismatch),
        (vec![("x-edge-token", &token), ("origin", "https://shop.test")], (200, "")),
    ] {
        let answer = gate.send("POST", PAGE, &headers);
        let code = if answer.status == 200 { String::new() } else { answer.code() };
        is((answer.status, code), expected);
    }
    // an old cookie does not close a public path; a bad header does
    let asset = |headers: &[(&str, &str)]| gate.send("GET", "/portal/p/assets/a.css", headers).status;
    assert_eq!(asset(&[("cookie", "edge=x.y.z")]), 200);
    assert!(!gate.app.last().headers.contains_key("cookie"));
    assert_eq!(asset(&[("x-edge-token", "x.y.z")]), 401);
}

#[test]
fn another_scheme_than_bearer_is_the_apps_and_proves_no_caller() {
    let gate = places();
    let token = token_of(ISSUER_A, "alice");
    for scheme in [
        "Basic YTpi",
        "Token x",
        "ApiKey k=1, v=\"2\"",
        "Negotiate",
        "Digest a=b",
        "eyJhbGciOiJub25lIn0.e30.",
    ] {
        is(
            answered(&gate, &[("authorization", scheme), ("x-edge-token", &token)]),
            (200, ""),
        );
        assert_eq!(gate.app.last().headers["authorization"], scheme);
        is(answered(&gate, &[("authorization", scheme)]), (401, "token_invalid"));
        assert_eq!(
            gate.send("GET", "/portal/p/assets/a.css", &[("authorization", scheme)])
                .status,
            200
        );
        assert_eq!(
            gate.app.last().headers["authorization"],
            scheme,
            "the app's own credential on a public path"
        );
    }
    for ours in ["Bearer", "DPoP a.b.c", "Bearer x", "bearer\tx", "Bearer,x"] {
        let both = answered(&gate, &[("authorization", ours), ("x-edge-token", &token)]);
        is(both, (401, "token_invalid"));
        assert_eq!(
            gate.send("GET", "/portal/p/assets/a.css", &[("authorization", ours)]).status,
            401
        );
    }
}

#[test]
fn the_record_of_a_refused_token_names_the_check_issuer_key_and_claim() {
    let gate = places();
    let good = json!({"iss": ISSUER_A, "sub": "alice", "aud": "shop", "exp": now() + 300, "iat": now()});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        KEYS.ec.token(&claims)
    };
    let cases = [
        (with("aud", json!("other")), "audience", Value::Null),
        (with("exp", json!(7)), "time", Value::Null),
        (with("tenant", json!(7)), "claim", json!("tenant")),
        (with("iss", json!("https://other.test/")), "issuer", Value::Null),
        (KEYS.other.token(&good), "signature", Value::Null),
        ("x.y.z".to_owned(), "form", Value::Null),
    ];
    for (token, ..) in &cases {
        assert_eq!(gate.get(PAGE, token).status, 401);
    }
    let records = gate.records(cases.len());
    for (record, (token, check, claim)) in records.iter().zip(&cases) {
        let refused = &record["refused"];
        assert_eq!((&refused["check"], &refused["claim"]), (&json!(check), claim), "{record}");
        assert!(
            refused["detail"].as_str().is_some_and(|detail| !detail.is_empty()),
            "{record}"
        );
        if *check != "form" {
            assert_eq!(refused["kid"], "c", "{record}");
            assert!(
                refused["issuer"]
                    .as_str()
                    .is_some_and(|issuer| issuer.starts_with("https://")),
                "{record}"
            );
            assert!(token.split('.').all(|piece| !record.to_string().contains(piece)), "{record}");
        }
    }
    is(
        answered(&gate, &[("authorization", &format!("Bearer {}", KEYS.ec.token(&good)))]),
        (200, ""),
    );
    assert!(gate.records(cases.len() + 1).last().unwrap().get("refused").is_none());
}

#[test]
fn the_record_of_a_claim_that_the_context_cannot_hold_names_it_with_issuer_and_key() {
    let schema = OPEN_SCHEMA.replace(
        "context: {}",
        "context: { auth?: { acr?: String, amr?: Set<String>, scopes?: Set<String> } }",
    );
    let gate = Setup::portal(&schema, OPEN_POLICY).start();
    let cases = [
        ("scope", json!("s".repeat(257))),
        ("scope", json!(vec!["s"; 257].join(" "))),
        ("acr", json!("a".repeat(257))),
        ("amr", json!([7])),
        ("amr", json!(vec!["a"; 257])),
    ];
    for (claim, value) in &cases {
        let mut claims = claims("alice", &[]);
        claims[*claim] = value.clone();
        assert_eq!(gate.get(PAGE, &gate.issuer.sign(&claims)).status, 401, "{claim}");
    }
    for (record, (claim, _)) in gate.records(cases.len()).iter().zip(&cases) {
        let refused = &record["refused"];
        assert_eq!(refused["check"], "context", "{record}");
        assert_eq!(refused["claim"], *claim, "{record}");
        assert_eq!(refused["issuer"], ISSUER, "{record}");
        assert_eq!(refused["kid"], "key-1", "{record}");
        assert!(
            refused["detail"].as_str().is_some_and(|detail| detail.contains(*claim)),
            "{record}"
        );
    }
}

#[test]
fn a_header_that_connection_names_is_still_taken_as_the_token_and_stays_at_the_gate() {
    let gate = places();
    let token = token_of(ISSUER_A, "alice");
    let mut connection = RawConnection::open(gate.proxy);
    connection.send(format!(
        "GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nconnection: x-edge-token\r\nx-edge-token: {token}\r\n\r\n"
    ));
    assert_eq!(connection.read_answer("GET").unwrap().status, 200);
    assert!(!gate.app.last().headers.contains_key("x-edge-token"));
}
