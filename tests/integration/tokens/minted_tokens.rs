//! The identity endpoints beside the login: the session, minted tokens, portal metadata and assertion keys.

use serde_json::{Value, json};

use crate::support::session_client::{IDENTITY_PATH, ORIGIN, auth_event, browse, log_in, log_out, portal, with_cookie};
use crate::support::{Answer, Gate, Issuer, PAGE, eventually, now, open_portal, raw, unb64};

fn ask_token(gate: &Gate, headers: &[(&str, &str)], kind: &str, body: &str) -> Answer {
    let headers: Vec<_> = headers.iter().copied().chain([("content-type", kind)]).collect();
    raw(
        gate.proxy,
        "POST",
        &format!("{IDENTITY_PATH}/auth/token"),
        &headers,
        body.as_bytes(),
    )
}

const FORM: &str = "application/x-www-form-urlencoded";

fn decoded(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| unb64(part).unwrap());
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap_or_default();
    (next(), next())
}

fn keys(gate: &Gate) -> Vec<String> {
    let jwks = raw(gate.proxy, "GET", "/.well-known/cedargate/jwks.json", &[], b"").json();
    let keys = jwks["keys"].as_array().unwrap();
    assert!(keys.iter().all(|key| key.get("d").is_none()));
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_identity_endpoint_shows_a_session_and_never_a_token() {
    let gate = portal().start();
    let path = format!("{IDENTITY_PATH}/auth/session");
    let anonymous = raw(gate.proxy, "GET", &path, &[], b"");
    assert_eq!(
        (anonymous.status, anonymous.header("content-type")),
        (401, "application/problem+json")
    );
    let cookie = log_in(&gate, "alice");
    let answer = with_cookie(&gate, "GET", &path, &cookie, &[]);
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    let me = answer.json();
    for (name, value) in [
        ("subject", "local|alice"),
        ("issuer", "local"),
        ("provider", "local"),
        ("tenant", "acme"),
        ("portal", "p"),
        ("name", "Alice"),
        ("email", "alice@shop.test"),
    ] {
        assert_eq!(me[name], value, "{me}");
    }
    assert_eq!(
        (&me["roles"], &me["auth"]["method"], &me["auth"]["amr"]),
        (&json!(["viewer"]), &json!("session"), &json!(["pwd"]))
    );
    assert!(me["expires_at"].as_i64().unwrap() > now() + 3600);
    assert!(!answer.text().contains("eyJ"), "{me}");
    assert_eq!(
        with_cookie(&gate, "GET", &format!("{path}?portal=q"), &cookie, &[]).status,
        404
    );
    assert_eq!(
        with_cookie(&gate, "GET", &format!("{path}?portal=p&portal=p"), &cookie, &[]).status,
        400
    );
    let token = format!("Bearer {}", gate.issuer.token("carol", &[]));
    let bearer = raw(
        gate.proxy,
        "GET",
        &format!("{path}?portal=p"),
        &[("authorization", &token)],
        b"",
    );
    assert_eq!(bearer.json()["subject"], "test|carol", "{}", bearer.text());
}

#[test]
fn a_minted_token_names_its_portal_and_dies_with_five_minutes_or_its_credential() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    for (kind, body) in [(FORM, "portal=p"), ("application/json", "{\"portal\":\"p\"}")] {
        let answer = ask_token(&gate, &[("cookie", &cookie), ("origin", ORIGIN)], kind, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        let (header, claims) = decoded(answer["access_token"].as_str().unwrap());
        assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("at+jwt")));
        assert_eq!(keys(&gate)[0], header["kid"]);
        for (name, value) in [
            ("iss", ORIGIN),
            ("aud", "cedargate:p"),
            ("sub", "local|alice"),
            ("tenant", "acme"),
            ("portal", "p"),
        ] {
            assert_eq!(claims[name], value, "{claims}");
        }
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
        assert_eq!(
            (&answer["token_type"], &answer["expires_in"]),
            (&json!("Bearer"), &json!(300))
        );
    }
    auth_event(&gate, "a token is recorded", |e| {
        e["event"] == "token" && e["result"] == "success" && e["subject"] == "alice"
    });
    let mut claims = crate::support::claims("carol", &[]);
    claims["exp"] = json!(now() + 20);
    let short = format!("Bearer {}", gate.issuer.sign(&claims));
    let answer = ask_token(&gate, &[("authorization", &short)], FORM, "portal=p");
    assert!(answer.json()["expires_in"].as_i64().unwrap() <= 20, "{}", answer.text());
}

#[test]
fn a_token_is_minted_for_its_own_caller_only() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    let cookie = cookie.as_str();
    let bad = |headers: &[(&str, &str)], kind: &str, body: &str| {
        let answer = ask_token(&gate, headers, kind, body);
        assert!(!answer.text().contains("access_token"), "{headers:?} {body}");
        answer.status
    };
    assert_eq!(bad(&[], FORM, "portal=p"), 401);
    assert_eq!(bad(&[("cookie", cookie)], FORM, "portal=p"), 403);
    assert_eq!(
        bad(&[("cookie", cookie), ("origin", "https://evil.test")], FORM, "portal=p"),
        403
    );
    let ours = [("cookie", cookie), ("origin", ORIGIN)];
    for (kind, body, status) in [
        (FORM, "portal=nope", 404),
        (FORM, "", 400),
        (FORM, "portal=p&portal=p", 400),
        (FORM, "portal=p&sub=root", 400),
        ("application/json", "{\"portal\":1}", 400),
        ("application/json", "[]", 400),
        ("text/plain", "portal=p", 400),
    ] {
        assert_eq!(bad(&ours, kind, body), status, "{body}");
    }
    let huge = format!("portal={}", "p".repeat(100_000));
    assert!(bad(&ours, FORM, &huge) >= 400);
    assert!(log_out(&gate, cookie).status < 400);
    assert_eq!(bad(&ours, FORM, "portal=p"), 401);
    let get = with_cookie(&gate, "GET", &format!("{IDENTITY_PATH}/auth/token"), cookie, &[]);
    assert_eq!(get.status, 405);
}

#[test]
fn neither_a_minted_token_nor_an_assertion_passes_for_the_other_or_for_a_bearer_token() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    let minted = ask_token(&gate, &[("cookie", &cookie), ("origin", ORIGIN)], FORM, "portal=p").json();
    let minted = minted["access_token"].as_str().unwrap();
    assert_eq!(gate.get(PAGE, minted).status, 401);
    let ask = |token: &str| {
        let body = json!({"portal": "p", "token": token, "action": "GET", "resource": "Path::\"/portal/p/page\""});
        gate.ask("/authorize", &body).status
    };
    assert_eq!(ask(minted), 401);
    with_cookie(&gate, "GET", PAGE, &cookie, &[]);
    let assertion = gate.app.last().headers["x-cedargate-assertion"].to_str().unwrap().to_owned();
    assert_eq!(ask(&assertion), 200);
    assert_eq!(gate.get(PAGE, &assertion).status, 401);
}

#[test]
fn the_portals_endpoint_shows_public_metadata_only() {
    let gate = portal().start();
    let list = raw(gate.proxy, "GET", &format!("{IDENTITY_PATH}/portals/"), &[], b"").json();
    let one = raw(gate.proxy, "GET", &format!("{IDENTITY_PATH}/portals/p/"), &[], b"").json();
    assert_eq!(list["portals"], json!([one]));
    assert_eq!(
        (&one["slug"], &one["title"], &one["path_prefix"]),
        (&json!("p"), &json!("Shop"), &json!("/portal/p"))
    );
    assert_eq!(one["flags"], json!({"beta": true}));
    assert_eq!(browse(&gate, one["login"]["url"].as_str().unwrap(), "").status, 200);
    assert_eq!(
        raw(gate.proxy, "GET", &format!("{IDENTITY_PATH}/portals/nope/"), &[], b"").status,
        404
    );
    let page = browse(&gate, &format!("{IDENTITY_PATH}/portals/"), "");
    assert!(
        page.header("content-type").starts_with("text/html") && page.text().contains("Shop"),
        "{}",
        page.text()
    );
}

#[test]
fn the_portals_endpoint_shows_no_portal_of_another_host() {
    let gate = open_portal()
        .config("portals: { p: { match: { hosts: ['*.a.test'], path_prefix: /portal/p }, issuers: [test] } }")
        .start();
    let fetch = |host: &str, path: &str| raw(gate.proxy, "GET", &format!("{IDENTITY_PATH}/{path}"), &[("host", host)], b"");
    assert_eq!(fetch("x.a.test", "portals/").json()["portals"][0]["slug"], "p");
    for host in ["a.test", "x.y.a.test", "x.b.test"] {
        assert_eq!(fetch(host, "portals/").json(), json!({"portals": []}), "{host}");
        assert_eq!(fetch(host, "portals/p/").status, 404, "{host}");
    }
}

#[test]
fn assertion_keys_rotate_while_the_gate_runs() {
    let (old, new) = (Issuer::new("a"), Issuer::new("b"));
    let gate = portal()
        .file("ring.pem", old.pem())
        .config("assertion: { key_file: ring.pem }")
        .start();
    let cookie = log_in(&gate, "alice");
    let assertion = || {
        assert_eq!(with_cookie(&gate, "GET", PAGE, &cookie, &[]).status, 200);
        gate.app.last().headers["x-cedargate-assertion"].to_str().unwrap().to_owned()
    };
    let kid = |token: &str| decoded(token).0["kid"].as_str().unwrap().to_owned();
    let status = |token: &str| {
        let body = json!({"portal": "p", "token": token, "action": "GET", "resource": "Path::\"/portal/p/page\""});
        gate.ask("/authorize", &body).status
    };
    let first = assertion();
    assert_eq!((keys(&gate), status(&first)), (vec![kid(&first)], 200));
    // the new one in front, the old one still good
    gate.put("ring.pem", &format!("{}{}", new.pem(), old.pem()));
    eventually("both keys are published", || {
        (keys(&gate).len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{:?}", keys(&gate)))
    });
    let second = assertion();
    assert_ne!(
        kid(&second),
        kid(&first),
        "what the old key signed is not handed out any more"
    );
    assert_eq!(
        (keys(&gate)[0].clone(), status(&first), status(&second)),
        (kid(&second), 200, 200)
    );
    // an unusable file changes nothing
    gate.put("ring.pem", "hello");
    eventually("the bad file is reported", || {
        let metrics = gate.metrics();
        metrics
            .contains("cedargate_assertion_keys_reload_total{result=\"rejected\"} 1")
            .then_some(())
            .ok_or(metrics)
    });
    assert_eq!((keys(&gate).len(), status(&first)), (2, 200));
    gate.put("ring.pem", new.pem());
    eventually("the old key is gone", || {
        (keys(&gate).len() == 1)
            .then_some(())
            .ok_or_else(|| format!("{:?}", keys(&gate)))
    });
    assert_eq!((status(&first), status(&second), kid(&assertion())), (401, 200, kid(&second)));
}
