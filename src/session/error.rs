//! The errors of sessions and of their store, and the denial that each of them becomes.
//!
//! Absent, unreachable and corrupt are three different answers: a `SessionError` is about one session, a `StoreError`
//! says nothing about any session.

use std::path::PathBuf;
use std::time::Duration;

use cedargate_policy::denial::{Denial, Refusal};

/// The reason why a request cannot go on with the session that it presents.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// The store has no such session, or its value cannot be opened (then an error was logged).
    #[error("there is no such session")]
    Missing,
    #[error("the session is past its idle or absolute timeout")]
    Expired,
    #[error("the session was revoked")]
    Revoked,
    /// Sealed with a key that is not in this gate's ring. Denied like a missing session, but another replica may have
    /// the key, so the browser keeps its cookie.
    #[error("no key of this gate's ring sealed the session (sessions.key_file)")]
    OtherKey,
    /// The store does not answer, or the revocation log is stale.
    #[error("{0}")]
    Unavailable(StoreError),
}

/// The reason why the store did not carry out a command.
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

/// The reason why `Sessions` cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    #[error("cannot read `{path}` (sessions.key_file): {message}")]
    Keys { path: PathBuf, message: String },
}

/// The reason why a provider gave no renewed grant.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The provider revoked the grant (`invalid_grant`). The session ends, unless another replica may hold a newer
    /// grant.
    #[error("the provider ended the grant: {0}")]
    Ended(String),
    /// The provider answered for another subject. The session ends.
    #[error("{0}")]
    Foreign(String),
    /// Any other failure. The session goes on and is renewed later.
    #[error("{0}")]
    Temporary(String),
}

impl StoreError {
    /// The cause without "the session store cannot be reached", for messages that name the store themselves.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Unreachable(cause) | Self::Refused(cause) => cause.clone(),
            other => other.to_string(),
        }
    }

    /// The value of the metric label `result`.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Refused(_) => "refused",
            Self::FeedBehind(_) => "feed_behind",
            Self::Full => "full",
        }
    }
}

impl SessionError {
    /// The value of the metric label `result`.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::OtherKey => "unknown_key",
            Self::Unavailable(error) => error.label(),
        }
    }
}

impl From<StoreError> for SessionError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
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

impl From<&StoreError> for Refusal {
    fn from(error: &StoreError) -> Self {
        Self::new(Denial::StoreUnavailable, error.to_string())
    }
}

impl From<&SessionError> for Refusal {
    fn from(error: &SessionError) -> Self {
        Self {
            keeps_cookie: matches!(error, SessionError::OtherKey),
            ..Self::new(Denial::from(error), error.to_string())
        }
    }
}
