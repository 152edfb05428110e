//! The entries of the two streams in Redis, and the position up to which a stream was read.
//!
//! An entry of the stream of revocations has the fields `m` (kind and hash of the key) and `a` (Unix milliseconds); an
//! entry of the stream of changes has the field `h` (handle). Part of the stored format.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::streams::StreamId;
use ::redis::{Value, from_redis_value};

use crate::session::millis;
use crate::session::record::{Handle, RevocationKey, RevocationKind};
use crate::session::revocations::log::RevocationEntry;

/// A revocation's time may be this far ahead of the store's clock and of this process's clock; further ahead, the clock
/// of another gate is wrong.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// An entry id may be this far ahead of the store's clock; further ahead, another client made the id up.
const ID_AHEAD_MAX: Duration = Duration::from_secs(3600);
/// The last possible id of a stream.
pub const LAST_ID: &str = "18446744073709551615-18446744073709551615";
/// An id before every entry of a stream.
const FIRST_ID: &str = "0-0";

/// The end of the part of a stream that was read.
#[derive(Clone, Debug)]
pub struct StreamPosition {
    pub id: String,
    /// The fields of the last entry that was read, because another server may use the same id for another entry. `None`
    /// if no entry was read.
    pub entry: Option<HashMap<String, Value>>,
}

pub struct StreamPositions {
    pub revocations: StreamPosition,
    pub changes: StreamPosition,
}

impl StreamPositions {
    /// No entry to anchor on: losing the change stream could not be detected.
    pub const fn has_no_changes(&self) -> bool {
        self.changes.entry.is_none()
    }
}

impl StreamPosition {
    pub fn beginning() -> Self {
        Self {
            id: FIRST_ID.to_owned(),
            entry: None,
        }
    }

    pub fn at(entry: StreamId) -> Self {
        Self {
            id: entry.id,
            entry: Some(entry.map),
        }
    }

    /// Moves behind the last of `entries`; without entries it stays.
    pub fn advance(&mut self, entries: Vec<StreamId>) {
        if let Some(last) = entries.into_iter().next_back() {
            *self = Self::at(last);
        }
    }

    /// True if the entry read back at `id` is the one seen before.
    pub fn is_still_there(&self, found: &[StreamId]) -> bool {
        match &self.entry {
            None => true,
            Some(entry) => matches!(found, [one] if one.map == *entry),
        }
    }

    /// Milliseconds since the entry was added.
    pub fn age(&self, now: i64) -> i64 {
        now.saturating_sub(added_at(&self.id))
    }
}

/// Unix milliseconds of the store's clock when an entry was added, taken from its id.
fn added_at(id: &str) -> i64 {
    let millis = id.split('-').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// Reads entries of revocations. A time in the future comes from a gate with a wrong clock and would refuse every login
/// until then, so it is limited to the latest plausible time. `skew`: milliseconds by which our clock is ahead of the
/// store's.
pub fn read_entries(ids: &[StreamId], skew: Option<i64>, now: i64) -> Vec<RevocationEntry> {
    let mut ahead = 0;
    let mut entries = Vec::new();
    for id in ids {
        let Some(entry) = read_entry(id) else { continue };
        let limit = skew.map_or(i64::MAX, |skew| latest(added_at(&id.id), now, skew));
        let at = entry.at.min(limit);
        ahead = ahead.max(entry.at.saturating_sub(at));
        entries.push(RevocationEntry { at, ..entry });
    }
    if ahead > 0 {
        tracing::warn!(
            milliseconds = ahead,
            "revocations from the future count as of now; the clock of another gate is wrong"
        );
    }
    entries
}

/// The latest plausible time of an entry that was added at `added`: the store's clock and ours differ by `skew`, and
/// either may be right.
fn latest(added: i64, now: i64, skew: i64) -> i64 {
    let store_now = now.saturating_sub(skew);
    let added = added.min(store_now.saturating_add(millis(ID_AHEAD_MAX)));
    added.saturating_add(skew.max(0)).saturating_add(millis(AHEAD_MAX))
}

/// `None` for an entry that no gate wrote.
fn read_entry(entry: &StreamId) -> Option<RevocationEntry> {
    let key: Vec<u8> = from_redis_value(entry.map.get("m")?.clone()).ok()?;
    let (kind, hash) = key.split_first()?;
    Some(RevocationEntry {
        key: RevocationKey {
            kind: RevocationKind::from_code(*kind)?,
            hash: <[u8; 32]>::try_from(hash).ok()?,
        },
        at: from_redis_value(entry.map.get("a")?.clone()).ok()?,
    })
}

pub fn read_handle(entry: &StreamId) -> Option<Handle> {
    let handle: Vec<u8> = from_redis_value(entry.map.get("h")?.clone()).ok()?;
    <[u8; 32]>::try_from(handle).ok().map(Handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocation_time_is_limited_to_the_latest_plausible_time() {
        // added, now, skew (our clock ahead of the store's), and the latest plausible time
        let table = [
            (1_000_000, 1_000_200, 0, 1_005_000),
            // the store's clock is behind: gates write times later than its ids
            (1_000_000, 1_060_200, 60_000, 1_065_000),
            // our clock is behind: the times of other gates are in our future, and right
            (1_000_000, 940_200, -60_000, 1_005_000),
            // read late
            (1_000_000, 9_000_000, 0, 1_005_000),
            // an id that another client made up
            (i64::MAX, 1_000_000, 0, 1_000_000 + 3_600_000 + 5000),
        ];
        for (added, now, skew, wanted) in table {
            assert_eq!(latest(added, now, skew), wanted, "{added} {now} {skew}");
        }
        assert_eq!(added_at("18446744073709551615-18446744073709551615"), i64::MAX);
        assert_eq!(added_at("17-3"), 17);
    }
}
