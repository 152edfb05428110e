//! `cedargate audit verify`: checks the hash chain of decision-log files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::config_file::ConfigFile;
use super::report::{Finding, Format, Severity, Writers, json as json_report, text};
use super::{Exit, Paint, complain, print};
use crate::audit::verify::{self, ChainReport, Report, Trust, verify};
use crate::base::ed25519::VerifyingKey;
use crate::base::files;
use crate::config;

/// Bytes of a key file.
const KEY_BYTES_MAX: u64 = 64 * 1024;

#[derive(clap::Subcommand)]
pub(crate) enum AuditCommand {
    /// Find records of the decision log that were removed, changed, reordered, duplicated or cut
    Verify(VerifyArgs),
}

#[derive(clap::Args)]
#[command(
    after_help = "Give the rotated files and the current one together, in any order: `cedargate audit verify --key audit.pub \
                        /var/log/cedargate/decisions*`. Findings are errors; what no checkpoint proves is a warning. \
                        Exit codes: 0 no error, 1 a file cannot be read, 3 the log is not as the gate wrote it, 64 usage."
)]
pub(crate) struct VerifyArgs {
    /// Files of the decision log, plain or gzip; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// PEM file of public keys (`openssl pkey -in audit.pem -pubout`); may be given several times. Default: the key of
    /// `audit.chain.key_file` in the configuration
    #[arg(long)]
    key: Vec<PathBuf>,
    /// Check without a key: finds accidents, but no forgery
    #[arg(long, conflicts_with = "key")]
    hashes_only: bool,
    /// The files hold everything, from the first start to the last end: what is not proven is an error, too
    #[arg(long)]
    complete: bool,
    #[command(flatten)]
    config: ConfigFile,
    /// Format of the report
    #[arg(long, value_parser = VerifyReport::WRITERS.parser(), default_value = "human")]
    format: Format,
}

/// What the check found, and how it was asked.
struct VerifyReport<'a> {
    args: &'a VerifyArgs,
    report: Report,
    verdict: Verdict,
}

impl VerifyReport<'_> {
    const WRITERS: Writers<Self, 2> = Writers([
        (Format::Human, |report| as_text(report.args, &report.report, report.verdict)),
        (Format::Json, |report| {
            json_report::text(&as_json(report.args, &report.report, report.verdict))
        }),
    ]);
}

/// The answer to whether the log is as the gate wrote it.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    Intact,
    NotIntact,
}

pub(crate) fn run(command: &AuditCommand) -> Exit {
    let AuditCommand::Verify(args) = command;
    Exit::or_usage(verify_files(args))
}

fn verify_files(args: &VerifyArgs) -> Result<Exit, String> {
    let keys = if args.hashes_only { Vec::new() } else { keys(args)? };
    let trust = if args.hashes_only {
        Trust::HashesOnly
    } else {
        Trust::Keys(&keys)
    };
    let report = match verify(&args.files, trust) {
        Ok(report) => report,
        Err(error) => {
            complain(&error.to_string());
            return Ok(Exit::Failure);
        }
    };
    if report.chains.is_empty() {
        complain("no line of these files is part of a chain; was `audit.chain` on when they were written?");
    }
    let is_error = |finding: &verify::ChainFinding| args.complete || finding.kind.is_damage();
    let is_intact = !report.findings.iter().any(is_error) && report.findings_left_out == 0 && !report.chains.is_empty();
    let verdict = if is_intact { Verdict::Intact } else { Verdict::NotIntact };
    let report = VerifyReport { args, report, verdict };
    print(&VerifyReport::WRITERS.write(args.format, &report)?);
    Ok(if is_intact { Exit::Ok } else { Exit::Invalid })
}

/// The public keys of `--key`, or of the configuration.
fn keys(args: &VerifyArgs) -> Result<Vec<VerifyingKey>, String> {
    let mut paths = args.key.clone();
    if paths.is_empty()
        && let Some(file) = args.config.found()
    {
        let loaded = config::load(&file, config::process_environment()).map_err(|errors| errors.to_string())?;
        paths.extend(loaded.config.audit.chain.map(|chain| chain.key_file));
    }
    if paths.is_empty() {
        return Err(
            "whose signatures? Give the public key of `audit.chain.key_file` with `--key` (`openssl pkey -in audit.pem \
                    -pubout -out audit.pub` makes it), or `--hashes-only`"
                .to_owned(),
        );
    }
    let mut keys = Vec::new();
    for path in paths {
        keys.extend(read_keys(&path).map_err(|error| format!("`{}`: {error}", path.display()))?);
    }
    Ok(keys)
}

fn read_keys(path: &Path) -> Result<Vec<VerifyingKey>, String> {
    let text = files::read_small_text(path, KEY_BYTES_MAX).map_err(|error| error.to_string())?;
    VerifyingKey::all_from_pem(&text).map_err(|error| error.to_string())
}

fn finding(args: &VerifyArgs, found: &verify::ChainFinding) -> Finding {
    let around = match (&found.after_checkpoint, &found.before_checkpoint) {
        (Some(after), Some(before)) => Some(format!("between the checkpoints at {} and {}", place(after), place(before))),
        (Some(after), None) => Some(format!("behind the checkpoint at {}", place(after))),
        (None, Some(before)) => Some(format!("before the checkpoint at {}", place(before))),
        (None, None) => None,
    };
    Finding {
        rule: found.kind.rule(),
        severity: if args.complete || found.kind.is_damage() {
            Severity::Error
        } else {
            Severity::Warning
        },
        message: found.message.clone(),
        help: around.filter(|_| found.kind.is_damage()),
        file: Some(found.spot.file.clone()),
        line: usize::try_from(found.spot.line).ok(),
        column: None,
        end_line: None,
        end_column: None,
        portal: None,
        policy: None,
    }
}

fn place(spot: &verify::LineLocation) -> String {
    format!("{}:{}", spot.file, spot.line)
}

fn as_json(args: &VerifyArgs, report: &Report, verdict: Verdict) -> Value {
    let findings = report.findings.iter().map(|found| {
        let mut value = json!(finding(args, found));
        if let Some(fields) = value.as_object_mut() {
            fields.insert("chain".to_owned(), json!(found.chain.map(|id| id.to_string())));
            fields.insert("after_checkpoint".to_owned(), json!(found.after_checkpoint));
            fields.insert("before_checkpoint".to_owned(), json!(found.before_checkpoint));
        }
        value
    });
    json!({
        "intact": verdict == Verdict::Intact,
        "signatures": if args.hashes_only { "not checked" } else { "checked" },
        "findings": findings.collect::<Vec<_>>(),
        "findings_left_out": report.findings_left_out,
        "chains": report.chains,
        "files": report.files,
        "lines": report.lines,
    })
}

fn as_text(args: &VerifyArgs, report: &Report, verdict: Verdict) -> String {
    let paint = Paint::stdout();
    let findings: Vec<Finding> = report.findings.iter().map(|found| finding(args, found)).collect();
    // no excerpts: the files may be large
    let mut out = text::findings(&findings, &|_file| None, paint);
    if report.findings_left_out > 0 {
        out.push_str(&format!("… and {} more\n", report.findings_left_out));
    }
    for chain in &report.chains {
        out.push_str(&chain_text(chain));
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let shown = match (verdict, args.hashes_only) {
        (Verdict::Intact, false) => paint.green("intact"),
        (Verdict::Intact, true) => "hashes fit; signatures were not checked".to_owned(),
        (Verdict::NotIntact, _) if errors > 0 => paint.red("NOT INTACT"),
        (Verdict::NotIntact, _) => paint.red("NOTHING PROVEN"),
    };
    let files = report.files.len();
    let lines = report.lines;
    out.push_str(&format!("\n{shown}: {lines} lines in {files} files, {errors} errors\n"));
    out
}

fn chain_text(chain: &ChainReport) -> String {
    let ChainReport {
        id,
        lines,
        checkpoints,
        lost,
        ..
    } = chain;
    let replica = chain.replica.as_deref().unwrap_or("an unknown replica");
    let proven = match &chain.proven_to {
        Some(spot) => format!("proven up to {}", place(spot)),
        None => "nothing proven".to_owned(),
    };
    let end = if chain.ended { ", ended" } else { "" };
    let lost = if *lost > 0 {
        format!(", the gate lost {lost} records")
    } else {
        String::new()
    };
    let first = place(&chain.first);
    let last = place(&chain.last);
    text::escaped(&format!(
        "chain {id} of {replica}: {lines} lines from {first} to {last}, {checkpoints} checkpoints, {proven}, {} not proven{end}{lost}",
        chain.not_proven
    )) + "\n"
}
