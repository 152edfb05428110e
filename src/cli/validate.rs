//! `cedargate validate`: everything that would happen at a reload, without a gate.

use serde_json::json;

use super::tree::{DEFAULT_CONFIG, PortalLoad, TreeArgs};
use super::{Exit, Paint, complain, print};
use crate::app;
use cedargate_policy::load::Warnings;
use cedargate_policy::revision::problem::Problem;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    tree: TreeArgs,
    /// Treat warnings as errors
    #[arg(long)]
    deny_warnings: bool,
    /// How to report
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Human,
    Json,
    /// Annotations for GitHub Actions
    Github,
}

pub(crate) fn run(args: &Args) -> Exit {
    let bench = match args.tree.open() {
        Ok(bench) => bench,
        Err(message) => {
            complain(&message);
            return Exit::Usage;
        }
    };
    if args.tree.ignores_configuration() {
        complain(&format!(
            "{DEFAULT_CONFIG} was not looked at; `--config {DEFAULT_CONFIG}` does"
        ));
    }
    let unusable = bench.loaded.as_ref().map(app::check_files).unwrap_or_default();
    if !unusable.is_empty() {
        complain(&unusable.to_string());
        return Exit::Usage;
    }
    let warnings = if args.deny_warnings {
        Warnings::Reject
    } else {
        Warnings::Show
    };
    let loads = bench.load(warnings);
    let doubts = bench.config.warnings();
    match args.format {
        Format::Human => human(&loads, &doubts),
        Format::Json => print(&format!(
            "{:#}\n",
            json!({ "portals": loads.iter().map(as_json).collect::<Vec<_>>(), "warnings": doubts })
        )),
        Format::Github => {
            doubts.iter().for_each(|doubt| print(&format!("::warning::{doubt}\n")));
            loads.iter().for_each(github);
        }
    }
    let is_good = doubts.is_empty() || !args.deny_warnings;
    if is_good && loads.iter().all(|l| l.problems.is_empty()) {
        Exit::Ok
    } else {
        Exit::Invalid
    }
}

fn warnings<'a>(load: &'a PortalLoad<'_>) -> &'a [Problem] {
    load.revision.as_ref().map_or(&[], |r| r.warnings.as_slice())
}

fn human(loads: &[PortalLoad<'_>], doubts: &[String]) {
    let paint = Paint::stdout();
    for doubt in doubts {
        print(&format!("{} {doubt}\n", paint.dim("warning:")));
    }
    for load in loads {
        let slug = &load.portal.slug;
        match &load.revision {
            Some(revision) if load.problems.is_empty() => {
                let policies = revision.rules.engine.policies().len();
                print(&format!(
                    "{} {slug}: revision {}, {policies} policies\n",
                    paint.green("ok"),
                    revision.id
                ));
            }
            _ => {
                let count = load.problems.len();
                let noun = if count == 1 { "error" } else { "errors" };
                print(&format!("{} {slug}: {count} {noun}\n", paint.red("rejected")));
            }
        }
        for problem in &load.problems {
            print(&format!("  {} {problem}\n", paint.red("error:")));
        }
        for warning in warnings(load) {
            print(&format!("  {} {warning}\n", paint.dim("warning:")));
        }
    }
}

fn as_json(load: &PortalLoad<'_>) -> serde_json::Value {
    json!({
        "portal": load.portal.slug.as_str(),
        "valid": load.problems.is_empty(),
        "revision": load.revision.as_ref().map(|r| r.id.to_string()),
        "errors": load.problems,
        "warnings": warnings(load),
    })
}

fn github(load: &PortalLoad<'_>) {
    for (level, problems) in [("error", load.problems.as_slice()), ("warning", warnings(load))] {
        for problem in problems {
            let line = problem.line.map(|l| format!(",line={l}")).unwrap_or_default();
            // a newline or percent sign would end the annotation
            let message = problem.message.replace('%', "%25").replace('\n', "%0A").replace('\r', "%0D");
            print(&format!("::{level} file={}{line}::{message}\n", problem.file));
        }
    }
}
