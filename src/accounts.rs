//! Local accounts: a users file with argon2id hashes, for small installations and the demo.
//!
//! `doors::login` checks a submitted name and password here. Each provider's file is read at start and again when its
//! content changes; a bad or vanished file leaves the last good one in force. A check of an unknown name costs as much
//! time as one of a wrong password, and the rate limits count it before any hash is computed. When a file changes or
//! removes an account, the sessions that the account began before that end.

mod edit;
mod hash;
mod totp;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use cedargate_policy::types::Redacted;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub use self::edit::{NewUser, UsersEditor};
use self::hash::{Busy, PasswordChecker};
pub use self::hash::{Hash, PASSWORD_BYTES_MAX};
pub use self::totp::TotpSecret;
pub use self::users::{NAME_CHARS_MAX, UserState, Users, UsersError, check_name, read};
use crate::audit::{AdminAct, AdminEvent, Audit, AuthAct, AuthFact, AuthSubject, Event};
use crate::base::clock::unix_seconds;
use crate::base::metrics::Metrics;
use crate::config::{self, ProviderKind};
use crate::limits::{CountScope, LocalAccount, LoginLimits, SharedRate};
use crate::session::{Revocation, Sessions};

/// Interval at which rate counts that no longer limit anything are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The reason why the local accounts are not available.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    #[error("login.providers.{provider}: users_file: {source}")]
    UsersFile { provider: String, source: UsersError },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The reason why a name and password were not accepted. The texts are for the log only.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CheckError {
    /// Unknown name, wrong password or disabled account: the user gets the same answer for each.
    #[error("{0}")]
    Credentials(&'static str),
    /// Too many tries of this address or account, or too many passwords are being checked.
    #[error("{detail}")]
    RateLimited {
        detail: String,
        /// Key of the limit, if it has one.
        limit: Option<&'static str>,
    },
}

/// Every provider with a users file.
pub struct Accounts {
    files: Vec<UsersFile>,
    /// `None` without a local provider.
    checker: Option<PasswordChecker>,
    limits: LoginLimits,
    poll: Duration,
    sessions: Arc<Sessions>,
    audit: Audit,
    metrics: Metrics,
}

/// One provider's users file: the accounts in force, and the content that was read last.
struct UsersFile {
    provider: Arc<str>,
    /// Name of the issuer whose users the accounts are.
    issuer: Arc<str>,
    path: PathBuf,
    users: ArcSwap<Users>,
    /// Text or error of the last read, so that unchanged content is not parsed again. Written by `run` alone.
    last_read: ArcSwapOption<Result<String, UsersError>>,
    /// The step of the last code that each account used. Holds names of accounts alone, so it is as large as the file
    /// at most.
    used_codes: Mutex<BTreeMap<String, i64>>,
}

/// A change of a users file that ends the sessions of one account.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct ChangedAccount {
    provider: Arc<str>,
    issuer: Arc<str>,
    name: String,
}

/// The account that a password proves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    pub name: String,
    /// The claims of the session: `sub`, `tenant`, `roles`, `name`, `email` and the entries of `claims` in the file.
    pub claims: Arc<Map<String, Value>>,
    /// Portals that the account may use; `None`: every portal that trusts the provider.
    pub portals: Option<Vec<String>>,
}

impl Account {
    pub fn may_use(&self, portal: &str) -> bool {
        self.portals
            .as_ref()
            .is_none_or(|portals| portals.iter().any(|one| one == portal))
    }
}

impl Accounts {
    /// The rates that all replicas count together.
    pub fn shared_rates(&self) -> Vec<Arc<SharedRate>> {
        self.limits.shared()
    }

    /// Reads every users file and starts the password threads. Fails if one file cannot be read or parsed: no account
    /// of a half-read file is accepted or refused.
    pub fn new(
        config: &config::Config,
        sessions: &Arc<Sessions>,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, AccountsError> {
        let mut files = Vec::new();
        for provider in &config.login.providers {
            if let (ProviderKind::Local(path), Some(issuer)) = (&provider.kind, config.issuers.get(provider.issuer)) {
                let file = UsersFile::open(&provider.name, &issuer.scope.name, path);
                files.push(file.map_err(|source| AccountsError::UsersFile {
                    provider: provider.name.to_string(),
                    source,
                })?);
            }
        }
        let checker = if files.is_empty() {
            None
        } else {
            Some(PasswordChecker::start()?)
        };
        Ok(Arc::new(Self {
            files,
            checker,
            limits: LoginLimits::new(config.limits.rate_login.rate(), CountScope::of(&config.sessions.store)),
            poll: config.policies.poll.get(),
            sessions: Arc::clone(sessions),
            audit: audit.clone(),
            metrics: metrics.clone(),
        }))
    }

    /// Checks a name and password. Counts the try against address and account first; an unknown name takes as long as a
    /// wrong password.
    ///
    /// SECURITY: the caller checks the portal (`Account::may_use`) afterwards, and gives the same answer as for a wrong
    /// password.
    pub async fn check(&self, provider: &str, name: &str, password: &str, from: IpAddr) -> Result<Account, CheckError> {
        let (Some(file), Some(checker)) = (self.file(provider), &self.checker) else {
            return Err(CheckError::Credentials("no such provider"));
        };
        // all malformed names share one count: they can never name an account
        let counted_name = if check_name(name).is_ok() { name } else { "" };
        let counted_account = LocalAccount {
            provider: Arc::clone(&file.provider),
            name: counted_name.to_owned(),
        };
        self.limits
            .check(from, &counted_account)
            .map_err(|refusal| CheckError::RateLimited {
                detail: refusal.detail.into_owned(),
                limit: refusal.limit,
            })?;
        let users = file.users.load_full();
        let user = users.find(name);
        let hash = user.map_or_else(|| users.decoy_hash(name), |user| &user.password).clone();
        let too_long = password.len() > PASSWORD_BYTES_MAX;
        let password = Redacted::new(if too_long { String::new() } else { password.to_owned() });
        let checked = checker.check(password, hash).await;
        let matches = checked.map_err(|Busy| CheckError::RateLimited {
            detail: "too many passwords at once".to_owned(),
            limit: None,
        })?;
        match user {
            None => Err(CheckError::Credentials("no such account")),
            Some(_) if !matches || too_long => Err(CheckError::Credentials("wrong password")),
            Some(user) if user.state == UserState::Disabled => Err(CheckError::Credentials("the account is disabled")),
            Some(user) => Ok(user.account.clone()),
        }
    }

    /// True if the login form asks for a one-time code. It does so for every name, so that it tells nothing about one.
    pub fn has_codes(&self, provider: &str) -> bool {
        self.file(provider).is_some_and(|file| file.users.load().have_codes())
    }

    /// Checks the one-time code of an account whose password `check` accepted. A code counts once, and so does no older
    /// one.
    pub fn check_code(&self, provider: &str, name: &str, code: &str) -> Result<(), CheckError> {
        let wrong = CheckError::Credentials("wrong or used one-time code");
        let file = self.file(provider).ok_or(CheckError::Credentials("no such provider"))?;
        let users = file.users.load();
        let secret = users.find(name).and_then(|user| user.totp.as_ref());
        let secret = secret.ok_or(CheckError::Credentials("the account has no second factor"))?;
        // apps show a code as two groups
        let code: String = code.chars().filter(|c| *c != ' ').collect();
        let step = secret.step_of_code(&code, unix_seconds()).ok_or_else(|| wrong.clone())?;
        let mut used = file.used_codes.lock();
        if used.get(name).is_some_and(|last| *last >= step) {
            return Err(wrong);
        }
        used.insert(name.to_owned(), step);
        Ok(())
    }

    /// The account as its file has it now; `None` if it is gone or disabled.
    pub fn current(&self, provider: &str, name: &str) -> Option<Account> {
        let users = self.file(provider)?.users.load();
        let user = users.find(name).filter(|user| user.state == UserState::Enabled)?;
        Some(user.account.clone())
    }

    /// Reads the files again at every poll until stopped, and ends the sessions of the accounts that changed. A
    /// revocation that the session store refuses stays pending and is sent again at the next poll.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut pending = BTreeSet::new();
        let mut swept_at = tokio::time::Instant::now();
        while !self.files.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.poll) => {}
            }
            let accounts = Arc::clone(&self);
            // reading files blocks the thread
            let changed = tokio::task::spawn_blocking(move || accounts.reload()).await;
            pending.extend(changed.unwrap_or_default());
            self.revoke(&mut pending).await;
            if swept_at.elapsed() >= SWEEP_INTERVAL {
                self.limits.sweep();
                swept_at = tokio::time::Instant::now();
            }
        }
        stop.cancelled().await;
    }

    /// Reads every file again; returns the accounts whose sessions must end.
    fn reload(&self) -> Vec<ChangedAccount> {
        let mut changed = Vec::new();
        for file in &self.files {
            let provider = &*file.provider;
            let (result, event, detail) = match file.reload() {
                None => continue,
                Some(Ok(names)) => {
                    tracing::info!(provider, changed = names.len(), "a new users file in force");
                    let detail = format!("provider {provider}: {} accounts changed or gone", names.len());
                    changed.extend(names.into_iter().map(|name| ChangedAccount {
                        provider: Arc::clone(&file.provider),
                        issuer: Arc::clone(&file.issuer),
                        name,
                    }));
                    ("success", AdminAct::UsersReloaded, detail)
                }
                Some(Err(error)) => {
                    tracing::warn!(provider, %error, "users file rejected; the last good one stays in force");
                    ("rejected", AdminAct::UsersRejected, format!("provider {provider}: {error}"))
                }
            };
            self.metrics.users_reload.with_label_values(&[provider, result]).inc();
            self.audit.send(&Event::Admin(AdminEvent {
                event,
                detail: Some(detail),
            }));
        }
        changed
    }

    /// Ends the sessions of `pending` accounts. Stops at the first error; the rest stays pending.
    async fn revoke(&self, pending: &mut BTreeSet<ChangedAccount>) {
        for account in pending.clone() {
            let revocation = Revocation::Subject {
                issuer: account.issuer.to_string(),
                subject: account.name.clone(),
            };
            match self.sessions.revoke(revocation).await {
                Ok(_revoked) => {
                    self.record_revocation(&account);
                    pending.remove(&account);
                }
                Err(error) => {
                    let provider = &*account.provider;
                    tracing::warn!(%error, provider, "sessions of changed accounts not ended yet; trying again");
                    return;
                }
            }
        }
    }

    fn record_revocation(&self, account: &ChangedAccount) {
        let is_in_file = self
            .file(&account.provider)
            .is_some_and(|file| file.users.load().find(&account.name).is_some());
        let reason = if is_in_file {
            AuthFact::AccountChanged
        } else {
            AuthFact::AccountRemoved
        };
        let about = AuthSubject {
            provider: Some(Arc::clone(&account.provider)),
            issuer: Some(Arc::clone(&account.issuer)),
            subject: Some(account.name.clone()),
            ..AuthSubject::default()
        };
        self.audit
            .send(&Event::Auth(Box::new(about.succeeded(AuthAct::Revocation, reason))));
    }

    fn file(&self, provider: &str) -> Option<&UsersFile> {
        self.files.iter().find(|file| &*file.provider == provider)
    }
}

impl UsersFile {
    fn open(provider: &Arc<str>, issuer: &Arc<str>, path: &std::path::Path) -> Result<Self, UsersError> {
        let text = read(path)?;
        let users = Users::parse(&text, &path.display().to_string())?;
        Ok(Self {
            provider: Arc::clone(provider),
            issuer: Arc::clone(issuer),
            path: path.to_owned(),
            users: ArcSwap::from_pointee(users),
            last_read: ArcSwapOption::from_pointee(Ok(text)),
            used_codes: Mutex::default(),
        })
    }

    /// Reads the file again and puts a good new content in force. `None` if it reads as last time; else the names whose
    /// sessions must end.
    fn reload(&self) -> Option<Result<Vec<String>, UsersError>> {
        let content = read(&self.path);
        if self.last_read.load().as_deref() == Some(&content) {
            return None;
        }
        self.last_read.store(Some(Arc::new(content.clone())));
        let parsed = content.and_then(|text| Users::parse(&text, &self.path.display().to_string()));
        Some(parsed.map(|newer| {
            let newer = Arc::new(newer);
            let older = self.users.swap(Arc::clone(&newer));
            older.changed_in(&newer).map(str::to_owned).collect()
        }))
    }
}

#[cfg(test)]
mod tests;
