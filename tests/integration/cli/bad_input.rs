//! Files that no editor should write: one clear error each, no crash, and every other file still reported.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::binary::run;
use crate::support::{OPEN_POLICY, OPEN_SCHEMA, PAGE};

/// Longest run of one command; a hang takes for ever.
const PATIENCE: Duration = Duration::from_secs(60);
const GOOD_TEST: &str =
    "principals: { a: { id: a } }\ncases:\n  - { name: good, principal: a, http: \"GET /portal/p/page\", expect: allow }\n";

struct BadFile {
    name: &'static str,
    content: Vec<u8>,
    /// A part of the one message about it.
    message: &'static str,
}

fn bad(name: &'static str, content: impl Into<Vec<u8>>, message: &'static str) -> BadFile {
    BadFile {
        name,
        content: content.into(),
        message,
    }
}

fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
    format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
}

fn policy(condition: &str) -> String {
    format!("permit (principal, action, resource) when {{ {condition} }};")
}

/// A tree with a good portal `p`, and a portal `other` with a mistake of its own.
fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("schemas/p.cedarschema", OPEN_SCHEMA),
        ("policies/p/main.cedar", OPEN_POLICY),
        ("policies/p/tests/t.yaml", GOOD_TEST),
        ("policies/p/wrong.cedar", "permit (principal, action, resource"),
        ("schemas/other.cedarschema", OPEN_SCHEMA),
        (
            "policies/other/main.cedar",
            "permit (principal, action == Action::\"NOPE\", resource);",
        ),
    ] {
        put(folder.path(), name, text.as_bytes());
    }
    folder
}

fn put(root: &Path, name: &str, content: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn files() -> Vec<BadFile> {
    const DEEP: usize = 50_000;
    let random: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80)
        .collect();
    let wide: Vec<u8> = OPEN_POLICY.encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        bad("policies/p/x.cedar", random.clone(), "is not valid UTF-8"),
        bad("policies/p/entities.json", random.clone(), "is not valid UTF-8"),
        bad("policies/p/portal.yaml", random.clone(), "is not valid UTF-8"),
        bad("policies/p/links.json", random.clone(), "is not valid UTF-8"),
        bad("schemas/p.cedarschema", random.clone(), "is not valid UTF-8"),
        bad("policies/p/tests/x.yaml", random, "is not valid UTF-8"),
        bad("policies/p/x.cedar", wide, "is UTF-16"),
        bad(
            "policies/p/x.cedar",
            "permit (principal,\0 action, resource);",
            "invalid token",
        ),
        bad("policies/p/tests/x.yaml", "cases: [\0]", "is not a test file"),
        bad(
            "policies/p/x.cedar",
            policy(&nested("(", "true", ")", DEEP)),
            "brackets nest deeper than 100",
        ),
        bad(
            "policies/p/x.cedar",
            policy(&format!("{}true", "!".repeat(DEEP))),
            "more than 4000 operators",
        ),
        bad(
            "policies/p/x.cedar",
            policy(&nested("if true then ", "true", " else false", DEEP)),
            "more than 4000 operators",
        ),
        bad(
            "schemas/p.cedarschema",
            format!("{OPEN_SCHEMA} entity D {{ a: {} }};", nested("Set<", "Long", ">", DEEP)),
            "brackets nest deeper than 100",
        ),
        bad(
            "schemas/p.cedarschema",
            format!("{OPEN_SCHEMA} entity D {};", nested("{ a: ", "Long", "}", DEEP)),
            "brackets nest deeper than 100",
        ),
        bad(
            "policies/p/entities.json",
            nested("[", "", "]", DEEP),
            "nested deeper than 64 levels",
        ),
        bad("policies/p/links.json", nested("[", "", "]", DEEP), "a link is"),
        bad(
            "policies/p/portal.yaml",
            format!("flags: {}", nested("{a: ", "1", "}", DEEP)),
            "nested too deep",
        ),
        bad(
            "policies/p/tests/x.yaml",
            format!("cases: {}", nested("[", "", "]", DEEP)),
            "is not a test file",
        ),
        bad("policies/p/tests/x.json", nested("[", "", "]", DEEP), "is not a test file"),
        bad(
            "policies/p/tests/x.yaml",
            aliases(),
            "uses more aliases or text than a file may",
        ),
        bad("policies/p/entities.json", cycle(), "cycle"),
        bad(
            "policies/p/entities.json",
            r#"[{"uid":{"type":"Rol","id":"a"},"attrs":{},"parents":[]}]"#,
            "`Rol`",
        ),
        bad("policies/p/entities.json", "", "EOF"),
    ]
}

/// Each list holds the one before nine times.
fn aliases() -> String {
    let lists: String = ('b'..='i')
        .zip('a'..)
        .map(|(list, before)| format!(", {list}: &{list} [{}]", vec![format!("*{before}"); 9].join(",")))
        .collect();
    format!("cases:\n  - {{ name: x, claims: {{ a: &a [x,x,x,x,x,x,x,x,x]{lists} }}, http: \"GET {PAGE}\", expect: deny }}\n")
}

fn cycle() -> String {
    let role = |id: &str, parent: &str| {
        format!(r#"{{"uid":{{"type":"Role","id":"{id}"}},"attrs":{{}},"parents":[{{"type":"Role","id":"{parent}"}}]}}"#)
    };
    format!("[{},{}]", role("a", "b"), role("b", "a"))
}

/// Runs every command that reads policies; each ends in time, and none dies of a signal.
fn outputs(folder: &Path) -> Vec<(&'static str, i32, String)> {
    let commands: [(&str, &[&str]); 5] = [
        ("validate", &["validate", "."]),
        ("lint", &["lint", "."]),
        ("test", &["test", "."]),
        ("fmt", &["fmt", "--check", "."]),
        ("explain", &["explain", "--portal", "p", "--url", PAGE, "."]),
    ];
    let ran = commands.map(|(name, arguments)| {
        let started = Instant::now();
        let (code, out, error) = run(folder, arguments);
        assert!(started.elapsed() < PATIENCE, "{name} took {:?}", started.elapsed());
        assert!(matches!(code, 3 | 64), "{name}: {code} {out}{error}");
        (name, code, format!("{out}{error}"))
    });
    ran.into()
}

#[test]
fn every_bad_file_is_one_clear_error_and_hides_no_other() {
    for BadFile { name, content, message } in files() {
        let folder = tree();
        put(folder.path(), name, &content);
        for (command, _, output) in outputs(folder.path()) {
            let is_formatted = name.ends_with(".cedar") && !message.contains("invalid token");
            if command == "fmt" && !is_formatted {
                continue;
            }
            let shown = output.get(..output.len().min(4000)).unwrap_or(&output);
            // lint and explain look at no test; entities are read once their schema is known
            let is_test = name.contains("/tests/") && command == "explain";
            let needs_policies = name.ends_with("entities.json") || name.ends_with("links.json");
            if is_test || (needs_policies && command == "explain") {
                continue;
            }
            let about: Vec<&str> = output.lines().filter(|line| line.contains(message)).collect();
            assert_eq!(about.len(), 1, "{command} of {name} ({message}): {shown}");
            if command != "fmt" && command != "explain" {
                assert!(output.contains("policies/p/wrong.cedar:1"), "{command} of {name}: {shown}");
                assert!(output.contains("policies/other/main.cedar:1"), "{command} of {name}: {shown}");
            }
        }
    }
}

#[test]
fn what_is_no_regular_file_is_named_and_never_waited_for() {
    let folder = tree();
    let p = folder.path().join("policies/p");
    for pipe in ["pipe.cedar", "tests/pipe.yaml"] {
        assert!(Command::new("mkfifo").arg(p.join(pipe)).status().unwrap().success());
    }
    symlink("/dev/zero", p.join("device.cedar")).unwrap();
    symlink("loop.cedar", p.join("loop.cedar")).unwrap();
    symlink(".", p.join("tests/again")).unwrap();
    symlink("missing", folder.path().join("policies/gone")).unwrap();
    std::fs::create_dir(p.join("folder.cedar")).unwrap();
    for (command, _, output) in outputs(folder.path()) {
        for name in [
            "policies/p/pipe.cedar",
            "policies/p/tests/pipe.yaml",
            "policies/p/device.cedar",
            "policies/p/loop.cedar",
            "policies/p/folder.cedar",
        ] {
            assert!(output.contains(name), "{command} does not name {name}: {output}");
        }
        if command != "explain" {
            assert!(output.contains("policies/gone"), "{command}: {output}");
        }
        if command == "validate" {
            assert!(output.contains("policies/p/wrong.cedar:1"), "{output}");
        }
    }
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_change_nothing() {
    let folder = tree();
    std::fs::remove_file(folder.path().join("policies/p/wrong.cedar")).unwrap();
    std::fs::remove_dir_all(folder.path().join("policies/other")).unwrap();
    for name in ["schemas/p.cedarschema", "policies/p/main.cedar", "policies/p/tests/t.yaml"] {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        put(
            folder.path(),
            name,
            format!("\u{feff}{}", text.replace('\n', "\r\n")).as_bytes(),
        );
    }
    put(folder.path(), "policies/p/portal.yaml", "\u{feff}title: a\r\n".as_bytes());
    put(folder.path(), "policies/p/entities.json", "\u{feff}[]\r\n".as_bytes());
    put(folder.path(), "policies/p/empty.cedar", b"");
    for command in ["validate", "test", "lint"] {
        let (code, out, error) = run(folder.path(), &[command, "."]);
        assert_eq!(code, 0, "{command}: {out}{error}");
    }
}

#[test]
fn a_policy_file_of_many_megabytes_is_read_or_refused_in_time() {
    let folder = tree();
    std::fs::remove_file(folder.path().join("policies/p/wrong.cedar")).unwrap();
    let text = format!(
        "permit (principal, action, resource) when {{ \"{}\" == \"\" }};",
        "a".repeat(100 << 20)
    );
    put(folder.path(), "policies/p/long.cedar", text.as_bytes());
    let started = Instant::now();
    let (code, out, error) = run(folder.path(), &["validate", "."]);
    assert!(matches!(code, 0 | 3), "{code} {out}{error}");
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert!(out.len() < 10_000, "{} bytes of report", out.len());
    put(folder.path(), "policies/p/long.cedar", "}".repeat(100 << 20).as_bytes());
    let (code, out, error) = run(folder.path(), &["validate", "."]);
    assert_eq!(code, 3, "{error}");
    assert!(out.len() < 10_000, "{} bytes of report", out.len());
    assert!(out.contains("policies/p/long.cedar:1:1"), "{out}");
}
