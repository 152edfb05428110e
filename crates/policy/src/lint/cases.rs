//! Rules about decision tests, and the names that tests use.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{DUPLICATE_CASE, EMPTY_TESTS, LintFinding, Linted, NO_TESTS};
use crate::decision_tests;
use crate::revision::problem::Problem;

/// Roles and tenants that decision tests give to callers.
#[derive(Default)]
pub(super) struct TestNames {
    pub roles: BTreeSet<String>,
    pub tenants: BTreeSet<String>,
}

impl TestNames {
    pub fn of(linted: &Linted<'_>) -> Self {
        let mut names = Self::default();
        for (name, text) in files(linted) {
            for caller in decision_tests::callers(name, text) {
                match caller {
                    decision_tests::TestCaller::Fixture { roles, tenant } => {
                        names.roles.extend(roles);
                        names.tenants.extend(tenant);
                    }
                    // any text of the claims may be a role or a tenant
                    decision_tests::TestCaller::Claims(claims) => claims.values().for_each(|claim| names.add_texts(claim)),
                }
            }
        }
        names
    }

    fn add_texts(&mut self, claim: &Value) {
        match claim {
            Value::String(text) => {
                self.roles.insert(text.clone());
                self.tenants.insert(text.clone());
            }
            Value::Array(items) => items.iter().for_each(|item| self.add_texts(item)),
            Value::Object(members) => {
                self.roles.extend(members.keys().cloned());
                members.values().for_each(|member| self.add_texts(member));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn files<'a>(linted: &'a Linted<'_>) -> impl Iterator<Item = (&'a String, &'a str)> {
    let folder = format!("policies/{}/tests/", linted.portal.slug);
    let files = linted.revision.candidate.files.below(folder);
    files.filter_map(|(name, file)| Some((name, file.text(name).ok()?)))
}

pub(super) fn findings(linted: &Linted<'_>) -> Vec<LintFinding> {
    let mut findings = Vec::new();
    let Ok(results) = decision_tests::run(linted.portal, linted.revision, decision_tests::Failures::Name) else {
        return findings;
    };
    let mut counts: BTreeMap<&str, usize> = files(linted).map(|(name, _)| (name.as_str(), 0)).collect();
    let mut seen: BTreeMap<(&str, &str), Option<usize>> = BTreeMap::new();
    for result in &results {
        *counts.entry(&result.file).or_default() += 1;
        if let Some(first) = seen.insert((&result.file, &result.name), result.line) {
            let first = first.map(|line| format!(" in line {line}")).unwrap_or_default();
            let message = format!("another case{first} is called `{}`, too", result.name);
            let problem = Problem::new(&result.file, message).at_line(result.line);
            findings.push(LintFinding::new(
                &DUPLICATE_CASE,
                problem.with_help("give each case its own name"),
            ));
        }
    }
    for (name, _) in counts.iter().filter(|(_, count)| **count == 0) {
        let problem = Problem::new(name, "has no case").with_help("write a case, or remove the file");
        findings.push(LintFinding::new(&EMPTY_TESTS, problem));
    }
    if counts.is_empty() {
        let problem = Problem::new(&linted.portal_yaml(), "the portal has no decision tests");
        let help = format!(
            "add policies/{}/tests/<name>.yaml; `cedargate test --help` says more",
            linted.portal.slug
        );
        findings.push(LintFinding::new(&NO_TESTS, problem.with_help(help)));
    }
    findings
}
