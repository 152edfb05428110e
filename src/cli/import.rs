//! `cedargate config import oauth2-proxy`: prints the gate's configuration for another program's, or writes a whole
//! tree.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::new_files::{NewFile, refuse_existing, write};
use super::report::{Finding, Format, Severity, Writers, json as json_report, text};
use super::{Exit, Paint, complain, print};
use crate::import::{self, Imported, Remark, Weight};

/// Bytes of a configuration.
const BYTES_MAX: u64 = 1 << 20;
const CONFIG: &str = "cedargate.yaml";

#[derive(clap::Subcommand)]
pub(crate) enum ImportCommand {
    /// oauth2-proxy 7: its TOML file, alpha YAML file, flags or variables
    Oauth2Proxy(ImportArgs),
}

#[derive(clap::Args)]
pub(crate) struct ImportArgs {
    /// The configuration: a `.cfg` file, an alpha YAML file, or any text with flags or `OAUTH2_PROXY_*` variables; `-`
    /// is stdin
    file: PathBuf,
    /// Write cedargate.yaml, schemas, policies and tests into this folder; nothing that exists is overwritten
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Format of the output
    #[arg(long, value_parser = ImportReport::WRITERS.parser(), default_value = "human")]
    format: Format,
}

pub(super) fn run(command: &ImportCommand) -> Exit {
    let ImportCommand::Oauth2Proxy(args) = command;
    Exit::or_usage(import(args))
}

fn import(args: &ImportArgs) -> Result<Exit, String> {
    let name = args.file.display().to_string();
    let text = read(&args.file).map_err(|why| format!("cannot read `{name}`: {why}"))?;
    let imported = import::oauth2_proxy(&text).map_err(|why| format!("`{name}`: {why}"))?;
    let findings: Vec<Finding> = imported.remarks.iter().map(|remark| finding(remark, &name)).collect();
    let exit = match imported.remarks.iter().any(|remark| remark.weight == Weight::Decide) {
        true => Exit::Invalid,
        false => Exit::Ok,
    };
    let files = files(&imported);
    if let Some(dir) = &args.write {
        refuse_existing(dir, files.iter())?;
        write(dir, &files)?;
    }
    let report = ImportReport {
        written_to: args.write.as_deref(),
        findings,
        files,
    };
    print(&ImportReport::WRITERS.write(args.format, &report)?);
    if args.format == Format::Human && args.write.is_none() {
        complain(report.findings_text(Paint::stderr()).trim_end());
    }
    Ok(exit)
}

/// The outcome of an import. Without `--write` stdout holds the configuration alone, and the findings go to stderr.
struct ImportReport<'a> {
    written_to: Option<&'a Path>,
    findings: Vec<Finding>,
    files: Vec<NewFile>,
}

impl ImportReport<'_> {
    const WRITERS: Writers<Self, 2> = Writers([
        (Format::Human, |report| report.text()),
        (Format::Json, |report| json_report::text(&report.json())),
    ]);

    fn text(&self) -> String {
        let Some(dir) = self.written_to else {
            return self.files.first().map(|config| config.text.clone()).unwrap_or_default();
        };
        let names = self
            .files
            .iter()
            .map(|file| format!("  {}\n", dir.join(&file.name).display()));
        let names: String = names.collect();
        format!("{}written:\n{names}", self.findings_text(Paint::stdout()))
    }

    /// SECURITY: no line of the source is shown; it may hold a secret.
    fn findings_text(&self, paint: Paint) -> String {
        text::findings(&self.findings, &|_| None, paint)
    }

    fn json(&self) -> serde_json::Value {
        let files = self.files.iter().map(|file| (file.name.clone(), file.text.clone().into()));
        let files: serde_json::Map<String, serde_json::Value> = files.collect();
        json!({"findings": self.findings, "files": files})
    }
}

/// The configuration first.
fn files(imported: &Imported) -> Vec<NewFile> {
    let mut files = vec![NewFile {
        name: CONFIG.to_owned(),
        text: imported.config.clone(),
    }];
    files.extend(imported.files.iter().map(|file| NewFile {
        name: file.name.clone(),
        text: file.text.clone(),
    }));
    files
}

fn read(file: &Path) -> Result<String, String> {
    let source: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).map_err(|error| error.to_string())?),
    };
    let mut text = String::new();
    let read = source
        .take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    match u64::try_from(read) {
        Ok(read) if read <= BYTES_MAX => Ok(text),
        _ => Err("it is larger than 1 MiB".to_owned()),
    }
}

fn finding(remark: &Remark, file: &str) -> Finding {
    let message = match remark.setting.is_empty() {
        true => remark.message.clone(),
        false => format!("`{}`: {}", remark.setting, remark.message),
    };
    let (rule, severity) = match remark.weight {
        Weight::Decide => ("decide", Severity::Error),
        Weight::Differs => ("differs", Severity::Warning),
        Weight::Note => ("note", Severity::Note),
    };
    Finding {
        rule,
        severity,
        message,
        help: None,
        file: Some(file.to_owned()),
        line: remark.line,
        column: None,
        end_line: None,
        end_column: None,
        portal: None,
        policy: None,
    }
}
