//! What the check of instruction counts says of numbers that changed: it must be able to fail, and say what to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its own JSON must stop and say so")]

#[path = "../benches/instructions/verdict.rs"]
mod verdict;

use serde_json::{Value, json};

use verdict::{Baseline, Report, compare, tolerance};

const DECISION: &str = "decide/unconditional";

fn counted(instructions: &Value) -> Baseline {
    baseline("1.95.0", "x86_64-unknown-linux-gnu", instructions)
}

fn baseline(rustc: &str, target: &str, instructions: &Value) -> Baseline {
    let all = json!({"rustc": rustc, "target": target, "valgrind": "3.19.0", "instructions": instructions});
    serde_json::from_value(all).unwrap()
}

fn says(report: &Report, words: &[&str]) {
    let finding = report.text.lines().filter(|line| line.starts_with("instructions: "));
    let found = finding.into_iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "{words:?} is not said in one line of:\n{}", report.text);
}

#[test]
fn what_became_dearer_than_its_tolerance_fails_with_all_there_is_to_know() {
    let report = compare(&counted(&json!({DECISION: 1_000})), &counted(&json!({DECISION: 1_031})));
    assert!(report.failed);
    says(
        &report,
        &[
            DECISION,
            "was 1000",
            "is 1031",
            "3.1 % more",
            "tolerance 3 %",
            "make counts-accept",
        ],
    );
}

#[test]
fn a_change_within_the_tolerance_passes_without_a_word() {
    for is in [970, 1_000, 1_030] {
        let report = compare(&counted(&json!({DECISION: 1_000})), &counted(&json!({DECISION: is})));
        assert!(!report.failed, "{}", report.text);
        assert!(!report.text.contains("instructions: "), "{}", report.text);
    }
}

#[test]
fn one_dear_workload_among_good_ones_fails() {
    let before = counted(&json!({"a": 1_000, "b": 1_000, "c": 1_000}));
    let report = compare(&before, &counted(&json!({"a": 500, "b": 1_100, "c": 1_000})));
    assert!(report.failed);
    says(&report, &["`b`", "dearer"]);
}

#[test]
fn what_became_much_cheaper_passes_and_asks_for_a_lower_baseline() {
    let report = compare(&counted(&json!({DECISION: 1_000})), &counted(&json!({DECISION: 900})));
    assert!(!report.failed);
    says(
        &report,
        &[DECISION, "was 1000", "is 900", "10.0 % less", "make counts-accept"],
    );
}

#[test]
fn a_workload_that_only_one_side_knows_fails() {
    let (one, two) = (json!({DECISION: 1_000}), json!({DECISION: 1_000, "token/seen before": 5}));
    let new = compare(&counted(&one), &counted(&two));
    assert!(new.failed);
    says(&new, &["token/seen before", "not in the baseline", "make counts-accept"]);
    let gone = compare(&counted(&two), &counted(&one));
    assert!(gone.failed);
    says(&gone, &["token/seen before", "not counted any more", "make counts-accept"]);
}

#[test]
fn another_compiler_is_named_and_compared_all_the_same() {
    let target = "x86_64-unknown-linux-gnu";
    let before = baseline("1.95.0", target, &json!({DECISION: 1_000}));
    let same = compare(&before, &baseline("1.96.0", target, &json!({DECISION: 1_000})));
    assert!(!same.failed);
    says(&same, &["rustc 1.95.0", "this is 1.96.0"]);
    let dearer = compare(&before, &baseline("1.96.0", target, &json!({DECISION: 1_100})));
    assert!(dearer.failed);
    says(&dearer, &["rustc 1.95.0", "this is 1.96.0"]);
}

#[test]
fn another_processor_is_not_compared_and_says_so() {
    let before = counted(&json!({DECISION: 1_000}));
    let report = compare(
        &before,
        &baseline("1.95.0", "aarch64-unknown-linux-gnu", &json!({DECISION: 2_000})),
    );
    assert!(!report.failed);
    says(&report, &["not compared", "aarch64-unknown-linux-gnu", "make counts-accept"]);
}

#[test]
fn whole_requests_may_vary_more_than_what_runs_on_one_thread() {
    assert!(tolerance("request/permitted") > tolerance(DECISION));
}

#[test]
fn the_committed_baseline_can_be_read_and_knows_the_decision_the_token_and_the_request() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.json")).unwrap();
    let baseline: Baseline = serde_json::from_str(&text).unwrap();
    for group in ["decide/", "token/", "request/"] {
        assert!(baseline.instructions.keys().any(|name| name.starts_with(group)), "no {group}");
    }
}
