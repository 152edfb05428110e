//! `cedargate test`: runs the portals' decision tests, case by case.

mod coverage;
mod parallel;
mod watch;

use std::collections::BTreeSet;
use std::time::Instant;

use cedargate_policy::decision::coverage::{Coverage, PolicyCoverage};
use cedargate_policy::decision::explain::Explanation;
use cedargate_policy::decision_tests::{DecisionTests, Failures, Options, PortalMismatch, Subject};
use cedargate_policy::load::Loader;
use cedargate_policy::portal::PortalTable;
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::portal::path::rules::Case as PathCase;

use serde_json::{Value, json};

use self::coverage::{Percent, TestReach};
use super::report::places::complete;
use super::report::{Finding, Format, Severity, Suite, TestCase, Writers, json as json_report, junit, text};
use super::tree::{PortalLoad, TreeArgs, Workbench};
use super::{Exit, Paint, complain, print};
use crate::explained::text::reasons;
use crate::workbench::{Datum, standalone};

#[derive(clap::Args)]
#[command(
    after_help = "Cases are in `policies/<portal>/tests/*.yaml`; docs/policies.md describes them. Without a configuration each \
                        folder of `policies/` is a portal at `/portal/<folder>`, and claims are read by their default names."
)]
pub(crate) struct Args {
    #[command(flatten)]
    tree: TreeArgs,
    /// Run only cases whose name contains this text
    #[arg(long)]
    filter: Option<String>,
    /// Show which policies no case decided by, and which clauses of their conditions were never true or never false
    #[arg(long)]
    coverage: bool,
    /// Exit with 4 if the cases reach less than this percentage of all policies and clauses
    #[arg(long, value_name = "PERCENT", value_parser = Percent::parse)]
    min_coverage: Option<Percent>,
    /// Run again after each change of the files, until ctrl-c
    #[arg(long)]
    watch: bool,
    /// Format of the report
    #[arg(long, value_parser = TestReport::WRITERS.parser(), default_value = "human")]
    format: Format,
}

struct TestReport<'a> {
    suites: &'a [Suite],
    reach: Option<&'a TestReach>,
    workbench: &'a Workbench,
}

impl TestReport<'_> {
    const WRITERS: Writers<Self, 4> = Writers([
        (Format::Human, |report| report.text(Paint::stdout())),
        (Format::Json, |report| {
            json_report::text(&as_json(report.suites, report.reach))
        }),
        (Format::Junit, |report| junit::suites(report.suites)),
        (Format::Html, |report| html(&as_json(report.suites, report.reach))),
    ]);

    fn text(&self, paint: Paint) -> String {
        let mut text = text::suites(self.suites, &|file| self.workbench.source(file), paint);
        text.extend(self.reach.map(|reach| reach.as_text(paint)));
        text
    }
}

/// The results of one portal's tests.
struct Tested {
    suite: Suite,
    /// Empty if it was not asked for.
    policies: Vec<PolicyCoverage>,
}

pub(crate) fn run(args: &Args) -> Exit {
    if args.watch {
        return watch::run(args);
    }
    Exit::or_usage(args.tree.open().and_then(|workbench| test(args, &workbench)))
}

fn test(args: &Args, workbench: &Workbench) -> Result<Exit, String> {
    if workbench.loaded.is_none() {
        let file = args
            .tree
            .config_beside()
            .map_or_else(|| "FILE".to_owned(), |path| path.display().to_string());
        complain(&format!(
            "note: without a configuration each folder of `policies/` is a portal at `/portal/<folder>` on every host, and claims \
             are read by their default names; `--config {file}` takes what `serve` uses"
        ));
    }
    let (suites, reach) = run_all(args, workbench)?;
    let report = TestReport {
        suites: &suites,
        reach: reach.as_ref(),
        workbench,
    };
    print(&TestReport::WRITERS.write(args.format, &report)?);
    if suites.iter().any(|suite| !suite.findings.is_empty()) {
        return Ok(Exit::Invalid);
    }
    let has_case = suites.iter().any(|suite| !suite.cases.is_empty());
    if let Some(filter) = args.filter.as_ref().filter(|_| !has_case) {
        return Err(format!("no case has `{filter}` in its name"));
    }
    let has_failed = suites.iter().any(|suite| suite.cases.iter().any(TestCase::has_failed));
    let mut exit = if has_failed { Exit::TestsFailed } else { Exit::Ok };
    if let (Some(wanted), Some(reach)) = (args.min_coverage, &reach)
        && !wanted.is_reached(reach.points)
    {
        complain(&format!(
            "the cases reach {} of all policies and clauses, and --min-coverage wants {wanted}",
            reach.percent()
        ));
        exit = Exit::TestsFailed;
    }
    Ok(exit)
}

/// The results with coverage, as `--coverage --format json` writes them. `Err` is a text for the user.
pub(super) fn covered(tree: TreeArgs, workbench: &Workbench) -> Result<Value, String> {
    let args = Args {
        tree,
        filter: None,
        coverage: true,
        min_coverage: None,
        watch: false,
        format: Format::Json,
    };
    let (suites, reach) = run_all(&args, workbench)?;
    Ok(as_json(&suites, reach.as_ref()))
}

/// The page of the workbench with the tests alone.
fn html(report: &Value) -> String {
    let portals = report.get("portals").and_then(Value::as_array);
    let portals: Vec<Value> = portals
        .into_iter()
        .flatten()
        .map(|suite| json!({"portal": suite.get("portal")}))
        .collect();
    let tree = json!({"name": "Decision tests", "pages": ["tests"], "portals": portals});
    standalone("#/tests", &[Datum::of("tree", &[], &tree), Datum::of("tests", &[], report)])
}

fn as_json(suites: &[Suite], reach: Option<&TestReach>) -> Value {
    let mut report = json_report::suites(suites);
    if let (Some(reach), Some(report)) = (reach, report.as_object_mut()) {
        report.insert("coverage".to_owned(), reach.as_json());
    }
    report
}

/// Runs the cases of every portal.
fn run_all(args: &Args, workbench: &Workbench) -> Result<(Vec<Suite>, Option<TestReach>), String> {
    let loads = workbench.load_untested();
    let table = PortalTable::new(&workbench.portals).map_err(|error| error.to_string())?;
    let tested: Vec<Tested> = loads
        .iter()
        .map(|load| tested(args, workbench, load, &|host, path| goes_to(&table, &loads, load, host, path)))
        .collect();
    let (suites, policies): (Vec<Suite>, Vec<_>) = tested.into_iter().map(|tested| (tested.suite, tested.policies)).unzip();
    let reach = args.is_covered().then(|| TestReach::of(&suites, policies));
    Ok((suites, reach))
}

impl Args {
    fn is_covered(&self) -> bool {
        self.coverage || self.min_coverage.is_some()
    }
}

/// Tells whether the gate gives a request to this portal, as `serve` would.
pub(super) fn goes_to(
    table: &PortalTable,
    loads: &[PortalLoad<'_>],
    own: &PortalLoad<'_>,
    host: &str,
    path: &CanonicalPath,
) -> Result<(), PortalMismatch> {
    let ignores_case = |index: usize| {
        let revision = loads.get(index).and_then(|load| load.revision.as_ref());
        revision.is_some_and(|revision| revision.file.paths.case == PathCase::Ignored)
    };
    let found = table.choose(host, path, ignores_case).map_err(PortalMismatch::Refused)?;
    match found.and_then(|index| loads.get(index)) {
        Some(load) if load.portal.slug == own.portal.slug => Ok(()),
        Some(load) => Err(PortalMismatch::Portal(format!(
            "`{}` on host `{host}` goes to portal `{}`",
            path.id(),
            load.portal.slug
        ))),
        None => Err(PortalMismatch::Portal(format!(
            "no portal gets `{}` on host `{host}`",
            path.id()
        ))),
    }
}

fn explained(explanation: &Explanation) -> String {
    reasons(explanation, Paint::stdout())
}

/// The results of one portal. `--filter` selects the cases that are shown; all of them run and count for coverage.
fn tested(
    args: &Args,
    workbench: &Workbench,
    load: &PortalLoad<'_>,
    matching: &(dyn Fn(&str, &CanonicalPath) -> Result<(), PortalMismatch> + Sync),
) -> Tested {
    let started = Instant::now();
    let portal = load.portal.slug.to_string();
    let finding = |problem| Finding::from_problem(problem, Severity::Error, &portal);
    let mut findings: Vec<Finding> = load.problems.iter().map(finding).collect();
    let mut cases = Vec::new();
    let mut uncovered = Vec::new();
    let mut policies = Vec::new();
    let tests = DecisionTests::read(&load.portal.slug, workbench.files());
    findings.extend(tests.problems.iter().map(finding));
    complete(&mut findings, &|file| workbench.source(file));
    // the gate, too, tests a revision before it joins the emergency forbids
    let revision = load
        .revision
        .as_ref()
        .map(|revision| Loader::new(None).without_emergency_forbids(revision));
    if let Some(revision) = &revision {
        let subject = Subject {
            portal: load.portal,
            revision,
        };
        let coverage = args.is_covered().then(Coverage::default);
        let options = Options {
            see: None,
            failures: Failures::Explain,
            coverage: coverage.as_ref(),
            matching: Some(matching),
        };
        let results = parallel::run(&tests, &subject, &options);
        cases.extend(results.into_iter().map(|result| TestCase::from_result(result, explained)));
        let decided: BTreeSet<&str> = cases.iter().flat_map(|case| &case.deciding).map(String::as_str).collect();
        let ids = revision
            .rules
            .engine
            .policies()
            .iter()
            .map(|policy| policy.info.id.to_string());
        uncovered.extend(ids.filter(|id| !decided.contains(id.as_str())));
        policies = coverage.map(|coverage| coverage.policies(revision)).unwrap_or_default();
    }
    cases.retain(|case| args.filter.as_ref().is_none_or(|filter| case.name.contains(filter)));
    Tested {
        suite: Suite {
            portal,
            cases,
            uncovered,
            findings,
            duration: started.elapsed(),
        },
        policies,
    }
}
