//! Giving a session a new id after its privileges changed.
//!
//! Two things race: the response that carries the new cookie may be lost, and requests with the old id may be on their
//! way. So the order is: the session is stored under the new id, unconfirmed; then the old value gets a link to the new
//! id, sealed so that only the old cookie opens it, and its grant is removed, because one id must own the grant. Until
//! a request uses the new id, the old id works (at most until its idle timeout) and every response to it may carry the
//! new cookie again. The first use of the new id confirms it: the old id then ends after `ROTATED_GRACE`.
//!
//! If the write of the link gets no answer, it may have happened or not: the rotation reads the value until it knows,
//! and never removes the new value meanwhile. If the rotation fails for certain, the new value is removed and the old
//! id goes on. If a client leaves, nothing changes: the rotation runs on the sessions' own runtime.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::cache::CachedSession;
use super::cookie::SessionId;
use super::operations::{Predecessor, random_id};
use super::record::{Handle, Session, session_key};
use super::seal::{Seal, StoredSession};
use super::store_outcome::Swap;
use super::{IdentifiedSession, SessionError, Sessions, StoreError, millis};
use crate::base::clock::unix_millis;

/// Time for which an old id works after the first use of the new id, for requests on their way.
const ROTATED_GRACE: Duration = Duration::from_secs(10);
/// Tries of a compare-and-set that other writers win.
const SWAPS_MAX: usize = 5;
/// Time in which it is tried to find out whether a write without an answer happened.
const UNKNOWN_MAX: Duration = Duration::from_secs(10);
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);

impl Sessions {
    /// Gives the session a new id. The old id works until some seconds after the first use of the new one. Refused
    /// while the session is being renewed or rotated by another request; the next request tries again.
    pub async fn rotate(&self, id: &SessionId, session: &Session) -> Result<IdentifiedSession, StoreError> {
        let ending = || StoreError::Refused("the gate is ending".to_owned());
        let sessions = self.this.upgrade().ok_or_else(ending)?;
        let (sender, receiver) = oneshot::channel();
        let id = id.clone();
        let handle = session.handle;
        self.spawn(async move {
            let rotated = sessions
                .meters
                .measure("rotate", sessions.rotate_exclusively(&id, handle))
                .await;
            // the caller's request may have ended: the next request with the old id gets the new one
            drop(sender.send(rotated));
        });
        receiver.await.map_err(|_ended| ending())?
    }

    async fn rotate_exclusively(&self, id: &SessionId, handle: Handle) -> Result<IdentifiedSession, StoreError> {
        let lease = self.try_lease(handle).await?;
        let lease = lease.ok_or_else(|| StoreError::Refused("the session is being changed by another request".to_owned()))?;
        let rotated = self.rotate_with_lease(id).await;
        self.release_lease(&lease).await;
        rotated
    }

    async fn rotate_with_lease(&self, id: &SessionId) -> Result<IdentifiedSession, StoreError> {
        let mut successor: Option<IdentifiedSession> = None;
        // true after a write without an answer: the old value may link to the successor
        let mut may_be_linked = false;
        for _ in 0..SWAPS_MAX {
            let Some(StoredSession { raw, mut opened }) = self.read_living(id).await? else {
                break;
            };
            if let Some(next) = opened.links.next {
                return self.existing_successor(next).await;
            }
            if self.is_claimed_by_another(&opened.header) {
                break;
            }
            if successor.is_none() {
                let new_id = random_id()?;
                let mut data = opened.data.clone();
                data.rotation_due = false;
                let predecessor = Predecessor {
                    id: id.clone(),
                    lineage: Handle::from_hex(&opened.header.lineage),
                };
                let session = self.create_under(&new_id, data, Some(predecessor)).await?;
                successor = Some(IdentifiedSession { id: new_id, session });
            }
            let Some(new) = &successor else { break };
            opened.header.successor = Some(new.session.handle.to_hex());
            opened.links.next = Some(new.id.clone());
            // one id owns the grant: a renewal under the old id would spend it
            opened.data.grant = None;
            opened.data.rotation_due = false;
            let value = self.seal.session(id, &opened.header, &opened.data, &opened.links)?;
            let ttl = self.ttl(&opened.data, opened.header.summary.used_at);
            let key = session_key(Seal::handle(id));
            match self.store.swap(&key, &raw, value.clone(), ttl).await {
                Ok(Swap::Done) => {}
                Ok(Swap::Changed | Swap::Gone) => continue,
                Err(_no_answer) => {
                    // it may have happened, or may happen yet: the new value must stay
                    may_be_linked = true;
                    if !self.is_stored(id, &value).await? {
                        continue;
                    }
                }
            }
            self.announce_change(Seal::handle(id)).await;
            return Ok(new.clone());
        }
        if let Some(new) = successor.filter(|_| !may_be_linked) {
            self.cache.remove(new.session.handle);
            self.store.remove(&session_key(new.session.handle)).await?;
        }
        Err(StoreError::Refused("the session was changed by another request".to_owned()))
    }

    /// Reads a session; `None` if it is over or cannot be opened.
    async fn read_living(&self, id: &SessionId) -> Result<Option<StoredSession>, StoreError> {
        match self.read(id).await {
            Ok(stored) => Ok(stored),
            Err(SessionError::Unavailable(error)) => Err(error),
            Err(_over) => Ok(None),
        }
    }

    /// The session under the new id of an earlier rotation. Does not use `find`, which would confirm the new id: no
    /// request has used it yet.
    async fn existing_successor(&self, next: SessionId) -> Result<IdentifiedSession, StoreError> {
        let generation = self.cache.generation();
        let over = || StoreError::Refused("the session under the new id is over".to_owned());
        let StoredSession { opened, .. } = self.read_living(&next).await?.ok_or_else(over)?;
        match self.admit(&next, &opened, generation) {
            Ok(cached) => Ok(IdentifiedSession {
                id: next,
                session: Arc::clone(&cached.session),
            }),
            Err(SessionError::Unavailable(error)) => Err(error),
            Err(_over) => Err(over()),
        }
    }

    /// True if a write without an answer happened. An error if the store does not say so within `UNKNOWN_MAX`.
    async fn is_stored(&self, id: &SessionId, value: &[u8]) -> Result<bool, StoreError> {
        let deadline = Instant::now() + UNKNOWN_MAX;
        loop {
            match self.store.read(&session_key(Seal::handle(id))).await {
                Ok(stored) => return Ok(stored.is_some_and(|stored| stored == value)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_unavailable) => sleep(UNKNOWN_PAUSE).await,
            }
        }
    }

    /// Starts a task that confirms a new id: the first request that uses it takes the flag. If the store fails, the
    /// flag is set again and a later request tries.
    pub(super) fn confirm_if_due(&self, id: &SessionId, cached: &Arc<CachedSession>) {
        if !cached.unconfirmed.load(Ordering::Acquire) || !cached.unconfirmed.swap(false, Ordering::AcqRel) {
            return;
        }
        let Some(sessions) = self.this.upgrade() else { return };
        let id = id.clone();
        let cached = Arc::clone(cached);
        self.spawn(async move {
            if let Err(error) = sessions.meters.measure("prove", sessions.confirm(&id)).await {
                tracing::debug!(%error, "the previous id of a session stays valid for now");
                cached.unconfirmed.store(true, Ordering::Release);
            }
        });
    }

    /// Ends the previous id first, then marks the new id as confirmed: if the process stops in between, the next use
    /// repeats both.
    async fn confirm(&self, id: &SessionId) -> Result<(), StoreError> {
        for _ in 0..SWAPS_MAX {
            let Some(StoredSession { raw, mut opened }) = self.read_living(id).await? else {
                return Ok(());
            };
            if !opened.header.unconfirmed {
                return Ok(());
            }
            if let Some(previous) = &opened.links.previous {
                self.end_previous(previous).await?;
            }
            opened.header.unconfirmed = false;
            if self.swap_session(id, &raw, &opened).await? != Swap::Changed {
                return Ok(());
            }
        }
        Err(StoreError::Refused("the session was changed by another request".to_owned()))
    }

    /// Sets the end of a previous id, `ROTATED_GRACE` from now.
    async fn end_previous(&self, id: &SessionId) -> Result<(), StoreError> {
        for _ in 0..SWAPS_MAX {
            let Some(StoredSession { raw, mut opened }) = self.read_living(id).await? else {
                return Ok(());
            };
            if opened.header.ends_at.is_some() {
                return Ok(());
            }
            opened.header.ends_at = Some(unix_millis().saturating_add(millis(ROTATED_GRACE)));
            let value = self.seal.session(id, &opened.header, &opened.data, &opened.links)?;
            let key = session_key(Seal::handle(id));
            if self.store.swap(&key, &raw, value, ROTATED_GRACE).await? != Swap::Changed {
                self.announce_change(Seal::handle(id)).await;
                return Ok(());
            }
        }
        Err(StoreError::Refused("the session was changed by another request".to_owned()))
    }
}
