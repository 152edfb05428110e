//! Keeps the connection to Redis and reads its two streams: revocations, and changes of sessions.
//!
//! The subscriber races with a failover: a new master may lack the newest entries of a stream, or have other entries
//! under the same ids. So every poll reads new entries, and checks that the last entry that was read is still there,
//! unchanged. If it is not, `catch_up` reads the stream of revocations again from its beginning and publishes again the
//! revocations that this process knows and the stream lacks. It does the same if a revocation that this process
//! published, and Redis acknowledged, cannot be read back.
//!
//! The revocation log counts as complete as of the time at which the poll was *sent* that found nothing more to read;
//! with Sentinels, also not later than a majority confirmed the master. So a slow answer never makes old knowledge look
//! fresh.
//!
//! `catch_up` first takes its position in the stream of changes and then flushes the cache: a session that is read
//! after the flush is dropped when its change is read. If the last change that was read is gone, or the stream is
//! empty, the cache is flushed, because missed changes could not be detected.
//!
//! If the connection fails, `current` is cleared, workers get `Unreachable`, and the subscriber reconnects with a
//! growing pause; the log becomes stale meanwhile. If this task stops, the log becomes stale and sessions are refused.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::streams::{StreamRangeReply, StreamReadReply};
use ::redis::{Pipeline, Value, cmd, from_redis_value, pipe};
use tokio::time::{Instant, sleep, timeout};

use super::Link;
use super::link::{Links, Role, configured_address, connect};
use super::log_throttle::LogThrottle;
use super::stream::{LAST_ID, StreamPosition, StreamPositions, read_entries, read_handle};
use super::{Connected, RedisStore};
use crate::base::clock::unix_millis;
use crate::session::cache::SessionCache;
use crate::session::record::RevocationKey;
use crate::session::revocations::log::{RevocationEntry, RevocationLog};
use crate::session::{StoreError, millis};

/// Maximum interval between two polls.
const POLL_MAX: Duration = Duration::from_millis(200);
/// Minimum interval between two polls, however often `check_now` is notified.
const POLL_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A connection that lasted this long resets the backoff.
const BACKOFF_RESET: Duration = Duration::from_secs(2);
/// Maximum number of entries in one answer.
const PAGE: usize = 1000;
/// The result of reading the streams from their beginning.
struct CaughtUp {
    positions: StreamPositions,
    /// The time at which the command was sent that read the last page of revocations.
    sent: Instant,
}

impl RedisStore {
    /// Connects, reads the streams into `log` and `cache`, and flushes pending revocations. Runs until the future is
    /// dropped.
    pub async fn run_subscriber(&self, log: &RevocationLog, cache: &SessionCache) {
        let connected = self.stay_connected(log, cache);
        match &self.sentinels {
            Some(sentinels) => drop(tokio::join!(sentinels.run(&self.config), connected)),
            None => connected.await,
        }
    }

    async fn stay_connected(&self, log: &RevocationLog, cache: &SessionCache) {
        let mut attempt = 0;
        let mut pause = BACKOFF_MIN;
        let mut throttle = LogThrottle::default();
        loop {
            let began = Instant::now();
            let Err(error) = self.connect_and_poll(log, cache).await;
            let cause = error.cause();
            let store = configured_address(&self.config);
            if self.current.swap(None).is_some() {
                tracing::warn!(error = cause, store, "the session store's connection is lost");
                throttle.reset();
            } else if throttle.should_log(&cause, Instant::now()) {
                tracing::warn!(
                    error = cause,
                    store,
                    attempt,
                    "the session store cannot be reached; trying again"
                );
            }
            self.set_last_error(Some(cause));
            if began.elapsed() > BACKOFF_RESET {
                pause = BACKOFF_MIN;
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
            attempt += 1;
        }
    }

    fn set_last_error(&self, error: Option<String>) {
        *self.last_error.lock() = error;
    }

    async fn connect_and_poll(&self, log: &RevocationLog, cache: &SessionCache) -> Result<Infallible, StoreError> {
        let master = match &self.sentinels {
            Some(sentinels) => Some(sentinels.wait_for_master().await?),
            None => None,
        };
        let Links { commands, durable } = connect(&self.config, master.as_ref()).await?;
        let skew = self.clock_skew(&commands).await;
        let connected = Arc::new(Connected {
            link: commands,
            durable,
            master,
            skew,
            replicas: AtomicBool::new(false),
        });
        let CaughtUp { mut positions, sent } = self.catch_up(&connected, log, cache).await?;
        self.is_password_rejected.store(false, Ordering::Release);
        self.current.store(Some(Arc::clone(&connected)));
        self.set_last_error(None);
        // after `current`: a start that waits for the first read may use the connection at once
        self.confirm_read(&connected, log, sent);
        tracing::info!("the session store is connected");
        let interval = (self.staleness_max / 5).min(POLL_MAX);
        let mut throttle = LogThrottle::default();
        let mut last_flush = None;
        loop {
            sleep(POLL_MIN.min(interval)).await;
            let rest = interval.saturating_sub(POLL_MIN);
            // poll on the interval, or at once when notified
            drop(timeout(rest, self.wait_for_check_now()).await);
            self.check_master(&connected, &mut throttle)?;
            if self.is_password_rejected.load(Ordering::Acquire) {
                return Err(StoreError::Refused("the server rejected the password".to_owned()));
            }
            while !self.poll(&connected, &mut positions, log, cache).await? {}
            self.flush_pending(&connected, &positions, &mut last_flush).await;
        }
    }

    /// Milliseconds by which this process's clock is ahead of the store's; `None` if the store does not say.
    async fn clock_skew(&self, link: &Link) -> Option<i64> {
        let answer = link.run_at(&self.revocations_key(), &cmd("TIME"), self.config.timeout).await;
        let (seconds, micros): (i64, i64) = answer.ok()?;
        Some(unix_millis().saturating_sub(seconds.saturating_mul(1000).saturating_add(micros / 1000)))
    }

    /// Returns when a command failed, or when the Sentinels' majority changed.
    async fn wait_for_check_now(&self) {
        match &self.sentinels {
            Some(sentinels) => tokio::select! {
                () = self.check_now.notified() => {}
                () = sentinels.changed.notified() => {}
            },
            None => self.check_now.notified().await,
        }
    }

    /// An error if the Sentinels name another master. If they name none, the connection stays, but nothing confirms its
    /// reads.
    fn check_master(&self, connected: &Connected, throttle: &mut LogThrottle) -> Result<(), StoreError> {
        let (Some(sentinels), Some(master)) = (&self.sentinels, &connected.master) else {
            return Ok(());
        };
        match sentinels.agreed_master() {
            Some(named) if named == *master => {
                self.set_last_error(None);
                throttle.reset();
                Ok(())
            }
            Some(_) => Err(StoreError::Refused("the Sentinels name another master".to_owned())),
            None => {
                let cause = sentinels.disagreement();
                if throttle.should_log(&cause, Instant::now()) {
                    tracing::warn!(
                        error = cause,
                        "no majority of Sentinels confirms the master of the session store"
                    );
                }
                self.set_last_error(Some(cause));
                Ok(())
            }
        }
    }

    /// Records that the stream of revocations was read to its end as of `sent`; with Sentinels not later than the time
    /// at which a majority named this master.
    fn confirm_read(&self, connected: &Connected, log: &RevocationLog, sent: Instant) {
        match (&self.sentinels, &connected.master) {
            (Some(sentinels), Some(master)) => {
                if let Some(confirmed_at) = sentinels.confirmed_at(master) {
                    log.confirm_read(sent.min(confirmed_at));
                }
            }
            _ => log.confirm_read(sent),
        }
    }

    /// Reads the stream of revocations from its beginning, publishes again the revocations that it lacks, and flushes
    /// the cache.
    async fn catch_up(&self, connected: &Connected, log: &RevocationLog, cache: &SessionCache) -> Result<CaughtUp, StoreError> {
        self.check_role(connected).await?;
        // acknowledged revocations are either read below or published again
        self.unread.lock().retain(|_, is_acknowledged| !*is_acknowledged);
        let stream = self.revocations_key();
        let mut position = StreamPosition::beginning();
        let mut in_stream: HashMap<RevocationKey, i64> = HashMap::new();
        let sent = loop {
            let sent = Instant::now();
            let mut range = cmd("XRANGE");
            range
                .arg(&stream)
                .arg(format!("({}", position.id))
                .arg("+")
                .arg("COUNT")
                .arg(PAGE);
            let page: StreamRangeReply = connected.link.run(&range, self.config.timeout).await?;
            let ids = page.ids;
            let now = unix_millis();
            // behind the last possible id there is nothing, and reading from there is an error
            let is_full = ids.len() >= PAGE && ids.last().is_none_or(|last| last.id != LAST_ID);
            let entries = read_entries(&ids, connected.skew, now);
            self.remove_unread(&entries);
            for entry in &entries {
                let at = in_stream.entry(entry.key).or_insert(entry.at);
                *at = entry.at.max(*at);
            }
            log.add(entries, now);
            position.advance(ids);
            if !is_full {
                break sent;
            }
        };
        let mut lost = log.entries(unix_millis());
        lost.retain(|entry| in_stream.get(&entry.key).is_none_or(|at| *at < entry.at));
        if !lost.is_empty() {
            tracing::warn!(
                entries = lost.len(),
                "the session store had lost revocations; they are published again"
            );
        }
        // no error if Redis refuses: a full store can still be read
        self.publish_or_enqueue(connected, &lost).await;
        let mut changes = self.newest_change(connected).await?;
        if changes.entry.is_none() {
            self.start_change_stream(connected).await;
            changes = self.newest_change(connected).await?;
        }
        // INVARIANT: after the position is known, so that a change of any session read from here on is read as well
        cache.flush();
        let positions = StreamPositions {
            revocations: position,
            changes,
        };
        Ok(CaughtUp { positions, sent })
    }

    async fn newest_change(&self, connected: &Connected) -> Result<StreamPosition, StoreError> {
        let mut newest = cmd("XREVRANGE");
        newest.arg(self.changes_key()).arg("+").arg("-").arg("COUNT").arg(1);
        let newest: StreamRangeReply = connected.link.run(&newest, self.config.timeout).await?;
        let newest = newest.ids.into_iter().next();
        Ok(newest.map_or_else(StreamPosition::beginning, StreamPosition::at))
    }

    /// An error if the server is a replica: its data may be old. In a cluster, replicas refuse these commands
    /// themselves.
    async fn check_role(&self, connected: &Connected) -> Result<(), StoreError> {
        if let Link::Node(_) = connected.link {
            let role: Value = connected.link.run(&cmd("ROLE"), self.config.timeout).await?;
            note_role(connected, &role)?;
        }
        Ok(())
    }

    /// The commands of one poll: the role, the last entry read of each stream, and new entries of both.
    fn poll_commands(&self, connected: &Connected, positions: &StreamPositions) -> Pipeline {
        let revocations = self.revocations_key();
        let changes = self.changes_key();
        let mut commands = pipe();
        if let Link::Node(_) = connected.link {
            commands.cmd("ROLE");
        }
        for (stream, position) in [(&revocations, &positions.revocations), (&changes, &positions.changes)] {
            commands.cmd("XRANGE").arg(stream).arg(&position.id).arg(&position.id);
        }
        let read = commands.cmd("XREAD").arg("COUNT").arg(PAGE).arg("STREAMS");
        read.arg(&revocations)
            .arg(&changes)
            .arg(&positions.revocations.id)
            .arg(&positions.changes.id);
        commands
    }

    /// Polls once; returns true if nothing is left to read.
    async fn poll(
        &self,
        connected: &Connected,
        positions: &mut StreamPositions,
        log: &RevocationLog,
        cache: &SessionCache,
    ) -> Result<bool, StoreError> {
        let sent = Instant::now();
        let acknowledged = self.acknowledged_unread();
        let commands = self.poll_commands(connected, positions);
        let stream = self.revocations_key();
        let answers = connected.link.run_all(&stream, commands, self.config.timeout).await?;
        let mut answers = answers.into_iter();
        if let Link::Node(_) = connected.link {
            note_role(connected, &answers.next().unwrap_or(Value::Nil))?;
        }
        let last_revocation: StreamRangeReply = read(answers.next())?;
        let last_change: StreamRangeReply = read(answers.next())?;
        let now = unix_millis();
        // entries older than the retention may be trimmed; they revoke nothing any more
        let may_be_trimmed = positions.revocations.age(now) >= millis(self.retention);
        if !positions.revocations.is_still_there(&last_revocation.ids) && !may_be_trimmed {
            let caught_up = self.catch_up(connected, log, cache).await?;
            *positions = caught_up.positions;
            self.confirm_read(connected, log, caught_up.sent);
            return Ok(true);
        }
        if !positions.changes.is_still_there(&last_change.ids) {
            cache.flush();
            positions.changes = StreamPosition::beginning();
            return Ok(false);
        }
        let new: Option<StreamReadReply> = read(answers.next())?;
        if !self.take_new(connected, positions, new, log, cache) {
            return Ok(false);
        }
        if positions.has_no_changes() {
            // sessions in the cache may have changed, and the empty stream does not show it
            cache.flush();
        }
        let is_lost = acknowledged.iter().any(|key| self.unread.lock().contains_key(key));
        if is_lost {
            *positions = self.catch_up(connected, log, cache).await?.positions;
        }
        self.confirm_read(connected, log, sent);
        Ok(true)
    }

    /// Takes new entries into the log and the cache; returns false if more entries may be left to read.
    fn take_new(
        &self,
        connected: &Connected,
        positions: &mut StreamPositions,
        new: Option<StreamReadReply>,
        log: &RevocationLog,
        cache: &SessionCache,
    ) -> bool {
        let now = unix_millis();
        let mut is_all = true;
        for stream in new.into_iter().flat_map(|new| new.keys) {
            is_all &= stream.ids.len() < PAGE;
            if stream.key == self.revocations_key() {
                let entries = read_entries(&stream.ids, connected.skew, now);
                self.remove_unread(&entries);
                log.add(entries, now);
                positions.revocations.advance(stream.ids);
            } else {
                cache.forget_changed(stream.ids.iter().filter_map(read_handle));
                positions.changes.advance(stream.ids);
            }
        }
        is_all
    }

    fn acknowledged_unread(&self) -> Vec<RevocationKey> {
        let unread = self.unread.lock();
        let acknowledged = unread.iter().filter(|(_, is_acknowledged)| **is_acknowledged);
        acknowledged.map(|(key, _)| *key).collect()
    }

    fn remove_unread(&self, entries: &[RevocationEntry]) {
        let mut unread = self.unread.lock();
        for entry in entries {
            unread.remove(&entry.key);
        }
    }
}

/// Notes whether the master has replicas; an error if the server is not the master any more.
fn note_role(connected: &Connected, role: &Value) -> Result<(), StoreError> {
    let role = Role::read(role).ok_or_else(|| StoreError::Refused("ROLE was not answered".to_owned()))?;
    connected.replicas.store(role.has_replicas, Ordering::Release);
    if role.is_master {
        return Ok(());
    }
    Err(StoreError::Refused("this server is not the master any more".to_owned()))
}

fn read<T: ::redis::FromRedisValue>(value: Option<Value>) -> Result<T, StoreError> {
    from_redis_value(value.unwrap_or(Value::Nil)).map_err(|error| StoreError::Refused(error.to_string()))
}
