//! Renewing a session's grant at its provider: once, however many requests and replicas want it.
//!
//! Three things race: requests of one process, processes of one deployment, and the provider that may rotate the
//! refresh token, so that a second call with the old token fails. Requests of one process share one renewal
//! (`single_flight`). Between processes a lease in the store decides (`lease`); it is longer than the provider call and
//! is extended meanwhile. Its holder reads the session again before it calls, because another process may have renewed
//! it already.
//!
//! The order is: lease, claim, call, write, release. The claim is written into the session before the provider is
//! called, because a lease expires: a process that takes the next lease must know that the stored grant may be spent.
//! Then:
//! - If the provider does not answer, the session stays as it is, the claim is released, and renewals pause for
//!   `PAUSE`.
//! - If the store fails before the call, the provider is not called. If it fails after the call, the result is written
//!   again and again (`write`), because a rotated refresh token cannot be fetched twice.
//! - If a client leaves, nothing changes: the renewal runs on the sessions' own runtime.
//! - If this process dies after the call, its claim stays: other processes leave the session alone for a while, and for
//!   ten minutes they do not end it when the provider refuses the spent grant.

pub(super) mod due;
pub(super) mod lease;
pub(super) mod single_flight;
mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use self::lease::{Lease, lease_key};
use self::single_flight::{Join, RenewalGuard, ResultSender};
use super::cookie::SessionId;
use super::record::{Session, SessionData};
use super::seal::{OpenedSession, StoredSession};
use super::store_outcome::Swap;
use super::{RefreshError, SessionError, Sessions, millis};
use crate::base::clock::unix_millis;

/// Interval at which the lease is extended during the call.
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// Deadline of the provider call.
const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// Maximum time that a request waits for the renewal, and that a renewal waits for the lease.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// No renewal of the session for this long after the provider did not answer, or after it renewed.
const PAUSE: Duration = Duration::from_secs(10);
/// No renewal here for this long while another process has claimed the session.
const CLAIMED_PAUSE: Duration = Duration::from_secs(1);
/// Tries of a compare-and-set that other writers win.
const SWAPS_MAX: usize = 5;
/// Interval at which a process without the lease reads the session again.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Stored in place of a lease: the provider did not answer, and no process tries for a while.
const PAUSED: &[u8] = b"paused";

/// A session and the id that opens it, as a renewal passes them on.
#[derive(Clone, Copy)]
struct SessionRef<'a> {
    id: &'a SessionId,
    session: &'a Arc<Session>,
}

/// The result of one step of a renewal.
enum RenewalStep<T> {
    /// The renewal goes on with this.
    Proceed(T),
    /// The renewal is over: nothing to do, or another process did it. This is the session now.
    Finished(Arc<Session>),
}

impl Sessions {
    /// Starts no further renewals; sessions go on as they are.
    pub fn stop_renewing(&self) {
        self.renewals.close();
    }

    /// True if no renewal is running: every renewed grant is in the store.
    pub fn has_renewed(&self) -> bool {
        self.renewals.is_idle()
    }

    /// Renews a session's grant. However many requests and processes call it, `call` runs once; it goes on if the
    /// caller's request ends. Returns the session as it is afterwards: unchanged if the provider could not be asked.
    pub async fn refresh<F>(
        self: &Arc<Self>,
        id: &SessionId,
        session: &Arc<Session>,
        call: impl FnOnce(SessionData) -> F + Send + 'static,
    ) -> Result<Arc<Session>, SessionError>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let joined = if self.is_settling() {
            self.renewals.join(session.handle)
        } else {
            self.renewals.join_or_start(session.handle)
        };
        let mut receiver = match joined {
            Join::Wait(receiver) => receiver,
            Join::Skip => return Ok(Arc::clone(session)),
            Join::Start(sender) => {
                let receiver = sender.subscribe();
                let guard = RenewalGuard {
                    sessions: Arc::clone(self),
                    handle: session.handle,
                };
                let id = id.clone();
                let session = Arc::clone(session);
                self.spawn(async move {
                    let sessions = Arc::clone(&guard.sessions);
                    let renewed = SessionRef {
                        id: &id,
                        session: &session,
                    };
                    let renewal = sessions.renew(renewed, call, &sender);
                    let result = sessions.meters.measure("refresh", renewal).await;
                    // before the result: a caller that has the result may start the next renewal
                    drop(guard);
                    sender.send_replace(Some(result));
                });
                receiver
            }
        };
        let received = timeout(WAIT_MAX, receiver.wait_for(Option::is_some)).await;
        match received {
            Ok(Ok(result)) => result.clone().unwrap_or_else(|| Ok(Arc::clone(session))),
            // too late, or the renewal panicked: the session is still what it was
            Ok(Err(_)) | Err(_) => Ok(Arc::clone(session)),
        }
    }

    async fn renew<F>(
        &self,
        renewed: SessionRef<'_>,
        call: impl FnOnce(SessionData) -> F + Send + 'static,
        results: &ResultSender,
    ) -> Result<Arc<Session>, SessionError>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let lease = match self.wait_for_lease(renewed).await? {
            RenewalStep::Proceed(lease) => lease,
            RenewalStep::Finished(session) => return Ok(session),
        };
        let result = self.renew_with_lease(renewed, call, &lease, results).await;
        self.release_lease(&lease).await;
        result
    }

    /// Acquires the lease; finished if another process renews the session meanwhile, or if renewals are paused.
    async fn wait_for_lease(&self, renewed: SessionRef<'_>) -> Result<RenewalStep<Lease>, SessionError> {
        let SessionRef { id, session } = renewed;
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            match self.try_lease(session.handle).await {
                Ok(Some(lease)) => return Ok(RenewalStep::Proceed(lease)),
                Ok(None) => {}
                Err(_unavailable) => return Ok(RenewalStep::Finished(Arc::clone(session))),
            }
            let held = self.store.read(&lease_key(session.handle)).await;
            let is_over = self.renewals.is_closed() || Instant::now() >= deadline;
            if is_over || matches!(held, Ok(Some(value)) if value == PAUSED) {
                return Ok(RenewalStep::Finished(Arc::clone(session)));
            }
            sleep(LOOK_INTERVAL).await;
            let generation = self.cache.generation();
            match self.read(id).await {
                Ok(Some(stored)) if stored.opened.version != session.version => {
                    let cached = self.admit(id, &stored.opened, generation)?;
                    return Ok(RenewalStep::Finished(Arc::clone(&cached.session)));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(SessionError::Missing),
                Err(_unavailable) => return Ok(RenewalStep::Finished(Arc::clone(session))),
            }
        }
    }

    async fn renew_with_lease<F>(
        &self,
        renewed: SessionRef<'_>,
        call: impl FnOnce(SessionData) -> F + Send + 'static,
        lease: &Lease,
        results: &ResultSender,
    ) -> Result<Arc<Session>, SessionError>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let session = renewed.session;
        let sent = match self.write_claim(renewed).await? {
            RenewalStep::Proceed(sent) => sent,
            RenewalStep::Finished(session) => return Ok(session),
        };
        match self.call_with_lease(call(sent.clone()), lease).await {
            Ok(mut data) if data.issuer == sent.issuer && data.subject == sent.subject => {
                let differ = self.privileges_differ(&sent, &data);
                data.rotation_due = differ || data.rotation_due || sent.rotation_due;
                data.created_at = sent.created_at;
                data.provider = sent.provider.clone();
                data.portal = sent.portal.clone();
                self.write_renewed(renewed.id, &data, &sent, lease, results).await
            }
            Ok(_) => Err(self.end_refused(session, "the provider renewed another subject").await),
            Err(RefreshError::Foreign(cause)) => Err(self.end_refused(session, &cause).await),
            Err(RefreshError::Ended(cause)) => self.handle_ended_grant(renewed, &sent, &cause, lease).await,
            Err(RefreshError::Temporary(cause)) => {
                tracing::warn!(
                    session = session.handle.to_hex(),
                    why = cause,
                    "a session was not renewed and goes on as it is"
                );
                self.pause_renewals(renewed, lease).await;
                Ok(Arc::clone(session))
            }
        }
    }

    /// Writes this process's claim into the session before the provider is called; returns the data to renew. Finished
    /// if the session was renewed or rotated meanwhile, if another process has claimed it, or if the store does not
    /// take the claim.
    async fn write_claim(&self, renewed: SessionRef<'_>) -> Result<RenewalStep<SessionData>, SessionError> {
        let SessionRef { id, session } = renewed;
        for _ in 0..SWAPS_MAX {
            let generation = self.cache.generation();
            let StoredSession { raw, mut opened } = match self.read(id).await {
                Ok(Some(stored)) => stored,
                Ok(None) => return Err(SessionError::Missing),
                Err(_unavailable) => return Ok(RenewalStep::Finished(Arc::clone(session))),
            };
            let current = self.admit(id, &opened, generation)?;
            let has_changed = opened.version != session.version || opened.header.successor.is_some();
            if has_changed || self.renewals.is_closed() || self.is_settling() || was_just_renewed(&opened) {
                return Ok(RenewalStep::Finished(Arc::clone(&current.session)));
            }
            if self.is_claimed_by_another(&opened.header) {
                self.renewals.pause(session.handle, CLAIMED_PAUSE);
                return Ok(RenewalStep::Finished(Arc::clone(&current.session)));
            }
            self.claim(&mut opened.header);
            match self.swap_session(id, &raw, &opened).await {
                Ok(Swap::Done) => return Ok(RenewalStep::Proceed(opened.data)),
                Ok(Swap::Changed | Swap::Gone) => {}
                Err(error) => {
                    tracing::debug!(%error, "a session is not renewed: the store did not take the renewal claim");
                    break;
                }
            }
        }
        Ok(RenewalStep::Finished(Arc::clone(session)))
    }

    /// Releases the claim and replaces the lease, so that no process renews the session for `PAUSE`.
    async fn pause_renewals(&self, renewed: SessionRef<'_>, lease: &Lease) {
        self.renewals.pause(renewed.session.handle, PAUSE);
        self.release_claim(renewed.id).await;
        let paused = self
            .store
            .swap(&lease_key(lease.handle), &lease.token, PAUSED.to_vec(), PAUSE)
            .await;
        // if the store fails, other processes may try at once, and find the provider as it is
        drop(paused);
    }

    /// The provider refused the grant that was sent. The session ends, unless it has a newer grant or another process
    /// may hold one.
    async fn handle_ended_grant(
        &self,
        renewed: SessionRef<'_>,
        sent: &SessionData,
        cause: &str,
        lease: &Lease,
    ) -> Result<Arc<Session>, SessionError> {
        let SessionRef { id, session } = renewed;
        let generation = self.cache.generation();
        let may_have_newer = match self.read(id).await {
            Ok(Some(StoredSession { opened, .. })) if opened.data.grant != sent.grant => {
                return self.admit(id, &opened, generation).map(|cached| Arc::clone(&cached.session));
            }
            Ok(Some(StoredSession { opened, .. })) => self.may_another_hold_newer_grant(&opened.header),
            Ok(None) => return Err(SessionError::Missing),
            Err(_unavailable) => true,
        };
        if !may_have_newer {
            return Err(self.end_refused(session, cause).await);
        }
        tracing::warn!(
            session = session.handle.to_hex(),
            why = cause,
            "a session goes on although its provider refused its grant: another gate may have a newer one"
        );
        self.pause_renewals(renewed, lease).await;
        Ok(Arc::clone(session))
    }

    /// Runs the provider call and extends the lease meanwhile.
    async fn call_with_lease(
        &self,
        call: impl Future<Output = Result<SessionData, RefreshError>>,
        lease: &Lease,
    ) -> Result<SessionData, RefreshError> {
        let extending = async {
            loop {
                sleep(LEASE_RENEWAL).await;
                self.extend_lease(lease).await;
            }
        };
        tokio::select! {
            answered = timeout(CALL_DEADLINE, call) => {
                answered.unwrap_or_else(|_late| Err(RefreshError::Temporary("the provider did not answer in time".to_owned())))
            }
            () = extending => Err(RefreshError::Temporary("the lease was lost".to_owned())),
        }
    }
}

/// Renewed within `PAUSE` and not due again: skip another renewal.
fn was_just_renewed(opened: &OpenedSession) -> bool {
    let now = unix_millis();
    let due = opened.data.grant.as_ref().and_then(|grant| grant.refresh_at);
    // another replica's clock may be ahead: compare absolute differences
    let is_recent = |at: i64| now.saturating_sub(at).saturating_abs() < millis(PAUSE);
    opened.header.renewed_at.is_some_and(is_recent) && due.is_none_or(|due| now < due)
}
