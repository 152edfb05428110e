//! The control socket: its permissions, its endpoints, and its removal.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::binary::GateFolder;
use crate::support::{
    Answer, Gate, OPEN_SCHEMA, PAGE, RawConnection, ScriptedServer, Setup, eventually, open_portal, parse, put, raw, response,
};

fn setup(folder: &Path) -> Setup {
    open_portal().config(&format!(
        "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: {{ address: 'unix:{dir}/decision.sock' }}, \
         admin: {{ address: '127.0.0.1:0' }}, control: {{ address: 'unix:{dir}/control.sock' }} }}",
        dir = folder.display()
    ))
}

fn exchange_raw(socket: &Path, bytes: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    parse(&all).unwrap()
}

fn ask(socket: &Path, method: &str, path: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    exchange_raw(socket, head.as_bytes())
}

fn admin_events(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|record| record["kind"] == "admin_event").collect()
}

#[test]
fn only_the_owner_can_open_the_socket_and_it_is_gone_after_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (control, decision) = (folder.path().join("control.sock"), folder.path().join("decision.sock"));
    let gate = setup(folder.path()).start();
    let meta = std::fs::symlink_metadata(&control).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["control.sock", "decision.sock"], "no birthplace is left");
    let index = ask(&control, "GET", "/");
    assert_eq!((index.status, &index.json()["draining"]), (200, &json!(false)));
    assert_eq!(index.json()["pid"], std::process::id());
    assert!(UnixStream::connect(&decision).is_ok());
    gate.stop();
    assert!(names().is_empty(), "{:?}", names());
}

#[test]
fn the_gate_takes_a_stale_socket_but_no_live_one_and_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let stranger = UnixListener::bind(&control).unwrap();
    let error = setup(folder.path()).try_start().map(drop).unwrap_err();
    assert!(
        error.contains("listen.control.address") && error.contains("in use"),
        "{error}"
    );
    drop(stranger);
    // a process that another test starts just now holds a copy of the stranger's socket until it becomes itself
    let gate = eventually("the stale socket is taken", || setup(folder.path()).try_start());
    assert_eq!(ask(&control, "GET", "/").status, 200);
    // another process took the name meanwhile: the gate leaves it alone
    std::fs::remove_file(&control).unwrap();
    std::fs::write(&control, "precious").unwrap();
    gate.stop();
    assert_eq!(std::fs::read_to_string(&control).unwrap(), "precious");
    let error = setup(folder.path()).try_start().map(drop).unwrap_err();
    assert!(error.contains("listen.control.address"), "{error}");
    assert_eq!(std::fs::read_to_string(&control).unwrap(), "precious");
}

#[test]
fn the_control_socket_answers_404_or_405_outside_its_endpoints_without_reading_a_body() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let gate = setup(folder.path()).start();
    for (method, path, status, allow) in [
        ("GET", "/drain", 405, "POST"),
        ("HEAD", "/drain", 405, "POST"),
        ("PUT", "/drain", 405, "POST"),
        ("DELETE", "/reload", 405, "POST"),
        ("POST", "/", 405, "GET"),
        ("POST", "/drain/", 404, ""),
        ("POST", "//drain", 404, ""),
        ("POST", "/x/../drain", 404, ""),
        ("GET", "/metrics", 404, ""),
        ("POST", "/%64rain", 404, ""),
    ] {
        let answer = ask(&control, method, path);
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {path}");
    }
    // a body without an end is not waited for
    let head = b"POST /nothing HTTP/1.1\r\nhost: c\r\ncontent-length: 1000000000000\r\n\r\nx";
    assert_eq!(exchange_raw(&control, head).status, 404);
    let mut wire = UnixStream::connect(&control).unwrap();
    wire.write_all(b"\x16\x03\x01 nonsense\r\n\r\n").unwrap();
    let mut all = Vec::new();
    wire.read_to_end(&mut all).unwrap();
    // more connections than it takes: the surplus is closed, the gate lives
    let crowd: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(&control).unwrap()).collect();
    drop(crowd);
    eventually("it answers again", || {
        let mut stream = UnixStream::connect(&control).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut all = Vec::new();
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n");
        match (asked, stream.read_to_end(&mut all)) {
            (Ok(()), Ok(1..)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(
        raw(gate.admin, "GET", "/readyz", &[], b"").status,
        200,
        "no drain was requested"
    );
    assert!(
        admin_events(&gate.path("decisions.jsonl"))
            .iter()
            .all(|e| e["event"] == "started")
    );
}

#[test]
fn a_reload_answers_when_the_edit_is_in_force_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    // polled so seldom and seen by a watch only by luck: the answer must not depend on either
    let gate = setup(folder.path()).config("policies: { poll: 10m }").start();
    let token = gate.issuer.token("alice", &[]);
    assert_eq!(gate.get(PAGE, &token).status, 200);
    for (policy, status) in [
        ("@id(\"nobody\") forbid (principal, action, resource);", 403),
        ("@id(\"everybody\") permit (principal, action, resource);", 200),
    ] {
        gate.put("policies/p/main.cedar", policy);
        let answer = ask(&control, "POST", "/reload");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let portal = &answer.json()["portals"][0];
        assert_eq!(
            (&portal["portal"], &portal["last_reload"]["result"]),
            (&json!("p"), &json!("success"))
        );
        assert_eq!(portal["revision"].as_str(), gate.revision("p").as_deref());
        assert_eq!(gate.get(PAGE, &token).status, status, "the answer came after the swap");
    }
    gate.put(
        "policies/p/main.cedar",
        "\npermit (principal, action == Action::\"NOPE\", resource);",
    );
    let answer = ask(&control, "POST", "/reload");
    assert_eq!(answer.status, 422, "{}", answer.text());
    let problem = &answer.json()["portals"][0]["last_reload"]["problems"][0];
    assert_eq!(
        (&problem["file"], &problem["line"]),
        (&json!("policies/p/main.cedar"), &json!(2))
    );
    assert_eq!(gate.get(PAGE, &token).status, 200, "the last good revision serves");
    // nothing changed: the same answer
    assert_eq!(ask(&control, "POST", "/reload").status, 422);
    // many at once are all answered
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| ask(&control, "POST", "/reload").status))
            .collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers, [422; 8]);
    let log = gate.path("decisions.jsonl");
    eventually("every reload is recorded", || {
        let events = admin_events(&log);
        let reloads: Vec<_> = events.iter().filter(|e| e["event"] == "reload_requested").collect();
        match reloads.as_slice() {
            all if all.len() == 12 && all[0]["detail"] == "p: success" && all[3]["detail"] == "p: rejected" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn folder_with_socket(upstream: &str, more: &str) -> (GateFolder, PathBuf) {
    let mut gate_folder = GateFolder::new(upstream, more);
    let text = std::fs::read_to_string(gate_folder.folder.path().join("cedargate.yaml")).unwrap();
    let text = text.replace(
        "decision: null,",
        "decision: null, control: { address: 'unix:control.sock' },",
    );
    put(gate_folder.folder.path(), "cedargate.yaml", &text);
    let socket = gate_folder.folder.path().join("control.sock");
    gate_folder.put("schemas/p.cedarschema", OPEN_SCHEMA);
    gate_folder.issuer.kid = "key-1".to_owned();
    (gate_folder, socket)
}

#[test]
fn the_commands_drain_and_reload_drain_and_reload_the_gate() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"hello"));
    });
    let (gate_folder, socket) = folder_with_socket(&script.url(), "limits: { drain_delay: 300ms }");
    let mut gate_process = gate_folder.serve();
    let (code, out, error) = gate_folder.run(&["reload"]);
    assert_eq!(code, 0, "{out}{error}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["portals"][0]["portal"], "p");
    gate_folder.put("policies/p/main.cedar", "nonsense");
    let (code, out, _) = gate_folder.run(&["reload", "--socket", "control.sock"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("main.cedar"), "{out}");
    let (code, out, error) = gate_folder.run(&["drain", "--wait", "--timeout", "20s"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(!socket.exists());
    assert_eq!(gate_process.exit_code(), 0);
    let events: Vec<Value> = admin_events(&gate_folder.folder.path().join("decisions.jsonl"));
    let events: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    let expected = [
        "started",
        "reload_requested",
        "reload_requested",
        "drain_requested",
        "draining",
    ];
    assert_eq!(events, expected);
    // without a gate the command fails at once
    for command in [&["drain"][..], &["drain", "--wait"], &["reload"]] {
        let (code, _, error) = gate_folder.run(command);
        assert_eq!(code, 1, "{command:?}");
        assert!(error.contains("control.sock") && error.contains("listen.control"), "{error}");
    }
    assert_eq!(gate_folder.run(&["drain", "--timeout", "soon"]).0, 64);
    assert_eq!(gate_folder.run(&["reload", "--config", "absent.yaml"]).0, 64);
    put(
        gate_folder.folder.path(),
        "plain.yaml",
        "upstream: { url: 'http://127.0.0.1:1' }\n",
    );
    let (code, _, error) = gate_folder.run(&["drain", "--config", "plain.yaml"]);
    assert_eq!(code, 64);
    assert!(error.contains("--socket"), "{error}");
}

#[test]
fn after_a_drain_command_the_first_sigterm_drains_on_and_the_second_forces() {
    let script = ScriptedServer::start(|_, wire| {
        wire.read_until("never");
    });
    let (gate_folder, socket) = folder_with_socket(&script.url(), "limits: { drain_timeout: 10m, drain_delay: 0s }");
    let mut gate_process = gate_folder.serve();
    let mut wire = RawConnection::open(gate_folder.proxy);
    wire.send(gate_folder.request());
    eventually("the app is asked", || {
        (script.count() == 1).then_some(()).ok_or(String::new())
    });
    let answer = ask(&socket, "POST", "/drain");
    assert_eq!((answer.status, &answer.json()["already"]), (202, &json!(false)));
    let answer = ask(&socket, "POST", "/drain");
    assert_eq!((answer.status, &answer.json()["already"]), (202, &json!(true)));
    assert!(raw(gate_folder.admin, "GET", "/readyz", &[], b"").text().contains("draining"));
    assert!(
        raw(gate_folder.admin, "GET", "/metrics", &[], b"")
            .text()
            .contains("cedargate_draining 1")
    );
    let (code, _, error) = gate_folder.run(&["drain", "--wait", "--timeout", "200ms"]);
    assert_eq!(code, 1);
    assert!(error.contains("still there"), "{error}");
    gate_process.signal("-TERM");
    // the signal was taken, and it forced nothing: the request is still in flight a moment later
    let until = Instant::now() + Duration::from_millis(500);
    eventually("half a second passes", || {
        assert!(gate_process.0.try_wait().unwrap().is_none(), "SIGTERM forced the end");
        assert_eq!(ask(&socket, "GET", "/").json()["draining"], true);
        (Instant::now() > until).then_some(()).ok_or(String::new())
    });
    gate_process.signal("-TERM");
    assert_eq!(gate_process.exit_code(), 0);
    assert!(wire.read_answer("GET").is_none());
    assert!(!socket.exists());
}

#[test]
fn without_the_key_there_is_no_socket() {
    let gate: Gate = open_portal().start();
    let sockets = std::fs::read_dir(gate.folder.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_socket());
    assert_eq!(sockets.count(), 0);
}
