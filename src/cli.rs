//! The command line: one file per command, each calling the library and printing.
//!
//! Exit codes: 0 ok or allow, 1 failure, 2 deny (`authorize`), 3 validation errors, 4 failed tests, 64 usage or bad
//! configuration. Reports go to stdout, everything else to stderr.

mod authorize;
mod config;
mod control;
mod demo;
mod probe;
mod serve;
mod test;
mod token;
mod tree;
mod user;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::STACK_BYTES;

/// What a command ends with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    Ok,
    Failure,
    Deny,
    Invalid,
    TestsFailed,
    Usage,
}

/// An authorization sidecar: validates tokens, asks Cedar policies, forwards only what is permitted.
#[derive(Parser)]
#[command(name = "cedargate", version, about, max_term_width = 100)]
#[command(
    after_help = "Start with `cedargate demo`. Exit codes: 0 ok/allow, 1 failure, 2 deny, 3 invalid policies, \
                        4 failed tests, 64 usage or bad configuration."
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
    /// Check configuration and every portal: parse, strict validation, entities, decision tests
    Validate(validate::Args),
    /// Run the portals' decision tests
    Test(test::Args),
    /// Make one decision offline, from a request JSON or a token and a request line
    Authorize(authorize::Args),
    /// Mint demo tokens, look into tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
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
}

/// Parses the arguments, runs the command, gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let is_help = !error.use_stderr();
            // stdout or stderr may be closed; there is nobody left to tell
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

fn run(command: Command) -> Exit {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Authorize(args) => authorize::run(&args),
        Command::Token(command) => token::run(&command),
        Command::User(command) => user::run(&command),
        Command::Config(command) => config::run(&command),
        Command::Healthcheck(args) => probe::healthcheck(&args),
        Command::Status(args) => probe::status(&args),
        Command::Drain(args) => control::drain(&args),
        Command::Reload(args) => control::reload(&args),
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

/// Writes a report to stdout; a reader that went away (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let _reader_gone = std::io::stdout().lock().write_all(text.as_bytes()).is_err();
}

/// Tells the user, on stderr.
pub(crate) fn complain(text: &str) {
    use std::io::Write;
    let _reader_gone = writeln!(std::io::stderr().lock(), "{text}").is_err();
}

/// Colours where a person reads.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    pub(crate) fn stdout() -> Self {
        use std::io::IsTerminal;
        Self {
            on: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
