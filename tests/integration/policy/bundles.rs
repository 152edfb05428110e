//! Policy bundles: from a real file server and a real registry, and from servers that misbehave.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::support::binary::run;
use crate::support::file_server::FileServer;
use crate::support::registry::{Registry, USER};
use crate::support::{Gate, OPEN_POLICY, OPEN_SCHEMA, PAGE, ScriptedServer, Setup, eventually, put, raw, response};

const CLOSED: &str = "@id(\"closed\") forbid (principal, action, resource);";
const STOP: &str = "policies/p/_deny/stop.cedar";
const MEDIA_TYPE: &str = "application/vnd.cedargate.bundle.v1.tar+gzip";

/// A folder with a tree, a key pair, and the state of a gate.
struct Publisher {
    folder: tempfile::TempDir,
}

impl Publisher {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Self { folder };
        publisher.put("schemas/p.cedarschema", OPEN_SCHEMA);
        publisher.put("policies/p/main.cedar", OPEN_POLICY);
        assert_eq!(publisher.run(&["bundle", "keygen", "policy"]), 0);
        assert_eq!(publisher.run(&["bundle", "keygen", "other"]), 0);
        publisher
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        put(self.folder.path(), name, text);
    }

    fn run(&self, arguments: &[&str]) -> i32 {
        let (code, _, error) = run(self.folder.path(), arguments);
        assert!(code == 0 || !error.is_empty());
        code
    }

    /// Builds a bundle of the tree as it is now.
    fn build(&self, sequence: u64, key: Option<&str>, output: &Path) {
        let sequence = sequence.to_string();
        let mut arguments = vec![
            "bundle",
            "build",
            "--danger-invalid",
            "--sequence",
            &sequence,
            "--output",
            output.to_str().unwrap(),
        ];
        arguments.extend(key.iter().flat_map(|key| ["--key", key]));
        let (code, _, error) = run(self.folder.path(), &arguments);
        assert_eq!(code, 0, "{error}");
        made_at_another_second(output);
    }

    fn publish(&self, sequence: u64, output: &Path) {
        self.build(sequence, Some("policy.key"), output);
    }

    fn setup(&self, url: &str, more: &str) -> Setup {
        let dir = self.folder.path().display();
        Setup::empty()
            .config(&format!(
                "policies: {{ poll: 200ms, state_dir: '{dir}/state', bundle: {{ url: '{url}', keys: ['{dir}/policy.pub'], poll: 1s{more} }} }}"
            ))
            .config(&format!(
                "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: {{ address: '127.0.0.1:0' }}, admin: {{ address: '127.0.0.1:0' }}, \
                 control: {{ address: 'unix:{dir}/control.sock' }} }}"
            ))
    }

    fn from(&self, server: &FileServer) -> Setup {
        self.setup(
            &server.url("b.tar.gz"),
            &format!(", ca_file: '{}'", server.authority.display()),
        )
    }

    /// `cedargate reload`: asks the server now, and returns the exit code.
    fn reload(&self) -> i32 {
        let socket = self.path("control.sock");
        run(self.folder.path(), &["reload", "--socket", socket.to_str().unwrap()]).0
    }
}

/// nginx makes the ETag of size and second: two bundles of one size and one second would be one to it.
fn made_at_another_second(file: &Path) {
    static SECONDS: AtomicU64 = AtomicU64::new(1_700_000_000);
    let second = Duration::from_secs(SECONDS.fetch_add(1, Ordering::Relaxed));
    let file = std::fs::File::options().append(true).open(file).unwrap();
    file.set_modified(UNIX_EPOCH + second).unwrap();
}

fn status_of_page(gate: &Gate) -> u16 {
    gate.get(PAGE, &gate.issuer.token("alice", &[])).status
}

fn becomes(gate: &Gate, status: u16) {
    eventually("the page's status changes", || match status_of_page(gate) {
        found if found == status => Ok(()),
        found => Err(format!("{found}: {}", gate.status()["bundle"])),
    });
}

fn bundle(gate: &Gate) -> Value {
    gate.status()["bundle"].clone()
}

/// Waits until the last attempt failed with these words.
fn fails_with(gate: &Gate, words: &str) {
    eventually("the reason is shown", || {
        let bundle = bundle(gate);
        let error = bundle["last_error"].as_str().unwrap_or_default().to_owned();
        if error.contains(words) {
            Ok(())
        } else {
            Err(bundle.to_string())
        }
    });
}

fn readiness(gate: &Gate) -> String {
    raw(gate.admin, "GET", "/readyz", &[], b"").text()
}

#[test]
fn a_gate_follows_a_bundle_and_a_poll_without_change_costs_one_304() {
    let (server, publisher) = (FileServer::start(), Publisher::new());
    let gate = publisher.from(&server).start();
    fails_with(&gate, "answered 404 Not Found");
    assert_eq!(readiness(&gate), "waiting for: the first policy bundle\n");
    assert_eq!(status_of_page(&gate), 404, "without a portal");
    publisher.publish(1, &server.file("b.tar.gz"));
    becomes(&gate, 200);
    eventually("the gate is ready", || match readiness(&gate) {
        text if text == "ok\n" => Ok(()),
        text => Err(text),
    });
    assert_eq!(bundle(&gate)["sequence"], 1);
    assert_eq!(bundle(&gate)["last_error"], Value::Null);
    for _ in 0..40 {
        assert_eq!(publisher.reload(), 0);
    }
    let before = server.answered(304);
    let socket = publisher.path("control.sock");
    for _ in 0..1000 {
        reload_over(&socket);
    }
    eventually("nginx has logged all", || {
        let (full, unchanged) = (server.answered(200), server.answered(304) - before);
        if full == 1 && unchanged >= 1000 {
            Ok(())
        } else {
            Err(format!("{full} full, {unchanged} unchanged"))
        }
    });
    let metrics = gate.metrics();
    assert!(
        metrics.contains("cedargate_bundle_refresh_total{result=\"updated\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("cedargate_bundle_sequence 1\n"), "{metrics}");
    publisher.put("policies/p/main.cedar", CLOSED);
    publisher.publish(2, &server.file("b.tar.gz"));
    assert_eq!(publisher.reload(), 0);
    assert_eq!(status_of_page(&gate), 403, "after `reload` the new bundle is in force");
    assert_eq!(server.answered(200), 2);
}

fn reload_over(socket: &Path) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream
        .write_all(b"POST /reload HTTP/1.1\r\nhost: control\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_refused_bundle_leaves_the_last_one_in_use_also_after_a_restart() {
    let (mut server, publisher) = (FileServer::start(), Publisher::new());
    let served = server.file("b.tar.gz");
    publisher.publish(5, &served);
    let gate = publisher.from(&server).start();
    becomes(&gate, 200);
    publisher.put("policies/p/main.cedar", CLOSED);
    let refuse = |words: &str| {
        assert_eq!(publisher.reload(), 1, "{words}");
        fails_with(&gate, words);
        assert_eq!(status_of_page(&gate), 200, "{words}");
        assert_eq!(bundle(&gate)["sequence"], 5, "{words}");
    };
    publisher.publish(4, &served);
    refuse("lower than 5");
    publisher.publish(5, &served);
    refuse("taken with other content");
    publisher.build(6, None, &served);
    refuse("has no signature");
    publisher.build(7, Some("other.key"), &served);
    refuse("no trusted key signed it");
    publisher.publish(8, &served);
    let mut bytes = std::fs::read(&served).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&served, bytes).unwrap();
    refuse("the bundle is refused");
    let refused = "cedargate_bundle_refresh_total{result=\"refused\"} ";
    assert!(gate.metrics().contains(refused), "{}", gate.metrics());
    gate.stop();
    // a restart with no server: the kept bundle serves
    server.stop();
    let gate = publisher.from(&server).start();
    assert_eq!((status_of_page(&gate), readiness(&gate).as_str()), (200, "ok\n"));
    fails_with(&gate, "cannot fetch");
    server.resume();
    publisher.publish(4, &served);
    assert_eq!(publisher.reload(), 1);
    fails_with(&gate, "lower than 5");
    publisher.publish(9, &served);
    assert_eq!(publisher.reload(), 0);
    assert_eq!(status_of_page(&gate), 403);
    gate.stop();
    // told so, the gate takes an older one
    publisher.put("policies/p/main.cedar", OPEN_POLICY);
    publisher.publish(3, &served);
    let more = format!(", ca_file: '{}', danger_allow_rollback: true", server.authority.display());
    let gate = publisher.setup(&server.url("b.tar.gz"), &more).start();
    becomes(&gate, 200);
    assert_eq!(bundle(&gate)["sequence"], 3);
}

#[test]
fn a_kept_bundle_is_verified_again_when_it_is_read() {
    let (mut server, publisher) = (FileServer::start(), Publisher::new());
    publisher.publish(5, &server.file("b.tar.gz"));
    let gate = publisher.from(&server).start();
    becomes(&gate, 200);
    gate.stop();
    server.stop();
    // an attacker with the disk, without the key
    for name in ["state/bundle/latest.tar.gz", "state/bundle/good.tar.gz"] {
        publisher.build(6, Some("other.key"), &publisher.path(name));
    }
    let gate = publisher.from(&server).start();
    assert_eq!(
        (status_of_page(&gate), readiness(&gate).as_str()),
        (404, "waiting for: the first policy bundle\n")
    );
    // the sequence number is remembered all the same
    server.resume();
    publisher.publish(4, &server.file("b.tar.gz"));
    assert_eq!(publisher.reload(), 1);
    fails_with(&gate, "lower than 5");
    publisher.publish(5, &server.file("b.tar.gz"));
    assert_eq!(publisher.reload(), 0);
    becomes(&gate, 200);
}

#[test]
fn a_broken_portal_keeps_its_last_good_revision_and_emergency_forbids_join_it() {
    let (mut server, publisher) = (FileServer::start(), Publisher::new());
    let served = server.file("b.tar.gz");
    publisher.put("schemas/q.cedarschema", OPEN_SCHEMA);
    publisher.put("policies/q/main.cedar", OPEN_POLICY);
    publisher.publish(1, &served);
    let gate = publisher.from(&server).start();
    becomes(&gate, 200);
    // one portal may be in force before the others are loaded; the bundle is kept once all are
    eventually("the bundle is kept as the last good one", || {
        match publisher.path("state/bundle/good.tar.gz").exists() {
            true => Ok(()),
            false => Err(gate.status()["bundle"].to_string()),
        }
    });
    publisher.put(
        "policies/p/main.cedar",
        "permit (principal, action, resource == Nothing::\"x\");",
    );
    publisher.put("policies/q/main.cedar", CLOSED);
    publisher.publish(2, &served);
    assert_eq!(publisher.reload(), 1, "one portal is rejected");
    let other = |gate: &Gate| gate.get("/portal/q/page", &gate.issuer.token("alice", &[])).status;
    assert_eq!((status_of_page(&gate), other(&gate)), (200, 403));
    assert_eq!(bundle(&gate)["sequence"], 2);
    gate.stop();
    // as after a crash of the pod, with the server gone as well
    server.stop();
    let gate = publisher.from(&server).start();
    assert_eq!((status_of_page(&gate), other(&gate)), (200, 403));
    server.resume();
    publisher.put(STOP, CLOSED);
    publisher.publish(3, &served);
    assert_eq!(publisher.reload(), 1, "the portal is still broken");
    becomes(&gate, 403);
    std::fs::remove_file(publisher.path(STOP)).unwrap();
    publisher.publish(4, &served);
    assert_eq!(publisher.reload(), 1);
    becomes(&gate, 200);
}

#[test]
fn a_new_key_file_lets_a_refused_bundle_in_without_a_restart() {
    let (server, publisher) = (FileServer::start(), Publisher::new());
    publisher.build(1, Some("other.key"), &server.file("b.tar.gz"));
    let gate = publisher.from(&server).start();
    fails_with(&gate, "no trusted key signed it");
    eventually("a refused bundle is not sent again", || {
        let unchanged = server.answered(304);
        if unchanged >= 2 { Ok(()) } else { Err(unchanged.to_string()) }
    });
    assert_eq!(server.answered(200), 1);
    std::fs::copy(publisher.path("other.pub"), publisher.path("policy.pub")).unwrap();
    becomes(&gate, 200);
}

#[test]
fn a_bundle_of_another_name_or_below_the_least_sequence_is_refused() {
    let (server, publisher) = (FileServer::start(), Publisher::new());
    let more = format!(", ca_file: '{}', name: shop, sequence_min: 7", server.authority.display());
    publisher.publish(7, &server.file("b.tar.gz"));
    let gate = publisher.setup(&server.url("b.tar.gz"), &more).start();
    fails_with(&gate, "its name is `absent`, and policies.bundle.name is `shop`");
    let output = server.file("b.tar.gz");
    let named = |sequence: &str| {
        let output = output.to_str().unwrap();
        publisher.run(&[
            "bundle",
            "build",
            "--name",
            "shop",
            "--sequence",
            sequence,
            "--key",
            "policy.key",
            "--output",
            output,
        ])
    };
    assert_eq!(named("6"), 0);
    made_at_another_second(&output);
    fails_with(&gate, "lower than 7 (policies.bundle.sequence_min)");
    assert_eq!(named("8"), 0);
    made_at_another_second(&output);
    becomes(&gate, 200);
    assert_eq!(bundle(&gate)["name"], "shop");
}

#[test]
fn a_bundle_comes_from_a_real_registry() {
    let (registry, publisher) = (Registry::start(), Publisher::new());
    publisher.put("password", USER.1);
    let archive = publisher.path("b.tar.gz");
    let more = format!(
        ", user: {}, password_file: '{}'",
        USER.0,
        publisher.path("password").display()
    );
    let url = format!("oci+http://{}/policies/shop:prod", registry.host());
    let gate = publisher.setup(&url, &more).start();
    fails_with(&gate, "answered 404 Not Found");
    publisher.publish(1, &archive);
    registry.push(&archive, "policies/shop:prod", MEDIA_TYPE);
    becomes(&gate, 200);
    publisher.put("policies/p/main.cedar", CLOSED);
    publisher.publish(2, &archive);
    registry.push(&archive, "policies/shop:prod", MEDIA_TYPE);
    assert_eq!(publisher.reload(), 0);
    assert_eq!(status_of_page(&gate), 403);
    for _ in 0..20 {
        assert_eq!(publisher.reload(), 0);
    }
    let metrics = gate.metrics();
    assert!(
        metrics.contains("cedargate_bundle_refresh_total{result=\"updated\"} 2\n"),
        "{metrics}"
    );
    registry.push(&archive, "policies/shop:prod", "application/octet-stream");
    assert_eq!(publisher.reload(), 1);
    fails_with(&gate, "the layer's type is `application/octet-stream`");
    publisher.put("password", "wrong");
    fails_with(&gate, "answered 401 Unauthorized; check `user`");
    assert_eq!(status_of_page(&gate), 403);
}

/// A registry that asks for a token and redirects blobs, as those of clouds do.
#[test]
fn the_token_and_the_password_go_only_where_they_belong() {
    let publisher = Publisher::new();
    let archive = publisher.path("b.tar.gz");
    publisher.publish(1, &archive);
    let blob = std::fs::read(&archive).unwrap();
    let digest = sha256(&archive);
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{}},"layers":[{{"mediaType":"{MEDIA_TYPE}","digest":"sha256:{digest}","size":{}}}]}}"#,
        blob.len()
    );
    let storage = ScriptedServer::start(move |_, wire| {
        wire.send(response("200 OK", &blob));
    });
    let service = ScriptedServer::start(|head, wire| {
        let is_known = head.to_lowercase().contains("authorization: basic z2f0ztpvcgvuihnlc2ftzq==");
        assert!(
            head.contains("service=reg&scope=repository%3Apolicies%2Fshop%3Apull"),
            "{head}"
        );
        let body: &[u8] = if is_known {
            br#"{"token":"t0ken","expires_in":60}"#
        } else {
            b"{}"
        };
        wire.send(response("200 OK", body));
    });
    let (storage_url, service_url) = (storage.url(), service.url());
    let registry = ScriptedServer::start(move |head, wire| {
        let lower = head.to_lowercase();
        if !lower.contains("authorization: bearer t0ken") {
            let challenge = format!("Bearer realm=\"{service_url}/token\",service=\"reg\"");
            let head = format!(
                "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            wire.send(head.as_bytes());
        } else if head.starts_with("HEAD ") {
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n");
        } else if head.contains("/manifests/prod ") {
            wire.send(response("200 OK", manifest.as_bytes()));
        } else {
            let head = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: {storage_url}/x?signature=1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            wire.send(head.as_bytes());
        }
    });
    let more = format!(", user: {}, password: '{}'", USER.0, USER.1);
    let url = format!("oci+http://{}/policies/shop:prod", registry.address);
    let gate = publisher.setup(&url, &more).start();
    becomes(&gate, 200);
    gate.stop();
    let heads = storage.heads.lock().unwrap();
    assert_eq!(heads.len(), 1, "without a change the layer is not read again");
    assert!(
        heads[0].starts_with("GET /x?signature=1 ") && !heads[0].to_lowercase().contains("authorization"),
        "{heads:?}"
    );
    assert!(service.count() >= 1);
    assert!(
        !registry
            .heads
            .lock()
            .unwrap()
            .iter()
            .any(|head| head.to_lowercase().contains("basic "))
    );
}

fn sha256(file: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn servers_that_misbehave_are_bounded_and_named() {
    let publisher = Publisher::new();
    for (answer, words) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"[..],
            "sends more than 4096 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n",
            "sends more than 4096 bytes",
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://files.test/x\r\ncontent-length: 0\r\n\r\n",
            "redirects to `http://files.test/x`, which is not https",
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "redirects more than 5 times",
        ),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "answered 304"),
        (
            b"HTTP/1.1 503 Busy\r\nretry-after: 99999\r\ncontent-length: 0\r\n\r\n",
            "answered 503",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "it is not a bundle"),
        (b"nonsense\r\n\r\n", "cannot fetch"),
        (b"", "did not answer in time (policies.bundle.timeout)"),
    ] {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let server = ScriptedServer::start(move |_, wire| {
            wire.send([answer, &[b'x'; 8192][..if answer.ends_with(b"ffff\r\n") { 8192 } else { 0 }]].concat());
            while answer.is_empty() && !over.load(Ordering::Relaxed) {
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
        });
        let gate = publisher
            .setup(&format!("{}/b", server.url()), ", timeout: 1s, bytes_max: 4KiB")
            .start();
        fails_with(&gate, words);
        is_over.store(true, Ordering::Relaxed);
        gate.stop();
    }
}
