//! Requests with a session cookie: precedence of credentials, redirects to the login, and cookies that the app never
//! gets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::session_client::{
    HASH, IDENTITY_PATH, ORIGIN, browse, log_in, log_out, portal, set_cookie, with_accounts, with_cookie,
};
use crate::support::{OPEN_SCHEMA, PAGE, Setup, eventually, open_portal, raw};

#[test]
fn a_session_is_a_caller_and_the_app_never_sees_its_cookie() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    let answer = with_cookie(&gate, "GET", PAGE, &format!("a=1; {cookie}; b=2"), &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = gate.app.last();
    assert_eq!(seen.headers["x-forwarded-user"], "local|alice");
    assert_eq!(seen.headers["x-cedargate-tenant"], "acme");
    assert_eq!(seen.headers["x-forwarded-email"], "alice@shop.test");
    assert_eq!(seen.headers["cookie"], "a=1; b=2");
    let records = gate.records(3);
    let record = records.iter().find(|r| r["principal"]["id"] == "local|alice").unwrap();
    assert_eq!((&record["token"], &record["decision"]), (&Value::Null, &json!("allow")));
}

#[test]
fn a_bearer_token_beats_the_cookie_and_a_bad_one_is_no_fallback() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    let token = format!("Bearer {}", gate.issuer.token("carol", &[]));
    assert_eq!(
        with_cookie(&gate, "GET", PAGE, &cookie, &[("authorization", &token)]).status,
        200
    );
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "test|carol");
    let bad = with_cookie(&gate, "GET", PAGE, &cookie, &[("authorization", "Bearer x.y.z")]);
    assert_eq!((bad.status, bad.code()), (401, "token_invalid".to_owned()));
    // a bearer token needs no evidence of an origin
    assert_eq!(
        with_cookie(&gate, "POST", PAGE, &cookie, &[("authorization", &token)]).status,
        200
    );
}

#[test]
fn beside_a_session_another_scheme_is_the_apps_own_and_reaches_it() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    for scheme in ["Basic YTpi", "Token x", "ApiKey k=1, v=\"2\"", "Negotiate YII="] {
        let own = &[("authorization", scheme)][..];
        assert_eq!(with_cookie(&gate, "GET", PAGE, &cookie, own).status, 200, "{scheme}");
        let seen = gate.app.last().headers;
        assert_eq!(seen["x-forwarded-user"], "local|alice");
        assert_eq!(seen["authorization"], scheme);
        let change = with_cookie(&gate, "POST", PAGE, &cookie, own);
        assert_eq!(
            (change.status, change.code()),
            (403, "origin_mismatch".to_owned()),
            "the cookie is still the credential"
        );
        let me = with_cookie(&gate, "GET", &format!("{IDENTITY_PATH}/auth/session"), &cookie, own);
        assert_eq!(me.status, 200, "{scheme}");
        let alone = raw(gate.proxy, "GET", PAGE, own, b"");
        assert_eq!((alone.status, alone.code()), (401, "token_invalid".to_owned()), "{scheme}");
    }
    let dead = with_cookie(&gate, "GET", PAGE, "__Host-cedargate=x", &[("authorization", "Basic YTpi")]);
    assert_eq!((dead.status, dead.code()), (401, "session_missing".to_owned()));
    let two = with_cookie(
        &gate,
        "GET",
        PAGE,
        &cookie,
        &[("authorization", "Basic YTpi"), ("authorization", "Basic YTpi")],
    );
    assert_eq!(two.status, 400);
}

#[test]
fn an_authorization_header_without_a_value_proves_no_caller_and_is_no_doubt() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    for empty in ["", " ", "\t"] {
        let own = &[("authorization", empty)][..];
        assert_eq!(with_cookie(&gate, "GET", PAGE, &cookie, own).status, 200, "{empty:?}");
        assert_eq!(gate.app.last().headers["x-forwarded-user"], "local|alice");
        let me = with_cookie(&gate, "GET", &format!("{IDENTITY_PATH}/auth/session"), &cookie, own);
        assert_eq!(me.status, 200, "{empty:?}");
        let alone = raw(gate.proxy, "GET", PAGE, own, b"");
        assert_eq!((alone.status, alone.code()), (401, "token_invalid".to_owned()), "{empty:?}");
    }
    for doubtful in ["Bearer", "Bearer ", ","] {
        let refused = with_cookie(&gate, "GET", PAGE, &cookie, &[("authorization", doubtful)]);
        assert_eq!(
            (refused.status, refused.code()),
            (401, "token_invalid".to_owned()),
            "{doubtful:?}"
        );
    }
    let two = with_cookie(&gate, "GET", PAGE, &cookie, &[("authorization", ""), ("authorization", "")]);
    assert_eq!(two.status, 400);
}

#[test]
fn only_a_navigation_is_redirected_to_the_login_with_its_return_path() {
    let gate = portal().start();
    let sent = browse(&gate, "/portal/p/page?x=1&y=a%20b", "");
    assert_eq!(sent.status, 302, "{}", sent.text());
    let expected = format!("{IDENTITY_PATH}/auth/login?portal=p&rd=%2Fportal%2Fp%2Fpage%3Fx%3D1%26y%3Da%2520b");
    assert_eq!(
        (sent.header("location"), sent.header("cache-control")),
        (expected.as_str(), "no-store")
    );
    assert!(sent.body.is_empty());
    assert_eq!(browse(&gate, sent.header("location"), "").status, 200, "the login takes it");
    // a query that no link may have travels beside its path
    let sent = browse(&gate, "/portal/p/page?x=%00", "");
    assert!(sent.header("location").ends_with("rd=%2Fportal%2Fp%2Fpage"), "{sent:?}");
    let long = format!("/portal/p/page?x={}", "y".repeat(4000));
    assert!(
        browse(&gate, &long, "")
            .header("location")
            .ends_with("rd=%2Fportal%2Fp%2Fpage")
    );
    for headers in [
        &[("accept", "text/html"), ("sec-fetch-mode", "cors")][..],
        &[("accept", "application/json")],
        &[],
    ] {
        let answer = raw(gate.proxy, "GET", PAGE, headers, b"");
        assert_eq!(
            (answer.status, answer.code()),
            (401, "token_missing".to_owned()),
            "{headers:?}"
        );
        assert!(!answer.headers.contains_key("location"), "{headers:?}");
    }
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn a_portal_without_a_login_redirects_no_browser() {
    let gate = with_accounts(open_portal()).start();
    assert_eq!(browse(&gate, PAGE, "").status, 401);
}

#[test]
fn a_change_by_cookie_needs_evidence_of_the_portals_own_origin() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    for (evidence, status) in [
        (&[][..], 403),
        (&[("origin", "https://evil.test")], 403),
        (&[("origin", "null")], 403),
        (&[("sec-fetch-site", "same-site"), ("origin", ORIGIN)], 403),
        (&[("origin", ORIGIN)], 200),
        (&[("sec-fetch-site", "same-origin")], 200),
    ] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let before = gate.app.count();
            let answer = with_cookie(&gate, method, PAGE, &cookie, evidence);
            assert_eq!(answer.status, status, "{method} {evidence:?} {}", answer.text());
            assert_eq!(gate.app.count() - before, usize::from(status == 200));
            if status == 403 {
                assert_eq!(answer.code(), "origin_mismatch");
                assert!(!answer.headers.contains_key("set-cookie"), "the session is as good as before");
            }
        }
    }
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let asked = with_cookie(&gate, "GET", PAGE, &cookie, &upgrade);
    assert_eq!((asked.status, asked.code()), (403, "origin_mismatch".to_owned()));
    // on a public path a request without a credential is anonymous
    let public = with_cookie(
        &gate,
        "POST",
        "/portal/p/assets/x",
        &cookie,
        &[("origin", "https://evil.test")],
    );
    assert_eq!(public.status, 200);
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "");
}

#[test]
fn an_unusable_cookie_is_cleared_and_is_anonymous_on_public_paths() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    assert_eq!(with_cookie(&gate, "GET", "/portal/p/assets/x", &cookie, &[]).status, 200);
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "local|alice");
    assert!(log_out(&gate, &cookie).status < 400);
    let unknown = format!("__Host-cedargate={}", crate::support::b64([7; 32]));
    for (stale, codes) in [
        (cookie.as_str(), &["session_revoked", "session_missing"][..]),
        (&unknown, &["session_missing"]),
        ("__Host-cedargate=x", &["session_missing"]),
        ("__Host-cedargate=", &["session_missing"]),
        (&format!("{cookie}; {cookie}"), &["session_missing"]),
    ] {
        let answer = with_cookie(&gate, "GET", PAGE, stale, &[]);
        assert!(
            answer.status == 401 && codes.contains(&answer.code().as_str()),
            "{stale}: {}",
            answer.text()
        );
        let sent = browse(&gate, PAGE, stale);
        assert_eq!(sent.status, 302, "{stale}");
        assert!(sent.header("set-cookie").contains("Max-Age=0"), "{sent:?}");
        let public = with_cookie(&gate, "GET", "/portal/p/assets/x", stale, &[]);
        assert_eq!(public.status, 200, "{stale}");
        assert_eq!(gate.app.last().headers["x-forwarded-user"], "", "{stale}");
    }
}

#[test]
fn a_policy_that_wants_a_stronger_login_sends_a_browser_there() {
    let policy = "@id(\"all\") permit (principal, action, resource);\n\
        @id(\"mfa\") @step_up(\"urn:mfa\") forbid (principal, action, resource == Path::\"/portal/p/strong\");";
    let gate = with_accounts(Setup::portal(OPEN_SCHEMA, policy))
        .file("policies/p/portal.yaml", crate::support::session_client::PORTAL_YAML)
        .start();
    let cookie = log_in(&gate, "alice");
    let sent = browse(&gate, "/portal/p/strong", &cookie);
    let expected = format!("{IDENTITY_PATH}/auth/login?portal=p&rd=%2Fportal%2Fp%2Fstrong&acr_values=urn%3Amfa");
    assert_eq!((sent.status, sent.header("location")), (302, expected.as_str()));
    assert!(!sent.headers.contains_key("set-cookie"));
    let script = with_cookie(&gate, "GET", "/portal/p/strong", &cookie, &[]);
    assert_eq!((script.status, script.code()), (401, "step_up_required".to_owned()));
    assert!(script.header("www-authenticate").contains("acr_values=\"urn:mfa\""));
}

#[test]
fn a_portal_trusts_a_session_only_if_it_trusts_its_issuer() {
    let trusting = "portals: { p: { match: { path_prefix: /portal/p }, issuers: [local] }, q: { match: { path_prefix: /portal/q }, issuers: [test] } }";
    let gate = portal()
        .file("schemas/q.cedarschema", OPEN_SCHEMA)
        .file("policies/q/main.cedar", crate::support::OPEN_POLICY)
        .config(trusting)
        .start();
    let cookie = log_in(&gate, "alice");
    assert_eq!(with_cookie(&gate, "GET", PAGE, &cookie, &[]).status, 200);
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "alice");
    let other = with_cookie(&gate, "GET", "/portal/q/page", &cookie, &[]);
    assert_eq!((other.status, other.code()), (401, "issuer_unknown".to_owned()));
    assert!(!other.headers.contains_key("set-cookie"), "it is good elsewhere");
}

#[test]
fn a_login_that_the_portal_does_not_trust_or_that_is_not_there_is_refused_with_its_line() {
    for (login, why) in [
        ("nobody", "there is no provider `nobody`"),
        ("local", "does not trust the issuer of `local`"),
    ] {
        let gate = with_accounts(open_portal())
            .file(
                "policies/p/portal.yaml",
                &format!("title: x\nlogin: {{ provider: {login} }}\n"),
            )
            .config("portals: { p: { match: { path_prefix: /portal/p }, issuers: [test] } }")
            .start();
        let status = gate.status().to_string();
        assert!(status.contains(why) && status.contains("\"line\":2"), "{status}");
    }
}

#[test]
fn the_app_asks_with_its_users_cookie_and_an_assertion_ends_with_nothing_but_its_time() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    let body = json!({"portal": "p", "action": "GET", "resource": "Path::\"/portal/p/page\""}).to_string();
    let ask = |cookie: &str| {
        let headers = [("cookie", cookie), ("content-type", "application/json")];
        raw(gate.decision, "POST", "/authorize", &headers, body.as_bytes())
    };
    let answer = ask(&cookie);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["decision"], "allow");
    assert_eq!(ask("a=1").code(), "token_missing");
    assert!(log_out(&gate, &cookie).status < 400);
    let ended = ask(&cookie);
    assert_eq!(ended.status, 401);
    assert!(ended.code().starts_with("session_"), "{}", ended.text());
}

#[test]
fn an_account_is_valid_at_its_own_portals_only_at_every_door() {
    let users =
        format!("users:\n  alice: {{ password: '{HASH}', portals: [p] }}\n  bob: {{ password: '{HASH}', portals: [p, q] }}\n");
    let setup = portal()
        .file("users.yaml", &users)
        .file("schemas/q.cedarschema", OPEN_SCHEMA)
        .file(
            "policies/q/main.cedar",
            "@id(\"everybody\") permit (principal, action, resource);",
        )
        .file("policies/q/portal.yaml", "login: { provider: local }\n");
    let gate = setup.start();
    let (alice, bob) = (log_in(&gate, "alice"), log_in(&gate, "bob"));
    let page = "/portal/q/page";
    assert_eq!(with_cookie(&gate, "GET", PAGE, &alice, &[]).status, 200);
    assert_eq!(with_cookie(&gate, "GET", page, &bob, &[]).status, 200);
    let before = gate.app.count();
    let mint = |cookie: &str| {
        let headers = [
            ("cookie", cookie),
            ("origin", ORIGIN),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        raw(
            gate.proxy,
            "POST",
            &format!("{IDENTITY_PATH}/auth/token"),
            &headers,
            b"portal=q",
        )
        .status
    };
    let ask = |cookie: &str| {
        let body = json!({"portal": "q", "action": "GET", "resource": {"type": "Path", "id": page}}).to_string();
        let headers = [("cookie", cookie), ("content-type", "application/json")];
        raw(gate.decision, "POST", "/authorize", &headers, body.as_bytes()).status
    };
    let me = format!("{IDENTITY_PATH}/auth/session?portal=q");
    assert_eq!(
        (with_cookie(&gate, "GET", &me, &bob, &[]).status, mint(&bob), ask(&bob)),
        (200, 200, 200)
    );
    for (method, more) in [
        ("GET", vec![]),
        ("POST", vec![("origin", ORIGIN)]),
        (
            "GET",
            vec![("origin", ORIGIN), ("connection", "upgrade"), ("upgrade", "websocket")],
        ),
    ] {
        let answer = with_cookie(&gate, method, page, &alice, &more);
        assert_eq!((answer.status, answer.code().as_str()), (403, "not_permitted"), "{method}");
    }
    assert_eq!(with_cookie(&gate, "GET", &me, &alice, &[]).status, 403);
    assert_eq!((mint(&alice), ask(&alice)), (403, 200), "a decision has 200, and is a denial");
    assert_eq!(gate.app.count(), before);
}

#[test]
fn two_issuers_subjects_do_not_meet_in_what_the_app_gets() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    assert_eq!(with_cookie(&gate, "GET", PAGE, &cookie, &[]).status, 200);
    let seen = gate.app.last();
    let assertion = seen.headers["x-cedargate-assertion"].to_str().unwrap().to_owned();
    let payload = crate::support::unb64(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["issuer_subject"]),
        (&json!("local|alice"), &json!("alice"))
    );
    let ask = json!({"portal": "p", "token": assertion, "action": "GET", "resource": {"type": "Path", "id": PAGE}});
    assert_eq!(gate.authorize(&ask)["decision"], "allow");
    let me = with_cookie(
        &gate,
        "GET",
        &format!("{IDENTITY_PATH}/auth/session"),
        &cookie,
        &[("x-request-id", "abc-1")],
    );
    assert_eq!(
        (&me.json()["subject"], me.header("x-request-id")),
        (&json!("local|alice"), "abc-1")
    );
    assert!(!me.header("x-cedargate-decision-id").is_empty());
}

#[test]
fn the_gates_own_tokens_are_no_credentials_here() {
    for own in [ORIGIN, "cedargate"] {
        let mut setup = portal();
        if own == "cedargate" {
            setup.config = setup.config.replace(&format!("public_url: '{ORIGIN}'"), "public_url: null");
        }
        setup.issuers = Some(format!(
            "issuers: [{{ name: self, issuer: '{own}', audiences: ['cedargate:p'], jwks: {{ file: jwks.json }} }}]"
        ));
        let error = setup.try_start().map(drop).unwrap_err();
        assert!(
            error.contains("issuers[0].issuer") && error.contains("the gate's own"),
            "{error}"
        );
    }
}

#[test]
fn a_refused_script_does_not_clear_the_session_cookie() {
    let gate = portal().start();
    let cookie = log_in(&gate, "alice");
    assert!(log_out(&gate, &cookie).status < 400);
    let fetched = with_cookie(&gate, "GET", PAGE, &cookie, &[("sec-fetch-mode", "cors")]);
    assert_eq!((fetched.status, fetched.headers.contains_key("set-cookie")), (401, false));
    let navigated = browse(&gate, PAGE, &cookie);
    assert_eq!(navigated.status, 302);
    assert_eq!(
        set_cookie(&navigated, "__Host-cedargate").as_deref(),
        Some("__Host-cedargate=")
    );
    let me = with_cookie(&gate, "GET", &format!("{IDENTITY_PATH}/auth/session"), &cookie, &[]);
    assert_eq!(
        (me.status, set_cookie(&me, "__Host-cedargate").as_deref()),
        (401, Some("__Host-cedargate="))
    );
}

#[test]
fn a_session_of_a_key_that_is_gone_is_missing_and_goes_on_when_the_key_is_back() {
    let key = |n: u8| format!("{}\n", STANDARD.encode([n; 32]));
    let gate = portal().file("keys", &key(1)).config("sessions: { key_file: keys }").start();
    let cookie = log_in(&gate, "alice");
    gate.put("keys", &key(2));
    let refused = eventually("the session does not open any more", || {
        let answer = with_cookie(&gate, "GET", PAGE, &cookie, &[]);
        if answer.status == 401 {
            Ok(answer)
        } else {
            Err(answer.text())
        }
    });
    assert_eq!(refused.code(), "session_missing");
    let sent = browse(&gate, PAGE, &cookie);
    assert_eq!(sent.status, 302);
    assert!(set_cookie(&sent, "__Host-cedargate").is_none(), "{sent:?}");
    gate.put("keys", &(key(2) + &key(1)));
    eventually("it goes on", || {
        let answer = with_cookie(&gate, "GET", PAGE, &cookie, &[]);
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
}
