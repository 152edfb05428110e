//! The token threat list through a running gate: one test for each file of `tests/corpus/token_cases`, and what no row
//! can say.
//!
//! Each attack must end in the expected status and code with a proper challenge, the app must see nothing, exactly one
//! decision record must tell of it, and no piece of any token may appear in the log, `/status` or `/metrics`.

use std::cell::RefCell;

use serde_json::{Value, json};

use crate::support::token_cases::{ALGORITHMS, AUDIENCE, ISSUER, KEYS, Level, files, good_claims, groups};
use crate::support::{
    Gate, OPEN_POLICY, OPEN_SCHEMA, PAGE, RawConnection, ScriptedServer, Signer, b64, eventually, now, open_portal, response,
    unb64,
};

/// A gate that trusts the keys of one issuer, and the tokens that it was sent, with the expected reason of each.
struct TokenGate {
    gate: Gate,
    sent: RefCell<Vec<(String, String)>>,
}

fn issuer(name: &str, iss: &str, file: &str) -> String {
    format!(
        "  - {{ name: {name}, issuer: '{iss}', audiences: [{AUDIENCE}], algorithms: [{}], jwks: {{ file: {file} }}, claims: {{ roles: realm_access.roles }} }}\n",
        ALGORITHMS.join(", ")
    )
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

impl TokenGate {
    fn start() -> Self {
        Self::with_keys(&json!({"keys": [KEYS.rsa.jwk, KEYS.ed.jwk, KEYS.ec.jwk]}))
    }

    fn with_keys(jwks: &Value) -> Self {
        let mut setup = open_portal().file("keys.json", &jwks.to_string());
        setup.issuers = Some(format!("issuers:\n{}", issuer("corp", ISSUER, "keys.json")));
        Self {
            gate: setup.start(),
            sent: RefCell::default(),
        }
    }

    #[track_caller]
    fn refuses_as(&self, code: &str, token: &str) {
        let answer = self.gate.get(PAGE, token);
        assert_eq!((answer.status, answer.code().as_str()), (401, code), "{}", shown(token));
        let challenge = answer.header("www-authenticate");
        assert!(
            challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\""),
            "{challenge}"
        );
        let body = answer.text();
        assert!(
            pieces(token).all(|piece| !body.contains(piece)),
            "the token is in the answer: {body}"
        );
        self.sent.borrow_mut().push((token.to_owned(), code.to_owned()));
    }

    #[track_caller]
    fn refuses(&self, token: &str) {
        self.refuses_as("token_invalid", token);
    }

    #[track_caller]
    fn accepts(&self, token: &str) {
        let answer = self.gate.get(PAGE, token);
        assert_eq!(answer.status, 200, "{} {}", answer.text(), shown(token));
        self.sent.borrow_mut().push((token.to_owned(), "permitted".to_owned()));
    }

    /// One record per request with its reason, and no token anywhere.
    #[track_caller]
    fn finish(self) {
        let sent = self.sent.take();
        assert!(!sent.is_empty());
        let records = self.gate.records(sent.len());
        let reasons: Vec<_> = records.iter().map(|r| r["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, sent.iter().map(|(_, code)| code.as_str()).collect::<Vec<_>>());
        let (status, metrics) = (self.gate.status().to_string(), self.gate.metrics());
        self.gate.stop_keeping(|folder| {
            let log = std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap();
            assert_eq!(
                log.lines().filter(|l| l.contains("\"kind\":\"decision\"")).count(),
                sent.len()
            );
            for (token, _) in &sent {
                for piece in pieces(token) {
                    for (place, text) in [("log", &log), ("status", &status), ("metrics", &metrics)] {
                        assert!(!text.contains(piece), "`{piece}` of a token is in the {place}");
                    }
                }
            }
        });
    }
}

/// The parts of a token that are long enough to identify it.
fn pieces(token: &str) -> impl Iterator<Item = &str> {
    token.split(['.', ' ', '=', '"']).filter(|piece| piece.len() >= 16)
}

fn shown(token: &str) -> String {
    let part = |n: usize| {
        token
            .split('.')
            .nth(n)
            .and_then(unb64)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
    };
    format!("header {:?} claims {:?}", part(0), part(1))
}

/// Sends every case of one file of the table, one gate for each of its key sets.
#[track_caller]
fn run(file: &str) {
    for group in groups(file, Level::Gate) {
        let gate = TokenGate::with_keys(&group.jwks);
        for case in group.cases {
            let token = case.token(now());
            // a header line cannot carry it, or the gate reads another token than the case means
            if token.is_empty() || token.contains(['\r', '\n']) {
                continue;
            }
            println!("{}", case.name);
            match case.expect.as_str() {
                "permitted" => gate.accepts(&token),
                code => gate.refuses_as(code, &token),
            }
        }
        gate.finish();
    }
}

/// The files that `run` is called with, below.
const FILES: [&str; 19] = [
    "key_families",
    "alg_none",
    "hmac_confusion",
    "fixed_signatures",
    "algorithm_swaps",
    "key_use",
    "embedded_keys",
    "key_ids",
    "header_members",
    "serialization",
    "base64_forms",
    "duplicate_members",
    "expiry",
    "time_windows",
    "audience",
    "issuer",
    "claim_shapes",
    "token_types",
    "token_sizes",
];

#[test]
fn every_file_of_the_table_has_its_test() {
    let mut expected = FILES.to_vec();
    expected.sort_unstable();
    assert_eq!(files(), expected);
}

#[test]
fn every_family_of_key_lets_its_caller_in_and_eddsa_is_one_of_them() {
    run(FILES[0]);
}

#[test]
fn alg_none_alg_missing_and_null_sig_are_refused() {
    run(FILES[1]);
}

#[test]
fn hs_rs_confusion_and_blank_secret_are_refused() {
    run(FILES[2]);
}

#[test]
fn psychic_and_malleable_signatures_are_refused() {
    run(FILES[3]);
}

#[test]
fn alg_family_swap_and_es256k_are_refused() {
    run(FILES[4]);
}

#[test]
fn key_use_enc_key_ops_and_the_keys_own_alg_bind() {
    run(FILES[5]);
}

#[test]
fn embedded_jwk_jku_x5u_and_x5c_bring_no_key() {
    run(FILES[6]);
}

#[test]
fn kid_is_only_ever_a_comparison_and_may_be_absent_where_one_key_fits() {
    run(FILES[7]);
}

#[test]
fn crit_unknown_b64_false_cty_nested_jwe_and_compressed_jws_are_refused() {
    run(FILES[8]);
}

#[test]
fn json_serialization_and_extra_segments_are_refused() {
    run(FILES[9]);
}

#[test]
fn base64_lenient_encodings_are_refused() {
    run(FILES[10]);
}

#[test]
fn dup_header_keys_and_dup_claims_are_refused() {
    run(FILES[11]);
}

#[test]
fn exp_types_other_than_sane_integers_are_refused() {
    run(FILES[12]);
}

#[test]
fn nbf_iat_and_leeway_edges_hold() {
    run(FILES[13]);
}

#[test]
fn aud_must_name_us() {
    run(FILES[14]);
}

#[test]
fn iss_is_compared_exactly() {
    run(FILES[15]);
}

#[test]
fn sub_tenant_and_roles_of_another_shape_are_refused() {
    run(FILES[16]);
}

#[test]
fn typ_confusion_and_a_token_bound_by_cnf_are_refused() {
    run(FILES[17]);
}

#[test]
fn size_bombs_are_refused_early_and_cheaply() {
    run(FILES[18]);
}

#[test]
fn a_token_that_names_a_key_elsewhere_causes_no_fetch() {
    let gate = TokenGate::start();
    let server = ScriptedServer::start(|_, connection| {
        connection.send(response("200 OK", b"{}"));
    });
    let evil = &KEYS.other;
    for (name, path) in [("jku", "jwks"), ("x5u", "cert"), ("kid", "jwks")] {
        let url = json!(format!("{}/{path}", server.url()));
        gate.refuses(&evil.token_with(&with(evil.header(), name, url.clone()), &good_claims(now())));
        if name != "kid" {
            gate.accepts(&KEYS.ec.token_with(&with(KEYS.ec.header(), name, url), &good_claims(now())));
        }
    }
    assert_eq!(server.count(), 0);
    gate.finish();
}

#[test]
fn an_issuer_cannot_speak_for_another_and_a_portal_trusts_only_its_own() {
    let (one, two) = (Signer::ec("same"), Signer::ec("same"));
    let mut setup = open_portal()
        .file("schemas/q.cedarschema", OPEN_SCHEMA)
        .file("policies/q/main.cedar", OPEN_POLICY)
        .file("one.json", &one.jwks().to_string())
        .file("two.json", &two.jwks().to_string())
        .config("portals:\n  p: { issuers: [one] }\n  q: { issuers: [one, two] }");
    setup.issuers = Some(format!(
        "issuers:\n{}{}",
        issuer("one", "https://one.test/", "one.json"),
        issuer("two", "https://two.test/", "two.json")
    ));
    let gate = setup.start();
    let by = |signer: &Signer, iss: &str| signer.token(&with(good_claims(now()), "iss", json!(iss)));
    let (token_one, token_two) = (by(&one, "https://one.test/"), by(&two, "https://two.test/"));
    for (path, token, expected) in [
        ("/portal/p/x", &token_one, (200, "")),
        ("/portal/q/x", &token_one, (200, "")),
        ("/portal/q/x", &token_two, (200, "")),
        // the token is remembered at q, and still refused at p
        ("/portal/p/x", &token_two, (401, "issuer_unknown")),
        ("/portal/q/x", &by(&two, "https://one.test/"), (401, "token_invalid")),
        ("/portal/q/x", &by(&one, "https://two.test/"), (401, "token_invalid")),
        ("/portal/p/x", &token_two, (401, "issuer_unknown")),
    ] {
        let answer = gate.get(path, token);
        let code = if answer.status == 200 { String::new() } else { answer.code() };
        assert_eq!((answer.status, code.as_str()), expected, "{path}");
        if answer.status == 200 {
            let prefix = if token == &token_one { "one" } else { "two" };
            let expected = if path.contains("/q/") {
                format!("{prefix}|alice")
            } else {
                "alice".to_owned()
            };
            assert_eq!(gate.app.last().headers["x-forwarded-user"], expected.as_str());
        }
    }
}

#[test]
fn an_authorization_header_past_the_head_limit_is_431_without_a_decision() {
    let gate = open_portal().start();
    let mut connection = RawConnection::open(gate.proxy);
    connection.send(format!(
        "GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {}\r\n\r\n",
        "x".repeat(64 * 1024)
    ));
    // the reset that follows unread bytes may take the answer with it
    assert!(connection.read_answer("GET").is_none_or(|answer| answer.status == 431));
    assert_eq!(gate.app.count(), 0);
    eventually("the refusal is counted", || {
        let metrics = gate.metrics();
        let counted = metrics.contains("cedargate_http_rejected_total{reason=\"headers_too_large\"} 1");
        counted.then_some(()).ok_or(metrics)
    });
    assert!(gate.records(0).is_empty());
}

#[test]
fn proto_keys_are_just_data() {
    let gate = TokenGate::start();
    let mut claims = good_claims(now());
    for name in ["__proto__", "constructor", "prototype", "$serde_json::private::Number", ""] {
        claims[name] = json!({"sub": "root", "tenant": "evil", "roles": ["admin"]});
    }
    gate.accepts(&KEYS.ec.token(&claims));
    let seen = gate.gate.app.last();
    assert_eq!(seen.headers["x-forwarded-user"], "alice");
    assert_eq!(
        (&seen.headers["x-cedargate-tenant"], &seen.headers["x-cedargate-roles"]),
        (&"acme".parse().unwrap(), &"viewer".parse().unwrap())
    );
    gate.finish();
}

#[test]
fn transport_a_token_is_taken_from_one_authorization_header_and_nowhere_else() {
    let gate = TokenGate::start();
    let token = KEYS.ec.token(&good_claims(now()));
    let value = format!("Bearer {token}");
    let send = |path: &str, headers: &[(&str, &str)]| {
        let answer = gate.gate.send("GET", path, headers);
        (
            answer.status,
            if answer.status == 200 { String::new() } else { answer.code() },
        )
    };
    let refused = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(
        send(PAGE, &[("authorization", &value), ("authorization", &value)]),
        refused(400, "request_invalid")
    );
    assert_eq!(
        send(PAGE, &[("authorization", &value), ("Authorization", "Bearer x")]),
        refused(400, "request_invalid")
    );
    let missing = refused(401, "token_missing");
    assert_eq!(send(&format!("{PAGE}?access_token={token}"), &[]), missing);
    for (name, value) in [
        ("cookie", format!("access_token={token}; token={token}")),
        ("x-authorization", value.clone()),
        ("proxy-authorization", value.clone()),
        ("x-forwarded-access-token", token.clone()),
        ("authorization_", value.clone()),
        ("x-access-token", token.clone()),
    ] {
        assert_eq!(send(PAGE, &[(name, &value)]), missing, "{name}");
    }
    let invalid = refused(401, "token_invalid");
    for bad in [
        "",
        "Bearer",
        "Bearer  x",
        &format!("Bearer\t{token}"),
        &format!("Bearer {token},{token}"),
        &format!("Bearer {token} x"),
        "Basic YTpi",
        &format!("DPoP {token}"),
        &token,
    ] {
        assert_eq!(send(PAGE, &[("authorization", bad)]), invalid, "{bad}");
    }
    for good in [format!("bEARER {token}"), format!("Bearer  {token}")] {
        assert_eq!(send(PAGE, &[("AUTHORIZATION", &good)]).0, 200, "{good}");
    }
}

#[test]
fn error_format_a_missing_token_gets_a_challenge_without_an_error() {
    let gate = TokenGate::start();
    let answer = gate.gate.send("GET", PAGE, &[]);
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"cedargate\"");
    let answer = gate.gate.get(PAGE, "x.y.z");
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge.matches('"').count() % 2, 0, "{challenge}");
    let body = answer.json();
    let mut members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(
        members,
        ["code", "decision_id", "status", "title", "type"],
        "no detail leaves the gate"
    );
}

#[test]
fn timing_cache_a_tampered_token_does_not_ride_on_a_remembered_one() {
    let gate = TokenGate::start();
    let token = KEYS.ec.token(&good_claims(now()));
    gate.accepts(&token);
    gate.accepts(&token);
    let parts: Vec<&str> = token.split('.').collect();
    let root = b64(with(good_claims(now()), "sub", json!("root")).to_string());
    gate.refuses(&format!("{}.{root}.{}", parts[0], parts[2]));
    gate.refuses(&format!(
        "{}.{}.{}",
        b64(with(KEYS.ec.header(), "x", json!(1)).to_string()),
        parts[1],
        parts[2]
    ));
    gate.refuses(&format!("{}.{}.{}", parts[0], parts[1], b64([1; 64])));
    gate.accepts(&token);
    gate.finish();
}
