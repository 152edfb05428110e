//! `cedargate schema`: a portal's joined schema, for editors and for tools that read one schema; made of an OpenAPI
//! description; compared; as types for clients.

mod diff;
mod editor;
mod from_openapi;
mod types;

use cedar_policy::SchemaFragment;
use cedargate_policy::scope::PortalScope;

use super::Exit;
use super::tree::{TreeArgs, Workbench};

#[derive(clap::Subcommand)]
pub(crate) enum SchemaCommand {
    /// Print a portal's schema in Cedar's syntax: the shared file and its own, joined
    Show(ShowArgs),
    /// Print the same as JSON, for tools that read Cedar's JSON schemas
    ToJson(PortalArgs),
    /// Make a portal's schema, routes and first tests of the app's OpenAPI description; prints them, or writes them
    /// with --write
    FromOpenapi(from_openapi::Args),
    /// Show what changed between two schemas of a portal, and which changes break policies or apps
    Diff(diff::Args),
    /// Print a portal's actions, resource types, context and flags as TypeScript or Python
    Types(types::Args),
}

#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// Write it where Cedar's extension for editors looks, for every portal: policies/<portal>/.editor.cedarschema
    #[arg(long)]
    editor: bool,
    #[command(flatten)]
    portal: PortalArgs,
}

#[derive(clap::Args)]
pub(crate) struct PortalArgs {
    /// The portal; not needed if there is one
    #[arg(long, short)]
    portal: Option<String>,
    #[command(flatten)]
    tree: TreeArgs,
}

pub(crate) fn run(command: &SchemaCommand) -> Exit {
    match command {
        SchemaCommand::Show(args) if args.editor => Exit::print_or_usage(editor::write(&args.portal)),
        SchemaCommand::Show(args) => Exit::print_or_usage(joined(&args.portal)),
        SchemaCommand::ToJson(args) => Exit::print_or_usage(joined(args).and_then(|text| to_json(&text))),
        SchemaCommand::FromOpenapi(args) => Exit::print_or_usage(from_openapi::run(args)),
        SchemaCommand::Diff(args) => diff::run(args),
        SchemaCommand::Types(args) => types::run(args),
    }
}

fn joined(args: &PortalArgs) -> Result<String, String> {
    let workbench = args.tree.open()?;
    joined_text(&workbench, portal_of(&workbench, args)?)
}

fn portal_of<'a>(workbench: &'a Workbench, args: &PortalArgs) -> Result<&'a PortalScope, String> {
    one_portal(workbench, args.portal.as_deref())
}

/// The portal of that name, or the only one.
fn one_portal<'a>(workbench: &'a Workbench, name: Option<&str>) -> Result<&'a PortalScope, String> {
    match (name, workbench.portals.as_slice()) {
        (Some(slug), _) => workbench.named(slug),
        (None, [only]) => Ok(only),
        (None, all) => {
            let known: Vec<&str> = all.iter().map(|portal| portal.slug.as_str()).collect();
            Err(format!("name one with --portal: {}", known.join(", ")))
        }
    }
}

fn joined_text(workbench: &Workbench, portal: &PortalScope) -> Result<String, String> {
    let names = [
        "schemas/_shared.cedarschema".to_owned(),
        format!("schemas/{}.cedarschema", portal.slug),
    ];
    let mut joined = String::new();
    for name in &names {
        let Some(text) = workbench.schema(name)? else { continue };
        joined.push_str(&format!("// {name}\n{}\n", text.trim_end()));
    }
    if joined.is_empty() {
        return Err(format!(
            "portal `{}` has no schema: neither {} exists",
            portal.slug,
            names.join(" nor ")
        ));
    }
    Ok(joined)
}

fn to_json(text: &str) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("the schema does not parse: {e}; `cedargate validate` says where");
    let (fragment, _) = SchemaFragment::from_cedarschema_str(text).map_err(|e| failed(&e))?;
    let json = fragment.to_json_value().map_err(|e| failed(&e))?;
    Ok(format!("{json:#}\n"))
}
