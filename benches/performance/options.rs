//! What the command line asks for.

use std::process::Command;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::Extent;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Beside what a user would pick instead
    Peers,
    /// Beside itself as its work grows
    Growth,
}

/// Measures the gate and writes docs/performance.md. `make bench` installs the peers first.
#[derive(Clone, Debug, Parser)]
#[command(name = "performance", disable_version_flag = true)]
pub struct Options {
    /// Only these parts; may be given several times
    #[arg(long)]
    pub only: Vec<Part>,
    /// How often everybody is measured, in turn
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long each round lasts
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Write docs/performance.md and its plots
    #[arg(long)]
    pub write: bool,
    /// Set by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Of other benches
    #[arg(hide = true)]
    pub filter: Vec<String>,
    #[arg(skip = Extent::Whole)]
    pub extent: Extent,
}

impl Options {
    /// Everything once, small.
    pub fn smoke() -> Self {
        Self {
            only: Vec::new(),
            rounds: 1,
            seconds: 0.05,
            write: false,
            bench: false,
            filter: Vec::new(),
            extent: Extent::Smoke,
        }
    }

    pub fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.max(0.01))
    }

    /// What was run, of which version.
    pub fn facts(&self) -> Vec<(String, String)> {
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program)
                .args(args)
                .output()
                .ok()
                .filter(|output| output.status.success());
            output.map_or_else(
                || "unknown".to_owned(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            )
        };
        let mut commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
        let changed = said(
            "git",
            &[
                "status",
                "--porcelain",
                "--untracked-files=no",
                "--",
                "src",
                "benches",
                "Cargo.lock",
            ],
        );
        if !changed.is_empty() {
            commit += ", with changes";
        }
        let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let command = format!(
            "cargo bench --locked --profile release --bench performance -- {}",
            arguments.join(" ")
        );
        let program = std::env::var("BENCH_GATE")
            .map(|_| ", gate: another build".to_owned())
            .unwrap_or_default();
        vec![
            ("Rust".to_owned(), said("rustc", &["--version"])),
            (
                "cedargate".to_owned(),
                format!("{} ({commit}){program}", env!("CARGO_PKG_VERSION")),
            ),
            ("date".to_owned(), said("date", &["-u", "+%Y-%m-%d"])),
            ("command".to_owned(), format!("`{}`", command.trim_end_matches([' ', '-']))),
        ]
    }
}
