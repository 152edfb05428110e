//! The command line, and the facts of a run that follow from it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cedargate_benches::repository;
use clap::{Parser, ValueEnum};

use crate::Extent;
use crate::gate;
use crate::report::Page;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The gate beside other products that do the same job
    Peers,
    /// TLS, HTTP/2, bodies and WebSockets beside nginx and Envoy
    Transport,
    /// The gate beside itself as its work grows
    Growth,
    /// Of growth, the doors beside `/authorize` alone; with `--write` a page of their own, docs/performance-doors.md
    Doors,
}

/// Measures the gate and writes docs/performance.md. `make bench` installs the peers first.
#[derive(Clone, Debug, Parser)]
#[command(name = "performance", disable_version_flag = true)]
pub struct Options {
    /// Only these parts; may be given several times
    #[arg(long)]
    pub only: Vec<Part>,
    /// How often each peer is measured, in turn
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long each round lasts
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Measure nothing: send traffic of every kind to a gate whose build learns from it, for so long each (see
    /// `.ci/release`)
    #[arg(long)]
    pub train: bool,
    /// Measure only these builds of the gate against each other: CPU time of a request, the first is the base
    #[arg(long, value_name = "PROGRAM")]
    pub build: Vec<PathBuf>,
    /// Write docs/performance.md and its plots
    #[arg(long)]
    pub write: bool,
    /// Set by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// A filter for other benches
    #[arg(hide = true)]
    pub filter: Vec<String>,
    #[arg(skip = Extent::Whole)]
    pub extent: Extent,
}

impl Options {
    /// Every part once, small.
    pub fn smoke() -> Self {
        Self {
            only: Vec::new(),
            rounds: 1,
            seconds: 0.05,
            train: false,
            build: Vec::new(),
            write: false,
            bench: false,
            filter: Vec::new(),
            extent: Extent::Smoke,
        }
    }

    pub fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The page that `write` writes.
    pub fn page(&self) -> Page {
        match self.only.as_slice() {
            [Part::Doors] => Page::Doors,
            _ => Page::Whole,
        }
    }

    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.max(0.01))
    }

    /// Versions, date and command of this run, for the report.
    pub fn facts(&self) -> Vec<(String, String)> {
        let mut commit = output_of("git", &["rev-parse", "--short=12", "HEAD"]);
        let sources = ["src", "crates", "benches", "Cargo.lock"];
        let status = ["status", "--porcelain", "--untracked-files=no", "--"];
        let changed = output_of("git", &[status.as_slice(), &sources].concat());
        if !changed.is_empty() {
            commit += ", with changes";
        }
        let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let command = format!(
            "cargo bench --locked --profile release --package cedargate-benches --bench performance -- {}",
            arguments.join(" ")
        );
        let version = gate::program()
            .map(|program| output_of(program, &["--version"]))
            .unwrap_or_default();
        let version = version.trim_start_matches("cedargate ");
        let build = std::env::var("BENCH_GATE")
            .map(|_| ", gate: another build".to_owned())
            .unwrap_or_default();
        vec![
            ("Rust".to_owned(), output_of("rustc", &["--version"])),
            ("cedargate".to_owned(), format!("{version} ({commit}){build}")),
            ("date".to_owned(), output_of("date", &["-u", "+%Y-%m-%d"])),
            ("command".to_owned(), format!("`{}`", command.trim_end_matches([' ', '-']))),
        ]
    }
}

/// The standard output of a command that runs in the repository; `unknown` if it fails.
fn output_of(program: impl AsRef<OsStr>, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(repository()).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
