//! Client certificates on the proxy listener: as a caller's only credential, and as the key of a bound token.
//!
//! Clients, authorities and revocation lists are real. What a refused client must not reach is checked at the app.

use std::io::{Read, Write};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::support::certificates::{Authority, Pair};
use crate::support::tls_client::{Tls, Trust, open};
use crate::support::{Answer, Gate, ISSUER, PAGE, ScriptedServer, Setup, claims, eventually, parse, raw};

const WEB: &str = "spiffe://prod.test/ns/shop/sa/web";
const SCHEMA: &str = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant] = { email?: String };
entity Service in [Role, Tenant] = { trust_domain?: String };
action GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS appliesTo { principal: [User, Service], resource: [Path],
  context: { auth: { method: String } } };";
const POLICY: &str = "@id(\"users\") permit (principal is User, action, resource);
@id(\"web\") permit (principal == Service::\"mesh|spiffe://prod.test/ns/shop/sa/web\", action, resource)
  when { context.auth.method == \"certificate\" && principal has trust_domain && principal.trust_domain == \"prod.test\" && principal in Role::\"shop\" };";
const MESH: &str = "{ name: mesh, subject: spiffe, trust_domain: prod.test, principal: Service, claims: { tenant: trust_domain, roles: organizational_units } }";

/// The authorities of one test: the gate's own, and that of its clients.
struct Lab {
    ours: Authority,
    clients: Authority,
}

impl Lab {
    fn new() -> Self {
        Self {
            ours: Authority::new("ours"),
            clients: Authority::new("clients"),
        }
    }

    /// A gate that takes certificates of `clients`. `tls`: further keys of the listener.
    fn setup(&self, tls: &str, entries: &str) -> Setup {
        let own = self.ours.issue("shop.test");
        let listen = format!(
            "listen: {{ proxy: {{ address: '127.0.0.1:0', tls: {{ cert: tls.pem, key: tls.key, client_ca: ca.pem, {tls} }} }}, \
             admin: {{ address: '127.0.0.1:0' }}, decision: {{ address: '127.0.0.1:0' }} }}"
        );
        Setup::portal(SCHEMA, POLICY)
            .file("policies/p/portal.yaml", "public: [ \"GET /portal/p/assets/**\" ]\n")
            .config(&listen)
            .config(&format!("client_certificates: [{entries}]"))
            .config("public_url: https://shop.test")
            .file("ca.pem", &self.clients.pem)
            .file("tls.pem", &own.cert)
            .file("tls.key", &own.key)
    }

    fn start(&self) -> Gate {
        self.setup("client_auth: optional", MESH).start()
    }

    fn connect(&self, gate: &Gate, own: Option<&Pair>) -> std::io::Result<Tls> {
        let trust = Trust {
            own,
            ..Trust::in_(&self.ours)
        };
        open(gate.proxy, &trust.config())
    }

    /// One request on a connection of its own.
    fn ask(&self, gate: &Gate, own: Option<&Pair>, method: &str, path: &str, headers: &[&str]) -> Answer {
        let mut tls = self.connect(gate, own).unwrap();
        exchange(&mut tls, method, path, headers).unwrap()
    }
}

/// One request on an open connection; `None` if there is no answer.
fn exchange(tls: &mut Tls, method: &str, path: &str, headers: &[&str]) -> Option<Answer> {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let has_body = headers.iter().any(|line| line.starts_with("content-length"));
    let length = if method == "POST" && !has_body {
        "content-length: 0\r\n"
    } else {
        ""
    };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: shop.test\r\n{length}{lines}\r\n");
    // nothing follows a body: the gate would answer that, too
    let sent = if has_body { head.trim_end_matches("\r\n") } else { &head };
    tls.write_all(sent.as_bytes()).ok()?;
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(answer) = parse(&received)
            && answer.header("content-length").parse() == Ok(answer.body.len())
        {
            return Some(answer);
        }
        match tls.read(&mut piece) {
            Ok(length @ 1..) => received.extend(&piece[..length]),
            _ => return None,
        }
    }
}

fn fingerprint(pair: &Pair) -> [u8; 32] {
    let der = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der)
        .as_ref()
        .try_into()
        .unwrap()
}

fn bound(gate: &Gate, cnf: serde_json::Value) -> String {
    let mut claims = claims("alice", &["viewer"]);
    claims["cnf"] = cnf;
    format!("authorization: Bearer {}", gate.issuer.sign(&claims))
}

fn bound_to(gate: &Gate, pair: &Pair) -> String {
    bound(gate, json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(fingerprint(pair)) }))
}

#[test]
fn a_certificate_alone_proves_a_caller_and_the_app_and_the_record_say_who() {
    let lab = Lab::new();
    let gate = lab.start();
    let web = lab.clients.workload(WEB);
    let mut tls = lab.connect(&gate, Some(&web)).unwrap();
    for _ in 0..2 {
        let answer = exchange(&mut tls, "GET", PAGE, &["x-forwarded-user: evil"]).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let seen = gate.app.last();
    assert_eq!(
        seen.headers["x-forwarded-user"],
        format!("mesh|{}", WEB.replace('|', "%7C")).as_str()
    );
    assert_eq!(seen.headers["x-cedargate-tenant"], "prod.test");
    assert_eq!(seen.headers["x-cedargate-roles"], "shop");
    assert!(!seen.headers["x-cedargate-assertion"].is_empty());
    let record = gate.records(2).remove(0);
    assert_eq!(record["principal"]["id"], format!("mesh|{WEB}"), "{record}");
    assert_eq!(
        (&record["token"]["alg"], &record["token"]["iss"]),
        (&json!("x509"), &json!("urn:cedargate:certificate:mesh"))
    );
    assert_eq!(record["token"]["kid"], hex::encode(fingerprint(&web)));
    // policies decide on the certificate's own name
    let other = lab.clients.workload("spiffe://prod.test/ns/shop/sa/other");
    assert_eq!(lab.ask(&gate, Some(&other), "GET", PAGE, &[]).code(), "not_permitted");
}

#[test]
fn a_certificate_that_no_trusted_issuer_vouches_for_proves_nothing() {
    let lab = Lab::new();
    let mesh = Authority::new("mesh");
    let both = format!("{}{}", lab.clients.pem, mesh.pem);
    let entry = MESH.replace("principal: Service", "principal: Service, ca_file: mesh.pem");
    let setup = lab.setup("client_auth: optional", &entry);
    let gate = setup.file("ca.pem", &both).file("mesh.pem", &mesh.pem).start();
    let code = |own: Option<&Pair>| {
        let answer = lab.ask(&gate, own, "GET", PAGE, &[]);
        (answer.status != 200).then(|| answer.code())
    };
    assert_eq!(code(Some(&mesh.workload(WEB))), None);
    // the other authority is trusted for TLS, and vouches for no name of the mesh
    assert_eq!(code(Some(&lab.clients.workload(WEB))).as_deref(), Some("issuer_unknown"));
    let foreign = mesh.workload("spiffe://test.test/ns/shop/sa/web");
    assert_eq!(code(Some(&foreign)).as_deref(), Some("issuer_unknown"));
    assert_eq!(code(Some(&mesh.issue("web.test"))).as_deref(), Some("issuer_unknown"));
    assert_eq!(
        code(Some(&mesh.workload("spiffe://prod.test/a/../b"))).as_deref(),
        Some("token_invalid")
    );
    assert_eq!(code(None).as_deref(), Some("token_missing"));
    let assets = "/portal/p/assets/a.css";
    for own in [None, Some(&foreign)] {
        assert_eq!(lab.ask(&gate, own, "GET", assets, &[]).status, 200, "a public path");
    }
    let before = gate.app.count();
    let stranger = Authority::new("stranger").workload(WEB);
    let refused = lab
        .connect(&gate, Some(&stranger))
        .ok()
        .and_then(|mut tls| exchange(&mut tls, "GET", assets, &[]));
    assert!(refused.is_none(), "a certificate that does not verify ends the handshake");
    assert_eq!(gate.app.count(), before);
}

#[test]
fn a_token_beside_the_certificate_is_the_caller_and_never_falls_back_to_it() {
    let lab = Lab::new();
    let gate = lab.start();
    let web = lab.clients.workload(WEB);
    let token = format!("authorization: Bearer {}", gate.issuer.token("alice", &["viewer"]));
    assert_eq!(lab.ask(&gate, Some(&web), "GET", PAGE, &[&token]).status, 200);
    assert_eq!(gate.app.last().headers["x-forwarded-user"], "test|alice");
    for bad in ["authorization: Bearer a.b.c", "authorization: Bearer "] {
        assert_eq!(lab.ask(&gate, Some(&web), "GET", PAGE, &[bad]).code(), "token_invalid");
    }
    let expired = gate
        .issuer
        .sign(&json!({"iss": ISSUER, "aud": "shop", "sub": "alice", "exp": 1}));
    let answer = lab.ask(&gate, Some(&web), "GET", PAGE, &[&format!("authorization: Bearer {expired}")]);
    assert_eq!(answer.code(), "token_expired");
}

#[test]
fn a_page_of_another_origin_cannot_use_a_browsers_certificate() {
    let lab = Lab::new();
    let gate = lab.start();
    let web = lab.clients.workload(WEB);
    let post = |headers: &[&str]| lab.ask(&gate, Some(&web), "POST", PAGE, headers);
    for evil in [
        &["origin: https://evil.test"][..],
        &["origin: null"],
        &["sec-fetch-site: cross-site"],
        &["sec-fetch-site: same-site", "origin: https://a.shop.test"],
    ] {
        let before = gate.app.count();
        assert_eq!(post(evil).code(), "origin_mismatch", "{evil:?}");
        assert_eq!(gate.app.count(), before);
    }
    assert_eq!(post(&["origin: https://shop.test"]).status, 200);
    assert_eq!(post(&["sec-fetch-site: same-origin"]).status, 200);
    assert_eq!(post(&[]).status, 200, "a service is no browser");
}

fn reloads(gate: &Gate, result: &str, count: usize) {
    let line = format!("cedargate_tls_reload_total{{listener=\"proxy\",result=\"{result}\"}} {count}");
    eventually(&line, || {
        let metrics = gate.metrics();
        metrics.lines().any(|l| l == line).then_some(()).ok_or(metrics)
    });
}

#[test]
fn a_removed_authority_ends_open_connections_and_a_bad_file_does_not() {
    let lab = Lab::new();
    let app = ScriptedServer::start(|_head, wire| {
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        let _gone = wire.stream.read(&mut [0; 1]);
    });
    let setup = lab.setup("client_auth: optional", MESH);
    let streaming = setup.config(&format!("upstream: {{ url: '{}' }}", app.url())).start();
    let plain = lab.start();
    let web = lab.clients.workload(WEB);
    let mut open = lab.connect(&plain, Some(&web)).unwrap();
    assert_eq!(exchange(&mut open, "GET", PAGE, &[]).unwrap().status, 200);
    let token = format!("authorization: Bearer {}", plain.issuer.token("alice", &["viewer"]));
    let mut with_token = lab.connect(&plain, Some(&web)).unwrap();
    assert_eq!(exchange(&mut with_token, "GET", PAGE, &[&token]).unwrap().status, 200);
    let mut stream = lab.connect(&streaming, Some(&web)).unwrap();
    stream
        .write_all(format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n\r\n").as_bytes())
        .unwrap();
    read_past(&mut stream, b"hello\r\n");

    plain.put("ca.pem", "no certificate");
    reloads(&plain, "rejected", 1);
    assert_eq!(
        exchange(&mut open, "GET", PAGE, &[]).unwrap().status,
        200,
        "the old authority stays"
    );

    let next = Authority::new("next");
    for gate in [&plain, &streaming] {
        gate.put("ca.pem", &next.pem);
        reloads(gate, "success", 1);
    }
    let before = plain.app.count();
    let refused = exchange(&mut open, "GET", PAGE, &[]).unwrap();
    assert_eq!(
        (refused.code().as_str(), refused.header("connection")),
        ("token_invalid", "close")
    );
    let refused = exchange(&mut with_token, "GET", PAGE, &[&token]).unwrap();
    assert_eq!(
        refused.code(),
        "token_invalid",
        "the connection itself is not trusted any more"
    );
    assert_eq!(plain.app.count(), before);
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the stream was cut");
    let cut = "cedargate_live_connections_cut_total{reason=\"certificate\"} 1";
    assert!(streaming.metrics().contains(cut), "{}", streaming.metrics());
    let again = lab.connect(&plain, Some(&next.workload(WEB))).unwrap();
    assert_eq!(exchange(&mut { again }, "GET", PAGE, &[]).unwrap().status, 200);
}

#[test]
fn a_certificate_that_expires_during_a_connection_is_refused_from_that_second_on() {
    let lab = Lab::new();
    let gate = lab.start();
    let until = u64::try_from(crate::support::now()).unwrap() + 3;
    let web = lab.clients.workload_until(WEB, until);
    let mut tls = lab.connect(&gate, Some(&web)).unwrap();
    assert_eq!(exchange(&mut tls, "GET", PAGE, &[]).unwrap().status, 200);
    let refused = eventually("the certificate expires", || {
        let answer = exchange(&mut tls, "GET", PAGE, &[]).unwrap();
        if answer.status == 200 {
            std::thread::sleep(Duration::from_millis(100));
            return Err("it is still valid".to_owned());
        }
        Ok(answer)
    });
    assert_eq!(refused.code(), "token_invalid");
    assert!(u64::try_from(crate::support::now()).unwrap() > until);
}

#[test]
fn a_revoked_certificate_ends_its_open_connection_and_opens_no_other() {
    let lab = Lab::new();
    let (web, other) = (lab.clients.workload(WEB), lab.clients.workload(WEB));
    let setup = lab.setup("client_auth: required, client_crl: crl.pem", MESH);
    let gate = setup.file("crl.pem", &lab.clients.revocation_list(&[])).start();
    let mut tls = lab.connect(&gate, Some(&web)).unwrap();
    let mut spared = lab.connect(&gate, Some(&other)).unwrap();
    for tls in [&mut tls, &mut spared] {
        assert_eq!(exchange(tls, "GET", PAGE, &[]).unwrap().status, 200);
    }
    gate.put("crl.pem", &lab.clients.revocation_list(&[&web]));
    reloads(&gate, "success", 1);
    assert_eq!(exchange(&mut tls, "GET", PAGE, &[]).unwrap().code(), "token_invalid");
    assert_eq!(exchange(&mut spared, "GET", PAGE, &[]).unwrap().status, 200);
    let again = lab.connect(&gate, Some(&web)).ok();
    assert!(again.and_then(|mut tls| exchange(&mut tls, "GET", PAGE, &[])).is_none());
    let without = lab.connect(&gate, None).ok();
    assert!(
        without.and_then(|mut tls| exchange(&mut tls, "GET", PAGE, &[])).is_none(),
        "it is required"
    );
    // a list of another authority says nothing about this one's certificates
    gate.put("crl.pem", &Authority::new("other").revocation_list(&[]));
    reloads(&gate, "success", 2);
    assert_eq!(exchange(&mut spared, "GET", PAGE, &[]).unwrap().code(), "token_invalid");
}

#[test]
fn a_bound_token_counts_only_on_a_connection_with_its_certificate() {
    let lab = Lab::new();
    let gate = lab.start();
    let (own, thief) = (lab.clients.workload(WEB), lab.clients.workload(WEB));
    let token = bound_to(&gate, &own);
    let ask = |pair: Option<&Pair>| lab.ask(&gate, pair, "GET", PAGE, &[&token]);
    // before the token is known, and after
    for _ in 0..2 {
        for bad in [None, Some(&thief)] {
            let answer = ask(bad);
            assert_eq!(answer.code(), "token_invalid");
            assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
        }
        assert_eq!(ask(Some(&own)).status, 200);
        assert_eq!(gate.app.last().headers["x-forwarded-user"], "test|alice");
    }
    let record = gate.records(6).remove(0);
    assert_eq!(record["refused"]["check"], "binding", "{record}");
    // the identity endpoints are on the client's own connection, too; what they mint is bound to nothing
    let identity = |pair: Option<&Pair>, method: &str, path: &str| {
        lab.ask(&gate, pair, method, &format!("/api/v1/identity/{path}"), &[&token])
            .status
    };
    for path in ["permissions?portal=p", "auth/session?portal=p"] {
        assert_eq!(
            [None, Some(&thief), Some(&own)].map(|pair| identity(pair, "GET", path)),
            [401, 401, 200],
            "{path}"
        );
    }
    let body = "content-length: 14\r\ncontent-type: application/json\r\n\r\n{\"portal\":\"p\"}";
    let mint = |token: &str| {
        let authorization = format!("authorization: Bearer {token}");
        lab.ask(
            &gate,
            Some(&own),
            "POST",
            "/api/v1/identity/auth/token",
            &[&authorization, body],
        )
    };
    assert_eq!(
        mint(token.strip_prefix("authorization: Bearer ").unwrap()).code(),
        "token_invalid"
    );
    assert_eq!(mint(&gate.issuer.token("alice", &["viewer"])).status, 200, "the body is read");
    // no other door knows the client's connection
    let bare = token.strip_prefix("authorization: Bearer ").unwrap();
    let asked = gate.ask(
        "/authorize",
        &json!({"portal": "p", "token": bare, "action": "GET", "resource": {"type": "Path", "id": PAGE}}),
    );
    assert_eq!(asked.status, 401, "{}", asked.text());
    let header = format!("Bearer {bare}");
    let asked = raw(
        gate.decision,
        "GET",
        "/auth-request",
        &[
            ("authorization", header.as_str()),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-original-method", "GET"),
            ("x-original-url", &format!("https://shop.test{PAGE}")),
            ("x-forwarded-client-cert", "Hash=00"),
        ],
        b"",
    );
    assert_eq!(asked.status, 401, "{}", asked.text());
    // an unbound token needs no certificate, and a method that cannot be checked is refused with one
    for cnf in [
        json!({"jkt": URL_SAFE_NO_PAD.encode([1; 32])}),
        json!({"kid": "k"}),
        json!({}),
        json!(null),
    ] {
        let token = bound(&gate, cnf.clone());
        assert_eq!(
            lab.ask(&gate, Some(&own), "GET", PAGE, &[&token]).code(),
            "token_invalid",
            "{cnf}"
        );
    }
}

const IDENTITY: &str = "/api/v1/identity";
const JSON: &str = "content-type: application/json";

/// A `POST` with a body on a connection of its own.
fn post(lab: &Lab, gate: &Gate, own: &Pair, endpoint: &str, headers: &[&str], body: &str) -> Answer {
    let mut tls = lab.connect(gate, Some(own)).unwrap();
    let length = format!("content-length: {}", body.len());
    let last = format!("{JSON}\r\n\r\n{body}");
    let lines: Vec<&str> = headers.iter().copied().chain([&*length, &*last]).collect();
    exchange(&mut tls, "POST", &format!("{IDENTITY}/{endpoint}"), &lines).unwrap()
}

#[test]
fn a_certificate_alone_is_the_caller_of_the_identity_endpoints() {
    let lab = Lab::new();
    let gate = lab.start();
    let web = lab.clients.workload(WEB);
    let get = |own: Option<&Pair>, endpoint: &str, headers: &[&str]| {
        lab.ask(&gate, own, "GET", &format!("{IDENTITY}/{endpoint}"), headers)
    };
    let session = get(Some(&web), "auth/session?portal=p", &[]).json();
    assert_eq!(session["subject"], format!("mesh|{WEB}"), "{session}");
    let shown = (&session["issuer"], &session["tenant"], &session["auth"]["method"]);
    assert_eq!(shown, (&json!("mesh"), &json!("prod.test"), &json!("certificate")));
    let permissions = get(Some(&web), "permissions", &[]).json();
    assert_eq!(permissions["resource_types"]["Path"]["GET"], "allow", "{permissions}");
    let asked = json!({"resources": [{"type": "Path", "id": PAGE}], "actions": ["GET"]}).to_string();
    let answer = post(&lab, &gate, &web, "permissions", &[], &asked).json();
    assert_eq!(answer["resources"][0]["actions"]["GET"], "allow", "{answer}");

    // a workload without a permit has the permissions of that workload
    let other = lab.clients.workload("spiffe://prod.test/ns/shop/sa/other");
    let permissions = get(Some(&other), "permissions", &[]).json();
    assert_eq!(permissions["resource_types"]["Path"]["GET"], "deny", "{permissions}");
    // a token is the caller, and never falls back to the certificate
    let token = format!("authorization: Bearer {}", gate.issuer.token("alice", &["viewer"]));
    let session = get(Some(&web), "auth/session?portal=p", &[&token]).json();
    assert_eq!(session["subject"], "test|alice");
    let bad = "authorization: Bearer a.b.c";
    assert_eq!(get(Some(&web), "permissions", &[bad]).code(), "token_invalid");
    // another site's page cannot use a browser's certificate
    let evil = "origin: https://evil.test";
    assert_eq!(
        post(&lab, &gate, &web, "permissions", &[evil], &asked).code(),
        "origin_mismatch"
    );
    let own = "origin: https://shop.test";
    assert_eq!(post(&lab, &gate, &web, "permissions", &[own], &asked).status, 200);
    // a token that is bound to nothing is not minted of a certificate
    assert_eq!(
        post(&lab, &gate, &web, "auth/token", &[], "{\"portal\":\"p\"}").code(),
        "token_missing"
    );
    let foreign = lab.clients.workload("spiffe://test.test/ns/shop/sa/web");
    assert_eq!(get(Some(&foreign), "permissions", &[]).code(), "issuer_unknown");
    assert_eq!(get(None, "permissions", &[]).code(), "token_missing");
}

#[test]
fn a_certificate_means_nothing_at_the_identity_endpoints_of_a_portal_that_trusts_none() {
    let lab = Lab::new();
    let gate = lab
        .setup("client_auth: optional", MESH)
        .config("portals: { p: { issuers: [test] } }")
        .start();
    let web = lab.clients.workload(WEB);
    for endpoint in ["auth/session?portal=p", "permissions", "permissions/events"] {
        let answer = lab.ask(&gate, Some(&web), "GET", &format!("{IDENTITY}/{endpoint}"), &[]);
        assert_eq!(answer.code(), "token_missing", "{endpoint}");
    }
}

/// Reads until `end` has come, and nothing after it.
fn read_past(stream: &mut impl Read, end: &[u8]) {
    let mut received = Vec::new();
    while !received.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        received.extend(byte);
    }
}

#[test]
fn an_event_stream_ends_when_its_issuer_does_not_vouch_for_the_certificate_any_more() {
    let lab = Lab::new();
    let entry = MESH.replace("principal: Service", "principal: Service, ca_file: mesh.pem");
    let gate = lab
        .setup("client_auth: optional", &entry)
        .file("mesh.pem", &lab.clients.pem)
        .start();
    let web = lab.clients.workload(WEB);
    let mut stream = lab.connect(&gate, Some(&web)).unwrap();
    let request = format!("GET {IDENTITY}/permissions/events HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    read_past(&mut stream, b": permissions of p");
    // the listener still trusts the authority; the issuer does not
    gate.put("mesh.pem", &Authority::new("next").pem);
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("{\"reason\":\"revoked\"}"), "{rest}");
}

#[test]
fn a_streamed_answer_is_cut_when_its_issuer_does_not_vouch_for_the_certificate_any_more() {
    let lab = Lab::new();
    let app = ScriptedServer::start(|_head, wire| {
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        let _gone = wire.stream.read(&mut [0; 1]);
    });
    let entry = MESH.replace("principal: Service", "principal: Service, ca_file: mesh.pem");
    let gate = lab
        .setup("client_auth: optional", &entry)
        .file("mesh.pem", &lab.clients.pem)
        .config(&format!("upstream: {{ url: '{}' }}", app.url()))
        .start();
    let web = lab.clients.workload(WEB);
    let mut stream = lab.connect(&gate, Some(&web)).unwrap();
    let request = format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    read_past(&mut stream, b"hello\r\n");
    gate.put("mesh.pem", &Authority::new("next").pem);
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the stream was cut");
    let cut = "cedargate_live_connections_cut_total{reason=\"certificate\"} 1";
    assert!(gate.metrics().contains(cut), "{}", gate.metrics());
}

#[test]
fn mistakes_of_client_certificates_are_start_errors_that_name_their_key() {
    let lab = Lab::new();
    let refused = |setup: Setup| setup.try_start().err().expect("it started");
    let with = |entry: &str| refused(lab.setup("client_auth: optional", entry));
    for (entry, key) in [
        ("{ name: mesh, subject: spiffe }", "client_certificates[0].trust_domain"),
        (
            "{ name: mesh, subject: dns, trust_domain: a.test }",
            "client_certificates[0].trust_domain",
        ),
        (
            "{ name: mesh, subject: spiffe, trust_domain: 'spiffe://a' }",
            "client_certificates[0].trust_domain",
        ),
        ("{ name: test, subject: dns }", "client_certificates[0].name"),
        (
            "{ name: a, subject: dns }, { name: a, subject: email }",
            "client_certificates[1].name",
        ),
        (
            "{ name: mesh, subject: dns, ca_file: none.pem }",
            "client_certificates[0].ca_file",
        ),
        ("{ name: mesh }", "client_certificates[0].subject"),
    ] {
        let error = with(entry);
        assert!(error.contains(key), "{entry}: {error}");
    }
    let plain = Setup::portal(SCHEMA, POLICY).config(&format!("client_certificates: [{MESH}]"));
    assert!(refused(plain).contains("listen.proxy.tls.client_ca"));
    let stale = lab.setup("client_crl: ca.pem", MESH);
    assert!(refused(stale).contains("listen.proxy.tls.client_crl"));
}
