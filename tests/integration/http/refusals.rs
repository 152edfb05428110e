//! Answers to refused callers: every reachable denial, as problem document, gRPC status and page.
//!
//! A refusal says its code and its decision id, which the log knows too; it never says which policy, which rule or why.

use serde_json::{Value, json};

use crate::support::{Answer, Gate, OPEN_POLICY, Setup, claims, now, raw};

const SCHEMA: &str = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant] = { n?: Long };
action GET, POST appliesTo { principal: [User], resource: [Path], context: {} };";
const POLICIES: &str = r#"
@id("secret-permit-name") permit (principal in Role::"viewer", action, resource);
@id("secret-forbid-name") @advice("Ask <b>\"Ada\"</b> & 'Bob'")
forbid (principal, action, resource == Path::"/portal/p/closed");
@id("secret-error-name") forbid (principal, action, resource == Path::"/portal/p/error")
when { principal has n && principal.n * 9223372036854775807 > 0 };
"#;

fn gate() -> Gate {
    let mut setup = Setup::portal(SCHEMA, POLICIES)
        .file("policies/broken/main.cedar", "this is no policy")
        .file("schemas/broken.cedarschema", SCHEMA)
        .file("policies/fixed/main.cedar", OPEN_POLICY)
        .file("schemas/fixed.cedarschema", SCHEMA)
        .config("portals:\n  p: { issuers: [test] }\n  broken: {}\n  fixed: { issuers: [test], tenant: { fixed: globex } }\n  away: { issuers: [away] }")
        .file("policies/away/main.cedar", OPEN_POLICY)
        .file("schemas/away.cedarschema", SCHEMA)
        .config("limits: { workers: 2, drain_timeout: 5s, body_bytes: 1KiB }");
    setup.issuers = Some(
        "issuers:\n  - { name: test, issuer: 'https://issuer.test/', audiences: [shop], jwks: { file: jwks.json } }\n  \
         - { name: away, issuer: 'https://away.test/', audiences: [shop], jwks: { url: 'http://127.0.0.1:1/' } }"
            .to_owned(),
    );
    setup.start()
}

struct Case {
    method: &'static str,
    path: &'static str,
    token: Option<String>,
    status: u16,
    code: &'static str,
    body: usize,
}

fn cases(gate: &Gate) -> Vec<Case> {
    let case = |path, claims: Option<Value>, status, code| Case {
        method: "GET",
        path,
        token: claims.map(|claims| gate.issuer.sign(&claims)),
        status,
        code,
        body: 0,
    };
    let viewer = || claims("alice", &["viewer"]);
    let set = |name: &str, value: Value| {
        let mut claims = viewer();
        claims[name] = value;
        Some(claims)
    };
    vec![
        case("/portal/p/x", None, 401, "token_missing"),
        case("/portal/p/x", set("nbf", json!(now() + 900)), 401, "token_invalid"),
        case("/portal/p/x", set("exp", json!(now() - 900)), 401, "token_expired"),
        case("/portal/p/x", set("iss", json!("https://evil.test/")), 401, "issuer_unknown"),
        case("/portal/p/x", set("aud", json!("other")), 401, "audience_mismatch"),
        case("/portal/p/x", set("roles", json!(7)), 401, "claim_invalid"),
        case("/portal/p/x", set("n", json!("seven")), 401, "claim_invalid"),
        case("/portal/p/x", Some(claims("bob", &[])), 403, "not_permitted"),
        case("/portal/p/closed", Some(viewer()), 403, "forbidden"),
        case("/portal/p/error", set("n", json!(2)), 403, "evaluation_error"),
        case("/portal/broken/x", Some(viewer()), 403, "no_policy_loaded"),
        case("/portal/fixed/x", Some(viewer()), 403, "tenant_mismatch"),
        case(
            "/portal/away/x",
            set("iss", json!("https://away.test/")),
            503,
            "key_unavailable",
        ),
        case("/portal/nowhere/x", Some(viewer()), 404, "portal_unknown"),
        case("/portal/p/a/../x", Some(viewer()), 400, "request_invalid"),
        Case {
            method: "POST",
            body: 2000,
            ..case("/portal/p/x", Some(viewer()), 413, "request_too_large")
        },
    ]
}

fn ask(gate: &Gate, case: &Case, more: &[(&str, &str)]) -> Answer {
    let authorization = case.token.as_ref().map(|token| format!("Bearer {token}"));
    let mut headers: Vec<(&str, &str)> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
    headers.extend(more);
    let answer = raw(gate.proxy, case.method, case.path, &headers, &vec![b'x'; case.body]);
    assert_eq!(gate.app.count(), 0, "{} reached the app", case.code);
    for header in ["x-request-id", "x-cedargate-decision-id"] {
        assert!(!answer.header(header).is_empty(), "{}: {header}", case.code);
    }
    assert_eq!(answer.header("cache-control"), "no-store", "{}", case.code);
    for secret in [
        "secret-",
        "permit",
        "forbid (",
        "Role::",
        "globex",
        "main.cedar",
        "9223372036854775807",
    ] {
        let text = answer
            .text()
            .replace("no policy permits this", "")
            .replace("not_permitted", "");
        assert!(!text.contains(secret), "{} tells `{secret}`: {text}", case.code);
    }
    answer
}

#[test]
fn every_denial_is_a_problem_with_its_code_and_a_decision_id_the_log_knows() {
    let gate = gate();
    let cases = cases(&gate);
    for (n, case) in cases.iter().enumerate() {
        let answer = ask(&gate, case, &[]);
        assert_eq!((answer.status, answer.code().as_str()), (case.status, case.code));
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let body = answer.json();
        let mut members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        if case.code == "forbidden" {
            assert_eq!(body["advice"], "Ask <b>\"Ada\"</b> & 'Bob'");
            members.retain(|m| *m != "advice");
        }
        if case.code == "request_invalid" {
            assert!(body["detail"].as_str().unwrap().starts_with("the path has "), "{body}");
            members.retain(|m| *m != "detail");
        }
        if ["request_too_large", "rate_limited", "overloaded"].contains(&case.code) {
            assert!(body["detail"].as_str().unwrap().contains("limits."), "{body}");
            members.retain(|m| *m != "detail");
        }
        members.sort_unstable();
        assert_eq!(members, ["code", "decision_id", "status", "title", "type"], "{}", case.code);
        assert_eq!(body["type"], format!("urn:cedargate:denial:{}", case.code));
        assert_eq!(body["decision_id"], answer.header("x-cedargate-decision-id"));
        assert_eq!(
            answer.headers.contains_key("www-authenticate"),
            case.status == 401,
            "{}",
            case.code
        );
        assert_eq!(
            answer.headers.contains_key("retry-after"),
            case.status == 503,
            "{}",
            case.code
        );
        let record = gate.records(n + 1).remove(n);
        assert_eq!(record["decision_id"], body["decision_id"]);
        assert_eq!(record["http"]["status"], case.status);
        if case.status != 413 {
            assert_eq!((&record["decision"], &record["reason"]), (&json!("deny"), &json!(case.code)));
        }
    }
    let metrics = gate.metrics();
    for case in cases.iter().filter(|case| case.status != 413) {
        let reason = format!("reason=\"{}\"}}", case.code);
        assert!(
            metrics
                .lines()
                .any(|l| l.starts_with("cedargate_decisions_total{decision=\"deny\"") && l.contains(&reason)),
            "{}",
            case.code
        );
    }
}

#[test]
fn a_grpc_caller_gets_trailers_only_with_the_status_in_its_own_numbers() {
    let gate = gate();
    for case in cases(&gate) {
        let answer = ask(
            &gate,
            &case,
            &[("content-type", "application/grpc+proto"), ("te", "trailers")],
        );
        let expected = match case.status {
            400 => "3",
            401 => "16",
            403 => "7",
            404 => "12",
            413 => "8",
            _ => "14",
        };
        assert_eq!(
            (answer.status, answer.header("grpc-status")),
            (200, expected),
            "{}",
            case.code
        );
        assert_eq!(answer.header("grpc-message"), case.code);
        assert_eq!(answer.header("content-type"), "application/grpc");
        assert!(answer.body.is_empty());
    }
}

#[test]
fn a_browser_that_navigates_gets_a_page_for_every_refusal_and_fetch_gets_json() {
    let gate = gate();
    let navigation = [
        ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
        ("sec-fetch-mode", "navigate"),
    ];
    for case in cases(&gate) {
        let answer = ask(&gate, &case, &navigation);
        assert_eq!(answer.status, case.status, "{}", case.code);
        if case.method != "GET" {
            assert_eq!(answer.header("content-type"), "application/problem+json", "{}", case.code);
            continue;
        }
        let html = answer.text();
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        let policy = answer.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(html.contains(answer.header("x-cedargate-decision-id")), "{html}");
        assert!(!html.contains("<b>") && !html.contains("<script"), "{html}");
        if case.code == "forbidden" {
            assert!(
                html.contains("Ask &lt;b&gt;&quot;Ada&quot;&lt;/b&gt; &amp; &#39;Bob&#39;"),
                "{html}"
            );
        }
        for fetch in [
            [("accept", "text/html"), ("sec-fetch-mode", "cors")],
            [("accept", "application/json"), ("sec-fetch-mode", "navigate")],
        ] {
            assert_eq!(ask(&gate, &case, &fetch).code(), case.code);
        }
    }
    // no browser sends a form with a token
    let viewer = format!("Bearer {}", gate.issuer.token("bob", &[]));
    let answer = raw(
        gate.proxy,
        "POST",
        "/portal/p/x",
        &[("authorization", &viewer), navigation[0], navigation[1]],
        b"",
    );
    assert_eq!((answer.status, answer.code().as_str()), (403, "not_permitted"));
}

#[test]
fn nothing_of_the_request_is_reflected_in_a_refusal() {
    let gate = gate();
    let marker = "m4rk3r";
    let path = format!("/portal/p/{marker}?{marker}");
    let headers = [
        ("host", "m4rk3r.test"),
        ("authorization", "Bearer m4rk3r.m4rk3r.m4rk3r"),
        ("x-request-id", "m4rk3r m4rk3r"),
        ("x-cedargate-decision-id", marker),
        ("traceparent", marker),
        ("cookie", marker),
    ];
    for accept in ["application/json", "text/html"] {
        let mut all = headers.to_vec();
        all.push(("accept", accept));
        let answer = raw(gate.proxy, "GET", &path, &all, b"");
        assert_eq!(answer.status, 401);
        assert!(!format!("{answer:?}").contains(marker), "{answer:?}");
    }
}
