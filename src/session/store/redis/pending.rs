//! Revocations that the store refuses to take: full, or with a stream that is at its end.
//!
//! They hold in this process at once and are said again until they are taken. What can be done for the other gates
//! meanwhile is done: values can be removed from a store that is full, and so can the stream of changes, whose loss makes
//! every gate forget the sessions that it remembers.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Cmd, cmd};
use tokio::time::Instant;

use super::subscriber::Places;
use super::{CHANGES_MAX, Connected, Redis};
use crate::session::StoreError;
use crate::session::record::Mark;
use crate::session::revocations::log::{ENTRIES_MAX, Entry, millis};
use crate::session::unix_millis;

/// Between two tries.
const EVERY: Duration = Duration::from_millis(500);
/// Entries said in one go.
const CHUNK: usize = 500;
/// Removes a stream that takes no entry because its last id is the last that there is.
const RENEW_SCRIPT: &str = "local r = redis.pcall('XADD', KEYS[1], '*', 'x', 'x') \
    if type(r) == 'table' and r.err and string.find(r.err, 'exhausted') then redis.call('DEL', KEYS[1]) end return 1";

impl Redis {
    pub(super) fn owe(&self, entries: &[Entry]) {
        let mut owed = self.owed();
        for entry in entries {
            // as much as a feed keeps
            if owed.len() >= ENTRIES_MAX && !owed.contains_key(&entry.mark) {
                continue;
            }
            let at = owed.entry(entry.mark).or_insert(entry.at);
            *at = entry.at.max(*at);
        }
    }

    fn owed(&self) -> MutexGuard<'_, HashMap<Mark, i64>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a refusal to add to a stream: true if it is worth trying again.
    pub(super) async fn make_room(&self, stream: &str, why: &str) -> bool {
        if is_exhausted(why) {
            tracing::error!(
                "a stream of the session store is at its last id: somebody wrote to it; it begins anew, and what is known is said again"
            );
            let mut renew = cmd("EVAL");
            return self.ask::<i64>(renew.arg(RENEW_SCRIPT).arg(1).arg(stream)).await.is_ok();
        }
        if !why.contains("OOM") {
            return false;
        }
        self.ask::<i64>(cmd("DEL").arg(self.changes_key())).await.is_ok()
    }

    /// Says what the store did not take, and sees to it that there is a stream of changes to lose.
    pub(super) async fn settle(&self, connected: &Connected, places: &Places, last: &mut Option<Instant>) {
        if last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        if places.has_no_changes() {
            *last = Some(Instant::now());
            self.begin_changes(connected).await;
        }
        let oldest = unix_millis().saturating_sub(millis(self.retention));
        self.owed().retain(|_, at| *at >= oldest);
        let owed: Vec<Entry> = self.owed().iter().map(|(mark, at)| Entry { mark: *mark, at: *at }).collect();
        if !owed.is_empty() {
            *last = Some(Instant::now());
            self.say(connected, &owed).await;
        }
    }

    /// A stream of changes with one entry, that of nobody.
    pub(super) async fn begin_changes(&self, connected: &Connected) {
        let begun: Result<String, StoreError> = connected.link.run(&self.change_of([0; 32]), self.config.timeout).await;
        if let Err(error) = begun {
            self.note_failed_write(&error);
        }
    }

    pub(super) fn change_of(&self, handle: [u8; 32]) -> Cmd {
        let mut add = cmd("XADD");
        add.arg(self.changes_key()).arg("MAXLEN").arg("~").arg(CHANGES_MAX).arg("*");
        add.arg("h").arg(&handle);
        add
    }

    /// What is refused is owed, and what was is not any more.
    pub(super) async fn say(&self, connected: &Connected, entries: &[Entry]) {
        let key = self.feed_key();
        for (number, chunk) in entries.chunks(CHUNK).enumerate() {
            let said = connected
                .link
                .run_all(&key, self.additions(&key, chunk), self.config.timeout)
                .await;
            match said {
                Ok(_) => {
                    let mut owed = self.owed();
                    for entry in chunk {
                        if owed.get(&entry.mark) == Some(&entry.at) {
                            owed.remove(&entry.mark);
                        }
                    }
                }
                Err(error) => {
                    // what was taken before is not said again
                    self.owe(entries.get(number * CHUNK..).unwrap_or_default());
                    self.note_failed_write(&error);
                    if let StoreError::Refused(why) = &error
                        && is_exhausted(why)
                    {
                        self.make_room(&key, why).await;
                    }
                    return;
                }
            }
        }
    }
}

fn is_exhausted(why: &str) -> bool {
    why.contains("exhausted the last possible ID")
}
