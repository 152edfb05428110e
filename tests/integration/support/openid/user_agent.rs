//! A browser as far as logging in needs one: cookies, redirects one hop at a time, forms, and the headers that say
//! what a request is for.
//!
//! Every host is this machine: only the port of a URL counts for connecting. Cookies belong to host *and* port, as if
//! gate and provider had hosts of their own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use url::Url;

use crate::support::{now, parse};

/// Redirects in a row before something is wrong.
const HOPS_MAX: usize = 20;

/// A cookie as it was set.
#[derive(Clone, Debug)]
pub struct Cookie {
    pub name: String,
    pub value: String,
    pub path: String,
    pub domain: Option<String>,
    pub is_secure: bool,
    pub is_http_only: bool,
    /// The attribute as written; `None`: the browser's default, `Lax`.
    pub same_site: Option<String>,
    /// Unix seconds; `None`: until the browser closes.
    pub expires: Option<i64>,
    origin: (String, u16),
}

/// One exchange.
#[derive(Clone, Debug)]
pub struct Hop {
    pub method: String,
    pub url: Url,
    /// The request head that the browser sent.
    pub sent: Vec<(String, String)>,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Hop {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    /// The target of its redirect.
    pub fn location(&self) -> Option<Url> {
        let is_redirect = matches!(self.status, 301 | 302 | 303 | 307 | 308);
        is_redirect.then(|| self.url.join(self.header("location")).unwrap())
    }

    pub fn set_cookies(&self) -> Vec<String> {
        let all = self.headers.get_all("set-cookie").iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    /// A parameter of the URL.
    pub fn query(&self, name: &str) -> Option<String> {
        query(&self.url, name)
    }
}

pub fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// Fields as `application/x-www-form-urlencoded`.
pub fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

/// A request without its cookies.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A click or an address typed in; `site`: `none`, `same-origin`, `same-site` or `cross-site`.
    pub fn navigation(site: &str) -> Self {
        Self::new(
            "GET",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            ["navigate", "document", site],
        )
    }

    /// A script of the same origin.
    pub fn fetch(method: &str) -> Self {
        Self::new(method, "*/*", ["cors", "empty", "same-origin"])
    }

    fn new(method: &str, accept: &str, [mode, dest, site]: [&str; 3]) -> Self {
        let request = Self {
            method: method.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        request
            .header("accept", accept)
            .header("sec-fetch-mode", mode)
            .header("sec-fetch-dest", dest)
            .header("sec-fetch-site", site)
    }

    /// Adds or replaces.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        self.method = "POST".to_owned();
        self.body = form(fields).into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }
}

/// The meaning of `Secure` without TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loopback {
    /// Loopback is good enough for `Secure` cookies, as in Chromium and Firefox.
    Trusted,
    Plain,
}

#[derive(Clone, Debug)]
pub struct Browser {
    pub cookies: Vec<Cookie>,
    /// Everything so far.
    pub hops: Vec<Hop>,
    loopback: Loopback,
    tls: Option<Arc<ClientConfig>>,
}

impl Browser {
    pub fn new() -> Self {
        Self::on(Loopback::Trusted)
    }

    pub fn on(loopback: Loopback) -> Self {
        Self {
            cookies: Vec::new(),
            hops: Vec::new(),
            loopback,
            tls: None,
        }
    }

    /// Trusts an authority, in PEM, for `https`.
    pub fn trusting(mut self, pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        self.tls = Some(Arc::new(config));
        self
    }

    /// One exchange, with the cookies that belong there; what it sets is kept.
    pub fn send(&mut self, url: &Url, request: &Request) -> Hop {
        let mut sent = request.headers.clone();
        sent.push((
            "host".to_owned(),
            url[url::Position::BeforeHost..url::Position::AfterPort].to_owned(),
        ));
        let cookies = self.cookies_for(url);
        if !cookies.is_empty() {
            sent.push(("cookie".to_owned(), cookies));
        }
        if request.method != "GET" {
            sent.push(("origin".to_owned(), url.origin().ascii_serialization()));
            sent.push(("content-length".to_owned(), request.body.len().to_string()));
        }
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut bytes = format!("{} {target} HTTP/1.1\r\nconnection: close\r\n", request.method);
        for (name, value) in &sent {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        let bytes = [bytes.as_bytes(), b"\r\n", &request.body].concat();
        let received = self.exchange(url, &bytes);
        let answer = parse(&received).unwrap_or_else(|| panic!("no answer from {url}"));
        let hop = Hop {
            method: request.method.clone(),
            url: url.clone(),
            sent,
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
        };
        for text in hop.set_cookies() {
            self.keep(url, &text);
        }
        self.hops.push(hop.clone());
        hop
    }

    /// Opens an address and follows its redirects to the first page.
    pub fn open(&mut self, url: &str) -> Hop {
        let hop = self.send(&Url::parse(url).unwrap(), &Request::navigation("none"));
        self.follow(hop)
    }

    /// Follows redirects to the first page.
    pub fn follow(&mut self, hop: Hop) -> Hop {
        self.follow_until(hop, |_| false)
    }

    /// Follows redirects up to the first whose target `is_enough`; that one is not sent.
    pub fn follow_until(&mut self, mut hop: Hop, is_enough: impl Fn(&Url) -> bool) -> Hop {
        let mut site = "same-origin";
        for _ in 0..HOPS_MAX {
            let Some(next) = hop.location().filter(|next| !is_enough(next)) else {
                return hop;
            };
            // once cross-site, a chain of redirects stays so
            if next.origin() != hop.url.origin() {
                site = "cross-site";
            }
            hop = self.send(&next, &Request::navigation(site));
        }
        panic!("more than {HOPS_MAX} redirects, the last to {}", hop.url);
    }

    /// Fills in the page's only form, keeping its hidden fields; does not follow.
    pub fn submit(&mut self, page: &Hop, fields: &[(&str, &str)]) -> Hop {
        let text = page.text();
        let action = attribute(&text, "<form", "action").unwrap_or_else(|| panic!("no form: {text}"));
        let hidden: Vec<(String, String)> = text
            .split("<input")
            .skip(1)
            .filter(|input| attribute(input, "", "type").as_deref() == Some("hidden"))
            .filter_map(|input| {
                Some((
                    attribute(input, "", "name")?,
                    attribute(input, "", "value").unwrap_or_default(),
                ))
            })
            .collect();
        let mut all: Vec<(&str, &str)> = hidden.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        all.extend(fields);
        let request = Request::navigation("same-origin").form(&all);
        self.send(&page.url.join(&action).unwrap(), &request)
    }

    /// Opens an address that needs a login, logs in, and returns the page after it.
    pub fn log_in(&mut self, url: &str, account: &str) -> Hop {
        let page = self.open(url);
        let hop = self.submit(&page, &[("login", account)]);
        self.follow(hop)
    }

    pub fn cookie(&self, name: &str) -> Option<&Cookie> {
        self.cookies.iter().find(|cookie| cookie.name == name)
    }

    /// Drops session cookies, like a browser that is closed and opened again.
    pub fn restart(&mut self) {
        self.cookies.retain(|cookie| cookie.expires.is_some());
    }

    /// The `cookie` header for a URL.
    pub fn cookies_for(&self, url: &Url) -> String {
        let sent = self.cookies.iter().filter(|cookie| {
            cookie.origin == origin(url)
                && path_matches(url.path(), &cookie.path)
                && (!cookie.is_secure || self.is_secure(url))
                && cookie.expires.is_none_or(|at| at > now())
        });
        let pairs: Vec<String> = sent.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        pairs.join("; ")
    }

    fn is_secure(&self, url: &Url) -> bool {
        let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        url.scheme() == "https" || (is_loopback && self.loopback == Loopback::Trusted)
    }

    /// Takes a `set-cookie`, unless the rules forbid it (RFC 6265bis, section 5.7).
    fn keep(&mut self, url: &Url, text: &str) {
        let cookie = read(url, text);
        let lower = cookie.name.to_ascii_lowercase();
        let is_host = cookie.is_secure && cookie.domain.is_none() && cookie.path == "/";
        let is_forbidden = (cookie.is_secure && !self.is_secure(url))
            || (lower.starts_with("__secure-") && !cookie.is_secure)
            || (lower.starts_with("__host-") && !is_host)
            || (cookie.same_site.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("none")) && !cookie.is_secure);
        if is_forbidden {
            return;
        }
        self.cookies
            .retain(|old| (&old.name, &old.path, &old.origin) != (&cookie.name, &cookie.path, &cookie.origin));
        if cookie.expires.is_none_or(|at| at > now()) {
            self.cookies.push(cookie);
        }
    }

    fn exchange(&self, url: &Url, bytes: &[u8]) -> Vec<u8> {
        let port = url.port_or_known_default().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|error| panic!("{url}: {error}"));
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut received = Vec::new();
        if url.scheme() == "https" {
            let config = self.tls.clone().expect("a browser for https trusts an authority");
            let name = ServerName::try_from(url.host_str().unwrap().to_owned()).unwrap();
            let mut tls = StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream);
            tls.write_all(bytes).unwrap();
            drop(tls.read_to_end(&mut received));
        } else {
            drop(stream.write_all(bytes));
            drop(stream.read_to_end(&mut received));
        }
        received
    }
}

fn origin(url: &Url) -> (String, u16) {
    (url.host_str().unwrap().to_owned(), url.port_or_known_default().unwrap())
}

fn path_matches(path: &str, of: &str) -> bool {
    path.strip_prefix(of)
        .is_some_and(|rest| rest.is_empty() || of.ends_with('/') || rest.starts_with('/'))
}

fn read(url: &Url, text: &str) -> Cookie {
    let mut parts = text.split(';').map(str::trim);
    let (name, value) = parts.next().unwrap().split_once('=').unwrap();
    let default_path = url.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut cookie = Cookie {
        name: name.to_owned(),
        value: value.to_owned(),
        path: if default_path.is_empty() { "/" } else { default_path }.to_owned(),
        domain: None,
        is_secure: false,
        is_http_only: false,
        same_site: None,
        expires: None,
        origin: origin(url),
    };
    let mut max_age = None;
    for part in parts {
        let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
        match attribute.to_ascii_lowercase().as_str() {
            "path" if value.starts_with('/') => cookie.path = value.to_owned(),
            "domain" => cookie.domain = Some(value.to_owned()),
            "secure" => cookie.is_secure = true,
            "httponly" => cookie.is_http_only = true,
            "samesite" => cookie.same_site = Some(value.to_owned()),
            "max-age" => max_age = value.parse::<i64>().ok(),
            "expires" => cookie.expires = date(value),
            _ => {}
        }
    }
    // `Max-Age` has precedence over `Expires`
    cookie.expires = max_age.map(|seconds| now() + seconds).or(cookie.expires);
    cookie
}

/// Unix seconds of `Thu, 01 Jan 1970 00:00:00 GMT`.
fn date(text: &str) -> Option<i64> {
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split([' ', '-', ':']).collect();
    let number = |at: usize| words.get(at)?.parse::<i64>().ok();
    let (month, _) = (1_i64..).zip(&months).find(|(_, name)| words.get(2) == Some(*name))?;
    let year = number(3)? - i64::from(month <= 2);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + number(1)? - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    Some(days * 86_400 + number(4)? * 3600 + number(5)? * 60 + number(6)?)
}

/// An attribute of the first such tag, or of the rest of a tag that was split off.
fn attribute(text: &str, tag: &str, name: &str) -> Option<String> {
    let inside = text.split_once(tag)?.1.split('>').next()?;
    let value = inside.split_once(&format!(" {name}=\""))?.1.split('"').next()?;
    Some(value.replace("&amp;", "&"))
}

#[test]
fn cookies_go_where_their_attributes_send_them_and_nowhere_else() {
    let at = |path: &str| Url::parse(&format!("http://127.0.0.1:8080{path}")).unwrap();
    let mut browser = Browser::new();
    for text in [
        "a=1",
        "b=2; Path=/portal; HttpOnly; SameSite=Lax",
        "__Host-c=3; Secure; Path=/",
        "__Host-d=4; Secure; Path=/x",
        "__Host-e=5; Secure; Path=/; Domain=127.0.0.1",
        "__Secure-f=6; Path=/",
        "g=7; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "h=8; Path=/; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "i=9; Path=/; SameSite=None",
    ] {
        browser.keep(&at("/portal/p/page"), text);
    }
    assert_eq!(browser.cookies_for(&at("/")), "__Host-c=3; h=8");
    assert_eq!(browser.cookies_for(&at("/portal")), "b=2; __Host-c=3; h=8");
    assert_eq!(browser.cookies_for(&at("/portals")), "__Host-c=3; h=8");
    assert_eq!(browser.cookies_for(&at("/portal/p/x")), "a=1; b=2; __Host-c=3; h=8");
    assert_eq!(browser.cookies_for(&Url::parse("http://127.0.0.1:8081/").unwrap()), "");
    assert_eq!(browser.cookie("b").unwrap().same_site.as_deref(), Some("Lax"));
    assert!(browser.cookie("b").unwrap().is_http_only);
    browser.keep(&at("/"), "__Host-c=; Secure; Path=/; Max-Age=0");
    browser.restart();
    assert_eq!(browser.cookies_for(&at("/portal/p/x")), "h=8");
    let mut careful = Browser::on(Loopback::Plain);
    careful.keep(&at("/"), "__Host-c=3; Secure; Path=/");
    assert_eq!(careful.cookies_for(&at("/")), "");
    assert_eq!(date("Mon, 23 Nov 2026 11:56:55 GMT"), Some(1_795_435_015));
}
