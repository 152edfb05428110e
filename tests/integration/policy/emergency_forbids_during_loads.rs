//! Emergency forbids while a load takes long: the owner of one portal must not delay another portal's emergency forbid.

use std::fmt::Write as _;

use crate::support::{Gate, Setup, eventually, once_started};

const SCHEMA: &str = "
entity Tenant; entity Role in [Role]; entity User in [Role, Tenant]; entity Portal; entity Path in [Path, Portal];
action GET appliesTo { principal: [User], resource: [Path], context: {} };
";
const OPEN: &str = "@id(\"open\") permit(principal, action, resource);";
const STOP: &str = "forbid(principal, action, resource in Path::\"/portal/quick/x\");";

/// Portals `slow` and `quick`, both open.
fn start() -> Gate {
    let mut setup = Setup::empty().config("policies: { poll: 1h }");
    for portal in ["slow", "quick"] {
        setup = setup
            .file(&format!("schemas/{portal}.cedarschema"), SCHEMA)
            .file(&format!("policies/{portal}/main.cedar"), OPEN);
    }
    setup.start()
}

/// Begins a load of the portal `slow` that takes seconds and then closes `/portal/slow/last`.
fn begin_slow_load(gate: &Gate) {
    let mut policies = format!("{OPEN}\n@id(\"last\") forbid(principal, action, resource in Path::\"/portal/slow/last\");\n");
    for n in 0..20_000 {
        writeln!(
            policies,
            "@id(\"p{n}\") permit(principal == User::\"u{n}\", action, resource in Path::\"/portal/slow/{n}\");"
        )
        .unwrap();
    }
    gate.put("policies/slow/main.cedar", &policies);
    // the reloader reads the files, and then is busy with them
    std::thread::park_timeout(std::time::Duration::from_millis(400));
}

fn status(gate: &Gate, token: &str, path: &str) -> u16 {
    gate.get(path, token).status
}

fn wait_for(gate: &Gate, token: &str, path: &str, wanted: u16) {
    eventually(path, || match status(gate, token, path) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found}, not {wanted}")),
    });
}

#[test]
fn an_emergency_forbid_holds_while_another_portal_is_still_loading_and_can_be_released_again() {
    let gate = start();
    let token = gate.issuer.token("alice", &[]);
    begin_slow_load(&gate);
    gate.put("policies/quick/_deny/stop.cedar", STOP);
    wait_for(&gate, &token, "/portal/quick/x", 403);
    assert_eq!(
        status(&gate, &token, "/portal/slow/last"),
        200,
        "the other portal is still loading"
    );
    // removed before the reloader has ever seen it
    std::fs::remove_file(gate.path("policies/quick/_deny/stop.cedar")).unwrap();
    once_started("the other portal's load ends", || {
        match status(&gate, &token, "/portal/slow/last") {
            403 => Ok(()),
            found => Err(found.to_string()),
        }
    });
    wait_for(&gate, &token, "/portal/quick/x", 200);
    gate.stop();
}

#[test]
fn an_emergency_forbid_that_comes_during_a_load_of_its_own_portal_holds_before_and_after_it() {
    let gate = start();
    let token = gate.issuer.token("alice", &[]);
    begin_slow_load(&gate);
    gate.put(
        "policies/slow/_deny/stop.cedar",
        "forbid(principal, action, resource in Path::\"/portal/slow/x\");",
    );
    wait_for(&gate, &token, "/portal/slow/x", 403);
    assert_eq!(status(&gate, &token, "/portal/slow/last"), 200, "the portal is still loading");
    once_started("the load ends", || {
        assert_eq!(
            status(&gate, &token, "/portal/slow/x"),
            403,
            "the load lifted the emergency forbid"
        );
        match status(&gate, &token, "/portal/slow/last") {
            403 => Ok(()),
            found => Err(found.to_string()),
        }
    });
    assert_eq!(status(&gate, &token, "/portal/slow/x"), 403);
    std::fs::remove_file(gate.path("policies/slow/_deny/stop.cedar")).unwrap();
    wait_for(&gate, &token, "/portal/slow/x", 200);
    assert_eq!(status(&gate, &token, "/portal/slow/last"), 403, "the edit stays");
    gate.stop();
}
