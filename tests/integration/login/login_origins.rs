//! Portals at several hosts: every portal's login, logout and same-origin checks stay at the portal's own origin.

use serde_json::json;
use url::Url;

use crate::support::login_gate::{SECRET, alice};
use crate::support::openid::user_agent::query;
use crate::support::openid::{Browser, Provider, Request};
use crate::support::processes::free_port;
use crate::support::session_client::IDENTITY_PATH;
use crate::support::{Gate, OPEN_SCHEMA, Setup, raw};

const POLICY: &str = "@id(\"open\") permit (principal, action, resource);";

struct HostsGate {
    gate: Gate,
    port: u16,
}

/// Two portals that log in at the provider. `portals` is the section of that name; `{port}` in it is the gate's port.
fn start(provider: &Provider, portals: &str) -> HostsGate {
    let port = free_port();
    let mut setup = Setup::empty();
    for slug in ["p", "q"] {
        setup = setup
            .file(&format!("schemas/{slug}.cedarschema"), OPEN_SCHEMA)
            .file(&format!("policies/{slug}/main.cedar"), POLICY)
            .file(&format!("policies/{slug}/portal.yaml"), "login: { provider: corp }\n");
    }
    setup.issuers = Some(format!(
        "issuers: [{{ name: corp, issuer: '{}', audiences: [api], leeway: 5s }}]",
        provider.issuer()
    ));
    let portals = portals.replace("{port}", &port.to_string());
    let gate = setup
        .config(&format!(
            "public_url: 'http://localhost:{port}'\nportals: {portals}\nsessions: {{ danger_insecure_cookie: true }}\n\
             listen: {{ proxy: {{ address: '127.0.0.1:{port}' }}, decision: null, admin: {{ address: '127.0.0.1:0' }} }}\n\
             login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret: {SECRET}, scopes: [openid, email] }} }} }}"
        ))
        .start();
    let origins = ["localhost", "127.0.0.1", "acme.localhost", "globex.localhost"].map(|host| format!("http://{host}:{port}"));
    let callbacks: Vec<String> = origins
        .iter()
        .map(|origin| format!("{origin}{IDENTITY_PATH}/auth/callback"))
        .collect();
    let after_logout: Vec<String> = origins.iter().map(|origin| format!("{origin}/")).collect();
    provider.client(&json!({
        "client_id": "gate", "client_secret": SECRET, "redirect_uris": callbacks, "post_logout_redirect_uris": after_logout,
        "grant_types": ["authorization_code", "refresh_token"],
    }));
    provider.account("alice", &alice(&["viewer"]));
    HostsGate { gate, port }
}

impl HostsGate {
    fn url(&self, host: &str, path: &str) -> Url {
        Url::parse(&format!("http://{host}:{}{path}", self.port)).unwrap()
    }

    /// Logs in and out with a fresh browser. The page is at `host`; the browser must come back to `own`.
    fn log_in_and_out(&self, host: &str, own: &str, path: &str) {
        let mut browser = Browser::new();
        let page = browser.log_in(self.url(host, path).as_str(), "alice");
        assert_eq!((page.status, &page.url), (200, &self.url(own, path)), "{page:?}");
        let authorization = browser.hops.iter().find_map(|hop| query(&hop.url, "redirect_uri")).unwrap();
        assert_eq!(
            authorization,
            self.url(own, &format!("{IDENTITY_PATH}/auth/callback")).as_str()
        );
        // an old browser sends `Origin` alone
        let logout = self.url(own, &format!("{IDENTITY_PATH}/auth/logout"));
        let cookies = browser.cookies_for(&logout);
        let other = ["localhost", "127.0.0.1", "acme.localhost"]
            .into_iter()
            .find(|other| *other != own);
        for (origin, status) in [(other.unwrap(), 403), ("evil.test", 403), (own, 200)] {
            let origin = self.url(origin, "/").origin().ascii_serialization();
            let host = format!("{own}:{}", self.port);
            for target in [path.to_owned(), format!("{IDENTITY_PATH}/auth/refresh")] {
                let headers = [
                    ("host", host.as_str()),
                    ("cookie", cookies.as_str()),
                    ("origin", origin.as_str()),
                ];
                let answer = raw(self.gate.proxy, "POST", &target, &headers, b"");
                assert_eq!(answer.status, status, "{origin} {target}: {}", answer.text());
            }
        }
        let out = browser.send(&logout, &Request::navigation("same-origin").form(&[]));
        let there = out.location().unwrap();
        assert_eq!(
            query(&there, "post_logout_redirect_uri").as_deref(),
            Some(self.url(own, "/").as_str())
        );
    }
}

#[test]
fn a_portal_at_a_configured_host_logs_in_and_out_at_that_host() {
    let provider = Provider::start();
    let gate = start(
        &provider,
        "{ p: { match: { hosts: [localhost] } }, q: { match: { hosts: ['127.0.0.1', '*.localhost'] } } }",
    );
    gate.log_in_and_out("localhost", "localhost", "/portal/p/x?a=b");
    gate.log_in_and_out("127.0.0.1", "127.0.0.1", "/portal/q/x?a=b");
    gate.log_in_and_out("acme.localhost", "acme.localhost", "/portal/q/x");
    gate.log_in_and_out("globex.localhost", "globex.localhost", "/portal/q/x");
    // a link to the login at another portal's host begins at the portal's own
    let mut browser = Browser::new();
    let link = format!("{IDENTITY_PATH}/auth/login?portal=q&rd=/portal/q/y");
    let page = browser.log_in(gate.url("localhost", &link).as_str(), "alice");
    assert_eq!((page.status, page.url), (200, gate.url("127.0.0.1", "/portal/q/y")));
}

#[test]
fn a_portals_public_url_is_its_one_origin() {
    let provider = Provider::start();
    let gate = start(
        &provider,
        "{ p: { public_url: 'http://127.0.0.1:{port}' }, q: { public_url: 'http://acme.localhost:{port}', match: { hosts: [localhost, acme.localhost] } } }",
    );
    gate.log_in_and_out("localhost", "127.0.0.1", "/portal/p/x?a=b");
    gate.log_in_and_out("localhost", "acme.localhost", "/portal/q/x?a=b");
    gate.log_in_and_out("acme.localhost", "acme.localhost", "/portal/q/x");
    // a proxy in front that replaces the host does not make the browser go round in circles
    let link = format!("{IDENTITY_PATH}/auth/login?portal=p&rd=/portal/p/x");
    let navigation = [
        ("accept", "text/html"),
        ("sec-fetch-mode", "navigate"),
        ("host", "pod.internal"),
    ];
    let first = raw(gate.gate.proxy, "GET", &link, &navigation, b"");
    let moved = Url::parse(first.header("location")).unwrap();
    assert_eq!((first.status, moved.host_str()), (303, Some("127.0.0.1")), "{first:?}");
    let second = raw(gate.gate.proxy, "GET", &moved[url::Position::BeforePath..], &navigation, b"");
    assert!(second.header("location").starts_with(&provider.issuer()), "{second:?}");
}

#[test]
fn a_free_host_header_never_becomes_part_of_a_redirect() {
    let provider = Provider::start();
    let gate = start(&provider, "{ p: {}, q: { match: { hosts: ['127.0.0.1', '*.localhost'] } } }");
    for (host, own) in [
        ("evil.test", "localhost"),
        ("localhost", "localhost"),
        ("127.0.0.1", "localhost"),
    ] {
        let navigation = [("accept", "text/html"), ("host", host)];
        let link = format!("{IDENTITY_PATH}/auth/login?portal=p");
        let answer = raw(gate.gate.proxy, "GET", &link, &navigation, b"");
        let redirect_uri = query(&Url::parse(answer.header("location")).unwrap(), "redirect_uri").unwrap();
        assert_eq!(
            redirect_uri,
            gate.url(own, &format!("{IDENTITY_PATH}/auth/callback")).as_str()
        );
    }
    for host in ["evil.test", "a.b.localhost", "localhost"] {
        let link = format!("{IDENTITY_PATH}/auth/login?portal=q");
        let answer = raw(gate.gate.proxy, "GET", &link, &[("host", host), ("accept", "text/html")], b"");
        assert_eq!(answer.status, 303);
        assert!(
            answer.header("location").starts_with(gate.url("127.0.0.1", "/").as_str()),
            "{answer:?}"
        );
    }
}

#[test]
fn a_login_that_could_not_come_back_is_an_error_before_it_is_tried() {
    let taken = "portals: { p: { match: { path_prefix: / } }, q: { match: { hosts: [shop.test], path_prefix: / } } }\n";
    let setup = |portals: &str| {
        Setup::portal(OPEN_SCHEMA, POLICY)
            .file("policies/p/portal.yaml", "title: Shop\nlogin: { provider: local }\n")
            .file("schemas/q.cedarschema", OPEN_SCHEMA)
            .file("policies/q/main.cedar", POLICY)
            .file("users.yaml", "users: {}\n")
            .config(&format!(
                "public_url: 'https://shop.test'\n{portals}login: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}"
            ))
    };
    let error = setup("portals: { p: { public_url: 'https://elsewhere.test', match: { hosts: [shop.test] } } }\n").try_start();
    let error = error.err().unwrap();
    assert!(
        error.contains("portals.p.public_url") && error.contains("match.hosts"),
        "{error}"
    );
    // `portal.yaml` says that browsers log in, so its revision is refused with the reason
    let gate = setup(taken).start();
    let status = gate.status().to_string();
    assert!(
        status.contains("portal `q`") && status.contains("policies/p/portal.yaml"),
        "{status}"
    );
}
