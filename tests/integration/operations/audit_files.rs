//! Files of the decision log under the real binary: rotated from outside, a full disk, a crash, and `cedargate audit
//! verify`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::binary::{GateFolder, GateProcess};
use crate::support::record_schema::check_lines;
use crate::support::{Answer, App, PAGE, eventually, put, raw};

/// A folder with the keys of a chain; the configuration adds `audit` to the usual one.
fn folder(app: &App, audit: &str) -> GateFolder {
    let gate = GateFolder::new(&format!("http://{}", app.address), "limits: { workers: 1, drain_delay: 0s }");
    let path = gate.folder.path();
    for arguments in [
        &["genpkey", "-algorithm", "ed25519", "-out", "audit.pem"][..],
        &["pkey", "-in", "audit.pem", "-pubout", "-out", "audit.pub"],
    ] {
        let made = Command::new("openssl").args(arguments).current_dir(path).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    let yaml = std::fs::read_to_string(path.join("cedargate.yaml")).unwrap();
    let usual = "audit: { sink: { file: decisions.jsonl } }";
    assert!(yaml.contains(usual));
    put(path, "cedargate.yaml", &yaml.replace(usual, audit));
    gate
}

fn ask(gate: &GateFolder) -> Answer {
    let bearer = format!("Bearer {}", gate.issuer.token("alice", &[]));
    raw(gate.proxy, "GET", PAGE, &[("authorization", &bearer)], b"")
}

fn lines_of(path: &Path, wanted: usize) -> Vec<Value> {
    eventually("the records are written", || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        match text.lines().count() {
            count if count >= wanted => Ok(check_lines(&text)),
            count => Err(count.to_string()),
        }
    })
}

fn logs(gate: &GateFolder) -> Vec<String> {
    let entries = std::fs::read_dir(gate.folder.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("decisions")).collect();
    names.sort();
    names
}

fn verify(gate: &GateFolder, more: &[&str]) -> (i32, Value) {
    let mut arguments = vec!["audit", "verify", "--format", "json"];
    arguments.extend(more);
    let files = logs(gate);
    arguments.extend(files.iter().map(String::as_str));
    let (code, out, error) = gate.run(&arguments);
    (
        code,
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}")),
    )
}

const CHAINED: &str = "audit: { sink: { file: decisions.jsonl, rotate: { bytes: 8KiB, compress: gzip }, fsync: 1s }, \
                       chain: { key_file: audit.pem, records: 5, replica: pod-7 } }";

#[test]
fn chained_log_is_verified_across_rotation_and_restart_and_tampering_is_placed() {
    let app = App::start();
    let gate = folder(&app, CHAINED);
    for _run in 0..2 {
        let mut process = gate.serve();
        for _ in 0..20 {
            assert_eq!(ask(&gate).status, 200);
        }
        process.signal("-TERM");
        assert_eq!(process.exit_code(), 0);
    }
    assert!(logs(&gate).len() > 2, "{:?}", logs(&gate));
    let (code, report) = verify(&gate, &["--key", "audit.pub", "--complete"]);
    assert_eq!((code, &report["intact"]), (0, &true.into()), "{report:#}");
    assert_eq!(report["chains"].as_array().unwrap().len(), 2);
    for chain in report["chains"].as_array().unwrap() {
        assert_eq!(
            (&chain["replica"], &chain["ended"]),
            (&"pod-7".into(), &true.into()),
            "{chain:#}"
        );
    }
    // the configuration names the key, too
    assert_eq!(verify(&gate, &["--complete"]).0, 0);
    assert_eq!(gate.run(&["audit", "verify", "--key", "absent", "decisions.jsonl"]).0, 64);
    assert_eq!(gate.run(&["audit", "verify", "--key", "audit.pub", "absent.jsonl"]).0, 1);
    // a denial made an allow
    let file = gate.folder.path().join("decisions.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let at = text.lines().position(|line| line.contains("\"permitted\"")).unwrap();
    let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
    lines[at] = lines[at].replace("\"permitted\"", "\"forbidden\"");
    std::fs::write(&file, lines.concat()).unwrap();
    let (code, report) = verify(&gate, &["--key", "audit.pub"]);
    assert_eq!(code, 3, "{report:#}");
    let finding = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["severity"] == "error")
        .unwrap();
    assert_eq!(
        (&finding["rule"], &finding["file"], &finding["line"]),
        (&"audit-changed".into(), &"decisions.jsonl".into(), &(at + 1).into())
    );
    assert!(
        finding["before_checkpoint"]["line"].as_u64() > Some(at as u64 + 1),
        "{finding:#}"
    );
    let (code, out, _) = gate.run(&["audit", "verify", "--key", "audit.pub", "decisions.jsonl"]);
    assert!(
        code == 3 && out.contains("NOT INTACT") && out.contains(&format!("decisions.jsonl:{}", at + 1)),
        "{out}"
    );
}

#[test]
fn moved_file_is_opened_anew_on_sighup_without_traffic() {
    let app = App::start();
    let gate = folder(&app, "audit: { sink: { file: decisions.jsonl } }");
    let process = gate.serve();
    ask(&gate);
    let path = gate.folder.path().join("decisions.jsonl");
    lines_of(&path, 3);
    std::fs::rename(&path, gate.folder.path().join("decisions-old")).unwrap();
    process.signal("-HUP");
    let lines = lines_of(&path, 1);
    assert_eq!(lines[0]["event"], "reload_requested");
}

#[test]
fn killed_gate_leaves_a_log_that_the_next_one_continues() {
    let app = App::start();
    let gate = folder(&app, CHAINED);
    let path = gate.folder.path().join("decisions.jsonl");
    let mut process = gate.serve();
    ask(&gate);
    process.0.kill().unwrap();
    process.exit_code();
    // the half line of a machine that lost its power
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{{\"schema_version\":1,\"ki")).unwrap();
    let mut process = gate.serve();
    ask(&gate);
    process.signal("-TERM");
    process.exit_code();
    let (code, report) = verify(&gate, &["--key", "audit.pub"]);
    assert_eq!(code, 0, "{report:#}");
    let rules: Vec<&Value> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| &finding["rule"])
        .collect();
    assert!(rules.contains(&&Value::from("audit-cut")), "{report:#}");
    assert_eq!(verify(&gate, &["--key", "audit.pub", "--complete"]).0, 3);
}

/// A folder that is a small file system, in the mount namespace of a gate.
struct SmallDisk {
    process: GateProcess,
    /// Keeps the file system when the gate is gone.
    folder: std::fs::File,
}

impl SmallDisk {
    fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))
    }
}

/// A gate whose folder `logs` is a file system of 64 KiB.
fn on_a_small_disk(gate: &GateFolder) -> Option<SmallDisk> {
    std::fs::create_dir(gate.folder.path().join("logs")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64k none logs && exec '{}' serve",
        env!("CARGO_BIN_EXE_cedargate")
    );
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .current_dir(gate.folder.path())
        .env("CEDARGATE_LOG", "info")
        .stderr(std::fs::File::create(gate.folder.path().join("stderr")).unwrap())
        .spawn()
        .ok()?;
    let folder = PathBuf::from(format!("/proc/{}/root", child.id()));
    let mut process = GateProcess(child);
    let admin = gate.admin.to_string();
    let is_ready = eventually("the gate is ready, or may not mount", || {
        if process.0.try_wait().unwrap().is_some() {
            return Ok(false);
        }
        match gate.run(&["healthcheck", "--ready", "--address", &admin]) {
            (0, _, _) => Ok(true),
            (code, _, error) => Err(format!("{code}: {error}")),
        }
    });
    let logs = folder.join(gate.folder.path().strip_prefix("/").unwrap()).join("logs");
    is_ready.then(|| SmallDisk {
        process,
        folder: std::fs::File::open(logs).unwrap(),
    })
}

fn metric(gate: &GateFolder, name: &str) -> u64 {
    let text = raw(gate.admin, "GET", "/metrics", &[], b"").text();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn full_disk_drops_and_counts_or_denies_and_no_line_is_broken_after_it() {
    for on_full in ["drop", "deny"] {
        let app = App::start();
        let gate = folder(
            &app,
            &format!(
                "audit: {{ sink: {{ file: logs/decisions.jsonl }}, on_full: {on_full}, chain: {{ key_file: audit.pem, records: 5 }} }}"
            ),
        );
        let Some(mut disk) = on_a_small_disk(&gate) else {
            println!("SKIPPED: this machine allows no mount namespace, the full disk was not tried");
            return;
        };
        let logs = disk.path();
        let dropped = "cedargate_audit_dropped_total{sink=\"file\"}";
        let mut statuses = Vec::new();
        eventually("the disk is full", || {
            statuses.push(ask(&gate).status);
            if metric(&gate, dropped) > 5 {
                Ok(())
            } else {
                Err(String::new())
            }
        });
        assert_eq!(statuses.contains(&503), on_full == "deny", "{on_full}: {statuses:?}");
        assert!(metric(&gate, "cedargate_audit_errors_total{operation=\"write\"}") > 0);
        // room again: the file is moved away and deleted
        std::fs::rename(logs.join("decisions.jsonl"), logs.join("old")).unwrap();
        std::fs::copy(logs.join("old"), gate.folder.path().join("decisions-0.jsonl")).unwrap();
        std::fs::remove_file(logs.join("old")).unwrap();
        eventually("records are written again", || {
            let status = ask(&gate).status;
            let text = std::fs::read_to_string(logs.join("decisions.jsonl")).unwrap_or_default();
            if status == 200 && text.lines().count() > 6 {
                Ok(())
            } else {
                Err(format!("{status}: {text}"))
            }
        });
        disk.process.signal("-TERM");
        disk.process.exit_code();
        let now = std::fs::read_to_string(logs.join("decisions.jsonl")).unwrap();
        check_lines(&now);
        put(gate.folder.path(), "decisions-1.jsonl", &now);
        let (code, report) = verify(&gate, &["--key", "audit.pub"]);
        assert_eq!(code, 0, "{on_full}: {report:#}");
        let said = std::fs::read_to_string(gate.folder.path().join("stderr")).unwrap();
        assert_eq!(said.matches("the audit sink cannot write").count(), 1, "{said}");
        assert_eq!(said.matches("the audit sink writes again").count(), 1, "{said}");
    }
}

/// The retention classes, in both forms.
#[test]
fn retention_classes_are_the_same_in_words_and_for_machines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let classes: Value = serde_json::from_str(&read("schemas/retention.json")).unwrap();
    let (page, configuration) = (read("docs/operations/retention.md"), read("docs/configuration.md"));
    let schema: Value = serde_json::from_str(&read("schemas/audit-event.schema.json")).unwrap();
    let mut held = Vec::new();
    let mut listed = Vec::new();
    for class in classes["classes"].as_array().unwrap() {
        let id = class["id"].as_str().unwrap();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{id}` |")));
        let plain = row.unwrap_or_else(|| panic!("no row of `{id}`")).replace('`', "");
        let cells: Vec<&str> = plain.split('|').map(str::trim).collect();
        for (cell, member) in [(3, "where"), (5, "kept"), (6, "suggested")] {
            assert_eq!(cells[cell], class[member].as_str().unwrap().replace('`', ""), "`{id}`");
        }
        assert_eq!(cells[4].starts_with("yes"), class["personal_data"], "`{id}`");
        for key in class["keys"].as_array().unwrap() {
            let key = key.as_str().unwrap();
            assert!(
                configuration.contains(&format!("| `{key}` |")),
                "`{id}`: there is no key `{key}`"
            );
        }
        for kind in class["holds"].as_array().unwrap() {
            let kind = kind.as_str().unwrap();
            assert!(plain.contains(kind), "`{id}` holds `{kind}`");
            held.push(kind.to_owned());
        }
        listed.push(id);
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), listed.len());
    let kinds = schema["oneOf"].as_array().unwrap().iter();
    let mut kinds: Vec<String> = kinds
        .map(|kind| kind["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
        .collect();
    held.sort();
    kinds.sort();
    assert_eq!(held, kinds, "every kind of record has one class");
}

/// The bytes of `docs/audit.md`, which operators plan disks with.
#[test]
fn records_have_the_size_that_the_docs_say() {
    let gate = crate::support::Setup::examples().start();
    let bearer = format!(
        "Bearer {}",
        gate.issuer.token("alice", &["viewer", "buyer", "seller", "auditor"])
    );
    raw(
        gate.proxy,
        "GET",
        "/portal/customer/orders",
        &[("authorization", &bearer)],
        b"",
    );
    raw(gate.proxy, "GET", "/portal/customer/orders", &[], b"");
    gate.authorize(
        &serde_json::json!({"portal": "customer", "token": gate.issuer.token("alice", &["viewer"]), "action": "GET",
        "resource": {"type": "Path", "id": "/portal/customer/orders"}}),
    );
    gate.records(3);
    gate.stop_keeping(|folder| {
        let text = std::fs::read_to_string(folder.join("decisions.jsonl")).unwrap();
        let sizes: Vec<usize> = text
            .lines()
            .filter(|line| line.contains("\"kind\":\"decision\""))
            .map(str::len)
            .collect();
        let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md")).unwrap();
        let rows = page
            .lines()
            .skip_while(|line| !line.starts_with("| record | bytes |"))
            .skip(2);
        let said: Vec<usize> = rows
            .take(3)
            .map(|row| row.split('|').nth(2).unwrap().trim().parse().unwrap())
            .collect();
        for (size, said) in sizes.iter().zip(&said) {
            assert!(
                size.abs_diff(*said) * 100 <= said * 15,
                "docs/audit.md says {said:?}, records have {sizes:?}\n{text}"
            );
        }
    });
}

/// The configuration of `docs/integrations/log-shippers.md`, with the paths of a test.
#[test]
fn rsyslog_ships_every_line_unchanged_across_rotations() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/integrations/log-shippers.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("## rsyslog").nth(1).unwrap();
    let block = section.split("```").nth(1).unwrap();
    let app = App::start();
    let gate = folder(&app, CHAINED);
    let path = gate.folder.path();
    for name in ["work", "shipped"] {
        std::fs::create_dir(path.join(name)).unwrap();
    }
    let at = |name: &str| path.join(name).display().to_string();
    let config = block
        .replace("/var/lib/rsyslog", &at("work"))
        .replace("/var/log/cedargate", &path.display().to_string())
        .replace("/srv/audit", &at("shipped"));
    put(path, "rsyslog.conf", &config);
    let rsyslogd = crate::support::tools::tool(&["rsyslogd", "../sbin/rsyslogd"]);
    let mut process = gate.serve();
    let shipper = Command::new(rsyslogd)
        .args(["-n", "-i", &at("pid"), "-f", &at("rsyslog.conf")])
        .spawn()
        .unwrap();
    let _shipper = GateProcess(shipper);
    ask(&gate);
    // a shipper that comes after the first rotation knows nothing of the file before
    eventually("the shipper follows the file", || {
        let shipped = std::fs::read_to_string(path.join("shipped/decisions.jsonl")).unwrap_or_default();
        if shipped.is_empty() {
            Err("nothing is shipped".to_owned())
        } else {
            Ok(())
        }
    });
    for _ in 0..30 {
        ask(&gate);
    }
    process.signal("-TERM");
    process.exit_code();
    assert!(logs(&gate).len() > 2, "{:?}", logs(&gate));
    eventually("every line is shipped", || {
        let (code, out, error) = gate.run(&[
            "audit",
            "verify",
            "--key",
            "audit.pub",
            "--complete",
            "shipped/decisions.jsonl",
        ]);
        if code == 0 { Ok(()) } else { Err(format!("{out}{error}")) }
    });
}
