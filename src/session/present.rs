//! The session that a request's cookie presents: the way of a session cookie, for the gate and every other door.
//!
//! `Sessions::present` reads the cookie and finds the session: `try_find` asks this process and never waits; only if
//! this process cannot answer does `find` read the store. A value that was read counts only after `admit` checked its
//! timeouts, the revocation log, and that the log is fresh. The times sealed inside the value decide, not the store's
//! time to live. A store error is returned as `Unavailable`, never as "no such session". Claims that are due are
//! renewed by `renewal/due`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cedargate_policy::claims;
use cedargate_policy::denial::{Denial, Refusal};
use http::HeaderMap;

use super::cache::{CacheGeneration, CachedSession};
use super::record::{Handle, RevocationKeys, session_key};
use super::renewal::due::{Urgency, urgency};
use super::seal::{OpenError, OpenedSession, Seal, StoredSession};
use super::{IdentifiedSession, RefreshError, Session, SessionData, SessionError, SessionId, Sessions, millis};
use crate::base::clock::unix_millis;

/// Minimum interval between two log lines about a key that is not in the ring.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);

impl Sessions {
    /// As `present`, for a request to `portal`.
    ///
    /// # Errors
    /// Those of `present`, and `session_revoked` if the portal was revoked since the session began.
    pub async fn present_at<P, F>(
        self: &Arc<Self>,
        portal: &str,
        headers: &HeaderMap,
        provider: &Arc<P>,
        renew: impl FnOnce(Arc<P>, Handle, SessionData) -> F + Send + 'static,
    ) -> Result<Option<IdentifiedSession>, Refusal>
    where
        P: Send + Sync + 'static,
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let presented = self.present(headers, provider, renew).await?;
        let found = presented.as_ref().map(|presented| &presented.session);
        if found.is_some_and(|session| self.revocation_log.revokes_at(session, portal)) {
            return Err(Denial::SessionRevoked.into());
        }
        Ok(presented)
    }

    /// The session of the request's cookie, its claims as fresh as they have to be; `None` without a cookie. `renew`
    /// asks `provider` for new claims and tokens of a session; it runs at most once, on the sessions' own runtime.
    pub async fn present<P, F>(
        self: &Arc<Self>,
        headers: &HeaderMap,
        provider: &Arc<P>,
        renew: impl FnOnce(Arc<P>, Handle, SessionData) -> F + Send + 'static,
    ) -> Result<Option<IdentifiedSession>, Refusal>
    where
        P: Send + Sync + 'static,
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        if !self.cookies.has_session(headers) {
            return Ok(None);
        }
        let id = self.cookies.session(headers);
        let id = id.ok_or_else(|| Refusal::new(Denial::SessionMissing, "the session cookie is malformed or repeated"))?;
        let session = self.find_or_refuse(&id).await?;
        let urgency = urgency(&session.data, unix_millis());
        if urgency == Urgency::NotDue {
            return Ok(Some(IdentifiedSession { id, session }));
        }
        let provider = Arc::clone(provider);
        let handle = session.handle;
        let call = move |data| renew(provider, handle, data);
        let session = Box::pin(self.renew_presented(&id, session, urgency, call)).await?;
        Ok(Some(IdentifiedSession { id, session }))
    }

    pub(super) async fn find_or_refuse(&self, id: &SessionId) -> Result<Arc<Session>, Refusal> {
        let found = match self.try_find(id) {
            Some(found) => found,
            None => Box::pin(self.find(id)).await,
        };
        found.map_err(|error| Refusal::from(&error))
    }

    /// The session of a cookie, if this process can answer without the store; `None` otherwise. Never waits.
    pub fn try_find(&self, id: &SessionId) -> Option<Result<Arc<Session>, SessionError>> {
        let handle = Seal::handle(id);
        let Some(cached) = self.cache.get(handle) else {
            if self.revocation_log.revokes_handle(handle) {
                return Some(Err(SessionError::Revoked));
            }
            return self.check_revocation_log().err().map(Err);
        };
        match self.is_usable(&cached) {
            Ok(false) => None,
            Ok(true) => {
                self.touch_if_due(id, &cached);
                self.confirm_if_due(id, &cached);
                self.meters.known.inc();
                Some(Ok(Arc::clone(&cached.session)))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// The session of a cookie. Extends its idle time.
    pub async fn find(&self, id: &SessionId) -> Result<Arc<Session>, SessionError> {
        match self.try_find(id) {
            Some(found) => found,
            None => self.meters.measure("find", self.load(id)).await,
        }
    }

    /// `Ok(false)` if the session is past its idle timeout as far as this process knows: another replica may have noted
    /// a later use, so the store must be read.
    fn is_usable(&self, cached: &CachedSession) -> Result<bool, SessionError> {
        let now = unix_millis();
        if now >= cached.ends_at {
            return Err(SessionError::Expired);
        }
        // the epoch first, then the entries: a revocation in between is checked by the next request
        let epoch = self.revocation_log.epoch();
        if cached.checked_epoch.load(Ordering::Acquire) != epoch {
            let session = &cached.session;
            let began = session.data.created_at;
            if self.revocation_log.revokes(session.handle, &session.revocation_keys, began) {
                return Err(SessionError::Revoked);
            }
            cached.checked_epoch.store(epoch, Ordering::Release);
        }
        self.check_revocation_log()?;
        let used_at = cached.used_at.load(Ordering::Acquire);
        Ok(now < used_at.saturating_add(millis(self.idle_timeout)))
    }

    async fn load(&self, id: &SessionId) -> Result<Arc<Session>, SessionError> {
        let generation = self.cache.generation();
        let stored = self.read(id).await?.ok_or(SessionError::Missing)?;
        let cached = self.admit(id, &stored.opened, generation)?;
        self.touch_if_due(id, &cached);
        self.confirm_if_due(id, &cached);
        Ok(Arc::clone(&cached.session))
    }

    /// Reads and opens a session. `None` if the store has no value, or one that is corrupt; `OtherKey` if its key is
    /// not in this gate's ring.
    pub(super) async fn read(&self, id: &SessionId) -> Result<Option<StoredSession>, SessionError> {
        let handle = Seal::handle(id);
        let raw = self.store.read(&session_key(handle)).await?;
        let Some(raw) = raw else { return Ok(None) };
        match self.seal.open_session(id, &raw) {
            Ok(opened) => Ok(Some(StoredSession { raw, opened })),
            Err(error) => {
                self.report_unreadable(handle, error);
                match error {
                    OpenError::UnknownKey => Err(SessionError::OtherKey),
                    OpenError::Form | OpenError::Broken => Ok(None),
                }
            }
        }
    }

    pub(super) fn report_unreadable(&self, handle: Handle, error: OpenError) {
        if error == OpenError::UnknownKey {
            self.meters.count("open", "unknown_key");
            return self.log_unknown_key(handle);
        }
        self.meters.count("open", "corrupt");
        tracing::error!(session = handle.to_hex(), %error, "a session in the store cannot be opened and counts as missing");
    }

    /// Logged at intervals, because every session of another replica may be sealed with the same unknown key.
    fn log_unknown_key(&self, handle: Handle) {
        let now = unix_millis();
        let logged_at = self.unknown_key_logged_at.load(Ordering::Acquire);
        if now.saturating_sub(logged_at) < millis(UNKNOWN_KEY_PAUSE) {
            return;
        }
        let claimed = self
            .unknown_key_logged_at
            .compare_exchange(logged_at, now, Ordering::AcqRel, Ordering::Acquire);
        if claimed.is_ok() {
            tracing::error!(
                session = handle.to_hex(),
                "no key of sessions.key_file opens a session in the store: it counts as missing here"
            );
        }
    }

    /// Checks an opened value and puts it into the cache. `generation` is from before the read.
    pub(super) fn admit(
        &self,
        id: &SessionId,
        opened: &OpenedSession,
        generation: CacheGeneration,
    ) -> Result<Arc<CachedSession>, SessionError> {
        let now = unix_millis();
        let epoch = self.revocation_log.epoch();
        let handle = Seal::handle(id);
        let end = self.absolute_end(&opened.data);
        let mut ends_at = opened.header.ends_at.map_or(end, |early| early.min(end));
        let used_at = opened.header.summary.used_at;
        let idle_end = used_at.saturating_add(millis(self.idle_timeout));
        if opened.header.successor.is_some() {
            // no use of a rotated id extends its life
            ends_at = ends_at.min(idle_end);
        }
        if now >= ends_at || now >= idle_end {
            return Err(SessionError::Expired);
        }
        let lineage = Handle::from_hex(&opened.header.lineage).unwrap_or(handle);
        let session = Session {
            handle,
            version: opened.version,
            expires_at: end.div_euclid(1000),
            revocation_keys: self.revocation_keys(lineage, &opened.data),
            data: opened.data.clone(),
            // SECURITY: once the new id was used, the browser has it, and no other holder of the old id may get it
            next: opened.links.next.clone().filter(|_| opened.header.ends_at.is_none()),
        };
        if self
            .revocation_log
            .revokes(handle, &session.revocation_keys, session.data.created_at)
        {
            return Err(SessionError::Revoked);
        }
        self.check_revocation_log()?;
        let cached = Arc::new(CachedSession {
            session: Arc::new(session),
            connection: generation.connection,
            checked_epoch: AtomicU64::new(epoch),
            used_at: AtomicI64::new(used_at),
            ends_at,
            unconfirmed: AtomicBool::new(opened.header.unconfirmed),
        });
        self.cache.insert(Arc::clone(&cached), generation);
        Ok(cached)
    }

    /// Unix milliseconds of the absolute timeout.
    pub(super) fn absolute_end(&self, data: &SessionData) -> i64 {
        data.created_at.saturating_add(millis(self.absolute_timeout))
    }

    pub(super) fn revocation_keys(&self, lineage: Handle, data: &SessionData) -> RevocationKeys {
        RevocationKeys::new(lineage, data, self.tenant_of(data).as_deref())
    }

    pub(super) fn tenant_of(&self, data: &SessionData) -> Option<String> {
        let paths = self.claims.get(data.issuer.as_str())?;
        claims::tenant_of_session(&data.claims, paths).map(str::to_owned)
    }
}
