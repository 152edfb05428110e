//! A session and its store: finds, reads, admits and creates a session, and records its use.
//!
//! Every request with a session cookie enters here through `try_find`, which never waits; only if this process cannot answer
//! does `find` read the store. A value that was read counts only after `admit` checked its timeouts, the revocation log, and
//! that the log is fresh. The times sealed inside the value decide, not the store's time to live. A store error is returned
//! as `Unavailable`, never as "no such session".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cedargate_policy::claims;
use cedargate_policy::scope::ClaimPaths;
use cedargate_policy::types::Redacted;
use serde_json::Value;

use super::cache::{CacheGeneration, CachedSession};
use super::cookie::SessionId;
use super::record::{Handle, RevocationKeys, Session, SessionData, SessionSummary};
use super::seal::{OpenError, OpenedSession, RotationLinks, Seal, SealError, SealedHeader};
use super::store_outcome::Swap;
use super::{IdentifiedSession, SessionError, Sessions, StoreError, millis};
use crate::base::clock::unix_millis;

/// A use is written to the store at most once in this part of the idle timeout.
const TOUCH_PARTS: u32 = 20;
/// Minimum interval between two log lines about a key that is not in the ring.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);

/// A value as it was read from the store, and opened.
pub(super) struct StoredSession {
    /// The sealed bytes, for a compare-and-set.
    pub raw: Vec<u8>,
    pub opened: OpenedSession,
}

/// The session that a new session replaces.
pub(super) struct Predecessor {
    pub id: SessionId,
    /// Handle of the first id of all; `None` if it cannot be read.
    pub lineage: Option<Handle>,
}

impl Sessions {
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

    /// True if this process knows that the session is past its idle timeout. Does not count as a use. Another replica may have
    /// noted a later use.
    pub fn is_idle(&self, session: &Session) -> bool {
        let cached = self.cache.get(session.handle);
        cached.is_some_and(|cached| {
            let used_at = cached.used_at.load(Ordering::Acquire);
            unix_millis() >= used_at.saturating_add(millis(self.idle_timeout))
        })
    }

    /// `Ok(false)` if the session is past its idle timeout as far as this process knows: another replica may have noted a
    /// later use, so the store must be read.
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

    /// Reads and opens a session. `None` if the store has no value, or one that is corrupt; `OtherKey` if its key is not in
    /// this gate's ring.
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

    fn revocation_keys(&self, lineage: Handle, data: &SessionData) -> RevocationKeys {
        RevocationKeys::new(lineage, data, self.tenant_of(data).as_deref())
    }

    /// The tenant, read from the claims as for the issuer's tokens.
    fn tenant_of(&self, data: &SessionData) -> Option<String> {
        let path = &self.claims.get(data.issuer.as_str())?.tenant;
        // a tenant of the wrong type counts as absent here: `login_identity` refuses such a session at every portal
        let tenant = claims::at(&data.claims, path).ok().flatten();
        tenant.and_then(Value::as_str).map(str::to_owned)
    }

    /// True if roles, tenant or `acr` differ: policies may decide differently.
    pub(super) fn privileges_differ(&self, old: &SessionData, new: &SessionData) -> bool {
        let default = ClaimPaths::default();
        let paths = self.claims.get(old.issuer.as_str()).unwrap_or(&default);
        let roles = paths.roles.iter().map(|claim| &claim.path);
        roles
            .chain([&paths.tenant])
            .any(|path| claims::at(&old.claims, path) != claims::at(&new.claims, path))
            || old.claims.get("acr") != new.claims.get("acr")
    }

    /// Creates a session under a new id; returns once a replica of the store has it, if the store has replicas.
    pub async fn create(&self, mut data: SessionData) -> Result<IdentifiedSession, StoreError> {
        let id = random_id()?;
        data.created_at = self.no_later_than_store(data.created_at).await;
        let session = self.meters.measure("create", self.create_under(&id, data, None)).await?;
        Ok(IdentifiedSession { id, session })
    }

    /// A time of this process's clock, moved back by as much as that clock is ahead of the store's. Otherwise a session of a gate
    /// whose clock is ahead would survive revocations that come after it.
    async fn no_later_than_store(&self, at: i64) -> i64 {
        // before the store's answer: the difference is never too large, so the result is never before the true beginning
        let now = unix_millis();
        let ahead = self.store.now().await.map_or(0, |store_now| now.saturating_sub(store_now));
        at.saturating_sub(ahead.max(0))
    }

    /// Creates a session under `id`, which no session may have. With a predecessor the id is unconfirmed until its first use.
    pub(super) async fn create_under(
        &self,
        id: &SessionId,
        data: SessionData,
        predecessor: Option<Predecessor>,
    ) -> Result<Arc<Session>, StoreError> {
        let handle = Seal::handle(id);
        let lineage = predecessor.as_ref().and_then(|before| before.lineage).unwrap_or(handle);
        let previous = predecessor.map(|before| before.id);
        let mut header = self.new_header(handle, lineage, &data);
        header.unconfirmed = previous.is_some();
        let links = RotationLinks { previous, next: None };
        let generation = self.cache.generation();
        let value = self.seal.session(id, &header, &data, &links)?;
        let ttl = self.ttl(&data, header.summary.used_at);
        if self.store.write_durably(&session_key(handle), value.clone(), ttl).await? == Some(false) {
            self.meters.count("replicate", "timeout");
            tracing::warn!("no replica of the session store confirmed a new session in time");
        }
        let opened = self.seal.open_session(id, &value)?;
        let session = Session {
            handle,
            version: opened.version,
            expires_at: self.absolute_end(&data).div_euclid(1000),
            revocation_keys: self.revocation_keys(lineage, &data),
            data,
            next: None,
        };
        // a session that is already expired or revoked is refused at its first request, not here
        let admitted = self.admit(id, &opened, generation);
        Ok(admitted.map_or_else(|_refused| Arc::new(session), |cached| Arc::clone(&cached.session)))
    }

    fn new_header(&self, handle: Handle, lineage: Handle, data: &SessionData) -> SealedHeader {
        SealedHeader {
            summary: SessionSummary {
                session: handle.to_hex(),
                provider: data.provider.clone(),
                issuer: data.issuer.clone(),
                subject: data.subject.clone(),
                tenant: self.tenant_of(data),
                portal: data.portal.clone(),
                created_at: data.created_at,
                used_at: unix_millis(),
            },
            lineage: lineage.to_hex(),
            ends_at: None,
            successor: None,
            unconfirmed: false,
            renewal_claims: Vec::new(),
            renewed_at: None,
        }
    }

    /// The store's time to live, counted from the last use. Twice the idle timeout, because a use may be noted late, or not at
    /// all while the store is away; never beyond the absolute timeout.
    pub(super) fn ttl(&self, data: &SessionData, used_at: i64) -> Duration {
        let left = self.absolute_end(data).saturating_sub(used_at);
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
        self.idle_timeout.saturating_mul(2).min(left).max(Duration::from_millis(1))
    }

    /// Starts a task that writes the use to the store: one request per interval wins the compare-exchange and starts it.
    fn touch_if_due(&self, id: &SessionId, cached: &CachedSession) {
        let now = unix_millis();
        let used_at = cached.used_at.load(Ordering::Acquire);
        if now.saturating_sub(used_at) < millis(self.idle_timeout / TOUCH_PARTS) {
            return;
        }
        let claimed = cached
            .used_at
            .compare_exchange(used_at, now, Ordering::AcqRel, Ordering::Acquire);
        let (Ok(_), Some(sessions)) = (claimed, self.this.upgrade()) else {
            return;
        };
        let id = id.clone();
        self.spawn(async move {
            let touched = sessions.meters.measure("touch", sessions.touch(&id)).await;
            if let Err(error) = touched {
                tracing::debug!(%error, "a use of a session was not written; its idle time counts from the use before");
            }
        });
    }

    /// Writes a use to the store. If another replica changed the value meanwhile, nothing is written: that replica noted a use
    /// as well.
    pub(super) async fn touch(&self, id: &SessionId) -> Result<(), SessionError> {
        let Some(StoredSession { raw, mut opened }) = self.read(id).await? else {
            return Ok(());
        };
        // no use of a rotated id extends its life
        if opened.header.successor.is_some() {
            return Ok(());
        }
        opened.header.summary.used_at = unix_millis();
        self.swap_session(id, &raw, &opened).await?;
        Ok(())
    }

    /// Writes a changed session if the stored value still is `raw`. The time to live counts from the session's last use.
    pub(super) async fn swap_session(&self, id: &SessionId, raw: &[u8], opened: &OpenedSession) -> Result<Swap, StoreError> {
        let value = self.seal.session(id, &opened.header, &opened.data, &opened.links)?;
        let ttl = self.ttl(&opened.data, opened.header.summary.used_at);
        self.store.swap(&session_key(Seal::handle(id)), raw, value, ttl).await
    }

    /// Drops a changed session from the caches of this process and of the other replicas.
    pub(super) async fn announce_change(&self, handle: Handle) {
        self.cache.forget_changed([handle]);
        if let Err(error) = self.store.publish_change(handle).await {
            tracing::debug!(%error, "other replicas see the change of a session late");
        }
    }
}

/// The store's key of a session's value. Part of the stored format.
pub(super) fn session_key(handle: Handle) -> String {
    format!("s:{{{}}}", handle.to_hex())
}

pub(super) fn random_id() -> Result<SessionId, StoreError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| StoreError::from(SealError))?;
    Ok(SessionId(Redacted::new(bytes)))
}
