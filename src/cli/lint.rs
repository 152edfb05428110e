//! `cedargate lint`: mistakes that load and validate, and decide something else than their author meant.

use std::collections::BTreeMap;

use cedargate_policy::decision_tests::DecisionTests;
use cedargate_policy::lint::{DescribedApp, Fix, LintFinding, RULES, Severity as RuleSeverity, lint, settle};
use serde_json::json;

use super::openapi_file::{OpenApiArg, OpenApiFile};
use super::report::{Finding, Format, Severity, Writers, github, json as json_report, sarif, text};
use super::tree::{PortalLoad, TreeArgs, Workbench};
use super::{Exit, Paint, complain, print};
use crate::base::clock::unix_seconds;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    tree: TreeArgs,
    /// Mend what can be mended without changing a decision (missing ids), then lint again
    #[arg(long, conflicts_with = "rules")]
    fix: bool,
    /// Compare the routes with the app's OpenAPI description: operations without a route, routes without an operation.
    /// With several portals say whose file it is
    #[arg(long, value_name = "[PORTAL=]FILE")]
    openapi: Vec<OpenApiArg>,
    /// Exit with 3 for warnings, too; notes never count
    #[arg(long)]
    deny_warnings: bool,
    /// List the rules with their severity and reason; `docs/lint.md` has a section on each
    #[arg(long)]
    rules: bool,
    /// Format of the report
    #[arg(long, value_parser = LintReport::WRITERS.parser(), default_value = "human")]
    format: Format,
}

pub(crate) fn run(args: &Args) -> Exit {
    if args.rules {
        return Exit::print_or_usage(RULE_LIST.write(args.format, &()));
    }
    Exit::or_usage(run_rules(args))
}

fn run_rules(args: &Args) -> Result<Exit, String> {
    let mut workbench = args.tree.open()?;
    let slugs: Vec<&str> = workbench.portals.iter().map(|portal| portal.slug.as_str()).collect();
    let described = OpenApiFile::read_all(&args.openapi, &slugs)?;
    if args.fix {
        let fixes = all(&workbench, &[]).fixes;
        let count = fixes.len();
        write(&workbench, fixes)?;
        complain(&format!("{count} {} mended", if count == 1 { "place" } else { "places" }));
        workbench = args.tree.open()?;
    }
    let Linted { findings, .. } = all(&workbench, &described);
    let report = LintReport {
        findings: &findings,
        workbench: &workbench,
        described: &described,
    };
    print(&LintReport::WRITERS.write(args.format, &report)?);
    let worst = findings.iter().map(|finding| finding.severity);
    let is_denied = |severity| match severity {
        Severity::Error => true,
        Severity::Warning => args.deny_warnings,
        Severity::Note => false,
    };
    Ok(if worst.into_iter().any(is_denied) {
        Exit::Invalid
    } else {
        Exit::Ok
    })
}

struct LintReport<'a> {
    findings: &'a [Finding],
    workbench: &'a Workbench,
    described: &'a [OpenApiFile],
}

impl LintReport<'_> {
    const WRITERS: Writers<Self, 4> = Writers([
        (Format::Human, |report| {
            as_text(report.findings, report.workbench, report.described)
        }),
        (Format::Json, |report| {
            json_report::text(&json!({"findings": report.findings}))
        }),
        (Format::Github, |report| github::findings(report.findings)),
        (Format::Sarif, |report| json_report::text(&sarif::findings(report.findings))),
    ]);
}

/// The findings of every portal, each once, and what can be mended.
struct Linted {
    findings: Vec<Finding>,
    fixes: Vec<Fix>,
}

/// A portal that does not load shows the errors of loading instead.
fn all(workbench: &Workbench, described: &[OpenApiFile]) -> Linted {
    let loads = workbench.load_untested();
    let mut linted = Linted {
        findings: Vec::new(),
        fixes: Vec::new(),
    };
    for (load, found) in loads.iter().zip(of_loads(&loads, described)) {
        let slug = load.portal.slug.as_str();
        let tests = DecisionTests::read(&load.portal.slug, workbench.files());
        let problems = load.problems.iter().chain(&tests.problems);
        linted
            .findings
            .extend(problems.map(|problem| Finding::from_problem(problem, Severity::Error, slug)));
        linted
            .findings
            .extend(found.iter().map(|finding| Finding::from_lint(finding, slug)));
        linted.fixes.extend(found.into_iter().filter_map(|finding| finding.fix));
    }
    linted.findings.extend(workbench.of_no_portal());
    linted.findings = super::report::distinct(linted.findings, &|file| workbench.source(file));
    linted
}

/// What the rules find in each portal; nothing in one that does not load.
pub(super) fn of_loads(loads: &[PortalLoad<'_>], described: &[OpenApiFile]) -> Vec<Vec<LintFinding>> {
    let now = unix_seconds();
    let of = |load: &PortalLoad<'_>| {
        let Some(revision) = &load.revision else {
            return Vec::new();
        };
        let file = described.iter().find(|file| file.portal == load.portal.slug.as_str());
        let described = file.map(|file| DescribedApp {
            api: &file.api,
            file: &file.name,
            text: &file.text,
        });
        lint(load.portal, revision, now, described.as_ref())
    };
    let mut of_each: Vec<Vec<LintFinding>> = loads.iter().map(of).collect();
    settle(&mut of_each);
    of_each
}

/// The findings of every portal, without a description of the app.
pub(super) fn findings(workbench: &Workbench) -> Vec<Finding> {
    all(workbench, &[]).findings
}

/// Writes all changes of a file at once, from its end to its beginning.
fn write(workbench: &Workbench, fixes: Vec<Fix>) -> Result<(), String> {
    let mut by_file: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
    for fix in fixes {
        by_file.entry(fix.file).or_default().insert(fix.offset, fix.text);
    }
    for (name, changes) in by_file {
        let mut text = workbench.source(&name).unwrap_or_default();
        for (offset, insert) in changes.into_iter().rev() {
            text.insert_str(offset, &insert);
        }
        workbench.rewrite(&name, &text)?;
    }
    Ok(())
}

fn as_text(findings: &[Finding], workbench: &Workbench, described: &[OpenApiFile]) -> String {
    let source = |name: &str| {
        let described = described.iter().find(|file| file.name == name);
        described.map(|file| file.text.clone()).or_else(|| workbench.source(name))
    };
    let mut report = text::findings(findings, &source, Paint::stdout());
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let errors = count(Severity::Error);
    let warnings = count(Severity::Warning);
    let notes = count(Severity::Note);
    if !report.is_empty() {
        report.push('\n');
    }
    report.push_str(&format!("errors: {errors}, warnings: {warnings}, notes: {notes}\n"));
    report
}

/// The list of `--rules`.
const RULE_LIST: Writers<(), 2> = Writers([
    (Format::Human, |()| {
        let lines = RULES
            .iter()
            .map(|rule| format!("{:<22}{:<9}{}\n", rule.id, severity_word(rule.severity), rule.reason));
        lines.collect()
    }),
    (Format::Json, |()| {
        let rules = RULES
            .iter()
            .map(|rule| json!({"id": rule.id, "severity": severity_word(rule.severity), "reason": rule.reason}));
        json_report::text(&json!({"rules": rules.collect::<Vec<_>>()}))
    }),
]);

fn severity_word(severity: RuleSeverity) -> &'static str {
    match severity {
        RuleSeverity::Error => "error",
        RuleSeverity::Warning => "warning",
        RuleSeverity::Note => "note",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_section_with_its_severity_and_reason() {
        let page = include_str!("../../docs/lint.md")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        for rule in RULES {
            let severity = format!("{:?}", rule.severity).to_lowercase();
            let section = format!("### {} Severity: {severity}. {}", rule.id, rule.reason);
            assert!(page.contains(&section), "docs/lint.md has no section `{section}`");
        }
    }
}
