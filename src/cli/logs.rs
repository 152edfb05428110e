//! Decision logs for commands: which to read, the progress while reading, and what could not be read.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::report::text::escaped;
use super::report::{ReportPart, Severity, Table};
use super::tree::{PortalLoad, Workbench};
use super::{Exit, complain};
use crate::app::STACK_BYTES;
use crate::base::clock::unix_millis;
use crate::base::terminal::counted;
use crate::replay::{
    DecisionChange, Example, LogReader, PortalRevision, Portals, ReadProgress, Reading, Selection, Totals, Visitor,
};

/// Lines between two looks at the progress bar's time.
const TICK: Duration = Duration::from_millis(200);
/// Groups that people are shown; scripts get all.
const GROUPS_SHOWN_MAX: usize = 50;

/// The logs of a command.
#[derive(clap::Args)]
pub(super) struct LogArgs {
    /// A file of the decision log, plain, gzip or zstd; `-` is standard input. May be given several times; the order
    /// does not matter
    #[arg(long = "log", value_name = "FILE", required = true)]
    logs: Vec<PathBuf>,
    /// Only records of this portal
    #[arg(long, short)]
    pub portal: Option<String>,
    /// Only records from this time on: `2026-11-29T10:00:00Z`, or a time span before now such as `7d`
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
}

/// A time in Unix milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Since(i64);

impl LogArgs {
    /// The records that count.
    pub fn selection(&self) -> Selection<'_> {
        Selection {
            portal: self.portal.as_deref(),
            since_millis: self.since.map(|Since(millis)| millis),
        }
    }

    /// Reads the logs on every core.
    pub fn read<V: Visitor>(&self, new: impl Fn() -> V + Sync) -> Result<Reading<V>, String> {
        read(&self.logs, new)
    }
}

/// Reads logs on every core, and shows the progress on a terminal.
pub(super) fn read<V: Visitor>(logs: &[PathBuf], new: impl Fn() -> V + Sync) -> Result<Reading<V>, String> {
    let reader = LogReader {
        logs,
        workers: available_parallelism().map_or(1, usize::from),
        stack_bytes: STACK_BYTES,
    };
    let bar = std::io::stderr().is_terminal().then(Bar::new);
    let reading = reader.read(new, |progress| bar.iter().for_each(|bar| bar.show(progress)));
    if let Some(bar) = bar {
        bar.0.finish_and_clear();
    }
    let reading = reading.map_err(|error| error.to_string())?;
    refuse_without_records(&reading.totals)?;
    Ok(reading)
}

/// A file that holds no record at all is another file: its empty report would look like a log without flips.
fn refuse_without_records(totals: &Totals) -> Result<(), String> {
    if totals.decisions + totals.others > 0 {
        return Ok(());
    }
    let cut = totals.cut_files.first();
    let first = match totals.broken_lines.first() {
        Some(line) => format!("{}:{} is none", line.file, line.line),
        None => match cut {
            Some(cut) => format!("{} cannot be read: {}", cut.file, cut.why),
            None => return Ok(()),
        },
    };
    Err(escaped(&format!(
        "no line of the log is a record of the gate ({first}); name the file that `audit.sink` writes"
    )))
}

/// A bar with the share of the bytes; a counter for standard input.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::no_length();
        let style = ProgressStyle::with_template("{spinner} {wide_bar} {percent}%  {msg}  {elapsed}");
        bar.set_style(style.unwrap_or_else(|_unfit| ProgressStyle::default_bar()));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    fn show(&self, progress: ReadProgress) {
        if let Some(total) = progress.bytes_total {
            self.0.set_length(total);
        }
        self.0.set_position(progress.bytes);
        self.0.set_message(format!("{} lines", progress.lines));
    }
}

/// Loads the portals of a tree; `Err` says what is wrong with those that do not load.
pub(super) fn load(workbench: &Workbench) -> Result<Vec<PortalLoad<'_>>, String> {
    let loads = workbench.load_untested();
    let problems = loads
        .iter()
        .filter(|load| load.revision.is_none())
        .flat_map(|load| &load.problems);
    let problems: Vec<String> = problems.map(ToString::to_string).collect();
    if problems.is_empty() {
        return Ok(loads);
    }
    Err(problems.join("\n"))
}

/// The portals of a tree, ready to decide records.
pub(super) fn portals<'a>(loads: &'a [PortalLoad<'a>]) -> Portals<'a> {
    let revisions = loads.iter().filter_map(|load| {
        let revision = load.revision.as_deref()?;
        Some(PortalRevision {
            portal: load.portal,
            revision,
        })
    });
    Portals::new(revisions)
}

/// Says on stderr what could not be read. A report on a part of the log must not look like one on all of it.
pub(super) fn complain_about(totals: &Totals) {
    if totals.broken > 0 {
        let named = totals.broken_lines.iter().map(|line| format!("{}:{}", line.file, line.line));
        let named: Vec<String> = named.collect();
        let more = if totals.broken > named.len() as u64 { ", …" } else { "" };
        let count = counted(totals.broken, "line is no record", "lines are no records");
        complain(&escaped(&format!("warning: {count}: {}{more}", named.join(", "))));
    }
    for cut in &totals.cut_files {
        let what = format!("warning: `{}` cannot be read behind line {}: {}", cut.file, cut.line, cut.why);
        complain(&escaped(&what));
    }
}

/// The same for scripts.
pub(super) fn totals_json(totals: &Totals) -> Value {
    let broken = totals
        .broken_lines
        .iter()
        .map(|line| json!({"file": *line.file, "line": line.line}));
    let cut = totals
        .cut_files
        .iter()
        .map(|cut| json!({"file": cut.file, "line": cut.line, "why": cut.why}));
    json!({
        "decisions": totals.decisions,
        "other_records": totals.others,
        "broken_lines": totals.broken,
        "broken": broken.collect::<Vec<_>>(),
        "cut_files": cut.collect::<Vec<_>>(),
    })
}

/// A record for scripts.
pub(super) fn example_json(example: &Example) -> Value {
    json!({
        "decision_id": example.decision_id,
        "request": example.question,
        "principal": example.principal,
        "file": example.file,
        "line": example.line,
    })
}

/// The changes of decisions at which a command fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum FailOnFlip {
    Flip,
    Widen,
}

impl FailOnFlip {
    /// `widened`: decisions that become an allow. `narrowed`: those that become a deny.
    pub fn exit(wanted: Option<Self>, widened: u64, narrowed: u64) -> Exit {
        let fails = match wanted {
            None => false,
            Some(Self::Widen) => widened > 0,
            Some(Self::Flip) => widened + narrowed > 0,
        };
        if fails { Exit::TestsFailed } else { Exit::Ok }
    }
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(span) = humantime::parse_duration(text) {
        let span = i64::try_from(span.as_millis()).map_err(|_large| "is too long ago".to_owned())?;
        return Ok(Since(unix_millis().saturating_sub(span)));
    }
    let time = humantime::parse_rfc3339_weak(text).or_else(|_unfit| humantime::parse_rfc3339_weak(&format!("{text}T00:00:00")));
    let time = time.map_err(|_unfit| "is neither a time such as 2026-11-29T10:00:00Z nor a span such as 7d".to_owned())?;
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Since(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

/// The decisions of one change, in groups.
pub(super) struct ChangedDecisions<'a> {
    pub change: DecisionChange,
    pub title: &'a str,
    /// Of all groups.
    pub count: u64,
    /// A row for each group, the most frequent first.
    pub groups: Table,
}

impl ChangedDecisions<'_> {
    /// A heading, and the first groups below it. It is coloured if there are some.
    pub fn parts(self) -> Vec<ReportPart> {
        let severity = match self.change {
            _ if self.count == 0 => None,
            DecisionChange::NewlyAllowed => Some(Severity::Error),
            DecisionChange::NewlyDenied => Some(Severity::Warning),
        };
        let text = format!("{}: {}", self.title, self.count);
        let mut parts = vec![ReportPart::Heading { text, severity }];
        if self.count == 0 {
            return parts;
        }
        let mut groups = self.groups;
        let more = groups.rows.len().saturating_sub(GROUPS_SHOWN_MAX);
        groups.rows.truncate(GROUPS_SHOWN_MAX);
        parts.push(ReportPart::Table(groups));
        if more > 0 {
            let more = counted(more as u64, "more group", "more groups");
            parts.push(ReportPart::Lines(format!("  … and {more} (--format json has all)\n")));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_how_many_groups_it_leaves_out() {
        let changed = |groups: usize| ChangedDecisions {
            change: DecisionChange::NewlyAllowed,
            title: "newly allowed",
            count: 70,
            groups: Table {
                head: &["role"],
                rows: vec![vec!["viewer".to_owned()]; groups],
            },
        };
        let shown = |groups: usize| crate::cli::report::text::parts(&changed(groups).parts(), crate::cli::Paint::PLAIN);
        assert!(!shown(50).contains("more"), "{}", shown(50));
        let text = shown(52);
        assert!(text.ends_with("  … and 2 more groups (--format json has all)\n"), "{text}");
        assert_eq!(text.matches("viewer").count(), 50);
    }

    #[test]
    fn since_takes_a_time_a_day_and_a_span() {
        assert_eq!(since("2026-01-01T00:00:00Z"), Ok(Since(1_767_225_600_000)));
        assert_eq!(since("2026-01-01"), Ok(Since(1_767_225_600_000)));
        let day_ago = unix_millis() - 24 * 60 * 60 * 1000;
        assert!(since("1d").is_ok_and(|Since(at)| (at - day_ago).abs() < 60_000));
        assert!(since("yesterday").is_err());
    }
}
