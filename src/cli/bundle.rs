//! `cedargate bundle`: makes, signs and checks policy bundles. The format is in `crate::bundle`; files are read and
//! written here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::config_file::ConfigFile;
use super::report::{Format, Writers, json as json_report};
use super::tree::{TreeArgs, read_bundle};
use super::validate::report_errors;
use super::{Exit, complain, print};
use crate::base::files::read_small;
use crate::bundle::{Bundle, BundleFacts, BundleSigningKey, PublicKey, Trust};
use crate::bundle_follower::read_keys;
use crate::config::{self, BundleKeys};

/// Bytes of a key file.
const KEY_BYTES_MAX: u64 = 64 * 1024;
const PRIVATE_MODE: u32 = 0o600;

#[derive(clap::Subcommand)]
#[command(
    after_help = "A release: bundle keygen once; then bundle build --sequence N --key policy.key for each change, and \
                        copy the file to the server of policies.bundle.url. docs/bundles.md describes the format."
)]
pub(crate) enum BundleCommand {
    /// Make a key pair: NAME.key signs, NAME.pub goes into policies.bundle.keys
    Keygen(KeygenArgs),
    /// Validate a policy tree and pack it into a bundle: equal trees make equal bytes
    Build(BuildArgs),
    /// Add a signature to a bundle
    Sign(SignArgs),
    /// Check a bundle: a trusted signature, and every file as the manifest says. Exit codes: 0 good, 1 not
    Verify(VerifyArgs),
    /// Show what a bundle says it is and holds, whether or not a key signed it
    Inspect(InspectArgs),
}

#[derive(clap::Args)]
pub(crate) struct KeygenArgs {
    /// Path of the pair without its ending; files that are there already stay as they are
    #[arg(default_value = "policy")]
    name: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    tree: TreeArgs,
    /// The file to write
    #[arg(long, short, default_value = "bundle.tar.gz", value_name = "FILE")]
    output: PathBuf,
    /// A number that grows with each release, such as `$(git rev-list --count HEAD)`; gates refuse a lower one than
    /// their last
    #[arg(long, value_name = "N")]
    sequence: u64,
    /// A name that policies.bundle.name can ask for, where one key signs bundles of several gates
    #[arg(long)]
    name: Option<String>,
    /// A fact about the bundle, such as commit=3f2a; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<Label>,
    /// The time of the release, as text; left out by default, so that equal trees make equal bytes
    #[arg(long, value_name = "TIME")]
    created: Option<String>,
    /// Sign with this key; may be given several times
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Pack a tree that a gate would reject
    #[arg(long)]
    danger_invalid: bool,
}

#[derive(clap::Args)]
pub(crate) struct SignArgs {
    bundle: PathBuf,
    /// The private key (PKCS#8 PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file to write; default: the bundle itself
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct VerifyArgs {
    bundle: PathBuf,
    /// A public key (PEM) that may have signed; may be given several times. Default: policies.bundle.keys
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    bundle: PathBuf,
    /// Format of the report
    #[arg(long, value_parser = Inspected::WRITERS.parser(), default_value = "human")]
    format: Format,
}

#[derive(Clone, Debug)]
struct Label {
    key: String,
    value: String,
}

pub(crate) fn run(command: &BundleCommand) -> Exit {
    match command {
        BundleCommand::Keygen(args) => Exit::print_or_usage(keygen(args)),
        BundleCommand::Build(args) => Exit::or_usage(build(args)),
        BundleCommand::Sign(args) => Exit::print_or_usage(sign(args)),
        BundleCommand::Verify(args) => Exit::or_usage(verify(args)),
        BundleCommand::Inspect(args) => Exit::or_usage(inspect(args)),
    }
}

fn label(text: &str) -> Result<Label, String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok(Label {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

fn keygen(args: &KeygenArgs) -> Result<String, String> {
    let private = with_ending(&args.name, "key");
    let public = with_ending(&args.name, "pub");
    if let Some(there) = [&private, &public].into_iter().find(|path| path.exists()) {
        return Err(format!("`{}` is there already; name another pair", there.display()));
    }
    let key = BundleSigningKey::generate().map_err(|e| e.to_string())?;
    let pem = key.to_pem().map_err(|e| e.to_string())?;
    write_new(&private, pem.expose().as_bytes(), PRIVATE_MODE)?;
    write_new(&public, key.public().to_pem().as_bytes(), 0o644)?;
    Ok(format!(
        "wrote {} (keep it secret) and {}\nkey id {}\n",
        private.display(),
        public.display(),
        key.public().id()
    ))
}

fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    PathBuf::from(path)
}

fn build(args: &BuildArgs) -> Result<Exit, String> {
    let keys: Vec<BundleSigningKey> = args.key.iter().map(|path| signing_key(path)).collect::<Result<_, _>>()?;
    let workbench = args.tree.open()?;
    if !workbench.is_settled {
        return Err("the policy files keep changing; run the command again when they are at rest".to_owned());
    }
    if !args.danger_invalid {
        let errors = report_errors(&workbench.load(), &|file| workbench.source(file));
        if !errors.is_empty() {
            complain(&format!("{errors}no bundle was written: a gate would reject this tree"));
            return Ok(Exit::Invalid);
        }
    }
    let mut labels = BTreeMap::new();
    for label in &args.label {
        if labels.insert(label.key.clone(), label.value.clone()).is_some() {
            return Err(format!("the label `{}` is given twice", label.key));
        }
    }
    let facts = BundleFacts {
        name: args.name.clone(),
        sequence: args.sequence,
        created: args.created.clone(),
        labels,
    };
    let mut bundle = Bundle::build(workbench.files().clone(), facts).map_err(|e| e.to_string())?;
    for key in &keys {
        bundle.sign(key).map_err(|e| e.to_string())?;
    }
    write_bundle(&bundle, &args.output)?;
    print(&summary(&bundle, &args.output));
    if keys.is_empty() {
        complain("the bundle has no signature yet; `cedargate bundle sign` adds one");
    }
    Ok(Exit::Ok)
}

fn sign(args: &SignArgs) -> Result<String, String> {
    let key = signing_key(&args.key)?;
    let mut bundle = read_bundle(&args.bundle, Trust::DangerUnsigned)?;
    bundle.sign(&key).map_err(|e| e.to_string())?;
    let output = args.output.as_ref().unwrap_or(&args.bundle);
    write_bundle(&bundle, output)?;
    Ok(summary(&bundle, output))
}

fn verify(args: &VerifyArgs) -> Result<Exit, String> {
    let keys = trusted_keys(args)?;
    match read_bundle(&args.bundle, Trust::Keys(&keys)) {
        Ok(bundle) => {
            let by = bundle.signed_by.as_deref().unwrap_or_default();
            print(&format!("{}verified with key {by}\n", summary(&bundle, &args.bundle)));
            Ok(Exit::Ok)
        }
        Err(message) => {
            complain(&message);
            Ok(Exit::Failure)
        }
    }
}

fn trusted_keys(args: &VerifyArgs) -> Result<Vec<PublicKey>, String> {
    let files = if args.key.is_empty() {
        let loaded = config::load(&args.config.required(), config::process_environment())
            .map_err(|errors| format!("{errors}\nname the public key with --key, or the configuration with --config"))?;
        match loaded.config.bundle.map(|bundle| bundle.keys) {
            Some(BundleKeys::Files(files)) => files,
            Some(BundleKeys::DangerUnsigned) | None => {
                return Err("the configuration names no policies.bundle.keys; name the public key with --key".to_owned());
            }
        }
    } else {
        args.key.clone()
    };
    read_keys(&files)
}

fn inspect(args: &InspectArgs) -> Result<Exit, String> {
    let bundle = match read_bundle(&args.bundle, Trust::DangerUnsigned) {
        Ok(bundle) => bundle,
        Err(message) => {
            complain(&message);
            return Ok(Exit::Failure);
        }
    };
    let inspected = Inspected {
        bundle,
        path: &args.bundle,
    };
    print(&Inspected::WRITERS.write(args.format, &inspected)?);
    Ok(Exit::Ok)
}

/// A bundle whose signatures were not checked.
struct Inspected<'a> {
    bundle: Bundle,
    path: &'a Path,
}

impl Inspected<'_> {
    const WRITERS: Writers<Self, 2> = Writers([
        (Format::Human, |inspected| inspected.text()),
        (Format::Json, |inspected| json_report::text(&inspected.json())),
    ]);

    fn signatures(&self) -> Vec<&str> {
        self.bundle
            .signatures
            .iter()
            .map(|signature| signature.key.as_str())
            .collect()
    }

    fn text(&self) -> String {
        let manifest = &self.bundle.manifest;
        let mut text = summary(&self.bundle, self.path);
        for (key, value) in &manifest.labels {
            text.push_str(&format!("label {key}={value}\n"));
        }
        if let Some(created) = &manifest.created {
            text.push_str(&format!("created {created}\n"));
        }
        for key in self.signatures() {
            text.push_str(&format!("signature by key {key}, not verified\n"));
        }
        for file in &manifest.files {
            text.push_str(&format!("{}  {:>8}  {}\n", file.sha256, file.size, file.name));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        json!({"manifest": self.bundle.manifest, "signatures": self.signatures()})
    }
}

fn summary(bundle: &Bundle, path: &Path) -> String {
    let manifest = &bundle.manifest;
    let name = manifest.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    format!(
        "{}: bundle{name}, sequence {}, {}, {}, tree {}\n",
        path.display(),
        manifest.sequence,
        count(bundle.files.0.len(), "file"),
        count(bundle.signatures.len(), "signature"),
        manifest.tree
    )
}

fn signing_key(path: &Path) -> Result<BundleSigningKey, String> {
    let text = read_small(path, KEY_BYTES_MAX).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    BundleSigningKey::from_pem(&text).map_err(|error| format!("`{}`: {error}", path.display()))
}

/// Replaces the file as a whole: a server that reads it meanwhile sends the old bundle or the new one.
fn write_bundle(bundle: &Bundle, path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
    let bytes = bundle.write().map_err(|e| e.to_string())?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::File::create(&temporary).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(failed)
}
