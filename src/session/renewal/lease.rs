//! Who renews a session: one process at a time by its lease, and what the others must know if it goes silent.
//!
//! A lease ends with its time; what a provider gave to a process that cannot reach the store does not. So who asks signs in
//! the session's card first. The others leave the session to it for a while, and do not take its provider's no for an answer
//! as long as it may hold a newer grant.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::cookie::SessionId;
use super::super::operations::{Read, key, random_id};
use super::super::record::Handle;
use super::super::revocations::log::millis;
use super::super::seal::{Asked, Opened, Seal, StoredCard};
use super::super::store::Swap;
use super::super::{Sessions, StoreError, unix_millis};

/// How long a lease holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);
/// How long others leave a session to who signed: its call and its writes.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(60);
/// How long `invalid_grant` ends no session that somebody else signed: it may hold the newer grant.
const DOUBT_MAX: Duration = Duration::from_secs(600);
/// After the store was away nobody renews for so long: who has what a provider gave writes it first.
const SETTLING: Duration = Duration::from_secs(2);
/// After the store was away a session that another process signed is left to it for so long, however long ago that was.
const LATE_COMERS: Duration = Duration::from_secs(10);
/// Signatures on one card.
const ASKED_MAX: usize = 8;
/// Tries of a compare-and-set that others keep winning.
const SWAPS_MAX: usize = 5;
/// Between tries to give a lease back.
const TAKE_BACK_PAUSE: Duration = Duration::from_millis(200);

impl Sessions {
    /// Whether nobody should renew anything yet.
    pub(in crate::session) fn is_settling(&self) -> bool {
        self.cache.back_for().is_some_and(|back| back < SETTLING)
    }

    /// Whether another process is renewing it, or may be about to write what it got.
    pub(in crate::session) fn is_left_to_others(&self, card: &StoredCard) -> bool {
        let just_back = self.cache.back_for().is_some_and(|back| back < LATE_COMERS);
        self.others(card, LEFT_TO_OTHERS) || (just_back && self.others(card, Duration::MAX))
    }

    /// Whether another process may have a newer grant.
    pub(in crate::session) fn is_doubtful(&self, card: &StoredCard) -> bool {
        self.others(card, DOUBT_MAX)
    }

    /// What this process signed itself counts for nothing: what it holds is under way here, and joined.
    fn others(&self, card: &StoredCard, within: Duration) -> bool {
        let now = unix_millis();
        // a clock that is ahead of ours signs in our future
        let young = |asked: &Asked| now.saturating_sub(asked.renewing_since).saturating_abs() < millis(within);
        card.asked.iter().any(|asked| asked.by != self.process && young(asked))
    }

    /// This process is about to ask.
    pub(in crate::session) fn sign(&self, card: &mut StoredCard) {
        let now = unix_millis();
        card.asked
            .retain(|asked| asked.by != self.process && now.saturating_sub(asked.renewing_since) < millis(DOUBT_MAX));
        if card.asked.len() >= ASKED_MAX {
            card.asked.remove(0);
        }
        card.asked.push(Asked {
            renewing_since: now,
            by: self.process.clone(),
        });
    }

    /// When this process was about to ask.
    pub(in crate::session) fn signed_at(&self, card: &StoredCard) -> Option<i64> {
        let own = card.asked.iter().find(|asked| asked.by == self.process);
        own.map(|asked| asked.renewing_since)
    }

    /// It asked, and got nothing.
    pub(in crate::session) async fn withdraw(&self, id: &SessionId) {
        for _ in 0..SWAPS_MAX {
            let Ok(Some(Read { raw, mut opened })) = self.read(id).await else {
                return;
            };
            let before = opened.card.asked.len();
            opened.card.asked.retain(|asked| asked.by != self.process);
            if opened.card.asked.len() == before {
                return;
            }
            // what stays holds others up for a while, no more
            if !matches!(self.swap_card(id, &raw, &opened).await, Ok(Swap::Changed)) {
                return;
            }
        }
    }

    /// Writes a changed card; what the session is stays, and how long it lives.
    pub(in crate::session) async fn swap_card(&self, id: &SessionId, raw: &[u8], opened: &Opened) -> Result<Swap, StoreError> {
        let value = self.seal.session(id, &opened.card, (&opened.data, &opened.links))?;
        let ttl = self.ttl(&opened.data, opened.card.card.used_at);
        self.store.swap(&key(Seal::handle(id)), raw, value, ttl).await
    }

    /// `None`: somebody else has it.
    pub(in crate::session) async fn lease(&self, handle: Handle) -> Result<Option<Vec<u8>>, StoreError> {
        let token = random_id()?.0.expose().to_vec();
        match self.store.write_first(&lease_key(handle), token.clone(), LEASE).await {
            Ok(first) => Ok(first.then_some(token)),
            Err(error) => {
                // it may have been written all the same: then nobody would renew the session before its time is over
                self.take_back(handle, token);
                Err(error)
            }
        }
    }

    /// Keeps it, or has it again if it ended meanwhile and nobody took it.
    pub(in crate::session) async fn keep(&self, handle: Handle, lease: &[u8]) {
        let place = lease_key(handle);
        let kept = match self.store.swap(&place, lease, lease.to_vec(), LEASE).await {
            Ok(Swap::Gone) => self.store.write_first(&place, lease.to_vec(), LEASE).await.map(drop),
            other => other.map(drop),
        };
        if let Err(error) = kept {
            tracing::debug!(%error, "a lease was not renewed");
        }
    }

    pub(in crate::session) async fn release(&self, handle: Handle, lease: &[u8]) {
        if self.store.remove_if(&lease_key(handle), lease).await.is_err() {
            self.take_back(handle, lease.to_vec());
        }
    }

    /// Tries until the store answers, as long as the lease could hold.
    fn take_back(&self, handle: Handle, lease: Vec<u8>) {
        let Some(me) = self.me.upgrade() else { return };
        let deadline = Instant::now() + LEASE;
        self.spawn(async move {
            while let Err(error) = me.store.remove_if(&lease_key(handle), &lease).await {
                if Instant::now() >= deadline {
                    tracing::debug!(%error, "a lease was not given back and ends with its time");
                    return;
                }
                sleep(TAKE_BACK_PAUSE).await;
            }
        });
    }
}

pub fn lease_key(handle: Handle) -> String {
    format!("lease:{{{}}}", handle.to_hex())
}
