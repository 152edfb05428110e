//! `cedargate validate`: loads configuration and portals as a reload would, without a gate; with `--hardening`, also a
//! security checklist, and with `--prove`, also proofs of the invariants.

mod hardening;
mod invariants;

use std::time::Duration;

use cedargate_policy::lint::{self, LintFinding};
use cedargate_policy::revision::problem::Problem;
use serde_json::{Value, json};

use self::invariants::Proofs;
use super::lint::of_loads;
use super::report::places::complete;
use super::report::{Finding, Format, Severity, SourceText, Writers, distinct, github, json as json_report, sarif, text};
use super::tree::{PortalLoad, TreeArgs, Workbench};
use super::{Exit, Paint, complain, print};
use crate::app;
use crate::base::telemetry;
use crate::prove::{NoSolver, Prover};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    tree: TreeArgs,
    /// Treat warnings as errors
    #[arg(long)]
    deny_warnings: bool,
    /// Also name settings and policies that are weaker than they need be
    #[arg(long)]
    hardening: bool,
    /// Leave out the findings of this rule of --hardening; may be given several times
    #[arg(long, value_name = "RULE", requires = "hardening", value_parser = hardening::rules::ids(), hide_possible_values = true)]
    accept: Vec<String>,
    /// Also prove every statement of invariants.yaml, or show a request that breaks it; needs the solver cvc5
    #[arg(long)]
    prove: bool,
    /// Time for all proofs together; what is not proved then is unknown, which is an error
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5m", requires = "prove")]
    prove_timeout: Duration,
    /// Format of the report
    #[arg(long, value_parser = ValidateReport::WRITERS.parser(), default_value = "human")]
    format: Format,
}

/// The findings, and what they are about.
struct ValidateReport<'a> {
    /// All of them, each once.
    findings: &'a [Finding],
    /// Those about the configuration.
    configuration: &'a [Finding],
    portals: &'a [PortalReport],
    proofs: &'a [Proofs],
    workbench: &'a Workbench,
}

/// One portal, loaded or rejected.
struct PortalReport {
    slug: String,
    /// `None`: the portal was rejected and no revision exists.
    revision: Option<String>,
    policies: usize,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

pub(crate) fn run(args: &Args) -> Exit {
    Exit::or_usage(validate(args))
}

fn validate(args: &Args) -> Result<Exit, String> {
    let workbench = args.tree.open_for_validation()?;
    let unusable = workbench.loaded.as_ref().map(app::check_files).unwrap_or_default();
    if !unusable.is_empty() {
        return Err(unusable.to_string());
    }
    if workbench.loaded.is_some() {
        telemetry::check_filter().map_err(|error| error.to_string())?;
    }
    let loads = if workbench.has_tree {
        workbench.load()
    } else {
        complain(
            "the policies come from policies.bundle, and this machine has no bundle yet; only the configuration was checked",
        );
        Vec::new()
    };
    let source: SourceText<'_> = &|file| workbench.source(file);
    let portals = portal_reports(args, &loads, source);
    let mut beside = candidates(&workbench, &portals);
    beside.extend(workbench.of_no_portal());
    let configuration: Vec<Finding> = warnings(&workbench).into_iter().map(Finding::configuration).collect();
    let hardening = if args.hardening {
        hardening::check(&workbench, &loads, &args.accept)?
    } else {
        Vec::new()
    };
    let proofs = match args.prove.then(|| proofs(&loads, args.prove_timeout)).transpose()? {
        None => Vec::new(),
        Some(Ok(proofs)) => proofs,
        Some(Err(no_solver)) => {
            complain(&no_solver.to_string());
            return Ok(Exit::Failure);
        }
    };
    let of_portals = portals.iter().flat_map(|portal| portal.errors.iter().chain(&portal.warnings));
    let proved = proofs.iter().flat_map(Proofs::findings);
    let findings = distinct(
        configuration
            .iter()
            .chain(of_portals)
            .chain(&beside)
            .chain(&hardening)
            .chain(proved)
            .cloned()
            .collect(),
        source,
    );
    let report = ValidateReport {
        findings: &findings,
        configuration: &configuration,
        portals: &portals,
        proofs: &proofs,
        workbench: &workbench,
    };
    print(&ValidateReport::WRITERS.write(args.format, &report)?);
    let is_rejected = portals.iter().any(|portal| !portal.errors.is_empty()) || !proofs.iter().all(Proofs::hold);
    let is_weak = hardening.iter().any(|finding| finding.severity != Severity::Note);
    let is_denied = args.deny_warnings && (is_weak || !configuration.is_empty() || !beside.is_empty());
    Ok(if is_rejected || is_denied { Exit::Invalid } else { Exit::Ok })
}

/// The portals with their findings, each with its column.
fn portal_reports(args: &Args, loads: &[PortalLoad<'_>], source: SourceText<'_>) -> Vec<PortalReport> {
    let of_warnings = if args.deny_warnings {
        Severity::Error
    } else {
        Severity::Warning
    };
    let mut portals = PortalReport::of_all(loads, of_warnings);
    for portal in &mut portals {
        complete(&mut portal.errors, source);
        complete(&mut portal.warnings, source);
    }
    portals
}

/// What `serve` would say of its configuration at start. Without a configuration only its defaults are known.
fn warnings(workbench: &Workbench) -> Vec<String> {
    match &workbench.loaded {
        Some(loaded) => app::warnings_before_start(&loaded.config),
        None => workbench.config.warnings(),
    }
}

/// The proofs of all portals that load; an inner `Err`: there is no solver.
fn proofs(loads: &[PortalLoad<'_>], time: Duration) -> Result<Result<Vec<Proofs>, NoSolver>, String> {
    let mut prover = Prover::new(time)?;
    Ok(loads.iter().map(|load| Proofs::of(load, &mut prover)).collect())
}

/// What is wrong with candidate sets: a gate starts with it, and only their shadow is off. A portal that does not load
/// says enough itself.
fn candidates(workbench: &Workbench, portals: &[PortalReport]) -> Vec<Finding> {
    let is_loaded = |slug: &str| portals.iter().any(|portal| portal.slug == slug && portal.errors.is_empty());
    let loads = workbench.load_candidates();
    let broken = loads.iter().filter(|load| is_loaded(load.portal.slug.as_str()));
    let problems = broken.flat_map(|load| {
        let slug = load.portal.slug.as_str();
        load.problems.iter().map(move |problem| {
            let finding = Finding::from_problem(problem, Severity::Warning, slug);
            Finding {
                message: format!("the candidate set would not be evaluated: {}", finding.message),
                ..finding
            }
        })
    });
    problems.collect()
}

impl PortalReport {
    /// `warning`: the severity of a warning; as an error it rejects the portal.
    fn of_all(loads: &[PortalLoad<'_>], warning: Severity) -> Vec<Self> {
        let warnings = loads.iter().map(|load| load.revision.as_ref().map(|r| r.warnings.clone()));
        let mut warnings: Vec<Vec<Problem>> = warnings.map(Option::unwrap_or_default).collect();
        lint::settle_warnings(&mut warnings);
        let linted = of_loads(loads, &[]);
        let of_each = loads.iter().zip(&linted).zip(&warnings);
        of_each
            .map(|((load, linted), warnings)| Self::of(load, linted, warnings, warning))
            .collect()
    }

    fn of(load: &PortalLoad<'_>, linted: &[LintFinding], warnings: &[Problem], warning: Severity) -> Self {
        let slug = load.portal.slug.as_str();
        let finding = |severity| move |problem| Finding::from_problem(problem, severity, slug);
        let revision = load.revision.as_deref();
        let certain = linted.iter().filter(|finding| finding.severity == lint::Severity::Error);
        let mut errors: Vec<Finding> = load.problems.iter().map(finding(Severity::Error)).collect();
        errors.extend(certain.map(|finding| Finding::from_lint(finding, slug)));
        let warnings = warnings.iter().map(finding(warning));
        let (denied, warnings) = warnings.partition(|finding| finding.severity == Severity::Error);
        errors.extend::<Vec<Finding>>(denied);
        Self {
            slug: slug.to_owned(),
            revision: revision.map(|revision| revision.id.to_string()),
            policies: revision.map_or(0, |revision| revision.rules.engine.policies().len()),
            errors,
            warnings,
        }
    }

    fn headline(&self, paint: Paint) -> String {
        let Self { slug, policies, .. } = self;
        match &self.revision {
            Some(revision) if self.errors.is_empty() => {
                let noun = if *policies == 1 { "policy" } else { "policies" };
                format!("{} {slug}: revision {revision}, {policies} {noun}\n", paint.green("ok"))
            }
            _ => {
                let count = self.errors.len();
                let noun = if count == 1 { "error" } else { "errors" };
                format!("{} {slug}: {count} {noun}\n", paint.red("rejected"))
            }
        }
    }

    fn as_json(&self) -> Value {
        let places = |findings: &[Finding]| findings.iter().map(json_report::place_and_text).collect::<Vec<_>>();
        json!({
            "portal": self.slug,
            "valid": self.errors.is_empty(),
            "revision": self.revision,
            "errors": places(&self.errors),
            "warnings": places(&self.warnings),
        })
    }
}

/// The errors of all portals as text; empty if every portal loads.
pub(super) fn report_errors(loads: &[PortalLoad<'_>], source: SourceText<'_>) -> String {
    let rejected: Vec<PortalReport> = PortalReport::of_all(loads, Severity::Warning)
        .into_iter()
        .filter(|portal| !portal.errors.is_empty())
        .collect();
    let paint = Paint::stderr();
    let errors = distinct(rejected.iter().flat_map(|portal| &portal.errors).cloned().collect(), source);
    let mut report = text::findings(&errors, source, paint);
    report.extend(rejected.iter().map(|portal| portal.headline(paint)));
    report
}

impl ValidateReport<'_> {
    const WRITERS: Writers<Self, 4> = Writers([
        (Format::Human, |report| report.text(Paint::stdout())),
        (Format::Json, |report| json_report::text(&report.json())),
        (Format::Github, |report| github::findings(report.findings)),
        (Format::Sarif, |report| json_report::text(&sarif::findings(report.findings))),
    ]);

    fn text(&self, paint: Paint) -> String {
        let mut text = text::findings(self.findings, &|file| self.workbench.source(file), paint);
        if !text.is_empty() {
            text.push('\n');
        }
        text.extend(self.portals.iter().map(|portal| portal.headline(paint)));
        text.extend(self.proofs.iter().map(|proofs| proofs.headline(paint)));
        text
    }

    fn json(&self) -> Value {
        let portals: Vec<Value> = self.portals.iter().map(PortalReport::as_json).collect();
        let warnings: Vec<String> = self.configuration.iter().map(Finding::to_string).collect();
        let mut report = json!({"findings": self.findings, "portals": portals, "warnings": warnings});
        if let Some(members) = report.as_object_mut().filter(|_| !self.proofs.is_empty()) {
            members.insert(
                "invariants".to_owned(),
                self.proofs.iter().flat_map(Proofs::as_json).collect(),
            );
        }
        report
    }
}
