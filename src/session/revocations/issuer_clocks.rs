//! How far each issuer's clock was seen ahead of this process's clock.
//!
//! A token whose `iat` is ahead when it arrives was issued earlier than it says. Such a token must not count as younger
//! than a revocation that came after it. So the largest difference seen is subtracted from every `iat` of the issuer.
//! It never shrinks, and `issuers[].leeway` bounds it, because a token that is further ahead is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Milliseconds by issuer name. Workers raise them; every check against the revocations reads one.
pub struct IssuerClocks(HashMap<Arc<str>, AtomicI64>);

impl IssuerClocks {
    pub fn new(issuers: impl Iterator<Item = Arc<str>>) -> Self {
        Self(issuers.map(|name| (name, AtomicI64::new(0))).collect())
    }

    /// Notes a token that was issued at `issued` and arrived at `now` (Unix milliseconds).
    pub fn note(&self, issuer: &str, issued: i64, now: i64) {
        if issued > now
            && let Some(ahead) = self.0.get(issuer)
        {
            ahead.fetch_max(issued.saturating_sub(now), Ordering::AcqRel);
        }
    }

    /// Zero for an issuer whose clock was never seen ahead.
    pub fn ahead(&self, issuer: &str) -> i64 {
        self.0.get(issuer).map_or(0, |ahead| ahead.load(Ordering::Acquire))
    }
}
