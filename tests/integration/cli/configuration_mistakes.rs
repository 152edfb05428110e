//! Common mistakes in configuration and policies: the message names the file and the line.

use std::fs::File;
use std::process::Stdio;

use crate::support::binary::{GateFolder, cedargate};
use crate::support::eventually;

#[test]
fn a_route_with_an_action_that_the_schema_lacks_is_named_with_its_own_line() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    gate_folder.put(
        "policies/p/portal.yaml",
        "routes:\n\
         \x20 - { route: \"GET /portal/p/items/{item}/parts\", action: GET, resource: { type: Path, id: \"{item}\" } }\n\
         \x20 - { route: \"GET /portal/p/items/{item}\", action: gett, resource: { type: Path, id: \"{item}\" } }\n\
         \x20 - { route: \"PUT /portal/p/items/{item}\", action: putt, resource: { type: Path, id: \"{item}\" } }\n",
    );
    let (code, said, _) = gate_folder.run(&["validate", "--config", "cedargate.yaml"]);
    assert_eq!(code, 3, "{said}");
    for (line, action) in [(3, "gett"), (4, "putt")] {
        let place = format!("policies/p/portal.yaml:{line}:");
        let lines: Vec<&str> = said.lines().collect();
        let found = lines
            .windows(2)
            .any(|pair| pair[0].contains(action) && pair[1].contains(&place));
        assert!(found, "no `{place}` below `{action}` in {said}");
    }
}

#[test]
fn a_mistyped_policy_folder_is_named_with_its_key_by_validate_and_by_the_gate() {
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "policies: { dir: polices }");
    let (code, _, said) = gate_folder.run(&["validate", "--config", "cedargate.yaml"]);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("`polices`") && said.contains("policies.dir"), "{said}");

    let log = gate_folder.folder.path().join("log");
    let mut gate = cedargate(&["serve", "--config", "cedargate.yaml"])
        .current_dir(gate_folder.folder.path())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    eventually("the gate says so", || {
        let said = std::fs::read_to_string(&log).unwrap();
        let is_named = said.contains("no portal folder in `polices` (policies.dir)");
        is_named.then_some(()).ok_or(said)
    });
    gate.kill().unwrap();
    gate.wait().unwrap();
}
