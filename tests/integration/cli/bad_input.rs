//! Files that no editor should write: one clear error each, no crash, and every other file still reported.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::binary::run;
use crate::support::{OPEN_POLICY, OPEN_SCHEMA, PAGE};

/// Longest run of one command; a hang takes for ever. A hundred megabytes took 100 seconds on two cores with 20 other
/// processes, and five on idle ones.
const PATIENCE: Duration = Duration::from_secs(300);
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

/// A tree with a portal `p`, and a portal `other` with a mistake of its own.
fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put_tree(folder.path(), MISTAKE);
    put(
        folder.path(),
        "policies/p/wrong.cedar",
        b"permit (principal, action, resource",
    );
    folder
}

/// The policy of a portal that does not load.
const MISTAKE: &str = "permit (principal, action == Action::\"NOPE\", resource);";

/// A good portal `p`, and a portal `other` with this policy.
fn put_tree(root: &Path, other: &str) {
    for (name, text) in [
        ("schemas/p.cedarschema", OPEN_SCHEMA),
        ("policies/p/main.cedar", OPEN_POLICY),
        ("policies/p/tests/t.yaml", GOOD_TEST),
        ("schemas/other.cedarschema", OPEN_SCHEMA),
        ("policies/other/main.cedar", other),
    ] {
        put(root, name, text.as_bytes());
    }
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

/// What a command reads of a tree.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Part {
    Policies,
    Schema,
    /// Entities, links, portal.yaml.
    Facts,
    Tests,
}

impl Part {
    fn of(file: &str) -> Self {
        match file {
            file if file.contains("/tests/") => Self::Tests,
            file if file.ends_with(".cedar") => Self::Policies,
            file if file.ends_with(".cedarschema") => Self::Schema,
            _ => Self::Facts,
        }
    }
}

/// The commands beside those of `outputs`.
struct Reader {
    arguments: &'static [&'static str],
    reads: &'static [Part],
    /// True if the command is about the whole tree, so that it names the mistake of the other portal, too.
    names_all: bool,
}

fn readers() -> Vec<Reader> {
    const TREE: &[Part] = &[Part::Policies, Part::Schema, Part::Facts];
    let reader = |arguments, reads, names_all| Reader {
        arguments,
        reads,
        names_all,
    };
    vec![
        reader(&["authorize", "--portal", "p", "--url", PAGE, "."], TREE, false),
        reader(&["diff", "../good", "."], TREE, true),
        reader(&["diff", ".", "../good"], TREE, true),
        reader(&["replay", "--log", "../log", "."], TREE, true),
        reader(&["usage", "--log", "../log", "."], TREE, true),
        reader(&["matrix", "."], TREE, true),
        reader(
            &["bundle", "build", "--sequence", "1", "--output", "../out.bundle", "."],
            &[Part::Policies, Part::Schema, Part::Facts, Part::Tests],
            true,
        ),
        reader(&["workbench", "--export", "../page", "."], TREE, true),
        reader(&["schema", "types", "--ts", "--portal", "p", "."], TREE, false),
        reader(&["schema", "show", "--portal", "p", "."], &[Part::Schema], false),
        reader(&["schema", "to-json", "--portal", "p", "."], &[Part::Schema], false),
        reader(&["schema", "diff", "--portal", "p", "../good", "."], &[Part::Schema], false),
    ]
}

/// A record that no portal decided: every command that reads logs takes it.
const RECORD: &str = "{\"kind\":\"policy_event\",\"ts\":\"2026-01-01T00:00:00.000Z\"}\n";

#[test]
fn every_command_names_the_bad_file_once_and_the_mistake_of_the_other_portal() {
    let wanted = [
        ("policies/p/x.cedar", "is not valid UTF-8"),
        ("policies/p/x.cedar", "brackets nest deeper than 100"),
        ("policies/p/entities.json", "cycle"),
        ("policies/p/entities.json", "nested deeper than 64 levels"),
        ("policies/p/portal.yaml", "is not valid UTF-8"),
        ("schemas/p.cedarschema", "is not valid UTF-8"),
        ("schemas/p.cedarschema", "brackets nest deeper than 100"),
        ("policies/p/tests/x.yaml", "is not valid UTF-8"),
    ];
    for (name, message) in wanted {
        let all = files();
        let bad = all.iter().find(|bad| bad.name == name && bad.message == message).unwrap();
        let root = tempfile::tempdir().unwrap();
        for (folder, other) in [("good", OPEN_POLICY), ("bad", MISTAKE)] {
            put_tree(&root.path().join(folder), other);
        }
        put(root.path(), "log", RECORD.as_bytes());
        let folder = root.path().join("bad");
        put(&folder, name, &bad.content);
        for Reader {
            arguments,
            reads,
            names_all,
        } in readers()
        {
            let started = Instant::now();
            let (code, out, error) = run(&folder, arguments);
            assert!(started.elapsed() < PATIENCE, "{arguments:?} took {:?}", started.elapsed());
            let is_export = arguments[0] == "workbench";
            let output = match is_export {
                true => std::fs::read_to_string(root.path().join("page/index.html")).unwrap(),
                false => format!("{out}{error}"),
            };
            let shown: String = output.chars().take(4000).collect();
            assert!([0, 2, 3, 64].contains(&code), "{arguments:?} of {name}: {code} {shown}");
            let count = output.lines().filter(|line| line.contains(message)).count();
            if reads.contains(&Part::of(name)) {
                assert!(
                    is_export || code == 3 || code == 64,
                    "{arguments:?} of {name}: {code} {shown}"
                );
                assert!(
                    count == 1 || (is_export && count > 0),
                    "{arguments:?} of {name} ({message}): {shown}"
                );
            } else if !is_export {
                assert_eq!(count, 0, "{arguments:?} of {name} ({message}): {shown}");
            }
            if names_all {
                assert!(
                    output.contains("policies/other/main.cedar"),
                    "{arguments:?} of {name}: {shown}"
                );
            }
        }
    }
}

#[test]
fn a_log_without_a_record_is_refused_and_bad_lines_beside_records_are_named() {
    let root = tempfile::tempdir().unwrap();
    put_tree(&root.path().join("good"), OPEN_POLICY);
    let good = root.path().join("good");
    let binary: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80)
        .collect();
    let deep = format!("{}\n", nested("[", "", "]", 50_000)).into_bytes();
    let commands: [&[&str]; 4] = [
        &["replay", "--log", "../log", "."],
        &["usage", "--log", "../log", "."],
        &["shadow", "report", "--log", "../log"],
        &["diff", ".", ".", "--log", "../log"],
    ];
    for bad in [&binary, &deep, &b"{\"ts\":\"2026-01".to_vec(), &b"hello\r\n".to_vec()] {
        for command in commands {
            put(root.path(), "log", bad);
            let (code, out, error) = run(&good, command);
            assert_eq!((code, out.as_str()), (64, ""), "{command:?}: {error}");
            let expected = "no line of the log is a record of the gate (../log:1 is none)";
            assert!(error.contains(expected) && error.lines().count() == 1, "{command:?}: {error}");
            // the same lines beside a record
            put(root.path(), "log", &[RECORD.as_bytes(), bad].concat());
            let (code, _, error) = run(&good, command);
            assert!(code == 0 && error.contains("../log:2"), "{command:?}: {code} {error}");
        }
    }
    for command in commands {
        put(root.path(), "log", b"");
        let (code, _, error) = run(&good, command);
        assert_eq!(code, 0, "an empty log has no flips: {command:?}: {error}");
        put(
            root.path(),
            "log",
            format!("\u{feff}{}", RECORD.replace('\n', "\r\n")).as_bytes(),
        );
        let (code, _, error) = run(&good, command);
        assert!(code == 0 && !error.contains("no record"), "{command:?}: {error}");
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
fn a_policy_of_many_megabytes_is_refused_in_time() {
    let folder = tree();
    std::fs::remove_file(folder.path().join("policies/p/wrong.cedar")).unwrap();
    let compared = |bytes: usize| {
        format!(
            "permit (principal, action, resource) when {{ \"{}\" == \"\" }};",
            "a".repeat(bytes)
        )
    };
    const LARGE: usize = 5 << 20;
    for text in [compared(LARGE), "}".repeat(LARGE)] {
        put(folder.path(), "policies/p/long.cedar", text.as_bytes());
        for (command, _, output) in outputs(folder.path()) {
            assert!(output.len() < 10_000, "{command}: {} bytes of report", output.len());
            let about = output.lines().filter(|line| line.contains("a policy is longer than 4 MiB"));
            assert_eq!(about.count(), 1, "{command}: {output}");
            assert!(output.contains("policies/p/long.cedar:1:1"), "{command}: {output}");
            let is_of_tree = command != "explain" && command != "fmt";
            assert!(
                !is_of_tree || output.contains("policies/other/main.cedar:1"),
                "{command}: {output}"
            );
        }
    }
    put(folder.path(), "policies/p/long.cedar", compared(100 << 20).as_bytes());
    let (code, out, error) = run(folder.path(), &["validate", "."]);
    assert_eq!(code, 3, "{error}");
    assert!(out.len() < 10_000 && out.contains("policies/p/long.cedar:1:1"), "{out}");
}

/// Slips of people who are new, each with a part of the advice.
#[test]
fn slips_of_a_beginner_come_with_advice() {
    let rule = "permit (principal, action, resource)";
    for (name, text, advice) in [
        (
            "policies/p/x.cedar",
            format!("{rule} when {{ 1 == 1 and true }};"),
            "= help: write `&&`",
        ),
        ("policies/p/x.cedar", format!("{rule}\n{rule};"), "does not end with `;`"),
        ("policies/p/x.cedar", format!("# note\n{rule};"), "a comment begins with `//`"),
        (
            "policies/p/x.cedar",
            "permit (principal == ?principal, action, resource);".to_owned(),
            "template `x#0` has no link in links.json, so it decides nothing",
        ),
        ("policies/p/entities.json", "{\"Role\": []}".to_owned(), "an entity is `{"),
        ("policies/p/portal.yaml", "public: [ \"assets/**\" ]".to_owned(), "public[0]"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        put_tree(folder.path(), OPEN_POLICY);
        put(folder.path(), name, text.as_bytes());
        let (code, out, error) = run(folder.path(), &["validate", "--deny-warnings", "."]);
        assert_eq!(code, 3, "{text}: {out}{error}");
        assert!(out.contains(advice), "{text}: {out}");
    }
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "policies/Shop/main.cedar", OPEN_POLICY.as_bytes());
    let (code, _, error) = run(folder.path(), &["validate", "."]);
    assert_eq!(code, 64, "{error}");
    assert!(error.contains("policies/Shop/main.cedar"), "{error}");
}
