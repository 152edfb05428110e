//! `cedargate matrix`: every format, and ids that would like to be more than text.

use serde_json::Value;

use crate::support::OPEN_SCHEMA;
use crate::support::binary::{GateFolder, cedargate, run};

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>|=`\u{1b}[2J\u{202e}";

fn folder() -> GateFolder {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let id = HOSTILE.replace('\u{1b}', "\\u{1b}");
    gate_folder.put(
        "policies/p/main.cedar",
        &format!(
            "@id(\"viewers\") permit (principal in Role::\"viewer\", action == Action::\"GET\", resource);\n\
             @id(\"odd\") permit (principal in Role::\"{id}\", action == Action::\"PUT\", resource)\n\
             when {{ principal has email && principal.email == \"{id}\" }};\n"
        ),
    );
    gate_folder
}

#[test]
fn every_format_shows_the_same_cells() {
    let gate_folder = folder();
    let (code, out, error) = gate_folder.run(&["matrix", "--format", "json"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let cells = report["portals"][0]["cells"].as_array().unwrap();
    let answer = |role: Value, action: &str| {
        let found = cells.iter().find(|cell| cell["role"] == role && cell["action"] == action);
        found.map(|cell| cell["answer"].as_str().unwrap().to_owned())
    };
    assert_eq!(answer("viewer".into(), "GET").as_deref(), Some("allow"));
    assert_eq!(answer("viewer".into(), "PUT").as_deref(), Some("deny"));
    assert_eq!(answer(Value::Null, "GET").as_deref(), Some("deny"));
    assert_eq!(answer(HOSTILE.into(), "PUT").as_deref(), Some("conditional"));
    // seven actions, and no role, `viewer` and the odd one
    assert_eq!(cells.len(), 21);
    let (_, csv, _) = gate_folder.run(&["matrix", "--format", "csv"]);
    assert_eq!(csv.matches("\r\n").count(), 22, "{csv}");
    assert!(csv.contains("p,User,viewer,GET,Path,allow,,\r\n"), "{csv}");
    for format in ["human", "markdown", "html"] {
        let (code, out, error) = gate_folder.run(&["matrix", "--format", format, "--portal", "p"]);
        assert_eq!((code, error.as_str()), (0, ""), "{format}");
        assert!(out.contains("viewer") && out.contains("allow"), "{format}: {out}");
    }
    let (code, _, error) = gate_folder.run(&["matrix", "--portal", "q"]);
    assert_eq!(code, 64, "{error}");
}

#[test]
fn options_leave_out_the_rest_and_change_no_cell() {
    let gate_folder = folder();
    let rest = "appliesTo { principal: [User], resource: [Path], context: {} };\naction";
    let grouped = OPEN_SCHEMA.replace(
        "action GET, HEAD,",
        &format!("action read; action GET, HEAD in [read] {rest}"),
    );
    gate_folder.put("schemas/q.cedarschema", &grouped);
    gate_folder.put(
        "policies/q/main.cedar",
        "permit (principal in Role::\"editor\", action == Action::\"PUT\", resource);",
    );
    let cells = |arguments: &[&str]| -> Vec<Value> {
        let command = [&["matrix", "--format", "json"][..], arguments].concat();
        let (code, out, error) = run(gate_folder.folder.path(), &[&command[..], &["."]].concat());
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}: {out}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let of_portal = |portal: &Value| -> Vec<Value> {
            let mut cells = portal["cells"].as_array().unwrap().clone();
            for cell in &mut cells {
                cell["portal"] = portal["portal"].clone();
            }
            cells
        };
        report["portals"].as_array().unwrap().iter().flat_map(of_portal).collect()
    };
    let all = cells(&[]);
    type Keeps = fn(&Value) -> bool;
    let selections: [(&[&str], Keeps); 7] = [
        (&["--role", "viewer"], |cell| cell["role"] == "viewer"),
        (&["--role", "viewer", "--role", "editor"], |cell| {
            cell["role"] == "viewer" || cell["role"] == "editor"
        }),
        (&["--role", "(no role)", "--portal", "q"], |cell| {
            cell["role"].is_null() && cell["portal"] == "q"
        }),
        (&["--action", "PUT"], |cell| cell["action"] == "PUT"),
        (&["--action", "Action::\"PUT\"", "--role", "editor"], |cell| {
            cell["action"] == "PUT" && cell["role"] == "editor"
        }),
        (&["--action", "read"], |cell| {
            cell["portal"] == "q" && (cell["action"] == "GET" || cell["action"] == "HEAD")
        }),
        (&["--resource", "Path"], |cell| cell["resource"] == "Path"),
    ];
    for (arguments, keeps) in selections {
        let expected: Vec<Value> = all.iter().filter(|cell| keeps(cell)).cloned().collect();
        assert!(!expected.is_empty(), "{arguments:?}");
        assert_eq!(cells(arguments), expected, "{arguments:?}");
    }
    for (arguments, message) in [
        (
            ["--role", "viewr"],
            "no portal here has the role `viewr`; did you mean `viewer`?",
        ),
        (["--action", "PUTT"], "the action `PUTT`; did you mean `PUT`?"),
        (["--resource", "Pth"], "the resource type `Pth`; did you mean `Path`?"),
        (["--portal", "pp"], "there is no portal `pp`; did you mean `p`?"),
    ] {
        let command = [&["matrix"][..], &arguments, &["."]].concat();
        let (code, out, error) = run(gate_folder.folder.path(), &command);
        assert!(
            code == 64 && out.is_empty() && error.contains(message),
            "{arguments:?}: {code} {error}"
        );
    }
}

#[test]
fn hostile_ids_stay_text() {
    let gate_folder = folder();
    let (_, html, _) = gate_folder.run(&["matrix", "--format", "html"]);
    assert_eq!(
        html.matches("<script").count(),
        3,
        "the tree, the matrix, and the page's own script"
    );
    assert!(!html.contains("<img") && html.contains("\\u003cimg src=x"), "{html}");
    assert!(html.contains("default-src &#39;none&#39;; script-src &#39;sha256-"), "{html}");
    for remote in ["https://", "src=\"", "href=\"http", "@import", "url(", "<link"] {
        assert!(!html.contains(remote), "the page names {remote}");
    }
    for format in ["human", "markdown", "csv"] {
        let (_, out, _) = gate_folder.run(&["matrix", "--format", format]);
        let is_raw = out.contains('\u{1b}');
        assert!(!is_raw || format == "csv", "{format}: {out:?}");
    }
    let (_, markdown, _) = gate_folder.run(&["matrix", "--format", "markdown"]);
    let rows = markdown.lines().filter(|line| line.starts_with("| "));
    assert!(rows.clone().all(|line| !line.contains("<img")), "{markdown}");
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(rows.clone().all(|line| bars(line) == 6), "{markdown}");
}

#[test]
fn a_portal_that_does_not_load_is_an_error_beside_the_others() {
    let gate_folder = folder();
    gate_folder.put("policies/q/main.cedar", "permit (");
    let (code, out, error) = run(gate_folder.folder.path(), &["matrix", "."]);
    assert_eq!(code, 3, "{out}{error}");
    assert!(out.contains("viewer"), "{out}");
    assert!(error.contains("policies/q/main.cedar"), "{error}");
    let help = cedargate(&["matrix", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("unknown could not be computed"));
}
