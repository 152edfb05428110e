//! The same tables over HTTP/1.1, HTTP/2 and the upgrades of both, and requests that only HTTP/2 can express. The gate
//! decides alike over each protocol.
//!
//! Requests are written by hand on both sides of the comparison, so no library tidies up what an attacker would send.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::http2_frames::{DATA, END_STREAM, Field, HEADERS, Http2, Outcome, RST_STREAM, field};
use crate::support::{
    Answer, Gate, IDENTITY_HEADERS, OPEN_POLICY, OPEN_SCHEMA, PAGE, RawConnection, ScriptedServer, Seen, Setup, claims,
    eventually, exchange, now, open_portal, response,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Http1,
    Http2,
    /// HTTP/1.1 that asks to become a WebSocket.
    Upgrade,
    /// The same over HTTP/2, by extended CONNECT.
    Connect,
}

const HTTP_VERSIONS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];
/// Every protocol of a client.
const PROTOCOLS: [Protocol; 4] = [Protocol::Http1, Protocol::Http2, Protocol::Upgrade, Protocol::Connect];

impl Protocol {
    /// The status of an answered request. The recording app answers an upgrade with 200: over HTTP/1.1 an ordinary
    /// answer, over HTTP/2 one that the client would take for a tunnel, so the gate makes it a 502.
    fn passed(self) -> u16 {
        if self == Self::Connect { 502 } else { 200 }
    }
}

/// One request before it is put into either form. `host` and framing are added where the form needs them.
#[derive(Clone, Debug)]
struct TestRequest {
    method: &'static str,
    target: Vec<u8>,
    headers: Vec<Field>,
    body: &'static [u8],
}

impl TestRequest {
    fn get(target: impl AsRef<[u8]>) -> Self {
        Self {
            method: "GET",
            target: target.as_ref().to_vec(),
            headers: Vec::new(),
            body: b"",
        }
    }

    fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(field(name, value));
        self
    }

    fn of(mut self, method: &'static str, body: &'static [u8]) -> Self {
        (self.method, self.body) = (method, body);
        self
    }

    fn by(self, token: &str) -> Self {
        self.with("authorization", format!("Bearer {token}"))
    }

    /// `None`: refused without an answer.
    fn over(&self, protocol: Protocol, gate: &Gate) -> Option<Answer> {
        match protocol {
            Protocol::Http1 => exchange(gate.proxy, &self.as_http1()),
            Protocol::Upgrade => {
                let ask = self.clone().with("connection", "close, upgrade").with("upgrade", "websocket");
                exchange(gate.proxy, &ask.as_http1())
            }
            Protocol::Http2 | Protocol::Connect => match Http2::open(gate.proxy).exchange(&self.as_http2(protocol), self.body) {
                Outcome::Answer(answer) => Some(answer),
                Outcome::Reset(_) | Outcome::GoneAway(_) | Outcome::Closed => None,
            },
        }
    }

    fn as_http1(&self) -> Vec<u8> {
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        let mut headers = vec![field("host", "shop.test")];
        headers.extend(self.headers.iter().cloned());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"connection")) {
            headers.push(field("connection", "close"));
        }
        if !self.body.is_empty() {
            headers.push(field("content-length", self.body.len().to_string()));
        }
        for (name, value) in headers {
            bytes.extend([&name[..], b": ", &value, b"\r\n"].concat());
        }
        [&bytes, &b"\r\n"[..], self.body].concat()
    }

    fn as_http2(&self, protocol: Protocol) -> Vec<Field> {
        let mut fields = if protocol == Protocol::Connect {
            let mut fields = start("CONNECT", &self.target);
            fields.push(field(":protocol", "websocket"));
            fields
        } else {
            start(self.method, &self.target)
        };
        fields.extend(self.headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone())));
        fields
    }
}

pub fn start(method: &str, target: &[u8]) -> Vec<Field> {
    vec![
        field(":method", method),
        field(":scheme", "http"),
        field(":authority", "shop.test"),
        field(":path", target),
    ]
}

fn token(gate: &Gate) -> String {
    gate.issuer.token("alice", &["viewer"])
}

fn status(answer: Option<&Answer>) -> u16 {
    answer.map_or(0, |answer| answer.status)
}

/// Refused: 400, or the end of stream or connection without an answer.
fn is_refused(answer: Option<&Answer>) -> bool {
    answer.is_none_or(|answer| answer.status == 400)
}

fn only<'a>(seen: &'a Seen, name: &str) -> &'a str {
    let all: Vec<_> = seen.headers.get_all(name).iter().collect();
    assert_eq!(all.len(), 1, "`{name}` is there {} times", all.len());
    all[0].to_str().unwrap()
}

const CLOSED: &str = "/portal/p/admin";

fn guarded() -> Gate {
    let forbid = format!("@id(\"closed\") forbid (principal, action, resource in Path::\"{CLOSED}\");");
    Setup::portal(OPEN_SCHEMA, &format!("{OPEN_POLICY}\n{forbid}"))
        .config("limits: { workers: 2, drain_timeout: 5s, connections: 5000 }")
        .start()
}

/// Every path of the fuzzer's corpus, as it is and with additions that another parser could read in another way.
fn spellings() -> BTreeSet<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/path");
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("long.lines") {
            continue;
        }
        for line in std::fs::read(path).unwrap().split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            for tail in [
                &b""[..],
                b"/x",
                b"/..",
                b"?x=/../../../public",
                b"?/assets/a.css",
                b"#x",
                b";/../../assets/a.css",
            ] {
                all.insert([line, tail].concat());
            }
        }
    }
    all
}

/// The most generous reading of a path by an app: everything decoded until nothing changes, parameters dropped,
/// separators of every system, dots resolved, case and trailing dots of segments kept.
fn most_generous(path: &str) -> String {
    let mut text = path.split('?').next().unwrap().to_owned();
    loop {
        let decoded = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if decoded == text {
            break;
        }
        text = decoded;
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in text.replace('\\', "/").split('/') {
        let plain = segment.split([';', '\0']).next().unwrap().trim();
        match plain {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

#[test]
fn no_spelling_of_a_path_gets_around_a_forbid_over_either_http() {
    let gate = guarded();
    let token = token(&gate);
    let spellings = spellings();
    assert!(spellings.len() > 600, "{} spellings", spellings.len());
    let (mut passed, mut stopped, mut refused) = (0, 0, 0);
    let mut decided: HashMap<String, String> = HashMap::new();
    for spelling in &spellings {
        let shown = spelling.escape_ascii().to_string();
        let mut verdicts = Vec::new();
        for protocol in PROTOCOLS {
            let before = gate.app.count();
            let answer = TestRequest::get(spelling).by(&token).over(protocol, &gate);
            let after = gate.app.count();
            match status(answer.as_ref()) {
                code if code == protocol.passed() => {
                    assert_eq!(after, before + 1);
                    let seen = gate.app.last();
                    let read = most_generous(&seen.target);
                    assert!(
                        read != CLOSED && !read.starts_with(&format!("{CLOSED}/")),
                        "{shown} over {protocol:?} reached {} ({read})",
                        seen.target
                    );
                    let path = seen.target.split('?').next().unwrap().to_owned();
                    decided.insert(only(&seen, "x-cedargate-decision-id").to_owned(), path.clone());
                    verdicts.push(path);
                    passed += 1;
                }
                code @ (0 | 400 | 403 | 404) => {
                    assert_eq!(after, before, "{shown} over {protocol:?} was refused and reached the app");
                    verdicts.push(if code == 0 { 400 } else { code }.to_string());
                    stopped += usize::from(code == 403);
                    refused += usize::from(code == 0 || code == 400);
                }
                other => panic!("{shown} over {protocol:?}: {other}"),
            }
        }
        // the HTTP/2 library drops a fragment before the gate can refuse it
        if !spelling.contains(&b'#') {
            assert!(
                verdicts.iter().all(|v| *v == verdicts[0]),
                "{shown} means {verdicts:?} over {PROTOCOLS:?}"
            );
        }
    }
    assert!(passed > 100 && stopped > 20 && refused > 400, "{passed} {stopped} {refused}");
    for record in gate.records(passed) {
        if let Some(path) = decided.remove(record["decision_id"].as_str().unwrap()) {
            assert_eq!(
                (&record["http"]["path"], &record["decision"]),
                (&json!(path), &json!("allow"))
            );
        }
    }
    assert!(decided.is_empty(), "forwarded without a record: {decided:?}");
}

#[test]
fn a_forbid_holds_for_every_method_over_either_http() {
    let gate = guarded();
    let token = token(&gate);
    for protocol in HTTP_VERSIONS {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let ask = TestRequest::get(format!("{CLOSED}/x")).of(method, b"").by(&token);
            assert_eq!(status(ask.over(protocol, &gate).as_ref()), 403, "{method} over {protocol:?}");
        }
        for method in ["get", "Get", "TRACE", "PRI", "FOO", "GE%54", "X-HTTP"] {
            let answer = TestRequest::get(format!("{CLOSED}/x"))
                .of(method, b"")
                .by(&token)
                .over(protocol, &gate);
            assert!(
                matches!(status(answer.as_ref()), 0 | 400 | 403),
                "{method} over {protocol:?}: {answer:?}"
            );
        }
        for name in [
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-original-url",
            "x-rewrite-url",
        ] {
            let ask = TestRequest::get("/portal/p/x").by(&token).with(name, CLOSED);
            assert_eq!(status(ask.over(protocol, &gate).as_ref()), 200);
            assert!(gate.app.last().headers.get(name).is_none(), "{name} over {protocol:?}");
        }
    }
}

#[test]
fn identity_headers_are_the_gates_alone_over_either_http() {
    let gate = open_portal().start();
    let token = token(&gate);
    for protocol in PROTOCOLS {
        for name in IDENTITY_HEADERS.iter().copied().chain([
            "x-cedargate-anything",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-access-token",
            "forwarded",
            "x-real-ip",
        ]) {
            for spelling in [
                name.to_owned(),
                name.to_uppercase(),
                name.replace('-', "_"),
                name.replacen('-', "_", 1),
                name.replace('-', "."),
            ] {
                let ask = TestRequest::get(PAGE)
                    .with(&spelling, "spoof")
                    .by(&token)
                    .with(&spelling, "spoof, root");
                let answer = ask.over(protocol, &gate);
                assert_eq!(status(answer.as_ref()), protocol.passed(), "{spelling} over {protocol:?}");
                let seen = gate.app.last();
                assert!(
                    !format!("{:?}", seen.headers).contains("spoof"),
                    "{spelling} over {protocol:?}: {seen:?}"
                );
                for name in IDENTITY_HEADERS {
                    only(&seen, name);
                }
                assert_eq!(only(&seen, "x-forwarded-user"), "alice");
                assert_eq!(only(&seen, "x-forwarded-for"), "127.0.0.1");
                only(&seen, "host");
                assert!(seen.headers.get("authorization").is_none());
            }
        }
        // a public path: the identity headers are there and empty
        let mut ask = TestRequest::get("/portal/p/assets/a.css");
        for name in IDENTITY_HEADERS {
            ask = ask.with(name, "spoof");
        }
        assert_eq!(status(ask.over(protocol, &gate).as_ref()), protocol.passed());
        let seen = gate.app.last();
        assert!(!format!("{:?}", seen.headers).contains("spoof"));
        assert!(
            IDENTITY_HEADERS
                .iter()
                .all(|name| seen.headers.get_all(*name).iter().count() == 1)
        );
        assert_eq!(only(&seen, "x-forwarded-user"), "");
    }
}

#[test]
fn credentials_are_judged_alike_over_either_http() {
    let gate = open_portal().start();
    let good = token(&gate);
    let with = |name: &str, value: Value| {
        let mut claims = claims("alice", &["viewer"]);
        claims[name] = value;
        gate.issuer.sign(&claims)
    };
    let bearer = |token: &str| vec![format!("Bearer {token}")];
    for (what, values, code, reason) in [
        ("none", vec![], 401, "token_missing"),
        ("good", bearer(&good), 200, ""),
        ("lower case scheme", vec![format!("bearer {good}")], 200, ""),
        ("two", vec![format!("Bearer {good}"); 2], 400, "request_invalid"),
        (
            "a good and a bad one",
            vec![format!("Bearer {good}"), "Bearer a.b.c".into()],
            400,
            "request_invalid",
        ),
        (
            "two in one line",
            vec![format!("Bearer {good}, Bearer {good}")],
            401,
            "token_invalid",
        ),
        ("another scheme", vec!["Basic YTpi".into()], 401, "token_invalid"),
        ("no token", vec!["Bearer".into()], 401, "token_invalid"),
        ("garbage", bearer("not.a.token"), 401, "token_invalid"),
        ("expired", bearer(&with("exp", json!(now() - 900))), 401, "token_expired"),
        ("not yet", bearer(&with("nbf", json!(now() + 900))), 401, "token_invalid"),
        (
            "another issuer",
            bearer(&with("iss", json!("https://evil.test/"))),
            401,
            "issuer_unknown",
        ),
        (
            "another audience",
            bearer(&with("aud", json!("other"))),
            401,
            "audience_mismatch",
        ),
    ] {
        for protocol in PROTOCOLS {
            let mut ask = TestRequest::get(PAGE);
            for value in &values {
                ask = ask.with("authorization", value);
            }
            let before = gate.app.count();
            let answer = ask
                .over(protocol, &gate)
                .unwrap_or_else(|| panic!("{what} over {protocol:?}"));
            let code = if code == 200 { protocol.passed() } else { code };
            assert_eq!(answer.status, code, "{what} over {protocol:?}: {}", answer.text());
            if code != protocol.passed() {
                assert_eq!(answer.code(), reason, "{what} over {protocol:?}");
                assert_eq!(gate.app.count(), before, "{what} over {protocol:?}");
                assert_eq!(answer.headers.contains_key("www-authenticate"), code == 401);
            }
        }
    }
}

#[test]
fn refusals_are_the_same_document_over_either_http() {
    let gate = guarded();
    let token = token(&gate);
    for (ask, code) in [
        (TestRequest::get(CLOSED).by(&token), "forbidden"),
        (TestRequest::get("/nowhere").by(&token), "portal_unknown"),
        (TestRequest::get("/portal/p/../x").by(&token), "request_invalid"),
        (TestRequest::get("/portal/p/x"), "token_missing"),
    ] {
        let [one, two] = HTTP_VERSIONS.map(|protocol| ask.over(protocol, &gate).unwrap());
        assert_eq!((one.status, one.code().as_str()), (two.status, code));
        assert_eq!(
            (two.code().as_str(), two.header("content-type")),
            (code, "application/problem+json")
        );
        let names = |answer: &Answer| -> BTreeSet<String> {
            let all = answer.headers.keys().map(|n| n.as_str().to_owned());
            all.filter(|n| n != "connection").collect()
        };
        assert_eq!(names(&one), names(&two), "{code}");
        // gRPC clients read trailers-only answers
        let grpc = ask.clone().with("content-type", "application/grpc").with("te", "trailers");
        let [one, two] = HTTP_VERSIONS.map(|protocol| grpc.over(protocol, &gate).unwrap());
        assert_eq!((one.status, two.status), (200, 200));
        assert_eq!(one.header("grpc-status"), two.header("grpc-status"));
        assert_eq!(two.header("grpc-message"), code);
    }
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn preflights_and_origins_are_judged_alike_over_either_http() {
    let origin = "https://ui.example.com";
    let gate = Setup::portal(OPEN_SCHEMA, OPEN_POLICY)
        .file("policies/p/portal.yaml", &format!("cors: {{ origins: [\"{origin}\"] }}\n"))
        .start();
    for protocol in HTTP_VERSIONS {
        let preflight = |origin: &str| {
            let ask = TestRequest::get(PAGE).of("OPTIONS", b"").with("origin", origin);
            let ask = ask.with("access-control-request-method", "POST");
            ask.with("access-control-request-headers", "authorization")
                .over(protocol, &gate)
                .unwrap()
        };
        let granted = preflight(origin);
        assert_eq!(
            (granted.status, granted.header("access-control-allow-origin")),
            (204, origin),
            "{protocol:?}"
        );
        for stranger in [
            "https://evil.example",
            "null",
            "http://ui.example.com",
            "https://ui.example.com.",
        ] {
            let refused = preflight(stranger);
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (403, "origin_mismatch"),
                "{stranger} over {protocol:?}"
            );
            assert_eq!(refused.header("access-control-allow-origin"), "");
        }
        let refused = TestRequest::get(PAGE).with("origin", origin).over(protocol, &gate).unwrap();
        assert_eq!(
            (refused.status, refused.header("access-control-allow-origin")),
            (401, origin),
            "{protocol:?}"
        );
    }
    assert_eq!(gate.app.count(), 0);
}

#[test]
fn hop_by_hop_headers_end_at_the_gate_over_either_http() {
    let gate = open_portal().start();
    let token = token(&gate);
    let named = format!(
        "close, {}, x-own, host, authorization, content-length",
        IDENTITY_HEADERS.join(", ")
    );
    let ask = TestRequest::get(PAGE)
        .by(&token)
        .with("connection", &named)
        .with("x-own", "mine");
    let ask = ask
        .with("keep-alive", "timeout=5")
        .with("proxy-connection", "keep-alive")
        .with("te", "trailers");
    assert_eq!(status(ask.over(Protocol::Http1, &gate).as_ref()), 200);
    let seen = gate.app.last();
    for gone in ["x-own", "keep-alive", "proxy-connection", "connection", "upgrade"] {
        assert!(seen.headers.get(gone).is_none(), "{gone}");
    }
    for name in IDENTITY_HEADERS {
        only(&seen, name);
    }
    let before = gate.app.count();
    // over HTTP/2 they are malformed requests
    for (name, value) in [
        ("connection", named.as_str()),
        ("connection", "close"),
        ("connection", "upgrade"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
        ("te", "chunked"),
    ] {
        let answer = TestRequest::get(PAGE)
            .by(&token)
            .with(name, value)
            .over(Protocol::Http2, &gate);
        assert!(is_refused(answer.as_ref()), "{name}: {value}: {answer:?}");
    }
    assert_eq!(gate.app.count(), before);
    let ask = TestRequest::get(PAGE)
        .by(&token)
        .with("te", "trailers")
        .with("proxy-authorization", "Basic x");
    assert_eq!(status(ask.over(Protocol::Http2, &gate).as_ref()), 200);
    assert!(gate.app.last().headers.get("proxy-authorization").is_none());
}

/// Fields that a request over HTTP/2 must not have, or not in this order.
fn malformed(token: &str) -> Vec<(String, Vec<Field>)> {
    let bearer = format!("Bearer {token}");
    let pseudo = |pairs: &[(&str, &str)]| -> Vec<Field> {
        let mut fields: Vec<Field> = pairs.iter().map(|(n, v)| field(n, v)).collect();
        fields.push(field("authorization", &bearer));
        fields
    };
    let (m, s, a, p) = (
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "shop.test"),
        (":path", PAGE),
    );
    let mut all: Vec<(String, Vec<Field>)> = [
        ("two methods", vec![m, (":method", "POST"), s, a, p]),
        ("two schemes", vec![m, s, s, a, p]),
        ("two authorities", vec![m, s, a, (":authority", "evil.test"), p]),
        ("two equal authorities", vec![m, s, a, a, p]),
        ("two paths", vec![m, s, a, p, (":path", "/portal/p/other")]),
        ("no method", vec![s, a, p]),
        ("no scheme", vec![m, a, p]),
        ("no path", vec![m, s, a]),
        ("no authority and no host", vec![m, s, p]),
        ("nothing", vec![]),
        ("empty method", vec![(":method", ""), s, a, p]),
        ("empty scheme", vec![m, (":scheme", ""), a, p]),
        ("empty authority", vec![m, s, (":authority", ""), p]),
        ("empty path", vec![m, s, a, (":path", "")]),
        ("unknown pseudo-header", vec![m, s, a, p, (":evil", "1")]),
        ("a status", vec![m, s, a, p, (":status", "200")]),
        ("a protocol without CONNECT", vec![m, s, a, p, (":protocol", "websocket")]),
        ("upper-case pseudo-header", vec![(":Method", "GET"), s, a, p]),
        ("authority after a regular header", vec![m, s, p, ("x-a", "1"), a]),
        ("path after a regular header", vec![m, s, a, ("x-a", "1"), p]),
        ("authority is not the host", vec![m, s, a, p, ("host", "evil.test")]),
        ("two hosts", vec![m, s, a, p, ("host", "shop.test"), ("host", "shop.test")]),
        (
            "authority names a port that the host does not",
            vec![m, s, (":authority", "shop.test:81"), p, ("host", "shop.test")],
        ),
        ("user name", vec![m, s, (":authority", "root@shop.test"), p]),
        ("user name and password", vec![m, s, (":authority", "a:b@shop.test"), p]),
        ("user name in the host", vec![m, s, p, ("host", "a@shop.test")]),
        ("path in the authority", vec![m, s, (":authority", "shop.test/portal"), p]),
        ("query in the authority", vec![m, s, (":authority", "shop.test?x"), p]),
        ("space in the authority", vec![m, s, (":authority", "shop.test evil"), p]),
        ("two authorities in one", vec![m, s, (":authority", "shop.test,evil.test"), p]),
        ("odd scheme", vec![m, (":scheme", "ftp"), a, p]),
        ("javascript", vec![m, (":scheme", "javascript"), a, p]),
        ("a URL as scheme", vec![m, (":scheme", "http://evil.test/"), a, p]),
        ("a line break in the scheme", vec![m, (":scheme", "http\r\nx: y"), a, p]),
        ("path without slash", vec![m, s, a, (":path", "portal/p/page")]),
        ("star", vec![m, s, a, (":path", "*")]),
        ("star of OPTIONS", vec![(":method", "OPTIONS"), s, a, (":path", "*")]),
        ("a URL as path", vec![m, s, a, (":path", "http://shop.test/portal/p/page")]),
        (
            "a URL of another host as path",
            vec![m, s, a, (":path", "http://evil.test/portal/p/page")],
        ),
        ("space in the path", vec![m, s, a, (":path", "/portal/p/a b")]),
        ("a version in the path", vec![m, s, a, (":path", "/portal/p/page HTTP/1.1")]),
        (
            "a request in the path",
            vec![m, s, a, (":path", "/portal/p/page HTTP/1.1\r\nhost: evil.test\r\n\r\nGET /x")],
        ),
        ("NUL in the path", vec![m, s, a, (":path", "/portal/p/a\0b")]),
        ("tab in the path", vec![m, s, a, (":path", "/portal/p/a\tb")]),
        ("space in the method", vec![(":method", "GET /x"), s, a, p]),
        (
            "a request in the method",
            vec![(":method", "GET / HTTP/1.1\r\nhost: a\r\n\r\nPOST"), s, a, p],
        ),
        ("lower-case method", vec![(":method", "get"), s, a, p]),
        ("TRACE", vec![(":method", "TRACE"), s, a, p]),
        ("CONNECT", vec![(":method", "CONNECT"), a]),
        ("CONNECT with a path", vec![(":method", "CONNECT"), s, a, p]),
        (
            "CONNECT to a port",
            vec![(":method", "CONNECT"), (":authority", "shop.test:22")],
        ),
        (
            "CONNECT for an empty protocol",
            vec![(":method", "CONNECT"), (":protocol", ""), s, a, p],
        ),
        (
            "CONNECT for a protocol without a path",
            vec![(":method", "CONNECT"), (":protocol", "websocket"), s, a],
        ),
        (
            "CONNECT for a protocol without a scheme",
            vec![(":method", "CONNECT"), (":protocol", "websocket"), a, p],
        ),
        (
            "CONNECT for two protocols",
            vec![
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":protocol", "x"),
                s,
                a,
                p,
            ],
        ),
        (
            "CONNECT for a broken protocol",
            vec![(":method", "CONNECT"), (":protocol", "web\r\nsocket"), s, a, p],
        ),
        ("expectation", vec![m, s, a, p, ("expect", "more")]),
    ]
    .into_iter()
    .map(|(what, pairs)| (what.to_owned(), pseudo(&pairs)))
    .collect();
    let plain = [m, s, a, p];
    for (name, value) in [
        ("X-Upper", &b"1"[..]),
        ("x-Upper", b"1"),
        ("Authorization", b"x"),
        ("", b"1"),
        ("x a", b"1"),
        ("x:a", b"1"),
        ("x\0a", b"1"),
        ("x\r\na", b"1"),
        ("x\na", b"1"),
        ("x-\u{e9}", b"1"),
        (" x-a", b"1"),
        ("x-a ", b"1"),
        ("x(a)", b"1"),
        ("x-a", b"1\r\nx-forwarded-user: root"),
        ("x-a", b"1\nx-b: 2"),
        ("x-a", b"1\rx-b: 2"),
        ("x-a", b"1\0"),
        ("x-a", b"\x7f"),
        ("x-a", b"\x01"),
        ("x-a", b" 1"),
        ("x-a", b"1 "),
        ("x-a", b"\t1"),
        ("x-a", b"1\t"),
        ("x-a", b" "),
        ("content-length", b"5"),
        ("content-length", b"-1"),
        ("content-length", b"+0"),
        ("content-length", b"00"),
        ("content-length", b"0, 0"),
        ("content-length", b""),
        ("content-length", b"99999999999999999999"),
    ] {
        let mut fields = pseudo(&plain);
        fields.push(field(name, value));
        let shown = format!("`{}: {}`", name.escape_default(), value.escape_ascii());
        all.push((shown, fields));
    }
    all
}

#[test]
fn malformed_http_2_requests_reach_no_app() {
    let gate = open_portal().start();
    let token = token(&gate);
    let control = Http2::open(gate.proxy).exchange(&TestRequest::get(PAGE).by(&token).as_http2(Protocol::Http2), b"");
    assert!(matches!(control, Outcome::Answer(Answer { status: 200, .. })), "{control:?}");
    let mut wrong = Vec::new();
    for (what, fields) in malformed(&token) {
        let before = gate.app.count();
        let outcome = Http2::open(gate.proxy).exchange(&fields, b"");
        let refused = match &outcome {
            Outcome::Answer(answer) => answer.status == 400,
            Outcome::Reset(_) | Outcome::GoneAway(_) | Outcome::Closed => true,
        };
        if !refused || gate.app.count() != before {
            wrong.push(format!("{what}: {outcome:?}, the app saw {}", gate.app.count() - before));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_http2_body_that_differs_from_its_content_length_is_refused() {
    let gate = open_portal().start();
    let token = token(&gate);
    let with = |length: &str| {
        let mut fields = TestRequest::get(PAGE).of("POST", b"").by(&token).as_http2(Protocol::Http2);
        fields.push(field("content-length", length));
        fields
    };
    for (length, body) in [("3", &b"hello"[..]), ("7", b"hello"), ("0", b"hello"), ("5", b"")] {
        let mut connection = Http2::open(gate.proxy);
        let stream = connection.ask(&with(length), 0);
        // the gate has the head, the body is under way
        std::thread::sleep(std::time::Duration::from_millis(50));
        connection.data(stream, body, END_STREAM);
        let outcome = connection.outcome(stream);
        let whole = matches!(&outcome, Outcome::Answer(answer) if answer.status == 200);
        assert!(!whole, "{length} for {} bytes: {outcome:?}", body.len());
        assert!(
            gate.app.seen().is_empty(),
            "{length} for {} bytes reached the app whole: {:?}",
            body.len(),
            gate.app.seen()
        );
    }
    let twice = [with("5"), vec![field("content-length", "5")]].concat();
    let outcome = Http2::open(gate.proxy).exchange(&twice, b"hello");
    assert!(
        !matches!(&outcome, Outcome::Answer(answer) if answer.status == 200),
        "{outcome:?}"
    );
    let outcome = Http2::open(gate.proxy).exchange(&with("5"), b"hello");
    assert!(
        matches!(&outcome, Outcome::Answer(answer) if answer.status == 200),
        "{outcome:?}"
    );
    let seen = gate.app.last();
    assert_eq!((&seen.body[..], only(&seen, "content-length")), (&b"hello"[..], "5"));
    assert!(seen.headers.get("transfer-encoding").is_none());
    // without a length it is chunked for the app, and still the same body
    let fields = TestRequest::get(PAGE).of("POST", b"").by(&token).as_http2(Protocol::Http2);
    let outcome = Http2::open(gate.proxy).exchange(&fields, b"hello");
    assert!(
        matches!(&outcome, Outcome::Answer(answer) if answer.status == 200),
        "{outcome:?}"
    );
    let seen = gate.app.last();
    assert_eq!((&seen.body[..], only(&seen, "transfer-encoding")), (&b"hello"[..], "chunked"));
}

#[test]
fn http2_trailers_carry_no_header_that_is_stripped() {
    let script = ScriptedServer::start(|_, wire| {
        let body = wire.read_until("\r\n0\r\n");
        let mut trailers = Vec::new();
        while !matches!(trailers.as_slice(), b"\r\n" | [.., b'\r', b'\n', b'\r', b'\n']) {
            let line = wire.read_until("\r\n");
            if line.is_empty() {
                return;
            }
            trailers.extend(line);
        }
        wire.send(response("200 OK", &[body, trailers].concat()));
    });
    let gate = open_portal()
        .config(&format!("upstream: {{ url: '{}' }}", script.url()))
        .start();
    let token = token(&gate);
    let send = |trailers: &[Field]| {
        let mut connection = Http2::open(gate.proxy);
        let ask = TestRequest::get(PAGE)
            .of("POST", b"")
            .by(&token)
            .with("trailer", "x-sum, x-a, te, connection");
        let stream = connection.ask(&ask.as_http2(Protocol::Http2), 0);
        connection.frame(DATA, 0, stream, b"hello");
        connection.headers(stream, trailers, END_STREAM);
        connection.outcome(stream)
    };
    let outcome = send(&[
        field("x-sum", "7"),
        field("x-forwarded-user", "root"),
        field("x_forwarded_user", "root"),
        field("authorization", "Bearer root"),
        field("content-length", "3"),
        field("host", "evil"),
        field("x-cedargate-assertion", "root"),
        field("cookie", "root"),
    ]);
    let Outcome::Answer(answer) = outcome else {
        panic!("{outcome:?}")
    };
    let echoed = answer.text();
    assert!(echoed.contains("x-sum: 7"), "an honest trailer passes: {echoed}");
    for gone in ["root", "evil", "content-length"] {
        assert!(!echoed.contains(gone), "{echoed}");
    }
    for bad in [
        field(":method", "GET"),
        field(":path", "/x"),
        field(":status", "200"),
        field("X-Upper", "1"),
        field("x-a", "1\r\nx-forwarded-user: root"),
        field("x-a", "1\n"),
        field("x-a", "\0"),
        field("connection", "close"),
        field("transfer-encoding", "chunked"),
        field("te", "gzip"),
    ] {
        let outcome = send(std::slice::from_ref(&bad));
        if let Outcome::Answer(answer) = &outcome {
            let text = answer.text();
            assert!(
                answer.status != 200
                    || !text.contains("x-forwarded-user")
                        && !text.contains("chunked")
                        && !text.contains("connection")
                        && !text.contains("gzip"),
                "{bad:?} reached the app: {text}"
            );
        }
    }
    // without an end of the stream, trailers are no trailers
    let mut connection = Http2::open(gate.proxy);
    let stream = connection.ask(
        &TestRequest::get(PAGE).of("POST", b"").by(&token).as_http2(Protocol::Http2),
        0,
    );
    connection.frame(DATA, 0, stream, b"hello");
    connection.headers(stream, &[field("x-sum", "7")], 0);
    connection.frame(DATA, END_STREAM, stream, b"more");
    let outcome = connection.outcome(stream);
    assert!(
        !matches!(&outcome, Outcome::Answer(answer) if answer.status == 200),
        "{outcome:?}"
    );
}

#[test]
fn an_app_that_speaks_http_1_0_costs_the_client_no_connection() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let gate = open_portal()
        .config(&format!("upstream: {{ url: '{}' }}", script.url()))
        .start();
    let mut wire = RawConnection::open(gate.proxy);
    for _ in 0..2 {
        let bearer = token(&gate);
        wire.send(format!(
            "GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {bearer}\r\n\r\n"
        ));
        assert_eq!(wire.read_until("\r\n"), b"HTTP/1.1 200 OK\r\n");
        assert!(wire.read_until("\r\n\r\nok").ends_with(b"ok"));
    }
    let ask = TestRequest::get(PAGE).by(&token(&gate));
    assert_eq!(ask.over(Protocol::Http2, &gate).unwrap().text(), "ok");
}

#[test]
fn split_http2_cookies_are_joined_and_the_gates_own_are_removed() {
    let gate = open_portal().start();
    let ask = TestRequest::get(PAGE).by(&token(&gate));
    let ask = ask
        .with("cookie", "a=1")
        .with("x-between", "y")
        .with("cookie", "__Host-cedargate_s=SECRET");
    let ask = ask.with("cookie", "b=2; cedargate_csrf=SECRET; c=3");
    assert_eq!(status(ask.over(Protocol::Http2, &gate).as_ref()), 200);
    assert_eq!(only(&gate.app.last(), "cookie"), "a=1; b=2; c=3");
}

#[test]
fn a_host_beside_the_authority_is_one_host_for_the_app() {
    let gate = open_portal().start();
    let token = token(&gate);
    let exchange = |fields: &[(&str, &str)]| {
        let mut all: Vec<Field> = vec![field(":method", "GET"), field(":scheme", "http"), field(":path", PAGE)];
        all.extend(fields.iter().map(|(n, v)| field(n, v)));
        all.push(field("authorization", format!("Bearer {token}")));
        Http2::open(gate.proxy).exchange(&all, b"")
    };
    for fields in [
        &[(":authority", "shop.test")][..],
        &[(":authority", "Shop.test."), ("host", "shop.test")],
        &[(":authority", "shop.test:80"), ("host", "shop.test")],
        &[("host", "shop.test")],
    ] {
        let outcome = exchange(fields);
        assert!(
            matches!(&outcome, Outcome::Answer(answer) if answer.status == 200),
            "{fields:?}: {outcome:?}"
        );
        let seen = gate.app.last();
        assert_eq!(
            only(&seen, "x-forwarded-host")
                .split(':')
                .next()
                .unwrap()
                .to_lowercase()
                .trim_end_matches('.'),
            "shop.test"
        );
        only(&seen, "host");
    }
}

#[test]
fn one_bad_stream_does_not_disturb_other_streams() {
    let gate = open_portal().start();
    let token = token(&gate);
    let good = TestRequest::get(PAGE).by(&token).as_http2(Protocol::Http2);
    let mut connection = Http2::open(gate.proxy);
    for spoilt in ["/portal/p/../x", "/portal/p/a%2fb", "/nowhere"] {
        let bad = TestRequest::get(spoilt).by(&token).as_http2(Protocol::Http2);
        let Outcome::Answer(answer) = connection.exchange(&bad, b"") else {
            panic!("{spoilt}")
        };
        assert!(matches!(answer.status, 400 | 404), "{spoilt}: {}", answer.status);
        match connection.exchange(&good, b"") {
            Outcome::Answer(answer) => assert_eq!(answer.status, 200),
            // a refusal may end the connection, as it does over HTTP/1.1
            Outcome::GoneAway(0) | Outcome::Closed => connection = Http2::open(gate.proxy),
            other => panic!("{spoilt}: {other:?}"),
        }
    }
    // requests in flight are reset; the other stream is answered nevertheless
    let mut connection = Http2::open(gate.proxy);
    for _ in 0..5 {
        let stream = connection.ask(&good, 0);
        connection.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }
    let outcome = connection.exchange(&good, b"");
    assert!(
        matches!(&outcome, Outcome::Answer(answer) if answer.status == 200),
        "{outcome:?}"
    );
}

#[test]
fn invalid_frames_end_the_connection_and_reach_no_app() {
    let gate = open_portal().start();
    let good = TestRequest::get(PAGE).by(&token(&gate)).as_http2(Protocol::Http2);
    let block = crate::support::http2_frames::encode(&good);
    let attempt = |what: &str, attack: &dyn Fn(&mut Http2)| {
        let mut connection = Http2::open(gate.proxy);
        attack(&mut connection);
        eventually(what, || match connection.read() {
            None => Ok(()),
            Some(frame) if frame.kind == crate::support::http2_frames::GOAWAY || frame.kind == RST_STREAM => Ok(()),
            Some(frame) => Err(format!("{frame:?}")),
        });
    };
    let headers =
        |flags: u8| move |stream: u32, connection: &mut Http2, block: &[u8]| connection.frame(HEADERS, flags, stream, block);
    attempt("even stream", &|c| {
        headers(5)(2, c, &block);
    });
    attempt("stream zero", &|c| {
        headers(5)(0, c, &block);
    });
    attempt("data before headers", &|c| {
        c.frame(DATA, END_STREAM, 1, b"x");
    });
    attempt("a frame between headers and their continuation", &|c| {
        headers(1)(1, c, &block[..20]);
        c.frame(DATA, END_STREAM, 1, b"x");
    });
    attempt("a continuation of nothing", &|c| {
        c.frame(9, 4, 1, &block);
    });
    attempt("broken compression", &|c| {
        headers(5)(1, c, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    });
    attempt("an index that is not there", &|c| {
        headers(5)(1, c, &[0xfe]);
    });
    attempt("a frame larger than announced", &|c| {
        c.frame(DATA, 0, 1, &vec![0; 20_000]);
    });
    attempt("settings of an odd length", &|c| {
        c.frame(4, 0, 0, b"12345");
    });
    attempt("push of a client", &|c| {
        c.frame(5, 4, 1, &[&[0, 0, 0, 2][..], &block].concat());
    });
    attempt("a stream that depends on itself twice used", &|c| {
        headers(5)(5, c, &block[..0]);
        headers(5)(3, c, &block[..0]);
    });
    assert_eq!(gate.app.count(), 0);
}
