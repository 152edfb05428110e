//! Gates with wrong clocks on one Redis. The real binary runs under libfaketime, which moves its wall clock only.

use std::path::PathBuf;
use std::process::Stdio;

use crate::support::binary::{GateFolder, GateProcess, cedargate};
use crate::support::redis::Redis;
use crate::support::session_client::{PORTAL_YAML, log_in_at, users};
use crate::support::{App, PAGE, eventually, raw};

/// libfaketime of the package `faketime`, in the folder of this machine's architecture.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = libraries.into_iter().find(|library| library.exists());
    found.expect("libfaketime is missing; run `make tools`")
}

/// A gate whose wall clock differs from the machine's.
struct SkewedGate {
    folder: GateFolder,
    _process: GateProcess,
}

impl SkewedGate {
    /// `offset` in seconds.
    fn start(redis: &Redis, app: &App, offset: i64) -> Self {
        let more = format!(
            "public_url: 'https://shop.test'\n\
             login: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}\n\
             sessions: {{ store: redis, key_file: keys, redis: {{ url: '{}', key_prefix: 'cedargate:test:' }} }}\n\
             policies: {{ poll: 1s }}\nlimits: {{ rate_login: {{ requests: 1000, per: 1m }} }}",
            redis.url()
        );
        let folder = GateFolder::new(&format!("http://{}", app.address), &more);
        folder.put("keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        folder.put("users.yaml", &users());
        folder.put("policies/p/portal.yaml", PORTAL_YAML);
        let config = std::fs::read_to_string(folder.folder.path().join("cedargate.yaml")).unwrap();
        let control = format!(
            "control: {{ address: 'unix:{}' }}, decision: null",
            folder.folder.path().join("control").display()
        );
        folder.put("cedargate.yaml", &config.replace("decision: null", &control));
        let process = cedargate(&["serve"])
            .current_dir(folder.folder.path())
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME", format!("{offset:+}s"))
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let gate = Self {
            folder,
            _process: GateProcess(process),
        };
        let admin = gate.folder.admin.to_string();
        eventually("the gate is ready", || {
            match gate.folder.run(&["healthcheck", "--ready", "--address", &admin]) {
                (0, _, _) => Ok(()),
                (code, _, error) => Err(format!("{code}: {error}")),
            }
        });
        gate
    }

    fn status(&self, cookie: &str) -> u16 {
        raw(self.folder.proxy, "GET", PAGE, &[("cookie", cookie)], b"").status
    }

    fn served(&self, cookie: &str) {
        eventually("the session is served", || match self.status(cookie) {
            200 => Ok(()),
            other => Err(other.to_string()),
        });
    }

    fn refused(&self, cookie: &str) {
        eventually("the session has ended", || match self.status(cookie) {
            401 => Ok(()),
            other => Err(other.to_string()),
        });
    }

    fn log_in(&self, name: &str) -> String {
        log_in_at(self.folder.proxy, name)
    }

    fn revoke(&self, subject: &str) {
        let socket = format!("unix:{}", self.folder.folder.path().join("control").display());
        let (code, out, error) = self.folder.run(&[
            "sessions",
            "revoke",
            "--subject",
            subject,
            "--issuer",
            "local",
            "--socket",
            &socket,
        ]);
        assert_eq!(code, 0, "{out}{error}");
    }
}

const TEN_MINUTES: i64 = 600;

#[test]
fn a_session_of_a_gate_whose_clock_is_ahead_ends_with_a_revocation() {
    let (redis, app) = (Redis::start(), App::start());
    let right = SkewedGate::start(&redis, &app, 0);
    let ahead = SkewedGate::start(&redis, &app, TEN_MINUTES);
    let (alice, bob) = (ahead.log_in("alice"), ahead.log_in("bob"));
    for gate in [&right, &ahead] {
        gate.served(&alice);
        gate.served(&bob);
    }
    right.revoke("alice");
    for gate in [&right, &ahead] {
        gate.refused(&alice);
        gate.served(&bob);
    }
    // the next login is no session from before the revocation, at either gate
    for gate in [&right, &ahead] {
        right.served(&gate.log_in("alice"));
    }
}

#[test]
fn a_revocation_by_a_gate_whose_clock_is_days_ahead_reaches_every_gate_and_trims_no_other() {
    let (redis, app) = (Redis::start(), App::start());
    let right = SkewedGate::start(&redis, &app, 0);
    let ahead = SkewedGate::start(&redis, &app, 3 * 24 * 3600);
    let (alice, bob) = (right.log_in("alice"), right.log_in("bob"));
    right.served(&alice);
    right.served(&bob);
    right.revoke("bob");
    right.refused(&bob);
    ahead.revoke("alice");
    right.refused(&alice);
    // a gate that starts later reads every revocation
    let later = SkewedGate::start(&redis, &app, 0);
    later.refused(&alice);
    later.refused(&bob);
}

#[test]
fn a_revocation_by_a_gate_with_a_wrong_clock_ends_what_others_began_and_no_later_login() {
    for offset in [-TEN_MINUTES, TEN_MINUTES] {
        let (redis, app) = (Redis::start(), App::start());
        let right = SkewedGate::start(&redis, &app, 0);
        let wrong = SkewedGate::start(&redis, &app, offset);
        let alice = right.log_in("alice");
        wrong.served(&alice);
        wrong.revoke("alice");
        right.refused(&alice);
        wrong.refused(&alice);
        eventually("a later login is served", || match right.status(&right.log_in("alice")) {
            200 => Ok(()),
            other => Err(format!("{offset}: {other}")),
        });
    }
}
