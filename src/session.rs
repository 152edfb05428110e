//! Browser sessions: found by an opaque id, stored in a store that all replicas share, revocable within
//! `staleness_max`.
//!
//! Beside the path; the gate, the doors, login, limits and introspection use it. The cookie carries 256 random bits and
//! nothing else. The store holds one sealed value per session under a hashed handle; opening it needs the server's keys
//! *and* the cookie. A session that this process holds counts only while the revocation log was read within
//! `staleness_max`. A store error is never a decision: absent, unreachable and corrupt are three different answers.
//!
//! The steps of a session cookie: `present` (cookie, cache, revocation log, store, seal) → `renewal/due` if the claims
//! are due → `rotation` if the id is due.

mod cache;
mod cookie;
mod counters;
mod error;
mod listing;
mod meters;
mod operations;
mod present;
mod record;
mod renewal;
mod revocations;
mod rotation;
mod seal;
mod store;
mod store_outcome;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use cedargate_policy::scope::ClaimPaths;
use http::HeaderValue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::cache::SessionCache;
pub use self::cookie::{Cookies, SessionId};
pub use self::error::{RefreshError, SessionError, SessionsError, StoreError};
use self::meters::SessionMeters;
pub use self::record::{Grant, Handle, Revocation, Session, SessionData, SessionSummary};
pub use self::renewal::due::InProgress;
use self::renewal::single_flight::Renewals;
use self::revocations::issuer_clocks::IssuerClocks;
use self::revocations::log::RevocationLog;
pub use self::revocations::{Revocable, Revoked};
use self::seal::Seal;
pub use self::seal::keys::check_key_file;
use self::seal::keys::{ActiveKeyRing, RingChange};
use self::store::Store;
use self::store::memory::MemoryStore;
use self::store::redis::RedisStore;
pub use self::store::redis::check_redis_files;
use crate::base::clock::unix_seconds;
use crate::base::metrics::Metrics;
use crate::config::{Config, SessionCookie, SessionStore};

/// Minimum retention of revocations: bearer tokens may live longer than sessions.
const RETENTION_MIN: Duration = Duration::from_secs(24 * 3600);
/// Interval at which the key file is checked and expired values of the memory store are removed.
const TICK: Duration = Duration::from_secs(1);
/// Time that running renewals get when the gate is forced to end, for values that are being written.
const FINAL_WAIT: Duration = Duration::from_secs(1);

/// A session with the id that its cookie carries.
#[derive(Clone, Debug)]
pub struct IdentifiedSession {
    pub id: SessionId,
    pub session: Arc<Session>,
}

#[cfg(test)]
impl IdentifiedSession {
    fn into_parts(self) -> (SessionId, Arc<Session>) {
        (self.id, self.session)
    }
}

/// The store's part of `/status`.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// `memory` or `redis`.
    pub store: &'static str,
    pub reachable: bool,
    /// Time since the revocation log was last known to be complete; `None` before the first complete read.
    pub feed_age: Option<Duration>,
    pub cached: usize,
    /// The present connection error; `None` while the store works.
    pub last_error: Option<String>,
    /// Stays when the store works again.
    pub last_failed_write: Option<FailedWrite>,
}

/// A write that the store did not take.
#[derive(Clone, Debug)]
pub struct FailedWrite {
    pub error: String,
    pub ago: Duration,
}

/// The sessions of this gate, shared by all workers. Tasks that must outlive a client's request run on the runtime of
/// `run`.
pub struct Sessions {
    pub cookies: Cookies,
    pub in_progress: Arc<InProgress>,
    seal: Seal,
    store: Store,
    revocation_log: RevocationLog,
    issuer_clocks: IssuerClocks,
    cache: SessionCache,
    meters: SessionMeters,
    renewals: Renewals,
    idle_timeout: Duration,
    absolute_timeout: Duration,
    /// Held while a user's own sessions are listed.
    own_listings: Semaphore,
    /// `limits.own_sessions`.
    own_sessions_max: usize,
    /// Names of the providers whose session cookies outlive the browser's session.
    persistent: HashSet<Arc<str>>,
    /// Claim paths of every issuer, by its name.
    claims: HashMap<Arc<str>, ClaimPaths>,
    /// Set once by `run`; read by `spawn`.
    runtime: OnceLock<tokio::runtime::Handle>,
    /// This value itself, for tasks that keep it alive.
    this: Weak<Self>,
    /// Random name of this process in renewal claims.
    process_name: String,
    /// Unix milliseconds of the last log line about an unknown key.
    unknown_key_logged_at: AtomicI64,
}

impl Sessions {
    /// Reads the key file. Needs no Redis; `run` connects.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Arc<Self>, SessionsError> {
        let sessions = &config.sessions;
        let keys = ActiveKeyRing::load(sessions.key_file.clone())?;
        let retention = sessions.absolute_timeout.max(RETENTION_MIN);
        let (store, prefix) = match &sessions.store {
            SessionStore::Memory => (Store::Memory(MemoryStore::default()), "memory".to_owned()),
            SessionStore::Redis(redis) => {
                let prefix = redis.key_prefix.clone();
                let store = RedisStore::new(redis, retention, sessions.staleness_max);
                (Store::Redis(Box::new(store)), prefix)
            }
        };
        let claims = config.issuers.iter();
        let claims = claims
            .map(|issuer| (Arc::clone(&issuer.scope.name), issuer.scope.claims.clone()))
            .collect();
        let providers = config.login.providers.iter();
        let persistent = providers.filter(|provider| provider.cookie == SessionCookie::Persistent);
        let persistent = persistent.map(|provider| Arc::clone(&provider.name)).collect();
        Ok(Arc::new_cyclic(|this| Self {
            cookies: Cookies {
                security: sessions.cookie,
            },
            in_progress: Arc::default(),
            seal: Seal { keys, prefix },
            store,
            revocation_log: RevocationLog::new(sessions.staleness_max, retention),
            issuer_clocks: IssuerClocks::new(config.issuers.iter().map(|issuer| Arc::clone(&issuer.scope.name))),
            cache: SessionCache::new(sessions.cache),
            meters: SessionMeters::new(metrics),
            renewals: Renewals::default(),
            idle_timeout: sessions.idle_timeout,
            absolute_timeout: sessions.absolute_timeout,
            own_listings: Semaphore::new(1),
            own_sessions_max: config.limits.own_sessions.as_usize(),
            persistent,
            claims,
            runtime: OnceLock::new(),
            this: Weak::clone(this),
            process_name: Uuid::now_v7().to_string(),
            unknown_key_logged_at: AtomicI64::new(0),
        }))
    }

    /// Connects to the store, reads the revocation log and re-reads the key file, until stopped. Give it a runtime of
    /// its own.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        // `run` is called once; of two calls the first runtime stays
        let _is_set = self.runtime.set(tokio::runtime::Handle::current()).is_err();
        let work = async {
            match &self.store {
                Store::Memory(memory) => self.tick(|| memory.sweep()).await,
                Store::Redis(redis) => {
                    let subscriber = redis.run_subscriber(&self.revocation_log, &self.cache);
                    tokio::join!(subscriber, self.tick(|| {}));
                }
            }
        };
        let ending = async {
            stop.cancelled().await;
            // a renewed grant must reach the store
            drop(tokio::time::timeout(FINAL_WAIT, self.renewals.idle()).await);
        };
        tokio::select! {
            () = work => {}
            () = ending => {}
        }
    }

    /// Blocks the calling thread until the store was read for the first time; returns false if that took longer than
    /// `patience`.
    pub fn wait_for_store(&self, patience: Duration) -> bool {
        matches!(self.store, Store::Memory(_)) || self.revocation_log.wait_for_first_read(patience)
    }

    /// Checks the key file and calls `also`, once every `TICK`.
    async fn tick(&self, also: impl Fn()) {
        loop {
            tokio::time::sleep(TICK).await;
            also();
            self.meters.set_feed_age(self.feed_age());
            let Some(sessions) = self.this.upgrade() else { return };
            match tokio::task::spawn_blocking(move || sessions.seal.keys.reload_if_changed()).await {
                Ok(Some(Ok(change))) => {
                    if change == RingChange::KeysRemoved {
                        // sessions that only a removed key opens must not live on in memory
                        self.cache.flush();
                    }
                    self.meters.count("keys", "ok");
                    tracing::info!("new session keys in force");
                }
                Ok(Some(Err(error))) => {
                    self.meters.count("keys", "refused");
                    tracing::error!(error, "sessions.key_file cannot be used; the old keys stay in force");
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Seals a value that passes through the browser (the `state` of a login), bound to `secret`, with the server's
    /// keys.
    pub fn seal_for_browser(&self, secret: &[u8], value: &[u8]) -> String {
        // no replica opens an empty text: if sealing fails, the login fails
        self.seal.for_browser(secret, value).unwrap_or_default()
    }

    /// Opens a text that `seal_for_browser` sealed, here or in another replica; `None` for any other text.
    pub fn open_from_browser(&self, secret: &[u8], text: &str) -> Option<Vec<u8>> {
        self.seal.open_from_browser(secret, text).ok()
    }

    /// `Set-Cookie` of a session under `id`, which may be another id than the one that the browser sent.
    pub fn session_cookie(&self, id: &SessionId, session: &Session) -> HeaderValue {
        let is_persistent = self.persistent.contains(session.data.provider.as_str());
        let seconds_left = session.expires_at.saturating_sub(unix_seconds());
        let max_age = is_persistent.then(|| u32::try_from(seconds_left.max(0)).unwrap_or(u32::MAX));
        self.cookies.set_session(id, max_age)
    }

    pub fn status(&self) -> StoreStatus {
        let was_read = matches!(self.store, Store::Memory(_)) || self.revocation_log.was_read();
        let status = StoreStatus {
            store: "memory",
            reachable: true,
            feed_age: was_read.then(|| self.feed_age()),
            cached: self.cache.len(),
            last_error: None,
            last_failed_write: None,
        };
        match &self.store {
            Store::Memory(_) => status,
            Store::Redis(redis) => StoreStatus {
                store: "redis",
                reachable: redis.is_connected(),
                last_error: redis.last_error(),
                last_failed_write: redis.failed_write(),
                ..status
            },
        }
    }

    /// True if every revocation older than `staleness_max` is known. With a memory store no other process can revoke.
    fn is_revocation_log_fresh(&self) -> bool {
        matches!(self.store, Store::Memory(_)) || self.revocation_log.is_fresh()
    }

    fn feed_age(&self) -> Duration {
        match self.store {
            Store::Memory(_) => Duration::ZERO,
            Store::Redis(_) => self.revocation_log.age(),
        }
    }

    /// Spawns on the runtime of `run`, so that the work outlives the request that started it; before `run`, on the
    /// caller's.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.runtime.get() {
            Some(runtime) => drop(runtime.spawn(work)),
            None => drop(tokio::spawn(work)),
        }
    }
}

/// Whole milliseconds of a duration.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod redis_tests;
#[cfg(test)]
mod tests;
