//! A real Envoy asks the gate about many requests at once while policies change: no answer is another one than the
//! policies say, and Envoy's `failure_mode_allow: false` never becomes a way in.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::asking_proxies::{WITH_GRPC, start_envoy, start_envoy_over_grpc, token};
use super::front::{Front, block, port, start_gate, with_addresses};
use crate::support::Gate;

/// Time of one load.
const LOAD: Duration = Duration::from_secs(4);
const CLIENTS: usize = 4;
/// Answers of one load, on the slowest machine.
const ANSWERS_MIN: usize = 100;

/// The policies of `start_gate` with a comment that makes them another revision.
fn policies(round: usize) -> String {
    format!(
        "// round {round}\n@id(\"viewers\") permit (principal in Role::\"viewer\", action, resource);\n\
         @id(\"secret\") forbid (principal, action, resource in Path::\"/portal/p/secret\");\n"
    )
}

fn under_load(front: &Front, gate: &Gate) {
    let (viewer, nobody) = (token(gate, &["viewer"]), token(gate, &[]));
    let rows = [
        ("/portal/p/orders", Some(&viewer), 200),
        ("/portal/p/orders", Some(&nobody), 403),
        ("/portal/p/orders", None, 401),
        ("/portal/p/secret", Some(&viewer), 403),
        ("/portal/p/open/x", None, 200),
        ("/elsewhere", Some(&viewer), 404),
    ];
    let (ended, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let before = gate.revision("p");
    let rounds = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (rows, ended, answers) = (&rows, &ended, &answers);
            scope.spawn(move || {
                let mut at = client;
                while !ended.load(Ordering::Relaxed) {
                    let (path, credential, expected) = rows[at % rows.len()];
                    let headers: Vec<(&str, &str)> = credential.iter().map(|token| ("authorization", token.as_str())).collect();
                    let answer = front.send("GET", path, &headers);
                    // ends the load of the other clients, too
                    if answer.status != expected {
                        ended.store(true, Ordering::Relaxed);
                    }
                    assert_eq!(answer.status, expected, "{path}: {answer:?}");
                    answers.fetch_add(1, Ordering::Relaxed);
                    at += 1;
                }
            });
        }
        let began = Instant::now();
        let mut rounds = 0;
        while began.elapsed() < LOAD && !ended.load(Ordering::Relaxed) {
            let revision = gate.revision("p");
            rounds += 1;
            // as editors save: a file is there whole, or not at all
            gate.put("next.cedar", &policies(rounds));
            std::fs::rename(gate.path("next.cedar"), gate.path("policies/p/main.cedar")).unwrap();
            // paced by the gate itself: the next edit follows the swap
            crate::support::holds_eventually(|| gate.revision("p") != revision || began.elapsed() >= LOAD);
        }
        ended.store(true, Ordering::Relaxed);
        rounds
    });
    assert!(rounds >= 2 && gate.revision("p") != before, "{rounds} reloads");
    let answers = answers.into_inner();
    assert!(answers >= ANSWERS_MIN, "{answers} answers");
    for seen in gate.app.seen() {
        assert!(
            seen.target == "/portal/p/orders" || seen.target.starts_with("/portal/p/open/"),
            "{}",
            seen.target
        );
    }
}

#[test]
fn envoy_over_http_gives_no_wrong_answer_while_policies_change() {
    let (gate, port) = (start_gate(""), port());
    let config = with_addresses(&block("envoy.md", "## Over HTTP", "yaml"), &gate, port);
    assert!(config.contains("failure_mode_allow: false"));
    under_load(&start_envoy(config, port), &gate);
}

#[test]
fn envoy_over_grpc_gives_no_wrong_answer_while_policies_change() {
    let gate = start_gate(WITH_GRPC);
    let front = start_envoy_over_grpc(&gate, |config| {
        assert!(config.contains("failure_mode_allow: false"));
        config
    });
    under_load(&front, &gate);
}
