//! A session's new id, after its privileges changed.
//!
//! An answer that is lost must not lose the session: the old value names the new id, sealed so that only the old cookie opens
//! it, and the old id goes on until somebody came with the new one. Then it lives for some seconds more, for requests
//! under way. Runs on the sessions' own runtime: a client that leaves cuts nothing in the middle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::cache::Cached;
use super::cookie::SessionId;
use super::operations::{Read, key, random_id};
use super::record::{Handle, Session};
use super::revocations::log::millis;
use super::seal::Seal;
use super::store::Swap;
use super::{SessionError, Sessions, StoreError, unix_millis};

/// How long an old id works after the first use of the one that it was rotated to, for requests under way.
const ROTATED_GRACE: Duration = Duration::from_secs(10);
/// Tries of a compare-and-set that others keep winning.
const SWAPS_MAX: usize = 5;
/// How long it is tried to find out whether a write without an answer took place.
const DOUBT_MAX: Duration = Duration::from_secs(10);
const DOUBT_PAUSE: Duration = Duration::from_millis(200);

type Rotated = Result<(SessionId, Arc<Session>), StoreError>;

impl Sessions {
    /// The same session under a new id: after its privileges changed. The old id works until some seconds after the new one
    /// was used. Refused while the session is being refreshed or rotated by another request; then the next one does it.
    pub async fn rotate(&self, id: &SessionId, session: &Session) -> Rotated {
        let gone = || StoreError::Refused("the gate is ending".to_owned());
        let me = self.me.upgrade().ok_or_else(gone)?;
        let (tell, told) = oneshot::channel();
        let (id, handle) = (id.clone(), session.handle);
        self.spawn(async move {
            let rotated = me.meters.measure("rotate", me.rotate_alone(&id, handle)).await;
            // who asked may have left: the next request is told
            drop(tell.send(rotated));
        });
        told.await.map_err(|_ended| gone())?
    }

    async fn rotate_alone(&self, id: &SessionId, handle: Handle) -> Rotated {
        let lease = self.lease(handle).await?;
        let lease = lease.ok_or_else(|| StoreError::Refused("the session is being changed by another request".to_owned()))?;
        let rotated = self.rotate_leased(id).await;
        self.release(handle, &lease).await;
        rotated
    }

    async fn rotate_leased(&self, id: &SessionId) -> Rotated {
        let mut successor: Option<(SessionId, Arc<Session>)> = None;
        let mut doubt = false;
        for _ in 0..SWAPS_MAX {
            let Some(Read { raw, mut opened }) = self.read_now(id).await? else {
                break;
            };
            if let Some(next) = opened.links.next {
                return self.follow_to(next).await;
            }
            if self.is_left_to_others(&opened.card) {
                break;
            }
            if successor.is_none() {
                let (new, mut data) = (random_id()?, opened.data.clone());
                data.rotation_due = false;
                let before = (id.clone(), Handle::from_hex(&opened.card.lineage));
                let session = self.begin(&new, data, Some(before)).await?;
                successor = Some((new, session));
            }
            let Some((new, session)) = &successor else { break };
            opened.card.successor = Some(session.handle.to_hex());
            opened.links.next = Some(new.clone());
            // the grant has one owner: who is refreshed under the old id would spoil it
            opened.data.grant = None;
            opened.data.rotation_due = false;
            let value = self.seal.session(id, &opened.card, (&opened.data, &opened.links))?;
            let ttl = self.ttl(&opened.data, opened.card.card.used_at);
            match self.store.swap(&key(Seal::handle(id)), &raw, value.clone(), ttl).await {
                Ok(Swap::Done) => {}
                Ok(Swap::Changed | Swap::Gone) => continue,
                Err(_) => {
                    // it may have been done all the same, or may be yet: nobody must take the new one away
                    doubt = true;
                    if !self.is_stored(id, &value).await? {
                        continue;
                    }
                }
            }
            self.forget_session(Seal::handle(id)).await;
            return Ok((new.clone(), Arc::clone(session)));
        }
        if let Some((_, session)) = successor.filter(|_| !doubt) {
            self.cache.remove(session.handle);
            self.store.remove(&key(session.handle)).await?;
        }
        Err(StoreError::Refused("the session was changed by another request".to_owned()))
    }

    async fn read_now(&self, id: &SessionId) -> Result<Option<Read>, StoreError> {
        match self.read(id).await {
            Ok(read) => Ok(read),
            Err(SessionError::Unavailable(error)) => Err(error),
            Err(_over) => Ok(None),
        }
    }

    /// What somebody else rotated it to. Not `find`: nobody came with the new id yet.
    async fn follow_to(&self, next: SessionId) -> Rotated {
        let moment = self.cache.moment();
        let over = || StoreError::Refused("what the session was rotated to is over".to_owned());
        let Read { opened, .. } = self.read_now(&next).await?.ok_or_else(over)?;
        match self.admit(&next, &opened, moment) {
            Ok(cached) => Ok((next, Arc::clone(&cached.session))),
            Err(SessionError::Unavailable(error)) => Err(error),
            Err(_over) => Err(over()),
        }
    }

    /// Whether a write that was not answered took place. An error: nobody can tell.
    async fn is_stored(&self, id: &SessionId, value: &[u8]) -> Result<bool, StoreError> {
        let deadline = Instant::now() + DOUBT_MAX;
        loop {
            match self.store.read(&key(Seal::handle(id))).await {
                Ok(stored) => return Ok(stored.is_some_and(|stored| stored == value)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_away) => sleep(DOUBT_PAUSE).await,
            }
        }
    }

    /// Somebody came with a new id, so the browser has it: beside its own way, one request puts an end to the old one.
    pub(super) fn prove_if_due(&self, id: &SessionId, cached: &Arc<Cached>) {
        if !cached.unproven.load(Ordering::Acquire) || !cached.unproven.swap(false, Ordering::AcqRel) {
            return;
        }
        let Some(me) = self.me.upgrade() else { return };
        let (id, cached) = (id.clone(), Arc::clone(cached));
        self.spawn(async move {
            if let Err(error) = me.meters.measure("prove", me.prove(&id)).await {
                tracing::debug!(%error, "the old id of a session goes on for now");
                cached.unproven.store(true, Ordering::Release);
            }
        });
    }

    async fn prove(&self, id: &SessionId) -> Result<(), StoreError> {
        for _ in 0..SWAPS_MAX {
            let Some(Read { raw, mut opened }) = self.read_now(id).await? else {
                return Ok(());
            };
            if !opened.card.unproven {
                return Ok(());
            }
            if let Some(previous) = &opened.links.previous {
                self.outdate(previous).await?;
            }
            opened.card.unproven = false;
            if self.swap_card(id, &raw, &opened).await? != Swap::Changed {
                return Ok(());
            }
        }
        Err(StoreError::Refused("the session was changed by another request".to_owned()))
    }

    /// The end of an old id, some seconds from now.
    async fn outdate(&self, id: &SessionId) -> Result<(), StoreError> {
        for _ in 0..SWAPS_MAX {
            let Some(Read { raw, mut opened }) = self.read_now(id).await? else {
                return Ok(());
            };
            if opened.card.ends_at.is_some() {
                return Ok(());
            }
            opened.card.ends_at = Some(unix_millis().saturating_add(millis(ROTATED_GRACE)));
            let value = self.seal.session(id, &opened.card, (&opened.data, &opened.links))?;
            if self.store.swap(&key(Seal::handle(id)), &raw, value, ROTATED_GRACE).await? != Swap::Changed {
                self.forget_session(Seal::handle(id)).await;
                return Ok(());
            }
        }
        Err(StoreError::Refused("the session was changed by another request".to_owned()))
    }
}
