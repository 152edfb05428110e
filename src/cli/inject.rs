//! `cedargate inject`: reads manifests, adds or takes out the sidecar, writes them. `inject` does the work on texts.
//!
//! Manifests go to stdout alone, so that a pipe stays a pipe; everything else goes to stderr. Nothing is written if one
//! object is refused.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use cedargate_policy::types::PortalSlug;
use serde_json::{Value, json};

use super::report::{Format, Writers, json as json_report};
use super::{Exit, complain, print};
use crate::base::files::{read_small, replace_file};
use crate::inject::{Changed, ManifestChange, Mode, Options, PortChoice, PortalMaps, Refusal, TEXT_BYTES_MAX, inject, uninject};

/// The name of stdin, as an argument and in messages.
const STDIN: &str = "-";
/// Mode of a file that vanished between reading and writing.
const NEW_MODE: u32 = 0o644;
/// Longest name of a ConfigMap.
const NAME_MAX: usize = 253;

#[derive(clap::Args)]
#[command(
    after_help = "Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob, Pod, Rollout and Lists of them get the \
                  sidecar; Services in front of them lead to its port 8900; everything else passes through untouched. \
                  Comments, order and layout stay. Injecting twice is injecting once.\n\n\
                  Examples:\n  \
                  cedargate inject shop.yaml | kubectl apply -f -\n  \
                  helm template shop ./shop | cedargate inject --only Deployment/shop --app-port http\n  \
                  cedargate inject --write k8s/*.yaml\n  \
                  cedargate inject --uninject --write k8s/*.yaml\n\n\
                  Exit codes: 0 ok, 1 an object cannot be edited safely (nothing is written), 64 usage or an unreadable file."
)]
pub(crate) struct Args {
    /// Manifests, YAML or JSON; `-` or none: stdin
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Take the sidecar out again, byte for byte
    #[arg(long)]
    uninject: bool,
    /// Write each file in its place instead of printing it
    #[arg(long, short, conflicts_with = "output")]
    write: bool,
    /// Write the manifests to this file instead of printing them
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// native: an init container that keeps running (Kubernetes 1.29); classic: a container beside the app
    #[arg(long, value_enum, default_value_t = SidecarMode::Native)]
    mode: SidecarMode,
    /// The gate's image. Default: that of this version
    #[arg(long, value_parser = parse_image)]
    image: Option<String>,
    /// The ConfigMap with `cedargate.yaml`. Default: cedargate
    #[arg(long, value_name = "CONFIGMAP", value_parser = parse_config_map)]
    config_map: Option<String>,
    /// ConfigMaps with a portal's policies; once for each portal. Default: app=cedargate-policies
    #[arg(long, value_name = "PORTAL=CONFIGMAP[,CONFIGMAP]", value_parser = parse_policies)]
    policies: Vec<PortalMaps>,
    /// The ConfigMap with `policies/_shared`; may be absent in the cluster. Default: cedargate-shared
    #[arg(long, value_name = "CONFIGMAP", value_parser = parse_config_map)]
    shared: Option<String>,
    /// The ConfigMap with the schemas. Default: cedargate-schemas
    #[arg(long, value_name = "CONFIGMAP", value_parser = parse_config_map)]
    schemas: Option<String>,
    /// The port on which the app listens, by number or name. Default: the only TCP port of its container
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    app_port: Option<PortChoice>,
    /// The app's container. Default: the only one
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Change this workload alone, such as Deployment/shop; may be given several times
    #[arg(long, value_name = "KIND/NAME", value_parser = parse_only)]
    only: Vec<String>,
    /// Leave the app's probes as they are
    #[arg(long)]
    keep_probes: bool,
    /// Form of the messages on stderr
    #[arg(long, default_value = "human", value_parser = Injected::WRITERS.parser())]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SidecarMode {
    Native,
    Classic,
}

/// One text, and its name in messages.
struct ManifestSource {
    name: String,
    /// `None`: stdin.
    path: Option<PathBuf>,
    text: String,
}

pub(crate) fn run(args: &Args) -> Exit {
    let sources = match args.sources() {
        Ok(sources) => sources,
        Err(message) => return Exit::or_usage(Err(message)),
    };
    let texts: Vec<String> = sources.iter().map(|source| source.text.clone()).collect();
    let done = if args.uninject {
        uninject(&texts, &args.options())
    } else {
        inject(&texts, &args.options())
    };
    match done {
        Ok(changed) => match args.write(&sources, &changed) {
            Ok(()) => {
                let injected = Injected {
                    args,
                    sources: &sources,
                    changed: &changed,
                };
                complain_with(Injected::WRITERS.write(args.format, &injected));
                Exit::Ok
            }
            Err(message) => {
                complain(&message);
                Exit::Failure
            }
        },
        Err(refusal) => {
            let refused = RefusedManifest {
                file: sources.get(refusal.text).map_or(STDIN, |source| source.name.as_str()),
                refusal: &refusal,
            };
            complain_with(RefusedManifest::WRITERS.write(args.format, &refused));
            Exit::Failure
        }
    }
}

impl Args {
    fn options(&self) -> Options {
        Options {
            mode: match self.mode {
                SidecarMode::Native => Mode::Native,
                SidecarMode::Classic => Mode::Classic,
            },
            image: self.image.clone(),
            config_map: self.config_map.clone(),
            shared: self.shared.clone(),
            schemas: self.schemas.clone(),
            policies: self.policies.clone(),
            app_port: self.app_port.clone(),
            container: self.container.clone(),
            only: self.only.clone(),
            keep_probes: self.keep_probes,
        }
    }

    fn sources(&self) -> Result<Vec<ManifestSource>, String> {
        if self.files.is_empty() {
            if self.write {
                return Err("--write needs the files to write".to_owned());
            }
            return Ok(vec![read_stdin()?]);
        }
        let is_stdin = |file: &PathBuf| file.as_os_str() == STDIN;
        if self.write && self.files.iter().any(is_stdin) {
            return Err("stdin (`-`) cannot be written in its place; leave out --write".to_owned());
        }
        if self.files.iter().filter(|file| is_stdin(file)).count() > 1 {
            return Err("stdin (`-`) is given twice".to_owned());
        }
        let read = |file: &PathBuf| if is_stdin(file) { read_stdin() } else { read_file(file) };
        let sources: Vec<ManifestSource> = self.files.iter().map(read).collect::<Result<_, _>>()?;
        let is_json = |source: &ManifestSource| source.text.trim_start().starts_with('{');
        if sources.len() > 1 && !self.write && sources.iter().any(is_json) {
            return Err("several files of which one is JSON do not make one stream; use --write".to_owned());
        }
        Ok(sources)
    }

    fn write(&self, sources: &[ManifestSource], changed: &[Changed]) -> Result<(), String> {
        if !self.write {
            let stream = stream(changed);
            let Some(output) = &self.output else {
                print(&stream);
                return Ok(());
            };
            // not by a rename: this may be a pipe or a device
            return std::fs::write(output, stream).map_err(|error| cannot_write(output, &error));
        }
        for (source, changed) in sources.iter().zip(changed) {
            if let Some(path) = source.path.as_ref().filter(|_| changed.text != source.text) {
                replace_file(path, changed.text.as_bytes(), NEW_MODE).map_err(|error| cannot_write(path, &error))?;
            }
        }
        Ok(())
    }
}

/// The changes of all texts. The report goes to stderr: stdout has the manifests.
struct Injected<'a> {
    args: &'a Args,
    sources: &'a [ManifestSource],
    changed: &'a [Changed],
}

impl Injected<'_> {
    const WRITERS: Writers<Self, 2> = Writers([
        (Format::Human, |injected| injected.text()),
        (Format::Json, |injected| json_report::text(&injected.json())),
    ]);

    fn all(&self) -> impl Iterator<Item = (&ManifestSource, &ManifestChange)> {
        let pairs = self.sources.iter().zip(self.changed);
        pairs.flat_map(|(source, changed)| changed.changes.iter().map(move |change| (source, change)))
    }

    fn json(&self) -> Value {
        let objects = self
            .all()
            .map(|(source, change)| json!({"file": source.name, "object": change.object, "notes": change.notes}));
        json!({ "objects": objects.collect::<Vec<_>>() })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (source, change) in self.all() {
            for note in &change.notes {
                text.push_str(&format!("{}: {}: {note}\n", source.name, change.object));
            }
        }
        text.push_str(match (self.all().next(), self.args.uninject) {
            (None, true) => "no sidecar of inject was found; the manifests passed through\n",
            (None, false) => "no workload was found; the manifests passed through\n",
            (Some(_), true) => "",
            (Some(_), false) => {
                "what is left to do (docs/inject.md): every Service in front of these pods needs targetPort 8900, and the \
                 ConfigMaps must be there\n"
            }
        });
        text
    }
}

/// One object that cannot be changed: nothing was written.
struct RefusedManifest<'a> {
    file: &'a str,
    refusal: &'a Refusal,
}

impl RefusedManifest<'_> {
    const WRITERS: Writers<Self, 2> = Writers([
        (Format::Human, |RefusedManifest { file, refusal }| {
            format!("{file}:{}: {refusal}\n", refusal.line)
        }),
        (Format::Json, |RefusedManifest { file, refusal }| {
            let error = json!({"file": file, "line": refusal.line, "object": refusal.object, "field": refusal.field, "reason": refusal.reason});
            json_report::text(&json!({ "error": error }))
        }),
    ]);
}

/// Writes a report to stderr; an empty one is no line.
fn complain_with(report: Result<String, String>) {
    let report = report.unwrap_or_else(|message| message);
    if !report.is_empty() {
        complain(report.trim_end());
    }
}

/// The texts as one YAML stream.
fn stream(changed: &[Changed]) -> String {
    let mut stream = String::new();
    for (n, changed) in changed.iter().enumerate() {
        if n > 0 {
            if !stream.is_empty() && !stream.ends_with('\n') {
                stream.push('\n');
            }
            // a directive needs an end of the document before it
            let first = changed
                .text
                .lines()
                .find(|line| !line.trim().is_empty() && !line.starts_with('#'));
            match first {
                Some(line) if line.starts_with("---") => {}
                Some(line) if line.starts_with('%') => stream.push_str("...\n"),
                _ => stream.push_str("---\n"),
            }
        }
        stream.push_str(&changed.text);
    }
    stream
}

fn read_stdin() -> Result<ManifestSource, String> {
    if std::io::stdin().is_terminal() {
        complain("reading manifests from the terminal; end with Ctrl-D, or see `cedargate inject --help`");
    }
    let mut bytes = Vec::new();
    let limit = TEXT_BYTES_MAX as u64 + 1;
    let read = std::io::stdin().lock().take(limit).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read stdin: {error}"))?;
    Ok(ManifestSource {
        name: STDIN.to_owned(),
        path: None,
        text: String::from_utf8(bytes).map_err(|_why| "stdin is not UTF-8".to_owned())?,
    })
}

fn read_file(path: &Path) -> Result<ManifestSource, String> {
    let shown = path.display();
    let bytes = read_small(path, TEXT_BYTES_MAX as u64).map_err(|error| format!("cannot read `{shown}`: {error}"))?;
    Ok(ManifestSource {
        name: shown.to_string(),
        // a link stays a link: the file that it leads to is written
        path: Some(
            path.canonicalize()
                .map_err(|error| format!("cannot read `{shown}`: {error}"))?,
        ),
        text: String::from_utf8(bytes).map_err(|_why| format!("`{shown}` is not UTF-8"))?,
    })
}

fn cannot_write(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write `{}`: {error}", path.display())
}

fn parse_image(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if text.is_empty() || text.starts_with('-') || !text.chars().all(is_plain) {
        return Err("is not an image such as `registry.example.com/cedargate:0.1.0`".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_config_map(text: &str) -> Result<String, String> {
    let is_word = |label: &str| {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.bytes().all(is_plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() > NAME_MAX || !text.split('.').all(is_word) {
        return Err(format!("`{text}` is not the name of a ConfigMap; use a-z, 0-9, `-` and `.`"));
    }
    Ok(text.to_owned())
}

fn parse_policies(text: &str) -> Result<PortalMaps, String> {
    let (slug, maps) = text
        .split_once('=')
        .ok_or("write it as PORTAL=CONFIGMAP, such as customer=shop-policies")?;
    let slug = PortalSlug::parse(slug).ok_or_else(|| format!("`{slug}` is not a portal's slug"))?;
    Ok(PortalMaps {
        slug: slug.to_string(),
        config_maps: maps.split(',').map(parse_config_map).collect::<Result<_, _>>()?,
    })
}

fn parse_port(text: &str) -> Result<PortChoice, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse::<u16>().ok().filter(|number| *number != 0);
        return number
            .map(PortChoice::Number)
            .ok_or_else(|| format!("`{text}` is not a port from 1 to 65535"));
    }
    Ok(PortChoice::Name(text.to_owned()))
}

fn parse_only(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() => Ok(text.to_owned()),
        _ => Err("write it as KIND/NAME, such as Deployment/shop".to_owned()),
    }
}
