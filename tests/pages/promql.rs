//! Queries, parsed by Prometheus itself (`promtool`), and the metrics that they name.

use std::collections::BTreeSet;
use std::process::Command;

use crate::{files, pages, read, report};

/// Runs `promtool` from the repository's root; returns what it printed if it fails.
pub fn promtool(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap_or_else(|error| panic!("promtool: {error}; run `make tools`"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// The queries that Prometheus does not parse, each with its place. One call for all of them, as rules of a file.
pub fn mistakes(queries: &[(String, String)]) -> Vec<String> {
    let rules: Vec<serde_json::Value> = queries
        .iter()
        .enumerate()
        .map(|(n, (_, query))| serde_json::json!({"record": format!("query:{n}"), "expr": query}))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.yaml");
    // JSON is YAML
    let text = serde_json::json!({"groups": [{"name": "queries", "rules": rules}]}).to_string();
    std::fs::write(&path, text).unwrap();
    match promtool(&["check", "rules", "--lint=none", path.to_str().unwrap()]) {
        Ok(()) => Vec::new(),
        Err(why) => {
            let at_fault = queries
                .iter()
                .enumerate()
                .filter(|(n, _)| why.lines().any(|line| line.contains(&format!("\"query:{n}\""))));
            let named: Vec<String> = at_fault.map(|(_, (place, query))| format!("{place}: `{query}`")).collect();
            let mut found = if named.is_empty() { vec!["a query".to_owned()] } else { named };
            found.push(why);
            found
        }
    }
}

/// Words of a text that are names of the gate's metrics, without the endings that a histogram adds.
pub fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words
        // not `cedargate_0.1.0_amd64.deb`
        .filter(|word| {
            word.strip_prefix("cedargate_")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_alphabetic()))
        })
        .filter(|word| !word.ends_with('_'))
        .map(|word| {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
            base.filter(|base| base.ends_with("_seconds")).unwrap_or(word).to_owned()
        })
        .collect()
}

/// Metrics of a page, a rule or a dashboard that docs/metrics.md does not have.
pub fn unknown_metrics(place: &str, text: &str) -> Vec<String> {
    let reference = metrics(&read("docs/metrics.md"));
    assert!(reference.len() > 20, "docs/metrics.md has {} metrics", reference.len());
    // members of documents may begin with the same word
    let endpoints = read("schemas/openapi.json");
    let is_known = |name: &String| reference.contains(name) || endpoints.contains(&format!("\"{name}\""));
    let missing = metrics(text).into_iter().filter(|name| !is_known(name));
    missing
        .map(|name| format!("{place}: `{name}` is not in docs/metrics.md"))
        .collect()
}

/// Blocks of a page in this language, without their indent.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in page.lines() {
        let text = line.trim_start();
        match &mut open {
            Some((_, block)) if text.starts_with("```") => {
                found.push(std::mem::take(block));
                open = None;
            }
            Some((indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
            None if text == format!("```{language}") => open = Some((line.len() - text.len(), String::new())),
            None => {}
        }
    }
    found
}

#[test]
fn prometheus_parses_every_query_of_a_page() {
    let mut queries = Vec::new();
    for page in pages() {
        let found = blocks(&read(&page), "promql");
        queries.extend(found.into_iter().map(|query| (page.clone(), query)));
    }
    assert!(queries.len() > 15, "only {} queries", queries.len());
    report(&mistakes(&queries));
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let mut findings = Vec::new();
    let folders = [("charts/cedargate/alerts", ".yaml"), ("charts/cedargate/dashboards", ".json")];
    let others = folders.iter().flat_map(|(folder, ending)| files(folder, ending));
    for page in pages().into_iter().chain(others) {
        if page != "docs/metrics.md" {
            findings.extend(unknown_metrics(&page, &read(&page)));
        }
    }
    report(&findings);
}

#[test]
fn a_query_with_a_mistake_is_found_and_named() {
    let query = |text: &str| ("a.md".to_owned(), text.to_owned());
    assert_eq!(
        mistakes(&[query("sum(rate(cedargate_decisions_total[5m]))")]),
        Vec::<String>::new()
    );
    let found = mistakes(&[query("up"), query("sum by (rate(x[5m])")]);
    assert!(found[0].contains("sum by (rate"), "{found:?}");
    assert_eq!(
        unknown_metrics(
            "a.md",
            "`cedargate_decisions_total` and cedargate_gate_duration_seconds_bucket"
        ),
        Vec::<String>::new()
    );
    assert_eq!(unknown_metrics("a.md", "`cedargate_decision_total`").len(), 1);
}
