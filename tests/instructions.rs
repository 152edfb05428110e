//! The check of instruction counts: it fails on a costlier workload, and its report says what to do.

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

fn assert_line_with(report: &Report, words: &[&str]) {
    let finding = report.text.lines().filter(|line| line.starts_with("instructions: "));
    let found = finding.into_iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line has {words:?} in:\n{}", report.text);
}

#[test]
fn a_workload_dearer_than_its_tolerance_fails_with_counts_and_command() {
    let report = compare(&counted(&json!({DECISION: 1_000})), &counted(&json!({DECISION: 1_031})));
    assert!(report.failed);
    assert_line_with(
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
fn a_change_within_the_tolerance_passes_without_a_finding() {
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
    assert_line_with(&report, &["`b`", "dearer"]);
}

#[test]
fn a_much_cheaper_workload_passes_and_asks_for_a_lower_baseline() {
    let report = compare(&counted(&json!({DECISION: 1_000})), &counted(&json!({DECISION: 900})));
    assert!(!report.failed);
    assert_line_with(
        &report,
        &[DECISION, "was 1000", "is 900", "10.0 % less", "make counts-accept"],
    );
}

#[test]
fn a_workload_that_only_one_side_has_fails() {
    let (one, two) = (json!({DECISION: 1_000}), json!({DECISION: 1_000, "token/seen before": 5}));
    let new = compare(&counted(&one), &counted(&two));
    assert!(new.failed);
    assert_line_with(&new, &["token/seen before", "not in the baseline", "make counts-accept"]);
    let gone = compare(&counted(&two), &counted(&one));
    assert!(gone.failed);
    assert_line_with(&gone, &["token/seen before", "not counted any more", "make counts-accept"]);
}

#[test]
fn counts_of_another_compiler_are_compared_and_the_report_names_it() {
    let target = "x86_64-unknown-linux-gnu";
    let before = baseline("1.95.0", target, &json!({DECISION: 1_000}));
    let same = compare(&before, &baseline("1.96.0", target, &json!({DECISION: 1_000})));
    assert!(!same.failed);
    assert_line_with(&same, &["rustc 1.95.0", "this is 1.96.0"]);
    let dearer = compare(&before, &baseline("1.96.0", target, &json!({DECISION: 1_100})));
    assert!(dearer.failed);
    assert_line_with(&dearer, &["rustc 1.95.0", "this is 1.96.0"]);
}

#[test]
fn counts_of_another_target_are_not_compared_and_the_report_says_so() {
    let before = counted(&json!({DECISION: 1_000}));
    let report = compare(
        &before,
        &baseline("1.95.0", "aarch64-unknown-linux-gnu", &json!({DECISION: 2_000})),
    );
    assert!(!report.failed);
    assert_line_with(&report, &["not compared", "aarch64-unknown-linux-gnu", "make counts-accept"]);
}

#[test]
fn whole_requests_may_vary_more_than_operations_on_one_thread() {
    assert!(tolerance("request/permitted") > tolerance(DECISION));
}

#[test]
fn the_committed_baseline_has_decisions_evaluations_tokens_and_requests() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.json")).unwrap();
    let baseline: Baseline = serde_json::from_str(&text).unwrap();
    for group in ["decide/", "evaluate/", "token/", "request/"] {
        assert!(baseline.instructions.keys().any(|name| name.starts_with(group)), "no {group}");
    }
}
