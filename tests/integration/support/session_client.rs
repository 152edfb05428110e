//! A portal with local accounts, and a client that logs in there and sends its session cookie.

use std::net::SocketAddr;

use serde_json::Value;

use super::{Answer, Gate, PAGE, Setup, eventually, open_portal, raw};

/// Hash of the password `password`, with parameters that are cheap to check.
pub const HASH: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
pub const ORIGIN: &str = "https://shop.test";
/// Prefix of the gate's own login and identity endpoints.
pub const IDENTITY_PATH: &str = "/api/v1/identity";

/// Accounts of alice and bob.
pub fn users() -> String {
    format!(
        "users:\n  alice: {{ password: '{HASH}', tenant: acme, roles: [viewer], name: Alice, email: alice@shop.test }}\n\
         \x20 bob: {{ password: '{HASH}', tenant: acme, roles: [viewer] }}\n"
    )
}

/// A portal `p` where users of a file log in.
pub fn with_accounts(setup: Setup) -> Setup {
    setup.file("users.yaml", &users()).config(&format!(
        "public_url: '{ORIGIN}'\nlogin: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}"
    ))
}

pub const PORTAL_YAML: &str = "title: Shop\nlogin: { provider: local }\npublic: [ \"GET /portal/p/assets/**\", \"POST /portal/p/assets/**\" ]\n\
    flags: { beta: { value: true, public: true }, secret: true }\n";

pub fn portal() -> Setup {
    with_accounts(open_portal()).file("policies/p/portal.yaml", PORTAL_YAML)
}

/// A navigation of a browser.
pub fn browse(gate: &Gate, path: &str, cookie: &str) -> Answer {
    let mut headers = vec![("accept", "text/html"), ("sec-fetch-mode", "navigate")];
    if !cookie.is_empty() {
        headers.push(("cookie", cookie));
    }
    raw(gate.proxy, "GET", path, &headers, b"")
}

pub fn with_cookie(gate: &Gate, method: &str, path: &str, cookie: &str, more: &[(&str, &str)]) -> Answer {
    let headers: Vec<_> = [("cookie", cookie)].into_iter().chain(more.iter().copied()).collect();
    raw(gate.proxy, method, path, &headers, b"")
}

/// The `name=value` of a cookie that an answer sets.
pub fn set_cookie(answer: &Answer, name: &str) -> Option<String> {
    let set = answer.headers.get_all("set-cookie").iter();
    let mut pairs = set.filter_map(|value| value.to_str().ok()?.split(';').next());
    pairs.find(|pair| pair.starts_with(&format!("{name}="))).map(str::to_owned)
}

/// Logs a user in as a browser does; returns the session cookie.
pub fn log_in(gate: &Gate, name: &str) -> String {
    log_in_at(gate.proxy, name)
}

pub fn log_in_at(proxy: SocketAddr, name: &str) -> String {
    log_in_below(proxy, name, IDENTITY_PATH)
}

/// Logs in at a gate with this `identity.prefix`.
pub fn log_in_below(proxy: SocketAddr, name: &str, prefix: &str) -> String {
    let navigation = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];
    let form = raw(
        proxy,
        "GET",
        &format!("{prefix}/auth/login?portal=p&rd={PAGE}"),
        &navigation,
        b"",
    );
    assert_eq!(form.status, 200, "{}", form.text());
    let login = set_cookie(&form, "__Host-cedargate-login").unwrap();
    let text = form.text();
    let token = text
        .split("name=\"token\" value=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let body = format!("provider=local&portal=p&rd={PAGE}&name={name}&password=password&token={token}");
    let headers = [
        ("cookie", login.as_str()),
        ("origin", ORIGIN),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let done = raw(proxy, "POST", &format!("{prefix}/auth/local"), &headers, body.as_bytes());
    assert_eq!((done.status, done.header("location")), (303, PAGE), "{}", done.text());
    set_cookie(&done, "__Host-cedargate").unwrap()
}

pub fn log_out(gate: &Gate, cookie: &str) -> Answer {
    with_cookie(
        gate,
        "POST",
        &format!("{IDENTITY_PATH}/auth/logout"),
        cookie,
        &[("origin", ORIGIN)],
    )
}

/// Waits for the first auth event for which `is` returns true.
pub fn auth_event(gate: &Gate, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let text = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap_or_default();
        let all: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut found = all.into_iter().filter(|record| record["kind"] == "auth_event");
        found.find(&is).ok_or_else(|| "no such event".to_owned())
    })
}
