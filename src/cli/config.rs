//! `cedargate config`: prints the configuration's JSON Schema, the effective configuration, or the built-in header lists; imports
//! another program's configuration.

use std::path::Path;

use serde_json::json;

use super::config_file::ConfigFile;
use super::import::{self, ImportCommand};
use super::init::{PORTAL_SCHEMA, TESTS_SCHEMA};
use super::report::{Format, json};
use super::{Exit, complain, print};
use crate::config::strip_headers::{ALWAYS, DEFAULT};
use crate::config::{self, PrintFormat};

#[derive(clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// The JSON Schema of cedargate.yaml, of portal.yaml or of decision tests, for editors and CI
    Schema {
        /// The file that it describes
        #[arg(long, value_enum, default_value = "config")]
        of: Described,
    },
    /// The request headers that are removed by default, and why; `upstream.strip_headers` names them `default`
    Headers {
        /// Format of the output
        #[arg(long, value_parser = Format::among(&[Format::Human, Format::Json]), default_value = "human")]
        format: Format,
    },
    /// Make a configuration, policies and tests of another program's configuration
    #[command(subcommand)]
    Import(ImportCommand),
    /// The effective configuration, secrets redacted, each value with where it came from
    Print {
        #[command(flatten)]
        config: ConfigFile,
        /// Format of the output
        #[arg(long, value_parser = Format::among(&[Format::Human, Format::Json]), default_value = "human")]
        format: Format,
    },
}

/// A kind of file that has a published schema.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Described {
    /// cedargate.yaml
    Config,
    /// policies/<portal>/portal.yaml
    Portal,
    /// policies/<portal>/tests/*.yaml
    Tests,
}

pub(crate) fn run(command: &ConfigCommand) -> Exit {
    match command {
        ConfigCommand::Schema { of } => {
            print(&match of {
                Described::Config => json::text(&config::json_schema()),
                Described::Portal => PORTAL_SCHEMA.to_owned(),
                Described::Tests => TESTS_SCHEMA.to_owned(),
            });
            Exit::Ok
        }
        ConfigCommand::Import(command) => import::run(command),
        ConfigCommand::Headers { format } => {
            print(&headers(*format));
            Exit::Ok
        }
        ConfigCommand::Print { config, format } => print_config(&config.required(), *format),
    }
}

/// The built-in lists of headers.
fn headers(format: Format) -> String {
    let groups = || std::iter::once(&ALWAYS).chain(DEFAULT);
    if format == Format::Json {
        let shown = groups().map(|group| json!({"why": group.why, "names": group.names, "always": group.why == ALWAYS.why}));
        return json::text(&shown.collect());
    }
    let shown = groups().map(|group| format!("# {}\n{}\n", group.why, group.names.join("\n")));
    shown.collect::<Vec<String>>().join("\n")
}

fn print_config(path: &Path, format: Format) -> Exit {
    match (config::load(path, config::process_environment()), format) {
        (Ok(loaded), format) => {
            let format = match format {
                Format::Json => PrintFormat::Json,
                _ => PrintFormat::Human,
            };
            print(&config::print(&loaded, format));
            Exit::Ok
        }
        (Err(errors), Format::Json) => {
            print(&json::text(&errors.to_json()));
            Exit::Usage
        }
        (Err(errors), _) => {
            complain(&errors.to_string());
            Exit::Usage
        }
    }
}
