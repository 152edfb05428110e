//! The built binary: exit codes, signals and messages.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::binary::{GateFolder, GateProcess, cedargate, run};
use crate::support::{OPEN_SCHEMA, PAGE, RawConnection, ScriptedServer, eventually, raw, response};

#[test]
fn a_format_that_a_report_does_not_have_is_a_usage_error_that_names_those_it_has() {
    let folder = tempfile::tempdir().unwrap();
    for (command, formats) in [
        (
            &["audit", "verify", "x", "--format", "csv"][..],
            "[possible values: human, json]",
        ),
        (
            &["diff", "a", "b", "--format", "csv"],
            "[possible values: human, markdown, json, html]",
        ),
        (
            &["lint", "--rules", "--format", "sarif"],
            "there is no `--format sarif` of this report; its formats are human, json",
        ),
    ] {
        let (code, out, error) = run(folder.path(), command);
        assert_eq!((code, out.as_str()), (64, ""), "{command:?}");
        assert!(error.contains(formats), "{command:?}: {error}");
    }
}

#[test]
fn help_of_every_command_exits_0_and_nonsense_exits_64() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        &[][..],
        &["serve"],
        &["demo"],
        &["init"],
        &["new", "portal"],
        &["fmt"],
        &["schema", "show"],
        &["completions"],
        &["man"],
        &["validate"],
        &["lint"],
        &["matrix"],
        &["workbench"],
        &["test"],
        &["authorize"],
        &["explain"],
        &["token"],
        &["token", "mint"],
        &["token", "inspect"],
        &["config"],
        &["config", "schema"],
        &["config", "print"],
        &["healthcheck"],
        &["status"],
        &["drain"],
        &["reload"],
    ] {
        let (code, out, error) = run(folder.path(), &[command, &["--help"]].concat());
        assert_eq!((code, error.as_str()), (0, ""), "{command:?}");
        assert!(out.contains("Usage:"), "{command:?}");
    }
    assert_eq!(run(folder.path(), &["--version"]).0, 0);
    for wrong in [
        &["nonsense"][..],
        &["serve", "--nonsense"],
        &[],
        &["authorize"],
        &["explain"],
        &["config", "print", "--config", "absent.yaml"],
        &["validate"],
    ] {
        assert_eq!(run(folder.path(), wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn a_bad_configuration_is_64_with_every_mistake_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "upstrem: {}\nupstream: { url: 'ftp://x' }\nissuers:\n  - { name: a, issuer: 'https://a/', audiences: [] }\nlimits: { batch: 0 }\ntrusted_proxies: [x]\n";
    std::fs::write(folder.path().join("cedargate.yaml"), yaml).unwrap();
    for command in [
        &["serve"][..],
        &["validate"],
        &["validate", "."],
        &["test"],
        &["config", "print"],
        &["status"],
        &["healthcheck"],
        &["drain"],
        &["reload"],
        &["sessions", "list"],
        &["user", "list"],
        &["validate", "--config", "cedargate.yaml"],
    ] {
        let (code, _, error) = run(folder.path(), command);
        assert_eq!(code, 64, "{command:?} {error}");
        for key in [
            "upstrem",
            "upstream.url",
            "issuers[0].audiences",
            "limits.batch",
            "trusted_proxies",
        ] {
            assert!(error.contains(key), "{command:?} does not name `{key}`: {error}");
        }
    }
}

#[test]
fn validate_exits_0_for_good_policies_and_3_for_bad_ones_with_file_and_line() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    for command in [&["validate", "--config", "cedargate.yaml"][..], &["validate"]] {
        let (code, out, message) = gate_folder.run(command);
        assert_eq!((code, message.as_str()), (0, ""), "{out}");
    }
    gate_folder.put(
        "policies/p/bad.cedar",
        "\n\n@id(\"x\") permit (principal, action == Action::\"NOPE\", resource);",
    );
    let (code, out, _) = gate_folder.run(&["validate", "--config", "cedargate.yaml"]);
    assert_eq!(code, 3);
    assert!(out.contains("bad.cedar:3"), "{out}");
    let (code, out, _) = gate_folder.run(&["validate", "--format", "json", "."]);
    assert_eq!(code, 3);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["portals"][0]["valid"], false);
}

#[test]
fn validate_warns_of_a_client_whose_id_tokens_are_bearer_tokens_too() {
    let login = |client: &str| {
        format!(
            "public_url: 'https://shop.test'\nlogin: {{ providers: {{ corp: {{ issuer: test, client_id: {client}, client_secret: x }} }} }}"
        )
    };
    let gate_folder = GateFolder::new("http://127.0.0.1:1", &login("gate"));
    let strict = ["validate", "--config", "cedargate.yaml", "--deny-warnings"];
    let (code, out, error) = gate_folder.run(&strict);
    assert_eq!((code, out.contains("warning:")), (0, false), "{out}{error}");
    let gate_folder = GateFolder::new("http://127.0.0.1:1", &login("shop"));
    let (code, out, error) = gate_folder.run(&strict[..3]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("warning: login.providers.corp.client_id: "), "{out}");
    assert_eq!(gate_folder.run(&strict).0, 3);
    let (_, out, _) = gate_folder.run(&[&strict[..3], &["--format", "json"]].concat());
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1);
    // and so does the log of a start
    let log = gate_folder.folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let child = cedargate(&["serve"])
        .current_dir(gate_folder.folder.path())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let _serving = GateProcess(child);
    eventually("the log warns", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.contains("login.providers.corp.client_id: ").then_some(()).ok_or(text)
    });
}

#[test]
fn test_exits_0_when_all_hold_and_4_when_one_fails() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let case = |expect: &str| {
        format!(
            "principals:\n  a: {{ id: a, roles: [] }}\ncases:\n  - {{ name: named case, principal: a, http: \"GET {PAGE}\", expect: {expect} }}\n"
        )
    };
    gate_folder.put("policies/p/tests/t.yaml", &case("allow"));
    let (code, out, error) = gate_folder.run(&["test", "."]);
    assert_eq!(code, 0, "{out}{error}");
    gate_folder.put("policies/p/tests/t.yaml", &case("deny"));
    let (code, out, _) = gate_folder.run(&["test", "."]);
    assert_eq!(code, 4);
    assert!(out.contains("named case"), "{out}");
    assert_eq!(
        gate_folder.run(&["validate", "."]).0,
        3,
        "a candidate that fails a test is not valid"
    );
}

#[test]
fn a_test_fails_if_it_misspells_the_method_or_the_host() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    for (more, expected, message) in [
        ("http: \"GTE /portal/p/page\", expect: deny", 4, "GTE"),
        ("http: \"GTE /portal/p/page\", expect: deny, reason: not_permitted", 0, ""),
        (
            "http: \"GET /portal/p/page\", host: \"a host\", expect: allow",
            4,
            "is not a host name",
        ),
        (
            "http: \"GET /portal/p/page\", host: APP.Example.com:8443, expect: allow",
            0,
            "",
        ),
    ] {
        let file = format!("principals:\n  a: {{ id: a, roles: [] }}\ncases:\n  - {{ name: c, principal: a, {more} }}\n");
        gate_folder.put("policies/p/tests/t.yaml", &file);
        let (code, out, error) = gate_folder.run(&["test", "."]);
        assert_eq!(code, expected, "{more}: {out}{error}");
        assert!(out.contains(message), "{more}: {out}");
    }
}

#[test]
fn authorize_exits_0_for_allow_2_for_deny_and_64_for_nonsense() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    gate_folder.put(
        "policies/p/main.cedar",
        "@id(\"alice-only\") permit (principal == User::\"alice\", action, resource);",
    );
    let question = |who: &str| {
        format!(
            r#"{{"portal":"p","principal":{{"type":"User","id":"{who}"}},"action":"GET","resource":{{"type":"Path","id":"{PAGE}"}}}}"#
        )
    };
    gate_folder.put("alice.json", &question("alice"));
    gate_folder.put("bob.json", &question("bob"));
    gate_folder.put("bad.json", "{");
    for (file, expected, word) in [
        ("alice.json", 0, "alice-only"),
        ("bob.json", 2, "not_permitted"),
        ("bad.json", 64, ""),
        ("absent.json", 64, ""),
    ] {
        let (code, out, error) = gate_folder.run(&["authorize", "--request", file, "."]);
        assert_eq!(code, expected, "{file}: {out}{error}");
        assert!(out.contains(word), "{out}");
    }
    for (subject, expected) in [("alice", 0), ("bob", 2)] {
        let token = gate_folder.issuer.token(subject, &[]);
        let (code, out, error) = gate_folder.run(&["authorize", "--config", "cedargate.yaml", "--token", &token, "--url", PAGE]);
        assert_eq!(code, expected, "{out}{error}");
        assert!(!format!("{out}{error}").contains(&token));
    }
}

#[test]
fn authorize_takes_the_portal_that_the_gate_takes() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    gate_folder.put(
        "policies/p/main.cedar",
        "@id(\"p-rule\") permit (principal, action, resource);",
    );
    gate_folder.put("schemas/q.cedarschema", OPEN_SCHEMA);
    gate_folder.put(
        "policies/q/main.cedar",
        "@id(\"q-rule\") permit (principal, action, resource);",
    );
    let here = std::fs::read_to_string(gate_folder.folder.path().join("cedargate.yaml")).unwrap();
    let two = "portals:\n  p: { match: { path_prefix: / } }\n  q: { match: { hosts: [q.example], path_prefix: /app } }\n";
    assert!(!here.contains("\nportals:"));
    gate_folder.put("two.yaml", &format!("{here}{two}"));
    let token = gate_folder.issuer.token("alice", &[]);
    for (more, expected, word) in [
        (&["--url", "/app/x", "--host", "Q.example:443"][..], 0, "q-rule"),
        (&["--url", "/app/x", "--host", "other.example"], 0, "p-rule"),
        (&["--url", "/app/x", "--host", "q example"], 64, "is not a host name"),
        (&["--url", "/other", "--portal", "q"], 64, "is not below `/app`"),
    ] {
        let mut arguments = vec!["authorize", "--config", "two.yaml", "--token", &token];
        arguments.extend(more);
        let (code, out, error) = gate_folder.run(&arguments);
        assert_eq!(code, expected, "{more:?}: {out}{error}");
        assert!(format!("{out}{error}").contains(word), "{more:?}: {out}{error}");
    }
}

#[test]
fn token_mint_and_inspect_work_together_and_nothing_secret_prints() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let mint = [
        "token",
        "mint",
        "--key",
        "k.pem",
        "--jwks",
        "j.json",
        "--issuer",
        "https://i/",
        "--audience",
        "shop",
        "--subject",
        "alice",
        "--role",
        "viewer",
    ];
    let (code, token, error) = gate_folder.run(&mint);
    assert_eq!((code, error.as_str()), (0, ""));
    let (code, report, _) = gate_folder.run(&["token", "inspect", token.trim()]);
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["claims"]["sub"], &report["problems"]),
        (&Value::from("alice"), &serde_json::json!([]))
    );
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(gate_folder.folder.path().join("k.pem"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert!(
        !std::fs::read_to_string(gate_folder.folder.path().join("j.json"))
            .unwrap()
            .contains("\"d\"")
    );
    let (code, schema, _) = gate_folder.run(&["config", "schema"]);
    assert_eq!(code, 0);
    assert!(serde_json::from_str::<Value>(&schema).unwrap()["properties"]["upstream"].is_object());
    assert_eq!(gate_folder.run(&["config", "print"]).0, 0);
}

#[test]
fn healthcheck_of_a_url_compares_the_status_and_sends_a_token() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"hello"));
    });
    let gate_folder = GateFolder::new(&script.url(), "");
    let _gate_process = gate_folder.serve();
    let url = format!("http://{}/portal/p/x", gate_folder.proxy);
    let (code, answer, error) = gate_folder.run(&["healthcheck", "--url", &url]);
    assert_eq!(code, 1, "{error}");
    assert!(answer.contains("token_missing"), "{answer}");
    assert!(error.contains("expected status 200 to 299, got 401"), "{error}");
    assert_eq!(gate_folder.run(&["healthcheck", "--url", &url, "--status", "403,401"]).0, 0);
    let (code, _, error) = gate_folder.run(&["healthcheck", "--url", &url, "--status", "403,404"]);
    assert_eq!(code, 1);
    assert!(error.contains("expected status 403, 404, got 401"), "{error}");
    // with a token the gate allows it, and the app answers
    let token = gate_folder.issuer.token("alice", &[]);
    std::fs::write(gate_folder.folder.path().join("token"), format!("{token}\n")).unwrap();
    let (code, answer, error) = gate_folder.run(&["healthcheck", "--url", &url, "--token-file", "token"]);
    assert_eq!((code, answer.as_str()), (0, "200 OK\nhello\n"), "{error}");
    // a gate that is not there, URLs that are none of the gate's, options that do not fit
    let (code, _, error) = gate_folder.run(&["healthcheck", "--url", "http://127.0.0.1:1/"]);
    assert_eq!(code, 1, "{error}");
    for wrong in [
        ["--url", "https://127.0.0.1/", "--status", "200"],
        ["--url", "not a url", "--status", "200"],
        ["--url", &url, "--status", "99"],
        ["--url", &url, "--token-file", "nowhere"],
        ["--url", &url, "--address", "127.0.0.1:1"],
    ] {
        let arguments = [&["healthcheck"][..], &wrong].concat();
        assert_eq!(gate_folder.run(&arguments).0, 64, "{wrong:?}");
    }
    assert_eq!(
        gate_folder.run(&["healthcheck", "--status", "200"]).0,
        64,
        "`--status` needs `--url`"
    );
}

#[test]
fn a_running_gate_is_healthy_shows_its_status_and_keeps_its_port() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"hello"));
    });
    let gate_folder = GateFolder::new(&script.url(), "");
    let admin = gate_folder.admin.to_string();
    assert_eq!(
        gate_folder.run(&["healthcheck", "--address", &admin]).0,
        1,
        "no gate listens yet"
    );
    let mut gate_process = gate_folder.serve();
    assert_eq!(gate_folder.run(&["healthcheck", "--config", "cedargate.yaml"]).0, 0);
    let (code, status, _) = gate_folder.run(&["status", "--address", &admin]);
    assert_eq!(code, 0);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["portals"][0]["portal"], &status["ready"]),
        (&Value::from("p"), &Value::from(true))
    );
    let mut wire = RawConnection::open(gate_folder.proxy);
    wire.send(gate_folder.request());
    assert_eq!(wire.read_answer("GET").unwrap().text(), "hello");
    // a second gate on the same port says so and leaves the first alone
    let (code, _, error) = gate_folder.run(&["serve"]);
    assert_eq!(code, 1);
    assert!(
        error.contains(&gate_folder.proxy.to_string()) && error.contains("listen.proxy.address"),
        "{error}"
    );
    assert_eq!(gate_folder.run(&["healthcheck", "--ready", "--address", &admin]).0, 0);
    gate_process.signal("-INT");
    assert_eq!(gate_process.exit_code(), 0);
}

#[test]
fn sigterm_lets_requests_in_flight_finish_refuses_new_ones_and_exits_0() {
    let released = Arc::new(AtomicBool::new(false));
    let released_app = Arc::clone(&released);
    let script = ScriptedServer::start(move |_, wire| {
        eventually("the app is released", || {
            if released_app.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err(String::new())
            }
        });
        wire.send(response("200 OK", b"finished"));
    });
    let gate_folder = GateFolder::new(&script.url(), "");
    let mut gate_process = gate_folder.serve();
    let mut wire = RawConnection::open(gate_folder.proxy);
    wire.send(gate_folder.request());
    eventually("the app is asked", || {
        if script.count() == 1 { Ok(()) } else { Err(String::new()) }
    });
    gate_process.signal("-TERM");
    eventually("readiness tells of the drain", || {
        let answer = raw(gate_folder.admin, "GET", "/readyz", &[], b"");
        if answer.status == 503 && answer.text().contains("draining") {
            Ok(())
        } else {
            Err(answer.text())
        }
    });
    eventually("no new connection is taken", || {
        match std::net::TcpStream::connect(gate_folder.proxy) {
            Err(_) => Ok(()),
            Ok(_) => Err("still accepting".to_owned()),
        }
    });
    assert!(gate_process.0.try_wait().unwrap().is_none(), "it waits for what is in flight");
    released.store(true, Ordering::SeqCst);
    assert_eq!(wire.read_answer("GET").unwrap().text(), "finished");
    assert_eq!(gate_process.exit_code(), 0);
    let log = std::fs::read_to_string(gate_folder.folder.path().join("decisions.jsonl")).unwrap();
    assert_eq!(
        log.lines().filter(|l| l.contains("\"kind\":\"decision\"")).count(),
        1,
        "the record is written before the end"
    );
}

#[test]
fn sighup_reloads_and_the_users_signals_are_ignored() {
    let script = ScriptedServer::start(|_, wire| {
        wire.send(response("200 OK", b"hello"));
    });
    let gate_folder = GateFolder::new(&script.url(), "");
    let mut gate_process = gate_folder.serve();
    for signal in ["-HUP", "-USR1", "-USR2", "-HUP"] {
        gate_process.signal(signal);
    }
    let mut wire = RawConnection::open(gate_folder.proxy);
    wire.send(gate_folder.request());
    assert_eq!(wire.read_answer("GET").unwrap().text(), "hello");
    gate_process.signal("-INT");
    gate_process.signal("-HUP");
    assert_eq!(gate_process.exit_code(), 0);
    let records = std::fs::read_to_string(gate_folder.folder.path().join("decisions.jsonl")).unwrap();
    let reloads = records
        .lines()
        .filter(|line| line.contains("reload_requested") && line.contains("SIGHUP"));
    assert!(reloads.count() >= 1, "{records}");
}

#[test]
fn a_second_sigterm_ends_what_is_in_flight() {
    let script = ScriptedServer::start(|_, wire| {
        wire.read_until("never");
    });
    let gate_folder = GateFolder::new(&script.url(), "limits: { drain_timeout: 10m }");
    let mut gate_process = gate_folder.serve();
    let mut wire = RawConnection::open(gate_folder.proxy);
    wire.send(gate_folder.request());
    eventually("the app is asked", || {
        if script.count() == 1 { Ok(()) } else { Err(String::new()) }
    });
    gate_process.signal("-TERM");
    eventually("it drains", || {
        let answer = raw(gate_folder.admin, "GET", "/readyz", &[], b"");
        if answer.status == 503 { Ok(()) } else { Err(answer.text()) }
    });
    assert!(gate_process.0.try_wait().unwrap().is_none());
    gate_process.signal("-TERM");
    assert_eq!(gate_process.exit_code(), 0);
    assert!(wire.read_answer("GET").is_none());
}

#[test]
fn the_demos_three_curls_give_401_403_and_200_and_an_edit_flips_the_second() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .args(["-r", "policies", "schemas"])
        .arg(folder.path())
        .current_dir(root)
        .status()
        .unwrap();
    assert!(copied.success());
    let child = cedargate(&["demo", "--port", "0"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut demo = GateProcess(child);
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let (mut exports, mut curls) = (Vec::new(), Vec::new());
    while curls.len() < 4 {
        let line = lines.next().expect("the demo prints its curls").unwrap().trim().to_owned();
        if let Some(rest) = line.strip_prefix("export ") {
            let (name, value) = rest.split(' ').next().unwrap().split_once('=').unwrap();
            exports.push((format!("${name}"), value.to_owned()));
        } else if line.starts_with("curl ") {
            curls.push(line);
        }
    }
    let send = |curl: &str| {
        let mut curl = curl.to_owned();
        for (name, value) in &exports {
            curl = curl.replace(name, value);
        }
        let url = curl.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let method = if curl.contains("-X POST") { "POST" } else { "GET" };
        let headers: Vec<(&str, &str)> = curl.split('"').filter_map(|quoted| quoted.split_once(": ")).collect();
        raw(address.parse().unwrap(), method, &format!("/{path}"), &headers, b"")
    };
    let statuses: Vec<u16> = curls[..3].iter().map(|curl| send(curl).status).collect();
    assert_eq!(statuses, [401, 403, 200]);
    assert_eq!(send(&curls[2]).json()["user"], "alice");
    let path = folder.path().join("policies/customer/orders.cedar");
    let text = std::fs::read_to_string(&path).unwrap();
    let edited = text.replacen("principal in Role::\"editor\"", "principal in Role::\"viewer\"", 1);
    assert_ne!(edited, text);
    // no shipped decision test fails: none is about viewers who place orders
    std::fs::File::create(&path).unwrap().write_all(edited.as_bytes()).unwrap();
    eventually("the edit flips the decision", || match send(&curls[1]).status {
        201 => Ok(()),
        other => Err(other.to_string()),
    });
    // the fourth is the app's own question, with a body in shell quotes
    let body = curls[3].split('\'').nth(1).unwrap().to_owned();
    let url = curls[3].split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let answer = raw(
        address.parse().unwrap(),
        "POST",
        &format!("/{path}"),
        &[("content-type", "application/json")],
        body.as_bytes(),
    );
    assert_eq!((answer.status, &answer.json()["decision"]), (200, &Value::from("allow")));
    demo.signal("-TERM");
    assert_eq!(demo.exit_code(), 0);
}
