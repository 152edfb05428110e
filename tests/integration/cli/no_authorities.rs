//! An image without certificates of public authorities: the gate starts, says so once, and only TLS to public servers
//! fails.

use std::fs::File;
use std::process::Stdio;

use crate::support::binary::{GateFolder, GateProcess, cedargate};
use crate::support::certificates::Authority;
use crate::support::{PAGE, ScriptedServer, eventually, raw, response};

const NOWHERE: &str = "/nowhere/certificates";

/// A gate that finds no authorities, with its log in `log`.
fn serve_without_authorities(folder: &GateFolder) -> GateProcess {
    let log = File::create(folder.folder.path().join("log")).unwrap();
    let child = cedargate(&["serve"])
        .current_dir(folder.folder.path())
        .env("SSL_CERT_FILE", NOWHERE)
        .env("SSL_CERT_DIR", NOWHERE)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let process = GateProcess(child);
    let admin = folder.admin.to_string();
    eventually("the gate is ready", || {
        match folder.run(&["healthcheck", "--ready", "--address", &admin]) {
            (0, _, _) => Ok(()),
            (code, _, error) => Err(format!("{code}: {error}\n{}", log_of(folder))),
        }
    });
    process
}

fn log_of(folder: &GateFolder) -> String {
    std::fs::read_to_string(folder.folder.path().join("log")).unwrap()
}

fn ask(folder: &GateFolder) -> u16 {
    let bearer = format!("Bearer {}", folder.issuer.token("alice", &[]));
    raw(folder.proxy, "GET", PAGE, &[("authorization", &bearer)], b"").status
}

#[test]
fn a_gate_without_public_authorities_starts_says_so_once_and_serves() {
    let app = ScriptedServer::start(|_, wire| assert!(wire.send(response("200 OK", b"ok"))));
    let folder = GateFolder::new(&app.url(), "");
    let _process = serve_without_authorities(&folder);
    assert_eq!(ask(&folder), 200);
    let log = log_of(&folder);
    assert_eq!(log.matches("no public authority is trusted").count(), 1, "{log}");
    let (code, _, error) = folder.run(&["validate", "--config", "cedargate.yaml"]);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn without_public_authorities_only_tls_to_public_servers_fails_and_says_why() {
    // an app with TLS whose authority no key names
    let pair = Authority::new("public").issue("127.0.0.1");
    let app = tls_server(&pair.cert, &pair.key);
    let folder = GateFolder::new(&format!("https://{app}"), "");
    let _process = serve_without_authorities(&folder);
    assert_eq!(ask(&folder), 502);
    // a thread writes the log
    let log = eventually("the cause is in the log", || {
        let log = log_of(&folder);
        if log.contains("UnknownIssuer") { Ok(log) } else { Err(log) }
    });
    assert_eq!(log.matches("no public authority is trusted").count(), 1, "{log}");
}

/// A server that only shakes hands.
fn tls_server(cert: &str, key: &str) -> std::net::SocketAddr {
    use rustls::pki_types::pem::PemObject;
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
            while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        }
    });
    address
}
