//! Local accounts over the wire and in Chromium: the form, wrong passwords, what a page looks like and may do.

use serde_json::{Value, json};

use crate::support::chromium::Chromium;
use crate::support::openid::{MockProvider, Provider};
use crate::support::processes::free_port;
use crate::support::session_client::HASH;
use crate::support::{Answer, Gate, OPEN_SCHEMA, PAGE, Setup, eventually, raw};

const LOGIN: &str = "/api/v1/identity/auth/login?portal=p&rd=/portal/p/x?a=b";
const POLICY: &str = "@id(\"viewers\") permit (principal in Role::\"viewer\", action, resource);
@id(\"closed\") @advice(\"Ask the boss.\") forbid (principal, action, resource in Path::\"/portal/p/closed\");";

fn users() -> String {
    format!(
        "users:\n  alice: {{ password: \"{HASH}\", roles: [viewer], tenant: acme, name: Alice }}\n  eve: {{ password: \"{HASH}\", disabled: true, roles: [viewer] }}\n  \
         mallory: {{ password: \"{HASH}\", roles: [viewer], portals: [other] }}\n"
    )
}

fn setup(port: u16) -> Setup {
    Setup::portal(OPEN_SCHEMA, POLICY)
        .file("policies/p/portal.yaml", "title: \"Shop <b>&\\\"x\\\"</b>\"\nlogin: { provider: local }\n")
        .file("users.yaml", &users())
        .config(&format!(
            "public_url: 'http://localhost:{port}'\nlisten: {{ proxy: {{ address: '127.0.0.1:{port}' }}, decision: null, admin: {{ address: '127.0.0.1:0' }} }}\n\
             sessions: {{ danger_insecure_cookie: true }}\nlogin: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}\n\
             identity: {{ title: 'Acme <i>&' }}\nlimits: {{ workers: 2, rate_login: {{ requests: 50, per: 1m }} }}"
        ))
}

fn start() -> Gate {
    setup(free_port()).start()
}

/// A minimal browser.
struct Browser<'a> {
    gate: &'a Gate,
    cookies: Vec<(String, String)>,
}

impl<'a> Browser<'a> {
    fn new(gate: &'a Gate) -> Self {
        Self {
            gate,
            cookies: Vec::new(),
        }
    }

    fn send(&mut self, method: &str, path: &str, more: &[(&str, &str)], body: &str) -> Answer {
        let cookie = self
            .cookies
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect::<Vec<_>>()
            .join("; ");
        let mut headers = vec![("accept", "text/html")];
        if !cookie.is_empty() {
            headers.push(("cookie", cookie.as_str()));
        }
        headers.extend(more);
        let answer = raw(self.gate.proxy, method, path, &headers, body.as_bytes());
        for set in answer.headers.get_all("set-cookie") {
            let (name, rest) = set.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !rest.contains("Max-Age=0") {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }

    fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    /// The form's hidden fields.
    fn form(&mut self) -> Vec<(String, String)> {
        let page = self.send("GET", LOGIN, &[], "");
        assert_eq!(page.status, 200, "{}", page.text());
        hidden(&page.text())
    }

    fn post(&mut self, fields: &[(String, String)], more: &[(&str, &str)]) -> Answer {
        let body: String = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded")];
        headers.extend(more);
        self.send("POST", "/api/v1/identity/auth/local", &headers, &body)
    }

    fn log_in(&mut self, name: &str, password: &str) -> Answer {
        let mut fields = self.form();
        fields.push(("name".to_owned(), name.to_owned()));
        fields.push(("password".to_owned(), password.to_owned()));
        self.post(&fields, &[SAME])
    }
}

const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");

fn hidden(page: &str) -> Vec<(String, String)> {
    let fields = page.split("<input type=\"hidden\" name=\"").skip(1);
    let unescaped = |text: &str| text.replace("&quot;", "\"").replace("&lt;", "<").replace("&amp;", "&");
    let field = |rest: &str| {
        let (name, rest) = rest.split_once("\" value=\"").unwrap();
        (name.to_owned(), unescaped(rest.split('"').next().unwrap()))
    };
    fields.map(field).collect()
}

fn events(gate: &Gate, count: usize) -> Vec<Value> {
    eventually("the events are written", || {
        let text = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap_or_default();
        let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let auth: Vec<Value> = all.filter(|event| event["kind"] == "auth_event").collect();
        if auth.len() >= count { Ok(auth) } else { Err(text) }
    })
}

#[test]
fn a_local_login_gives_a_session_that_the_portal_takes() {
    let gate = start();
    let mut browser = Browser::new(&gate);
    let answer = browser.log_in("alice", "password");
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, "/portal/p/x?a=b"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("cache-control"), "no-store");
    let first = browser.cookie("cedargate").unwrap();
    let page = browser.send("GET", PAGE, &[], "");
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(
        gate.app.last().headers.get("cookie").is_none(),
        "the app sees no cookie of the gate"
    );
    // a second login replaces the first
    assert_eq!(browser.log_in("alice", "password").status, 303);
    assert_ne!(browser.cookie("cedargate").unwrap(), first);
    let old = raw(gate.proxy, "GET", PAGE, &[("cookie", &format!("cedargate={first}"))], b"");
    assert_eq!(old.status, 401, "the session before is over");
    let event = &events(&gate, 2)[0];
    assert_eq!(
        (
            &event["event"],
            &event["result"],
            &event["subject"],
            &event["provider"],
            &event["tenant"]
        ),
        (
            &json!("login"),
            &json!("success"),
            &json!("alice"),
            &json!("local"),
            &json!("acme")
        )
    );
    assert!(
        gate.metrics()
            .contains("cedargate_logins_total{provider=\"local\",result=\"success\"} 2")
    );
}

#[test]
fn a_navigation_to_an_opaque_path_can_log_in() {
    let gate = setup(free_port())
        .file(
            "policies/p/portal.yaml",
            "login: { provider: local }\npaths: { opaque: [/portal/p/files] }\n",
        )
        .start();
    for (path, back) in [
        ("/portal/p/files/a?x=1", "%2Fportal%2Fp%2Ffiles%2Fa%3Fx%3D1"),
        ("/portal/p/files/a%2Fb?x=1", "%2Fportal%2Fp"),
        ("/portal/p/files//b", "%2Fportal%2Fp"),
        ("/portal/p/files/caf\u{e9}", "%2Fportal%2Fp%2Ffiles%2Fcaf%25C3%25A9"),
    ] {
        let mut browser = Browser::new(&gate);
        let answer = browser.send("GET", path, &[], "");
        let location = answer.header("location").to_owned();
        assert_eq!(
            location.replace("cut=1&", ""),
            format!("/api/v1/identity/auth/login?portal=p&rd={back}"),
            "{path}"
        );
        assert_eq!(browser.send("GET", &location, &[], "").status, 200, "{path}");
    }
}

#[test]
fn every_wrong_login_is_answered_alike_and_begins_no_session() {
    let gate = start();
    let mut texts = Vec::new();
    for (name, password) in [
        ("alice", "guess-1234"),
        ("eve", "password"),
        ("mallory", "password"),
        ("nobody", "password"),
    ] {
        let mut browser = Browser::new(&gate);
        let answer = browser.log_in(name, password);
        assert_eq!((answer.status, browser.cookie("cedargate")), (401, None), "{name}");
        let text = answer.text();
        assert!(
            text.contains("role=\"alert\"") && text.contains(&format!("value=\"{name}\"")) && !text.contains("guess-1234"),
            "{text}"
        );
        let without: Vec<String> = text
            .replace(name, "")
            .split("name=\"token\"")
            .map(|part| part.split_once("\"><label").map_or(part, |(_, rest)| rest).to_owned())
            .collect();
        texts.push(without);
    }
    assert!(texts.windows(2).all(|two| two[0] == two[1]), "{texts:#?}");
    let events = events(&gate, 4);
    assert!(events.iter().all(|event| event["reason"] == "credentials_invalid"));
    assert_eq!(
        (&events[0]["subject"], &events[3]["subject"]),
        (&json!("alice"), &Value::Null)
    );
    assert!(!format!("{events:?}").contains("guess-1234"), "no password is recorded");
}

#[test]
fn a_form_from_another_site_or_browser_begins_no_session() {
    let gate = start();
    let mut victim = Browser::new(&gate);
    victim.form();
    let mut attacker = Browser::new(&gate);
    let mut fields = attacker.form();
    fields.extend([("name", "alice"), ("password", "password")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    for evidence in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "null")],
        &[("origin", "http://evil.test")],
    ] {
        let answer = attacker.post(&fields, evidence);
        assert_eq!(
            (answer.status, answer.code()),
            (403, "origin_mismatch".to_owned()),
            "{evidence:?}"
        );
    }
    // the attacker's form in the victim's browser
    let answer = victim.post(&fields, &[SAME]);
    assert_eq!((answer.status, victim.cookie("cedargate")), (400, None));
    assert!(answer.text().contains("took too long"), "{}", answer.text());
    // and in one that has no cookie
    let mut bare = Browser::new(&gate);
    assert_eq!(bare.post(&fields, &[SAME]).status, 400);
    assert!(bare.cookie("cedargate-login").is_some(), "the form shown again can be used");
    // fields that no form of ours has
    for (name, value) in [
        ("rd", "//evil.test"),
        ("rd", "https://evil.test"),
        ("portal", "q"),
        ("provider", "x"),
        ("rd", "/api/v1/identity/auth/logout"),
    ] {
        let mut changed = fields.clone();
        changed
            .iter_mut()
            .filter(|(n, _)| n == name)
            .for_each(|(_, v)| value.clone_into(v));
        assert_eq!(attacker.post(&changed, &[SAME]).status, 400, "{name}={value}");
    }
    let mut redirected = fields.clone();
    redirected
        .iter_mut()
        .filter(|(n, _)| n == "rd")
        .for_each(|(_, v)| "/elsewhere".clone_into(v));
    let answer = attacker.post(&redirected, &[SAME]);
    assert!(
        answer.text().contains("took too long"),
        "a form is for one place: {}",
        answer.text()
    );
    assert_eq!(attacker.post(&fields, &[SAME]).status, 303, "the control");
}

#[test]
fn text_from_outside_never_becomes_markup() {
    let gate = start();
    let mut browser = Browser::new(&gate);
    let page = browser.send("GET", LOGIN, &[], "");
    let text = page.text();
    assert!(
        text.contains("Shop &lt;b&gt;&amp;&quot;x&quot;&lt;/b&gt;") && text.contains("Acme &lt;i&gt;&amp;"),
        "{text}"
    );
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cross-origin-opener-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.header(name), value);
    }
    let answer = browser.log_in("\"><script>alert(1)</script>", "x");
    assert!(
        !answer.text().contains("<script") && answer.text().contains("&quot;&gt;&lt;script&gt;"),
        "{}",
        answer.text()
    );
}

#[test]
fn a_removed_account_loses_its_session_within_a_moment() {
    let gate = start();
    let mut browser = Browser::new(&gate);
    assert_eq!(browser.log_in("alice", "password").status, 303);
    assert_eq!(browser.send("GET", PAGE, &[], "").status, 200);
    gate.put("users.yaml", &users().replace("roles: [viewer]", "roles: [clerk]"));
    // the newest of so many
    let revocation = |reason: &str, count: usize| {
        eventually("the revocation is recorded", || {
            let events = events(&gate, 1);
            let is_it = |e: &&Value| e["event"] == "revocation" && e["subject"] == "alice" && e["reason"] == reason;
            let found: Vec<&Value> = events.iter().filter(is_it).collect();
            let last = found.last().filter(|_| found.len() == count);
            last.map(|&event| event.clone()).ok_or_else(|| format!("{events:?}"))
        })
    };
    let changed = revocation("account_changed", 1);
    assert_eq!(
        (&changed["result"], &changed["provider"], &changed["issuer"]),
        (&json!("success"), &json!("local"), &json!("local"))
    );
    assert_eq!(browser.send("GET", PAGE, &[], "").status, 302, "to the login");
    gate.put("users.yaml", &users());
    revocation("account_changed", 2);
    assert_eq!(browser.log_in("alice", "password").status, 303);
    assert_eq!(browser.send("GET", PAGE, &[], "").status, 200);
    gate.put("users.yaml", "users: {}\n");
    eventually("the session is over", || {
        match browser.send("GET", PAGE, &[("accept", "application/json")], "").status {
            200 => Err("still in".to_owned()),
            _ => Ok(()),
        }
    });
    revocation("account_removed", 1);
    assert_eq!(browser.log_in("alice", "password").status, 401);
    assert!(
        gate.metrics()
            .contains("cedargate_users_reload_total{provider=\"local\",result=\"success\"} 3")
    );
}

#[test]
fn a_logo_that_is_no_image_is_a_start_error() {
    let setup = setup(free_port()).file("logo.txt", "no image");
    let config = setup.config.replace("title: 'Acme <i>&'", "title: Acme, logo: logo.txt");
    let error = Setup { config, ..setup }.try_start().err().unwrap();
    assert!(
        error.contains("identity.logo") && error.contains("neither a PNG nor an SVG"),
        "{error}"
    );
}

/// Contrast of every visible text (WCAG 2.2, 1.4.3), labels, one heading, a language, no overflow.
const CHECKS: &str = r#"(() => {
  const found = [];
  const number = c => c.match(/[\d.]+/g).map(Number);
  const lum = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = e => { for (; e; e = e.parentElement) { const c = number(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
    if (own || e.tagName == 'INPUT' && e.type != 'hidden') {
      const r = ratio(number(getComputedStyle(e).color), behind(e));
      if (r < 4.5) found.push(`contrast ${r.toFixed(2)} of ${e.outerHTML.slice(0, 80)}`);
    }
    if (e.tagName == 'INPUT' && e.type != 'hidden') {
      if (!e.labels.length) found.push('no label: ' + e.outerHTML);
      if (!e.autocomplete) found.push('no autocomplete: ' + e.outerHTML);
      const border = ratio(number(getComputedStyle(e).borderTopColor), behind(e.parentElement));
      if (border < 3) found.push('border contrast ' + border.toFixed(2));
    }
    if (e.matches('button, input:not([type=hidden]), .button, .portals a') && e.getBoundingClientRect().height < 24) found.push('small target');
    for (const a of ['aria-describedby', 'aria-labelledby']) if (e.hasAttribute(a) && !document.getElementById(e.getAttribute(a))) found.push(a + ' leads nowhere');
  }
  if (document.querySelectorAll('h1').length != 1) found.push('not one h1');
  if (!document.documentElement.lang) found.push('no lang');
  if (!document.title) found.push('no title');
  if (!document.querySelector('main')) found.push('no main');
  if (document.querySelector('script')) found.push('a script');
  if (document.documentElement.scrollWidth > innerWidth) found.push(`scrolls sideways: ${document.documentElement.scrollWidth} > ${innerWidth}`);
  return found;
})()"#;

/// In both schemes, wide, at 320 pixels, and at 200 % of a small window.
fn check(browser: &mut Chromium, name: &str) {
    for scheme in ["light", "dark"] {
        for (size, width, height) in [("wide", 1024, 720), ("narrow", 320, 640)] {
            browser.look(scheme, width, height);
            assert_eq!(browser.eval(CHECKS), json!([]), "{name} {scheme} {size}");
            browser.screenshot(&format!("{name}-{scheme}-{size}"));
        }
        browser.look(scheme, 640, 480);
        browser.eval("document.documentElement.style.fontSize = '200%'");
        assert_eq!(browser.eval(CHECKS), json!([]), "{name} {scheme} zoomed");
        browser.eval("document.documentElement.style.fontSize = ''");
    }
    browser.look("light", 1024, 720);
}

#[test]
fn chromium_logs_in_and_out_by_keyboard_alone() {
    let gate = start();
    let origin = format!("http://localhost:{}", gate.proxy.port());
    let mut browser = Chromium::start(&gate.path("profile"));
    browser.open(&format!("{origin}{LOGIN}"));
    assert_eq!(browser.heading(), "Log in");
    browser.focuses("name");
    check(&mut browser, "login");
    browser.type_text("alice");
    browser.press("Tab");
    browser.focuses("password");
    browser.type_text("wrong");
    browser.press("Enter");
    browser.arrived("/api/v1/identity/auth/local");
    assert_eq!(
        browser.eval("document.querySelector('[role=alert] strong').textContent"),
        "Name or password is wrong."
    );
    assert_eq!(browser.eval("document.getElementById('name').value"), "alice");
    browser.focuses("password");
    check(&mut browser, "wrong");
    browser.type_text("password");
    browser.press("Tab");
    browser.focuses("submit");
    let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "the focus can be seen");
    browser.press("Enter");
    browser.arrived("/portal/p/x?a=b");
    assert!(browser.heading().contains("recording"));
    browser.open(&format!("{origin}/portal/p/closed"));
    assert_eq!(browser.heading(), "Access denied");
    assert!(
        browser
            .eval("document.body.innerText")
            .as_str()
            .unwrap()
            .contains("Ask the boss.")
    );
    check(&mut browser, "denied");
    // the browser itself logs a page's 401 and 403 to the console; the app's page has no icon
    let expected = ["status of 401", "status of 403", "/favicon.ico"];
    browser
        .complaints
        .retain(|text| !expected.iter().any(|known| text.contains(known)));
    assert_eq!(browser.complaints, Vec::<String>::new());
    browser.open(&format!("{origin}/portal/p/x"));
    let status = browser.eval("fetch('/api/v1/identity/auth/logout', { method: 'POST' }).then(r => r.status)");
    assert_eq!(status, 204);
    let status = browser.eval("fetch('/portal/p/x').then(r => r.status)");
    assert_eq!(status, 401, "logged out");
    // the way of a page with a button
    submit_logout(&mut browser);
    browser.arrived("/api/v1/identity/auth/logout");
    assert_eq!(browser.heading(), "Logged out");
    check(&mut browser, "logged-out");
    browser.open(&format!("{origin}/api/v1/identity/portals/"));
    assert_eq!(browser.heading(), "Choose a portal");
    check(&mut browser, "chooser");
    browser.press("Tab");
    browser.focuses("/portal/p");
    browser.press("Enter");
    browser.arrived("/api/v1/identity/auth/login?portal=p&rd=%2Fportal%2Fp");
    assert_eq!(browser.heading(), "Log in");
    browser.open(&format!("{origin}/api/v1/identity/auth/callback?state=x&code=y"));
    assert_eq!(browser.heading(), "The login took too long");
    check(&mut browser, "failure");
}

fn submit_logout(browser: &mut Chromium) {
    browser.eval(
        "(() => { document.body.innerHTML = '<form method=post action=/api/v1/identity/auth/logout></form>'; document.forms[0].submit(); })()",
    );
}

#[test]
fn chromium_logs_in_at_a_real_provider_and_out_there_too() {
    let provider = Provider::start();
    let port = free_port();
    let origin = format!("http://localhost:{port}");
    let mut setup = setup(port).file("policies/p/portal.yaml", "login: { provider: corp }\n");
    setup.issuers = Some(format!(
        "issuers: [{{ name: corp, issuer: '{}', audiences: [api] }}]",
        provider.issuer()
    ));
    setup.config = setup.config.replace(
        "providers: {",
        "providers: { corp: { issuer: corp, client_id: gate, client_secret: its-secret, scopes: [openid] },",
    );
    provider.client(&json!({
        "client_id": "gate", "client_secret": "its-secret",
        "redirect_uris": [format!("{origin}/api/v1/identity/auth/callback")],
        "post_logout_redirect_uris": [format!("{origin}/")],
        "grant_types": ["authorization_code", "refresh_token"],
    }));
    provider.account("alice", &json!({"tenant": "acme", "roles": ["viewer"]}));
    let gate = setup.start();
    let mut browser = Chromium::start(&gate.path("profile"));
    browser.open(&format!("{origin}/portal/p/x?a=b"));
    let at_provider = |browser: &mut Chromium| {
        let elsewhere = format!("location.origin !== '{origin}' ? document.readyState : location.href");
        browser.waits(&elsewhere, "complete");
    };
    at_provider(&mut browser);
    browser.eval("document.getElementById('login').focus()");
    browser.type_text("alice");
    browser.press("Enter");
    browser.arrived("/portal/p/x?a=b");
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "corp|alice");
    // out by the button of a page that denies
    browser.open(&format!("{origin}/portal/p/closed"));
    assert_eq!(browser.heading(), "Access denied");
    check(&mut browser, "denied-at-provider");
    while browser.focus() != "submit" {
        browser.press("Tab");
    }
    browser.press("Enter");
    at_provider(&mut browser);
    let session = raw(gate.proxy, "GET", "/portal/p/x", &[("accept", "application/json")], b"");
    assert_eq!(session.status, 401);
    browser.click("document.querySelector('button[name=logout]')");
    browser.arrived("/");
    assert_eq!(browser.heading(), "Logged out");
    browser.open(&format!("{origin}/"));
    assert_eq!(browser.heading(), "Choose a portal");
    let expected = ["status of 401", "status of 403", "/favicon.ico"];
    browser
        .complaints
        .retain(|text| !expected.iter().any(|known| text.contains(known)));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn chromium_keeps_the_fragment_of_an_address_across_a_login_without_questions() {
    let mock = MockProvider::start("alice", &json!({"tenant": "acme", "roles": ["viewer"]}));
    let port = free_port();
    let origin = format!("http://localhost:{port}");
    let mut setup = setup(port).file("policies/p/portal.yaml", "login: { provider: corp }\n");
    setup.issuers = Some(format!(
        "issuers: [{{ name: corp, issuer: '{}', audiences: [api] }}]",
        mock.issuer()
    ));
    setup.config = setup.config.replace(
        "providers: {",
        "providers: { corp: { issuer: corp, client_id: gate, client_secret: its-secret, scopes: [openid] },",
    );
    let gate = setup.start();
    let mut browser = Chromium::start(&gate.path("profile"));
    for (query, fragment) in [("", "#part"), ("?text=one%0Atwo&f={\"a\":1}", "#/orders/7?tab=2")] {
        browser.call("Network.clearBrowserCookies", json!({}));
        browser.open(&format!("{origin}/portal/p/x{query}{fragment}"));
        let written = query.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
        browser.arrived(&format!("/portal/p/x{written}"));
        assert_eq!(browser.eval("location.hash"), fragment);
    }
}

#[test]
fn chromium_shows_every_refusal_as_a_readable_page() {
    let gate = setup(free_port())
        .file("schemas/api.cedarschema", OPEN_SCHEMA)
        .file(
            "policies/api/main.cedar",
            "@id(\"viewers\") permit (principal in Role::\"viewer\", action, resource);",
        )
        .start();
    let origin = format!("http://localhost:{}", gate.proxy.port());
    let mut browser = Chromium::start(&gate.path("profile"));
    let long = format!("/portal/p/x?q={}", "a".repeat(33 * 1024));
    for (path, heading, name) in [
        ("/nowhere", "Page not found", "not-found"),
        ("/portal/p/a//b", "This address does not work", "bad-address"),
        ("/portal/api/x", "Please log in", "no-login"),
        ("/api/v1/identity/auth/refresh", "This address does not work", "no-visits"),
        ("/api/v1/identity/auth/logout", "Log out?", "log-out"),
        (long.as_str(), "Address or cookies are too long", "too-long"),
    ] {
        browser.open(&format!("{origin}{path}"));
        assert_eq!(browser.heading(), heading);
        check(&mut browser, name);
    }
    // the button of the page logs out
    browser.open(&format!("{origin}/api/v1/identity/auth/logout"));
    browser.press("Tab");
    browser.focuses("submit");
    browser.press("Enter");
    browser.shows("Logged out");
    // a form that is too large for the gate, and one without a session
    browser.open(&format!("{origin}/nowhere"));
    browser.eval(
        "(() => { document.body.innerHTML = '<form method=post action=/portal/p/x></form>'; document.forms[0].submit(); })()",
    );
    browser.shows("Please log in");
    check(&mut browser, "form-without-session");
}
