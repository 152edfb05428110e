//! `cedargate user`: edits the accounts of a users file.

use std::path::{Path, PathBuf};

use super::Exit;
use super::config_file::ConfigFile;
use super::password::{PasswordArgs, read_password};
use super::report::{Listing, text};
use crate::accounts::{self, Hash, NewUser, TotpSecret, UserState, Users, UsersEditor, check_name};
use crate::base::clock::unix_seconds;
use crate::config::{self, ProviderKind};

#[derive(clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Add an account; asks for its password
    Add(AddArgs),
    /// Set a new password; sessions of the account end where the file is served
    Passwd(PasswdArgs),
    /// Give an account a new second factor, or take it away; sessions of the account end where the file is served
    Totp(TotpArgs),
    /// Remove an account; its sessions end where the file is served
    Remove(RemoveArgs),
    /// Print the account's one-time code of now, as its authenticator app shows it
    Code(CodeArgs),
    /// List the accounts
    List(UsersFileArgs),
}

#[derive(clap::Args)]
pub(crate) struct UsersFileArgs {
    /// The users file; default: that of the configuration's only provider with one
    #[arg(long)]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
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
    /// Give the account a second factor; prints the address for an authenticator app
    #[arg(long)]
    totp: bool,
    #[command(flatten)]
    password: PasswordArgs,
}

#[derive(clap::Args)]
pub(crate) struct CodeArgs {
    name: String,
    #[command(flatten)]
    users_file: UsersFileArgs,
}

#[derive(clap::Args)]
pub(crate) struct PasswdArgs {
    name: String,
    #[command(flatten)]
    users_file: UsersFileArgs,
    #[command(flatten)]
    password: PasswordArgs,
}

#[derive(clap::Args)]
pub(crate) struct TotpArgs {
    name: String,
    #[command(flatten)]
    users_file: UsersFileArgs,
    /// Take the second factor away: the password alone logs in
    #[arg(long)]
    remove: bool,
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
        UserCommand::Totp(args) => set_totp(args),
        UserCommand::Remove(args) => remove(args),
        UserCommand::Code(args) => code(args),
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
    if UsersEditor::open(&path).map_err(|e| e.to_string())?.has(&args.name) {
        return Err(format!(
            "`{}` is there already; `cedargate user passwd` sets a new password",
            args.name
        ));
    }
    let spec = NewUser {
        name: args.name.clone(),
        password: Hash::new(&read_password(args.password.source())?)?,
        totp: args.totp.then(TotpSecret::generate).transpose()?,
        tenant: args.tenant.clone(),
        roles: args.role.clone(),
        portals: args.portal.clone(),
        full_name: args.full_name.clone(),
        email: args.email.clone(),
    };
    let users = UsersEditor::open(&path).map_err(|e| e.to_string())?;
    users.add(&spec).map_err(|e| e.to_string())?;
    let added = format!("added `{}` to {}\n", args.name, path.display());
    let address = spec
        .totp
        .map(|secret| format!("{}\n", secret.address(&args.name, "cedargate")));
    Ok(added + &address.unwrap_or_default())
}

fn set_password(args: &PasswdArgs) -> Result<String, String> {
    let path = args.users_file.path()?;
    check_exists(&path)?;
    let is_known = UsersEditor::open(&path).map_err(|e| e.to_string())?.has(&args.name);
    if !is_known {
        return Err(format!(
            "there is no `{}`; `cedargate user add` adds an account",
            args.name.escape_debug()
        ));
    }
    let hash = Hash::new(&read_password(args.password.source())?)?;
    let users = UsersEditor::open(&path).map_err(|e| e.to_string())?;
    users.set_password(&args.name, &hash).map_err(|e| e.to_string())?;
    Ok(format!("`{}` has a new password in {}\n", args.name, path.display()))
}

fn set_totp(args: &TotpArgs) -> Result<String, String> {
    let path = args.users_file.path()?;
    check_exists(&path)?;
    let secret = (!args.remove).then(TotpSecret::generate).transpose()?;
    let users = UsersEditor::open(&path).map_err(|e| e.to_string())?;
    users.set_totp(&args.name, secret.as_ref()).map_err(|e| e.to_string())?;
    let name = &args.name;
    let file = path.display();
    Ok(match secret {
        Some(secret) => format!(
            "`{name}` has a new second factor in {file}\n{}\n",
            secret.address(name, "cedargate")
        ),
        None => format!("`{name}` has no second factor in {file} any more\n"),
    })
}

fn remove(args: &RemoveArgs) -> Result<String, String> {
    let path = args.users_file.path()?;
    check_exists(&path)?;
    let users = UsersEditor::open(&path).map_err(|e| e.to_string())?;
    users.remove(&args.name).map_err(|e| e.to_string())?;
    Ok(format!("removed `{}` from {}\n", args.name, path.display()))
}

fn code(args: &CodeArgs) -> Result<String, String> {
    let path = args.users_file.path()?;
    let content = accounts::read(&path).map_err(|e| e.to_string())?;
    let users = Users::parse(&content, &path.display().to_string()).map_err(|e| e.to_string())?;
    let secret = users.find(&args.name).and_then(|user| user.totp.as_ref());
    let secret = secret.ok_or_else(|| format!("`{}` has no second factor in {}", args.name.escape_debug(), path.display()))?;
    Ok(format!("{}\n", secret.code(unix_seconds())))
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
            UserState::Enabled => "",
            UserState::Disabled => "disabled",
        };
        rows.push(vec![
            name.to_owned(),
            tenant.to_owned(),
            roles.join(","),
            portals.map_or("all".to_owned(), |portals| portals.join(",")),
            state.to_owned(),
        ]);
    }
    Ok(text::listing(&Listing { labels: COLUMNS, rows }))
}

fn check_exists(path: &Path) -> Result<(), String> {
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
        let path = self.config.required();
        let shown = path.display();
        let loaded = config::load(&path, config::process_environment())
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
