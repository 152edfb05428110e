//! `cedargate config`: prints the configuration's JSON Schema, the effective configuration, or the built-in header
//! lists; imports another program's configuration.

use std::path::Path;

use serde_json::json;

use super::config_file::ConfigFile;
use super::import::{self, ImportCommand};
use super::init::{PORTAL_SCHEMA, TESTS_SCHEMA};
use super::report::{Format, Writers, json};
use super::{Exit, complain, print};
use crate::config::strip_headers::{ALWAYS, DEFAULT, HeaderGroup};
use crate::config::{self, Loaded};

#[derive(clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// The JSON Schema of cedargate.yaml, of portal.yaml or of decision tests, for editors and CI
    Schema {
        /// The file that it describes
        #[arg(long, value_enum, default_value = "config")]
        of: SchemaFile,
    },
    /// The request headers that are removed by default, and why; `upstream.strip_headers` names them `default`
    Headers {
        /// Format of the output
        #[arg(long, value_parser = HEADERS.parser(), default_value = "human")]
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
        #[arg(long, value_parser = EFFECTIVE.parser(), default_value = "human")]
        format: Format,
    },
}

/// A kind of file that has a published schema.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum SchemaFile {
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
                SchemaFile::Config => json::text(&config::json_schema()),
                SchemaFile::Portal => PORTAL_SCHEMA.to_owned(),
                SchemaFile::Tests => TESTS_SCHEMA.to_owned(),
            });
            Exit::Ok
        }
        ConfigCommand::Import(command) => import::run(command),
        ConfigCommand::Headers { format } => Exit::print_or_usage(HEADERS.write(*format, &())),
        ConfigCommand::Print { config, format } => print_config(&config.required(), *format),
    }
}

/// The built-in lists of headers.
const HEADERS: Writers<(), 2> = Writers([
    (Format::Human, |()| {
        let shown = groups().map(|group| format!("# {}\n{}\n", group.why, group.names.join("\n")));
        shown.collect::<Vec<String>>().join("\n")
    }),
    (Format::Json, |()| {
        let shown = groups().map(|group| json!({"why": group.why, "names": group.names, "always": group.why == ALWAYS.why}));
        json::text(&shown.collect())
    }),
]);

const EFFECTIVE: Writers<Loaded, 2> = Writers([
    (Format::Human, config::effective_lines),
    (Format::Json, |loaded| json::text(&config::effective_json(loaded))),
]);

fn groups() -> impl Iterator<Item = &'static HeaderGroup> {
    std::iter::once(&ALWAYS).chain(DEFAULT)
}

fn print_config(path: &Path, format: Format) -> Exit {
    match config::load(path, config::process_environment()) {
        Ok(loaded) => Exit::print_or_usage(EFFECTIVE.write(format, &loaded)),
        Err(errors) if format == Format::Json => {
            print(&json::text(&errors.to_json()));
            Exit::Usage
        }
        Err(errors) => {
            complain(&errors.to_string());
            Exit::Usage
        }
    }
}
