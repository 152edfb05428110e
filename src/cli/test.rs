//! `cedargate test`: the portals' decision tests, case by case.

use std::collections::BTreeSet;

use serde_json::json;

use super::tree::{PortalLoad, TreeArgs};
use super::{Exit, Paint, complain, print};
use cedargate_policy::decision_tests::{self, CaseResult, Verdict};
use cedargate_policy::load::Warnings;

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
    /// How to report
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Human,
    Json,
    Junit,
}

/// One portal's results.
struct Suite {
    portal: String,
    results: Vec<CaseResult>,
    uncovered: Vec<String>,
    /// What kept the portal from being tested.
    broken: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let bench = match args.tree.open() {
        Ok(bench) => bench,
        Err(message) => {
            complain(&message);
            return Exit::Usage;
        }
    };
    let suites: Vec<Suite> = bench
        .load_untested(Warnings::Show)
        .iter()
        .map(|load| suite(load, args.filter.as_deref()))
        .collect();
    match args.format {
        Format::Human => human(&suites, args.coverage),
        Format::Json => print(&format!("{:#}\n", as_json(&suites))),
        Format::Junit => print(&junit(&suites)),
    }
    let failed = |r: &CaseResult| matches!(r.verdict, Verdict::Failed(_));
    if suites.iter().any(|s| !s.broken.is_empty()) {
        return Exit::Invalid;
    }
    if suites.iter().any(|s| s.results.iter().any(failed)) {
        Exit::TestsFailed
    } else {
        Exit::Ok
    }
}

fn suite(load: &PortalLoad<'_>, filter: Option<&str>) -> Suite {
    let portal = load.portal.slug.to_string();
    let mut broken: Vec<String> = load.problems.iter().map(ToString::to_string).collect();
    let Some(revision) = &load.revision else {
        return Suite {
            portal,
            results: Vec::new(),
            uncovered: Vec::new(),
            broken,
        };
    };
    let mut results = decision_tests::run(load.portal, revision).unwrap_or_else(|error| {
        broken.extend(error.problems.iter().map(ToString::to_string));
        Vec::new()
    });
    let decided: BTreeSet<_> = results.iter().flat_map(|r| r.deciding.iter().cloned()).collect();
    let policies = revision.rules.engine.policies().iter().map(|p| &p.info.id);
    let uncovered = policies
        .filter(|id| !decided.contains(*id))
        .map(|id| id.to_string())
        .collect();
    results.retain(|r| filter.is_none_or(|f| r.name.contains(f)));
    Suite {
        portal,
        results,
        uncovered,
        broken,
    }
}

fn human(suites: &[Suite], coverage: bool) {
    let paint = Paint::stdout();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for suite in suites {
        print(&format!("{}\n", suite.portal));
        suite
            .broken
            .iter()
            .for_each(|b| print(&format!("  {} {b}\n", paint.red("error:"))));
        for result in &suite.results {
            match &result.verdict {
                Verdict::Passed => {
                    passed += 1;
                    print(&format!("  {} {}\n", paint.green("ok"), result.name));
                }
                Verdict::Skipped(why) => {
                    skipped += 1;
                    print(&format!("  {} {} ({why})\n", paint.dim("skipped"), result.name));
                }
                Verdict::Failed(why) => {
                    failed += 1;
                    let line = result.line.map(|l| format!(":{l}")).unwrap_or_default();
                    print(&format!(
                        "  {} {} ({}{line})\n     {why}\n",
                        paint.red("FAILED"),
                        result.name,
                        result.file
                    ));
                }
            }
        }
        if coverage {
            suite
                .uncovered
                .iter()
                .for_each(|id| print(&format!("  {} {id}\n", paint.dim("not covered:"))));
        }
    }
    print(&format!("\n{passed} passed, {failed} failed, {skipped} skipped\n"));
}

fn as_json(suites: &[Suite]) -> serde_json::Value {
    let case = |r: &CaseResult| {
        let (verdict, detail) = match &r.verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(why) => ("failed", Some(why)),
            Verdict::Skipped(why) => ("skipped", Some(why)),
        };
        json!({"name": r.name, "file": r.file, "line": r.line, "verdict": verdict, "detail": detail,
            "deciding": r.deciding.iter().map(|d| &**d).collect::<Vec<_>>()})
    };
    let portals: Vec<_> = suites
        .iter()
        .map(|s| {
            let cases: Vec<_> = s.results.iter().map(case).collect();
            json!({"portal": s.portal, "cases": cases, "uncovered": s.uncovered, "errors": s.broken})
        })
        .collect();
    json!({ "portals": portals })
}

fn junit(suites: &[Suite]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for suite in suites {
        xml.push_str(&format!(
            "  <testsuite name=\"{}\" tests=\"{}\">\n",
            escape(&suite.portal),
            suite.results.len()
        ));
        for broken in &suite.broken {
            xml.push_str(&format!(
                "    <testcase name=\"load\"><error message=\"{}\"/></testcase>\n",
                escape(broken)
            ));
        }
        for result in &suite.results {
            let inner = match &result.verdict {
                Verdict::Passed => String::new(),
                Verdict::Failed(why) => format!("<failure message=\"{}\"/>", escape(why)),
                Verdict::Skipped(why) => format!("<skipped message=\"{}\"/>", escape(why)),
            };
            let (name, file) = (escape(&result.name), escape(&result.file));
            xml.push_str(&format!(
                "    <testcase name=\"{name}\" classname=\"{file}\">{inner}</testcase>\n"
            ));
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn escape(text: &str) -> String {
    let plain: String = text.chars().filter(|c| *c >= ' ').collect();
    plain
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
