//! How often the store was asked, what came of it, and how long it took.

use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::{SessionError, StoreError};
use crate::base::metrics::{Metrics, SessionMetrics};

pub struct Meters {
    metrics: SessionMetrics,
    /// A request whose session this process knew: counted on the request path.
    pub known: IntCounter,
}

/// The label `result` of an outcome.
pub trait Outcome {
    fn label(&self) -> &'static str;
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        let metrics = metrics.sessions.clone();
        let known = metrics.operations.with_label_values(&["find", "known"]);
        Self { metrics, known }
    }

    /// Counts and times one operation.
    pub async fn measure<T: Outcome>(&self, op: &'static str, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let outcome = work.await;
        self.metrics
            .duration
            .with_label_values(&[op])
            .observe(began.elapsed().as_secs_f64());
        self.count(op, outcome.label());
        outcome
    }

    pub fn count(&self, op: &'static str, result: &'static str) {
        self.metrics.operations.with_label_values(&[op, result]).inc();
    }

    pub fn feed_age(&self, age: Duration) {
        self.metrics.feed_age.set(age.as_secs_f64());
    }
}

impl<T> Outcome for Result<T, StoreError> {
    fn label(&self) -> &'static str {
        self.as_ref().err().map_or("ok", StoreError::label)
    }
}

impl<T> Outcome for Result<T, SessionError> {
    fn label(&self) -> &'static str {
        match self {
            Ok(_) => "ok",
            Err(SessionError::Missing) => "missing",
            Err(SessionError::Expired) => "expired",
            Err(SessionError::Revoked) => "revoked",
            Err(SessionError::OtherKey) => "unknown_key",
            Err(SessionError::Unavailable(error)) => error.label(),
        }
    }
}

impl StoreError {
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
