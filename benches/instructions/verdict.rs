//! Compares two sets of counts: workloads that cost more than their tolerance allows, much less, are new or are gone.
//! Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// The command that accepts the present counts.
pub const ACCEPT: &str = "make counts-accept";

/// Instructions per operation, by workload; allocations, where the workload's name says so.
pub type Counts = BTreeMap<String, u64>;

/// Counts, and the tools that produced them.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    pub rustc: String,
    pub target: String,
    pub valgrind: String,
    pub instructions: Counts,
}

/// The outcome of a comparison, ready to print.
#[derive(Debug)]
pub struct Report {
    pub text: String,
    pub failed: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    WithinTolerance,
    Dearer,
    Cheaper,
    New,
    Gone,
}

/// Per cent by which a workload may change. Runs of the same program differ by up to 1.3 %; by 2.7 % where the length
/// of a look-up depends on hashes, which every process seeds anew. A whole request crosses threads and the kernel, too.
pub fn tolerance(workload: &str) -> u32 {
    match workload.split('/').next() {
        Some("authorize" | "principal" | "request") => 5,
        _ => 3,
    }
}

pub fn compare(before: &Baseline, now: &Baseline) -> Report {
    let mut report = Report {
        text: String::new(),
        failed: false,
    };
    if before.target != now.target {
        report.line(format_args!(
            "instructions: not compared: the baseline is for {}, this is {}; `{ACCEPT}` makes one to compare with here",
            before.target, now.target
        ));
        return report;
    }
    report.table(before, now);
    report.differences_of_tools(before, now);
    report
}

impl Report {
    fn table(&mut self, before: &Baseline, now: &Baseline) {
        let mut names: Vec<_> = before.instructions.keys().chain(now.instructions.keys()).collect();
        names.sort();
        names.dedup();
        self.line(format_args!(
            "{:<36} {:>10} {:>10} {:>9}",
            "counted per operation", "was", "is", "change"
        ));
        let mut findings = Vec::new();
        for name in names {
            let was = before.instructions.get(name).copied();
            let is = now.instructions.get(name).copied();
            let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let percent = was.zip(is).map(|(was, is)| format!("{:+.1} %", change(was, is)));
            self.line(format_args!(
                "{name:<36} {:>10} {:>10} {:>9}",
                number(was),
                number(is),
                percent.unwrap_or_default()
            ));
            findings.push((name, was, is));
        }
        for (name, was, is) in findings {
            self.finding(name, was, is);
        }
    }

    fn finding(&mut self, name: &str, was: Option<u64>, is: Option<u64>) {
        let verdict = judge(name, was, is);
        let was = was.unwrap_or_default();
        let is = is.unwrap_or_default();
        let percent = change(was, is).abs();
        let tolerance = tolerance(name);
        self.failed |= !matches!(verdict, Verdict::WithinTolerance | Verdict::Cheaper);
        match verdict {
            Verdict::WithinTolerance => {}
            Verdict::Dearer => self.line(format_args!(
                "instructions: `{name}` became dearer: was {was}, is {is}, {percent:.1} % more (tolerance {tolerance} %); \
                 make it cheaper, or say in the commit what it buys and accept it: `{ACCEPT}`"
            )),
            Verdict::Cheaper => self.line(format_args!(
                "instructions: `{name}` became cheaper: was {was}, is {is}, {percent:.1} % less (tolerance {tolerance} %); \
                 keep the gain: `{ACCEPT}`"
            )),
            Verdict::New => self.line(format_args!(
                "instructions: `{name}` is not in the baseline: is {is}; `{ACCEPT}`"
            )),
            Verdict::Gone => self.line(format_args!(
                "instructions: `{name}` was {was} and is not counted any more; `{ACCEPT}`"
            )),
        }
    }

    /// Names tools of another version: they can change counts without a change of the code. The counts are compared all
    /// the same.
    fn differences_of_tools(&mut self, before: &Baseline, now: &Baseline) {
        for (tool, was, is) in [
            ("rustc", &before.rustc, &now.rustc),
            ("valgrind", &before.valgrind, &now.valgrind),
        ] {
            if was != is {
                self.line(format_args!(
                    "instructions: the baseline was counted with {tool} {was}, this is {is}: a difference may come from there"
                ));
            }
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // writing to a string does not fail
        let _written = writeln!(self.text, "{line}").is_ok();
    }
}

fn judge(name: &str, was: Option<u64>, is: Option<u64>) -> Verdict {
    let allowed = u64::from(tolerance(name));
    match (was, is) {
        (None, _) => Verdict::New,
        (_, None) => Verdict::Gone,
        (Some(was), Some(is)) if is * 100 > was * (100 + allowed) => Verdict::Dearer,
        (Some(was), Some(is)) if is * 100 < was * (100 - allowed) => Verdict::Cheaper,
        (Some(_), Some(_)) => Verdict::WithinTolerance,
    }
}

/// The change in per cent.
#[expect(clippy::cast_precision_loss, reason = "counts of one operation are far below 2^52")]
fn change(was: u64, is: u64) -> f64 {
    (is as f64 / was.max(1) as f64 - 1.0) * 100.0
}
