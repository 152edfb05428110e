//! `cedargate fmt`: Cedar's own formatter over every policy file.

use cedar_policy_formatter::{Config, policies_str_to_pretty};
use cedargate_policy::load::check_nesting;

use super::tree::TreeArgs;
use super::{Exit, Paint, complain, print};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    tree: TreeArgs,
    /// Write nothing; name the files that are not formatted, and exit with 3 if there are some
    #[arg(long)]
    check: bool,
    /// Characters of a line
    #[arg(long, default_value_t = 120)]
    line_width: usize,
    /// Spaces of one level
    #[arg(long, default_value_t = 4)]
    indent: u8,
}

pub(crate) fn run(args: &Args) -> Exit {
    Exit::or_usage(format_tree(args))
}

fn format_tree(args: &Args) -> Result<Exit, String> {
    let workbench = args.tree.open()?;
    let config = Config {
        line_width: args.line_width,
        indent_width: args.indent.into(),
    };
    let paint = Paint::stdout();
    let mut changed = 0;
    let mut broken = 0;
    let names: Vec<String> = workbench.policy_files().map(str::to_owned).collect();
    for problem in workbench.problems() {
        broken += 1;
        complain(&problem.to_string());
    }
    for name in &names {
        let text = match workbench.text(name) {
            Ok(text) => text,
            Err(problem) => {
                broken += 1;
                complain(&problem.to_string());
                continue;
            }
        };
        if let Err(problem) = check_nesting(name, &text) {
            broken += 1;
            complain(&problem.to_string());
            continue;
        }
        let formatted = match policies_str_to_pretty(&text, &config) {
            // the formatter puts an empty line before a file of comments
            Ok(formatted) => formatted.trim_start().to_owned(),
            Err(error) => {
                broken += 1;
                complain(&format!("{name}: {error:#}; `cedargate validate` says where"));
                continue;
            }
        };
        if formatted == text || text.trim().is_empty() {
            continue;
        }
        let said = if args.check {
            paint.red("not formatted")
        } else {
            workbench.rewrite(name, &formatted)?;
            paint.green("formatted")
        };
        changed += 1;
        print(&format!("{said} {name}\n"));
    }
    let is_clean = broken == 0 && (changed == 0 || !args.check);
    Ok(if is_clean { Exit::Ok } else { Exit::Invalid })
}
