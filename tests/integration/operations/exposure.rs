//! The look for an app that can be reached around the gate: `/status`, `/readyz?verbose`, the gauge, the log of the
//! binary.

use std::fs::File;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::binary::{GateFolder, GateProcess, cedargate};
use crate::support::{Gate, eventually, open_portal, raw};

fn gate(app: &TcpListener, check: &str) -> Gate {
    let port = app.local_addr().unwrap().port();
    open_portal()
        .config(&format!(
            "upstream: {{ url: 'http://127.0.0.1:{port}', exposure_check: {check} }}"
        ))
        .start()
}

fn has_line(gate: &Gate, line: &str) -> Result<(), String> {
    let metrics = gate.metrics();
    if metrics.lines().any(|one| one == line) {
        Ok(())
    } else {
        Err(metrics)
    }
}

#[test]
fn an_app_on_every_address_is_reported_until_it_is_on_loopback_only() {
    let app = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = app.local_addr().unwrap().port();
    // another address of loopback stands for the pod's: not every machine has one
    let gate = gate(&app, "{ interval: 1s, addresses: [127.0.0.2] }");
    eventually("the gauge is up", || has_line(&gate, "cedargate_app_reachable_around_gate 1"));
    let around = format!("127.0.0.2:{port}");
    assert_eq!(gate.status()["app_reachable_around_gate"], json!([around]));
    let ready = raw(gate.admin, "GET", "/readyz?verbose", &[], b"");
    assert_eq!(ready.status, 200, "a warning, not an outage");
    assert!(
        ready.text().contains(&format!("app reachable around the gate: {around}\n")),
        "{}",
        ready.text()
    );
    drop(app);
    let _on_loopback = eventually("the port is free", || {
        TcpListener::bind(("127.0.0.1", port)).map_err(|error| error.to_string())
    });
    eventually("the gauge is down", || {
        has_line(&gate, "cedargate_app_reachable_around_gate 0")
    });
    assert_eq!(gate.status()["app_reachable_around_gate"], json!([]));
    let ready = raw(gate.admin, "GET", "/readyz?verbose", &[], b"");
    assert!(
        ready.text().contains("app reachable around the gate: no\n"),
        "{}",
        ready.text()
    );
}

#[test]
fn the_check_can_be_turned_off() {
    let app = TcpListener::bind("0.0.0.0:0").unwrap();
    let gate = gate(&app, "null");
    assert_eq!(gate.status()["app_reachable_around_gate"], json!([]));
    has_line(&gate, "cedargate_app_reachable_around_gate 0").unwrap();
}

#[test]
fn the_log_says_once_what_status_shows_all_the_time() {
    let app = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = app.local_addr().unwrap().port();
    let gate_folder = GateFolder::new(&format!("http://127.0.0.1:{port}"), "");
    let log = gate_folder.folder.path().join("log");
    let _gate = GateProcess(
        cedargate(&["serve"])
            .env(
                "CEDARGATE_UPSTREAM__EXPOSURE_CHECK",
                "{ interval: 1s, addresses: [127.0.0.3, 127.0.0.2] }",
            )
            .current_dir(gate_folder.folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap(),
    );
    let expected = json!([format!("127.0.0.2:{port}"), format!("127.0.0.3:{port}")]);
    eventually("status shows both addresses", || {
        let (_, shown, error) = gate_folder.run(&["status"]);
        let status: Value = serde_json::from_str(&shown).map_err(|_no_json| error)?;
        if status["app_reachable_around_gate"] == expected {
            Ok(())
        } else {
            Err(shown)
        }
    });
    std::thread::sleep(std::time::Duration::from_secs(3));
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("around the gate")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(
        lines[0].contains(&format!("127.0.0.2:{port}, 127.0.0.3:{port}")) && lines[0].contains("WARN"),
        "{text}"
    );
}
