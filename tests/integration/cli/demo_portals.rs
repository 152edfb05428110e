//! The demo as people see it: two portals, a login for each person, orders that only the app knows, a second factor.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::readme_examples::Demo;
use crate::support::session_client::set_cookie;
use crate::support::{Answer, eventually, raw};

const NAVIGATION: [(&str, &str); 2] = [("accept", "text/html,*/*;q=0.8"), ("sec-fetch-mode", "navigate")];
const LOGIN: &str = "/api/v1/identity/auth/login";

/// A demo over a copy of the policy tree, with small pages of its own.
struct Portals {
    demo: Demo,
    folder: tempfile::TempDir,
}

/// A browser's session.
struct Session<'a> {
    portals: &'a Portals,
    cookie: String,
}

impl Portals {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .args(["-r", "policies", "schemas"])
            .arg(folder.path())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(copied.success());
        for slug in ["customer", "admin"] {
            let assets = folder.path().join("dist").join(slug).join("assets");
            std::fs::create_dir_all(&assets).unwrap();
            std::fs::write(assets.join("app-1a2b.js"), format!("// {slug}")).unwrap();
            std::fs::write(assets.join("../index.html"), format!("<!doctype html><title>{slug}</title>")).unwrap();
        }
        std::fs::write(folder.path().join("secret.txt"), "secret").unwrap();
        let (tree, pages) = (folder.path().to_owned(), folder.path().join("dist"));
        let demo = Demo::start_with(&["--dir", tree.to_str().unwrap(), "--portals", pages.to_str().unwrap()]);
        Self { demo, folder }
    }

    fn address(&self) -> SocketAddr {
        self.demo.proxy().parse().unwrap()
    }

    /// The password that the table of people shows.
    fn password(&self, name: &str) -> &str {
        let row = self.demo.after(&format!("{name} "));
        row.split_once("password ").unwrap().1.split_whitespace().next().unwrap()
    }

    fn code(&self, name: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
            .args(["user", "code", name, "--file", self.demo.after("users ")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Submits the form of a login link; returns its page and the answer.
    fn submit(&self, link: &str, fields: &str, cookie: &str) -> (String, Answer) {
        let host = format!("localhost:{}", self.address().port());
        let mut headers = NAVIGATION.to_vec();
        headers.extend([("host", host.as_str()), ("cookie", cookie)]);
        let form = raw(self.address(), "GET", link, &headers, b"");
        let page = form.text();
        assert_eq!(form.status, 200, "{page}");
        let hidden = |name: &str| {
            let value = page.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap();
            value.split('"').next().unwrap().replace("&#x2f;", "/")
        };
        let body = format!(
            "provider=local&portal={}&rd={}&token={}&{fields}",
            hidden("portal"),
            hidden("rd"),
            hidden("token")
        );
        let login = set_cookie(&form, "cedargate-login").unwrap();
        let headers = [
            ("host", host.as_str()),
            ("cookie", login.as_str()),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let done = raw(
            self.address(),
            "POST",
            "/api/v1/identity/auth/local",
            &headers,
            body.as_bytes(),
        );
        (page, done)
    }

    fn log_in(&self, name: &str, portal: &str) -> Session<'_> {
        let link = format!("{LOGIN}?portal={portal}&rd=/portal/{portal}/");
        let (_, done) = self.submit(&link, &format!("name={name}&password={}", self.password(name)), "");
        assert_eq!(done.status, 303, "{name}: {}", done.text());
        Session {
            portals: self,
            cookie: set_cookie(&done, "cedargate").unwrap(),
        }
    }
}

impl Session<'_> {
    fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let headers = [
            ("cookie", self.cookie.as_str()),
            ("sec-fetch-site", "same-origin"),
            ("accept", "application/json"),
            ("content-type", "application/json"),
        ];
        raw(self.portals.address(), method, path, &headers, body.as_bytes())
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "")
    }

    fn order_ids(&self) -> Vec<String> {
        let orders = self.get("/portal/customer/orders").json();
        let ids = orders["orders"].as_array().unwrap().iter();
        ids.map(|order| order["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_new_order_is_seen_by_its_tenant_and_changed_by_its_owner_alone() {
    let portals = Portals::start();
    let (alice, bob, gina) = (
        portals.log_in("alice", "customer"),
        portals.log_in("bob", "customer"),
        portals.log_in("gina", "customer"),
    );
    assert_eq!(alice.order_ids(), ["7", "9", "10"]);
    assert_eq!(gina.order_ids(), ["8"]);
    let placed = bob.send(
        "POST",
        "/portal/customer/orders",
        r#"{"items":[{"product":"tea","quantity":2},{"product":"cup","quantity":1}]}"#,
    );
    let order = placed.json();
    assert_eq!(placed.status, 201, "{order}");
    assert_eq!(
        (&order["owner"], &order["tenant"], &order["total"], &order["status"]),
        (&json!("bob"), &json!("acme"), &json!(2100), &json!("open"))
    );
    let path = format!("/portal/customer/orders/{}", order["id"].as_str().unwrap());
    assert_eq!(bob.get(&path).json(), order);
    assert_eq!(alice.get(&path).status, 200, "the tenant's viewers see it");
    let change = r#"{"items":[{"product":"honey","quantity":3}]}"#;
    for (session, who) in [(&alice, "another user of the tenant"), (&gina, "another tenant")] {
        for method in ["PUT", "DELETE"] {
            let refused = session.send(method, &path, change);
            assert_eq!(refused.status, 403, "{who} {method}: {}", refused.text());
            assert_eq!(refused.header("content-type"), "application/problem+json");
            assert!(refused.json()["decision_id"].is_string());
        }
    }
    assert_eq!(gina.get(&path).status, 403);
    assert_eq!(
        alice.send("POST", "/portal/customer/orders", "").status,
        403,
        "a viewer places none"
    );
    assert_eq!(bob.send("PUT", &path, change).json()["total"], 2460);
    assert_eq!(bob.send("DELETE", &path, "").status, 204);
    assert_eq!(bob.get(&path).json()["status"], "cancelled");
    assert_eq!(bob.send("PUT", &path, change).status, 409);
    assert_eq!(bob.get("/portal/customer/orders/4711").status, 404);
    assert_eq!(bob.get("/portal/customer/orders/007").status, 404);
    for (bad, why) in [
        ("{", "no JSON"),
        (r#"{"items":[]}"#, "no item"),
        (r#"{"items":[{"product":"tea","quantity":0}]}"#, "no piece"),
        (r#"{"items":[{"product":"tea","quantity":1.5}]}"#, "half a piece"),
        (
            r#"{"items":[{"product":"<script>alert(1)</script>","quantity":1}]}"#,
            "no product",
        ),
        (r#"{"items":[{"product":"tea","quantity":1}],"owner":"alice"}"#, "an owner"),
    ] {
        let refused = bob.send("POST", "/portal/customer/orders", bad);
        assert_eq!(refused.status, 400, "{why}");
        assert!(!refused.text().contains("<script>"), "{why}");
    }
}

#[test]
fn an_administrator_suspends_an_account_after_a_second_factor() {
    let portals = Portals::start();
    let ada = portals.log_in("ada", "admin");
    let accounts = ada.get("/portal/admin/accounts").json();
    let ids: Vec<&str> = accounts["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["alice", "bob", "ada", "otto"], "gina is of another tenant");
    let suspend = "/portal/admin/accounts/bob/suspend";
    let refused = ada.send("POST", suspend, "");
    assert_eq!((refused.status, &refused.json()["code"]), (401, &json!("step_up_required")));
    assert!(refused.header("www-authenticate").contains("acr_values=\"mfa\""));
    let link = format!("{LOGIN}?portal=admin&rd=/portal/admin/accounts/bob&acr_values=mfa&login_hint=ada%22%3E");
    let fields = |code: &str| format!("name=ada&password={}&code={code}", portals.password("ada"));
    let (page, wrong) = portals.submit(&link, &fields("000000"), &ada.cookie);
    assert!(page.contains("name=\"code\"") && page.contains("required"), "{page}");
    // who it is about, and why
    assert!(
        page.contains("value=\"ada&quot;&gt;\"") && page.contains("needs a second factor"),
        "{page}"
    );
    assert_eq!(wrong.status, 401, "{}", wrong.text());
    let code = portals.code("ada");
    let (_, done) = portals.submit(&link, &fields(&code), &ada.cookie);
    assert_eq!((done.status, done.header("location")), (303, "/portal/admin/accounts/bob"));
    let ada = Session {
        portals: &portals,
        cookie: set_cookie(&done, "cedargate").unwrap(),
    };
    let suspended = ada.send("POST", suspend, "");
    assert_eq!((suspended.status, &suspended.json()["status"]), (200, &json!("suspended")));
    assert_eq!(
        ada.send("POST", "/portal/admin/accounts/ada/suspend", "").status,
        403,
        "not her own"
    );
    assert_eq!(
        ada.send("POST", "/portal/admin/accounts/gina/suspend", "").status,
        403,
        "no other tenant's"
    );
    let (_, again) = portals.submit(&link, &fields(&code), &ada.cookie);
    assert_eq!(again.status, 401, "a code counts once");
}

#[test]
fn an_auditor_reads_the_decisions_of_the_tenant_and_nothing_else() {
    let portals = Portals::start();
    let gina = portals.log_in("gina", "customer");
    assert_eq!(gina.get("/portal/customer/orders/8").status, 200);
    let alice = portals.log_in("alice", "customer");
    assert_eq!(alice.send("POST", "/portal/customer/orders", "").status, 403);
    let otto = portals.log_in("otto", "admin");
    let report = "/portal/admin/reports/decisions?limit=5";
    let rows = eventually("alice's refusal is in the report", || {
        let rows = otto.get(report).json()["decisions"].clone();
        let is_refusal = |row: &&Value| row["principal"] == "alice" && row["decision"] == "deny";
        let found = rows.as_array().unwrap().iter().find(is_refusal).cloned();
        found.map(|row| (row, rows.clone())).ok_or_else(|| rows.to_string())
    });
    assert_eq!(
        (&rows.0["reason"], &rows.0["portal"], &rows.0["resource"]),
        (
            &json!("not_permitted"),
            &json!("customer"),
            &json!("Path::\"/portal/customer/orders\"")
        )
    );
    let all = otto.get("/portal/admin/reports/decisions?limit=200").text();
    assert!(!all.contains("gina"), "another tenant's decisions: {all}");
    for bad in ["0", "201", "x", "5&limit=6"] {
        assert_eq!(
            otto.get(&format!("/portal/admin/reports/decisions?limit={bad}")).status,
            400,
            "{bad}"
        );
    }
    assert_eq!(otto.get("/portal/admin/accounts").status, 403);
    assert_eq!(alice.get("/portal/admin/reports/decisions").status, 403);
    assert_eq!(otto.get("/portal/admin/").status, 200, "the first page");
}

#[test]
fn navigations_get_the_page_and_every_caller_gets_its_files_alone() {
    let portals = Portals::start();
    let bob = portals.log_in("bob", "customer");
    let navigate = |path: &str| {
        let mut headers = NAVIGATION.to_vec();
        headers.push(("cookie", bob.cookie.as_str()));
        raw(portals.address(), "GET", path, &headers, b"")
    };
    for path in [
        "/portal/customer/",
        "/portal/customer/orders",
        "/portal/customer/orders/9/edit",
    ] {
        let page = navigate(path);
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        assert!(page.text().contains("<title>customer</title>"), "{path}");
        let policy = page.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(page.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(navigate("/portal/admin/").status, 403, "the gate's own page");
    let public = |path: &str| raw(portals.address(), "GET", path, &[], b"");
    for slug in ["customer", "admin"] {
        let script = public(&format!("/portal/{slug}/assets/app-1a2b.js"));
        assert_eq!((script.status, script.text()), (200, format!("// {slug}")));
        assert!(script.header("content-type").starts_with("text/javascript"));
        assert!(script.header("cache-control").contains("immutable"));
    }
    for path in [
        "/portal/customer/assets/none.js",
        "/portal/customer/assets/",
        "/portal/customer/assets/.env",
    ] {
        assert_eq!(public(path).status, 404, "{path}");
    }
    for path in [
        "/portal/customer/assets/../../secret.txt",
        "/portal/customer/assets/..%2f..%2f..%2fsecret.txt",
        "/portal/customer/assets/%2e%2e/%2e%2e/%2e%2e/secret.txt",
    ] {
        let answer = public(path);
        assert!(
            answer.status >= 400 && !answer.text().contains("secret\n"),
            "{path}: {}",
            answer.text()
        );
    }
    let data = bob.get("/portal/customer/orders");
    assert_eq!(data.header("content-type"), "application/json");
    assert_eq!(data.header("x-content-type-options"), "nosniff");
}

#[test]
fn the_program_carries_the_built_pages_of_the_repository() {
    let demo = Demo::start_with(&["--dir", env!("CARGO_MANIFEST_DIR")]);
    let address: SocketAddr = demo.proxy().parse().unwrap();
    for slug in ["customer", "admin"] {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("packages/examples/portals/dist/{slug}/assets"));
        let mut served = 0;
        for file in std::fs::read_dir(&assets).unwrap().map(Result::unwrap) {
            let path = format!("/portal/{slug}/assets/{}", file.file_name().display());
            let answer = raw(address, "GET", &path, &[], b"");
            assert_eq!(
                (answer.status, &answer.body[..]),
                (200, &std::fs::read(file.path()).unwrap()[..]),
                "{path}"
            );
            served += 1;
        }
        assert!(served >= 2, "a script and a style sheet");
    }
}

#[test]
fn a_flag_changes_while_the_demo_runs() {
    let portals = Portals::start();
    let public = || raw(portals.address(), "GET", "/api/v1/identity/portals/customer/", &[], b"").json();
    assert_eq!(public()["flags"]["new_checkout"], true, "{}", public());
    let file = portals.folder.path().join("policies/customer/portal.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("new_checkout: { value: true", "new_checkout: { value: false"),
    )
    .unwrap();
    eventually("the flag is off", || {
        let flags = public()["flags"].clone();
        if flags["new_checkout"] == false {
            Ok(())
        } else {
            Err(flags.to_string())
        }
    });
}

#[test]
fn a_folder_without_portals_is_a_usage_error() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .args(["demo", "--port", "0", "--dir", env!("CARGO_MANIFEST_DIR"), "--portals"])
        .arg(empty.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("index.html"));
}
