//! Revoking sessions and tokens, and checks of sessions and tokens against revocations.
//!
//! A revocation is published to the store before session values are removed. If the process stops in between, a value
//! of a revoked session is left, not a living session that should be over. If the store refuses to take a revocation
//! (it is full), the revocation holds in this process at once and the store's client publishes it again until the store
//! takes it. If the store cannot be reached, the caller gets the error and nothing is revoked; only what a provider
//! demands (`revoke_until_stored`) then holds here and is published later, because most providers do not ask twice.

pub(super) mod issuer_clocks;
pub(super) mod log;

use cedargate_policy::denial::Denial;
use cedargate_policy::types::Identity;
use tokio::sync::watch;

use self::log::RevocationEntry;
use super::record::{Handle, Revocation, RevocationKey, Session, session_key};
use super::store_outcome::Replicated;
use super::{SessionError, Sessions, StoreError};
use crate::base::clock::unix_millis;

/// The result of a revocation.
#[derive(Clone, Copy, Debug)]
pub struct Revoked {
    /// True if a replica of the store has it; `None` if the store has no replica.
    pub replicated: Option<bool>,
    /// False if the store does not take it yet. It holds in this process, which publishes it again until the store
    /// takes it.
    pub everywhere: bool,
}

/// The part of a caller that a revocation can name.
#[derive(Clone, Copy)]
pub enum Revocable<'a> {
    /// A session proved the caller.
    Session(&'a Session),
    /// A token or a client certificate proved this identity.
    Identity(&'a Identity),
}

impl Sessions {
    /// Ends one session in every replica.
    pub async fn end(&self, session: &Session) -> Result<Revoked, StoreError> {
        let ended = self.end_handle(session.handle, Some(session.revocation_keys.lineage));
        self.meters.measure("end", ended).await
    }

    /// Ends every session and token that the target names and that began before now.
    pub async fn revoke(&self, what: Revocation) -> Result<Revoked, StoreError> {
        self.meters.measure("revoke", self.revoke_target(&what)).await
    }

    async fn revoke_target(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        if let Revocation::Session(handle) = what {
            return self.end_handle(*handle, None).await;
        }
        let at = self.later_clock().await;
        let key = RevocationKey::of(what);
        self.publish(&[RevocationEntry { key, at }]).await
    }

    /// Unix milliseconds: the later of the store's clock and this process's. If this replica's clock is behind, a
    /// revocation must still end sessions that other replicas created.
    pub(super) async fn later_clock(&self) -> i64 {
        let store_now = self.store.now().await;
        store_now.map_or_else(unix_millis, |store_now| store_now.max(unix_millis()))
    }

    /// Ends every session and token that the targets name and that began at `at` (Unix milliseconds) or before. For a
    /// demand that may come only once: also if the store takes nothing, it holds in this process at once, and this
    /// process publishes it until the store takes it. Repeating it changes nothing.
    pub async fn revoke_until_stored(&self, targets: &[Revocation], at: i64) -> Result<Revoked, StoreError> {
        let keys = targets.iter().map(RevocationKey::of);
        let entries: Vec<RevocationEntry> = keys.map(|key| RevocationEntry { key, at }).collect();
        self.revocation_log.add(entries.iter().copied(), unix_millis());
        let published = self.meters.measure("revoke", self.publish(&entries)).await;
        if let Err(error) = &published {
            tracing::error!(%error, "a revocation holds here and is not known everywhere yet; trying again");
            self.store.publish_later(&entries);
        }
        published
    }

    /// Ends a session under every id that it has or had.
    async fn end_handle(&self, handle: Handle, lineage: Option<Handle>) -> Result<Revoked, StoreError> {
        let value = self.store.read(&session_key(handle)).await?;
        let header = value.and_then(|value| self.seal.open_header(handle, &value).ok());
        let stored = header.as_ref().and_then(|header| Handle::from_hex(&header.lineage));
        let successor = header.as_ref().and_then(|header| header.successor.as_deref());
        let successor = successor.and_then(Handle::from_hex);
        let mut handles: Vec<Handle> = [Some(handle), stored.or(lineage), successor].into_iter().flatten().collect();
        handles.dedup();
        let at = unix_millis();
        let entries: Vec<RevocationEntry> = handles
            .iter()
            .map(|handle| RevocationEntry {
                key: RevocationKey::session(*handle),
                at,
            })
            .collect();
        let revoked = self.publish(&entries).await?;
        for handle in handles {
            self.cache.remove(handle);
            // the session is revoked already; a value that stays expires by itself
            if let Err(error) = self.store.remove(&session_key(handle)).await {
                tracing::debug!(%error, "the value of an ended session stays in the store until it expires");
            }
        }
        Ok(revoked)
    }

    async fn publish(&self, entries: &[RevocationEntry]) -> Result<Revoked, StoreError> {
        let published = self.store.publish(entries).await;
        if let Err(StoreError::Refused(error)) = &published {
            self.meters.count("publish", "refused");
            tracing::error!(error, "a revocation holds here and is not known everywhere yet; trying again");
            self.revocation_log.add(entries.iter().copied(), unix_millis());
            return Ok(Revoked {
                replicated: Some(false),
                everywhere: false,
            });
        }
        let replicated: Replicated = published?;
        self.revocation_log.add(entries.iter().copied(), unix_millis());
        if replicated == Some(false) {
            self.meters.count("replicate", "timeout");
            tracing::warn!("no replica of the session store confirmed a revocation in time");
        }
        Ok(Revoked {
            replicated,
            everywhere: true,
        })
    }

    /// Refuses a caller that was revoked since its credential was checked, or its session found. Never waits.
    pub fn check_caller(&self, caller: Revocable<'_>, portal: &str) -> Result<(), Denial> {
        match caller {
            Revocable::Session(session) if self.revocation_log.revokes_at(session, portal) => Err(Denial::SessionRevoked),
            Revocable::Session(_) => Ok(()),
            Revocable::Identity(identity) => self.check_identity(identity, portal),
        }
    }

    /// Refuses a bearer token whose subject, tenant or portal was revoked after the token was issued. A token without
    /// `iat` counts as older than every revocation. Never waits.
    pub fn check_identity(&self, identity: &Identity, portal: &str) -> Result<(), Denial> {
        if self.revocation_log.ends_no_tokens() {
            return Ok(());
        }
        // SECURITY: the clock of the issuer may be ahead, and its tokens would survive a revocation that comes after
        // them
        let ahead = self.issuer_clocks.ahead(&identity.issuer);
        let began = issued_at(identity).map_or(i64::MIN, |at| at.saturating_sub(ahead));
        let subject = RevocationKey::subject(&identity.issuer, &identity.subject);
        let tenant = identity.tenant.as_deref().map(RevocationKey::tenant);
        let keys = [Some(subject), tenant, Some(RevocationKey::portal(portal))];
        if keys.iter().flatten().any(|key| self.revocation_log.revokes_since(key, began)) {
            return Err(Denial::SessionRevoked);
        }
        Ok(())
    }

    /// Notes how far the clock of a token's issuer is ahead. For each token that was just verified.
    pub fn note_issued(&self, identity: &Identity) {
        if let Some(at) = issued_at(identity) {
            self.issuer_clocks.note(&identity.issuer, at, unix_millis());
        }
    }

    /// Changes with every new revocation.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocation_log.subscribe()
    }

    /// The value that `revocations` holds now. Never waits.
    pub fn epoch(&self) -> u64 {
        self.revocation_log.epoch()
    }

    /// Refuses to use any session if this process may have missed a revocation.
    pub(super) fn check_revocation_log(&self) -> Result<(), SessionError> {
        if self.is_revocation_log_fresh() {
            return Ok(());
        }
        Err(SessionError::Unavailable(StoreError::FeedBehind(self.revocation_log.age())))
    }
}

/// `iat` in Unix milliseconds, rounded down: a fraction of a millisecond never makes a token younger.
fn issued_at(identity: &Identity) -> Option<i64> {
    let seconds = identity.claims.get("iat")?.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and a time beyond that is no time")]
    let millis = (seconds * 1000.0).floor() as i64;
    Some(millis)
}
