//! The right of one process to renew a session: a lease in the store, and a claim in the session.
//!
//! Processes race for the lease with a write that succeeds only if there is no value. The lease expires by itself, so a
//! process that dies blocks no renewal for longer than `LEASE`. But a provider's answer does not expire with it: a
//! process that cannot reach the store may still hold the newer grant. So before the call each process writes a claim,
//! its name and the time, into the header of the session. Other processes leave a claimed session alone for
//! `CLAIM_HOLD`, and for `CLAIM_MAX_AGE` they do not end it when its provider refuses the grant.
//!
//! If the store fails while a lease is acquired or released, the lease may be stored or not: a task removes it as soon
//! as the store answers. After a reconnect no process renews for `RECONNECT_PAUSE`, and a claimed session waits for
//! `RECONNECT_HOLD`, so that a process with an unwritten grant writes it first.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::SWAPS_MAX;
use crate::base::clock::unix_millis;
use crate::session::cookie::SessionId;
use crate::session::operations::random_id;
use crate::session::record::Handle;
use crate::session::seal::{RenewalClaim, SealedHeader, StoredSession};
use crate::session::store_outcome::Swap;
use crate::session::{Sessions, StoreError, millis};

/// Time to live of a lease that is not extended.
pub const LEASE: Duration = Duration::from_secs(30);
/// Time for which other processes leave a claimed session alone: the claimant's call and its writes.
const CLAIM_HOLD: Duration = Duration::from_secs(60);
/// Time for which `invalid_grant` does not end a session that another process claimed: it may hold the newer grant.
const CLAIM_MAX_AGE: Duration = Duration::from_secs(600);
/// Time after a reconnect in which no session is renewed.
const RECONNECT_PAUSE: Duration = Duration::from_secs(2);
/// Time after a reconnect in which a session claimed by another process is left alone, however old the claim is.
const RECONNECT_HOLD: Duration = Duration::from_secs(10);
/// Maximum number of claims in one session.
const CLAIMS_MAX: usize = 8;
/// Interval between two tries to remove a lease.
const REMOVE_PAUSE: Duration = Duration::from_millis(200);

/// A lease that this process holds.
pub struct Lease {
    pub handle: Handle,
    /// Random value under the lease's key; only its holder knows it.
    pub token: Vec<u8>,
}

impl Sessions {
    /// True shortly after a reconnect: renewals wait.
    pub(in crate::session) fn is_settling(&self) -> bool {
        self.cache.since_reconnect().is_some_and(|since| since < RECONNECT_PAUSE)
    }

    /// True if another process is renewing the session, or may be about to write its result.
    pub(in crate::session) fn is_claimed_by_another(&self, header: &SealedHeader) -> bool {
        let is_reconnected = self.cache.since_reconnect().is_some_and(|since| since < RECONNECT_HOLD);
        self.has_foreign_claim(header, CLAIM_HOLD) || (is_reconnected && self.has_foreign_claim(header, Duration::MAX))
    }

    /// True if another process may hold a newer grant than the stored one.
    pub(super) fn may_another_hold_newer_grant(&self, header: &SealedHeader) -> bool {
        self.has_foreign_claim(header, CLAIM_MAX_AGE)
    }

    /// True if another process claimed the session within `max_age`. A claim of this process does not count: its
    /// renewal is in the single-flight map, and callers join it there.
    fn has_foreign_claim(&self, header: &SealedHeader, max_age: Duration) -> bool {
        let now = unix_millis();
        // another replica's clock may be ahead: compare absolute differences
        let is_young = |claim: &RenewalClaim| now.saturating_sub(claim.renewing_since).saturating_abs() < millis(max_age);
        header
            .renewal_claims
            .iter()
            .any(|claim| claim.by != self.process_name && is_young(claim))
    }

    /// Adds this process's claim to a header that is then written; drops old claims.
    pub(super) fn claim(&self, header: &mut SealedHeader) {
        let now = unix_millis();
        let claims = &mut header.renewal_claims;
        claims.retain(|claim| {
            let age = now.saturating_sub(claim.renewing_since);
            claim.by != self.process_name && age < millis(CLAIM_MAX_AGE)
        });
        if claims.len() >= CLAIMS_MAX {
            claims.remove(0);
        }
        claims.push(RenewalClaim {
            renewing_since: now,
            by: self.process_name.clone(),
        });
    }

    /// Unix milliseconds of this process's claim.
    pub(super) fn claimed_at(&self, header: &SealedHeader) -> Option<i64> {
        let own = header.renewal_claims.iter().find(|claim| claim.by == self.process_name);
        own.map(|claim| claim.renewing_since)
    }

    /// Removes this process's claim after a call without result. If the store fails, the claim stays and delays other
    /// processes for a while.
    pub(super) async fn release_claim(&self, id: &SessionId) {
        for _ in 0..SWAPS_MAX {
            let Ok(Some(StoredSession { raw, mut opened })) = self.read(id).await else {
                return;
            };
            let before = opened.header.renewal_claims.len();
            opened.header.renewal_claims.retain(|claim| claim.by != self.process_name);
            if opened.header.renewal_claims.len() == before {
                return;
            }
            if !matches!(self.swap_session(id, &raw, &opened).await, Ok(Swap::Changed)) {
                return;
            }
        }
    }

    /// Acquires the lease of a session; `None` if another process holds it.
    pub(in crate::session) async fn try_lease(&self, handle: Handle) -> Result<Option<Lease>, StoreError> {
        let token = random_id()?.0.expose().to_vec();
        let lease = Lease { handle, token };
        match self.store.write_first(&lease_key(handle), lease.token.clone(), LEASE).await {
            Ok(true) => Ok(Some(lease)),
            Ok(false) => Ok(None),
            Err(error) => {
                // it may be stored all the same, and would block every renewal of the session until it expires
                self.release_later(lease);
                Err(error)
            }
        }
    }

    /// Extends the lease; acquires it again if it expired and is free.
    pub(super) async fn extend_lease(&self, lease: &Lease) {
        let key = lease_key(lease.handle);
        let extended = match self.store.swap(&key, &lease.token, lease.token.clone(), LEASE).await {
            Ok(Swap::Gone) => self.store.write_first(&key, lease.token.clone(), LEASE).await.map(drop),
            other => other.map(drop),
        };
        if let Err(error) = extended {
            tracing::debug!(%error, "a lease was not extended");
        }
    }

    pub(in crate::session) async fn release_lease(&self, lease: &Lease) {
        if self.store.remove_if(&lease_key(lease.handle), &lease.token).await.is_err() {
            self.release_later(Lease {
                handle: lease.handle,
                token: lease.token.clone(),
            });
        }
    }

    /// Starts a task that removes the lease: it tries until the store answers, or until the lease has expired.
    fn release_later(&self, lease: Lease) {
        let Some(sessions) = self.this.upgrade() else { return };
        let deadline = Instant::now() + LEASE;
        self.spawn(async move {
            while let Err(error) = sessions.store.remove_if(&lease_key(lease.handle), &lease.token).await {
                if Instant::now() >= deadline {
                    tracing::debug!(%error, "a lease was not removed and expires");
                    return;
                }
                sleep(REMOVE_PAUSE).await;
            }
        });
    }
}

/// The store's key of a lease. Part of the stored format.
pub fn lease_key(handle: Handle) -> String {
    format!("lease:{{{}}}", handle.to_hex())
}
