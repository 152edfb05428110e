//! One refresh per session, however many ask: in this process they share one flight, between processes a lease decides.
//!
//! The lease is longer than the call that it protects, and renewed. Whoever has it reads the session again first: somebody else
//! may have been faster. A flight runs on the sessions' own runtime, so no client takes it down with it; what the provider
//! gave is written until it is in, because a rotated refresh token cannot be had twice. That somebody is at it is in the
//! session itself before the provider is asked: a lease ends with its time, and who follows must know that the grant may be
//! spent. A provider that does not answer changes nothing.

pub(super) mod lease;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::lease::{LEASE, lease_key};
use super::cookie::SessionId;
use super::operations::{Read, key};
use super::record::{Handle, Mark, Session, SessionData};
use super::revocations::log::{Entry, millis};
use super::seal::{Opened, Seal};
use super::store::Swap;
use super::{RefreshError, SessionError, Sessions, StoreError, unix_millis};

const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// How long the provider may take.
const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// How long who asked waits, here or for another process.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// Not tried again for so long after the provider could not be asked, or renewed it.
const PAUSE: Duration = Duration::from_secs(10);
/// Not looked at again for so long while another process is at it.
const OTHERS_PAUSE: Duration = Duration::from_secs(1);
/// Tries of a compare-and-set that others keep winning.
const SWAPS_MAX: usize = 5;
/// How often who lost the lease looks whether the session is new.
const LOOK: Duration = Duration::from_millis(200);
/// Between tries to write what the provider gave.
const WRITE_PAUSE_MIN: Duration = Duration::from_millis(50);
const WRITE_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Refreshes at once; past it sessions go on as they are.
const FLIGHTS_MAX: usize = 10_000;
/// In place of a lease: the provider did not answer, nobody tries for a while.
const PAUSED: &[u8] = b"paused";

type Landing = watch::Receiver<Option<Result<Arc<Session>, SessionError>>>;
type Tower = watch::Sender<Option<Result<Arc<Session>, SessionError>>>;

/// The refreshes under way in this process.
pub struct Flights {
    under_way: Mutex<HashMap<Handle, Landing>>,
    paused: Cache<[u8; 32], Instant>,
    /// The gate leaves: what is under way ends, nothing begins.
    closed: AtomicBool,
}

enum Boarding {
    Join(Landing),
    Begin(Tower),
    /// The session stays as it is.
    Stay,
}

/// Takes the flight off the board however it ends.
struct Airborne {
    sessions: Arc<Sessions>,
    handle: Handle,
}

impl Drop for Airborne {
    fn drop(&mut self) {
        self.sessions.flights.board_lock().remove(&self.handle);
    }
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
            paused: Cache::new(FLIGHTS_MAX),
            closed: AtomicBool::new(false),
        }
    }
}

impl Flights {
    fn board_lock(&self) -> MutexGuard<'_, HashMap<Handle, Landing>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(&self, handle: Handle, may_begin: bool) -> Boarding {
        let mut under_way = self.board_lock();
        if let Some(landing) = under_way.get(&handle) {
            return Boarding::Join(landing.clone());
        }
        let paused = self.paused.get(&handle.0).is_some_and(|until| Instant::now() < until);
        // under the lock: who closes sees every flight that began before
        if !may_begin || paused || self.is_closed() || under_way.len() >= FLIGHTS_MAX {
            return Boarding::Stay;
        }
        let tower = Tower::new(None);
        under_way.insert(handle, tower.subscribe());
        Boarding::Begin(tower)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn have_landed(&self) -> bool {
        self.board_lock().is_empty()
    }

    /// Until nothing is under way.
    pub async fn landed(&self) {
        while !self.have_landed() {
            sleep(WRITE_PAUSE_MIN).await;
        }
    }
}

impl Sessions {
    /// No renewal begins any more; a session goes on as it is.
    pub fn stop_renewing(&self) {
        self.flights.closed.store(true, Ordering::Release);
    }

    /// Whether no renewal is under way: what a provider gave is in the store.
    pub fn has_renewed(&self) -> bool {
        self.flights.have_landed()
    }

    /// Renews a session's grant. However many ask, in however many processes, `call` runs once; it goes on if whoever asked
    /// goes away. Returns the session as it is afterwards: unchanged if the provider could not be asked.
    pub async fn refresh<F>(
        self: &Arc<Self>,
        id: &SessionId,
        session: &Arc<Session>,
        call: impl FnOnce(SessionData) -> F + Send + 'static,
    ) -> Result<Arc<Session>, SessionError>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let mut landing = match self.flights.board(session.handle, !self.is_settling()) {
            Boarding::Join(landing) => landing,
            Boarding::Stay => return Ok(Arc::clone(session)),
            Boarding::Begin(tower) => {
                let landing = tower.subscribe();
                let airborne = Airborne {
                    sessions: Arc::clone(self),
                    handle: session.handle,
                };
                let (id, session) = (id.clone(), Arc::clone(session));
                self.spawn(async move {
                    let me = Arc::clone(&airborne.sessions);
                    let outcome = me.meters.measure("refresh", me.fly((&id, &session), call, &tower)).await;
                    // whoever is told may ask again
                    drop(airborne);
                    tower.send_replace(Some(outcome));
                });
                landing
            }
        };
        let landed = timeout(WAIT_MAX, landing.wait_for(Option::is_some)).await;
        match landed {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Ok(Arc::clone(session))),
            // late, or the flight was lost: what the session is, it still is
            Ok(Err(_)) | Err(_) => Ok(Arc::clone(session)),
        }
    }

    async fn fly<F>(
        &self,
        (id, session): (&SessionId, &Arc<Session>),
        call: impl FnOnce(SessionData) -> F + Send + 'static,
        tower: &Tower,
    ) -> Result<Arc<Session>, SessionError>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let lease = match self.lease_or_news(id, session).await? {
            Ok(lease) => lease,
            Err(news) => return Ok(news),
        };
        let outcome = self.fly_leased((id, session), (call, &lease), tower).await;
        self.release(session.handle, &lease).await;
        outcome
    }

    /// The lease, or the session as somebody else left it.
    async fn lease_or_news(&self, id: &SessionId, session: &Arc<Session>) -> Result<Result<Vec<u8>, Arc<Session>>, SessionError> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            match self.lease(session.handle).await {
                Ok(Some(lease)) => return Ok(Ok(lease)),
                Ok(None) => {}
                Err(_away) => return Ok(Err(Arc::clone(session))),
            }
            let held = self.store.read(&lease_key(session.handle)).await;
            let over = self.flights.is_closed() || Instant::now() >= deadline;
            if over || matches!(held, Ok(Some(value)) if value == PAUSED) {
                return Ok(Err(Arc::clone(session)));
            }
            sleep(LOOK).await;
            let moment = self.cache.moment();
            match self.read(id).await {
                Ok(Some(read)) if read.opened.version != session.version => {
                    let cached = self.admit(id, &read.opened, moment)?;
                    return Ok(Err(Arc::clone(&cached.session)));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(SessionError::Missing),
                Err(_away) => return Ok(Err(Arc::clone(session))),
            }
        }
    }

    async fn fly_leased<F>(
        &self,
        (id, session): (&SessionId, &Arc<Session>),
        (call, lease): (impl FnOnce(SessionData) -> F + Send + 'static, &[u8]),
        tower: &Tower,
    ) -> Result<Arc<Session>, SessionError>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let sent = match self.announce(id, session).await? {
            Ok(sent) => sent,
            Err(stays) => return Ok(stays),
        };
        match self.call_leased(call(sent.clone()), session.handle, lease).await {
            Ok(mut data) if data.issuer == sent.issuer && data.subject == sent.subject => {
                let differ = self.privileges_differ(&sent, &data);
                data.rotation_due = differ || data.rotation_due || sent.rotation_due;
                data.created_at = sent.created_at;
                data.provider = sent.provider.clone();
                data.portal = sent.portal.clone();
                self.write_renewed(id, (&data, &sent), (lease, tower)).await
            }
            Ok(_) => Err(self.end_refused(session, "the provider renewed another subject").await),
            Err(RefreshError::Foreign(why)) => Err(self.end_refused(session, &why).await),
            Err(RefreshError::Ended(why)) => self.refused((id, session), (&sent, &why), lease).await,
            Err(RefreshError::Temporary(why)) => {
                tracing::warn!(
                    session = session.handle.to_hex(),
                    why,
                    "a session was not renewed and goes on as it is"
                );
                self.postpone((id, session), lease).await;
                Ok(Arc::clone(session))
            }
        }
    }

    /// Says in the session itself that its grant may be spent from now on, before its provider is asked; gives the data to
    /// renew, or the session as it is for now.
    async fn announce(&self, id: &SessionId, session: &Arc<Session>) -> Result<Result<SessionData, Arc<Session>>, SessionError> {
        for _ in 0..SWAPS_MAX {
            let moment = self.cache.moment();
            let Read { raw, mut opened } = match self.read(id).await {
                Ok(Some(read)) => read,
                Ok(None) => return Err(SessionError::Missing),
                Err(_away) => return Ok(Err(Arc::clone(session))),
            };
            let current = self.admit(id, &opened, moment)?;
            let changed = opened.version != session.version || opened.card.successor.is_some();
            if changed || self.flights.is_closed() || self.is_settling() || is_fresh(&opened) {
                return Ok(Err(Arc::clone(&current.session)));
            }
            if self.is_left_to_others(&opened.card) {
                self.flights.paused.insert(session.handle.0, Instant::now() + OTHERS_PAUSE);
                return Ok(Err(Arc::clone(&current.session)));
            }
            self.sign(&mut opened.card);
            match self.swap_card(id, &raw, &opened).await {
                Ok(Swap::Done) => return Ok(Ok(opened.data)),
                Ok(Swap::Changed | Swap::Gone) => {}
                Err(error) => {
                    tracing::debug!(%error, "a session is not renewed: the store does not take that somebody is at it");
                    break;
                }
            }
        }
        Ok(Err(Arc::clone(session)))
    }

    /// Nobody asks for a while.
    async fn postpone(&self, (id, session): (&SessionId, &Arc<Session>), lease: &[u8]) {
        self.flights.paused.insert(session.handle.0, Instant::now() + PAUSE);
        self.withdraw(id).await;
        let paused = self
            .store
            .swap(&lease_key(session.handle), lease, PAUSED.to_vec(), PAUSE)
            .await;
        drop(paused);
    }

    /// The provider does not take the grant (any more): the end, unless somebody else has a newer one.
    async fn refused(
        &self,
        (id, session): (&SessionId, &Arc<Session>),
        (sent, why): (&SessionData, &str),
        lease: &[u8],
    ) -> Result<Arc<Session>, SessionError> {
        let moment = self.cache.moment();
        let doubtful = match self.read(id).await {
            Ok(Some(Read { opened, .. })) if opened.data.grant != sent.grant => {
                return self.admit(id, &opened, moment).map(|cached| Arc::clone(&cached.session));
            }
            Ok(Some(Read { opened, .. })) => self.is_doubtful(&opened.card),
            Ok(None) => return Err(SessionError::Missing),
            Err(_away) => true,
        };
        if !doubtful {
            return Err(self.end_refused(session, why).await);
        }
        tracing::warn!(
            session = session.handle.to_hex(),
            why,
            "a session goes on although its provider refused its grant: another gate may have a newer one"
        );
        self.postpone((id, session), lease).await;
        Ok(Arc::clone(session))
    }

    /// The call, with the lease kept alive beside it.
    async fn call_leased(
        &self,
        call: impl Future<Output = Result<SessionData, RefreshError>>,
        handle: Handle,
        lease: &[u8],
    ) -> Result<SessionData, RefreshError> {
        let keeping = async {
            loop {
                sleep(LEASE_RENEWAL).await;
                self.keep(handle, lease).await;
            }
        };
        tokio::select! {
            answered = timeout(CALL_DEADLINE, call) => {
                answered.unwrap_or_else(|_late| Err(RefreshError::Temporary("the provider did not answer in time".to_owned())))
            }
            () = keeping => Err(RefreshError::Temporary("the lease was lost".to_owned())),
        }
    }

    /// Tries until it is in, somebody else renewed the session, or it is over. Who waits is told after the first.
    async fn write_renewed(
        &self,
        id: &SessionId,
        (data, sent): (&SessionData, &SessionData),
        (lease, tower): (&[u8], &Tower),
    ) -> Result<Arc<Session>, SessionError> {
        let mut pause = WRITE_PAUSE_MIN;
        loop {
            let outcome = self.try_write(id.clone(), (data, sent)).await;
            match outcome {
                Err(SessionError::Unavailable(error)) => {
                    tracing::warn!(%error, "a renewed session is not in the store yet; trying again");
                    self.meters.count("refresh_write", error.label());
                    tower.send_replace(Some(Err(SessionError::Unavailable(error))));
                }
                outcome => return outcome,
            }
            sleep(pause).await;
            pause = (pause * 2).min(WRITE_PAUSE_MAX);
            if unix_millis() >= self.absolute_end(data) {
                return Err(SessionError::Expired);
            }
            self.keep(Seal::handle(id), lease).await;
        }
    }

    /// Wins over whatever else happened to the session, as long as its grant still is the one that was sent.
    async fn try_write(
        &self,
        mut id: SessionId,
        (data, sent): (&SessionData, &SessionData),
    ) -> Result<Arc<Session>, SessionError> {
        loop {
            let moment = self.cache.moment();
            let Some(Read { raw, mut opened }) = self.read(&id).await? else {
                return Err(SessionError::Missing);
            };
            if let Some(next) = opened.links.next.take() {
                // rotated meanwhile, and the grant went along
                id = next;
                continue;
            }
            if opened.data.grant != sent.grant {
                tracing::warn!(
                    session = Seal::handle(&id).to_hex(),
                    "a session was renewed by somebody else meanwhile; theirs stays"
                );
                return self.admit(&id, &opened, moment).map(|cached| Arc::clone(&cached.session));
            }
            // the use was the asking, however late this is written
            let used_at = self.signed_at(&opened.card).unwrap_or(opened.card.card.used_at);
            opened.card.card.used_at = used_at.max(opened.card.card.used_at);
            opened.card.asked.clear();
            opened.card.renewed_at = Some(unix_millis());
            let content = (data, &opened.links);
            let value = self.seal.session(&id, &opened.card, content).map_err(StoreError::from)?;
            let ttl = self.ttl(data, opened.card.card.used_at);
            let swapped = self.store.swap(&key(Seal::handle(&id)), &raw, value.clone(), ttl).await?;
            if swapped == Swap::Done {
                self.forget_session(Seal::handle(&id)).await;
                let opened = self.seal.open_session(&id, &value).map_err(StoreError::from)?;
                let cached = self.admit(&id, &opened, self.cache.moment())?;
                return Ok(Arc::clone(&cached.session));
            }
        }
    }

    /// The provider took the grant back. Here the session is over at once; elsewhere as soon as the store is told.
    async fn end_refused(&self, session: &Session, why: &str) -> SessionError {
        tracing::info!(session = session.handle.to_hex(), why, "the provider ended a session");
        let (at, deadline) = (unix_millis(), Instant::now() + LEASE);
        let mark = Mark::session(session.handle);
        self.feed.add([Entry { mark, at }], at);
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

/// Whether it was just renewed, whoever asks for it again. What is due again is due.
fn is_fresh(opened: &Opened) -> bool {
    let now = unix_millis();
    let due = opened.data.grant.as_ref().and_then(|grant| grant.refresh_at);
    let just_now = |at: i64| now.saturating_sub(at).saturating_abs() < millis(PAUSE);
    opened.card.renewed_at.is_some_and(just_now) && due.is_none_or(|due| now < due)
}
