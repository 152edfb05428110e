//! Mistakes that newcomers make, and whether the answer says where.

use std::io::Read;
use std::process::Stdio;

use crate::cli::{Place, cedargate};
use crate::support::eventually;

#[test]
fn a_route_with_an_action_that_the_schema_lacks_is_named_with_its_own_line() {
    let place = Place::new("http://127.0.0.1:1", "");
    place.put(
        "policies/p/portal.yaml",
        "routes:\n\
         \x20 - { route: \"GET /portal/p/items/{item}/parts\", action: GET, resource: { type: Path, id: \"{item}\" } }\n\
         \x20 - { route: \"GET /portal/p/items/{item}\", action: gett, resource: { type: Path, id: \"{item}\" } }\n\
         \x20 - { route: \"PUT /portal/p/items/{item}\", action: putt, resource: { type: Path, id: \"{item}\" } }\n",
    );
    let (code, said, _) = place.run(&["validate", "--config", "cedargate.yaml"]);
    assert_eq!(code, 3, "{said}");
    for (line, action) in [(3, "gett"), (4, "putt")] {
        let place = format!("policies/p/portal.yaml:{line}:");
        let found = said.lines().any(|said| said.contains(&place) && said.contains(action));
        assert!(found, "no `{place}` with `{action}` in {said}");
    }
}

#[test]
fn a_mistyped_policy_folder_is_named_with_its_key_by_validate_and_by_the_gate() {
    let place = Place::new("http://127.0.0.1:1", "policies: { dir: polices }");
    let (code, _, said) = place.run(&["validate", "--config", "cedargate.yaml"]);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("`polices`") && said.contains("policies.dir"), "{said}");

    let mut gate = cedargate(&["serve", "--config", "cedargate.yaml"])
        .current_dir(place.folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the gate listens", || {
        std::net::TcpStream::connect(place.proxy).map_err(|e| e.to_string())
    });
    gate.kill().unwrap();
    gate.wait().unwrap();
    let mut said = String::new();
    gate.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("no portal folder in `polices` (policies.dir)"), "{said}");
}
