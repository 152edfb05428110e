//! The store in Redis: one node, the master that Sentinels name, or a cluster.
//!
//! `follow` keeps the connection and reads the feed, on the sessions' own thread; workers send commands over what it
//! connected and never connect themselves: without a connection they are told so at once, with one that is silent after
//! `sessions.redis.timeout`. Whatever must be on a replica goes over a connection of its own, because `WAIT` holds it up.

mod files;
mod link;
mod log_throttle;
mod pending;
mod sentinels;
mod subscriber;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Cmd, Pipeline, Value, cmd, pipe};
use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::files::check_files as check_redis_files;
use self::link::Link;
use self::log_throttle::Complaint;
use self::sentinels::{Address, Sentinels};
use super::{Replicated, Swap};
use crate::config;
use crate::session::record::{Handle, Mark};
use crate::session::revocations::log::{Entry, millis};
use crate::session::{FailedWrite, StoreError};

/// Entries of the stream of changes; who is further behind forgets everything it knows.
const CHANGES_MAX: usize = 10_000;
/// How long a scan over all keys may take.
const SCAN_DEADLINE: Duration = Duration::from_secs(10);
const SCAN_PAGE: usize = 500;
/// After a replica did not confirm in time nobody waits for one for so long.
const REPLICA_PAUSE: Duration = Duration::from_secs(1);
/// Sets only if the value still is what was read.
const SWAP_SCRIPT: &str = "local v = redis.call('GET', KEYS[1]) \
    if not v then return -1 end \
    if v ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1";
const REMOVE_SCRIPT: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
const COUNT_SCRIPT: &str = "local n = redis.call('INCRBY', KEYS[1], ARGV[2]) \
    if n == tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end return n";

pub struct Redis {
    config: config::Redis,
    retention: Duration,
    staleness_max: Duration,
    /// `None`: who is master is not theirs to say.
    sentinels: Option<Arc<Sentinels>>,
    current: ArcSwapOption<Connected>,
    /// Something failed: the connection should be looked at now.
    complaint: Notify,
    /// What failed was the password: only a new connection helps.
    stale_password: AtomicBool,
    /// Without the words "the session store cannot be reached".
    last_error: Mutex<Option<String>>,
    /// What the server refused, as last said in the log.
    refused: Mutex<Complaint>,
    /// The last write that came to nothing, and when.
    failed_write: Mutex<Option<(String, Instant)>>,
    /// No replica confirmed in time: until then nobody waits for one.
    replicas_late_until: Mutex<Option<Instant>>,
    /// What this process said and did not yet read: true once the store took it. As many as are said between two polls.
    unread: Mutex<HashMap<Mark, bool>>,
    /// What the store refused, with its time: this process knows it and says it until it is taken. As many as a feed has.
    owed: Mutex<HashMap<Mark, i64>>,
}

/// One connection, or rather two.
pub(super) struct Connected {
    link: Link,
    durable: Link,
    /// As the Sentinels named it.
    master: Option<Address>,
    /// By how many milliseconds our clock was ahead of the store's.
    skew: Option<i64>,
    /// Whether the master has any, as of the last look.
    replicas: AtomicBool,
}

impl Redis {
    pub fn new(config: &config::Redis, retention: Duration, staleness_max: Duration) -> Self {
        Self {
            config: config.clone(),
            retention,
            staleness_max,
            sentinels: Sentinels::of(config, staleness_max),
            current: ArcSwapOption::empty(),
            complaint: Notify::new(),
            stale_password: AtomicBool::new(false),
            last_error: Mutex::new(Some("not connected yet".to_owned())),
            refused: Mutex::default(),
            failed_write: Mutex::default(),
            replicas_late_until: Mutex::new(None),
            unread: Mutex::default(),
            owed: Mutex::default(),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.current.load().is_some()
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn failed_write(&self) -> Option<FailedWrite> {
        let last = self.failed_write.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(error, at)| FailedWrite {
            error: error.clone(),
            ago: at.elapsed(),
        })
    }

    pub async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.ask(cmd("GET").arg(self.key(key))).await
    }

    pub async fn write(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        self.change(cmd("SET").arg(self.key(key)).arg(value).arg("PX").arg(px(ttl)))
            .await
    }

    pub async fn write_durably(&self, key: &str, value: &[u8], ttl: Duration) -> Result<Replicated, StoreError> {
        let key = self.key(key);
        let mut commands = pipe();
        commands.cmd("SET").arg(&key).arg(value).arg("PX").arg(px(ttl));
        self.ask_durably(&key, commands).await
    }

    pub async fn write_first(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, StoreError> {
        let mut set = cmd("SET");
        set.arg(self.key(key)).arg(value).arg("NX").arg("PX").arg(px(ttl));
        let answer: Value = self.change(&set).await?;
        Ok(answer != Value::Nil)
    }

    pub async fn swap(&self, key: &str, old: &[u8], new: &[u8], ttl: Duration) -> Result<Swap, StoreError> {
        let mut eval = cmd("EVAL");
        eval.arg(SWAP_SCRIPT).arg(1).arg(self.key(key)).arg(old).arg(new).arg(px(ttl));
        let answer: i64 = self.change(&eval).await?;
        Ok(match answer {
            1 => Swap::Done,
            0 => Swap::Changed,
            _ => Swap::Gone,
        })
    }

    pub async fn remove_if(&self, key: &str, old: &[u8]) -> Result<(), StoreError> {
        let mut script = cmd("EVAL");
        let _how_many: i64 = self
            .change(script.arg(REMOVE_SCRIPT).arg(1).arg(self.key(key)).arg(old))
            .await?;
        Ok(())
    }

    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        let _how_many: i64 = self.change(cmd("DEL").arg(self.key(key))).await?;
        Ok(())
    }

    pub async fn count(&self, key: &str, by: u64, ttl: Duration) -> Result<u64, StoreError> {
        let mut script = cmd("EVAL");
        script.arg(COUNT_SCRIPT).arg(1).arg(self.key(key)).arg(px(ttl)).arg(by);
        self.change(&script).await
    }

    /// Unix milliseconds of the master's clock.
    pub async fn now(&self) -> Option<i64> {
        let connected = self.connected().ok()?;
        let asked = connected
            .link
            .run_at(&self.feed_key(), &cmd("TIME"), self.config.timeout)
            .await;
        let (seconds, micros): (i64, i64) = asked.inspect_err(|error| self.complain(error)).ok()?;
        Some(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }

    pub async fn publish(&self, entries: &[Entry]) -> Result<Replicated, StoreError> {
        let key = self.feed_key();
        let marks = || entries.iter().map(|entry| entry.mark);
        self.unread().extend(marks().map(|mark| (mark, false)));
        let mut published = self.ask_durably(&key, self.additions(&key, entries)).await;
        if let Err(StoreError::Refused(why)) = &published {
            if self.make_room(&key, why).await {
                published = self.ask_durably(&key, self.additions(&key, entries)).await;
            }
            if let Err(StoreError::Refused(_)) = &published {
                self.owe(entries);
            }
        }
        let mut unread = self.unread();
        for mark in marks() {
            match (&published, unread.get_mut(&mark)) {
                (Ok(_), Some(taken)) => *taken = true,
                (Ok(_), None) => {}
                (Err(_), _) => drop(unread.remove(&mark)),
            }
        }
        published
    }

    fn unread(&self) -> MutexGuard<'_, HashMap<Mark, bool>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn additions(&self, key: &str, entries: &[Entry]) -> Pipeline {
        let oldest = crate::session::unix_millis().saturating_sub(millis(self.retention)).max(0);
        let mut commands = pipe();
        for entry in entries {
            let mut mark = vec![entry.mark.kind.code()];
            mark.extend_from_slice(&entry.mark.hash);
            let add = commands.cmd("XADD").arg(key).arg("MINID").arg("~").arg(oldest).arg("*");
            add.arg("m").arg(mark).arg("a").arg(entry.at);
        }
        commands
    }

    pub async fn publish_change(&self, handle: Handle) -> Result<(), StoreError> {
        let added: Result<String, StoreError> = self.change(&self.change_of(handle.0)).await;
        if let Err(StoreError::Refused(why)) = &added {
            // without the stream, everything is forgotten everywhere
            self.make_room(&self.changes_key(), why).await;
        }
        added.map(drop)
    }

    pub async fn scan(&self, prefix: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let scanned = tokio::time::timeout(SCAN_DEADLINE, self.scan_all(prefix, limit)).await;
        let scanned = scanned.unwrap_or(Err(StoreError::Timeout));
        scanned.inspect_err(|error| self.complain(error))
    }

    async fn scan_all(&self, prefix: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let connected = self.connected()?;
        let mut found = Vec::new();
        // the prefix of a deployment has no pattern characters in it (checked with the configuration)
        let pattern = format!("{}*", self.key(prefix));
        for node in connected.link.masters(self.config.timeout).await? {
            let mut cursor = 0_u64;
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_PAGE);
                let page: (u64, Vec<String>) = connected.link.run_on(node.as_ref(), &scan, self.config.timeout).await?;
                for key in page.1 {
                    let Some(own) = key.strip_prefix(&self.config.key_prefix) else {
                        continue;
                    };
                    // gone meanwhile is gone
                    if let Some(value) = self.read(own).await? {
                        found.push((own.to_owned(), value));
                    }
                    if found.len() >= limit {
                        return Ok(found);
                    }
                }
                cursor = page.0;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(found)
    }

    async fn ask<T: ::redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let connected = self.connected()?;
        let answer = connected.link.run(command, self.config.timeout).await;
        answer.inspect_err(|error| self.complain(error))
    }

    /// `ask`, of a command that writes.
    async fn change<T: ::redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let answer = self.ask(command).await;
        answer.inspect_err(|error| self.note_failed_write(error))
    }

    fn note_failed_write(&self, error: &StoreError) {
        let mut last = self.failed_write.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((error.to_string(), Instant::now()));
    }

    /// The commands, and a wait until a replica has them, where there is one.
    async fn ask_durably(&self, key: &str, commands: Pipeline) -> Result<Replicated, StoreError> {
        let asked = self.ask_and_wait(key, commands).await;
        asked.inspect_err(|error| self.note_failed_write(error))
    }

    async fn ask_and_wait(&self, key: &str, mut commands: Pipeline) -> Result<Replicated, StoreError> {
        let connected = self.connected()?;
        let waits = match &connected.durable {
            Link::Node(_) => connected.replicas.load(Ordering::Acquire),
            Link::Cluster(_) => {
                let asked = connected.durable.has_replicas(key, self.config.timeout).await;
                // who cannot tell does not wait for one
                asked.inspect_err(|error| self.complain(error)).unwrap_or(false)
            }
        };
        let late = *self.replicas_late_until.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = waits && late.is_some_and(|until| Instant::now() < until);
        if waits && !paused {
            // half of the time: an answer that says "not yet" must come in time itself
            commands.cmd("WAIT").arg(1).arg(px(self.config.timeout / 2));
        }
        let answers = connected.durable.run_all(key, commands, self.config.timeout).await;
        let answers = answers.inspect_err(|error| self.complain(error))?;
        if paused {
            return Ok(Some(false));
        }
        if !waits {
            return Ok(None);
        }
        let confirmed = matches!(answers.last(), Some(Value::Int(replicas)) if *replicas > 0);
        let late = (!confirmed).then(|| Instant::now() + REPLICA_PAUSE);
        *self.replicas_late_until.lock().unwrap_or_else(PoisonError::into_inner) = late;
        Ok(Some(confirmed))
    }

    fn connected(&self) -> Result<Arc<Connected>, StoreError> {
        self.current.load_full().ok_or_else(|| {
            let why = self.last_error().unwrap_or_else(|| "connecting".to_owned());
            StoreError::Unreachable(why)
        })
    }

    fn complain(&self, error: &StoreError) {
        if let StoreError::Refused(why) = error {
            if ["NOAUTH", "WRONGPASS"].iter().any(|code| why.contains(code)) {
                self.stale_password.store(true, Ordering::Release);
            }
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.is_due(why, Instant::now()) {
                tracing::warn!(
                    error = why,
                    "the session store refused a command; see its ACL rules and state"
                );
            }
        }
        self.complaint.notify_one();
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.config.key_prefix)
    }

    /// Both streams are on one node of a cluster.
    fn feed_key(&self) -> String {
        self.key("{feed}:revocations")
    }

    fn changes_key(&self) -> String {
        self.key("{feed}:changes")
    }
}

/// Redis takes whole milliseconds from one on.
fn px(ttl: Duration) -> i64 {
    millis(ttl).max(1)
}
