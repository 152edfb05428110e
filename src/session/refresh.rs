//! One refresh per session, however many ask: in this process they share one flight, between processes a lease decides.
//!
//! The lease is longer than the call that it protects, and renewed. Whoever has it reads the session again first: somebody else
//! may have been faster. A flight runs on the sessions' own runtime, so no client takes it down with it; what the provider
//! gave is written until it is in, because a rotated refresh token cannot be had twice. A provider that does not answer
//! changes nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::cookie::SessionId;
use super::feed::Entry;
use super::life::{Read, key, random_id};
use super::record::{Handle, Mark, Session, SessionData};
use super::store::Swap;
use super::{RefreshError, SessionError, Sessions, StoreError, unix_millis};

/// How long a lease holds without being renewed.
const LEASE: Duration = Duration::from_secs(30);
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// How long the provider may take.
const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// How long who asked waits, here or for another process.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// Not tried again for so long after the provider could not be asked.
const PAUSE: Duration = Duration::from_secs(10);
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

    fn board(&self, handle: Handle) -> Boarding {
        let mut under_way = self.board_lock();
        if let Some(landing) = under_way.get(&handle) {
            return Boarding::Join(landing.clone());
        }
        let paused = self.paused.get(&handle.0).is_some_and(|until| Instant::now() < until);
        // under the lock: who closes sees every flight that began before
        if paused || self.is_closed() || under_way.len() >= FLIGHTS_MAX {
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
        let mut landing = match self.flights.board(session.handle) {
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
        let moment = self.cache.moment();
        let read = match self.read(id).await {
            Ok(Some(read)) => read,
            Ok(None) => return Err(SessionError::Missing),
            Err(_away) => return Ok(Arc::clone(session)),
        };
        let opened = read.opened;
        let current = self.admit(id, &opened, moment)?;
        let changed = opened.version != session.version || opened.card.successor.is_some();
        if changed || self.flights.is_closed() {
            return Ok(Arc::clone(&current.session));
        }
        let renewed = self.call_leased(call(opened.data.clone()), session.handle, lease).await;
        match renewed {
            Ok(mut data) if data.issuer == opened.data.issuer && data.subject == opened.data.subject => {
                let differ = self.privileges_differ(&opened.data, &data);
                data.rotation_due = differ || data.rotation_due || opened.data.rotation_due;
                data.created_at = opened.data.created_at;
                data.provider = opened.data.provider.clone();
                data.portal = opened.data.portal.clone();
                self.write_renewed(id, (data, opened.version), (lease, tower)).await
            }
            Ok(_) => Err(self.end_refused(session, "the provider renewed another subject").await),
            Err(RefreshError::Ended(why)) => Err(self.end_refused(session, &why).await),
            Err(RefreshError::Temporary(why)) => {
                tracing::warn!(
                    session = session.handle.to_hex(),
                    why,
                    "a session was not renewed and goes on as it is"
                );
                self.flights.paused.insert(session.handle.0, Instant::now() + PAUSE);
                let paused = self
                    .store
                    .swap(&lease_key(session.handle), lease, PAUSED.to_vec(), PAUSE)
                    .await;
                drop(paused);
                Ok(Arc::clone(session))
            }
        }
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

    /// Tries until it is in, somebody else changed the session, or the session is over. Who waits is told after the first.
    async fn write_renewed(
        &self,
        id: &SessionId,
        (data, base): (SessionData, [u8; 32]),
        (lease, tower): (&[u8], &Tower),
    ) -> Result<Arc<Session>, SessionError> {
        let mut pause = WRITE_PAUSE_MIN;
        loop {
            let outcome = self.try_write(id, &data, base).await;
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
            if unix_millis() >= self.absolute_end(&data) {
                return Err(SessionError::Expired);
            }
            self.keep(super::seal::Seal::handle(id), lease).await;
        }
    }

    async fn try_write(&self, id: &SessionId, data: &SessionData, base: [u8; 32]) -> Result<Arc<Session>, SessionError> {
        let handle = super::seal::Seal::handle(id);
        loop {
            let moment = self.cache.moment();
            let Some(Read { raw, mut opened }) = self.read(id).await? else {
                return Err(SessionError::Missing);
            };
            if opened.version != base {
                tracing::warn!(
                    session = handle.to_hex(),
                    "a renewed session was changed by somebody else meanwhile; theirs stays"
                );
                return self.admit(id, &opened, moment).map(|cached| Arc::clone(&cached.session));
            }
            opened.card.card.used_at = unix_millis();
            let content = (data, &opened.links);
            let value = self.seal.session(id, &opened.card, content).map_err(StoreError::from)?;
            let ttl = self.ttl(data, opened.card.card.used_at);
            let swapped = self.store.swap(&key(handle), &raw, value.clone(), ttl).await?;
            if swapped == Swap::Done {
                self.forget_session(handle).await;
                let opened = self.seal.open_session(id, &value).map_err(StoreError::from)?;
                let cached = self.admit(id, &opened, self.cache.moment())?;
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

    /// `None`: somebody else has it.
    pub(super) async fn lease(&self, handle: Handle) -> Result<Option<Vec<u8>>, StoreError> {
        let token = random_id()?.0.expose().to_vec();
        let first = self.store.write_first(&lease_key(handle), token.clone(), LEASE).await?;
        Ok(first.then_some(token))
    }

    async fn keep(&self, handle: Handle, lease: &[u8]) {
        if let Err(error) = self.store.swap(&lease_key(handle), lease, lease.to_vec(), LEASE).await {
            tracing::debug!(%error, "a lease was not renewed");
        }
    }

    pub(super) async fn release(&self, handle: Handle, lease: &[u8]) {
        if let Err(error) = self.store.remove_if(&lease_key(handle), lease).await {
            tracing::debug!(%error, "a lease was not given back and ends with its time");
        }
    }
}

fn lease_key(handle: Handle) -> String {
    format!("lease:{{{}}}", handle.to_hex())
}
