//! Counts and times the operations on the session store.

use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::{SessionError, StoreError};
use crate::base::metrics::{Metrics, SessionMetrics};

pub struct SessionMeters {
    metrics: SessionMetrics,
    /// Requests whose session this process already had. Resolved once, because the request path counts it.
    pub known: IntCounter,
}

/// The metric label `result` of an operation's result.
pub trait ResultLabel {
    fn label(&self) -> &'static str;
}

impl SessionMeters {
    pub fn new(metrics: &Metrics) -> Self {
        let metrics = metrics.sessions.clone();
        let known = metrics.operations.with_label_values(&["find", "known"]);
        Self { metrics, known }
    }

    /// Runs `work`, counts its result and times it.
    pub async fn measure<T: ResultLabel>(&self, op: &'static str, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let result = work.await;
        self.metrics
            .duration
            .with_label_values(&[op])
            .observe(began.elapsed().as_secs_f64());
        self.count(op, result.label());
        result
    }

    pub fn count(&self, op: &'static str, result: &'static str) {
        self.metrics.operations.with_label_values(&[op, result]).inc();
    }

    pub fn set_feed_age(&self, age: Duration) {
        self.metrics.feed_age.set(age.as_secs_f64());
    }
}

impl<T> ResultLabel for Result<T, StoreError> {
    fn label(&self) -> &'static str {
        self.as_ref().err().map_or("ok", StoreError::label)
    }
}

impl<T> ResultLabel for Result<T, SessionError> {
    fn label(&self) -> &'static str {
        self.as_ref().err().map_or("ok", SessionError::label)
    }
}
