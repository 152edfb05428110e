//! Creates sessions and writes their changes: a use, a changed value, the announcement to other replicas.
//!
//! `present` finds and admits the sessions of requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cedargate_policy::claims;
use cedargate_policy::scope::ClaimPaths;
use cedargate_policy::types::Redacted;

use super::cache::CachedSession;
use super::cookie::SessionId;
use super::record::{Handle, Session, SessionData, SessionSummary, session_key};
use super::seal::{OpenedSession, RotationLinks, Seal, SealError, SealedHeader, StoredSession};
use super::store_outcome::Swap;
use super::{IdentifiedSession, SessionError, Sessions, StoreError, millis};
use crate::base::clock::unix_millis;

/// A use is written to the store at most once in this part of the idle timeout.
const TOUCH_PARTS: u32 = 20;

/// The session that a new session replaces.
pub(super) struct Predecessor {
    pub id: SessionId,
    /// Handle of the first id of all; `None` if it cannot be read.
    pub lineage: Option<Handle>,
}

impl Sessions {
    /// True if this process knows that the session is past its idle timeout. Does not count as a use. Another replica
    /// may have noted a later use.
    pub fn is_idle(&self, session: &Session) -> bool {
        let cached = self.cache.get(session.handle);
        cached.is_some_and(|cached| {
            let used_at = cached.used_at.load(Ordering::Acquire);
            unix_millis() >= used_at.saturating_add(millis(self.idle_timeout))
        })
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

    /// A time of this process's clock, moved back by as much as that clock is ahead of the store's. Otherwise a session
    /// of a gate whose clock is ahead would survive revocations that come after it.
    async fn no_later_than_store(&self, at: i64) -> i64 {
        // before the store's answer: the difference is never too large, so the result is never before the true
        // beginning
        let now = unix_millis();
        let ahead = self.store.now().await.map_or(0, |store_now| now.saturating_sub(store_now));
        at.saturating_sub(ahead.max(0))
    }

    /// Creates a session under `id`, which no session may have. With a predecessor the id is unconfirmed until its
    /// first use.
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

    /// The store's time to live, counted from the last use. Twice the idle timeout, because a use may be noted late, or
    /// not at all while the store is away; never beyond the absolute timeout.
    pub(super) fn ttl(&self, data: &SessionData, used_at: i64) -> Duration {
        let left = self.absolute_end(data).saturating_sub(used_at);
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
        self.idle_timeout.saturating_mul(2).min(left).max(Duration::from_millis(1))
    }

    /// Starts a task that writes the use to the store: one request per interval wins the compare-exchange and starts
    /// it.
    pub(super) fn touch_if_due(&self, id: &SessionId, cached: &CachedSession) {
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

    /// Writes a use to the store. If another replica changed the value meanwhile, nothing is written: that replica
    /// noted a use as well.
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

    /// Writes a changed session if the stored value still is `raw`. The time to live counts from the session's last
    /// use.
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

pub(super) fn random_id() -> Result<SessionId, StoreError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| StoreError::from(SealError))?;
    Ok(SessionId(Redacted::new(bytes)))
}
