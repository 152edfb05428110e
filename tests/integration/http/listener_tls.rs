//! TLS on the listeners: versions, ALPN, clients' certificates, and files that change while the gate runs.
//!
//! The client is rustls with certificates made for the test; what it must not reach is checked at the app.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};

use crate::support::certificates::{Authority, Pair};
use crate::support::http2_client::{Client, PREFACE, Runtime, request};
use crate::support::tls_client::{Tls, Trust, open};
use crate::support::{Gate, PAGE, RawConnection, Setup, eventually, open_portal};

const LISTEN: &str = "listen: { proxy: { address: '127.0.0.1:0', tls: { cert: tls.pem, key: tls.key } }, admin: { address: '127.0.0.1:0' }, decision: { address: '127.0.0.1:0' } }";
const LISTEN_CA: &str = "listen: { proxy: { address: '127.0.0.1:0', tls: { cert: tls.pem, key: tls.key, client_ca: ca.pem } }, admin: { address: '127.0.0.1:0' }, decision: null }";

/// One request on it; empty if there is no answer.
fn get(tls: &mut Tls, gate: &Gate) -> String {
    let token = gate.issuer.token("alice", &["viewer"]);
    let head = format!("GET {PAGE} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n\r\n");
    if tls.write_all(head.as_bytes()).is_err() {
        return String::new();
    }
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    while !received.ends_with(b"\"recording\"}") {
        match tls.read(&mut piece) {
            Ok(length @ 1..) => received.extend(&piece[..length]),
            _ => break,
        }
    }
    String::from_utf8(received).unwrap()
}

fn answered(config: &Arc<ClientConfig>, gate: &Gate) -> bool {
    open(gate.proxy, config).is_ok_and(|mut tls| get(&mut tls, gate).starts_with("HTTP/1.1 200"))
}

fn with(setup: Setup, pair: &Pair) -> Setup {
    setup.file("tls.pem", &pair.cert).file("tls.key", &pair.key)
}

fn counts(gate: &Gate, line: &str) {
    eventually(line, || {
        let metrics = gate.metrics();
        let found = metrics.lines().any(|l| l == line);
        found.then_some(()).ok_or(metrics)
    });
}

/// Replaces the file in one step: the gate would reject a half-written one.
fn replace(gate: &Gate, file: &str, content: &str) {
    gate.put("new", content);
    std::fs::rename(gate.path("new"), gate.path(file)).unwrap();
}

/// The certificate that a new client gets.
fn leaf(gate: &Gate, config: &Arc<ClientConfig>) -> Vec<u8> {
    let tls = open(gate.proxy, config).unwrap();
    tls.conn.peer_certificates().unwrap()[0].to_vec()
}

fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap().to_vec()
}

#[test]
fn tls_1_2_and_1_3_are_served_and_the_app_and_the_policy_see_https() {
    let authority = Authority::new("ours");
    let schema = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant] = { email?: String };
action GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS appliesTo { principal: [User], resource: [Path], context: { scheme: String } };";
    let policy = "@id(\"encrypted\") permit (principal, action, resource) when { context.scheme == \"https\" };";
    let setup = Setup::portal(schema, policy).config(LISTEN);
    let gate = with(setup, &authority.issue("shop.test")).start();
    for version in [&TLS12, &TLS13] {
        let trust = Trust {
            versions: vec![version],
            ..Trust::in_(&authority)
        };
        let mut tls = open(gate.proxy, &trust.config()).unwrap();
        assert_eq!(tls.conn.protocol_version().unwrap(), version.version);
        let answer = get(&mut tls, &gate);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(gate.app.last().headers["x-forwarded-proto"], "https");
    }
    // 2037-01-02
    counts(
        &gate,
        "cedargate_tls_certificate_expiry_timestamp_seconds{listener=\"proxy\"} 2114467200",
    );
}

#[test]
fn plain_text_on_a_tls_listener_is_closed() {
    let authority = Authority::new("ours");
    let gate = with(open_portal().config(LISTEN), &authority.issue("shop.test")).start();
    for start in [format!("GET {PAGE} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes(), PREFACE] {
        let mut wire = RawConnection::open(gate.proxy);
        wire.send(start);
        assert!(wire.read_answer("GET").is_none());
    }
    counts(&gate, "cedargate_http_rejected_total{reason=\"tls_handshake\"} 2");
    assert_eq!(gate.app.count(), 0);
    // a port probe is no failed handshake
    drop(RawConnection::open(gate.proxy));
    assert!(answered(&Trust::in_(&authority).config(), &gate));
    counts(&gate, "cedargate_http_rejected_total{reason=\"tls_handshake\"} 2");
}

#[test]
fn an_unfinished_tls_handshake_is_closed() {
    let authority = Authority::new("ours");
    let setup = open_portal()
        .config(LISTEN)
        .config("limits: { workers: 1, header_timeout: 300ms }");
    let gate = with(setup, &authority.issue("shop.test")).start();
    let mut wire = RawConnection::open(gate.proxy);
    // the start of a ClientHello
    wire.send([22, 3, 1, 2, 0, 1, 0]);
    assert!(wire.is_closed());
    counts(&gate, "cedargate_http_rejected_total{reason=\"tls_handshake\"} 1");
}

#[test]
fn alpn_decides_which_http_is_spoken() {
    let authority = Authority::new("ours");
    let gate = with(open_portal().config(LISTEN), &authority.issue("shop.test")).start();
    let trust = |alpn: &[&'static str]| {
        Trust {
            alpn: alpn.to_vec(),
            ..Trust::in_(&authority)
        }
        .config()
    };
    for (offered, chosen) in [
        (&["http/1.1"][..], Some(&b"http/1.1"[..])),
        (&[], None),
        (&["other", "http/1.1"], Some(b"http/1.1")),
    ] {
        let mut tls = open(gate.proxy, &trust(offered)).unwrap();
        assert_eq!(tls.conn.alpn_protocol(), chosen);
        assert!(get(&mut tls, &gate).starts_with("HTTP/1.1 200"));
    }
    // a client that negotiated one protocol may not use the other
    for (agreed, spoken) in [
        ("http/1.1", PREFACE),
        ("h2", &b"GET /portal/p/page HTTP/1.1\r\nhost: a\r\n\r\n"[..]),
    ] {
        let before = gate.app.count();
        let mut tls = open(gate.proxy, &trust(&[agreed])).unwrap();
        tls.write_all(spoken).unwrap();
        let mut received = Vec::new();
        drop(tls.read_to_end(&mut received));
        assert!(!received.windows(5).any(|w| w == b" 200 "), "{agreed}");
        assert_eq!(gate.app.count(), before);
    }
    assert!(open(gate.proxy, &trust(&["spdy/3"])).is_err());

    let runtime = Runtime::start();
    let both = trust(&["h2", "http/1.1"]);
    let stream = runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(gate.proxy).await.unwrap();
        let name = ServerName::try_from("shop.test").unwrap();
        tokio_rustls::TlsConnector::from(both).connect(name, tcp).await.unwrap()
    });
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = Client::over(runtime, stream);
    let mut asked = request(&gate, "POST", PAGE);
    *asked.uri_mut() = format!("https://shop.test{PAGE}").parse().unwrap();
    let answer = client.ask(asked, &[1; 100_000]).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = gate.app.last();
    assert_eq!(
        (seen.headers["x-forwarded-proto"].as_bytes(), seen.body.len()),
        (&b"https"[..], 100_000)
    );
}

#[test]
fn only_clients_with_a_certificate_of_the_authority_are_served() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let setup = open_portal().config(LISTEN_CA).file("ca.pem", &theirs.pem);
    let gate = with(setup, &ours.issue("shop.test")).start();
    let (good, foreign) = (theirs.issue("client"), ours.issue("client"));
    for version in [&TLS12, &TLS13] {
        let client = |own| {
            Trust {
                own,
                versions: vec![version],
                ..Trust::in_(&ours)
            }
            .config()
        };
        let with_good = client(Some(&good));
        assert!(answered(&with_good, &gate));
        // every connection verifies the certificate anew
        for _ in 0..2 {
            let mut tls = open(gate.proxy, &with_good).unwrap();
            assert!(get(&mut tls, &gate).starts_with("HTTP/1.1 200"));
            assert_ne!(tls.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        }
        let before = gate.app.count();
        assert!(!answered(&client(None), &gate), "no certificate");
        assert!(!answered(&client(Some(&foreign)), &gate), "a foreign certificate");
        assert_eq!(gate.app.count(), before);
    }
    counts(&gate, "cedargate_http_rejected_total{reason=\"tls_handshake\"} 4");
}

#[test]
fn a_client_of_a_replaced_authority_is_refused_even_by_resumption() {
    let (ours, first, second) = (Authority::new("ours"), Authority::new("first"), Authority::new("second"));
    let setup = open_portal().config(LISTEN_CA).file("ca.pem", &first.pem);
    let gate = with(setup, &ours.issue("shop.test")).start();
    let (of_first, of_second) = (first.issue("client"), second.issue("client"));
    let client = |own| {
        Trust {
            own: Some(own),
            ..Trust::in_(&ours)
        }
        .config()
    };
    let (old, new) = (client(&of_first), client(&of_second));
    assert!(answered(&old, &gate) && answered(&old, &gate) && !answered(&new, &gate));
    gate.put("ca.pem", &second.pem);
    counts(&gate, "cedargate_tls_reload_total{listener=\"proxy\",result=\"success\"} 1");
    assert!(answered(&new, &gate));
    assert!(!answered(&old, &gate), "a client of the old authority came in");
}

#[test]
fn sessions_are_resumed_until_the_certificate_changes() {
    let authority = Authority::new("ours");
    let gate = with(open_portal().config(LISTEN), &authority.issue("shop.test")).start();
    for version in [&TLS12, &TLS13] {
        let config = Trust {
            versions: vec![version],
            ..Trust::in_(&authority)
        }
        .config();
        let kind = |gate: &Gate| {
            let mut tls = open(gate.proxy, &config).unwrap();
            assert!(get(&mut tls, gate).starts_with("HTTP/1.1 200"));
            tls.conn.handshake_kind().unwrap()
        };
        assert_ne!(kind(&gate), HandshakeKind::Resumed);
        assert_eq!(kind(&gate), HandshakeKind::Resumed);
        let before = gate.metrics();
        let pair = authority.issue("shop.test");
        gate.put("tls.key", &pair.key);
        gate.put("tls.pem", &pair.cert);
        eventually("the new certificate is in force", || {
            let reloads = |text: &str| {
                let line = text.lines().find(|l| l.contains("tls_reload_total") && l.contains("success"));
                line.map(str::to_owned)
            };
            let now = gate.metrics();
            (reloads(&now) != reloads(&before)).then_some(()).ok_or(now)
        });
        assert_ne!(kind(&gate), HandshakeKind::Resumed);
        assert_eq!(kind(&gate), HandshakeKind::Resumed);
    }
}

#[test]
fn a_changed_certificate_is_taken_up_and_open_connections_go_on() {
    let authority = Authority::new("ours");
    let (first, second) = (authority.issue("shop.test"), authority.issue("shop.test"));
    let gate = with(open_portal().config(LISTEN), &first).start();
    let config = Trust::in_(&authority).config();
    let mut before = open(gate.proxy, &config).unwrap();
    assert!(get(&mut before, &gate).starts_with("HTTP/1.1 200"));
    assert_eq!(leaf(&gate, &config), der(&first));
    gate.put("tls.pem", &second.cert);
    gate.put("tls.key", &second.key);
    eventually("new clients get the new certificate", || {
        (leaf(&gate, &config) == der(&second)).then_some(()).ok_or(gate.metrics())
    });
    assert!(get(&mut before, &gate).starts_with("HTTP/1.1 200"));
    let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    assert!(log.contains("tls_reloaded"), "{log}");
}

#[test]
fn bad_files_leave_the_old_certificate_in_force_and_are_logged_once() {
    let (authority, ca) = (Authority::new("ours"), Authority::new("clients"));
    let (first, second) = (authority.issue("shop.test"), authority.issue("shop.test"));
    let setup = open_portal().config(LISTEN_CA).file("ca.pem", &ca.pem);
    let gate = with(setup, &first).start();
    let own = ca.issue("client");
    let config = Trust {
        own: Some(&own),
        ..Trust::in_(&authority)
    }
    .config();
    let broken: [(&str, Option<&str>); 8] = [
        ("tls.pem", Some("no certificate")),
        // the other file of the pair is missing
        ("tls.pem", Some(&second.cert)),
        (
            "tls.key",
            Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ),
        ("tls.key", Some("")),
        ("tls.key", None),
        ("ca.pem", Some("")),
        (
            "ca.pem",
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ),
        ("ca.pem", None),
    ];
    for (n, (file, content)) in broken.into_iter().enumerate() {
        let good = std::fs::read_to_string(gate.path(file)).unwrap();
        match content {
            Some(content) => replace(&gate, file, content),
            None => std::fs::remove_file(gate.path(file)).unwrap(),
        }
        let rejected = format!(
            "cedargate_tls_reload_total{{listener=\"proxy\",result=\"rejected\"}} {}",
            n + 1
        );
        counts(&gate, &rejected);
        assert_eq!(leaf(&gate, &config), der(&first), "{file}");
        assert!(answered(&config, &gate), "{file}");
        replace(&gate, file, &good);
        let restored = format!(
            "cedargate_tls_reload_total{{listener=\"proxy\",result=\"success\"}} {}",
            n + 1
        );
        counts(&gate, &restored);
        // the failure is counted once
        counts(&gate, &rejected);
    }
    let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    assert!(log.contains("tls_rejected") && log.contains("tls.key"), "{log}");
    assert!(!log.contains("BEGIN"), "{log}");
}

#[test]
fn a_certificate_that_is_not_valid_now_never_replaces_a_good_one() {
    let authority = Authority::new("ours");
    let good = authority.issue("shop.test");
    let gate = with(open_portal().config(LISTEN), &good).start();
    let config = Trust::in_(&authority).config();
    let now = u64::try_from(crate::support::now()).unwrap();
    let renewed = |from, to| authority.renew(&good, "shop.test", from, to);
    let rejected = |n| {
        counts(
            &gate,
            &format!("cedargate_tls_reload_total{{listener=\"proxy\",result=\"rejected\"}} {n}"),
        )
    };
    replace(&gate, "tls.pem", &renewed(now - 100, now - 10));
    rejected(1);
    assert_eq!(leaf(&gate, &config), der(&good), "an expired one");
    let early = renewed(now + 6, now + 10_000);
    replace(&gate, "tls.pem", &early);
    rejected(2);
    assert_eq!(leaf(&gate, &config), der(&good), "one that is not valid yet");
    let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    assert!(log.contains("expired at ") && log.contains("is not valid before "), "{log}");
    // it is taken up at its time, although no file changes
    counts(&gate, "cedargate_tls_reload_total{listener=\"proxy\",result=\"success\"} 1");
    let early = Pair {
        cert: early,
        key: good.key.clone(),
    };
    assert_eq!(leaf(&gate, &config), der(&early));
    rejected(2);
}

#[test]
fn a_gate_whose_certificate_expired_starts_and_takes_the_next_one() {
    let authority = Authority::new("ours");
    let good = authority.issue("shop.test");
    let now = u64::try_from(crate::support::now()).unwrap();
    let expired = authority.renew(&good, "shop.test", now - 100, now - 10);
    let expired = Pair {
        cert: expired,
        key: good.key.clone(),
    };
    let gate = with(open_portal().config(LISTEN), &expired).start();
    replace(&gate, "tls.pem", &good.cert);
    counts(&gate, "cedargate_tls_reload_total{listener=\"proxy\",result=\"success\"} 1");
    assert!(answered(&Trust::in_(&authority).config(), &gate));
}

#[test]
fn a_folder_swapped_by_a_symbolic_link_is_followed() {
    let authority = Authority::new("ours");
    let (first, second) = (authority.issue("shop.test"), authority.issue("shop.test"));
    let mut setup = open_portal().config(&LISTEN.replace("tls.pem", "mount/tls.crt").replace("tls.key", "mount/tls.key"));
    for (folder, pair) in [("mount/..1", &first), ("mount/..2", &second)] {
        setup = setup
            .file(&format!("{folder}/tls.crt"), &pair.cert)
            .file(&format!("{folder}/tls.key"), &pair.key);
    }
    // the symbolic link to the files does not exist yet: the gate does not start
    let error = setup.try_start().err().unwrap();
    assert!(
        error.contains("mount/tls.crt") && error.contains("listen.proxy.tls.cert"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path();
    let link = |to: &str| {
        let new = mount.join("..new");
        std::os::unix::fs::symlink(to, &new).unwrap();
        std::fs::rename(&new, mount.join("..data")).unwrap();
    };
    for (name, pair) in [("..1", &first), ("..2", &second)] {
        std::fs::create_dir(mount.join(name)).unwrap();
        std::fs::write(mount.join(name).join("tls.crt"), &pair.cert).unwrap();
        std::fs::write(mount.join(name).join("tls.key"), &pair.key).unwrap();
    }
    link("..1");
    for file in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), mount.join(file)).unwrap();
    }
    let listen = LISTEN
        .replace("tls.pem", &mount.join("tls.crt").display().to_string())
        .replace("tls.key", &mount.join("tls.key").display().to_string());
    let gate = open_portal().config(&listen).start();
    let config = Trust::in_(&authority).config();
    assert_eq!(leaf(&gate, &config), der(&first));
    link("..2");
    eventually("the other folder's certificate is in force", || {
        (leaf(&gate, &config) == der(&second)).then_some(()).ok_or(gate.metrics())
    });
    assert!(!gate.metrics().contains("result=\"rejected\"} 1"));
}

#[test]
fn the_gate_does_not_start_with_unusable_tls_files() {
    let authority = Authority::new("ours");
    let (pair, other) = (authority.issue("shop.test"), authority.issue("shop.test"));
    let both = |cert: &str, key: &str| {
        with(
            open_portal(),
            &Pair {
                cert: cert.to_owned(),
                key: key.to_owned(),
            },
        )
    };
    let ca = |content: &str| with(open_portal(), &pair).file("ca.pem", content).config(LISTEN_CA);
    let cases = [
        (open_portal().config(LISTEN), "tls.pem", "listen.proxy.tls.cert"),
        (
            open_portal().file("tls.pem", &pair.cert).config(LISTEN),
            "tls.key",
            "listen.proxy.tls.key",
        ),
        (both("", &pair.key).config(LISTEN), "tls.pem", "listen.proxy.tls.cert"),
        (both(&pair.key, &pair.key).config(LISTEN), "tls.pem", "listen.proxy.tls.cert"),
        (both(&pair.cert, &pair.cert).config(LISTEN), "tls.key", "listen.proxy.tls.key"),
        (both(&pair.cert, &other.key).config(LISTEN), "tls.key", "listen.proxy.tls.key"),
        (ca(""), "ca.pem", "listen.proxy.tls.client_ca"),
        (ca("nothing"), "ca.pem", "listen.proxy.tls.client_ca"),
    ];
    for (setup, file, key) in cases {
        let error = setup
            .try_start()
            .err()
            .unwrap_or_else(|| panic!("it started with a bad {file}"));
        assert!(error.contains(file) && error.contains(key), "{error}");
        assert!(!error.contains("BEGIN"), "{error}");
    }
}

#[test]
fn the_decision_listener_has_certificates_of_its_own() {
    let (ours, apps) = (Authority::new("ours"), Authority::new("apps"));
    let listen = "listen: { proxy: { address: '127.0.0.1:0' }, admin: { address: '127.0.0.1:0' }, decision: { address: '127.0.0.1:0', tls: { cert: tls.pem, key: tls.key, client_ca: ca.pem } } }";
    let setup = open_portal().config(listen).file("ca.pem", &apps.pem);
    let gate = with(setup, &ours.issue("shop.test")).start();
    let ask = |own: Option<&Pair>| {
        let trust = Trust {
            own,
            ..Trust::in_(&ours)
        };
        let mut tls = open(gate.decision, &trust.config()).ok()?;
        let head = "POST /authorize HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        tls.write_all(head.as_bytes()).ok()?;
        let mut received = Vec::new();
        drop(tls.read_to_end(&mut received));
        (!received.is_empty()).then_some(received)
    };
    let app = apps.issue("app");
    let answer = String::from_utf8(ask(Some(&app)).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(ask(None).is_none());
    the_doors_of_proxies_take_the_same_certificates(&gate, &ours, &app);
    assert!(gate.get(PAGE, &gate.issuer.token("alice", &["viewer"])).status == 200);
}

/// A proxy shows a certificate of the decision listener's authority, and no other.
fn the_doors_of_proxies_take_the_same_certificates(gate: &Gate, ours: &Authority, app: &Pair) {
    let stranger = Authority::new("another").issue("app");
    let token = gate.issuer.token("alice", &["viewer"]);
    let stated = "x-forwarded-for: 10.1.2.3\r\nx-forwarded-proto: https\r\n";
    for (path, lines) in [
        ("/ext-authz/portal/p/page", String::new()),
        (
            "/forward-auth",
            "x-forwarded-method: GET\r\nx-forwarded-uri: /portal/p/page\r\nx-forwarded-host: shop.test\r\n".to_owned(),
        ),
        (
            "/auth-request",
            "x-original-method: GET\r\nx-original-url: https://shop.test/portal/p/page\r\n".to_owned(),
        ),
    ] {
        let ask = |own: Option<&Pair>, credential: &str| {
            let trust = Trust { own, ..Trust::in_(ours) };
            let mut tls = open(gate.decision, &trust.config()).ok()?;
            let head = format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n{stated}{lines}{credential}\r\n");
            tls.write_all(head.as_bytes()).ok()?;
            let mut received = Vec::new();
            drop(tls.read_to_end(&mut received));
            String::from_utf8(received).ok().filter(|answer| !answer.is_empty())
        };
        let permitted = ask(Some(app), &format!("authorization: Bearer {token}\r\n")).unwrap();
        assert!(permitted.starts_with("HTTP/1.1 200"), "{path}: {permitted}");
        let refused = ask(Some(app), "").unwrap();
        assert!(refused.starts_with("HTTP/1.1 401"), "{path}: {refused}");
        for own in [None, Some(&stranger)] {
            assert!(ask(own, &format!("authorization: Bearer {token}\r\n")).is_none(), "{path}");
        }
    }
}
