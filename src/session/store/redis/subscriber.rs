//! Keeps the connection, and reads what other replicas of the gate say: what was revoked, and what changed.
//!
//! A poll does not only ask for what is new: it looks whether the last entry that it saw is still there. If not, the stream
//! went back (a failover lost it, or all data) and is read again from its beginning, and what this process knows and
//! the stream lost is said again; the same if what this process said never comes back. The feed counts as read when a poll that was *sent* then came back with nothing left.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
use ::redis::{Pipeline, Value, cmd, from_redis_value, pipe};
use tokio::time::{Instant, sleep, timeout};

use super::link::{Link, Role, connect, place};
use super::log_throttle::Complaint;
use super::{Connected, Redis};
use crate::session::StoreError;
use crate::session::cache::Cache;
use crate::session::record::{Handle, Mark, MarkKind};
use crate::session::revocations::log::{Entry, Feed, millis};
use crate::session::unix_millis;

/// The longest time between two polls.
const POLL_MAX: Duration = Duration::from_millis(200);
/// Between two polls however often somebody complains.
const POLL_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A connection that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(2);
/// Entries in one answer.
const PAGE: usize = 1000;
/// How far a revocation's time may be ahead of the store's clock and ours: more, and a gate's clock is wrong.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// An id that is so much later than the store's clock was made up.
const ID_AHEAD_MAX: Duration = Duration::from_secs(3600);
/// Where a stream ends at last.
const LAST: &str = "18446744073709551615-18446744073709551615";
/// Where a stream begins.
const BEGINNING: &str = "0-0";

/// How far one stream was read.
#[derive(Clone, Debug)]
struct Place {
    id: String,
    /// The entry itself: another server may give the same id to another one.
    entry: Option<HashMap<String, Value>>,
}

/// How far both were.
pub(super) struct Places {
    revocations: Place,
    changes: Place,
}

impl Places {
    /// Then nobody could tell that there were some.
    pub(super) const fn has_no_changes(&self) -> bool {
        self.changes.entry.is_none()
    }
}

impl Place {
    fn beginning() -> Self {
        Self {
            id: BEGINNING.to_owned(),
            entry: None,
        }
    }

    fn at(entry: StreamId) -> Self {
        Self {
            id: entry.id,
            entry: Some(entry.map),
        }
    }

    /// Whether the answer to "this very entry" is it.
    fn is_still_there(&self, found: &[StreamId]) -> bool {
        match &self.entry {
            None => true,
            Some(entry) => matches!(found, [one] if one.map == *entry),
        }
    }

    /// Milliseconds since it was added.
    fn age(&self, now: i64) -> i64 {
        now.saturating_sub(added_at(&self.id))
    }
}

/// Unix milliseconds of the store's clock, as an id has them.
fn added_at(id: &str) -> i64 {
    let millis = id.split('-').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    i64::try_from(millis).unwrap_or(i64::MAX)
}

impl Redis {
    /// For ever; whoever stops waiting ends it.
    pub async fn follow(&self, feed: &Feed, cache: &Cache) {
        let connected = self.stay_connected(feed, cache);
        match &self.sentinels {
            Some(sentinels) => drop(tokio::join!(sentinels.ask(&self.config), connected)),
            None => connected.await,
        }
    }

    async fn stay_connected(&self, feed: &Feed, cache: &Cache) {
        let (mut attempt, mut pause, mut complaint) = (0, BACKOFF_MIN, Complaint::default());
        loop {
            let began = Instant::now();
            let Err(error) = self.connect_and_poll(feed, cache).await;
            let why = error.why();
            if self.current.swap(None).is_some() {
                tracing::warn!(
                    error = why,
                    store = place(&self.config),
                    "the session store's connection is lost"
                );
                complaint.over();
            } else if complaint.is_due(&why, Instant::now()) {
                let store = place(&self.config);
                tracing::warn!(
                    error = why,
                    store,
                    attempt,
                    "the session store cannot be reached; trying again"
                );
            }
            self.remember(Some(why));
            if began.elapsed() > GOOD {
                pause = BACKOFF_MIN;
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
            attempt += 1;
        }
    }

    fn remember(&self, error: Option<String>) {
        *self.last_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = error;
    }

    async fn connect_and_poll(&self, feed: &Feed, cache: &Cache) -> Result<std::convert::Infallible, StoreError> {
        let master = match &self.sentinels {
            Some(sentinels) => Some(sentinels.master().await?),
            None => None,
        };
        let (link, durable) = connect(&self.config, master.as_ref()).await?;
        let skew = self.skew(&link).await;
        let connected = Arc::new(Connected {
            link,
            durable,
            master,
            skew,
            replicas: AtomicBool::new(false),
        });
        let (mut places, sent) = self.catch_up(&connected, feed, cache).await?;
        self.stale_password.store(false, Ordering::Release);
        self.current.store(Some(Arc::clone(&connected)));
        self.remember(None);
        // after it may be used: who waits for the first time begins then
        self.confirm(&connected, feed, sent);
        tracing::info!("the session store is connected");
        let (interval, mut complaint) = ((self.staleness_max / 5).min(POLL_MAX), Complaint::default());
        let mut settled = None;
        loop {
            sleep(POLL_MIN.min(interval)).await;
            let rest = interval.saturating_sub(POLL_MIN);
            // late or told to hurry: either way it is time
            drop(timeout(rest, self.hurry()).await);
            self.look_at_master(&connected, &mut complaint)?;
            if self.stale_password.load(Ordering::Acquire) {
                return Err(StoreError::Refused("the password is not good any more".to_owned()));
            }
            while !self.poll(&connected, &mut places, (feed, cache)).await? {}
            self.settle(&connected, &places, &mut settled).await;
        }
    }

    /// By how many milliseconds our clock is ahead of the store's; `None`: it does not say.
    async fn skew(&self, link: &Link) -> Option<i64> {
        let asked = link.run_at(&self.feed_key(), &cmd("TIME"), self.config.timeout).await;
        let (seconds, micros): (i64, i64) = asked.ok()?;
        Some(unix_millis().saturating_sub(seconds.saturating_mul(1000).saturating_add(micros / 1000)))
    }

    /// Returns when there is something to look at.
    async fn hurry(&self) {
        match &self.sentinels {
            Some(sentinels) => tokio::select! {
                () = self.complaint.notified() => {}
                () = sentinels.news.notified() => {}
            },
            None => self.complaint.notified().await,
        }
    }

    /// An error if the Sentinels name another one. If they cannot tell, what this one says is not good for long.
    fn look_at_master(&self, connected: &Connected, complaint: &mut Complaint) -> Result<(), StoreError> {
        let (Some(sentinels), Some(master)) = (&self.sentinels, &connected.master) else {
            return Ok(());
        };
        match sentinels.named() {
            Some(named) if named == *master => {
                self.remember(None);
                complaint.over();
                Ok(())
            }
            Some(_) => Err(StoreError::Refused("the Sentinels name another master".to_owned())),
            None => {
                let why = sentinels.disagreement();
                if complaint.is_due(&why, Instant::now()) {
                    tracing::warn!(error = why, "nobody confirms the master of the session store");
                }
                self.remember(Some(why));
                Ok(())
            }
        }
    }

    /// The feed was read to its end, of the server that is the master as of the same time.
    fn confirm(&self, connected: &Connected, feed: &Feed, sent: Instant) {
        match (&self.sentinels, &connected.master) {
            (Some(sentinels), Some(master)) => {
                if let Some(asked) = sentinels.confirmed(master) {
                    feed.confirm(sent.min(asked));
                }
            }
            _ => feed.confirm(sent),
        }
    }

    /// Reads the feed from its beginning, says again what it lost, and forgets all sessions that were read before. Also when
    /// the last read was sent.
    async fn catch_up(&self, connected: &Connected, feed: &Feed, cache: &Cache) -> Result<(Places, Instant), StoreError> {
        self.look_at_role(connected).await?;
        // what was taken by now is either read below or said again
        self.unread().retain(|_, taken| !*taken);
        let (key, mut place, mut known) = (self.feed_key(), Place::beginning(), HashMap::new());
        let sent = loop {
            let sent = Instant::now();
            let mut range = cmd("XRANGE");
            range.arg(&key).arg(format!("({}", place.id)).arg("+").arg("COUNT").arg(PAGE);
            let page: StreamRangeReply = connected.link.run(&range, self.config.timeout).await?;
            let (ids, now) = (page.ids, unix_millis());
            // nothing can come after the last id that there is, and asking is an error
            let full = ids.len() >= PAGE && ids.last().is_none_or(|last| last.id != LAST);
            let entries = read_entries(&ids, connected, now);
            self.forget_unread(entries.iter().map(|entry| entry.mark));
            for entry in &entries {
                let at = known.entry(entry.mark).or_insert(entry.at);
                *at = entry.at.max(*at);
            }
            feed.add(entries, now);
            place = ids.into_iter().next_back().map_or(place, Place::at);
            if !full {
                break sent;
            }
        };
        let mut lost = feed.entries(unix_millis());
        lost.retain(|entry| known.get(&entry.mark).is_none_or(|at| *at < entry.at));
        if !lost.is_empty() {
            tracing::warn!(
                entries = lost.len(),
                "the session store had lost revocations; they are said again"
            );
        }
        // what is refused is owed: a store that is full can still be read
        self.say(connected, &lost).await;
        let mut changes = self.newest_change(connected).await?;
        if changes.entry.is_none() {
            self.begin_changes(connected).await;
            changes = self.newest_change(connected).await?;
        }
        // after the place is known: what is read from here on is heard of when it changes
        cache.flush();
        let places = Places {
            revocations: place,
            changes,
        };
        Ok((places, sent))
    }

    async fn newest_change(&self, connected: &Connected) -> Result<Place, StoreError> {
        let mut newest = cmd("XREVRANGE");
        newest.arg(self.changes_key()).arg("+").arg("-").arg("COUNT").arg(1);
        let newest: StreamRangeReply = connected.link.run(&newest, self.config.timeout).await?;
        Ok(newest.ids.into_iter().next().map_or_else(Place::beginning, Place::at))
    }

    /// A cluster's replicas send readers away; a single one would answer, late.
    async fn look_at_role(&self, connected: &Connected) -> Result<(), StoreError> {
        if let Link::Node(_) = connected.link {
            let role: Value = connected.link.run(&cmd("ROLE"), self.config.timeout).await?;
            note_role(connected, &role)?;
        }
        Ok(())
    }

    fn questions(&self, connected: &Connected, places: &Places) -> Pipeline {
        let (revocations, changes) = (self.feed_key(), self.changes_key());
        let mut questions = pipe();
        if let Link::Node(_) = connected.link {
            questions.cmd("ROLE");
        }
        for (key, place) in [(&revocations, &places.revocations), (&changes, &places.changes)] {
            questions.cmd("XRANGE").arg(key).arg(&place.id).arg(&place.id);
        }
        let read = questions.cmd("XREAD").arg("COUNT").arg(PAGE).arg("STREAMS");
        read.arg(&revocations)
            .arg(&changes)
            .arg(&places.revocations.id)
            .arg(&places.changes.id);
        questions
    }

    /// True if nothing is left to read.
    async fn poll(&self, connected: &Connected, places: &mut Places, (feed, cache): (&Feed, &Cache)) -> Result<bool, StoreError> {
        let taken = |unread: &HashMap<Mark, bool>| unread.iter().filter(|(_, taken)| **taken).map(|(mark, _)| *mark).collect();
        let (sent, said): (Instant, Vec<Mark>) = (Instant::now(), taken(&self.unread()));
        let questions = self.questions(connected, places);
        let answers = connected
            .link
            .run_all(&self.feed_key(), questions, self.config.timeout)
            .await?;
        let mut answers = answers.into_iter();
        if let Link::Node(_) = connected.link {
            note_role(connected, &answers.next().unwrap_or(Value::Nil))?;
        }
        let there: StreamRangeReply = read(answers.next())?;
        let changes_there: StreamRangeReply = read(answers.next())?;
        let now = unix_millis();
        // what is that old may have been trimmed; nothing that counts went with it
        let trimmed = places.revocations.age(now) >= millis(self.retention);
        if !places.revocations.is_still_there(&there.ids) && !trimmed {
            let (read, sent) = self.catch_up(connected, feed, cache).await?;
            *places = read;
            self.confirm(connected, feed, sent);
            return Ok(true);
        }
        if !places.changes.is_still_there(&changes_there.ids) {
            cache.flush();
            places.changes = Place::beginning();
            return Ok(false);
        }
        let news: Option<StreamReadReply> = read(answers.next())?;
        let mut all = true;
        for stream in news.into_iter().flat_map(|news| news.keys) {
            all &= stream.ids.len() < PAGE;
            if stream.key == self.feed_key() {
                let entries = read_entries(&stream.ids, connected, now);
                self.forget_unread(entries.iter().map(|entry| entry.mark));
                feed.add(entries, now);
                places.revocations = stream
                    .ids
                    .into_iter()
                    .next_back()
                    .map_or(places.revocations.clone(), Place::at);
            } else {
                cache.hear(stream.ids.iter().filter_map(read_handle));
                places.changes = stream.ids.into_iter().next_back().map_or(places.changes.clone(), Place::at);
            }
        }
        if !all {
            return Ok(false);
        }
        if places.has_no_changes() {
            // what was remembered may have changed, and there is nothing to see it by
            cache.flush();
        }
        let lost = said.iter().any(|mark| self.unread().contains_key(mark));
        if lost {
            (*places, _) = self.catch_up(connected, feed, cache).await?;
        }
        self.confirm(connected, feed, sent);
        Ok(true)
    }

    fn forget_unread(&self, marks: impl Iterator<Item = Mark>) {
        let mut unread = self.unread();
        for mark in marks {
            unread.remove(&mark);
        }
    }
}

/// Not the master, and what it says may be old.
fn note_role(connected: &Connected, role: &Value) -> Result<(), StoreError> {
    let role = Role::read(role).ok_or_else(|| StoreError::Refused("ROLE was not answered".to_owned()))?;
    connected.replicas.store(role.replicas, Ordering::Release);
    if role.master {
        return Ok(());
    }
    Err(StoreError::Refused("this server is not the master any more".to_owned()))
}

fn read<T: ::redis::FromRedisValue>(value: Option<Value>) -> Result<T, StoreError> {
    from_redis_value(value.unwrap_or(Value::Nil)).map_err(|error| StoreError::Refused(error.to_string()))
}

/// Times that lie in the future were written by a gate whose clock is wrong; they would refuse every login until then.
fn read_entries(ids: &[StreamId], connected: &Connected, now: i64) -> Vec<Entry> {
    let mut ahead = 0;
    let read = ids.iter().filter_map(|id| Some((added_at(&id.id), read_entry(id)?)));
    let entries = read.map(|(added, entry)| {
        let at = connected.skew.map_or(entry.at, |skew| entry.at.min(latest(added, now, skew)));
        ahead = ahead.max(entry.at.saturating_sub(at));
        Entry { at, ..entry }
    });
    let entries = entries.collect();
    if ahead > 0 {
        tracing::warn!(
            milliseconds = ahead,
            "revocations from the future count as of now; the clock of another gate is wrong"
        );
    }
    entries
}

/// The latest time that an entry added then can have: the store's clock and ours differ, and either may be right.
fn latest(added: i64, now: i64, skew: i64) -> i64 {
    let theirs = now.saturating_sub(skew);
    let added = added.min(theirs.saturating_add(millis(ID_AHEAD_MAX)));
    added.saturating_add(skew.max(0)).saturating_add(millis(AHEAD_MAX))
}

/// What is no entry of ours is left alone.
fn read_entry(entry: &StreamId) -> Option<Entry> {
    let mark: Vec<u8> = from_redis_value(entry.map.get("m")?.clone()).ok()?;
    let (kind, hash) = mark.split_first()?;
    Some(Entry {
        mark: Mark {
            kind: MarkKind::from_code(*kind)?,
            hash: <[u8; 32]>::try_from(hash).ok()?,
        },
        at: from_redis_value(entry.map.get("a")?.clone()).ok()?,
    })
}

fn read_handle(entry: &StreamId) -> Option<Handle> {
    let handle: Vec<u8> = from_redis_value(entry.map.get("h")?.clone()).ok()?;
    <[u8; 32]>::try_from(handle).ok().map(Handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_clock_is_wrong_a_revocation_keeps_what_it_may_have() {
        // when it was added, now, our clock ahead of the store's, and the latest time it may have
        let table = [
            (1_000_000, 1_000_200, 0, 1_005_000),
            // the store is behind: gates say times that are later than its ids
            (1_000_000, 1_060_200, 60_000, 1_065_000),
            // we are behind: what others say is in our future, and right
            (1_000_000, 940_200, -60_000, 1_005_000),
            // read late
            (1_000_000, 9_000_000, 0, 1_005_000),
            // made up
            (i64::MAX, 1_000_000, 0, 1_000_000 + 3_600_000 + 5000),
        ];
        for (added, now, skew, wanted) in table {
            assert_eq!(latest(added, now, skew), wanted, "{added} {now} {skew}");
        }
        assert_eq!(added_at("18446744073709551615-18446744073709551615"), i64::MAX);
        assert_eq!(added_at("17-3"), 17);
    }
}
