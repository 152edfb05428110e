//! Revocations that Redis did not take: stored here and published again until Redis takes them.
//!
//! Redis refuses entries if it is full, or if a stream is at its last possible id; a provider's logout is also kept if
//! Redis did not answer. Such a revocation holds in this process at once (`Sessions` adds it to the revocation log);
//! the other replicas do not know it yet. Workers enqueue, the subscriber flushes at intervals; both take the lock of
//! `pending`, and a flushed entry is removed only if its time is unchanged, so an entry that a worker renewed meanwhile
//! stays. If Redis still refuses, the entries stay pending; if this process stops before that, they are lost.
//!
//! Meanwhile two commands work in a full Redis, because they free memory: removing the value of a revoked session, and
//! removing the stream of changes. Without that stream every replica drops its cache at every poll, so a removed value
//! ends the session everywhere.

use std::time::Duration;

use ::redis::{Cmd, cmd};
use tokio::time::Instant;

use super::stream::StreamPositions;
use super::{CHANGES_MAX, Connected, RedisStore};
use crate::base::clock::unix_millis;
use crate::session::revocations::log::{ENTRIES_MAX, RevocationEntry};
use crate::session::{StoreError, millis};

/// Minimum interval between two flushes that send commands.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Entries published in one pipeline.
const CHUNK: usize = 500;
/// Removes a stream that takes no entry because it is at its last possible id.
const RENEW_SCRIPT: &str = "local r = redis.pcall('XADD', KEYS[1], '*', 'x', 'x') \
    if type(r) == 'table' and r.err and string.find(r.err, 'exhausted') then redis.call('DEL', KEYS[1]) end return 1";

impl RedisStore {
    /// Keeps entries for the next flush. At most as many as the revocation log holds; more are dropped.
    pub fn publish_later(&self, entries: &[RevocationEntry]) {
        let mut pending = self.pending.lock();
        for entry in entries {
            if pending.len() >= ENTRIES_MAX && !pending.contains_key(&entry.key) {
                continue;
            }
            let at = pending.entry(entry.key).or_insert(entry.at);
            *at = entry.at.max(*at);
        }
    }

    /// Tries to make room after Redis refused to append to a stream; returns true if another try makes sense.
    pub(super) async fn make_room(&self, stream: &str, cause: &str) -> bool {
        if is_exhausted(cause) {
            tracing::error!(
                "a stream of the session store is at its last possible id: another client wrote to it; the stream begins anew, and every gate publishes again the revocations that it knows"
            );
            let mut renew = cmd("EVAL");
            return self.run::<i64>(renew.arg(RENEW_SCRIPT).arg(1).arg(stream)).await.is_ok();
        }
        if !cause.contains("OOM") {
            return false;
        }
        self.run::<i64>(cmd("DEL").arg(self.changes_key())).await.is_ok()
    }

    /// Publishes the pending entries, and starts the stream of changes if it is empty. `last` is the time of the last
    /// flush that sent a command.
    pub(super) async fn flush_pending(&self, connected: &Connected, positions: &StreamPositions, last: &mut Option<Instant>) {
        if last.is_some_and(|last| last.elapsed() < FLUSH_INTERVAL) {
            return;
        }
        if positions.has_no_changes() {
            *last = Some(Instant::now());
            self.start_change_stream(connected).await;
        }
        let pending = self.unexpired_pending();
        if !pending.is_empty() {
            *last = Some(Instant::now());
            self.publish_or_enqueue(connected, &pending).await;
        }
    }

    fn unexpired_pending(&self) -> Vec<RevocationEntry> {
        let oldest = unix_millis().saturating_sub(millis(self.retention));
        let mut pending = self.pending.lock();
        pending.retain(|_, at| *at >= oldest);
        pending
            .iter()
            .map(|(key, at)| RevocationEntry { key: *key, at: *at })
            .collect()
    }

    /// Appends one entry of an all-zero handle, which no session has, to the stream of changes.
    pub(super) async fn start_change_stream(&self, connected: &Connected) {
        let added: Result<String, StoreError> = connected.link.run(&self.change_command([0; 32]), self.config.timeout).await;
        if let Err(error) = added {
            self.record_failed_write(&error);
        }
    }

    pub(super) fn change_command(&self, handle: [u8; 32]) -> Cmd {
        let mut add = cmd("XADD");
        add.arg(self.changes_key()).arg("MAXLEN").arg("~").arg(CHANGES_MAX).arg("*");
        add.arg("h").arg(&handle);
        add
    }

    /// Publishes `entries`. What Redis refuses stays pending; what it accepts leaves the pending set.
    pub(super) async fn publish_or_enqueue(&self, connected: &Connected, entries: &[RevocationEntry]) {
        let stream = self.revocations_key();
        for (number, chunk) in entries.chunks(CHUNK).enumerate() {
            let commands = self.append_commands(&stream, chunk);
            match connected.link.run_all(&stream, commands, self.config.timeout).await {
                Ok(_) => self.remove_pending(chunk),
                Err(error) => {
                    // the chunks before this one were taken
                    self.publish_later(entries.get(number * CHUNK..).unwrap_or_default());
                    self.record_failed_write(&error);
                    if let StoreError::Refused(cause) = &error
                        && is_exhausted(cause)
                    {
                        self.make_room(&stream, cause).await;
                    }
                    return;
                }
            }
        }
    }

    fn remove_pending(&self, entries: &[RevocationEntry]) {
        let mut pending = self.pending.lock();
        for entry in entries {
            if pending.get(&entry.key) == Some(&entry.at) {
                pending.remove(&entry.key);
            }
        }
    }
}

fn is_exhausted(cause: &str) -> bool {
    cause.contains("exhausted the last possible ID")
}
