//! Keys of issuers that arrive, change, vanish and fail, with a running gate and a key server that counts requests.
//!
//! The key server is scripted: it answers, hangs, lies or is not there. In each case valid tokens of other issuers
//! are answered at once, and no token is let in on a key that is not published any more.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Gate, ISSUER, OPEN_POLICY, OPEN_SCHEMA, PAGE, ScriptedServer, Setup, Signer, claims, eventually, now, open_portal, response,
};

/// A key server that changes its answer while it runs.
struct KeyServer {
    script: ScriptedServer,
    answer: Arc<Mutex<Vec<u8>>>,
}

impl KeyServer {
    fn start(keys: &Value) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), keys)
    }

    fn on(listener: TcpListener, keys: &Value) -> Self {
        let answer = Arc::new(Mutex::new(response("200 OK", keys.to_string().as_bytes())));
        let served = Arc::clone(&answer);
        let script = ScriptedServer::on(listener, move |_, wire| {
            let answer = served.lock().unwrap().clone();
            wire.send(answer);
        });
        Self { script, answer }
    }

    fn serve(&self, keys: &Value) {
        self.raw(response("200 OK", keys.to_string().as_bytes()));
    }

    fn raw(&self, answer: Vec<u8>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn source(&self) -> String {
        format!("{{ url: '{}/jwks' }}", self.script.url())
    }
}

fn issuers(lines: &[(&str, &str, &str)]) -> String {
    let mut text = "issuers:\n".to_owned();
    for (name, iss, jwks) in lines {
        text.push_str(&format!(
            "  - {{ name: {name}, issuer: '{iss}', audiences: [shop], leeway: 0s, jwks: {jwks} }}\n"
        ));
    }
    text
}

fn gate_with(setup: Setup, lines: &[(&str, &str, &str)]) -> Gate {
    let mut setup = setup;
    setup.issuers = Some(issuers(lines));
    setup.start()
}

fn code(gate: &Gate, token: &str) -> (u16, String) {
    let answer = gate.get(PAGE, token);
    (
        answer.status,
        if answer.status == 200 { String::new() } else { answer.code() },
    )
}

fn good() -> Value {
    claims("alice", &[])
}

fn keys(signers: &[&Signer]) -> Value {
    json!({"keys": signers.iter().map(|s| &s.jwk).collect::<Vec<_>>()})
}

fn age(gate: &Gate, metric: &str) -> Option<f64> {
    let metrics = gate.metrics();
    let line = metrics.lines().find(|l| l.starts_with(metric))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

const INVALID: (u16, &str) = (401, "token_invalid");

#[track_caller]
fn is(found: (u16, String), expected: (u16, &str)) {
    assert_eq!((found.0, found.1.as_str()), expected);
}

#[test]
fn a_rotated_in_key_works_after_one_refetch_and_a_removed_ones_tokens_die_even_if_remembered() {
    let (old, new) = (Signer::ec("old"), Signer::rsa("new"));
    let server = KeyServer::start(&keys(&[&old]));
    let gate = gate_with(open_portal(), &[("corp", ISSUER, &server.source())]);
    let (by_old, by_new) = (old.token(&good()), new.token(&good()));
    is(code(&gate, &by_old), (200, ""));
    is(code(&gate, &by_old), (200, ""));
    assert_eq!(server.script.count(), 1);
    server.serve(&keys(&[&new]));
    is(code(&gate, &by_new), (200, ""));
    assert_eq!(server.script.count(), 2, "one refetch");
    is(code(&gate, &by_old), INVALID);
    let fresh = old.token(&claims("bob", &[]));
    is(code(&gate, &fresh), INVALID);
    is(code(&gate, &by_new), (200, ""));
    assert_eq!(server.script.count(), 2, "a second refetch within the throttle");
}

#[test]
fn a_key_republished_for_another_use_no_longer_lets_remembered_tokens_in() {
    let (signer, other) = (Signer::ec("c"), Signer::ec("d"));
    let server = KeyServer::start(&keys(&[&signer]));
    let gate = gate_with(open_portal(), &[("corp", ISSUER, &server.source())]);
    let token = signer.token(&good());
    is(code(&gate, &token), (200, ""));
    let mut enc = signer.jwk.clone();
    enc["use"] = json!("enc");
    server.serve(&json!({"keys": [enc, other.jwk]}));
    is(code(&gate, &other.token(&good())), (200, ""));
    is(code(&gate, &token), INVALID);
}

#[test]
fn a_storm_of_unknown_kids_costs_at_most_one_refetch_and_slows_no_caller() {
    let signer = Signer::ec("c");
    let server = KeyServer::start(&keys(&[&signer]));
    let gate = Arc::new(gate_with(open_portal(), &[("corp", ISSUER, &server.source())]));
    let valid = signer.token(&good());
    is(code(&gate, &valid), (200, ""));
    let proxy = gate.proxy;
    let (stormed, begun) = (AtomicUsize::new(0), Instant::now());
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (stormed, signer) = (&stormed, &signer);
            scope.spawn(move || {
                for n in 0..125 {
                    let token = signer.token_with(&json!({"alg": "ES256", "kid": format!("storm-{thread}-{n}")}), &good());
                    let header = format!("Bearer {token}");
                    let answer = crate::support::raw(proxy, "GET", PAGE, &[("authorization", &header)], b"");
                    assert_eq!((answer.status, answer.code().as_str()), INVALID);
                    stormed.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while stormed.load(Ordering::SeqCst) < 1000 {
            let start = Instant::now();
            let header = format!("Bearer {valid}");
            let answer = crate::support::raw(proxy, "GET", PAGE, &[("authorization", &header)], b"");
            assert_eq!(answer.status, 200);
            slowest = slowest.max(start.elapsed());
        }
    });
    // the first keys, one refetch, and one more for every ten seconds that a slow machine takes
    let most = 2 + begun.elapsed().as_secs() as usize / 10;
    assert!(server.script.count() <= most, "{} fetches", server.script.count());
    assert!(slowest < Duration::from_secs(2), "a valid token waited for {slowest:?}");
}

#[test]
fn an_issuer_without_jwks_is_discovered_and_must_have_the_configured_name() {
    let signer = Signer::ed("e");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (document, jwks) = (json!({"issuer": base, "jwks_uri": format!("{base}/keys")}), keys(&[&signer]));
    let server = ScriptedServer::on(listener, move |head, wire| {
        let body = if head.starts_with("GET /.well-known/openid-configuration ") {
            &document
        } else {
            &jwks
        };
        wire.send(response("200 OK", body.to_string().as_bytes()));
    });
    let mut setup = open_portal();
    setup.issuers = Some(format!("issuers: [{{ name: corp, issuer: '{base}', audiences: [shop] }}]"));
    let gate = setup.start();
    let mut claims = good();
    claims["iss"] = json!(base);
    is(code(&gate, &signer.token(&claims)), (200, ""));
    assert_eq!(server.count(), 2);

    let stranger = ScriptedServer::start(|_, wire| {
        wire.send(response(
            "200 OK",
            b"{\"issuer\":\"https://evil.test/\",\"jwks_uri\":\"http://127.0.0.1:1/\"}",
        ));
    });
    let mut setup = open_portal();
    setup.issuers = Some(format!(
        "issuers: [{{ name: corp, issuer: '{}', audiences: [shop] }}]",
        stranger.url()
    ));
    let gate = setup.start();
    claims["iss"] = json!(stranger.url());
    is(code(&gate, &signer.token(&claims)), (503, "key_unavailable"));
    let error = gate.status()["issuers"][0]["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("issuer"), "{error}");
}

#[test]
fn before_the_first_keys_it_is_503_with_retry_after_and_a_late_issuer_is_picked_up() {
    let signer = Signer::ec("c");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gate = gate_with(
        open_portal(),
        &[("corp", ISSUER, &format!("{{ url: 'http://{address}/jwks' }}"))],
    );
    let token = signer.token(&good());
    let answer = gate.get(PAGE, &token);
    assert_eq!((answer.status, answer.code().as_str()), (503, "key_unavailable"));
    assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1);
    let _late = KeyServer::on(TcpListener::bind(address).unwrap(), &keys(&[&signer]));
    eventually("the late issuer's keys arrive", || match code(&gate, &token) {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let reasons: Vec<_> = gate
        .records(2)
        .iter()
        .map(|r| r["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(reasons[0], "key_unavailable");
}

/// The shortest `jwks.max_age` that the configuration takes is a minute, so this test takes one too.
#[test]
fn when_keys_cannot_be_fetched_the_last_good_ones_work_until_their_maximum_age() {
    let signer = Signer::ec("c");
    let server = KeyServer::start(&keys(&[&signer]));
    let source = format!("{{ url: '{}/jwks', max_age: 60s }}", server.script.url());
    let gate = gate_with(open_portal(), &[("corp", ISSUER, &source)]);
    let (remembered, unseen) = (signer.token(&good()), signer.token(&claims("bob", &[])));
    is(code(&gate, &remembered), (200, ""));
    let begun = Instant::now();
    server.raw(response("500 Internal Server Error", b""));
    // an unknown kid forces the failing fetch
    is(
        code(&gate, &signer.token_with(&json!({"alg": "ES256", "kid": "x"}), &good())),
        INVALID,
    );
    assert_eq!(server.script.count(), 2);
    is(code(&gate, &remembered), (200, ""));
    let mut late = None;
    while late.is_none() && begun.elapsed() < Duration::from_secs(90) {
        match gate.get(PAGE, &remembered) {
            answer if answer.status == 200 => assert!(begun.elapsed() < Duration::from_secs(63), "let in on stale keys"),
            answer => late = Some((answer, begun.elapsed())),
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    let (answer, after) = late.expect("stale keys are given up");
    assert!(after >= Duration::from_secs(58), "given up after {after:?} already");
    assert_eq!((answer.status, answer.code().as_str()), (503, "key_unavailable"));
    assert_eq!(answer.header("retry-after"), "1");
    is(code(&gate, &unseen), (503, "key_unavailable"));
    // and when the issuer is back, so are its callers
    server.serve(&keys(&[&signer]));
    let back = Instant::now();
    loop {
        match code(&gate, &remembered) {
            (200, _) => break,
            other => assert!(back.elapsed() < Duration::from_secs(75), "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[test]
fn a_hanging_key_server_stalls_neither_other_issuers_nor_public_paths() {
    let (stuck, quick) = (Signer::ec("c"), Signer::rsa("r"));
    let hanging = ScriptedServer::start(|_, wire| {
        wire.read_until("never");
    });
    let server = KeyServer::start(&keys(&[&quick]));
    let source = format!("{{ url: '{}/jwks' }}", hanging.url());
    let gate = gate_with(
        open_portal(),
        &[
            ("stuck", "https://stuck.test/", &source),
            ("quick", "https://quick.test/", &server.source()),
        ],
    );
    let by = |signer: &Signer, iss: &str| {
        let mut claims = good();
        claims["iss"] = json!(iss);
        signer.token(&claims)
    };
    let (stuck, quick) = (by(&stuck, "https://stuck.test/"), by(&quick, "https://quick.test/"));
    eventually("the quick issuer's keys", || {
        if code(&gate, &quick).0 == 200 {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    let proxy = gate.proxy;
    std::thread::scope(|scope| {
        // more requests than workers: they would block the gate if waiting blocked a worker
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let header = format!("Bearer {stuck}");
                scope.spawn(move || crate::support::raw(proxy, "GET", PAGE, &[("authorization", &header)], b""))
            })
            .collect();
        let begun = Instant::now();
        for _ in 0..10 {
            let header = format!("Bearer {quick}");
            assert_eq!(
                crate::support::raw(proxy, "GET", PAGE, &[("authorization", &header)], b"").status,
                200
            );
            assert_eq!(
                crate::support::raw(proxy, "GET", "/portal/p/assets/x.css", &[], b"").status,
                200
            );
        }
        assert!(
            begun.elapsed() < Duration::from_millis(1900),
            "stalled for {:?}",
            begun.elapsed()
        );
        for answer in waiting {
            let answer = answer.join().unwrap();
            assert_eq!((answer.status, answer.code().as_str()), (503, "key_unavailable"));
        }
    });
}

#[test]
fn huge_garbled_moved_or_empty_key_sets_keep_the_last_good_one() {
    let (signer, evil) = (Signer::ec("c"), Signer::ec("evil"));
    let trap = KeyServer::start(&keys(&[&evil]));
    let moved = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}/jwks\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        trap.script.url()
    );
    let many = json!({"keys": vec![evil.jwk.clone(); 101]}).to_string();
    let huge = format!("{{\"keys\":[{}],\"pad\":\"{}\"}}", evil.jwk, "x".repeat(2 << 20));
    for (what, answer) in [
        ("a redirect", moved.into_bytes()),
        ("too many keys", response("200 OK", many.as_bytes())),
        ("more than a mebibyte", response("200 OK", huge.as_bytes())),
        ("garbage", response("200 OK", b"<html>login</html>")),
        ("no keys member", response("200 OK", b"{}")),
        (
            "keys twice",
            response("200 OK", format!("{{\"keys\":[],\"keys\":[{}]}}", evil.jwk).as_bytes()),
        ),
        (
            "an error with keys",
            response("404 Not Found", keys(&[&evil]).to_string().as_bytes()),
        ),
        ("nothing", Vec::new()),
    ] {
        let server = KeyServer::start(&keys(&[&signer]));
        let gate = gate_with(open_portal(), &[("corp", ISSUER, &server.source())]);
        let token = signer.token(&good());
        is(code(&gate, &token), (200, ""));
        server.raw(answer);
        is(code(&gate, &evil.token(&good())), INVALID);
        assert_eq!(server.script.count(), 2, "{what} was fetched");
        is(code(&gate, &token), (200, ""));
        is(code(&gate, &signer.token(&claims("bob", &[]))), (200, ""));
        assert!(
            gate.metrics()
                .contains("cedargate_jwks_refresh_total{issuer=\"corp\",result=\"error\"} 1"),
            "{what}"
        );
        assert!(gate.status()["issuers"][0]["last_error"].is_string(), "{what}");
    }
    assert_eq!(trap.script.count(), 0, "a redirect was followed");
}

#[test]
fn jwks_bad_keys_one_malformed_member_does_not_take_the_set_down() {
    let (signer, weak) = (Signer::ec("c"), Signer::rsa("w"));
    let mut published = weak.jwk.clone();
    published["d"] = json!("AQAB");
    let set = json!({"keys": [7, {"kty": "oct", "kid": "o", "k": "c2VjcmV0"}, {"kty": "EC"}, published, signer.jwk]});
    let server = KeyServer::start(&set);
    let gate = gate_with(open_portal(), &[("corp", ISSUER, &server.source())]);
    is(code(&gate, &signer.token(&good())), (200, ""));
    is(code(&gate, &weak.token(&good())), INVALID);
    assert_eq!(gate.status()["issuers"][0]["keys"], 1);
}

#[test]
fn several_issuers_of_several_families_each_keep_to_their_own_keys_and_are_shown() {
    let (rsa, ed, ec) = (Signer::rsa("k"), Signer::ed("k"), Signer::ec("k"));
    let servers = [&rsa, &ed, &ec].map(|signer| KeyServer::start(&keys(&[signer])));
    let names = ["https://rsa.test/", "https://ed.test/", "https://ec.test/"];
    let sources = servers.each_ref().map(KeyServer::source);
    let gate = gate_with(
        open_portal(),
        &[
            ("rsa", names[0], &sources[0]),
            ("ed", names[1], &sources[1]),
            ("ec", names[2], &sources[2]),
        ],
    );
    for (n, signer) in [&rsa, &ed, &ec].into_iter().enumerate() {
        for (m, iss) in names.iter().enumerate() {
            let mut claims = good();
            claims["iss"] = json!(iss);
            let expected = if n == m { (200, "") } else { INVALID };
            is(code(&gate, &signer.token(&claims)), expected);
        }
    }
    for name in ["rsa", "ed", "ec"] {
        let metric = format!("cedargate_token_validations_total{{issuer=\"{name}\",result=\"ok\"}}");
        assert_eq!(age(&gate, &metric), Some(1.0));
        eventually("the keys' age is published", || {
            age(&gate, &format!("cedargate_jwks_age_seconds{{issuer=\"{name}\"}}"))
                .filter(|a| *a < 60.0)
                .ok_or("none".to_owned())
        });
    }
}

#[test]
fn a_remembered_token_dies_with_its_own_time() {
    let signer = Signer::ec("c");
    let server = KeyServer::start(&keys(&[&signer]));
    let gate = gate_with(open_portal(), &[("corp", ISSUER, &server.source())]);
    let mut claims = good();
    let end = now() + 3;
    claims["exp"] = json!(end);
    let token = signer.token(&claims);
    let mut let_in = 0;
    eventually("the token expires", || match code(&gate, &token) {
        (200, _) => {
            assert!(now() <= end, "let in after its end");
            let_in += 1;
            Err("still let in".to_owned())
        }
        other => {
            is(other, (401, "token_expired"));
            assert!(now() >= end);
            Ok(())
        }
    });
    assert!(let_in >= 2, "it was remembered");
}

#[test]
fn one_token_at_two_portals_is_two_callers() {
    let signer = Signer::ec("c");
    let setup = open_portal()
        .file("schemas/q.cedarschema", OPEN_SCHEMA)
        .file("policies/q/main.cedar", OPEN_POLICY)
        .file(
            "policies/r/main.cedar",
            "@id(\"nobody\") forbid (principal, action, resource);",
        )
        .file("schemas/r.cedarschema", OPEN_SCHEMA);
    let server = KeyServer::start(&keys(&[&signer]));
    let gate = gate_with(setup, &[("corp", ISSUER, &server.source())]);
    let token = signer.token(&good());
    for _ in 0..2 {
        for (portal, status) in [("p", 200), ("q", 200), ("r", 403)] {
            let answer = gate.get(&format!("/portal/{portal}/x"), &token);
            assert_eq!(answer.status, status);
            if status == 200 {
                assert_eq!(gate.app.last().headers["x-cedargate-portal"], portal);
            }
        }
    }
    assert_eq!(server.script.count(), 1);
}

#[test]
fn a_swapped_key_file_is_seen_and_the_old_keys_tokens_die() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let mut setup = open_portal().file("keys.json", &keys(&[&old]).to_string());
    setup.issuers = Some(issuers(&[("corp", ISSUER, "{ file: keys.json }")]));
    let gate = setup.start();
    let (by_old, by_new) = (old.token(&good()), new.token(&good()));
    is(code(&gate, &by_old), (200, ""));
    gate.put("next.json", &keys(&[&new]).to_string());
    std::fs::rename(gate.path("next.json"), gate.path("keys.json")).unwrap();
    eventually("the new key works", || {
        if code(&gate, &by_new).0 == 200 {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    is(code(&gate, &by_old), INVALID);
    // a file that is gone or broken is not an empty set
    gate.put("keys.json", "{\"keys\": [");
    eventually(
        "the broken file is noticed",
        || match gate.status()["issuers"][0]["last_error"].as_str() {
            Some(_) => Ok(()),
            None => Err("no error".to_owned()),
        },
    );
    is(code(&gate, &by_new), (200, ""));
}
