//! `cedargate completions` and `cedargate man`: made from the commands' own description.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit, print};

#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this folder, instead of the main page to stdout
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cedargate", &mut text);
    print(&String::from_utf8_lossy(&text));
    Exit::Ok
}

pub(crate) fn man(args: &ManArgs) -> Exit {
    let Some(dir) = &args.dir else {
        let mut text = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
        return Exit::print_or_usage(match rendered {
            Ok(()) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(error) => Err(error.to_string()),
        });
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    Exit::print_or_usage(
        written
            .map(|()| String::new())
            .map_err(|e| format!("`{}`: {e}", dir.display())),
    )
}
