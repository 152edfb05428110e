//! What was revoked, as this process knows it, and since when it is sure.
//!
//! Written by whoever reads the store's feed and by this process's own revocations, read on every request. Entries are
//! kept as long as anything that they end could live. A session or token that began before an entry of its own is revoked;
//! one that names a handle always is, because a handle never comes back. Who asks about sessions must ask `is_fresh`, too:
//! a set that is behind knows nothing of the last revocation.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::record::{Handle, Mark, MarkKind, Marks};

/// Entries kept. Past it the oldest of single sessions go first: those were taken out of the store as well.
pub const ENTRIES_MAX: usize = 1_000_000;

/// One revocation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub mark: Mark,
    /// Unix milliseconds: what began then or before is over.
    pub at: i64,
}

pub struct Feed {
    set: RwLock<Set>,
    /// Changes with every new entry; the copy is for the request path.
    epoch: watch::Sender<u64>,
    epoch_now: AtomicU64,
    /// Entries that may end a bearer token: none, and nothing has to be hashed.
    wide: AtomicUsize,
    base: Instant,
    /// Milliseconds since `base` when the feed was last known to be read to its end; -1: never.
    confirmed: AtomicI64,
    /// Whether it ever was, for `wait`.
    began: (Mutex<bool>, Condvar),
    staleness_max: Duration,
    retention: Duration,
}

#[derive(Default)]
struct Set {
    at: FxHashMap<Mark, i64>,
    /// In the order of arrival.
    order: VecDeque<Entry>,
}

impl Feed {
    pub fn new(staleness_max: Duration, retention: Duration) -> Self {
        Self {
            set: RwLock::default(),
            epoch: watch::Sender::new(0),
            epoch_now: AtomicU64::new(0),
            wide: AtomicUsize::new(0),
            base: Instant::now(),
            confirmed: AtomicI64::new(-1),
            began: Default::default(),
            staleness_max,
            retention,
        }
    }

    /// Takes entries in; true if one was new.
    pub fn add(&self, entries: impl IntoIterator<Item = Entry>, now: i64) -> bool {
        let oldest = now.saturating_sub(millis(self.retention));
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = false;
        for entry in entries {
            if entry.at < oldest || set.at.get(&entry.mark).is_some_and(|at| *at >= entry.at) {
                continue;
            }
            if set.at.insert(entry.mark, entry.at).is_none() && entry.mark.kind.is_wide() {
                self.wide.fetch_add(1, Ordering::Release);
            }
            set.order.push_back(entry);
            new = true;
        }
        if new {
            self.forget(&mut set, oldest);
            // within the lock: who reads the new epoch sees the new entries
            let epoch = self.epoch_now.fetch_add(1, Ordering::AcqRel) + 1;
            self.epoch.send_replace(epoch);
        }
        new
    }

    fn forget(&self, set: &mut Set, oldest: i64) {
        let Set { at, order } = set;
        let mut drop_entry = |entry: &Entry| {
            // a later entry of the same mark may have taken its place
            if at.get(&entry.mark) == Some(&entry.at) {
                at.remove(&entry.mark);
                if entry.mark.kind.is_wide() {
                    self.wide.fetch_sub(1, Ordering::Release);
                }
            }
        };
        while let Some(entry) = order.pop_front_if(|entry| entry.at < oldest) {
            drop_entry(&entry);
        }
        if order.len() <= ENTRIES_MAX {
            return;
        }
        // a tenth at once, so that this is rare
        let mut surplus = order.len() - ENTRIES_MAX + ENTRIES_MAX / 10;
        order.retain(|entry| {
            let goes = surplus > 0 && entry.mark.kind == MarkKind::Session;
            if goes {
                surplus -= 1;
                drop_entry(entry);
            }
            !goes
        });
        tracing::warn!(
            max = ENTRIES_MAX,
            "too many revocations; the oldest of single sessions were forgotten"
        );
    }

    /// Everything that is still worth telling others.
    pub fn entries(&self, now: i64) -> Vec<Entry> {
        let oldest = now.saturating_sub(millis(self.retention));
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        let current = set.at.iter().filter(|(_, at)| **at >= oldest);
        current.map(|(mark, at)| Entry { mark: *mark, at: *at }).collect()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch_now.load(Ordering::Acquire)
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Whether one of its ids was revoked.
    pub fn ends_handle(&self, handle: Handle) -> bool {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        set.at.contains_key(&Mark::session(handle))
    }

    /// Whether a session that began at `created_at` (unix milliseconds) was revoked.
    pub fn ends(&self, handle: Handle, marks: &Marks, created_at: i64) -> bool {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        set.at.contains_key(&Mark::session(handle))
            || set.at.contains_key(&Mark::session(marks.lineage))
            || marks.timed().any(|mark| set.ends(mark, created_at))
    }

    /// Whether nothing but sessions was ever revoked, ours or a provider's: then nobody has to make marks to ask.
    pub fn is_narrow(&self) -> bool {
        self.wide.load(Ordering::Acquire) == 0
    }

    pub fn ends_since(&self, mark: &Mark, began: i64) -> bool {
        self.set.read().unwrap_or_else(PoisonError::into_inner).ends(mark, began)
    }

    /// The feed was read to its end by a command sent at `sent`.
    pub fn confirm(&self, sent: Instant) {
        let at = millis(sent.saturating_duration_since(self.base));
        if self.confirmed.fetch_max(at, Ordering::AcqRel) < 0 {
            *self.began.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.began.1.notify_all();
        }
    }

    /// Blocks this thread until the feed was read for the first time; false if that takes too long.
    pub fn wait(&self, patience: Duration) -> bool {
        let began = self.began.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.began.1.wait_timeout_while(began, patience, |began| !*began);
        let (began, _late) = waited.unwrap_or_else(PoisonError::into_inner);
        *began
    }

    /// Ever, to its end.
    pub fn was_read(&self) -> bool {
        self.confirmed.load(Ordering::Acquire) >= 0
    }

    pub fn is_fresh(&self) -> bool {
        self.was_read() && self.age() <= self.staleness_max
    }

    /// Since it was confirmed, or since the start if it never was.
    pub fn age(&self) -> Duration {
        let at = self.confirmed.load(Ordering::Acquire).max(0);
        let at = Duration::from_millis(u64::try_from(at).unwrap_or_default());
        self.base.elapsed().saturating_sub(at)
    }
}

impl Set {
    fn ends(&self, mark: &Mark, began: i64) -> bool {
        self.at.get(mark).is_some_and(|at| *at >= began)
    }
}

pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use std::sync::Arc;

    use super::*;
    use crate::session::record::{Revocation, SessionData};
    use crate::types::PortalSlug;

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
    fn a_revocation_ends_what_it_names_and_what_began_before_it() {
        let (now, handle, lineage) = (1_000_000_000_000, Handle([1; 32]), Handle([2; 32]));
        let subject = |issuer: &str, subject: &str| Revocation::Subject {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        };
        let sid = |issuer: &str, sid: &str| Revocation::IdpSession {
            issuer: issuer.to_owned(),
            sid: sid.to_owned(),
        };
        let slug = |text: &str| PortalSlug::parse(text).unwrap();
        // what, when relative to the session's beginning, whether it ends it
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
            (sid("other", "sid"), 1, false),
            (sid("corp", "other"), 1, false),
        ];
        for (what, after, ends) in table {
            let feed = Feed::new(Duration::from_secs(1), DAY);
            let marks = Marks::new(lineage, &data(now), Some("acme"));
            assert!(!feed.ends(handle, &marks, now));
            let entry = Entry {
                mark: Mark::of(&what),
                at: now + after,
            };
            assert!(feed.add([entry], now));
            assert_eq!(feed.ends(handle, &marks, now), ends, "{what:?} {after}");
            let of_sessions = matches!(what, Revocation::Session(_) | Revocation::IdpSession { .. });
            assert_eq!(feed.is_narrow(), of_sessions);
            assert_eq!(feed.epoch(), 1);
            assert!(!feed.add([entry], now), "twice is nothing new");
            assert_eq!(feed.epoch(), 1);
        }
    }

    #[test]
    fn entries_are_forgotten_when_nothing_they_end_can_live_and_not_before() {
        let feed = Feed::new(Duration::from_secs(1), DAY);
        let entry = |tenant: &str, at| Entry {
            mark: Mark::tenant(tenant),
            at,
        };
        let day = millis(DAY);
        feed.add([entry("a", 1000), entry("b", 2000)], 2000);
        feed.add([entry("a", 3000)], 3000);
        feed.add([entry("c", day + 1500)], day + 1500);
        assert_eq!(feed.entries(day + 1500).len(), 3);
        feed.add([entry("d", day + 2500)], day + 2500);
        assert!(!feed.ends_since(&Mark::tenant("b"), 0));
        assert!(feed.ends_since(&Mark::tenant("a"), 3000), "the later one counts");
        assert!(!feed.add([entry("old", 10)], day + 2500));
        assert_eq!(feed.wide.load(Ordering::Acquire), 3);
    }

    #[test]
    fn the_set_stays_within_its_bound_and_keeps_what_is_not_about_one_session() {
        let feed = Feed::new(Duration::from_secs(1), DAY);
        feed.add(
            [Entry {
                mark: Mark::tenant("acme"),
                at: 1,
            }],
            1,
        );
        let handle = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            Mark::session(Handle(bytes))
        };
        feed.add((0..ENTRIES_MAX + 1000).map(|n| Entry { mark: handle(n), at: 2 }), 2);
        let set = feed.set.read().unwrap();
        assert!(set.at.len() <= ENTRIES_MAX && set.order.len() <= ENTRIES_MAX);
        assert!(set.at.contains_key(&Mark::tenant("acme")));
        assert!(set.at.contains_key(&handle(ENTRIES_MAX + 999)) && !set.at.contains_key(&handle(0)));
    }

    #[test]
    fn a_feed_never_read_is_not_fresh_and_one_read_is_for_so_long() {
        let feed = Feed::new(Duration::from_millis(200), DAY);
        assert!(!feed.is_fresh());
        let sent = Instant::now();
        feed.confirm(sent);
        assert!(feed.is_fresh());
        feed.confirmed.store(0, Ordering::Release);
        while feed.base.elapsed() <= Duration::from_millis(250) {
            std::thread::yield_now();
        }
        assert!(!feed.is_fresh());
        // the answer to an old question confirms nothing
        feed.confirm(sent);
        assert!(!feed.is_fresh());
    }
}
