//! `cedargate replay`: recorded decisions, decided again by a policy tree.

pub(super) mod output;

use super::logs::{self, FailOnFlip, LogArgs};
use super::report::{Format, Writers, json as json_report};
use super::tree::TreeArgs;
use super::{Exit, Paint, print};
use crate::replay::{Baseline, Comparison, DecisionChange, Flips};

#[derive(clap::Args)]
#[command(
    after_help = "Records that cannot be decided again are counted with the reason: a check before the policies refused them, a value \
                        that policies read is masked, truncated or was not recorded. Flags and entities come from the tree. Exit codes: 0 ok, 4 flips \
                        with --fail-on, 64 usage or a tree that does not load."
)]
pub(crate) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    /// Exit with 4: `flip` if any decision changes, `widen` if any becomes an allow
    #[arg(long, value_enum)]
    fail_on: Option<FailOnFlip>,
    /// The form of the report
    #[arg(long, value_parser = output::Report::WRITERS.parser(), default_value = "human")]
    format: Format,
    #[command(flatten)]
    tree: TreeArgs,
}

impl output::Report<'_> {
    const WRITERS: Writers<Self, 3> = Writers([
        (Format::Human, |report| report.text(Paint::stdout())),
        (Format::Json, |report| json_report::text(&report.json())),
        (Format::Markdown, |report| report.markdown()),
    ]);
}

pub(crate) fn run(args: &Args) -> Exit {
    Exit::or_usage(replay(args))
}

fn replay(args: &Args) -> Result<Exit, String> {
    let workbench = args.tree.open()?;
    if let Some(portal) = &args.logs.portal {
        workbench.named(portal)?;
    }
    let loads = logs::load(&workbench)?;
    let portals = logs::portals(&loads);
    let comparison = Comparison {
        before: Baseline::Recorded,
        after: &portals,
        selection: args.logs.selection(),
    };
    let reading = args.logs.read(|| Flips::new(&comparison))?;
    logs::complain_about(&reading.totals);
    let report = output::Report {
        flips: &reading.visitor,
        totals: &reading.totals,
        loads: &loads,
    };
    print(&output::Report::WRITERS.write(args.format, &report)?);
    let flips = &reading.visitor;
    let widened = flips.count(DecisionChange::NewlyAllowed) + flips.ungrouped;
    Ok(FailOnFlip::exit(
        args.fail_on,
        widened,
        flips.count(DecisionChange::NewlyDenied),
    ))
}
