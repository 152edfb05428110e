//! `cedargate workbench`: who may open it, and its pages in a real browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::binary::cedargate;
use crate::support::chromium::Chromium;
use crate::support::{eventually, put};

/// A workbench over a folder; ends with the test.
pub struct Bench {
    child: Child,
    pub url: String,
    pub host: String,
}

impl Bench {
    pub fn start(folder: &Path, more: &[&str]) -> Self {
        let mut child = cedargate(&[&["workbench", "."], more].concat())
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        Self {
            child,
            host: host.unwrap_or_else(|| panic!("no address: `{url}`")).to_owned(),
            url,
        }
    }

    /// The most memory that the workbench had in use so far.
    pub fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        1024 * line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    }

    /// Sends one request over a connection of its own: status, head, body.
    fn raw(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        if !headers.iter().any(|(name, _)| *name == "host") {
            request.push_str(&format!("host: {}\r\n", self.host));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        self.raw(&format!("{request}\r\n{body}"))
    }

    /// The cookie that the first visit sets.
    pub fn cookie(&self) -> String {
        let target = self.url.split_once(&self.host).unwrap().1;
        let (status, head, _) = self.ask("GET", target, &[], "");
        assert_eq!(status, 303, "{head}");
        let line = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        assert!(line.contains("httponly") && line.contains("samesite=strict"), "{line}");
        line.split(';').next().unwrap().to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The example portals of this repository.
pub fn example() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["policies", "schemas"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(part), &folder.path().join(part));
    }
    folder
}

pub fn browser(folder: &Path) -> Chromium {
    Chromium::start(&folder.join("profile"))
}

/// Waits until a JavaScript expression is true; a failure shows the expression, the address and the page's text.
pub fn holds(browser: &mut Chromium, expression: &str) {
    let state = format!("({expression}) ? 'true' : {expression:?} + '\\n' + location.hash + '\\n' + document.body.innerText");
    browser.waits(&state, "true");
}

/// Goes to a page of the workbench that is open, and waits until nothing is computed any more.
pub fn page(browser: &mut Chromium, hash: &str, heading: &str) {
    // what the old page shows does not count: the next one replaces its element
    browser.eval(&format!(
        "(() => {{ const [view, old] = [document.querySelector('main .page'), location.hash]; location.hash = {}; \
         if (location.hash !== old) view?.setAttribute('data-left', ''); }})()",
        Value::from(hash)
    ));
    holds(browser, "document.querySelector('main [data-left]') === null");
    holds(
        browser,
        &format!("document.querySelector('main h1')?.textContent === {}", Value::from(heading)),
    );
    holds(browser, "document.querySelector('main .wait') === null");
}

#[test]
fn only_the_printed_address_opens_the_workbench() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    assert!(bench.host.starts_with("127.0.0.1:"), "{}", bench.host);
    let token = bench.url.split_once("token=").unwrap().1;
    assert!(token.len() >= 32, "{token}");
    let cookie = bench.cookie();
    let with = |more: &[(&str, &str)]| {
        let headers: Vec<(&str, &str)> = [("cookie", cookie.as_str())]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        bench.ask("GET", "/api/tree", &headers, "").0
    };
    assert_eq!(with(&[]), 200);
    assert_eq!(with(&[("host", "rebound.attacker.test")]), 421);
    assert_eq!(with(&[("host", &bench.host.replace("127.0.0.1", "localhost"))]), 421);
    assert_eq!(with(&[("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(with(&[("sec-fetch-site", "same-site")]), 403, "another port of loopback");
    assert_eq!(with(&[("origin", "http://attacker.test")]), 403);
    for (path, status) in [
        ("/", 403),
        ("/api/tree", 403),
        ("/workbench.js", 403),
        ("/?token=0123456789abcdef", 403),
    ] {
        let (found, head, body) = bench.ask("GET", path, &[], "");
        assert_eq!(found, status, "{path}: {body}");
        assert!(!head.contains("set-cookie"), "{path}");
    }
    let question = r#"{"question": {"portal": "customer"}}"#;
    let post = |headers: &[(&str, &str)]| {
        let headers: Vec<(&str, &str)> = [("cookie", cookie.as_str())]
            .into_iter()
            .chain(headers.iter().copied())
            .collect();
        bench.ask("POST", "/api/explain", &headers, question).0
    };
    assert_eq!(post(&[("content-type", "text/plain")]), 400);
    assert_eq!(post(&[("content-type", "application/json")]), 400);
    assert_eq!(
        post(&[("content-type", "application/json"), ("x-cedargate-workbench", "1")]),
        422
    );
    for method in ["OPTIONS", "PUT", "DELETE"] {
        assert_eq!(
            bench.ask(method, "/api/explain", &[("cookie", &cookie)], "").0,
            405,
            "{method}"
        );
    }
    let (_, head, _) = bench.ask("GET", "/", &[("cookie", &cookie)], "");
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cross-origin-opener-policy: same-origin",
        "cross-origin-resource-policy: same-origin",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(!head.contains("access-control"), "{head}");
}

#[test]
fn chromium_shows_every_page_in_both_schemes_and_at_every_width() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    for (hash, heading) in [
        ("#/overview", "Overview"),
        ("#/matrix?portal=customer", "Matrix"),
        ("#/explain?portal=customer&case=2", "Explain"),
        ("#/tests", "Tests"),
        ("#/changes", "Changes"),
    ] {
        for (scheme, width) in [("light", 1360), ("dark", 1360), ("light", 320)] {
            browser.look(scheme, width, 900);
            page(&mut browser, hash, heading);
            let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert!(overflow.as_i64().unwrap() <= 1, "{hash} at {width}: {overflow}");
            browser.screenshot(&format!("workbench-{heading}-{scheme}-{width}"));
        }
    }
    page(&mut browser, "#/<img src=x>", "No such page");
    holds(&mut browser, "document.querySelector('main img') === null");
    holds(&mut browser, "document.querySelectorAll('main li a').length > 4");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn an_open_page_follows_the_files() {
    let folder = example();
    let bench = Bench::start(folder.path(), &[]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    page(&mut browser, "#/matrix?portal=customer&find=viewProduct", "Matrix");
    holds(&mut browser, "document.querySelector('td.allow') !== null");
    put(
        folder.path(),
        "policies/customer/closed.cedar",
        "@id(\"closed\")\nforbid (principal, action == Action::\"viewProduct\", resource);\n",
    );
    holds(
        &mut browser,
        "document.querySelector('td.allow') === null && document.querySelector('td.deny') !== null",
    );
    put(folder.path(), "policies/customer/closed.cedar", "forbid (");
    page(&mut browser, "#/overview", "Overview");
    holds(
        &mut browser,
        "document.querySelector('main').innerText.includes('policies/customer/closed.cedar')",
    );
    std::fs::remove_dir_all(folder.path().join("policies")).unwrap();
    eventually("the page says that there is no tree", || {
        let text = browser.eval("document.querySelector('main').innerText");
        match text.as_str().unwrap().contains("cannot be read") {
            true => Ok(()),
            false => Err(text.to_string()),
        }
    });
}
