//! The command line: one file per command; each calls the library and prints through `report`.
//!
//! Exit codes: 0 ok or allow, 1 failure, 2 deny (`authorize`, `explain`), 3 validation errors, 4 failed tests, 64 usage
//! or bad configuration. Reports go to stdout, messages to stderr.

mod audit;
mod authorize;
mod bundle;
mod client;
mod completions;
mod config;
mod config_file;
mod control;
mod demo;
mod diff;
mod explain;
mod fmt;
mod init;
mod import;
mod inject;
mod lint;
mod log_level;
mod login;
mod logs;
mod matrix;
mod new_files;
mod offline;
mod openapi_file;
#[cfg(test)]
mod pages_tests;
mod password;
mod probe;
mod replay;
mod report;
mod schema;
mod serve;
mod sessions;
mod shadow;
mod test;
mod token;
mod tree;
mod usage;
mod user;
mod validate;
mod workbench;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

pub(crate) use self::report::{Paint, complain, print};
use crate::app::STACK_BYTES;

/// The outcome of a command, as its exit code tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    Ok,
    Failure,
    Deny,
    Invalid,
    TestsFailed,
    Usage,
}

impl Exit {
    /// The outcome, or usage error 64 after its message was written to stderr.
    fn or_usage(result: Result<Self, String>) -> Self {
        result.unwrap_or_else(|message| {
            complain(&message);
            Self::Usage
        })
    }

    /// Prints the text and ends well, or complains and ends with usage error 64.
    fn print_or_usage(result: Result<String, String>) -> Self {
        Self::or_usage(result.map(|text| {
            print(&text);
            Self::Ok
        }))
    }
}

/// An authorization sidecar: validates tokens, asks Cedar policies, forwards only what is permitted.
#[derive(Parser)]
#[command(name = "cedargate", version, about, max_term_width = 100)]
#[command(
    after_help = "Start with `cedargate demo`, or with `cedargate init`. Exit codes: 0 ok/allow, 1 failure, 2 deny, 3 invalid policies or lint errors, \
                        4 failed tests, flips or a widened diff, 64 usage or bad configuration."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the sidecar
    Serve(serve::Args),
    /// Run two example portals, a demo app and a token issuer in one process; prints three curls and a login
    Demo(demo::Args),
    /// Make a tree that validates, whose tests pass, and that `serve` runs: configuration, schemas, policies, tests
    Init(init::InitArgs),
    /// Add a portal to a tree
    #[command(subcommand)]
    New(init::NewCommand),
    /// Check configuration and every portal: parse, strict validation, entities, decision tests
    Validate(validate::Args),
    /// Find mistakes that load and validate: misspelt roles, tenants that nothing compares, tests that are missing
    Lint(lint::Args),
    /// Format every policy file
    Fmt(fmt::Args),
    /// Show what each role may do: roles × actions × resource types, with the conditions
    Matrix(matrix::Args),
    /// Run the portals' decision tests
    Test(test::Args),
    /// Look at a policy tree in the browser: what each role may do, why a request is denied, what an edit changes
    Workbench(workbench::Args),
    /// Make one decision offline, from a request JSON or a token and a request line
    Authorize(authorize::Args),
    /// Pack policies into signed bundles that gates fetch, and check them
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Make one decision offline and say why: what each policy wanted, and what it found
    Explain(explain::Args),
    /// Decide recorded decisions again by a policy tree: which would be newly allowed, which newly denied
    Replay(replay::Args),
    /// What the log shows was never used: permits, roles, decision tests
    Usage(usage::Args),
    /// Disagreements of enforced and candidate sets on live traffic
    #[command(subcommand)]
    Shadow(shadow::ShadowCommand),
    /// Compare two policy trees: what changed, which decisions change, and a proof that nothing is newly allowed
    Diff(diff::Args),
    /// Show a portal's joined schema
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// Add the sidecar to Kubernetes manifests, or take it out again; comments and layout stay
    Inject(Box<inject::Args>),
    /// Mint demo tokens, look into tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Get a token for curl and scripts from the provider: the device flow, with a browser anywhere
    Login(Box<login::Args>),
    /// Add, change, remove and show accounts of a users file
    #[command(subcommand)]
    User(user::UserCommand),
    /// Show the configuration's JSON Schema or the effective configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Ask a running gate whether it lives (or, with --ready, is ready); for containers without a shell
    Healthcheck(probe::HealthArgs),
    /// Show what a running gate serves
    Status(probe::StatusArgs),
    /// Make a running gate leave as SIGTERM does; with --wait, return when it is gone
    Drain(control::DrainArgs),
    /// Make a running gate look at its policy files now, and tell how each portal took them
    Reload(control::ReloadArgs),
    /// Check the hash chain of the decision log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Show or change a running gate's log level; a change ends by itself
    LogLevel(log_level::Args),
    /// List a running gate's sessions, or end some
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Print the man page, or write a page for each command
    Man(completions::ManArgs),
}

/// Parses the arguments, runs the command, gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut error) => {
            let is_help = !error.use_stderr();
            suggest_format(&mut error, &mut std::env::args().skip(1));
            // clap's own text; a closed stdout or stderr cannot be reported
            let _closed = error.print().is_err();
            return if is_help { Exit::Ok.into() } else { Exit::Usage.into() };
        }
    };
    // policies are read recursively; see `app::STACK_BYTES`
    let command = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || run(cli.command));
    match command.map(std::thread::JoinHandle::join) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(_panic)) => Exit::Failure.into(),
        Err(error) => {
            complain(&format!("cannot start a thread: {error}"));
            Exit::Failure.into()
        }
    }
}

/// `--json` is an error: the formats of reports are values of `--format`. The error says so, if the command has that
/// format.
fn suggest_format(error: &mut clap::Error, arguments: &mut dyn Iterator<Item = String>) {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(named)) => named.strip_prefix("--").map(str::to_owned),
        _ => None,
    };
    let Some(format) = named else { return };
    let all = Cli::command();
    let mut command = &all;
    while let Some(inner) = arguments.next().and_then(|name| command.find_subcommand(name)) {
        command = inner;
    }
    let argument = command.get_arguments().find(|argument| argument.get_long() == Some("format"));
    let formats = argument.map(|argument| argument.get_possible_values()).unwrap_or_default();
    if formats.iter().any(|known| known.get_name() == format) {
        let tip = format!("write `--format {format}`");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
}

fn run(command: Command) -> Exit {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Init(args) => init::init(&args),
        Command::New(command) => init::new(&command),
        Command::Validate(args) => validate::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Fmt(args) => fmt::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Workbench(args) => workbench::run(&args),
        Command::Authorize(args) => authorize::run(&args),
        Command::Bundle(command) => bundle::run(&command),
        Command::Explain(args) => explain::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Usage(args) => usage::run(&args),
        Command::Shadow(command) => shadow::run(&command),
        Command::Diff(args) => diff::run(&args),
        Command::Schema(command) => schema::run(&command),
        Command::Inject(args) => inject::run(&args),
        Command::Token(command) => token::run(&command),
        Command::Login(args) => login::run(&args),
        Command::User(command) => user::run(&command),
        Command::Config(command) => config::run(&command),
        Command::Healthcheck(args) => probe::healthcheck(&args),
        Command::Status(args) => probe::status(&args),
        Command::Drain(args) => control::drain(&args),
        Command::Reload(args) => control::reload(&args),
        Command::Audit(command) => audit::run(&command),
        Command::LogLevel(args) => log_level::run(&args),
        Command::Sessions(command) => sessions::run(&command),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Deny => 2,
            Exit::Invalid => 3,
            Exit::TestsFailed => 4,
            Exit::Usage => 64,
        })
    }
}
