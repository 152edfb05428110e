//! `cedargate test`: runs the portals' decision tests, case by case.

use std::collections::BTreeSet;
use std::time::Instant;

use cedargate_policy::decision::explain::Explanation;
use cedargate_policy::decision_tests::{self, Failures};
use cedargate_policy::load::Warnings;

use super::explain::text::reasons;
use super::report::text::Coverage;
use super::report::{Case, Finding, Format, Severity, Suite, json, junit, text};
use super::tree::{PortalLoad, TreeArgs};
use super::{Exit, Paint, print};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    tree: TreeArgs,
    /// Run only cases whose name contains this text
    #[arg(long)]
    filter: Option<String>,
    /// List the policies that no case decided by
    #[arg(long)]
    coverage: bool,
    /// Format of the report
    #[arg(long, value_parser = Format::among(&[Format::Human, Format::Json, Format::Junit]), default_value = "human")]
    format: Format,
}

pub(crate) fn run(args: &Args) -> Exit {
    Exit::or_usage(test(args))
}

fn test(args: &Args) -> Result<Exit, String> {
    let workbench = args.tree.open()?;
    let loads = workbench.load_untested(Warnings::Show);
    let suites: Vec<Suite> = loads.iter().map(|load| suite(load, args.filter.as_deref())).collect();
    let coverage = if args.coverage { Coverage::Show } else { Coverage::Omit };
    print(&match args.format {
        Format::Json => json::text(&json::suites(&suites)),
        Format::Junit => junit::suites(&suites),
        Format::Human | Format::Github | Format::Sarif => {
            text::suites(&suites, coverage, &|file| workbench.source(file), Paint::stdout())
        }
    });
    if suites.iter().any(|suite| !suite.findings.is_empty()) {
        return Ok(Exit::Invalid);
    }
    if let Some(filter) = args
        .filter
        .as_ref()
        .filter(|_| suites.iter().all(|suite| suite.cases.is_empty()))
    {
        return Err(format!("no case has `{filter}` in its name"));
    }
    let has_failed = suites.iter().any(|suite| suite.cases.iter().any(Case::has_failed));
    Ok(if has_failed { Exit::TestsFailed } else { Exit::Ok })
}

fn explained(explanation: &Explanation) -> String {
    reasons(explanation, Paint::stdout())
}

/// The results of one portal. `filter` selects the cases that are shown; all of them run and count for coverage.
fn suite(load: &PortalLoad<'_>, filter: Option<&str>) -> Suite {
    let started = Instant::now();
    let portal = load.portal.slug.to_string();
    let finding = |problem| Finding::from_problem(problem, Severity::Error, &portal);
    let mut findings: Vec<Finding> = load.problems.iter().map(finding).collect();
    let mut cases = Vec::new();
    let mut uncovered = Vec::new();
    if let Some(revision) = &load.revision {
        match decision_tests::run(load.portal, revision, Failures::Explain) {
            Ok(results) => cases.extend(results.into_iter().map(|result| Case::from_result(result, explained))),
            Err(error) => findings.extend(error.problems.iter().map(finding)),
        }
        let decided: BTreeSet<&str> = cases.iter().flat_map(|case| &case.deciding).map(String::as_str).collect();
        let policies = revision
            .rules
            .engine
            .policies()
            .iter()
            .map(|policy| policy.info.id.to_string());
        uncovered.extend(policies.filter(|id| !decided.contains(id.as_str())));
    }
    cases.retain(|case| filter.is_none_or(|filter| case.name.contains(filter)));
    Suite {
        portal,
        cases,
        uncovered,
        findings,
        duration: started.elapsed(),
    }
}
