//! Browser sessions: found by an opaque id, kept where every replica sees them, revocable within `staleness_max`.
//!
//! Beside the path; `gate`, `identity` and `doors` use it. The cookie carries 256 random bits and nothing else. The store
//! holds one sealed value per session under a hashed handle; the seal needs the server's keys *and* the cookie. What this
//! process knows of a session counts only while the feed of revocations was read within `staleness_max`. A store error is
//! never a decision: absent, unreachable and corrupt are three different answers.

mod cache;
mod cookie;
mod counters;
mod meters;
mod operations;
mod present;
mod record;
mod renewal;
mod revocations;
mod rotation;
mod seal;
mod store;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::cache::{Cache, Cached};
pub use self::cookie::{Cookies, SessionId};
use self::meters::Meters;
pub use self::present::InProgress;
use self::record::Mark;
pub use self::record::{Card, Grant, Handle, Revocation, Session, SessionData};
use self::renewal::Flights;
use self::revocations::log::{Feed, millis};
use self::seal::Seal;
pub use self::seal::keys::check_key_file;
use self::seal::keys::{Keys, Left};
use self::store::Store;
use self::store::memory::Memory;
use self::store::redis::Redis;
pub use self::store::redis::check_redis_files;
use crate::base::metrics::Metrics;
use crate::config::{ClaimPaths, Config, SessionStore};
use crate::denial::Denial;
use crate::types::Identity;

/// How long revocations are kept at least: bearer tokens may live longer than sessions.
const RETENTION_MIN: Duration = Duration::from_secs(24 * 3600);
/// The store is told of a session's use once in so many parts of the idle timeout.
const TOUCH_PARTS: u32 = 20;
/// How often the key file is looked at, and what is expired forgotten.
const TICK: Duration = Duration::from_secs(1);
/// How long renewals under way may take once the gate is forced to end: for what is just being written.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Why there is no session to go on with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// Never was, ended long ago, or its value cannot be opened (then an alarm was raised).
    #[error("there is no such session")]
    Missing,
    #[error("the session's time is over")]
    Expired,
    #[error("the session was revoked")]
    Revoked,
    /// Sealed with a key that is not in this gate's ring: as if it were missing, but it may be good elsewhere, or here later.
    #[error("no key of this gate's ring sealed the session (sessions.key_file)")]
    OtherKey,
    /// Nobody can tell: the store does not answer, or the feed of revocations is behind.
    #[error("{0}")]
    Unavailable(StoreError),
}

/// The store did not do what it was asked. Says nothing about any session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the session store cannot be reached: {0}")]
    Unreachable(String),
    #[error("the session store did not answer in time")]
    Timeout,
    #[error("the session store refused: {0}")]
    Refused(String),
    #[error("the feed of revocations was last read {}ms ago", .0.as_millis())]
    FeedBehind(Duration),
    #[error("the session store is full")]
    Full,
}

/// Why sessions cannot begin at all.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    #[error("cannot read `{path}` (sessions.key_file): {message}")]
    Keys { path: std::path::PathBuf, message: String },
}

/// What a refresh at the provider came to.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The provider took the grant back (`invalid_grant`): the session ends, unless somebody else renewed it.
    #[error("the provider ended the grant: {0}")]
    Ended(String),
    /// The provider speaks of somebody else: the session ends.
    #[error("{0}")]
    Foreign(String),
    /// Anything else: the session goes on, and it is tried again.
    #[error("{0}")]
    Temporary(String),
}

/// What revoking something came to.
#[derive(Clone, Copy, Debug)]
pub struct Revoked {
    /// Whether a replica of the store has it; `None`: there is no replica.
    pub replicated: Option<bool>,
    /// False: the store does not take it yet. It holds in this process, which goes on saying it until the store does.
    pub everywhere: bool,
}

/// What `/status` says of the store.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// `memory` or `redis`.
    pub store: &'static str,
    pub reachable: bool,
    /// Since the feed of revocations was last known to be read to its end.
    /// `None`: it never was.
    pub feed_age: Option<Duration>,
    pub cached: usize,
    /// `None`: it works.
    pub last_error: Option<String>,
    /// Stays when it works again.
    pub last_failed_write: Option<FailedWrite>,
}

/// A session with the id that its cookie carries.
#[derive(Clone, Debug)]
pub struct IdentifiedSession {
    pub id: SessionId,
    pub session: Arc<Session>,
}

/// Something that the store did not take.
#[derive(Clone, Debug)]
pub struct FailedWrite {
    pub error: String,
    pub ago: Duration,
}

/// The sessions of this gate. Shared by all workers; what must outlive a client runs on the sessions' own runtime.
pub struct Sessions {
    pub cookies: Cookies,
    /// Sessions that this process is renewing in the background or giving a new id.
    pub in_progress: Arc<InProgress>,
    seal: Seal,
    store: Store,
    feed: Feed,
    cache: Cache,
    meters: Meters,
    flights: Flights,
    idle_timeout: Duration,
    absolute_timeout: Duration,
    /// Of `issuers`, by name.
    claims: HashMap<Arc<str>, ClaimPaths>,
    /// Of the thread that `run` is on.
    runtime: OnceLock<tokio::runtime::Handle>,
    me: Weak<Self>,
    /// Random: by which other processes know this one.
    process: String,
    /// Unix milliseconds.
    unknown_key_said_at: AtomicI64,
}

impl StoreError {
    /// The error alone, for messages that say themselves whose it is.
    fn why(&self) -> String {
        match self {
            Self::Unreachable(why) | Self::Refused(why) => why.clone(),
            other => other.to_string(),
        }
    }
}

impl From<&SessionError> for Denial {
    fn from(error: &SessionError) -> Self {
        match error {
            SessionError::Missing | SessionError::OtherKey => Self::SessionMissing,
            SessionError::Expired => Self::SessionExpired,
            SessionError::Revoked => Self::SessionRevoked,
            SessionError::Unavailable(_) => Self::StoreUnavailable,
        }
    }
}

impl Sessions {
    /// Needs no Redis to start; connections are made by `run`.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Arc<Self>, SessionsError> {
        let sessions = &config.sessions;
        let keys = Keys::load(sessions.key_file.clone()).map_err(|(path, message)| SessionsError::Keys { path, message })?;
        let retention = sessions.absolute_timeout.max(RETENTION_MIN);
        let (store, prefix) = match &sessions.store {
            SessionStore::Memory => (Store::Memory(Memory::default()), "memory".to_owned()),
            SessionStore::Redis(redis) => {
                let prefix = redis.key_prefix.clone();
                (
                    Store::Redis(Box::new(Redis::new(redis, retention, sessions.staleness_max))),
                    prefix,
                )
            }
        };
        let claims = config.issuers.iter();
        let claims = claims
            .map(|issuer| (Arc::clone(&issuer.name), issuer.claims.clone()))
            .collect();
        Ok(Arc::new_cyclic(|me| Self {
            cookies: Cookies {
                security: sessions.cookie,
            },
            in_progress: Arc::default(),
            seal: Seal { keys, prefix },
            store,
            feed: Feed::new(sessions.staleness_max, retention),
            cache: Cache::new(sessions.cache),
            meters: Meters::new(metrics),
            flights: Flights::default(),
            idle_timeout: sessions.idle_timeout,
            absolute_timeout: sessions.absolute_timeout,
            claims,
            runtime: OnceLock::new(),
            me: Weak::clone(me),
            process: Uuid::now_v7().to_string(),
            unknown_key_said_at: AtomicI64::new(0),
        }))
    }

    /// Connects, reads the feed, re-reads keys and passwords, until stopped. Belongs on a runtime of its own.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        // a second run is nobody's intention; the first keeps the work
        let _kept = self.runtime.set(tokio::runtime::Handle::current()).is_err();
        let work = async {
            match &self.store {
                Store::Memory(memory) => self.tick(|| memory.sweep()).await,
                Store::Redis(redis) => {
                    let follow = redis.follow(&self.feed, &self.cache);
                    tokio::join!(follow, self.tick(|| {}));
                }
            }
        };
        let ending = async {
            stop.cancelled().await;
            // a renewed grant must get into the store
            drop(tokio::time::timeout(LAST_WAIT, self.flights.landed()).await);
        };
        tokio::select! {
            () = work => {}
            () = ending => {}
        }
    }

    /// Blocks this thread until the store was read for the first time; false if it is not there in time.
    pub fn wait_for_store(&self, patience: Duration) -> bool {
        matches!(self.store, Store::Memory(_)) || self.feed.wait(patience)
    }

    /// Looks at the key file now and then.
    async fn tick(&self, also: impl Fn()) {
        loop {
            tokio::time::sleep(TICK).await;
            also();
            self.meters.feed_age(self.feed_age());
            let Some(me) = self.me.upgrade() else { return };
            match tokio::task::spawn_blocking(move || me.seal.keys.look()).await {
                Ok(Some(Ok(left))) => {
                    if left == Left::Some {
                        // what only it could open must not live on in memory
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

    /// The session of a cookie, without waiting; `None` if only the store can tell.
    pub fn try_find(&self, id: &SessionId) -> Option<Result<Arc<Session>, SessionError>> {
        let handle = Seal::handle(id);
        let Some(cached) = self.cache.get(handle) else {
            if self.feed.ends_handle(handle) {
                return Some(Err(SessionError::Revoked));
            }
            return self.check_feed().err().map(Err);
        };
        match self.check_cached(&cached) {
            Ok(false) => None,
            Ok(true) => {
                self.touch_if_due(id, &cached);
                self.prove_if_due(id, &cached);
                self.meters.known.inc();
                Some(Ok(Arc::clone(&cached.session)))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// `Ok(false)`: only the store knows whether it was used elsewhere.
    fn check_cached(&self, cached: &Cached) -> Result<bool, SessionError> {
        let now = unix_millis();
        if now >= cached.ends_at {
            return Err(SessionError::Expired);
        }
        let epoch = self.feed.epoch();
        if cached.checked.load(Ordering::Acquire) != epoch {
            let session = &cached.session;
            if self.feed.ends(session.handle, &session.marks, session.data.created_at) {
                return Err(SessionError::Revoked);
            }
            cached.checked.store(epoch, Ordering::Release);
        }
        self.check_feed()?;
        Ok(now
            < cached
                .used_at
                .load(Ordering::Acquire)
                .saturating_add(millis(self.idle_timeout)))
    }

    fn check_feed(&self) -> Result<(), SessionError> {
        if self.is_fresh() {
            return Ok(());
        }
        Err(SessionError::Unavailable(StoreError::FeedBehind(self.feed.age())))
    }

    /// The only feed of a memory store is this process.
    fn is_fresh(&self) -> bool {
        matches!(self.store, Store::Memory(_)) || self.feed.is_fresh()
    }

    fn was_read(&self) -> bool {
        matches!(self.store, Store::Memory(_)) || self.feed.was_read()
    }

    fn feed_age(&self) -> Duration {
        match self.store {
            Store::Memory(_) => Duration::ZERO,
            Store::Redis(_) => self.feed.age(),
        }
    }

    /// One request does it, beside its own way.
    fn touch_if_due(&self, id: &SessionId, cached: &Cached) {
        let (now, used_at) = (unix_millis(), cached.used_at.load(Ordering::Acquire));
        if now.saturating_sub(used_at) < millis(self.idle_timeout / TOUCH_PARTS) {
            return;
        }
        let claimed = cached
            .used_at
            .compare_exchange(used_at, now, Ordering::AcqRel, Ordering::Acquire);
        let (Ok(_), Some(me)) = (claimed, self.me.upgrade()) else {
            return;
        };
        let id = id.clone();
        self.spawn(async move {
            let touched = me.meters.measure("touch", me.touch(&id)).await;
            if let Err(error) = touched {
                tracing::debug!(%error, "a session's use was not noted; its idle time counts from the last one");
            }
        });
    }

    /// On the sessions' own runtime, so that it outlives who asked; before that runs, on the caller's.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.runtime.get() {
            Some(runtime) => drop(runtime.spawn(work)),
            None => drop(tokio::spawn(work)),
        }
    }

    /// Whether a bearer token's subject, tenant or the portal was revoked after it was issued. A token that does not say when
    /// it was issued is as old as can be. Never waits.
    pub fn check_identity(&self, identity: &Identity, portal: &str) -> Result<(), Denial> {
        if self.feed.is_narrow() {
            return Ok(());
        }
        let issued = identity.claims.get("iat").and_then(serde_json::Value::as_f64);
        // whole milliseconds at most: a fraction never makes a token younger
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and a time beyond that is no time")]
        let began = issued.map_or(i64::MIN, |seconds| (seconds * 1000.0).floor() as i64);
        let subject = Mark::subject(&identity.issuer, &identity.subject);
        let tenant = identity.tenant.as_deref().map(Mark::tenant);
        let marks = [Some(subject), tenant, Some(Mark::portal(portal))];
        if marks.iter().flatten().any(|mark| self.feed.ends_since(mark, began)) {
            return Err(Denial::SessionRevoked);
        }
        Ok(())
    }

    /// The same for a session found earlier: for connections that live long. Never waits.
    pub fn is_revoked(&self, session: &Session, portal: &str) -> bool {
        let began = session.data.created_at;
        let elsewhere = portal != session.data.portal && !self.feed.is_narrow();
        self.feed.ends(session.handle, &session.marks, began) || (elsewhere && self.feed.ends_since(&Mark::portal(portal), began))
    }

    /// Changes whenever something was revoked.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.feed.subscribe()
    }

    /// What `revocations` holds now. Never waits.
    pub fn epoch(&self) -> u64 {
        self.feed.epoch()
    }

    pub fn status(&self) -> StoreStatus {
        let (store, reachable, last_error, last_failed_write) = match &self.store {
            Store::Memory(_) => ("memory", true, None, None),
            Store::Redis(redis) => ("redis", redis.is_connected(), redis.last_error(), redis.failed_write()),
        };
        StoreStatus {
            store,
            reachable,
            feed_age: self.was_read().then(|| self.feed_age()),
            cached: self.cache.len(),
            last_error,
            last_failed_write,
        }
    }
}

fn unix_millis() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod redis_tests;
#[cfg(test)]
mod tests;
