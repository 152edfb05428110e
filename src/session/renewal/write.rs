//! Writing the result of a renewal: the renewed grant, or the end of the session.
//!
//! The write races with uses, rotations and renewals of other processes. `try_write` reads the session, checks that its
//! grant still is the one that was sent to the provider, and writes with a compare-and-set; if another writer was
//! faster, it reads again. If the session was rotated meanwhile, the grant went to the new id, and so does the write.
//! If another process renewed the grant, its value stays. If the store fails, `write_renewed` tries until it succeeds
//! or the session expires: the grant exists only here. Requests that wait get the first failure.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lease::{LEASE, Lease};
use super::single_flight::ResultSender;
use crate::base::clock::unix_millis;
use crate::session::cookie::SessionId;
use crate::session::record::{RevocationKey, Session, SessionData, session_key};
use crate::session::revocations::log::RevocationEntry;
use crate::session::seal::{Seal, StoredSession};
use crate::session::store_outcome::Swap;
use crate::session::{SessionError, Sessions, StoreError};

/// Pause between two tries to write a renewed grant; doubles from the first to the second.
const WRITE_PAUSE_MIN: Duration = Duration::from_millis(50);
const WRITE_PAUSE_MAX: Duration = Duration::from_millis(500);

impl Sessions {
    /// Retries the write until it succeeds, another replica renewed, or the session expires. Waiters get the first
    /// failure. `sent` is the data that was sent to the provider, `data` the renewed data.
    pub(super) async fn write_renewed(
        &self,
        id: &SessionId,
        data: &SessionData,
        sent: &SessionData,
        lease: &Lease,
        results: &ResultSender,
    ) -> Result<Arc<Session>, SessionError> {
        let mut pause = WRITE_PAUSE_MIN;
        loop {
            match self.try_write(id.clone(), data, sent).await {
                Err(SessionError::Unavailable(error)) => {
                    tracing::warn!(%error, "a renewed session is not in the store yet; trying again");
                    self.meters.count("refresh_write", error.label());
                    results.send_replace(Some(Err(SessionError::Unavailable(error))));
                }
                result => return result,
            }
            sleep(pause).await;
            pause = (pause * 2).min(WRITE_PAUSE_MAX);
            if unix_millis() >= self.absolute_end(data) {
                return Err(SessionError::Expired);
            }
            self.extend_lease(lease).await;
        }
    }

    /// Writes over every other change of the session, as long as its grant still is the one that was sent.
    async fn try_write(&self, mut id: SessionId, data: &SessionData, sent: &SessionData) -> Result<Arc<Session>, SessionError> {
        loop {
            let generation = self.cache.generation();
            let Some(StoredSession { raw, mut opened }) = self.read(&id).await? else {
                return Err(SessionError::Missing);
            };
            if let Some(next) = opened.links.next.take() {
                // the session was rotated meanwhile, and the new id has the grant
                id = next;
                continue;
            }
            if opened.data.grant != sent.grant {
                tracing::warn!(
                    session = Seal::handle(&id).to_hex(),
                    "another gate renewed a session meanwhile; its grant stays"
                );
                return self.admit(&id, &opened, generation).map(|cached| Arc::clone(&cached.session));
            }
            // the session was used when the renewal was claimed, not when its result is written
            let used_at = opened.header.summary.used_at;
            let claimed_at = self.claimed_at(&opened.header).unwrap_or(used_at);
            opened.header.summary.used_at = used_at.max(claimed_at);
            opened.header.renewal_claims.clear();
            opened.header.renewed_at = Some(unix_millis());
            let value = self.seal.session(&id, &opened.header, data, &opened.links);
            let value = value.map_err(StoreError::from)?;
            let ttl = self.ttl(data, opened.header.summary.used_at);
            let handle = Seal::handle(&id);
            let swapped = self.store.swap(&session_key(handle), &raw, value.clone(), ttl).await?;
            if swapped == Swap::Done {
                self.announce_change(handle).await;
                let opened = self.seal.open_session(&id, &value).map_err(StoreError::from)?;
                let cached = self.admit(&id, &opened, self.cache.generation())?;
                return Ok(Arc::clone(&cached.session));
            }
        }
    }

    /// Ends a session because its provider ended the grant: in this process at once, in the store with retries for as
    /// long as a lease lives. If the store does not answer for longer, only this process knows that the session ended.
    pub(super) async fn end_refused(&self, session: &Session, cause: &str) -> SessionError {
        tracing::info!(session = session.handle.to_hex(), why = cause, "the provider ended a session");
        let at = unix_millis();
        let deadline = Instant::now() + LEASE;
        let key = RevocationKey::session(session.handle);
        self.revocation_log.add([RevocationEntry { key, at }], at);
        let mut pause = WRITE_PAUSE_MIN;
        while let Err(error) = self.end(session).await {
            if Instant::now() >= deadline {
                tracing::error!(%error, "a session that its provider ended could not be ended in the store");
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(WRITE_PAUSE_MAX);
        }
        SessionError::Revoked
    }
}
