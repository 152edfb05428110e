//! Hostile targets and forged headers in front of each proxy: the app sees what the gate decided on, or nothing.
//!
//! The decision record of a request is found by the decision id that the app received with it.

use std::collections::HashMap;

use super::asking_proxies::{CONFUSING, token};
use super::front::Front;
use crate::support::{Gate, Seen, exchange};

/// Further targets; none of them may reach the app as another path than the decided one.
const HOSTILE: &[&str] = &[
    "/portal/p/open/..%2Fsecret",
    "/portal/p/open/..%2f..%2fp%2fsecret",
    "/portal/p/open/%2e%2e%2fsecret",
    "/portal/p/open/%2E%2E%5Csecret",
    "/portal/p/open/..;x=1/secret",
    "/portal/p/open/..%3b/secret",
    "/portal/p/open/.;/../secret",
    "/portal/p/open/;/../secret",
    "/portal/p/open;/../secret",
    "/portal/p/open/%2e/../secret",
    "/portal/p/open/%252e%252e%252fsecret",
    "/portal/p/open/%25252e%25252e/secret",
    "/portal/p/open/%u002e%u002e/secret",
    "/portal/p/open/%uff0e%uff0e/secret",
    "/portal/p/open/%e0%80%ae%e0%80%ae%e0%80%afsecret",
    "/portal/p/open/%c0%af..%c0%afsecret",
    "/portal/p/open/%f0%80%80%ae/secret",
    "/portal/p/open/%ef%bc%8e%ef%bc%8e/secret",
    "/portal/p/open/..%0d%0a/secret",
    "/portal/p/open/..%09/secret",
    "/portal/p/open/...//secret",
    "/portal/p/open/....//secret",
    "/portal/p/open/\\..\\secret",
    "/portal/p/open/%5c..%5csecret",
    "/portal/p/open/%2f..%2fsecret",
    "/portal/p/open///../../secret",
    "/portal/p/open/x%00/../../secret",
    "/portal/p/open/%",
    "/portal/p/open/%2",
    "/portal/p/open/%zz/../../secret",
    "/portal/p/open/?/../../secret",
    "/portal/p/open/%3f/../../secret",
    "/portal/p/open/%23/../../secret",
    "/portal/p/SECRET",
    "/PORTAL/p/secret",
    "/portal/P/secret",
    "/portal/p/%53%45%43%52%45%54",
    "/portal/p/s%65cret",
    "/portal/p/secret.",
    "/portal/p/secret%2e",
    "/portal/p/secret/.",
    "/portal/p/secret/%2e",
    "/portal/p/secret;",
    "/portal/p/secret%3bx",
    "/portal/p/secret%09",
    "/portal/p/secret%3f",
    "/portal/p/secret%23",
    "/portal/p;x/secret",
    "/portal;x/p/secret",
    "/;/portal/p/secret",
    "/./portal/p/secret",
    "/%2e/portal/p/secret",
    "/../portal/p/secret",
    "/portal/../portal/p/secret",
    "///portal/p/secret",
    "/%2fportal/p/secret",
    "/%5cportal/p/secret",
    "\\portal\\p\\secret",
    "portal/p/secret",
    "http://localhost/portal/p/secret",
    "http://localhost/portal/p/open/../secret",
    "http://localhost/portal/p/orders",
    "http://other.test/portal/p/orders",
    "HTTP://localhost:80/portal/p/orders",
    "http://user@localhost/portal/p/orders",
    "*",
    "/portal/p/sec\u{7f}ret",
    "/portal/p/secret\u{e9}",
    "/portal/p/orders?x=/portal/p/secret",
    "/portal/p/orders?x=%2e%2e%2f&x=..;/",
    "/portal/p/orders?#/../secret",
];

/// Lines with which a client states another request, another caller or another sender; each stands beside a viewer's
/// token.
const FORGED: &[&str] = &[
    "x-original-url: /portal/p/secret",
    "X-ORIGINAL-URL: http://localhost/portal/p/secret",
    "x_original_url: /portal/p/secret",
    "x.original.url: /portal/p/secret",
    "x-original-url: /portal/p/open/x\r\nx-original-url: /portal/p/secret",
    "x-original-uri: /portal/p/secret",
    "x-original-method: DELETE",
    "x-original-host: other.test",
    "x-rewrite-url: /portal/p/secret",
    "x_rewrite_url: /portal/p/secret",
    "x-request-uri: /portal/p/secret",
    "x-override-url: /portal/p/secret",
    "x-http-method: DELETE",
    "x-http-method-override: DELETE",
    "x_http_method_override: DELETE",
    "x-method-override: DELETE",
    "x-forwarded-uri: /portal/p/secret",
    "x-forwarded-uri: /portal/p/open/x\r\nx-forwarded-uri: /portal/p/secret",
    "x-forwarded-method: DELETE",
    "x-forwarded-method: GET\r\nX-Forwarded-Method: DELETE",
    "x-forwarded-host: other.test",
    "x-forwarded-proto: https, http",
    "x-envoy-original-path: /portal/p/secret",
    "x-cedargate-door-token: forged",
    "x-cedargate-portal: forged\r\nX-Cedargate-Portal: forged",
    "x-cedargate-roles: forged",
    "x_cedargate_roles: forged",
    "x-cedargate_roles: forged",
    "x-forwarded-user: forged\r\nx-forwarded-user: forged",
    "X-Forwarded-USER: forged",
    "x-forwarded_user: forged",
    "x-forwarded-user:\tforged",
    "x-forwarded-user : forged",
    "x-ignored: 1\r\n x-forwarded-user: forged",
    "connection: x-forwarded-user",
    "connection: close, X-Forwarded-User, X-Cedargate-Roles, X-Cedargate-Tenant",
    "connection: x-cedargate-assertion\r\nconnection: x-cedargate-portal",
    "connection: keep-alive, x-original-url, x-original-method, x-forwarded-uri",
    "connection: x-forwarded-uri, x-forwarded-method, x-forwarded-host, x-forwarded-for",
    "connection: authorization",
    "connection: cookie, host, x-cedargate-decision-id",
    "proxy-connection: x-forwarded-user",
    "te: trailers, x-forwarded-user",
    "trailer: x-forwarded-user",
    "upgrade: x-forwarded-user\r\nconnection: upgrade",
    "authorization: Bearer forged",
    "host: other.test",
];

/// The app's request and the gate's record of it name the same method and path.
fn is_what_was_decided(request: &Seen, records: &HashMap<String, serde_json::Value>) -> Result<(), String> {
    let id = request
        .headers
        .get("x-cedargate-decision-id")
        .ok_or("the app got no decision id")?;
    let record = records.get(id.to_str().unwrap()).ok_or("no record has the decision id")?;
    // HAProxy passes a target in absolute form on
    let target: http::Uri = request.target.parse().map_err(|_malformed| "the target is malformed")?;
    let stated = (record["http"]["method"].as_str(), record["http"]["path"].as_str());
    let decided = (stated.0, record["resource"]["id"].as_str().or(stated.1));
    let seen = (Some(request.method.as_str()), Some(target.path()));
    match record["decision"] == "allow" && stated == seen && decided == seen {
        true => Ok(()),
        false => Err(format!("the gate decided on {decided:?}")),
    }
}

fn names_no_other_request_or_caller(request: &Seen) -> Result<(), String> {
    for (name, value) in &request.headers {
        let spelled = name.as_str().replace(['_', '.'], "-");
        let value = String::from_utf8_lossy(value.as_bytes());
        // the door's token proves a proxy to the gate; no app reads it
        let is_identity =
            spelled.starts_with("x-forwarded-") || spelled.starts_with("x-cedargate-") || spelled == "authorization";
        if is_identity && spelled != "x-cedargate-door-token" && value.contains("forged") {
            return Err(format!("the app saw `{name}: {value}`"));
        }
        let replaces = spelled.starts_with("x-original-") || spelled.contains("override") || spelled == "x-http-method";
        if !value.is_empty() && (replaces || spelled == "x-rewrite-url" || spelled == "x-request-uri") {
            return Err(format!("the app saw `{name}: {value}`"));
        }
    }
    Ok(())
}

/// Sends every hostile target and forged line; `user` is the header in which the app gets the caller's name.
pub fn the_app_sees_what_was_decided(front: &Front, gate: &Gate, user: &str) {
    the_app_sees_what_was_decided_below("", front, gate, user);
}

/// The same for targets below a prefix.
pub fn the_app_sees_what_was_decided_below(prefix: &str, front: &Front, gate: &Gate, user: &str) {
    let viewer = token(gate, &["viewer"]);
    let credential = format!("authorization: {viewer}\r\n");
    let targets = CONFUSING.iter().chain(HOSTILE).map(|target| (*target, ""));
    let forged = ["/portal/p/orders", "/portal/p/secret"]
        .into_iter()
        .flat_map(|path| FORGED.iter().map(move |line| (path, *line)));
    let mut seen = Vec::new();
    for (target, line) in targets.chain(forged) {
        let before = gate.app.count();
        let end = if line.is_empty() { "" } else { "\r\n" };
        let close = if line.contains("connection:") {
            ""
        } else {
            "connection: close\r\n"
        };
        let below = if target.starts_with('/') { prefix } else { "" };
        let request = format!("GET {below}{target} HTTP/1.1\r\nhost: localhost\r\n{close}{credential}{line}{end}\r\n");
        send(front, &request);
        for request in gate.app.seen().split_off(before) {
            let caller = request.headers.get_all(user).iter().map(|value| value.to_str().unwrap());
            assert_eq!(caller.collect::<Vec<_>>(), ["alice"], "{target} {line}");
            names_no_other_request_or_caller(&request).unwrap_or_else(|error| panic!("{target} {line}: {error}"));
            seen.push((target, line, request));
        }
    }
    assert!(seen.iter().any(|(_, line, _)| line.is_empty()), "no target reached the app");
    let missing = |records: &HashMap<String, serde_json::Value>| {
        let failures = seen.iter().filter_map(|(target, line, request)| {
            let error = is_what_was_decided(request, records).err()?;
            Some(format!(
                "{target} {line}: the app saw {} {}: {error}",
                request.method, request.target
            ))
        });
        failures.collect::<Vec<_>>()
    };
    // the writer of records may be behind
    crate::support::eventually("each request of the app has its record", || {
        let records = gate.records(1).into_iter();
        let records = records.map(|record| (record["decision_id"].as_str().unwrap().to_owned(), record));
        let failures = missing(&records.collect());
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("\n"))
        }
    });
}

/// Sends a request; waits for one answer, or for the end of the connection.
fn send(front: &Front, request: &str) {
    if request.contains("connection: close\r\n") {
        drop(exchange(front.address, request.as_bytes()));
    } else {
        let mut connection = crate::support::RawConnection::open(front.address);
        connection.send(request);
        drop(connection.read_until("\r\n\r\n"));
    }
}
