//! `cedargate schema diff`: what changed between two schemas of a portal, and whom it breaks.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cedar_policy::Schema;
use cedargate_policy::load::schema_problem;
use cedargate_policy::schema::SchemaModel;
use cedargate_policy::schema::diff::{Effect, SchemaChange, changes};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{joined_text, one_portal};
use crate::base::files::read_small_text;
use crate::cli::report::{Format, Writers, json as json_report, markdown};
use crate::cli::tree::TreeArgs;
use crate::cli::{Exit, Paint, print};

/// The largest schema file that is read.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder with `policies/` and `schemas/` in it, a bundle, or one schema file
    old: PathBuf,
    /// The same after the change
    new: PathBuf,
    /// The portal; not needed if there is one
    #[arg(long, short)]
    portal: Option<String>,
    /// Exit with 4 if there is such a change, or a worse one
    #[arg(long, value_name = "EFFECT")]
    fail_on: Option<FailOnEffect>,
    /// Format of the report
    #[arg(long, value_parser = WRITERS.parser(), default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum FailOnEffect {
    /// Something that was valid no longer is
    Breaking,
    /// A policy that is there already may apply to more or to less
    Review,
}

/// The changes, the worst first.
const WRITERS: Writers<Vec<SchemaChange>, 3> = Writers([
    (Format::Human, |changes| as_text(changes)),
    (Format::Json, |changes| json_report::text(&as_json(changes))),
    (Format::Markdown, |changes| as_markdown(changes)),
]);

pub(super) fn run(args: &Args) -> Exit {
    Exit::or_usage(compare(args))
}

fn compare(args: &Args) -> Result<Exit, String> {
    let old = model(&args.old, args.portal.as_deref())?;
    let new = model(&args.new, args.portal.as_deref())?;
    let changes = changes(&old, &new);
    print(&WRITERS.write(args.format, &changes)?);
    let worst = changes.first().map(|change| change.effect);
    let fails = match args.fail_on {
        None => false,
        Some(FailOnEffect::Breaking) => worst == Some(Effect::Breaking),
        Some(FailOnEffect::Review) => worst.is_some_and(|effect| effect <= Effect::Review),
    };
    Ok(if fails { Exit::TestsFailed } else { Exit::Ok })
}

fn model(place: &Path, portal: Option<&str>) -> Result<SchemaModel, String> {
    let name = place.display();
    let text = if place.extension().is_some_and(|ending| ending == "cedarschema") {
        let text = read_small_text(place, BYTES_MAX).map_err(|e| format!("cannot read `{name}`: {e}"))?;
        match schema_problem(&name.to_string(), &text) {
            Some(problem) => return Err(problem.to_string()),
            None => text,
        }
    } else {
        let workbench = TreeArgs::of(place).open()?;
        joined_text(&workbench, one_portal(&workbench, portal)?)?
    };
    let unusable =
        |e: &dyn std::fmt::Display| format!("the schema of `{name}` does not parse: {e}; `cedargate validate` says where");
    let (schema, _) = Schema::from_cedarschema_str(&text).map_err(|e| unusable(&e))?;
    SchemaModel::new(schema, &text, None).map_err(|e| unusable(&e))
}

/// The part of a version that must be raised (semantic versioning).
fn version(changes: &[SchemaChange]) -> &'static str {
    match changes.first().map(|change| change.effect) {
        Some(Effect::Breaking) => "major",
        Some(Effect::Review | Effect::Compatible) => "minor",
        None => "unchanged",
    }
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Breaking => "breaking",
        Effect::Review => "review",
        Effect::Compatible => "compatible",
    }
}

fn as_json(changes: &[SchemaChange]) -> Value {
    let shown = changes
        .iter()
        .map(|change| json!({"effect": word(change.effect), "place": change.place, "message": change.message}));
    json!({"changes": shown.collect::<Vec<_>>(), "version": version(changes)})
}

fn as_text(changes: &[SchemaChange]) -> String {
    let paint = Paint::stdout();
    let mut text = String::new();
    for change in changes {
        let padded = format!("{:<11}", word(change.effect));
        let effect = match change.effect {
            Effect::Breaking => paint.red(&padded),
            Effect::Review => paint.yellow(&padded),
            Effect::Compatible => padded,
        };
        let _infallible = writeln!(text, "{effect}{}: {}", change.place, change.message);
    }
    text + &summary(changes)
}

fn summary(changes: &[SchemaChange]) -> String {
    let count = |effect| changes.iter().filter(|change| change.effect == effect).count();
    let breaking = count(Effect::Breaking);
    let review = count(Effect::Review);
    let compatible = count(Effect::Compatible);
    format!(
        "breaking: {breaking}, to review: {review}, compatible: {compatible}; next version: {}\n",
        version(changes)
    )
}

fn as_markdown(changes: &[SchemaChange]) -> String {
    let mut text = format!("**Schema**: {}", summary(changes));
    if !changes.is_empty() {
        text.push('\n');
        text.push_str(&markdown::head_rows(&["effect", "place", "change"].map(str::to_owned)));
    }
    text.extend(changes.iter().map(|change| {
        markdown::row(&[
            word(change.effect).to_owned(),
            markdown::code(&change.place),
            markdown::plain(&change.message),
        ])
    }));
    text
}
