//! Hot reload, against a running gate: every way an edit can arrive, every way it can be wrong, and traffic meanwhile.
//!
//! Tests with `poll: 1h` prove that watching alone suffices; those with `poll: 200ms` edit where no watch can see.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::kubelet::Volume;
use crate::support::{Answer, Gate, Setup, claims, eventually, parse, raw};

const SCHEMA: &str = "
entity Tenant;
entity Role in [Role];
entity User in [Role, Tenant] = { email?: String };
entity Portal;
entity Order;
entity Path in [Path, Portal];
type Facts = { portal: String, now: datetime, flags?: { fast?: Bool } };
action GET, HEAD, POST, viewOrder appliesTo { principal: [User], resource: [Path, Order], context: Facts };
";
const WATCHING: &str = "policies: { poll: 1h }";
const MAIN: &str = "policies/p/main.cedar";
/// The longest time from an edit to the first decision by it, on a busy machine.
const LATENCY_MAX: Duration = Duration::from_secs(2);

/// A policy set that allows everything and says which one it is.
fn rule(id: &str) -> String {
    format!("@id(\"{id}\")\npermit (principal, action, resource);\n")
}

fn forbid(id: &str) -> String {
    format!("@id(\"{id}\")\nforbid (principal, action, resource);\n")
}

fn setup() -> Setup {
    Setup::empty()
        .file("schemas/_shared.cedarschema", SCHEMA)
        .file(MAIN, &rule("v0"))
}

fn watching() -> Gate {
    setup().config(WATCHING).start()
}

fn decide(gate: &Gate, portal: &str) -> Value {
    let question = json!({"portal": portal, "principal": "User::\"alice\"", "action": "GET",
        "resource": {"type": "Path", "id": format!("/portal/{portal}/x")}});
    gate.authorize(&question)
}

/// The ids that decide, in order, comma-separated.
fn deciding(answer: &Value) -> String {
    let policies = answer["policies"].as_array().unwrap();
    let ids: BTreeSet<_> = policies.iter().map(|p| p["id"].as_str().unwrap()).collect();
    ids.into_iter().collect::<Vec<_>>().join(",")
}

fn serves(gate: &Gate, portal: &str, id: &str) -> Duration {
    let started = Instant::now();
    eventually(&format!("`{id}` decides for `{portal}`"), || {
        let answer = decide(gate, portal);
        if deciding(&answer) == id {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    });
    started.elapsed()
}

fn last_reload(gate: &Gate, portal: &str) -> Value {
    let status = gate.status();
    let portals = status["portals"].as_array().unwrap();
    let found = portals.iter().find(|p| p["portal"] == portal).cloned().unwrap_or_default();
    found["last_reload"].clone()
}

/// The problem of the rejected candidate whose text has `needle`; the gate stays ready meanwhile.
fn rejected(gate: &Gate, portal: &str, needle: &str) -> Value {
    let problem = eventually(&format!("`{portal}` is rejected for `{needle}`"), || {
        let last = last_reload(gate, portal);
        let problems = last["problems"].as_array().cloned().unwrap_or_default();
        let found = problems.into_iter().find(|p| p.to_string().contains(needle));
        found.filter(|_| last["result"] == "rejected").ok_or(last.to_string())
    });
    assert_eq!(ready(gate), 200, "a rejected edit never makes a gate unready");
    problem
}

fn accepted(gate: &Gate, portal: &str) {
    eventually(&format!("`{portal}` is accepted"), || {
        let last = last_reload(gate, portal);
        if last["result"] == "success" {
            Ok(())
        } else {
            Err(last.to_string())
        }
    });
}

/// Waits until the portal serves another revision than `before`.
fn moves_on(gate: &Gate, portal: &str, before: &Option<String>) {
    eventually(&format!("`{portal}` has another revision"), || {
        let now = gate.revision(portal);
        if now == *before { Err(format!("{now:?}")) } else { Ok(()) }
    });
}

fn ready(gate: &Gate) -> u16 {
    raw(gate.admin, "GET", "/readyz", &[], b"").status
}

fn remove(gate: &Gate, name: &str) {
    std::fs::remove_file(gate.path(name)).unwrap();
}

fn rename(gate: &Gate, from: &str, to: &str) {
    std::fs::rename(gate.path(from), gate.path(to)).unwrap();
}

fn metric(gate: &Gate, line_start: &str) -> f64 {
    let text = gate.metrics();
    let line = text.lines().find(|line| line.starts_with(line_start));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

// how an edit arrives

#[test]
fn every_way_of_saving_a_file_is_taken_by_watching_alone_and_soon() {
    let gate = watching();
    serves(&gate, "p", "v0");
    gate.put(MAIN, &rule("in-place"));
    let mut slowest = serves(&gate, "p", "in-place");
    gate.put("policies/p/.new", &rule("renamed-over"));
    rename(&gate, "policies/p/.new", MAIN);
    slowest = slowest.max(serves(&gate, "p", "renamed-over"));
    // vim: probe, swap file, backup, new file under the old name
    gate.put("policies/p/4913", "");
    remove(&gate, "policies/p/4913");
    gate.put("policies/p/.main.cedar.swp", "b0VIM");
    rename(&gate, MAIN, "policies/p/main.cedar~");
    gate.put(MAIN, &rule("vim"));
    remove(&gate, "policies/p/main.cedar~");
    remove(&gate, "policies/p/.main.cedar.swp");
    slowest = slowest.max(serves(&gate, "p", "vim"));
    // emacs: dangling lock link, auto-save file, backup that stays
    symlink("me@host.1:2", gate.path("policies/p/.#main.cedar")).unwrap();
    gate.put("policies/p/#main.cedar#", "permit (");
    std::fs::copy(gate.path(MAIN), gate.path("policies/p/main.cedar~")).unwrap();
    gate.put(MAIN, &rule("emacs"));
    slowest = slowest.max(serves(&gate, "p", "emacs"));
    // a new name in place of the old one
    gate.put("policies/p/other.cedar", &rule("other-name"));
    remove(&gate, MAIN);
    slowest = slowest.max(serves(&gate, "p", "other-name"));
    accepted(&gate, "p");
    assert!(slowest < LATENCY_MAX, "{slowest:?} from an edit to its decision");
    gate.stop();
}

#[test]
fn a_replaced_folder_is_followed_again_and_again() {
    let gate = watching();
    for n in 0..3 {
        let id = format!("removed-{n}");
        gate.put("next/main.cedar", &rule(&id));
        std::fs::remove_dir_all(gate.path("policies/p")).unwrap();
        rename(&gate, "next", "policies/p");
        serves(&gate, "p", &id);
        let id = format!("moved-{n}");
        gate.put("next/main.cedar", &rule(&id));
        rename(&gate, "policies/p", &format!("old-{n}"));
        rename(&gate, "next", "policies/p");
        serves(&gate, "p", &id);
        let id = format!("edited-{n}");
        gate.put(MAIN, &rule(&id));
        serves(&gate, "p", &id);
    }
    gate.stop();
}

#[test]
fn a_replaced_policy_root_is_followed_again_and_again() {
    let gate = watching();
    for n in 0..3 {
        let id = format!("root-{n}");
        gate.put("next/p/main.cedar", &rule(&id));
        rename(&gate, "policies", &format!("old-{n}"));
        rename(&gate, "next", "policies");
        serves(&gate, "p", &id);
        let id = format!("edited-{n}");
        gate.put(MAIN, &rule(&id));
        serves(&gate, "p", &id);
    }
    gate.stop();
}

#[test]
fn an_edit_that_no_watch_can_see_is_found_by_polling() {
    let gate = setup().start();
    // the same inode under another name: what a single-file bind mount is
    std::fs::hard_link(gate.path(MAIN), gate.path("mounted.cedar")).unwrap();
    gate.put("mounted.cedar", &rule("same-inode"));
    serves(&gate, "p", "same-inode");
    // the portal's folder lies elsewhere
    rename(&gate, "policies/p", "elsewhere");
    symlink(gate.path("elsewhere"), gate.path("policies/p")).unwrap();
    gate.put("elsewhere/main.cedar", &rule("linked"));
    serves(&gate, "p", "linked");
    gate.put("elsewhere/main.cedar", &rule("behind-the-link"));
    serves(&gate, "p", "behind-the-link");
    gate.put("new.cedar", &rule("replaced-behind-the-link"));
    rename(&gate, "new.cedar", "elsewhere/main.cedar");
    serves(&gate, "p", "replaced-behind-the-link");
    gate.stop();
}

#[test]
fn kubelet_swaps_a_portals_folder() {
    let gate = watching();
    let mut volume = Volume::mount(&gate.path("policies/p"));
    volume.publish(&[("main.cedar", &rule("k1"))]);
    serves(&gate, "p", "k1");
    let test = "cases: [{ name: all, principal: a, action: GET, resource: { type: Path, id: /portal/p }, expect: allow }]\n\
        principals: { a: { id: a, tenant: t, roles: [] } }\n";
    volume.publish(&[("main.cedar", &rule("k2")), ("tests/t.yaml", test)]);
    serves(&gate, "p", "k2");
    volume.publish(&[("other.cedar", &rule("k3")), ("tests/t.yaml", test)]);
    serves(&gate, "p", "k3");
    volume.publish(&[("other.cedar", &format!("{}{}", rule("k4"), forbid("k4-never")))]);
    serves(&gate, "p", "k4-never");
    volume.publish(&[("other.cedar", "permit (")]);
    rejected(&gate, "p", "policies/p/other.cedar");
    volume.publish(&[("other.cedar", &rule("k5"))]);
    serves(&gate, "p", "k5");
    gate.stop();
}

#[test]
fn kubelet_swaps_the_whole_policy_root_and_the_schemas() {
    let gate = watching();
    let mut policies = Volume::mount(&gate.path("policies"));
    policies.publish(&[("p/main.cedar", &rule("k1"))]);
    serves(&gate, "p", "k1");
    policies.publish(&[("p/main.cedar", &rule("k2")), ("q/main.cedar", &rule("q1"))]);
    serves(&gate, "p", "k2");
    serves(&gate, "q", "q1");
    let mut schemas = Volume::mount(&gate.path("schemas"));
    schemas.publish(&[("_shared.cedarschema", SCHEMA)]);
    policies.publish(&[("p/main.cedar", &rule("k3")), ("q/main.cedar", &rule("q2"))]);
    serves(&gate, "p", "k3");
    serves(&gate, "q", "q2");
    let before = gate.revision("p");
    schemas.publish(&[("_shared.cedarschema", &format!("{SCHEMA}\nentity More;\n"))]);
    moves_on(&gate, "p", &before);
    gate.stop();
}

#[test]
fn a_new_portal_folder_serves_and_a_vanished_one_keeps_its_last_good_revision() {
    let gate = watching();
    let alice = gate.issuer.token("alice", &["viewer"]);
    assert_eq!(gate.get("/portal/fresh/x", &alice).code(), "portal_unknown");
    gate.put("policies/fresh/main.cedar", &rule("f1"));
    eventually("the new portal serves", || {
        let answer = gate.get("/portal/fresh/x", &alice);
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    let revision = gate.revision("fresh");
    std::fs::remove_dir_all(gate.path("policies/fresh")).unwrap();
    let problem = rejected(&gate, "fresh", "is missing or empty");
    assert_eq!(problem["file"], "policies/fresh/");
    assert_eq!(gate.revision("fresh"), revision);
    assert_eq!(gate.get("/portal/fresh/x", &alice).status, 200);
    serves(&gate, "p", "v0");
    gate.stop();
}

// what an edit may not do

#[test]
fn a_half_written_file_never_counts_until_it_is_complete() {
    let gate = watching();
    let mut file = std::fs::OpenOptions::new().append(true).open(gate.path(MAIN)).unwrap();
    let mut write = |text: &str| file.write_all(text.as_bytes()).unwrap();
    write("@id(\"w1\") forbid (principal, act");
    rejected(&gate, "p", MAIN);
    serves(&gate, "p", "v0");
    write("ion, resource);\n");
    serves(&gate, "p", "w1");
    write("@id(\"w2\") forbid (principal, action, resource) when { context.portal == \"");
    rejected(&gate, "p", MAIN);
    serves(&gate, "p", "w1");
    write("p\" };\n");
    serves(&gate, "p", "w1,w2");
    accepted(&gate, "p");
    gate.stop();
}

/// A writer on a busy machine: it truncates, and writes much later.
#[test]
fn a_file_that_is_emptied_and_filled_later_opens_nothing_meanwhile() {
    // the gate holds an emptied file for 900 ms; an answer that came later proves nothing
    const HELD: Duration = Duration::from_millis(800);
    let stop = "policies/p/stop.cedar";
    let gate = setup()
        .file(stop, &forbid("stop"))
        .file("policies/q/main.cedar", &rule("q0"))
        .config(WATCHING)
        .start();
    serves(&gate, "p", "stop");
    for round in 1..=3 {
        let emptied = Instant::now();
        gate.put(stop, "");
        // an edit of another portal is in force, so the gate has read the empty file, too
        gate.put("policies/q/main.cedar", &rule(&format!("q{round}")));
        serves(&gate, "q", &format!("q{round}"));
        let answer = decide(&gate, "p");
        assert!(deciding(&answer) == "stop" || emptied.elapsed() > HELD, "{answer}");
        gate.put(stop, &format!("// {round}\n{}", forbid("stop")));
        accepted(&gate, "p");
        serves(&gate, "p", "stop");
    }
    // on purpose: it stays empty
    gate.put(stop, "");
    serves(&gate, "p", "v0");
    gate.stop();
}

#[test]
fn a_rejected_edit_names_file_and_line_everywhere_and_changes_nothing() {
    let gate = watching();
    let revision = gate.revision("p");
    // renamed over, so that there is exactly one edit to see
    let broken = "@id(\"ok\")\npermit (principal, action, resource)\nwhen { principal.shoe_size > 3 };\n";
    gate.put(".new", broken);
    rename(&gate, ".new", MAIN);
    let problem = rejected(&gate, "p", "shoe_size");
    assert_eq!(problem["file"], MAIN);
    assert!((1..=3).contains(&problem["line"].as_u64().unwrap()), "{problem}");
    assert_eq!(gate.revision("p"), revision);
    assert_eq!(metric(&gate, "cedargate_reload_total{portal=\"p\",result=\"rejected\"}"), 1.0);
    assert_eq!(metric(&gate, "cedargate_reload_last_successful{portal=\"p\"}"), 0.0);
    serves(&gate, "p", "v0");
    eventually("the record is written", || {
        let log = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap_or_default();
        let logged = log
            .lines()
            .any(|l| l.contains("policy_event") && l.contains("shoe_size") && l.contains(MAIN));
        if logged { Ok(()) } else { Err(log) }
    });
    gate.put(MAIN, &rule("v1"));
    serves(&gate, "p", "v1");
    accepted(&gate, "p");
    assert_eq!(metric(&gate, "cedargate_reload_last_successful{portal=\"p\"}"), 1.0);
    gate.stop();
}

#[test]
fn a_failing_decision_test_rejects_by_its_name() {
    let test = "principals: { a: { id: a, tenant: t, roles: [] } }\ncases:\n\
        \x20 - { name: everyone may read, principal: a, action: GET, resource: { type: Path, id: /portal/p }, expect: allow }\n";
    let gate = setup().file("policies/p/tests/t.yaml", test).config(WATCHING).start();
    serves(&gate, "p", "v0");
    gate.put(MAIN, &forbid("nobody"));
    let problem = rejected(&gate, "p", "everyone may read");
    assert_eq!(problem["file"], "policies/p/tests/t.yaml");
    serves(&gate, "p", "v0");
    gate.stop();
}

#[test]
fn a_shared_file_or_a_portal_yaml_may_go_only_after_it_was_emptied() {
    let shared = "policies/_shared/s.cedar";
    let yaml = "policies/p/portal.yaml";
    let gate = setup()
        .file(shared, &forbid("shared"))
        .file(yaml, "title: P\n")
        .config(WATCHING)
        .start();
    for (name, text, deciding) in [(yaml, "title: P\n", "shared"), (shared, &*forbid("shared"), "v0")] {
        remove(&gate, name);
        let problem = rejected(&gate, "p", "was removed, and the revision in force has it");
        assert_eq!(problem["file"], name);
        serves(&gate, "p", "shared");
        gate.put(name, text);
        accepted(&gate, "p");
        let before = gate.revision("p");
        gate.put(name, "");
        moves_on(&gate, "p", &before);
        let emptied = gate.revision("p");
        remove(&gate, name);
        moves_on(&gate, "p", &emptied);
        accepted(&gate, "p");
        serves(&gate, "p", deciding);
    }
    gate.stop();
}

#[test]
fn a_public_path_over_a_forbid_is_rejected() {
    let gate = watching();
    gate.put("policies/p/portal.yaml", "public: [ \"GET /portal/p/assets/**\" ]\n");
    eventually("public paths open", || {
        let answer = gate.send("GET", "/portal/p/assets/a.css", &[]);
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    let narrow = "@id(\"secret\") forbid (principal, action, resource in Path::\"/portal/p/assets/private\");\n";
    gate.put(MAIN, &format!("{}{narrow}", rule("v1")));
    let problem = rejected(&gate, "p", "secret");
    assert_eq!(problem["file"], "policies/p/portal.yaml");
    gate.stop();
}

// emergency forbids

#[test]
fn an_emergency_forbid_joins_while_the_rest_is_rejected_and_is_released_when_removed() {
    let gate = watching();
    gate.put(MAIN, "permit (");
    rejected(&gate, "p", MAIN);
    gate.put("policies/p/_deny/stop.cedar", &forbid("v0"));
    serves(&gate, "p", "_deny/stop/v0");
    rejected(&gate, "p", MAIN);
    // valid emergency forbids join beside broken ones, and one that breaks keeps its last good content
    gate.put("policies/p/_deny/wrong.cedar", "forbid (");
    gate.put("policies/p/_deny/wide.cedar", &rule("open"));
    gate.put("policies/p/_deny/also.cedar", &forbid("v0"));
    serves(&gate, "p", "_deny/also/v0,_deny/stop/v0");
    rejected(&gate, "p", "policies/p/_deny/wrong.cedar");
    rejected(&gate, "p", "holds forbids only");
    gate.put("policies/p/_deny/stop.cedar", "forbid (princ");
    rejected(&gate, "p", "policies/p/_deny/stop.cedar");
    serves(&gate, "p", "_deny/also/v0,_deny/stop/v0");
    std::fs::remove_dir_all(gate.path("policies/p/_deny")).unwrap();
    serves(&gate, "p", "v0");
    gate.put(MAIN, &rule("v1"));
    serves(&gate, "p", "v1");
    gate.stop();
}

#[test]
fn emergency_forbids_of_one_name_in_two_folders_and_a_policy_with_such_an_id_do_not_collide() {
    let gate = watching();
    gate.put("policies/p/_deny/stop.cedar", &forbid("x"));
    gate.put("policies/p/_deny/night/stop.cedar", &forbid("x"));
    serves(&gate, "p", "_deny/night/stop/x,_deny/stop/x");
    gate.put(MAIN, &rule("_deny/stop/x"));
    rejected(&gate, "p", "which is for emergency forbids");
    serves(&gate, "p", "_deny/night/stop/x,_deny/stop/x");
    gate.stop();
}

#[test]
fn an_emergency_forbid_that_cannot_be_read_stays_in_force() {
    let gate = watching();
    gate.put("policies/p/_deny/stop.cedar", &forbid("x"));
    serves(&gate, "p", "_deny/stop/x");
    // the folder is a link to a mount that went away
    rename(&gate, "policies/p/_deny", "away");
    serves(&gate, "p", "v0");
    symlink(gate.path("away"), gate.path("policies/p/_deny")).unwrap();
    serves(&gate, "p", "_deny/stop/x");
    rename(&gate, "away", "further-away");
    gate.put("policies/p/note.yaml", "");
    rejected(&gate, "p", "policies/p/_deny");
    serves(&gate, "p", "_deny/stop/x");
    // the whole portal, the whole root
    rename(&gate, "policies/p", "portal-away");
    rejected(&gate, "p", "is missing or empty");
    serves(&gate, "p", "_deny/stop/x");
    rename(&gate, "policies", "root-away");
    rejected(&gate, "p", "cannot be read");
    serves(&gate, "p", "_deny/stop/x");
    gate.stop();
}

#[test]
fn a_portal_that_keeps_changing_delays_no_other_portal_and_not_its_own_emergency_forbid() {
    let gate = setup().file("policies/noisy/main.cedar", &rule("n0")).start();
    serves(&gate, "noisy", "n0");
    // a file that has another content at every reading
    let (log, is_over) = (gate.path("policies/noisy/entities.json"), Arc::new(AtomicBool::new(false)));
    let next = gate.path("next.json");
    let over = Arc::clone(&is_over);
    let writer = std::thread::spawn(move || {
        for line in 0_u64.. {
            std::fs::write(&next, format!("[]{}", " ".repeat((line % 1000) as usize))).unwrap();
            std::fs::rename(&next, &log).unwrap();
            if over.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    rejected(&gate, "noisy", "keeps changing");
    gate.put(MAIN, &rule("v1"));
    serves(&gate, "p", "v1");
    gate.put("policies/noisy/_deny/stop.cedar", &forbid("x"));
    serves(&gate, "noisy", "_deny/stop/x");
    is_over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    gate.stop();
}

// starting

#[test]
fn a_portal_that_never_loaded_denies_and_the_others_work() {
    let gate = setup().file("policies/q/main.cedar", "permit (").config(WATCHING).start();
    let alice = gate.issuer.token("alice", &["viewer"]);
    let refused = gate.get("/portal/q/x", &alice);
    assert_eq!((refused.status, refused.code().as_str()), (403, "no_policy_loaded"));
    let asked = decide(&gate, "q");
    assert_eq!(
        (&asked["decision"], &asked["reason"]),
        (&json!("deny"), &json!("no_policy_loaded"))
    );
    assert_eq!(gate.get("/portal/p/x", &alice).status, 200);
    assert_eq!(ready(&gate), 200);
    gate.put("policies/q/main.cedar", &rule("q1"));
    serves(&gate, "q", "q1");
    gate.stop();
}

#[test]
fn a_required_portal_holds_readiness_until_it_loads() {
    let broken = Setup::empty()
        .file("schemas/_shared.cedarschema", SCHEMA)
        .file(MAIN, "permit (");
    let gate = broken.config("policies: { poll: 1h, require: [p] }").start();
    assert_eq!(ready(&gate), 503);
    gate.put(MAIN, &rule("v1"));
    serves(&gate, "p", "v1");
    eventually("ready", || if ready(&gate) == 200 { Ok(()) } else { Err("503".to_owned()) });
    gate.put(MAIN, "permit (");
    rejected(&gate, "p", MAIN);
    gate.stop();
}

#[test]
fn the_last_good_revision_survives_a_restart_into_a_broken_tree() {
    let state = tempfile::tempdir().unwrap();
    let config = format!(
        "policies: {{ poll: 1h, require: [p], state_dir: '{}' }}",
        state.path().display()
    );
    let first = setup().config(&config).start();
    serves(&first, "p", "v0");
    first.stop();
    let unchanged = setup().config(&config).start();
    eventually("restored and unchanged is loaded, too", || {
        if ready(&unchanged) == 200 {
            Ok(())
        } else {
            Err("503".to_owned())
        }
    });
    assert_eq!(metric(&unchanged, "cedargate_revision_info{portal=\"p\""), 1.0);
    unchanged.stop();
    let broken = setup().file(MAIN, "permit (").config(&config).start();
    serves(&broken, "p", "v0");
    rejected(&broken, "p", MAIN);
    broken.put("policies/p/_deny/stop.cedar", &forbid("x"));
    serves(&broken, "p", "_deny/stop/x");
    broken.stop();
    let stopped = setup().file(MAIN, "permit (").file("policies/p/_deny/stop.cedar", "forbid (");
    let stopped = stopped.config(&config).start();
    serves(&stopped, "p", "_deny/stop/x");
    stopped.stop();
    std::fs::write(state.path().join("p.json"), "{\"format\":1,").unwrap();
    let corrupt = setup().config(&config).start();
    serves(&corrupt, "p", "v0");
    corrupt.stop();
}

// everything of a revision, as one

#[test]
fn edits_of_routes_flags_entities_links_and_schema_are_taken() {
    let gate = setup()
        .file(
            MAIN,
            "@id(\"orders\") permit (principal, action == Action::\"viewOrder\", resource is Order);\n",
        )
        .config(WATCHING)
        .start();
    let token = gate.issuer.token("alice", &["viewer"]);
    let becomes = |what: &str, path: &str, status: u16| {
        eventually(what, || {
            let answer = gate.get(path, &token);
            if answer.status == status { Ok(()) } else { Err(answer.text()) }
        });
    };
    becomes("no route yet", "/portal/p/orders/7", 403);
    let route = "routes: [ { route: \"GET /portal/p/orders/{order}\", action: viewOrder, resource: { type: Order, id: \"{order}\" } } ]\n";
    gate.put("policies/p/portal.yaml", route);
    becomes("the route maps", "/portal/p/orders/7", 200);
    gate.put("policies/p/flag.cedar", "@id(\"fast\") permit (principal, action == Action::\"GET\", resource == Path::\"/portal/p/flag\")\nwhen { context has flags && context.flags has fast && context.flags.fast };\n");
    gate.put("policies/p/portal.yaml", &format!("{route}flags: {{ fast: true }}\n"));
    becomes("the flag opens", "/portal/p/flag", 200);
    gate.put("policies/p/portal.yaml", &format!("{route}flags: {{ fast: false }}\n"));
    becomes("the flag closes", "/portal/p/flag", 403);
    gate.put(
        "policies/p/role.cedar",
        "@id(\"boss\") permit (principal in Role::\"boss\", action == Action::\"GET\", resource == Path::\"/portal/p/boss\");\n",
    );
    becomes("no caller is a boss", "/portal/p/boss", 403);
    gate.put(
        "policies/p/entities.json",
        r#"[{"uid":{"type":"Role","id":"viewer"},"attrs":{},"parents":[{"type":"Role","id":"boss"}]}]"#,
    );
    becomes("viewers are bosses", "/portal/p/boss", 200);
    gate.put("policies/p/entities.json", "[]");
    becomes("and no longer", "/portal/p/boss", 403);
    gate.put(
        "policies/p/share.cedar",
        "@id(\"share\") permit (principal == ?principal, action == Action::\"GET\", resource == Path::\"/portal/p/shared\");\n",
    );
    becomes("a template alone permits nothing", "/portal/p/shared", 403);
    gate.put(
        "policies/p/links.json",
        r#"[{"template":"share","id":"share-alice","slots":{"?principal":{"type":"User","id":"alice"}}}]"#,
    );
    becomes("the link permits", "/portal/p/shared", 200);
    gate.put("policies/p/links.json", "[]");
    becomes("and its removal takes it back", "/portal/p/shared", 403);
    gate.stop();
}

#[test]
fn a_schema_edit_and_a_new_claim_mapping_hold_at_once_for_a_known_token() {
    let gate = watching();
    let mut body = claims("alice", &["viewer"]);
    body["level"] = json!("gold");
    body["tier"] = json!("lead");
    let token = gate.issuer.sign(&body);
    assert_eq!(gate.get("/portal/p/x", &token).status, 200);
    let before = gate.revision("p");
    gate.put(
        "schemas/_shared.cedarschema",
        &SCHEMA.replace("email?: String", "email?: String, level?: String"),
    );
    moves_on(&gate, "p", &before);
    gate.put(
        MAIN,
        "@id(\"gold\") permit (principal, action, resource) when { principal has level && principal.level == \"gold\" };\n",
    );
    let asked = |id: &str| {
        eventually(&format!("`{id}` decides"), || {
            let question =
                json!({"portal": "p", "token": token, "action": "GET", "resource": {"type": "Path", "id": "/portal/p/x"}});
            let answer = gate.authorize(&question);
            if deciding(&answer) == id {
                Ok(())
            } else {
                Err(answer.to_string())
            }
        });
    };
    asked("gold");
    assert_eq!(gate.get("/portal/p/x", &token).status, 200);
    let before = gate.revision("p");
    gate.put("policies/p/portal.yaml", "claims: { level: tier }\n");
    moves_on(&gate, "p", &before);
    assert_eq!(
        gate.get("/portal/p/x", &token).status,
        403,
        "the token cached under the old mapping counts no more"
    );
    gate.put("policies/p/portal.yaml", "");
    asked("gold");
    assert_eq!(gate.get("/portal/p/x", &token).status, 200);
    gate.stop();
}

/// The claims of an assertion.
fn asserted(assertion: &str) -> Value {
    use base64::Engine;
    let payload = assertion.split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// A keep-alive connection; a failure on it fails the test.
struct KeepAlive(TcpStream);

impl KeepAlive {
    fn new(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    fn get(&mut self, path: &str, token: &str) -> Answer {
        let head = format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {token}\r\n\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
        let mut received = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let read = self.0.read(&mut chunk).unwrap();
            assert!(
                read > 0,
                "the gate closed a kept connection: {}",
                String::from_utf8_lossy(&received)
            );
            received.extend_from_slice(&chunk[..read]);
            if let Some(answer) = parse(&received) {
                let length = answer.header("content-length").parse().unwrap_or(0);
                if answer.body.len() >= length {
                    return answer;
                }
            }
        }
    }
}

/// Sends requests for `path` over four keep-alive connections while `edits` runs; returns the problems and the number
/// of 200s.
fn under_load(gate: &Gate, path: &str, token: &str, edits: impl FnOnce()) -> (BTreeSet<String>, usize) {
    let proxy = gate.proxy;
    let (stop, served, bad) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = KeepAlive::new(proxy);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(path, token);
                    if answer.status == 200 {
                        served.fetch_add(1, Ordering::Relaxed);
                    } else {
                        bad.lock().unwrap().insert(answer.text());
                    }
                }
            });
        }
        // a failing edit must not leave the clients running for ever
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(edits));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    (bad.into_inner().unwrap(), served.into_inner())
}

#[test]
fn two_files_changed_together_are_never_in_force_apart() {
    let gate = watching();
    let mut volume = Volume::mount(&gate.path("policies/p"));
    let mut flip = |side: &str| {
        let policy = format!(
            "@id(\"{side}\") permit (principal, action, resource) when {{ principal has email && principal.email == \"{side}@x.test\" }};\n"
        );
        volume.publish(&[
            ("main.cedar", &policy),
            ("portal.yaml", &format!("claims: {{ email: mail_{side} }}\n")),
        ]);
    };
    flip("a");
    let mut body = claims("alice", &["viewer"]);
    body["mail_a"] = json!("a@x.test");
    body["mail_b"] = json!("b@x.test");
    let token = gate.issuer.sign(&body);
    let question = json!({"portal": "p", "token": token, "action": "GET", "resource": {"type": "Path", "id": "/portal/p/x"}});
    let mut revisions = BTreeMap::new();
    let mut settle = |side: &str| {
        eventually(side, || {
            let answer = gate.authorize(&question);
            assert!(["", "a", "b", "v0"].contains(&&*deciding(&answer)), "{answer}");
            if deciding(&answer) == side {
                revisions.insert(answer["revision"].as_str().unwrap().to_owned(), format!("mail_{side}"));
                Ok(())
            } else {
                assert_ne!(deciding(&answer), "", "a mix of both denies: {answer}");
                Err(answer.to_string())
            }
        });
    };
    settle("a");
    let (bad, served) = under_load(&gate, "/portal/p/x", &token, || {
        for n in 0..50 {
            let side = if n % 2 == 0 { "b" } else { "a" };
            flip(side);
            settle(side);
        }
    });
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(revisions.len(), 2);
    let seen = gate.app.seen();
    assert_eq!(seen.len(), served);
    let mut both = BTreeSet::new();
    for request in seen {
        let revision = request.headers["x-cedargate-revision"].to_str().unwrap();
        let claims = asserted(request.headers["x-cedargate-assertion"].to_str().unwrap());
        let mapped = revisions.get(revision).unwrap_or_else(|| panic!("`{revision}` is neither"));
        assert_eq!(claims["revision"], revision, "{claims}");
        let mapped_claims: Vec<_> = ["mail_a", "mail_b"]
            .into_iter()
            .filter(|name| claims.to_string().contains(*name))
            .collect();
        assert_eq!(
            mapped_claims,
            [mapped],
            "a revision with the other one's claim mapping: {claims}"
        );
        both.insert(revision.to_owned());
    }
    assert_eq!(both.len(), 2, "traffic met both revisions");
    gate.stop();
}

#[test]
fn a_storm_of_good_and_bad_edits_fails_no_request() {
    let gate = watching();
    let token = gate.issuer.token("alice", &["viewer"]);
    let (bad, served) = under_load(&gate, "/portal/p/x", &token, || {
        for n in 0..100 {
            match n % 4 {
                0 => gate.put("policies/p/extra.cedar", "permit ("),
                1 => gate.put("policies/p/extra.cedar", &rule(&format!("extra-{n}"))),
                2 => gate.put("policies/p/portal.yaml", "title: [\n"),
                _ => gate.put("policies/p/portal.yaml", &format!("title: P{n}\n")),
            }
            if n % 20 == 1 {
                serves(&gate, "p", &format!("extra-{n},v0"));
            }
        }
        serves(&gate, "p", "extra-97,v0");
    });
    assert!(bad.is_empty(), "{bad:?}");
    assert!(served > 100, "{served} requests met the storm");
    accepted(&gate, "p");
    assert!(metric(&gate, "cedargate_reload_total{portal=\"p\",result=\"success\"}") >= 6.0);
    let metrics = gate.metrics();
    let series: Vec<_> = metrics
        .lines()
        .filter(|l| l.starts_with("cedargate_revision_info{"))
        .collect();
    assert_eq!(series.len(), 1, "one series per portal: {series:?}");
    gate.stop();
}
