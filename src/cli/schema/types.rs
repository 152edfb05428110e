//! `cedargate schema types`: a portal's actions, resource types, context and flags as TypeScript or Python.
//!
//! Values have the form in which an app sends them to `/authorize`: Cedar's JSON.

mod python;
mod typescript;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cedar_policy::{EntityTypeName, EntityUid};
use cedargate_policy::json;
use cedargate_policy::schema::{AttrType, Field, RecordType, SchemaModel};

use super::{PortalArgs as Portal, portal_of};
use crate::base::files::replace_file;
use crate::cli::report::complain;
use crate::cli::{Exit, print};

/// The first words of a generated file: only such a file is overwritten.
const MARK: &str = "Made by `cedargate schema types`; do not edit.";
const NEW_MODE: u32 = 0o644;
/// Lines of a difference that `--check` shows.
const DIFF_LINES_MAX: usize = 40;

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("language").required(true).args(["ts", "py"]))]
pub(crate) struct Args {
    /// TypeScript
    #[arg(long)]
    ts: bool,
    /// Python 3.11 or newer
    #[arg(long)]
    py: bool,
    /// Write this file instead of printing; a file that this command did not make is left alone
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Write nothing; exit with 3 if the file named by --out is not what the schema says
    #[arg(long, requires = "out")]
    check: bool,
    #[command(flatten)]
    portal: Portal,
}

/// A portal's names and types, in a stable order.
struct Contract {
    portal: String,
    /// Actions that apply to something.
    actions: BTreeMap<String, ActionTypes>,
    groups: BTreeSet<String>,
    /// Attributes of each type that an app may ask about or send.
    entities: BTreeMap<EntityTypeName, RecordType>,
    flags: BTreeMap<String, AttrType>,
}

/// What one action applies to.
struct ActionTypes {
    resources: BTreeSet<EntityTypeName>,
    context: RecordType,
}

pub(super) fn run(args: &Args) -> Exit {
    Exit::or_usage(generate(args))
}

fn generate(args: &Args) -> Result<Exit, String> {
    let contract = contract(&args.portal)?;
    let text = if args.ts {
        typescript::text(&contract)
    } else {
        python::text(&contract)
    };
    let Some(out) = &args.out else {
        print(&text);
        return Ok(Exit::Ok);
    };
    if args.check {
        return Ok(check(out, &text));
    }
    match std::fs::read_to_string(out) {
        Ok(existing) if !existing.lines().take(2).any(|line| line.contains(MARK)) => {
            return Err(format!(
                "`{}` was not made by this command; nothing was written",
                out.display()
            ));
        }
        Ok(existing) if existing == text => return Ok(Exit::Ok),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(format!("cannot read `{}`: {e}", out.display())),
        _ => {}
    }
    replace_file(out, text.as_bytes(), NEW_MODE).map_err(|e| format!("cannot write `{}`: {e}", out.display()))?;
    Ok(Exit::Ok)
}

fn check(out: &Path, text: &str) -> Exit {
    let existing = std::fs::read_to_string(out).unwrap_or_default();
    if existing.replace("\r\n", "\n") == text {
        return Exit::Ok;
    }
    let differing = existing.lines().zip(text.lines()).position(|(a, b)| a != b);
    let line = differing.unwrap_or_else(|| existing.lines().count().min(text.lines().count())) + 1;
    let diff = similar::TextDiff::from_lines(existing.as_str(), text);
    let diff = diff
        .unified_diff()
        .context_radius(1)
        .header("the file", "the schema")
        .to_string();
    let mut shown: Vec<&str> = diff.lines().take(DIFF_LINES_MAX + 1).collect();
    if shown.len() > DIFF_LINES_MAX {
        shown.truncate(DIFF_LINES_MAX);
        shown.push("…");
    }
    complain(&format!(
        "{}:{line}: is not what the schema says; run the command without --check\n{}",
        out.display(),
        shown.join("\n")
    ));
    Exit::Invalid
}

fn contract(args: &Portal) -> Result<Contract, String> {
    let workbench = args.tree.open()?;
    let portal = portal_of(&workbench, args)?;
    let load = workbench.load_untested_one(portal);
    let revision = load.loaded()?;
    let flags = revision.rules.flags.all();
    let flags = flags
        .map(|(name, flag)| (name.to_owned(), AttrType::from(&flag.value)))
        .collect();
    Ok(Contract::new(portal.slug.as_str(), &revision.rules.schema, flags))
}

impl Contract {
    fn new(portal: &str, schema: &SchemaModel, flags: BTreeMap<String, AttrType>) -> Self {
        let mut contract = Self {
            portal: portal.to_owned(),
            actions: BTreeMap::new(),
            groups: BTreeSet::new(),
            entities: schema
                .entities()
                .map(|(ty, model)| (ty.clone(), model.attrs.clone()))
                .collect(),
            flags,
        };
        for (uid, action) in schema.actions() {
            if action.resources.is_empty() {
                contract.groups.insert(action_name(uid));
                continue;
            }
            contract.actions.insert(
                action_name(uid),
                ActionTypes {
                    resources: action.resources.clone(),
                    context: action.context.clone(),
                },
            );
        }
        contract
    }

    /// Each context once, with the actions that have it.
    fn contexts(&self) -> Vec<(&RecordType, Vec<&str>)> {
        let mut contexts: Vec<(&RecordType, Vec<&str>)> = Vec::new();
        for (name, action) in &self.actions {
            match contexts.iter_mut().find(|(context, _)| **context == action.context) {
                Some((_, names)) => names.push(name),
                None => contexts.push((&action.context, vec![name])),
            }
        }
        contexts
    }

    /// The flags as a record, each with a value.
    fn flag_record(&self) -> RecordType {
        let field = |ty: &AttrType| Field {
            ty: ty.clone(),
            required: true,
        };
        RecordType {
            fields: self.flags.iter().map(|(name, ty)| (name.clone(), field(ty))).collect(),
        }
    }

    fn resource_types(&self) -> BTreeSet<&EntityTypeName> {
        self.actions.values().flat_map(|action| &action.resources).collect()
    }
}

/// As `/authorize` takes it: bare without a namespace, else in full.
fn action_name(uid: &EntityUid) -> String {
    if uid.type_name().namespace().is_empty() {
        uid.id().unescaped().to_owned()
    } else {
        uid.to_string()
    }
}

/// `NS::Order` → `NS_Order`.
fn identifier(ty: &EntityTypeName) -> String {
    ty.to_string().replace("::", "_")
}

/// A text in double quotes; the escapes of JSON are those of TypeScript and Python, too.
fn quoted(text: &str) -> String {
    json::quoted(text)
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// The function of Cedar that makes an extension value.
fn extension(ty: &AttrType) -> Option<&'static str> {
    match ty {
        AttrType::Ip => Some("ip"),
        AttrType::Decimal => Some("decimal"),
        AttrType::Datetime => Some("datetime"),
        AttrType::Duration => Some("duration"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
