//! Local accounts: a users file with argon2id hashes, for small installations and the demo.
//!
//! Each provider's file is read at start and again when its content changes; a bad or vanished file keeps the last good
//! one. A check takes as long for a name that nobody has as for a wrong password, and is counted before it costs
//! anything. Whoever was changed or removed in a file loses the sessions made before.

mod edit;
mod file;
mod hash;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub use self::edit::{UserSpec, UsersText};
pub use self::file::{NAME_CHARS_MAX, State, Users, UsersError, check_name, read};
use self::hash::{Busy, Checker};
pub use self::hash::{Hash, PASSWORD_BYTES_MAX};
use super::{LoginCode, LoginError, LoginFailure};
use crate::audit::{AdminEvent, Audit, AuthEvent, Event};
use crate::base::metrics::Metrics;
use crate::config::{self, ProviderKind};
use crate::limits::{LoginLimits, Reach, Shared};
use crate::session::{Revocation, Sessions};
use crate::types::Redacted;

/// How often counts that make no difference any more are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Every provider with a users file.
pub struct Accounts {
    books: Vec<Book>,
    /// `None`: there are no local providers.
    checker: Option<Checker>,
    limits: LoginLimits,
    poll: Duration,
    sessions: Arc<Sessions>,
    audit: Audit,
    metrics: Metrics,
}

/// One provider's users.
struct Book {
    provider: Arc<str>,
    path: PathBuf,
    users: ArcSwap<Users>,
    /// What was last looked at: a text, or why there is none. Written by `run` alone.
    looked_at: ArcSwapOption<Result<String, UsersError>>,
}

/// Whom a password proves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    pub name: String,
    /// `sub`, `tenant`, `roles`, `name`, `email` and what else the file says; the claims of the session.
    pub claims: Arc<Map<String, Value>>,
    /// Portals that the user may use; `None`: all that trust the provider.
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
    pub fn shared_rates(&self) -> Vec<Arc<Shared>> {
        self.limits.shared()
    }

    /// Fails if a users file cannot be read or understood: nobody is let in, or kept out, by half of one.
    pub fn new(
        config: &config::Config,
        sessions: &Arc<Sessions>,
        (audit, metrics): (&Audit, &Metrics),
    ) -> Result<Arc<Self>, LoginError> {
        let mut books = Vec::new();
        for provider in &config.login.providers {
            if let ProviderKind::Local(path) = &provider.kind {
                books.push(Book::open(&provider.name, path).map_err(|error| LoginError::Provider {
                    provider: provider.name.to_string(),
                    message: format!("users_file: {error}"),
                })?);
            }
        }
        let checker = if books.is_empty() { None } else { Some(Checker::start()?) };
        Ok(Arc::new(Self {
            books,
            checker,
            limits: LoginLimits::new(config.limits.rate_login.rate(), Reach::of(&config.sessions.store)),
            poll: config.policies.poll.get(),
            sessions: Arc::clone(sessions),
            audit: audit.clone(),
            metrics: metrics.clone(),
        }))
    }

    /// Takes as long for a name that does not exist as for a wrong password. Counts against name and address first.
    ///
    /// SECURITY: who may use which portal is the caller's to ask (`Account::may_use`), afterwards and with the same answer.
    pub async fn check(&self, provider: &str, name: &str, password: &str, from: IpAddr) -> Result<Account, LoginFailure> {
        let wrong = |detail: &str| LoginFailure::new(LoginCode::CredentialsInvalid, detail);
        let busy = |detail: &str| LoginFailure::new(LoginCode::RateLimited, detail);
        let (Some(book), Some(checker)) = (self.book(provider), &self.checker) else {
            return Err(wrong("no such provider"));
        };
        // a name that cannot be one is not worth a count of its own
        let counted = if check_name(name).is_ok() { name } else { "" };
        let account = (Arc::clone(&book.provider), counted.to_owned());
        self.limits.check(from, &account).map_err(|refusal| busy(&refusal.detail))?;
        let users = book.users.load_full();
        let user = users.find(name);
        let hash = user.map_or_else(|| users.stand_in(name), |user| &user.password).clone();
        let too_long = password.len() > PASSWORD_BYTES_MAX;
        let password = Redacted::new(if too_long { String::new() } else { password.to_owned() });
        let checked = checker.check(password, hash).await;
        let accepted = checked.map_err(|Busy| busy("too many passwords at once"))? && !too_long;
        match user {
            None => Err(wrong("no such account")),
            Some(_) if !accepted => Err(wrong("wrong password")),
            Some(user) if user.state == State::Disabled => Err(wrong("the account is disabled")),
            Some(user) => Ok(user.account.clone()),
        }
    }

    /// The account as the file says now: roles and portals may have changed, or it is gone.
    pub fn current(&self, provider: &str, name: &str) -> Option<Account> {
        let users = self.book(provider)?.users.load();
        let user = users.find(name).filter(|user| user.state == State::Enabled)?;
        Some(user.account.clone())
    }

    /// Looks at the files now and then until stopped, and ends the sessions of whom they have changed. What the store
    /// cannot be told now is told later.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut pending = BTreeSet::new();
        let mut swept = tokio::time::Instant::now();
        while !self.books.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.poll) => {}
            }
            let looking = Arc::clone(&self);
            // a file system may take its time
            let changed = tokio::task::spawn_blocking(move || looking.look()).await;
            pending.extend(changed.unwrap_or_default());
            self.revoke(&mut pending).await;
            if swept.elapsed() >= SWEEP_INTERVAL {
                self.limits.sweep();
                swept = tokio::time::Instant::now();
            }
        }
        stop.cancelled().await;
    }

    /// Whoever a file has changed, as provider and name.
    fn look(&self) -> Vec<(Arc<str>, String)> {
        let mut changed = Vec::new();
        for book in &self.books {
            let provider = &*book.provider;
            let (result, event, detail) = match book.look() {
                None => continue,
                Some(Ok(names)) => {
                    tracing::info!(provider, changed = names.len(), "a new users file in force");
                    let detail = format!("provider {provider}: {} accounts changed or gone", names.len());
                    changed.extend(names.into_iter().map(|name| (Arc::clone(&book.provider), name)));
                    ("success", "users_reloaded", detail)
                }
                Some(Err(error)) => {
                    tracing::warn!(provider, %error, "users file rejected; the last good one stays in force");
                    ("rejected", "users_rejected", format!("provider {provider}: {error}"))
                }
            };
            self.metrics.users_reload.with_label_values(&[provider, result]).inc();
            self.audit.send(Event::Admin(AdminEvent {
                event,
                detail: Some(detail),
            }));
        }
        changed
    }

    async fn revoke(&self, pending: &mut BTreeSet<(Arc<str>, String)>) {
        for (provider, name) in pending.clone() {
            let revocation = Revocation::Subject {
                issuer: provider.to_string(),
                subject: name.clone(),
            };
            match self.sessions.revoke(revocation).await {
                Ok(_revoked) => {
                    self.record(&provider, &name);
                    pending.remove(&(provider, name));
                }
                Err(error) => {
                    tracing::warn!(%error, provider = &*provider, "sessions of changed accounts not ended yet; trying again");
                    return;
                }
            }
        }
    }

    /// What was revoked, and why.
    fn record(&self, provider: &Arc<str>, name: &str) {
        let is_there = self.book(provider).is_some_and(|book| book.users.load().find(name).is_some());
        self.audit.send(Event::Auth(Box::new(AuthEvent {
            event: "revocation",
            result: "success",
            reason: if is_there { "account_changed" } else { "account_removed" },
            provider: Some(Arc::clone(provider)),
            issuer: Some(Arc::clone(provider)),
            subject: Some(name.to_owned()),
            ..AuthEvent::default()
        })));
    }

    fn book(&self, provider: &str) -> Option<&Book> {
        self.books.iter().find(|book| &*book.provider == provider)
    }
}

impl Book {
    fn open(provider: &Arc<str>, path: &std::path::Path) -> Result<Self, UsersError> {
        let text = read(path)?;
        let users = Users::parse(&text, &path.display().to_string())?;
        Ok(Self {
            provider: Arc::clone(provider),
            path: path.to_owned(),
            users: ArcSwap::from_pointee(users),
            looked_at: ArcSwapOption::from_pointee(Ok(text)),
        })
    }

    /// `None`: nothing is new. The names are of those whose sessions must end.
    fn look(&self) -> Option<Result<Vec<String>, UsersError>> {
        let found = read(&self.path);
        if self.looked_at.load().as_deref() == Some(&found) {
            return None;
        }
        self.looked_at.store(Some(Arc::new(found.clone())));
        let newer = found.and_then(|text| Users::parse(&text, &self.path.display().to_string()));
        Some(newer.map(|newer| {
            let newer = Arc::new(newer);
            let older = self.users.swap(Arc::clone(&newer));
            older.changed_in(&newer).map(str::to_owned).collect()
        }))
    }
}

#[cfg(test)]
mod tests;
