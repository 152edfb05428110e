//! `cedargate shadow report`: where enforced and candidate sets disagree, by the decision log of live traffic.

use serde_json::{Value, json};

use super::logs::{ChangedDecisions, FailOnFlip, LogArgs, complain_about, totals_json};
use super::report::{Format, ReportPart, Table, Writers, json as json_report, markdown, text};
use super::{Exit, Paint, print};
use crate::base::terminal::counted;
use crate::replay::{DecisionChange, Disagreements, Totals};

#[derive(clap::Subcommand)]
pub(crate) enum ShadowCommand {
    /// Group the disagreements by portal, role and route: what the candidate would newly allow comes first
    Report(ReportArgs),
}

#[derive(clap::Args)]
#[command(
    after_help = "A portal with policies in `candidate/` has them evaluated beside the enforced ones, and each decision record names what the \
                        candidate decided (`shadow`). Exit codes: 0 ok, 4 disagreements with --fail-on, 64 usage."
)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    logs: LogArgs,
    /// Exit with 4: `flip` if the sets disagree at all, `widen` if the candidate allows what is denied
    #[arg(long, value_enum)]
    fail_on: Option<FailOnFlip>,
    /// The form of the report
    #[arg(long, value_parser = ShadowReport::WRITERS.parser(), default_value = "human")]
    format: Format,
}

pub(crate) fn run(command: &ShadowCommand) -> Exit {
    let ShadowCommand::Report(args) = command;
    Exit::or_usage(report(args))
}

struct ShadowReport<'a> {
    found: &'a Disagreements<'a>,
    totals: &'a Totals,
}

impl ShadowReport<'_> {
    const WRITERS: Writers<Self, 3> = Writers([
        (Format::Human, |report| text::parts(&parts(report.found), Paint::stdout())),
        (Format::Json, |report| {
            json_report::text(&as_json(report.found, report.totals))
        }),
        (Format::Markdown, |report| markdown::parts(&parts(report.found))),
    ]);
}

fn report(args: &ReportArgs) -> Result<Exit, String> {
    let selection = args.logs.selection();
    let reading = args.logs.read(|| Disagreements::new(selection))?;
    complain_about(&reading.totals);
    let found = &reading.visitor;
    let report = ShadowReport {
        found,
        totals: &reading.totals,
    };
    print(&ShadowReport::WRITERS.write(args.format, &report)?);
    let widened = found.count(DecisionChange::NewlyAllowed) + found.ungrouped;
    Ok(FailOnFlip::exit(
        args.fail_on,
        widened,
        found.count(DecisionChange::NewlyDenied),
    ))
}

fn title(change: DecisionChange) -> &'static str {
    match change {
        DecisionChange::NewlyAllowed => "the candidate allows what is denied",
        DecisionChange::NewlyDenied => "the candidate denies what is allowed",
    }
}

fn headline(found: &Disagreements<'_>) -> String {
    if found.evaluated == 0 {
        let records = counted(found.without, "decision", "decisions");
        return format!("no candidate was evaluated for any of {records}; put policies into candidate/ of a portal's folder\n");
    }
    let mut text = format!(
        "a candidate was evaluated for {} of {}\n",
        found.evaluated,
        counted(found.evaluated + found.without, "decision", "decisions")
    );
    for (key, candidate) in &found.candidates {
        text.push_str(&format!(
            "  {} candidate {}: {} of {}\n",
            key.portal,
            key.revision,
            counted(candidate.disagreements, "disagreement", "disagreements"),
            candidate.records
        ));
    }
    text
}

fn table(found: &Disagreements<'_>, change: DecisionChange) -> Table {
    let mut groups: Vec<_> = found.groups.iter().filter(|(key, _)| key.change == change).collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.records));
    let rows = groups.into_iter().map(|(key, group)| {
        let example = group.examples.first();
        vec![
            group.records.to_string(),
            key.portal.clone(),
            if key.roles.is_empty() {
                "-".to_owned()
            } else {
                key.roles.join(", ")
            },
            key.route.clone(),
            example.map(|example| example.question.clone()).unwrap_or_default(),
            example.map(|example| example.decision_id.clone()).unwrap_or_default(),
        ]
    });
    Table {
        head: &["records", "portal", "roles", "route", "for example", "decision id"],
        rows: rows.collect(),
    }
}

fn parts(found: &Disagreements<'_>) -> Vec<ReportPart> {
    let mut parts = vec![ReportPart::Lines(headline(found))];
    for change in [DecisionChange::NewlyAllowed, DecisionChange::NewlyDenied] {
        let changed = ChangedDecisions {
            change,
            title: title(change),
            count: found.count(change),
            groups: table(found, change),
        };
        parts.extend(changed.parts());
    }
    parts
}

fn as_json(found: &Disagreements<'_>, totals: &Totals) -> Value {
    let groups = found.groups.iter().map(|(key, group)| {
        json!({
            "change": key.change.as_str(),
            "portal": key.portal,
            "roles": key.roles,
            "route": key.route,
            "records": group.records,
            "decisions": group.decisions,
            "examples": group.examples.iter().map(super::logs::example_json).collect::<Vec<_>>(),
        })
    });
    let candidates = found.candidates.iter().map(|(key, candidate)| {
        json!({
            "portal": key.portal,
            "revision": key.revision,
            "records": candidate.records,
            "disagreements": candidate.disagreements,
        })
    });
    json!({
        "evaluated": found.evaluated,
        "not_evaluated": found.without,
        "newly_allowed": found.count(DecisionChange::NewlyAllowed),
        "newly_denied": found.count(DecisionChange::NewlyDenied),
        "ungrouped": found.ungrouped,
        "disagreements": groups.collect::<Vec<_>>(),
        "candidates": candidates.collect::<Vec<_>>(),
        "log": totals_json(totals),
    })
}
