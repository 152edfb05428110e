//! Runbooks: one for each alert, under its name and in one form.

use std::collections::BTreeSet;

use crate::alerts::{alerts, runbook_of};
use crate::{files, read, report};

/// The sections of an alert's runbook, in this order.
const SECTIONS: &[&str] = &["Meaning", "Impact", "Diagnosis", "Mitigation", "Over"];
const INDEX: &str = "docs/runbooks/README.md";

#[test]
fn every_alerts_runbook_has_its_name_and_its_five_sections() {
    let mut findings = Vec::new();
    let names: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    for name in names {
        let page = format!("docs/runbooks/{}.md", runbook_of(&name));
        let text = read(&page);
        if text.lines().next() != Some(&format!("# {name}")) {
            findings.push(format!("{page}:1: the title must be `# {name}`"));
        }
        let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        if sections != SECTIONS {
            findings.push(format!("{page}: the sections are {sections:?}, expected {SECTIONS:?}"));
        }
        let empty = text
            .split("\n## ")
            .skip(1)
            .filter(|section| section.trim().lines().count() < 3);
        findings.extend(empty.map(|section| format!("{page}: `{}` says nothing", section.lines().next().unwrap_or_default())));
    }
    report(&findings);
}

#[test]
fn the_index_has_every_runbook_and_every_alert_with_its_severities() {
    let index = read(INDEX);
    let mut findings = Vec::new();
    for page in files("docs/runbooks", ".md").iter().filter(|page| *page != INDEX) {
        let name = page.rsplit('/').next().unwrap();
        if !index.contains(&format!("({name})")) {
            findings.push(format!("{INDEX}: does not link {name}"));
        }
    }
    let all = alerts();
    for alert in &all {
        let mut severities: Vec<&str> = all
            .iter()
            .filter(|other| other.name == alert.name)
            .map(|other| other.labels["severity"].as_str().unwrap())
            .collect();
        severities.sort_unstable();
        severities.dedup();
        let row = format!(
            "| [{}]({}.md) | {} |",
            alert.name,
            runbook_of(&alert.name),
            severities.join(", ")
        );
        if !index.contains(&row) {
            findings.push(format!("{INDEX}: has no row `{row}`"));
        }
    }
    findings.dedup();
    report(&findings);
}
