//! `cedargate schema`: a portal's joined schema, for editors and for tools that read one schema.

use cedar_policy::SchemaFragment;

use super::Exit;
use super::tree::TreeArgs;

#[derive(clap::Subcommand)]
pub(crate) enum SchemaCommand {
    /// Print a portal's schema in Cedar's syntax: the shared file and its own, joined
    Show(Args),
    /// Print the same as JSON, for tools that read Cedar's JSON schemas
    ToJson(Args),
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The portal; not needed if there is one
    #[arg(long, short)]
    portal: Option<String>,
    #[command(flatten)]
    tree: TreeArgs,
}

pub(crate) fn run(command: &SchemaCommand) -> Exit {
    Exit::print_or_usage(match command {
        SchemaCommand::Show(args) => joined(args),
        SchemaCommand::ToJson(args) => joined(args).and_then(|text| to_json(&text)),
    })
}

fn joined(args: &Args) -> Result<String, String> {
    let workbench = args.tree.open()?;
    let portal = match (&args.portal, workbench.portals.as_slice()) {
        (Some(slug), _) => workbench.named(slug)?,
        (None, [only]) => only,
        (None, all) => {
            let known: Vec<&str> = all.iter().map(|portal| portal.slug.as_str()).collect();
            return Err(format!("name one with --portal: {}", known.join(", ")));
        }
    };
    let names = [
        "schemas/_shared.cedarschema".to_owned(),
        format!("schemas/{}.cedarschema", portal.slug),
    ];
    let mut joined = String::new();
    for name in &names {
        let Some(text) = workbench.source(name) else { continue };
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
