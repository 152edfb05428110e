//! A session's life in the store: found, begun, used, rotated, ended.
//!
//! What is read is opened and its times checked before it counts. Revocations go out before values are removed, so that
//! whoever is interrupted in between leaves a session that is over rather than one that lives.

use std::collections::{HashMap, hash_map};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::cache::{Cached, Moment};
use super::cookie::SessionId;
use super::record::{Card, Handle, Mark, Marks, Revocation, Session, SessionData, claim};
use super::revocations::log::{Entry, millis};
use super::seal::{Links, OpenError, Opened, Seal, SealError, StoredCard};
use super::store::Replicated;
use super::{Revoked, SessionError, Sessions, StoreError, unix_millis};
use crate::types::Redacted;

/// How often it is said that a key is missing.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);

/// What there is in the store.
#[derive(Debug)]
pub struct Listing {
    pub cards: Vec<Card>,
    /// Values that no key of the ring opens: sessions of another ring, or what somebody tampered with.
    pub unreadable: usize,
    /// Whether everything was looked at.
    pub all: bool,
}

/// A value as it was read, and what it opened to.
pub(super) struct Read {
    pub raw: Vec<u8>,
    pub opened: Opened,
}

impl Sessions {
    /// The session of a cookie. Extends its idle time.
    pub async fn find(&self, id: &SessionId) -> Result<Arc<Session>, SessionError> {
        match self.try_find(id) {
            Some(verdict) => verdict,
            None => self.meters.measure("find", self.load(id)).await,
        }
    }

    async fn load(&self, id: &SessionId) -> Result<Arc<Session>, SessionError> {
        let moment = self.cache.moment();
        let read = self.read(id).await?.ok_or(SessionError::Missing)?;
        let cached = self.admit(id, &read.opened, moment)?;
        self.touch_if_due(id, &cached);
        self.prove_if_due(id, &cached);
        Ok(Arc::clone(&cached.session))
    }

    /// `None`: the store has none, or nothing that opens with any key. An error if a key is missing that others may have.
    pub(super) async fn read(&self, id: &SessionId) -> Result<Option<Read>, SessionError> {
        let handle = Seal::handle(id);
        let raw = self.store.read(&key(handle)).await.map_err(SessionError::Unavailable)?;
        let Some(raw) = raw else { return Ok(None) };
        match self.seal.open_session(id, &raw) {
            Ok(opened) => Ok(Some(Read { raw, opened })),
            Err(error) => {
                self.alarm(handle, error);
                match error {
                    OpenError::UnknownKey => Err(SessionError::OtherKey),
                    OpenError::Form | OpenError::Broken => Ok(None),
                }
            }
        }
    }

    fn alarm(&self, handle: Handle, error: OpenError) {
        if error == OpenError::UnknownKey {
            self.meters.count("open", "unknown_key");
            return self.say_unknown_key(handle);
        }
        self.meters.count("open", "corrupt");
        tracing::error!(session = handle.to_hex(), %error, "a session in the store cannot be opened and counts as missing");
    }

    /// All sessions of another replica may be like this one: said now and then.
    fn say_unknown_key(&self, handle: Handle) {
        let (now, said_at) = (unix_millis(), self.unknown_key_said_at.load(Ordering::Acquire));
        let turn = || {
            self.unknown_key_said_at
                .compare_exchange(said_at, now, Ordering::AcqRel, Ordering::Acquire)
        };
        if now.saturating_sub(said_at) >= millis(UNKNOWN_KEY_PAUSE) && turn().is_ok() {
            tracing::error!(
                session = handle.to_hex(),
                "no key of sessions.key_file opens a session in the store: it counts as missing here"
            );
        }
    }

    /// What was read, if it still counts; the process remembers it.
    pub(super) fn admit(&self, id: &SessionId, opened: &Opened, moment: Moment) -> Result<Arc<Cached>, SessionError> {
        let now = unix_millis();
        let epoch = self.feed.epoch();
        let handle = Seal::handle(id);
        let end = self.absolute_end(&opened.data);
        let mut ends_at = opened.card.ends_at.map_or(end, |early| early.min(end));
        let used_at = opened.card.card.used_at;
        let idle_end = used_at.saturating_add(millis(self.idle_timeout));
        if opened.card.successor.is_some() {
            // no use of a rotated id keeps it alive
            ends_at = ends_at.min(idle_end);
        }
        if now >= ends_at || now >= idle_end {
            return Err(SessionError::Expired);
        }
        let lineage = Handle::from_hex(&opened.card.lineage).unwrap_or(handle);
        let session = Session {
            handle,
            version: opened.version,
            expires_at: end.div_euclid(1000),
            marks: self.marks_of(lineage, &opened.data),
            data: opened.data.clone(),
            // SECURITY: not once somebody came with it: the browser has it, and whoever else has the old id needs none
            next: opened.links.next.clone().filter(|_| opened.card.ends_at.is_none()),
        };
        if self.feed.ends(handle, &session.marks, session.data.created_at) {
            return Err(SessionError::Revoked);
        }
        self.check_feed()?;
        let cached = Arc::new(Cached {
            session: Arc::new(session),
            generation: moment.generation,
            checked: AtomicU64::new(epoch),
            used_at: AtomicI64::new(used_at),
            ends_at,
            unproven: AtomicBool::new(opened.card.unproven),
        });
        self.cache.insert(Arc::clone(&cached), moment);
        Ok(cached)
    }

    pub(super) fn absolute_end(&self, data: &SessionData) -> i64 {
        data.created_at.saturating_add(millis(self.absolute_timeout))
    }

    fn marks_of(&self, lineage: Handle, data: &SessionData) -> Marks {
        Marks::new(lineage, data, self.tenant_of(data).as_deref())
    }

    /// As the issuer's tokens would say it.
    fn tenant_of(&self, data: &SessionData) -> Option<String> {
        let path = &self.claims.get(data.issuer.as_str())?.tenant;
        claim(&data.claims, path).and_then(Value::as_str).map(str::to_owned)
    }

    /// Whether what a policy may grant by differs.
    pub(super) fn privileges_differ(&self, one: &SessionData, other: &SessionData) -> bool {
        let paths = self.claims.get(one.issuer.as_str());
        let paths = paths.map(|paths| [paths.roles.as_str(), paths.tenant.as_str(), "acr"]);
        let paths = paths.unwrap_or(["roles", "tenant", "acr"]);
        paths
            .iter()
            .any(|path| claim(&one.claims, path) != claim(&other.claims, path))
    }

    /// Begins a session under a new id; returns when a replica of the store has it, where there is one.
    pub async fn create(&self, data: SessionData) -> Result<(SessionId, Arc<Session>), StoreError> {
        let id = random_id()?;
        let begun = self.meters.measure("create", self.begin(&id, data, None)).await;
        begun.map(|session| (id, session))
    }

    /// Under an id that nobody has; `before` is the one that it comes after, and the first of all.
    pub(super) async fn begin(
        &self,
        id: &SessionId,
        data: SessionData,
        before: Option<(SessionId, Option<Handle>)>,
    ) -> Result<Arc<Session>, StoreError> {
        let handle = Seal::handle(id);
        let (previous, lineage) = before.map_or((None, None), |(id, lineage)| (Some(id), lineage));
        let links = Links { previous, next: None };
        let moment = self.cache.moment();
        let mut card = self.card(handle, lineage.unwrap_or(handle), &data);
        card.unproven = links.previous.is_some();
        let value = self.seal.session(id, &card, (&data, &links))?;
        let ttl = self.ttl(&data, card.card.used_at);
        if self.store.write_durably(&key(handle), value.clone(), ttl).await? == Some(false) {
            self.meters.count("replicate", "timeout");
            tracing::warn!("no replica of the session store confirmed a new session in time");
        }
        let opened = self.seal.open_session(id, &value)?;
        let session = Session {
            handle,
            version: opened.version,
            expires_at: self.absolute_end(&data).div_euclid(1000),
            marks: self.marks_of(lineage.unwrap_or(handle), &data),
            data,
            next: None,
        };
        // a session that is over before it begins is the next request's to refuse
        let remembered = self.admit(id, &opened, moment);
        Ok(remembered.map_or_else(|_over| Arc::new(session), |cached| Arc::clone(&cached.session)))
    }

    fn card(&self, handle: Handle, lineage: Handle, data: &SessionData) -> StoredCard {
        StoredCard {
            card: Card {
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
            unproven: false,
            asked: Vec::new(),
            renewed_at: None,
        }
    }

    /// How long the store keeps it from its last use on. Longer than it is good for: a use may be noted late, or not at all
    /// while the store is away. The times within the seal decide.
    pub(super) fn ttl(&self, data: &SessionData, used_at: i64) -> Duration {
        let left = self.absolute_end(data).saturating_sub(used_at);
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
        self.idle_timeout.saturating_mul(2).min(left).max(Duration::from_millis(1))
    }

    /// Notes a use. Whoever else changed the value meanwhile noted one, too.
    pub(super) async fn touch(&self, id: &SessionId) -> Result<(), SessionError> {
        let Some(Read { raw, mut opened }) = self.read(id).await? else {
            return Ok(());
        };
        // a rotated id is not kept alive
        if opened.card.successor.is_some() {
            return Ok(());
        }
        opened.card.card.used_at = unix_millis();
        self.swap_card(id, &raw, &opened).await?;
        Ok(())
    }

    /// Here and in the other replicas.
    pub(super) async fn forget_session(&self, handle: Handle) {
        self.cache.hear([handle]);
        if let Err(error) = self.store.publish_change(handle).await {
            tracing::debug!(%error, "other replicas see the change of a session late");
        }
    }

    /// Ends one session everywhere.
    pub async fn end(&self, session: &Session) -> Result<Revoked, StoreError> {
        let ended = self.end_handle(session.handle, Some(session.marks.lineage));
        self.meters.measure("end", ended).await
    }

    /// Ends everything that the revocation names and that is older than now.
    pub async fn revoke(&self, what: Revocation) -> Result<Revoked, StoreError> {
        self.meters.measure("revoke", self.revoke_now(&what)).await
    }

    async fn revoke_now(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        if let Revocation::Session(handle) = what {
            return self.end_handle(*handle, None).await;
        }
        // the store's clock as well: a replica whose own is behind must not leave out what others began
        let at = self
            .store
            .now()
            .await
            .map_or_else(unix_millis, |theirs| theirs.max(unix_millis()));
        let entry = Entry {
            mark: Mark::of(what),
            at,
        };
        self.publish(&[entry]).await
    }

    /// Under every id that it has or had.
    async fn end_handle(&self, handle: Handle, lineage: Option<Handle>) -> Result<Revoked, StoreError> {
        let value = self.store.read(&key(handle)).await?;
        let card = value.and_then(|value| self.seal.open_card(handle, &value).ok());
        let written = |text: Option<&String>| text.and_then(|text| Handle::from_hex(text));
        let lineage = written(card.as_ref().map(|card| &card.lineage)).or(lineage);
        let successor = written(card.as_ref().and_then(|card| card.successor.as_ref()));
        let mut handles: Vec<Handle> = [Some(handle), lineage, successor].into_iter().flatten().collect();
        handles.dedup();
        let at = unix_millis();
        let entries: Vec<Entry> = handles
            .iter()
            .map(|handle| Entry {
                mark: Mark::session(*handle),
                at,
            })
            .collect();
        let revoked = self.publish(&entries).await?;
        for handle in handles {
            self.cache.remove(handle);
            // revoked it is; its value goes with its time if not now
            if let Err(error) = self.store.remove(&key(handle)).await {
                tracing::debug!(%error, "a session that ended stays in the store until its time is over");
            }
        }
        Ok(revoked)
    }

    async fn publish(&self, entries: &[Entry]) -> Result<Revoked, StoreError> {
        let published = self.store.publish(entries).await;
        let refused = match &published {
            Err(StoreError::Refused(why)) => Some(why),
            _ => None,
        };
        if let Some(error) = refused {
            self.meters.count("publish", "refused");
            tracing::error!(error, "a revocation holds here and is not known everywhere yet; trying again");
            self.feed.add(entries.iter().copied(), unix_millis());
            return Ok(Revoked {
                replicated: Some(false),
                everywhere: false,
            });
        }
        let replicated: Replicated = published?;
        self.feed.add(entries.iter().copied(), unix_millis());
        if replicated == Some(false) {
            self.meters.count("replicate", "timeout");
            tracing::warn!("no replica of the session store confirmed a revocation in time");
        }
        Ok(Revoked {
            replicated,
            everywhere: true,
        })
    }

    /// Sessions of this deployment, for the operator; looks at no more than `limit` values. One that is being rotated is
    /// one, whichever id it has.
    pub async fn list(&self, limit: usize) -> Result<Listing, StoreError> {
        let values = self.meters.measure("list", self.store.scan("s:", limit)).await?;
        let (now, all) = (unix_millis(), values.len() < limit);
        let mut living: HashMap<String, StoredCard> = HashMap::new();
        let mut unreadable = 0;
        for (key, value) in values {
            let handle = key.strip_prefix("s:{").and_then(|rest| rest.strip_suffix('}'));
            let Some(handle) = handle.and_then(Handle::from_hex) else {
                continue;
            };
            let stored = match self.seal.open_card(handle, &value) {
                Ok(stored) => stored,
                Err(error) => {
                    self.alarm(handle, error);
                    unreadable += 1;
                    continue;
                }
            };
            if stored.ends_at.is_some() || self.is_over(handle, &stored, now) {
                continue;
            }
            match living.entry(stored.lineage.clone()) {
                hash_map::Entry::Occupied(mut known) if known.get().rank() < stored.rank() => drop(known.insert(stored)),
                hash_map::Entry::Occupied(_) => {}
                hash_map::Entry::Vacant(place) => drop(place.insert(stored)),
            }
        }
        let cards = living.into_values().map(|stored| stored.card).collect();
        Ok(Listing { cards, unreadable, all })
    }

    fn is_over(&self, handle: Handle, stored: &StoredCard, now: i64) -> bool {
        let card = &stored.card;
        let lineage = Handle::from_hex(&stored.lineage).unwrap_or(handle);
        let subject = Mark::subject(&card.issuer, &card.subject);
        let marks = [
            Some(subject),
            card.tenant.as_deref().map(Mark::tenant),
            Some(Mark::portal(&card.portal)),
        ];
        now >= card.created_at.saturating_add(millis(self.absolute_timeout))
            || now >= card.used_at.saturating_add(millis(self.idle_timeout))
            || self.feed.ends_handle(handle)
            || self.feed.ends_handle(lineage)
            || marks.iter().flatten().any(|mark| self.feed.ends_since(mark, card.created_at))
    }
}

/// The key of a session's value.
pub(super) fn key(handle: Handle) -> String {
    format!("s:{{{}}}", handle.to_hex())
}

pub(super) fn random_id() -> Result<SessionId, StoreError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| StoreError::from(SealError))?;
    Ok(SessionId(Redacted::new(bytes)))
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<StoreError> for SessionError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}
