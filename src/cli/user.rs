//! `cedargate user`: accounts of a users file. A password is typed or piped, never an argument.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{Exit, complain, print};
use crate::accounts::{self, Hash, NewUser, PASSWORD_BYTES_MAX, UserState, Users, UsersEditor, check_name};
use crate::config::{self, ProviderKind};

/// Shorter ones are guessed, however dear a guess is.
const PASSWORD_CHARS_MIN: usize = 8;

#[derive(clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Add an account; asks for its password
    Add(AddArgs),
    /// Set a new password; sessions of the account end where the file is served
    Passwd(PasswdArgs),
    /// Remove an account; its sessions end where the file is served
    Remove(RemoveArgs),
    /// Show who is in the file
    List(Place),
}

#[derive(clap::Args)]
pub(crate) struct Place {
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
    place: Place,
    #[arg(long)]
    tenant: Option<String>,
    /// May be given several times
    #[arg(long)]
    role: Vec<String>,
    /// A portal that the account may use; may be given several times. Default: all that trust the provider
    #[arg(long)]
    portal: Vec<String>,
    /// What people call the user
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
    place: Place,
    /// Read the password from stdin, one line, instead of asking
    #[arg(long)]
    password_stdin: bool,
}

#[derive(clap::Args)]
pub(crate) struct RemoveArgs {
    name: String,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(command: &UserCommand) -> Exit {
    let outcome = match command {
        UserCommand::Add(args) => added(args),
        UserCommand::Passwd(args) => changed(args),
        UserCommand::Remove(args) => removed(args),
        UserCommand::List(place) => listed(place),
    };
    match outcome {
        Ok(text) => {
            print(&text);
            Exit::Ok
        }
        Err(message) => {
            complain(&message);
            Exit::Usage
        }
    }
}

fn added(args: &AddArgs) -> Result<String, String> {
    let path = args.place.path()?;
    check_name(&args.name)?;
    if let Some(several) = args.role.iter().find(|role| role.contains(',')) {
        return Err(format!("`{several}` is no role: a list is `--role` once for each"));
    }
    // refused before anybody types a password
    if UsersEditor::open(&path).map_err(|e| e.to_string())?.has(&args.name) {
        return Err(format!(
            "`{}` exists already; `cedargate user passwd` sets a new password",
            args.name
        ));
    }
    let spec = NewUser {
        name: args.name.clone(),
        password: Hash::new(&password(Source::of(args.password_stdin))?)?,
        tenant: args.tenant.clone(),
        roles: args.role.clone(),
        portals: args.portal.clone(),
        full_name: args.full_name.clone(),
        email: args.email.clone(),
    };
    let users = UsersEditor::open(&path).map_err(|e| e.to_string())?;
    users.add(&spec).map_err(|e| e.to_string())?;
    Ok(format!("added `{}` to {}\n", args.name, path.display()))
}

fn changed(args: &PasswdArgs) -> Result<String, String> {
    let path = args.place.path()?;
    existing(&path)?;
    let is_known = UsersEditor::open(&path).map_err(|e| e.to_string())?.has(&args.name);
    if !is_known {
        return Err(format!(
            "there is no `{}`; `cedargate user add` adds an account",
            args.name.escape_debug()
        ));
    }
    let hash = Hash::new(&password(Source::of(args.password_stdin))?)?;
    let users = UsersEditor::open(&path).map_err(|e| e.to_string())?;
    users.set_password(&args.name, &hash).map_err(|e| e.to_string())?;
    Ok(format!("`{}` has a new password in {}\n", args.name, path.display()))
}

fn removed(args: &RemoveArgs) -> Result<String, String> {
    let path = args.place.path()?;
    existing(&path)?;
    let users = UsersEditor::open(&path).map_err(|e| e.to_string())?;
    users.remove(&args.name).map_err(|e| e.to_string())?;
    Ok(format!("removed `{}` from {}\n", args.name, path.display()))
}

fn listed(place: &Place) -> Result<String, String> {
    let path = place.path()?;
    let text = accounts::read(&path).map_err(|e| e.to_string())?;
    let users = Users::parse(&text, &path.display().to_string()).map_err(|e| e.to_string())?;
    let mut lines = String::new();
    for (name, user) in users.iter() {
        let claim = |key: &str| user.account.claims.get(key);
        let tenant = claim("tenant").and_then(serde_json::Value::as_str).unwrap_or("-");
        let roles = claim("roles").and_then(serde_json::Value::as_array);
        let roles: Vec<&str> = roles.into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
        let portals = user
            .account
            .portals
            .as_ref()
            .map_or("all".to_owned(), |portals| portals.join(","));
        let state = match user.state {
            UserState::Enabled => "",
            UserState::Disabled => "  disabled",
        };
        lines.push_str(&format!(
            "{name}  tenant={tenant}  roles={}  portals={portals}{state}\n",
            roles.join(",")
        ));
    }
    Ok(lines)
}

fn existing(path: &std::path::Path) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    Err(format!(
        "there is no users file `{}`; `cedargate user add` makes one",
        path.display()
    ))
}

impl Place {
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

/// Where a password comes from.
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

fn password(source: Source) -> Result<String, String> {
    let password = match source {
        Source::Stdin => piped()?,
        Source::Terminal => {
            let no_terminal =
                |_error| "there is no terminal to ask for a password on; pipe it in with --password-stdin".to_owned();
            let mut terminal = Terminal::open().map_err(no_terminal)?;
            let first = terminal.ask("Password: ")?;
            check(&first)?;
            if terminal.ask("The same again: ")? != first {
                return Err("the two passwords differ; nothing was changed".to_owned());
            }
            first
        }
    };
    check(&password)?;
    Ok(password)
}

fn check(password: &str) -> Result<(), String> {
    if password.chars().count() < PASSWORD_CHARS_MIN || password.trim().is_empty() {
        return Err(format!("a password has at least {PASSWORD_CHARS_MIN} characters"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("a password has at most {PASSWORD_BYTES_MAX} bytes"));
    }
    if password.chars().any(char::is_control) {
        return Err("a password is one line without control characters: no form could send another".to_owned());
    }
    Ok(())
}

fn piped() -> Result<String, String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err("stdin is the terminal, which would show the password; leave --password-stdin out".to_owned());
    }
    let mut text = String::new();
    let most = u64::try_from(PASSWORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(3);
    stdin
        .lock()
        .take(most)
        .read_to_string(&mut text)
        .map_err(|error| format!("the password cannot be read from stdin: {error}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// The terminal with its echo off; dropping it puts everything back.
struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    fn open() -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&file)?;
        let mut quiet = before.clone();
        // signals, too: ctrl-C must not leave the echo off
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
                    // a character may be several bytes
                    while typed.pop().is_some_and(|last| last & 0b1100_0000 == 0b1000_0000) {}
                }
                // ctrl-U
                [21] => typed.clear(),
                [other] if typed.len() <= PASSWORD_BYTES_MAX => typed.push(other),
                _ => {}
            }
        }
        self.file.write_all(b"\n").map_err(failed)?;
        String::from_utf8(typed).map_err(|_error| "the password is no UTF-8".to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // there is nothing to be done about a terminal that is gone
        let _gone = tcsetattr(&self.file, OptionalActions::Flush, &self.before).is_err();
    }
}
