//! Rules about decision tests, and the names that tests use.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{DUPLICATE_CASE, EMPTY_TESTS, LintFinding, Linted, NO_TESTS};
use crate::decision_tests::{DecisionTests, NamedCase, TestCaller};
use crate::revision::problem::Problem;

/// Roles and tenants that decision tests give to callers.
#[derive(Default)]
pub(super) struct TestNames {
    pub roles: BTreeSet<String>,
    pub tenants: BTreeSet<String>,
}

impl TestNames {
    pub fn of(tests: &DecisionTests<'_>) -> Self {
        let mut names = Self::default();
        for caller in tests.callers() {
            match caller {
                TestCaller::Fixture { roles, tenant } => {
                    names.roles.extend(roles.iter().cloned());
                    names.tenants.extend(tenant.map(str::to_owned));
                }
                // any text of the claims may be a role or a tenant
                TestCaller::Claims(claims) => claims.values().for_each(|claim| names.add_texts(claim)),
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

/// Looks at names alone: no case is decided.
pub(super) fn findings(linted: &Linted<'_>, tests: &DecisionTests<'_>) -> Vec<LintFinding> {
    let mut findings = Vec::new();
    let mut counts: BTreeMap<&str, usize> = tests.files().map(|name| (name, 0)).collect();
    let mut seen: BTreeMap<(&str, &str), Option<usize>> = BTreeMap::new();
    for NamedCase { file, line, name } in tests.names() {
        *counts.entry(file).or_default() += 1;
        if let Some(first) = seen.insert((file, name), line) {
            let first = first.map(|line| format!(" in line {line}")).unwrap_or_default();
            let message = format!("another case{first} is called `{name}`, too");
            let problem = Problem::new(file, message).at_line(line);
            findings.push(LintFinding::new(
                &DUPLICATE_CASE,
                problem.with_help("give each case its own name"),
            ));
        }
    }
    if !tests.problems.is_empty() {
        // `test` names them; a file that cannot be read has no count
        return findings;
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
