//! The revocations that this process knows, and the time up to which it knows them all.
//!
//! Requests race with the subscriber and with revocations made here: a request must not use a session that was just
//! revoked. `add` inserts entries and then publishes the new epoch, both under the write lock; a request reads the
//! epoch first and the entries second. So a request that sees the new epoch sees the new entries, and one that saw the
//! old epoch checks again next time. If the subscriber stops, `confirm_read` is no longer called, `is_fresh` turns
//! false after `staleness_max`, and `Sessions` refuses every session; callers that ask about sessions must check
//! `is_fresh`. If the log is full, the oldest entries of single sessions are dropped; their values were removed from
//! the store when they were revoked. Entries older than the retention are dropped, because everything that they could
//! end has expired.
//!
//! An entry ends the sessions and tokens that began before it. An entry of a handle, or of a provider's session
//! (`sid`), ends its sessions whenever they began, because neither is used again; so it also ends a session whose login
//! completes later. Documentation and metrics call this log the feed of revocations.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::session::millis;
use crate::session::record::{Handle, RevocationKey, RevocationKeys, RevocationKind, Session};

/// Maximum number of entries. Beyond it the oldest entries of single sessions are dropped first.
pub const ENTRIES_MAX: usize = 1_000_000;

/// One revocation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RevocationEntry {
    pub key: RevocationKey,
    /// Unix milliseconds. Ends what began at this time or before.
    pub at: i64,
}

pub struct RevocationLog {
    entries: RwLock<Entries>,
    /// Counts the calls of `add` that brought a new entry. Live connections subscribe to it.
    epoch: watch::Sender<u64>,
    /// A copy of `epoch` that the request path reads without a lock.
    epoch_now: AtomicU64,
    /// Entries that may end a bearer token. At zero, `check_identity` hashes nothing.
    token_entries: AtomicUsize,
    base: Instant,
    /// Milliseconds since `base` up to which every revocation is known; -1 before the first complete read.
    confirmed: AtomicI64,
    /// True after the first complete read; `wait_for_first_read` waits for it.
    was_read_once: Mutex<bool>,
    first_read: Condvar,
    staleness_max: Duration,
    retention: Duration,
}

#[derive(Default)]
struct Entries {
    /// The latest time of every key.
    at: FxHashMap<RevocationKey, i64>,
    /// In the order of arrival, for dropping the oldest.
    order: VecDeque<RevocationEntry>,
}

impl RevocationLog {
    pub fn new(staleness_max: Duration, retention: Duration) -> Self {
        Self {
            entries: RwLock::default(),
            epoch: watch::Sender::new(0),
            epoch_now: AtomicU64::new(0),
            token_entries: AtomicUsize::new(0),
            base: Instant::now(),
            confirmed: AtomicI64::new(-1),
            was_read_once: Mutex::new(false),
            first_read: Condvar::new(),
            staleness_max,
            retention,
        }
    }

    /// Adds entries; returns true if one of them was new. `now` is in Unix milliseconds.
    pub fn add(&self, entries: impl IntoIterator<Item = RevocationEntry>, now: i64) -> bool {
        let oldest = now.saturating_sub(millis(self.retention));
        let mut known = self.entries.write();
        let mut is_new = false;
        for entry in entries {
            if entry.at < oldest || known.at.get(&entry.key).is_some_and(|at| *at >= entry.at) {
                continue;
            }
            if known.at.insert(entry.key, entry.at).is_none() && entry.key.kind.ends_tokens() {
                self.token_entries.fetch_add(1, Ordering::Release);
            }
            known.order.push_back(entry);
            is_new = true;
        }
        if is_new {
            self.trim(&mut known, oldest);
            // INVARIANT: under the lock, so that a reader of the new epoch reads the new entries
            let epoch = self.epoch_now.fetch_add(1, Ordering::AcqRel) + 1;
            self.epoch.send_replace(epoch);
        }
        is_new
    }

    fn trim(&self, known: &mut Entries, oldest: i64) {
        let Entries { at, order } = known;
        let mut drop_entry = |entry: &RevocationEntry| {
            // a later entry of the same key may have replaced it
            if at.get(&entry.key) == Some(&entry.at) {
                at.remove(&entry.key);
                if entry.key.kind.ends_tokens() {
                    self.token_entries.fetch_sub(1, Ordering::Release);
                }
            }
        };
        while let Some(entry) = order.pop_front_if(|entry| entry.at < oldest) {
            drop_entry(&entry);
        }
        if order.len() <= ENTRIES_MAX {
            return;
        }
        // a tenth at once, so that the scan is rare
        let mut surplus = order.len() - ENTRIES_MAX + ENTRIES_MAX / 10;
        order.retain(|entry| {
            let is_dropped = surplus > 0 && entry.key.kind == RevocationKind::Session;
            if is_dropped {
                surplus -= 1;
                drop_entry(entry);
            }
            !is_dropped
        });
        tracing::warn!(
            max = ENTRIES_MAX,
            "too many revocations; the oldest of single sessions were forgotten"
        );
    }

    /// Every entry younger than the retention, in no order.
    pub fn entries(&self, now: i64) -> Vec<RevocationEntry> {
        let oldest = now.saturating_sub(millis(self.retention));
        let known = self.entries.read();
        let current = known.at.iter().filter(|(_, at)| **at >= oldest);
        current.map(|(key, at)| RevocationEntry { key: *key, at: *at }).collect()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch_now.load(Ordering::Acquire)
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// True if this handle was revoked.
    pub fn revokes_handle(&self, handle: Handle) -> bool {
        self.entries.read().at.contains_key(&RevocationKey::session(handle))
    }

    /// True if a session that began at `created_at` (Unix milliseconds) was revoked.
    pub fn revokes(&self, handle: Handle, keys: &RevocationKeys, created_at: i64) -> bool {
        let known = self.entries.read();
        known.at.contains_key(&RevocationKey::session(handle))
            || keys.untimed().any(|key| known.at.contains_key(&key))
            || keys.time_bound().any(|key| known.revokes_since(key, created_at))
    }

    /// True if a session found earlier was revoked since then, or the portal was. Never waits.
    pub fn revokes_at(&self, session: &Session, portal: &str) -> bool {
        let began = session.data.created_at;
        let is_other_portal = portal != session.data.portal && !self.ends_no_tokens();
        self.revokes(session.handle, &session.revocation_keys, began)
            || (is_other_portal && self.revokes_since(&RevocationKey::portal(portal), began))
    }

    /// True if the log holds no entry that may end a bearer token. Then callers need not compute keys.
    pub fn ends_no_tokens(&self) -> bool {
        self.token_entries.load(Ordering::Acquire) == 0
    }

    /// True if `key` was revoked at `began` (Unix milliseconds) or later.
    pub fn revokes_since(&self, key: &RevocationKey, began: i64) -> bool {
        self.entries.read().revokes_since(key, began)
    }

    /// Records that the store's stream was read to its end by a command sent at `sent`.
    pub fn confirm_read(&self, sent: Instant) {
        let at = millis(sent.saturating_duration_since(self.base));
        if self.confirmed.fetch_max(at, Ordering::AcqRel) < 0 {
            *self.was_read_once.lock() = true;
            self.first_read.notify_all();
        }
    }

    /// Blocks the calling thread until the first complete read, at most for `patience`; returns false if it did not
    /// happen.
    pub fn wait_for_first_read(&self, patience: Duration) -> bool {
        let mut was_read = self.was_read_once.lock();
        // the result only says whether time ran out; the flag says the rest
        let _elapsed = self.first_read.wait_while_for(&mut was_read, |was_read| !*was_read, patience);
        *was_read
    }

    /// True once the stream was read to its end.
    pub fn was_read(&self) -> bool {
        self.confirmed.load(Ordering::Acquire) >= 0
    }

    /// True if every revocation older than `staleness_max` is known.
    pub fn is_fresh(&self) -> bool {
        self.was_read() && self.age() <= self.staleness_max
    }

    /// Time since the last confirmed read, or since the start if there was none.
    pub fn age(&self) -> Duration {
        let at = self.confirmed.load(Ordering::Acquire).max(0);
        let at = Duration::from_millis(u64::try_from(at).unwrap_or_default());
        self.base.elapsed().saturating_sub(at)
    }
}

impl Entries {
    fn revokes_since(&self, key: &RevocationKey, began: i64) -> bool {
        self.at.get(key).is_some_and(|at| *at >= began)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use std::sync::Arc;

    use super::*;
    use crate::session::record::{Revocation, SessionData};
    use cedargate_policy::types::PortalSlug;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn data(created_at: i64) -> SessionData {
        SessionData {
            provider: "corp".to_owned(),
            issuer: "corp".to_owned(),
            subject: "ann".to_owned(),
            portal: "shop".to_owned(),
            claims: Arc::new(Map::new()),
            created_at,
            idp_session: Some("sid".to_owned()),
            grant: None,
            portals: None,
            rotation_due: false,
        }
    }

    #[test]
    fn revocation_ends_its_target_if_the_session_began_before_it() {
        let (now, handle, lineage) = (1_000_000_000_000, Handle([1; 32]), Handle([2; 32]));
        let subject = |issuer: &str, subject: &str| Revocation::Subject {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        };
        let sid = |issuer: &str, sid: &str| Revocation::IdpSession {
            issuer: issuer.to_owned(),
            sid: sid.to_owned(),
        };
        let unnamed = Revocation::Unnamed {
            issuer: "corp".to_owned(),
            subject: "ann".to_owned(),
        };
        let slug = |text: &str| PortalSlug::parse(text).unwrap();
        // target, milliseconds after the session began, and the expected result
        let table = [
            (Revocation::Session(handle), -5, true),
            (Revocation::Session(lineage), -5, true),
            (Revocation::Session(Handle([3; 32])), 5, false),
            (subject("corp", "ann"), 0, true),
            (subject("corp", "ann"), 1, true),
            (subject("corp", "ann"), -1, false),
            (subject("corp", "bob"), 1, false),
            (subject("other", "ann"), 1, false),
            (Revocation::Tenant("acme".to_owned()), 1, true),
            (Revocation::Tenant("acme".to_owned()), -1, false),
            (Revocation::Tenant("ann".to_owned()), 1, false),
            (Revocation::Portal(slug("shop")), 1, true),
            (Revocation::Portal(slug("acme")), 1, false),
            (sid("corp", "sid"), 1, true),
            (sid("corp", "sid"), -5, true),
            (unnamed.clone(), 1, false),
            (sid("other", "sid"), 1, false),
            (sid("corp", "other"), 1, false),
        ];
        for (what, after, ends) in table {
            let log = RevocationLog::new(Duration::from_secs(1), DAY);
            let keys = RevocationKeys::new(lineage, &data(now), Some("acme"));
            assert!(!log.revokes(handle, &keys, now));
            let entry = RevocationEntry {
                key: RevocationKey::of(&what),
                at: now + after,
            };
            assert!(log.add([entry], now));
            assert_eq!(log.revokes(handle, &keys, now), ends, "{what:?} {after}");
            let of_sessions = matches!(
                what,
                Revocation::Session(_) | Revocation::IdpSession { .. } | Revocation::Unnamed { .. }
            );
            assert_eq!(log.ends_no_tokens(), of_sessions);
            assert_eq!(log.epoch(), 1);
            assert!(!log.add([entry], now), "the same entry again is not new");
            assert_eq!(log.epoch(), 1);
        }
        // a session without a `sid` is found by its subject
        let log = RevocationLog::new(Duration::from_secs(1), DAY);
        let without = SessionData {
            idp_session: None,
            ..data(now)
        };
        let keys = RevocationKeys::new(lineage, &without, Some("acme"));
        let entry = RevocationEntry {
            key: RevocationKey::of(&unnamed),
            at: now,
        };
        log.add([entry], now);
        assert!(log.revokes(handle, &keys, now) && !log.revokes(handle, &keys, now + 1));
    }

    #[test]
    fn entries_are_dropped_after_the_retention_and_not_before() {
        let log = RevocationLog::new(Duration::from_secs(1), DAY);
        let entry = |tenant: &str, at| RevocationEntry {
            key: RevocationKey::tenant(tenant),
            at,
        };
        let day = millis(DAY);
        log.add([entry("a", 1000), entry("b", 2000)], 2000);
        log.add([entry("a", 3000)], 3000);
        log.add([entry("c", day + 1500)], day + 1500);
        assert_eq!(log.entries(day + 1500).len(), 3);
        log.add([entry("d", day + 2500)], day + 2500);
        assert!(!log.revokes_since(&RevocationKey::tenant("b"), 0));
        assert!(log.revokes_since(&RevocationKey::tenant("a"), 3000), "the later entry counts");
        assert!(!log.add([entry("old", 10)], day + 2500));
        assert_eq!(log.token_entries.load(Ordering::Acquire), 3);
    }

    #[test]
    fn full_log_drops_only_entries_of_single_sessions() {
        let log = RevocationLog::new(Duration::from_secs(1), DAY);
        log.add(
            [RevocationEntry {
                key: RevocationKey::tenant("acme"),
                at: 1,
            }],
            1,
        );
        let handle = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            RevocationKey::session(Handle(bytes))
        };
        log.add((0..ENTRIES_MAX + 1000).map(|n| RevocationEntry { key: handle(n), at: 2 }), 2);
        let known = log.entries.read();
        assert!(known.at.len() <= ENTRIES_MAX && known.order.len() <= ENTRIES_MAX);
        assert!(known.at.contains_key(&RevocationKey::tenant("acme")));
        assert!(known.at.contains_key(&handle(ENTRIES_MAX + 999)) && !known.at.contains_key(&handle(0)));
    }

    #[test]
    fn log_is_fresh_only_within_staleness_max_of_a_confirmed_read() {
        let log = RevocationLog::new(Duration::from_millis(200), DAY);
        assert!(!log.is_fresh());
        let sent = Instant::now();
        log.confirm_read(sent);
        assert!(log.is_fresh());
        log.confirmed.store(0, Ordering::Release);
        while log.base.elapsed() <= Duration::from_millis(250) {
            std::thread::yield_now();
        }
        assert!(!log.is_fresh());
        // a late answer to an old command confirms nothing
        log.confirm_read(sent);
        assert!(!log.is_fresh());
    }
}
