//! `cedargate user`: edits the accounts of a users file.
//!
//! SECURITY: a password is typed at the terminal or piped in, never an argument: arguments show in process lists and in the
//! shell's history.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Exit;
use super::report::{Table, text};
use crate::config::{self, ProviderKind};
use crate::login::accounts::{self, Hash, PASSWORD_BYTES_MAX, State, UserSpec, Users, UsersText, check_name};

/// A shorter password can be guessed in spite of a slow hash.
const PASSWORD_CHARS_MIN: usize = 8;

#[derive(clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Add an account; asks for its password
    Add(AddArgs),
    /// Set a new password; sessions of the account end where the file is served
    Passwd(PasswdArgs),
    /// Remove an account; its sessions end where the file is served
    Remove(RemoveArgs),
    /// List the accounts
    List(UsersFileArgs),
}

#[derive(clap::Args)]
pub(crate) struct UsersFileArgs {
    /// The users file; default: that of the configuration's only provider with one
    #[arg(long)]
    file: Option<PathBuf>,
    /// The configuration file, read only without --file
    #[arg(long, env = "CEDARGATE_CONFIG", default_value = "cedargate.yaml")]
    config: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct AddArgs {
    /// a-z, 0-9, `.`, `_`, `@`, `-`
    name: String,
    #[command(flatten)]
    users_file: UsersFileArgs,
    #[arg(long)]
    tenant: Option<String>,
    /// May be given several times
    #[arg(long)]
    role: Vec<String>,
    /// A portal that the account may use; may be given several times. Default: all that trust the provider
    #[arg(long)]
    portal: Vec<String>,
    /// The user's full name
    #[arg(long = "name", value_name = "NAME")]
    full_name: Option<String>,
    #[arg(long)]
    email: Option<String>,
    /// Read the password from stdin, one line, instead of asking
    #[arg(long)]
    password_stdin: bool,
}

#[derive(clap::Args)]
pub(crate) struct PasswdArgs {
    name: String,
    #[command(flatten)]
    users_file: UsersFileArgs,
    /// Read the password from stdin, one line, instead of asking
    #[arg(long)]
    password_stdin: bool,
}

#[derive(clap::Args)]
pub(crate) struct RemoveArgs {
    name: String,
    #[command(flatten)]
    users_file: UsersFileArgs,
}

/// Labels of the listing's columns.
const COLUMNS: &[&str] = &["", "tenant=", "roles=", "portals=", ""];

pub(crate) fn run(command: &UserCommand) -> Exit {
    Exit::print_or_usage(match command {
        UserCommand::Add(args) => add(args),
        UserCommand::Passwd(args) => set_password(args),
        UserCommand::Remove(args) => remove(args),
        UserCommand::List(users_file) => list(users_file),
    })
}

fn add(args: &AddArgs) -> Result<String, String> {
    let path = args.users_file.path()?;
    check_name(&args.name)?;
    if let Some(list) = args.role.iter().find(|role| role.contains(',')) {
        return Err(format!(
            "`{list}` is not a role; for several roles give `--role` once for each"
        ));
    }
    // before the user types a password
    if UsersText::open(&path).map_err(|e| e.to_string())?.has(&args.name) {
        return Err(format!(
            "`{}` is there already; `cedargate user passwd` sets a new password",
            args.name
        ));
    }
    let spec = UserSpec {
        name: args.name.clone(),
        password: Hash::of(&read_password(Source::of(args.password_stdin))?)?,
        tenant: args.tenant.clone(),
        roles: args.role.clone(),
        portals: args.portal.clone(),
        full_name: args.full_name.clone(),
        email: args.email.clone(),
    };
    let users = UsersText::open(&path).map_err(|e| e.to_string())?;
    users.add(&spec).map_err(|e| e.to_string())?;
    Ok(format!("added `{}` to {}\n", args.name, path.display()))
}

fn set_password(args: &PasswdArgs) -> Result<String, String> {
    let path = args.users_file.path()?;
    check_exists(&path)?;
    let is_known = UsersText::open(&path).map_err(|e| e.to_string())?.has(&args.name);
    if !is_known {
        return Err(format!(
            "there is no `{}`; `cedargate user add` adds an account",
            args.name.escape_debug()
        ));
    }
    let hash = Hash::of(&read_password(Source::of(args.password_stdin))?)?;
    let users = UsersText::open(&path).map_err(|e| e.to_string())?;
    users.set_password(&args.name, &hash).map_err(|e| e.to_string())?;
    Ok(format!("`{}` has a new password in {}\n", args.name, path.display()))
}

fn remove(args: &RemoveArgs) -> Result<String, String> {
    let path = args.users_file.path()?;
    check_exists(&path)?;
    let users = UsersText::open(&path).map_err(|e| e.to_string())?;
    users.remove(&args.name).map_err(|e| e.to_string())?;
    Ok(format!("removed `{}` from {}\n", args.name, path.display()))
}

fn list(users_file: &UsersFileArgs) -> Result<String, String> {
    let path = users_file.path()?;
    let content = accounts::read(&path).map_err(|e| e.to_string())?;
    let users = Users::parse(&content, &path.display().to_string()).map_err(|e| e.to_string())?;
    let mut rows = Vec::new();
    for (name, user) in users.iter() {
        let claim = |key: &str| user.account.claims.get(key);
        let tenant = claim("tenant").and_then(serde_json::Value::as_str).unwrap_or("-");
        let roles = claim("roles").and_then(serde_json::Value::as_array);
        let roles: Vec<&str> = roles.into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
        let portals = user.account.portals.as_ref();
        let state = match user.state {
            State::Enabled => "",
            State::Disabled => "disabled",
        };
        rows.push(vec![
            name.to_owned(),
            tenant.to_owned(),
            roles.join(","),
            portals.map_or("all".to_owned(), |portals| portals.join(",")),
            state.to_owned(),
        ]);
    }
    Ok(text::table(&Table { columns: COLUMNS, rows }))
}

fn check_exists(path: &std::path::Path) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    Err(format!(
        "there is no users file `{}`; `cedargate user add` makes one",
        path.display()
    ))
}

impl UsersFileArgs {
    fn path(&self) -> Result<PathBuf, String> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let shown = self.config.display();
        let loaded = config::load(&self.config, config::process_environment())
            .map_err(|errors| format!("{errors}\nname the users file with --file, or the configuration with --config"))?;
        let local = loaded
            .config
            .login
            .providers
            .iter()
            .filter_map(|provider| match &provider.kind {
                ProviderKind::Local(path) => Some((&provider.name, path)),
                ProviderKind::Oidc { .. } => None,
            });
        match local.collect::<Vec<_>>().as_slice() {
            [(_, path)] => Ok((*path).clone()),
            [] => Err(format!(
                "`{shown}` has no provider with a `users_file`; name the file with --file"
            )),
            several => {
                let names: Vec<&str> = several.iter().map(|(name, _)| &***name).collect();
                Err(format!(
                    "`{shown}` has several users files ({}); name one with --file",
                    names.join(", ")
                ))
            }
        }
    }
}

/// The source of a password.
#[derive(Clone, Copy)]
enum Source {
    Terminal,
    Stdin,
}

impl Source {
    fn of(stdin: bool) -> Self {
        if stdin { Self::Stdin } else { Self::Terminal }
    }
}

fn read_password(source: Source) -> Result<String, String> {
    let password = match source {
        Source::Stdin => read_stdin()?,
        Source::Terminal => {
            let no_terminal =
                |_error| "there is no terminal to ask for a password on; pipe it in with --password-stdin".to_owned();
            let mut terminal = Terminal::open().map_err(no_terminal)?;
            let first = terminal.ask("Password: ")?;
            check_password(&first)?;
            if terminal.ask("The same again: ")? != first {
                return Err("the two passwords differ; nothing was changed".to_owned());
            }
            first
        }
    };
    check_password(&password)?;
    Ok(password)
}

fn check_password(password: &str) -> Result<(), String> {
    if password.chars().count() < PASSWORD_CHARS_MIN || password.trim().is_empty() {
        return Err(format!("a password has at least {PASSWORD_CHARS_MIN} characters"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("a password has at most {PASSWORD_BYTES_MAX} bytes"));
    }
    if password.chars().any(char::is_control) {
        return Err("a password is one line without control characters: a login form can send no other".to_owned());
    }
    Ok(())
}

fn read_stdin() -> Result<String, String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err("stdin is the terminal, which would show the password; run without --password-stdin".to_owned());
    }
    let mut text = String::new();
    // room for a line end, and for one byte that shows that the password is too long
    let bytes_max = u64::try_from(PASSWORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(3);
    stdin
        .lock()
        .take(bytes_max)
        .read_to_string(&mut text)
        .map_err(|error| format!("the password cannot be read from stdin: {error}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// The terminal with its echo off; dropping it restores the settings from before.
struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    fn open() -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&file)?;
        let mut quiet = before.clone();
        // signals are off as well: a process that ctrl-C ends could not turn the echo on again
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&file, OptionalActions::Flush, &quiet)?;
        Ok(Self { file, before })
    }

    fn ask(&mut self, prompt: &str) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("the terminal cannot be read: {error}");
        self.file.write_all(prompt.as_bytes()).map_err(failed)?;
        let mut typed: Vec<u8> = Vec::new();
        let mut byte = [0];
        loop {
            let count = self.file.read(&mut byte).map_err(failed)?;
            match byte {
                _ if count == 0 => return Err("the terminal is gone; nothing was changed".to_owned()),
                [b'\r' | b'\n'] => break,
                // ctrl-C, ctrl-D, ctrl-\
                [3 | 4 | 28] => {
                    drop(self.file.write_all(b"\n"));
                    return Err("nothing was changed".to_owned());
                }
                [8 | 127] => {
                    // backspace takes a whole character, which may be several bytes
                    while typed.pop().is_some_and(|last| last & 0b1100_0000 == 0b1000_0000) {}
                }
                // ctrl-U
                [21] => typed.clear(),
                [other] if typed.len() <= PASSWORD_BYTES_MAX => typed.push(other),
                _ => {}
            }
        }
        self.file.write_all(b"\n").map_err(failed)?;
        String::from_utf8(typed).map_err(|_error| "the password is not valid UTF-8".to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // fails only if the terminal is gone
        let _gone = tcsetattr(&self.file, OptionalActions::Flush, &self.before).is_err();
    }
}
