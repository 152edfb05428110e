//! `cedargate config`: the schema of the file, and what a file and the environment come to.

use std::path::PathBuf;

use super::{Exit, complain, print};
use crate::config::{self, PrintFormat};

#[derive(clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// The JSON Schema of cedargate.yaml, for editors and CI
    Schema,
    /// The effective configuration, secrets redacted, each value with where it came from
    Print {
        /// The configuration file
        #[arg(long, short, env = "CEDARGATE_CONFIG", default_value = "cedargate.yaml")]
        config: PathBuf,
        /// How to print
        #[arg(long, value_enum, default_value = "human")]
        format: Format,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
}

pub(crate) fn run(command: &ConfigCommand) -> Exit {
    match command {
        ConfigCommand::Schema => {
            print(&format!("{:#}\n", config::json_schema()));
            Exit::Ok
        }
        ConfigCommand::Print { config: path, format } => match config::load(path, config::process_environment()) {
            Ok(loaded) => {
                let format = match format {
                    Format::Human => PrintFormat::Human,
                    Format::Json => PrintFormat::Json,
                };
                print(&config::print(&loaded, format));
                Exit::Ok
            }
            Err(errors) => {
                match format {
                    Format::Human => complain(&errors.to_string()),
                    Format::Json => print(&format!("{:#}\n", errors.to_json())),
                }
                Exit::Usage
            }
        },
    }
}
