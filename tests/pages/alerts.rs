//! The alert rules: what promtool thinks of them, their unit tests, and what each alert must have.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::promql::promtool;
use crate::{files, read, report, root};

pub const RULES: &str = "charts/cedargate/alerts/cedargate.rules.yaml";
/// Where the runbooks are for a reader of an alert.
const RUNBOOKS: &str = "https://github.com/cedargate/cedargate/blob/main/docs/runbooks/";
/// `critical` pages, `warning` is a ticket, `info` is for a dashboard.
const SEVERITIES: &[&str] = &["critical", "warning", "info"];

pub struct Alert {
    pub name: String,
    pub labels: Value,
    pub annotations: Value,
}

/// Every alerting rule.
pub fn alerts() -> Vec<Alert> {
    let rules: Value = serde_saphyr::from_str(&read(RULES)).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let found: Vec<Alert> = rules
        .filter_map(|rule| {
            Some(Alert {
                name: rule["alert"].as_str()?.to_owned(),
                labels: rule["labels"].clone(),
                annotations: rule["annotations"].clone(),
            })
        })
        .collect();
    assert!(found.len() > 20, "the scan found {} alerts", found.len());
    found
}

/// `CedargateReloadRejected` → `reload-rejected`.
pub fn runbook_of(alert: &str) -> String {
    let name = alert.strip_prefix("Cedargate").unwrap_or(alert);
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "--lint=all", RULES]).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn the_unit_tests_of_the_rules_pass() {
    let tests = files("tests/pages", ".tests.yaml");
    assert_eq!(tests.len(), 2);
    let running: Vec<_> = tests
        .into_iter()
        .map(|test| std::thread::spawn(move || promtool(&["test", "rules", &test])))
        .collect();
    for test in running {
        test.join().unwrap().unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn every_alert_is_fired_by_a_unit_test() {
    let tests: String = files("tests/pages", ".tests.yaml").iter().map(|name| read(name)).collect();
    let alerts: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    let untested = alerts
        .iter()
        .filter(|alert| !tests.contains(&format!("alertname=\"{alert}\"")));
    report(
        &untested
            .map(|alert| format!("tests/pages/alerts.tests.yaml: no test fires `{alert}`"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_alert_says_how_urgent_it_is_what_happened_and_where_its_runbook_is() {
    let mut findings = Vec::new();
    for alert in alerts() {
        let name = &alert.name;
        let severity = alert.labels["severity"].as_str().unwrap_or_default();
        if !SEVERITIES.contains(&severity) {
            findings.push(format!("{name}: severity `{severity}` is none of {SEVERITIES:?}"));
        }
        for key in ["summary", "description"] {
            if alert.annotations[key].as_str().is_none_or(str::is_empty) {
                findings.push(format!("{name}: has no {key}"));
            }
        }
        let url = format!("{RUNBOOKS}{}.md", runbook_of(name));
        if alert.annotations["runbook_url"] != url.as_str() {
            findings.push(format!("{name}: runbook_url must be {url}"));
        }
        if !root(&format!("docs/runbooks/{}.md", runbook_of(name))).is_file() {
            findings.push(format!("{name}: docs/runbooks/{}.md does not exist", runbook_of(name)));
        }
    }
    report(&findings);
}
