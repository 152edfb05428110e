//! The sessions of this deployment, for the operator; those of one user, for the user.
//!
//! Reads the store's values and opens only their headers, for which the server's keys suffice. A listing needs no
//! cookie and shows no claim or token.

use std::collections::{HashMap, hash_map};
use std::time::Duration;

use super::record::{Handle, RevocationKey, SessionSummary, session_key};
use super::seal::SealedHeader;
use super::{Sessions, StoreError, millis};
use crate::base::clock::unix_millis;

/// The result of a listing.
#[derive(Debug)]
pub struct Listing {
    pub summaries: Vec<SessionSummary>,
    /// Values that no key of the ring opens: sealed with another ring, or changed in the store.
    pub unreadable: usize,
    /// True if every value in the store was looked at.
    pub all: bool,
}

/// Time that a listing waits for the one before it.
const OWN_WAIT: Duration = Duration::from_secs(2);

impl Sessions {
    /// Lists the sessions of one user. The store has no index of users, so a listing costs in proportion to all
    /// sessions: it looks at `limits.own_sessions` values. One listing at a time in this process: users can ask for it
    /// at will.
    pub async fn list_of(&self, issuer: &str, subject: &str) -> Result<Listing, StoreError> {
        let turn = tokio::time::timeout(OWN_WAIT, self.own_listings.acquire()).await;
        let _turn = turn.map_err(|_elapsed| StoreError::Timeout)?;
        let mut listing = self.list(self.own_sessions_max).await?;
        listing
            .summaries
            .retain(|summary| summary.issuer == issuer && summary.subject == subject);
        Ok(listing)
    }

    /// True if the store has a session of this handle, and it is this user's.
    pub async fn is_session_of(&self, handle: Handle, issuer: &str, subject: &str) -> Result<bool, StoreError> {
        let value = self.store.read(&session_key(handle)).await?;
        let header = value.and_then(|value| self.seal.open_header(handle, &value).ok());
        Ok(header.is_some_and(|header| header.summary.issuer == issuer && header.summary.subject == subject))
    }

    /// Lists sessions; looks at no more than `limit` values. A session that is being rotated has several ids and is
    /// listed once.
    pub async fn list(&self, limit: usize) -> Result<Listing, StoreError> {
        let values = self.meters.measure("list", self.store.scan("s:", limit)).await?;
        let now = unix_millis();
        let all = values.len() < limit;
        let mut by_lineage: HashMap<String, SealedHeader> = HashMap::new();
        let mut unreadable = 0;
        for (key, value) in values {
            let handle = key.strip_prefix("s:{").and_then(|rest| rest.strip_suffix('}'));
            let Some(handle) = handle.and_then(Handle::from_hex) else {
                continue;
            };
            let header = match self.seal.open_header(handle, &value) {
                Ok(header) => header,
                Err(error) => {
                    self.report_unreadable(handle, error);
                    unreadable += 1;
                    continue;
                }
            };
            if header.ends_at.is_some() || self.is_over(handle, &header, now) {
                continue;
            }
            match by_lineage.entry(header.lineage.clone()) {
                hash_map::Entry::Occupied(mut known) if known.get().rank() < header.rank() => drop(known.insert(header)),
                hash_map::Entry::Occupied(_) => {}
                hash_map::Entry::Vacant(entry) => drop(entry.insert(header)),
            }
        }
        let summaries = by_lineage.into_values().map(|header| header.summary).collect();
        Ok(Listing {
            summaries,
            unreadable,
            all,
        })
    }

    fn is_over(&self, handle: Handle, header: &SealedHeader, now: i64) -> bool {
        let summary = &header.summary;
        let lineage = Handle::from_hex(&header.lineage).unwrap_or(handle);
        let subject = RevocationKey::subject(&summary.issuer, &summary.subject);
        let keys = [
            Some(subject),
            summary.tenant.as_deref().map(RevocationKey::tenant),
            Some(RevocationKey::portal(&summary.portal)),
        ];
        let log = &self.revocation_log;
        now >= summary.created_at.saturating_add(millis(self.absolute_timeout))
            || now >= summary.used_at.saturating_add(millis(self.idle_timeout))
            || log.revokes_handle(handle)
            || log.revokes_handle(lineage)
            || keys.iter().flatten().any(|key| log.revokes_since(key, summary.created_at))
    }
}
