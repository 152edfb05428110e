//! DPoP (RFC 9449): a token that is bound to a key counts once for each proof, for its own request alone.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::{Answer, Gate, Issuer, PAGE, Setup, b64, claims, now, open_portal, raw};

/// The URL of `PAGE` as clients see it.
const URL: &str = "https://shop.test/portal/p/page";

fn setup(dpop: &str) -> Setup {
    let mut setup = open_portal().config("public_url: https://shop.test");
    setup.issuers = Some(format!(
        "issuers: [{{ name: test, issuer: 'https://issuer.test/', audiences: [shop], jwks: {{ file: jwks.json }}, {dpop} }}]"
    ));
    setup
}

fn start() -> Gate {
    setup("dpop: {}").start()
}

/// A client with a key of its own.
struct Client {
    key: Issuer,
}

impl Client {
    fn new() -> Self {
        Self {
            key: Issuer::new("client"),
        }
    }

    fn jwk(&self) -> Value {
        let jwk = self.key.jwk();
        json!({"kty": "EC", "crv": "P-256", "x": jwk["x"], "y": jwk["y"]})
    }

    fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let canonical = json!({"crv": "P-256", "kty": "EC", "x": jwk["x"], "y": jwk["y"]}).to_string();
        b64(digest(canonical.as_bytes()))
    }

    /// A token of the gate's issuer that is bound to the client's key.
    fn token(&self, gate: &Gate) -> String {
        let mut claims = claims("alice", &["viewer"]);
        claims["cnf"] = json!({"jkt": self.thumbprint()});
        gate.issuer.sign(&claims)
    }

    fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk(), "kid": null})
    }

    fn proof(&self, token: &str) -> Value {
        json!({"jti": uuid::Uuid::new_v4().to_string(), "htm": "GET", "htu": URL, "iat": now(), "ath": b64(digest(token.as_bytes()))})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let mut header = header.clone();
        if header["kid"].is_null() {
            header.as_object_mut().unwrap().remove("kid");
        }
        self.key
            .sign_raw(&format!("{}.{}", b64(header.to_string()), b64(claims.to_string())))
    }

    fn fresh(&self, token: &str) -> String {
        self.sign(&self.header(), &self.proof(token))
    }
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

fn ask(gate: &Gate, token: &str, proof: &str) -> Answer {
    gate.send("GET", PAGE, &[("authorization", &format!("DPoP {token}")), ("dpop", proof)])
}

fn challenges(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("www-authenticate").iter();
    all.map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_proof_of_its_own_request_lets_its_token_in_once() {
    let gate = start();
    let client = Client::new();
    let token = client.token(&gate);
    for _ in 0..3 {
        let proof = client.fresh(&token);
        assert_eq!(ask(&gate, &token, &proof).status, 200);
        let seen = gate.app.last();
        assert_eq!(seen.headers["x-forwarded-user"], "alice");
        assert!(!seen.headers.contains_key("dpop") && !seen.headers.contains_key("authorization"));
        let again = ask(&gate, &token, &proof);
        assert_eq!(again.code(), "token_invalid", "a proof counts once");
        assert!(
            challenges(&again)
                .iter()
                .any(|text| text.starts_with("DPoP error=\"invalid_dpop_proof\", algs=\"RS256 "))
        );
    }
    let lower = gate.send(
        "GET",
        PAGE,
        &[("authorization", &format!("dpop {token}")), ("dpop", &client.fresh(&token))],
    );
    assert_eq!(lower.status, 200);
    let record = gate.records(2).remove(1);
    assert_eq!(record["refused"]["check"], "proof", "{record}");
}

#[test]
fn a_bound_token_is_no_bearer_token_and_another_token_takes_no_proof() {
    let gate = start();
    let (client, thief) = (Client::new(), Client::new());
    let token = client.token(&gate);
    for _ in 0..2 {
        // before the gate knows the token, and after
        assert_eq!(gate.get(PAGE, &token).code(), "token_invalid");
        let with_proof = gate.send(
            "GET",
            PAGE,
            &[("authorization", &format!("Bearer {token}")), ("dpop", &client.fresh(&token))],
        );
        assert_eq!(with_proof.code(), "token_invalid");
        assert_eq!(ask(&gate, &token, &thief.fresh(&token)).code(), "token_invalid");
        assert_eq!(ask(&gate, &token, &client.fresh(&token)).status, 200);
    }
    let plain = gate.issuer.token("alice", &["viewer"]);
    assert_eq!(gate.get(PAGE, &plain).status, 200);
    assert_eq!(ask(&gate, &plain, &client.fresh(&plain)).code(), "token_invalid");
    let none = gate.send("GET", PAGE, &[]);
    assert_eq!(none.code(), "token_missing");
    assert_eq!(challenges(&none).len(), 2, "both schemes are offered");
}

/// One change to a good proof.
type Change = fn(&mut Value, &mut Value);

#[test]
fn every_defect_of_a_proof_is_refused() {
    let gate = start();
    let client = Client::new();
    let other = Client::new();
    let token = client.token(&gate);
    let changes: &[(&str, Change)] = &[
        ("typ absent", |header, _| drop(header.as_object_mut().unwrap().remove("typ"))),
        ("typ JWT", |header, _| header["typ"] = json!("JWT")),
        ("typ of an access token", |header, _| header["typ"] = json!("at+jwt")),
        ("typ in upper case", |header, _| header["typ"] = json!("DPOP+JWT")),
        ("alg none", |header, _| header["alg"] = json!("none")),
        ("alg HS256", |header, _| header["alg"] = json!("HS256")),
        ("alg of another family", |header, _| header["alg"] = json!("RS256")),
        ("alg EdDSA", |header, _| header["alg"] = json!("EdDSA")),
        ("no key", |header, _| drop(header.as_object_mut().unwrap().remove("jwk"))),
        ("key as text", |header, _| header["jwk"] = json!(header["jwk"].to_string())),
        ("private key", |header, _| header["jwk"]["d"] = json!("AAAA")),
        ("symmetric key", |header, _| {
            header["jwk"] = json!({"kty": "oct", "k": "AAAA"})
        }),
        ("key off its curve", |header, _| {
            header["jwk"]["y"] = header["jwk"]["x"].clone()
        }),
        ("key for encryption", |header, _| header["jwk"]["use"] = json!("enc")),
        ("kid alone", |header, _| {
            header.as_object_mut().unwrap().remove("jwk");
            header["kid"] = json!("key-1");
        }),
        ("critical extension", |header, _| header["crit"] = json!(["x"])),
        ("unencoded payload", |header, _| header["b64"] = json!(false)),
        ("other method", |_, proof| proof["htm"] = json!("POST")),
        ("method in lower case", |_, proof| proof["htm"] = json!("get")),
        ("no method", |_, proof| drop(proof.as_object_mut().unwrap().remove("htm"))),
        ("other host", |_, proof| {
            proof["htu"] = json!("https://evil.test/portal/p/page")
        }),
        ("other scheme", |_, proof| {
            proof["htu"] = json!("http://shop.test/portal/p/page")
        }),
        ("other port", |_, proof| {
            proof["htu"] = json!("https://shop.test:8443/portal/p/page")
        }),
        ("other path", |_, proof| {
            proof["htu"] = json!("https://shop.test/portal/p/other")
        }),
        ("path prefix", |_, proof| proof["htu"] = json!("https://shop.test/portal/p")),
        ("path in another case", |_, proof| {
            proof["htu"] = json!("https://shop.test/portal/p/Page")
        }),
        ("path alone", |_, proof| proof["htu"] = json!("/portal/p/page")),
        ("user in the URL", |_, proof| {
            proof["htu"] = json!("https://shop.test@evil.test/portal/p/page")
        }),
        ("password in the URL", |_, proof| {
            proof["htu"] = json!("https://a:b@shop.test/portal/p/page")
        }),
        ("host with a suffix", |_, proof| {
            proof["htu"] = json!("https://shop.test.evil.test/portal/p/page")
        }),
        ("URL list", |_, proof| proof["htu"] = json!([URL])),
        ("no URL", |_, proof| drop(proof.as_object_mut().unwrap().remove("htu"))),
        ("old", |_, proof| proof["iat"] = json!(now() - 62)),
        ("from the future", |_, proof| proof["iat"] = json!(now() + 20)),
        ("time as text", |_, proof| proof["iat"] = json!(now().to_string())),
        ("no time", |_, proof| drop(proof.as_object_mut().unwrap().remove("iat"))),
        ("before the gate's start", |_, proof| proof["iat"] = json!(now() - 45)),
        ("no id", |_, proof| drop(proof.as_object_mut().unwrap().remove("jti"))),
        ("empty id", |_, proof| proof["jti"] = json!("")),
        ("number as id", |_, proof| proof["jti"] = json!(7)),
        ("long id", |_, proof| proof["jti"] = json!("x".repeat(257))),
        ("no hash of the token", |_, proof| {
            drop(proof.as_object_mut().unwrap().remove("ath"))
        }),
        ("hash of another token", |_, proof| {
            proof["ath"] = json!(b64(digest(b"a.b.c")))
        }),
        ("hash in hex", |_, proof| proof["ath"] = json!(hex::encode(digest(b"a.b.c")))),
        ("malformed nonce", |_, proof| proof["nonce"] = json!(7)),
    ];
    let before = gate.app.count();
    for (name, change) in changes {
        let (mut header, mut proof) = (client.header(), client.proof(&token));
        change(&mut header, &mut proof);
        let answer = ask(&gate, &token, &client.sign(&header, &proof));
        assert_eq!(answer.code(), "token_invalid", "{name}");
    }
    let good = client.fresh(&token);
    let (input, _) = good.rsplit_once('.').unwrap();
    let forged = other.key.sign_raw(input);
    for (name, proof) in [
        ("signed by another key", forged),
        ("no signature", format!("{input}.")),
        ("cut", good[..good.len() - 4].to_owned()),
        ("padded", format!("{good}=")),
        ("long", format!("{}{}", "a".repeat(9000), good)),
        ("the token itself", token.clone()),
        ("no token", "x".to_owned()),
    ] {
        assert_eq!(ask(&gate, &token, &proof).code(), "token_invalid", "{name}");
    }
    let authorization = format!("DPoP {token}");
    let missing = gate.send("GET", PAGE, &[("authorization", &authorization)]);
    assert_eq!(missing.code(), "token_invalid");
    let two = [
        ("authorization", authorization.as_str()),
        ("dpop", &good),
        ("dpop", &client.fresh(&token)),
    ];
    assert_eq!(gate.send("GET", PAGE, &two).code(), "token_invalid");
    let post = raw(
        gate.proxy,
        "POST",
        PAGE,
        &[("authorization", &authorization), ("dpop", &client.fresh(&token))],
        b"x",
    );
    assert_eq!(post.code(), "token_invalid", "the proof is for GET");
    assert_eq!(gate.app.count(), before, "no refused request reached the app");
    assert_eq!(ask(&gate, &token, &good).status, 200, "a refused proof is not used up");
}

#[test]
fn the_url_of_a_proof_is_compared_as_the_app_gets_it() {
    let gate = start();
    let client = Client::new();
    let token = client.token(&gate);
    for (path, htu) in [
        ("/portal/p/page?a=1", "https://shop.test/portal/p/page"),
        ("/portal/p/page", "https://shop.test/portal/p/page?b=2#c"),
        ("/portal/p/page", "HTTPS://SHOP.TEST:443/portal/p/page"),
        ("/portal/p/p%61ge", "https://shop.test/portal/p/page"),
        ("/portal/p/caf%C3%A9", "https://shop.test/portal/p/caf\u{e9}"),
    ] {
        let mut proof = client.proof(&token);
        proof["htu"] = json!(htu);
        let proof = client.sign(&client.header(), &proof);
        let answer = gate.send("GET", path, &[("authorization", &format!("DPoP {token}")), ("dpop", &proof)]);
        assert_eq!(answer.status, 200, "{path} {htu}");
    }
    // a host that only the client chose
    let mut proof = client.proof(&token);
    proof["htu"] = json!("http://evil.test/portal/p/page");
    let proof = client.sign(&client.header(), &proof);
    let authorization = format!("DPoP {token}");
    let headers = [
        ("host", "evil.test"),
        ("authorization", authorization.as_str()),
        ("dpop", proof.as_str()),
    ];
    assert_eq!(gate.send("GET", PAGE, &headers).code(), "token_invalid");
}

#[test]
fn a_nonce_of_the_gate_is_demanded_where_the_issuer_says_so() {
    let gate = setup("dpop: { nonce: true }").start();
    let elsewhere = setup("dpop: { nonce: true }").start();
    let client = Client::new();
    let token = client.token(&gate);
    let demand = |gate: &Gate, nonce: Option<&str>| {
        let mut proof = client.proof(&token);
        if let Some(nonce) = nonce {
            proof["nonce"] = json!(nonce);
        }
        ask(gate, &token, &client.sign(&client.header(), &proof))
    };
    let refused = demand(&gate, None);
    assert_eq!(refused.code(), "token_invalid");
    assert!(
        challenges(&refused)
            .iter()
            .any(|text| text.starts_with("DPoP error=\"use_dpop_nonce\"")),
        "{refused:?}"
    );
    let nonce = refused.header("dpop-nonce").to_owned();
    assert_eq!(demand(&gate, Some(&nonce)).status, 200);
    assert_eq!(demand(&gate, Some(&nonce)).status, 200, "another proof with the same nonce");
    let mut changed = nonce.clone();
    changed.replace_range(4..6, if nonce.get(4..6) == Some("AA") { "BB" } else { "AA" });
    for bad in [changed.as_str(), "", "AAAA", &b64(now().to_be_bytes())] {
        let answer = demand(&gate, Some(bad));
        assert_eq!(answer.code(), "token_invalid", "{bad}");
        assert!(!answer.header("dpop-nonce").is_empty());
    }
    // gates without a shared store do not know each other's proofs, so none accepts the nonce of another
    let foreign = ask_elsewhere(&elsewhere, &client, &nonce);
    assert_eq!(foreign.code(), "token_invalid");
}

/// The nonce of one gate at another gate.
fn ask_elsewhere(gate: &Gate, client: &Client, nonce: &str) -> Answer {
    let token = client.token(gate);
    let mut proof = client.proof(&token);
    proof["nonce"] = json!(nonce);
    ask(gate, &token, &client.sign(&client.header(), &proof))
}

#[test]
fn an_issuer_without_dpop_takes_no_proof_and_one_that_requires_it_no_bearer_token() {
    let without = setup("leeway: 30s").start();
    let client = Client::new();
    let token = client.token(&without);
    let refused = ask(&without, &token, &client.fresh(&token));
    assert_eq!(refused.code(), "token_invalid");
    assert_eq!(challenges(&without.send("GET", PAGE, &[])).len(), 1);
    let required = setup("dpop: { required: true }").start();
    let token = client.token(&required);
    assert_eq!(ask(&required, &token, &client.fresh(&token)).status, 200);
    let plain = required.issuer.token("alice", &["viewer"]);
    assert_eq!(required.get(PAGE, &plain).code(), "token_invalid");
    let body = json!({"portal": "p", "token": plain, "action": "GET", "resource": {"type": "Path", "id": PAGE}});
    assert_eq!(required.ask("/authorize", &body).status, 401);
}

#[test]
fn a_full_log_of_proofs_refuses_instead_of_forgetting() {
    let gate = setup("dpop: {}").config("limits: { workers: 2, dpop_proofs: 2 }").start();
    let client = Client::new();
    let token = client.token(&gate);
    for _ in 0..2 {
        assert_eq!(ask(&gate, &token, &client.fresh(&token)).status, 200);
    }
    let full = ask(&gate, &token, &client.fresh(&token));
    assert_eq!((full.status, full.code().as_str()), (503, "overloaded"));
    assert!(full.text().contains("limits.dpop_proofs"), "{}", full.text());
}

#[test]
fn doors_that_do_not_see_the_request_refuse_and_a_proxy_that_asks_states_it() {
    let gate = setup("dpop: {}").start();
    let client = Client::new();
    let token = client.token(&gate);
    let body = json!({"portal": "p", "token": token, "action": "GET", "resource": {"type": "Path", "id": PAGE}});
    assert_eq!(gate.ask("/authorize", &body).status, 401);
    let authorization = format!("DPoP {token}");
    let proof = client.fresh(&token);
    let headers = [
        ("authorization", authorization.as_str()),
        ("dpop", proof.as_str()),
        ("content-type", "application/json"),
    ];
    let body = json!({"portal": "p", "action": "GET", "resource": {"type": "Path", "id": PAGE}}).to_string();
    assert_eq!(
        raw(gate.decision, "POST", "/authorize", &headers, body.as_bytes()).status,
        401
    );
    let stated = |proof: &str, url: &str| {
        let headers = [
            ("authorization", authorization.as_str()),
            ("dpop", proof),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-original-method", "GET"),
            ("x-original-url", url),
        ];
        raw(gate.decision, "GET", "/auth-request", &headers, b"").status
    };
    assert_eq!(stated(&proof, URL), 200);
    assert_eq!(stated(&proof, URL), 401, "a proof counts once, at whichever door");
    assert_eq!(ask(&gate, &token, &proof).code(), "token_invalid");
    assert_eq!(stated(&client.fresh(&token), "https://shop.test/portal/p/other"), 401);
}

#[test]
fn the_identity_endpoints_take_a_proof_of_their_own_request_once() {
    let gate = setup("dpop: { nonce: true }").start();
    let client = Client::new();
    let token = client.token(&gate);
    let authorization = format!("DPoP {token}");
    let ask = |method: &str, path: &str, proof: &str, body: &str| {
        let headers = [
            ("authorization", authorization.as_str()),
            ("dpop", proof),
            ("content-type", "application/json"),
        ];
        raw(gate.proxy, method, path, &headers, body.as_bytes())
    };
    let signed = |method: &str, path: &str, nonce: &str| {
        let mut proof = client.proof(&token);
        proof["htm"] = json!(method);
        proof["htu"] = json!(format!("https://shop.test{path}"));
        proof["nonce"] = json!(nonce);
        client.sign(&client.header(), &proof)
    };
    let permissions = "/api/v1/identity/permissions";
    let session = "/api/v1/identity/auth/session";
    let first = ask("GET", &format!("{permissions}?portal=p"), &signed("GET", permissions, ""), "");
    assert_eq!((first.status, first.code().as_str()), (401, "token_invalid"));
    let nonce = first.header("dpop-nonce").to_owned();
    let questions = json!({"portal": "p", "resources": [{"type": "Path", "id": PAGE}], "actions": ["GET"]}).to_string();
    for (method, path, query, body) in [
        ("GET", permissions, "?portal=p", ""),
        ("GET", session, "?portal=p", ""),
        ("POST", permissions, "", questions.as_str()),
    ] {
        let proof = signed(method, path, &nonce);
        let target = format!("{path}{query}");
        let answer = ask(method, &target, &proof, body);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        assert!(answer.text().contains("alice"), "{}", answer.text());
        // twice, for another method or path, by another key, or without the scheme
        let again = ask(method, &target, &proof, body);
        assert_eq!(again.code(), "token_invalid", "{method} {path}");
        for other in [
            signed("PUT", path, &nonce),
            signed(method, "/api/v1/identity/portals", &nonce),
        ] {
            assert_eq!(ask(method, &target, &other, body).code(), "token_invalid");
        }
        let bearer = [
            ("authorization", &*format!("Bearer {token}")),
            ("content-type", "application/json"),
        ];
        assert_eq!(raw(gate.proxy, method, &target, &bearer, body.as_bytes()).status, 401);
    }
    // the minted token would be bound to nothing
    let mint = "/api/v1/identity/auth/token";
    let minted = ask("POST", mint, &signed("POST", mint, &nonce), r#"{"portal": "p"}"#);
    assert_eq!(minted.code(), "token_invalid", "{}", minted.text());
}

#[test]
fn dpop_without_a_name_of_the_gate_is_a_start_error() {
    let mut setup = open_portal();
    setup.issuers = Some(
        "issuers: [{ name: test, issuer: 'https://issuer.test/', audiences: [shop], jwks: { file: jwks.json }, dpop: {} }]"
            .to_owned(),
    );
    let error = setup.try_start().err().expect("it started");
    assert!(error.contains("issuers[0].dpop") && error.contains("public_url"), "{error}");
}

/// A gate whose replicas share `redis`.
fn replica(redis: &Redis, dpop: &str) -> Gate {
    let config = format!(
        "sessions: {{ store: redis, key_file: keys, redis: {{ url: '{}', key_prefix: '{PREFIX}' }} }}",
        redis.url()
    );
    let keys = STANDARD.encode(KEY);
    setup(dpop).config(&config).file("keys", &format!("{keys}\n")).start()
}

const KEY: [u8; 32] = *b"a server key of this test, 32 by";
const PREFIX: &str = "cedargate:test:";

#[test]
fn a_proof_counts_once_among_replicas_and_never_without_their_store() {
    let redis = Redis::start();
    let gates = [replica(&redis, "dpop: {}"), replica(&redis, "dpop: {}")];
    let client = Client::new();
    let tokens = gates.each_ref().map(|gate| client.token(gate));
    // each gate has an issuer of its own: the same proof, but for the hash of the token
    let proof = |jti: &str, token: &str| {
        let mut claims = client.proof(token);
        claims["jti"] = json!(jti);
        client.sign(&client.header(), &claims)
    };
    for (jti, first, second) in [("one", 0, 1), ("two", 1, 0)] {
        assert_eq!(ask(&gates[first], &tokens[first], &proof(jti, &tokens[first])).status, 200);
        for gate in [second, first] {
            let refused = ask(&gates[gate], &tokens[gate], &proof(jti, &tokens[gate]));
            assert_eq!(refused.code(), "token_invalid");
        }
    }
    // many at once: one of them counts
    let statuses = std::thread::scope(|scope| {
        let asked = (0..8).map(|number| {
            let (gate, token) = (&gates[number % 2], &tokens[number % 2]);
            let proof = proof("three", token);
            scope.spawn(move || {
                let headers = [("authorization", format!("DPoP {token}")), ("dpop", proof)];
                let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
                raw(gate.proxy, "GET", PAGE, &headers, b"").status
            })
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    // a store that does not answer
    let seen = gates[0].app.count();
    redis.kill();
    let refused = ask(&gates[0], &tokens[0], &client.fresh(&tokens[0]));
    assert_eq!((refused.status, refused.code().as_str()), (503, "store_unavailable"));
    assert_eq!(gates[0].app.count(), seen);
}

#[test]
fn replicas_accept_the_nonces_of_each_other_and_renew_them_in_time() {
    let redis = Redis::start();
    let gates = [
        replica(&redis, "dpop: { nonce: true }"),
        replica(&redis, "dpop: { nonce: true }"),
    ];
    let client = Client::new();
    let token = client.token(&gates[0]);
    let nonce = ask(&gates[0], &token, &client.fresh(&token)).header("dpop-nonce").to_owned();
    for gate in &gates {
        let answer = ask_elsewhere(gate, &client, &nonce);
        assert_eq!((answer.status, answer.header("dpop-nonce")), (200, ""));
    }
    assert_eq!(
        nonce_made_at(made_at(&nonce)),
        nonce,
        "the test makes nonces as the gate does"
    );
    for (age, status, is_renewed) in [
        (140, 200, false),
        (160, 200, true),
        (290, 200, true),
        (310, 401, true),
        (-60, 401, true),
    ] {
        let answer = ask_elsewhere(&gates[1], &client, &nonce_made_at(now() - age));
        let fresh = answer.header("dpop-nonce").to_owned();
        assert_eq!((answer.status, !fresh.is_empty()), (status, is_renewed), "{age}");
        if is_renewed {
            assert_eq!(ask_elsewhere(&gates[0], &client, &fresh).status, 200, "{age}");
        }
    }
}

/// A nonce with the key that replicas derive of their key file.
fn nonce_made_at(time: i64) -> String {
    use aws_lc_rs::{hkdf, hmac};
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let info = [&u32::try_from(PREFIX.len()).unwrap().to_be_bytes(), PREFIX.as_bytes()].concat();
    let mut key = [0; 32];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"cedargate dpop nonce v1").extract(&KEY);
    extracted.expand(&[&info], Length).unwrap().fill(&mut key).unwrap();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &time.to_be_bytes());
    b64([&time.to_be_bytes()[..], &tag.as_ref()[..16]].concat())
}

fn made_at(nonce: &str) -> i64 {
    let bytes = URL_SAFE_NO_PAD.decode(nonce).unwrap();
    i64::from_be_bytes(bytes[..8].try_into().unwrap())
}
