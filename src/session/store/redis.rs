//! The store in Redis: one server, the master that Sentinels name, or a cluster.
//!
//! The subscriber (`run_subscriber`) alone connects, on the sessions' own thread; it also reads the two streams.
//! Workers send commands over the connection that the subscriber made and never connect themselves. Without a
//! connection a worker gets `Unreachable` at once; if the server is silent, it gets `Timeout` after
//! `sessions.redis.timeout`. Commands that wait for a replica use a second connection, because `WAIT` delays the
//! commands behind it.

mod files;
mod link;
mod log_throttle;
mod pending;
mod sentinels;
mod stream;
mod subscriber;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{Cmd, FromRedisValue, Pipeline, RedisError, Value, cmd, pipe};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

pub use self::files::check_files as check_redis_files;
use self::link::RedisAddress;
use self::log_throttle::LogThrottle;
use self::sentinels::Sentinels;
use crate::base::clock::unix_millis;
use crate::config;
use crate::session::record::{Handle, RevocationKey};
use crate::session::revocations::log::RevocationEntry;
use crate::session::store_outcome::{Replicated, Swap};
use crate::session::{FailedWrite, StoreError, millis};

/// Length of the stream of changes. A replica that falls further behind drops its whole cache.
const CHANGES_MAX: usize = 10_000;
/// Deadline of a scan over all keys.
const SCAN_DEADLINE: Duration = Duration::from_secs(10);
const SCAN_PAGE: usize = 500;
/// After a replica did not confirm in time, writes do not wait for a replica for this long.
const REPLICA_PAUSE: Duration = Duration::from_secs(1);
/// Sets the value only if it still is the expected one.
const SWAP_SCRIPT: &str = "local v = redis.call('GET', KEYS[1]) \
    if not v then return -1 end \
    if v ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1";
const REMOVE_SCRIPT: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
const COUNT_SCRIPT: &str = "local n = redis.call('INCRBY', KEYS[1], ARGV[2]) \
    if n == tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end return n";

pub struct RedisStore {
    config: config::Redis,
    retention: Duration,
    staleness_max: Duration,
    /// `None` unless the topology is Sentinel.
    sentinels: Option<Arc<Sentinels>>,
    /// Set and cleared by the subscriber, read by every command.
    current: ArcSwapOption<Connected>,
    /// A command failed: the subscriber polls at once, and so checks the connection.
    check_now: Notify,
    /// The server rejected the password: only a new connection reads the password file again.
    is_password_rejected: AtomicBool,
    /// Without the words "the session store cannot be reached".
    last_error: Mutex<Option<String>>,
    /// Limits log lines about commands that the server refused.
    refused_log: Mutex<LogThrottle>,
    /// The last write that failed, and its time.
    failed_write: Mutex<Option<(String, Instant)>>,
    /// A replica did not confirm in time: until then no write waits for one.
    replicas_late_until: Mutex<Option<Instant>>,
    /// Revocations published here and not yet read back; `true` once Redis acknowledged. Bounded by one poll interval.
    unread: Mutex<HashMap<RevocationKey, bool>>,
    /// Revocations that Redis did not take, with their times, until Redis takes them. At most as many as the revocation
    /// log holds.
    pending: Mutex<HashMap<RevocationKey, i64>>,
}

/// The two connections in use, and facts about their server.
pub(super) struct Connected {
    link: Link,
    /// Runs the commands that wait for a replica.
    durable: Link,
    /// The master that the Sentinels named.
    master: Option<RedisAddress>,
    /// Milliseconds by which this process's clock is ahead of the store's; `None` if the store did not say.
    skew: Option<i64>,
    /// True if the master had replicas at the last check.
    replicas: AtomicBool,
}

/// A connection.
#[derive(Clone)]
pub(super) enum Link {
    /// One server, or the master that Sentinels name.
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisStore {
    pub fn new(config: &config::Redis, retention: Duration, staleness_max: Duration) -> Self {
        Self {
            config: config.clone(),
            retention,
            staleness_max,
            sentinels: Sentinels::new(config, staleness_max),
            current: ArcSwapOption::empty(),
            check_now: Notify::new(),
            is_password_rejected: AtomicBool::new(false),
            last_error: Mutex::new(Some("not connected yet".to_owned())),
            refused_log: Mutex::default(),
            failed_write: Mutex::default(),
            replicas_late_until: Mutex::new(None),
            unread: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.current.load().is_some()
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    pub fn failed_write(&self) -> Option<FailedWrite> {
        let last = self.failed_write.lock();
        last.as_ref().map(|(error, at)| FailedWrite {
            error: error.clone(),
            ago: at.elapsed(),
        })
    }

    pub async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.run(cmd("GET").arg(self.key(key))).await
    }

    pub async fn write(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        self.run_write(cmd("SET").arg(self.key(key)).arg(value).arg("PX").arg(px(ttl)))
            .await
    }

    pub async fn write_durably(&self, key: &str, value: &[u8], ttl: Duration) -> Result<Replicated, StoreError> {
        let key = self.key(key);
        let mut commands = pipe();
        commands.cmd("SET").arg(&key).arg(value).arg("PX").arg(px(ttl));
        self.run_durable(&key, commands).await
    }

    pub async fn write_first(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, StoreError> {
        let mut set = cmd("SET");
        set.arg(self.key(key)).arg(value).arg("NX").arg("PX").arg(px(ttl));
        let answer: Value = self.run_write(&set).await?;
        Ok(answer != Value::Nil)
    }

    pub async fn swap(&self, key: &str, old: &[u8], new: &[u8], ttl: Duration) -> Result<Swap, StoreError> {
        let mut eval = cmd("EVAL");
        eval.arg(SWAP_SCRIPT).arg(1).arg(self.key(key)).arg(old).arg(new).arg(px(ttl));
        let answer: i64 = self.run_write(&eval).await?;
        Ok(match answer {
            1 => Swap::Done,
            0 => Swap::Changed,
            _ => Swap::Gone,
        })
    }

    pub async fn remove_if(&self, key: &str, old: &[u8]) -> Result<(), StoreError> {
        let mut script = cmd("EVAL");
        let _removed: i64 = self
            .run_write(script.arg(REMOVE_SCRIPT).arg(1).arg(self.key(key)).arg(old))
            .await?;
        Ok(())
    }

    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        let _removed: i64 = self.run_write(cmd("DEL").arg(self.key(key))).await?;
        Ok(())
    }

    pub async fn count(&self, key: &str, by: u64, ttl: Duration) -> Result<u64, StoreError> {
        let mut script = cmd("EVAL");
        script.arg(COUNT_SCRIPT).arg(1).arg(self.key(key)).arg(px(ttl)).arg(by);
        self.run_write(&script).await
    }

    /// Unix milliseconds of the master's clock.
    pub async fn now(&self) -> Option<i64> {
        let connected = self.connected().ok()?;
        let answer = connected
            .link
            .run_at(&self.revocations_key(), &cmd("TIME"), self.config.timeout)
            .await;
        let (seconds, micros): (i64, i64) = answer.inspect_err(|error| self.report_error(error)).ok()?;
        Some(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }

    /// Publishes revocations. If Redis refuses them, they stay pending and are published again.
    pub async fn publish(&self, entries: &[RevocationEntry]) -> Result<Replicated, StoreError> {
        let stream = self.revocations_key();
        let keys = || entries.iter().map(|entry| entry.key);
        // before the command: the subscriber may read the entries before the answer arrives
        self.unread.lock().extend(keys().map(|key| (key, false)));
        let mut published = self.run_durable(&stream, self.append_commands(&stream, entries)).await;
        if let Err(StoreError::Refused(cause)) = &published {
            if self.make_room(&stream, cause).await {
                published = self.run_durable(&stream, self.append_commands(&stream, entries)).await;
            }
            if let Err(StoreError::Refused(_)) = &published {
                self.publish_later(entries);
            }
        }
        let mut unread = self.unread.lock();
        for key in keys() {
            match (&published, unread.get_mut(&key)) {
                (Ok(_), Some(is_acknowledged)) => *is_acknowledged = true,
                (Ok(_), None) => {}
                (Err(_), _) => drop(unread.remove(&key)),
            }
        }
        published
    }

    /// The commands that append entries to the stream of revocations and trim it to the retention.
    fn append_commands(&self, stream: &str, entries: &[RevocationEntry]) -> Pipeline {
        // SECURITY: ids are times of the store's clock. A gate whose clock is ahead must not trim what is young there,
        // its own entry included.
        let ahead = self.connected().ok().and_then(|connected| connected.skew).unwrap_or_default();
        let now = unix_millis().saturating_sub(ahead.max(0));
        let oldest = now.saturating_sub(millis(self.retention)).max(0);
        let mut commands = pipe();
        for entry in entries {
            let mut key = vec![entry.key.kind.code()];
            key.extend_from_slice(&entry.key.hash);
            let add = commands.cmd("XADD").arg(stream).arg("MINID").arg("~").arg(oldest).arg("*");
            add.arg("m").arg(key).arg("a").arg(entry.at);
        }
        commands
    }

    pub async fn publish_change(&self, handle: Handle) -> Result<(), StoreError> {
        let added: Result<String, StoreError> = self.run_write(&self.change_command(handle.0)).await;
        if let Err(StoreError::Refused(cause)) = &added {
            // making room removes the stream of changes, and then every replica drops its whole cache
            self.make_room(&self.changes_key(), cause).await;
        }
        added.map(drop)
    }

    pub async fn scan(&self, prefix: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let scanned = tokio::time::timeout(SCAN_DEADLINE, self.scan_all(prefix, limit)).await;
        let scanned = scanned.unwrap_or(Err(StoreError::Timeout));
        scanned.inspect_err(|error| self.report_error(error))
    }

    async fn scan_all(&self, prefix: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let connected = self.connected()?;
        let mut found = Vec::new();
        // the configuration allows no pattern characters in the prefix
        let pattern = format!("{}*", self.key(prefix));
        for node in connected.link.masters(self.config.timeout).await? {
            let mut cursor = 0_u64;
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_PAGE);
                let (next, keys): (u64, Vec<String>) = connected.link.run_on(node.as_ref(), &scan, self.config.timeout).await?;
                for key in keys {
                    let Some(own) = key.strip_prefix(&self.config.key_prefix) else {
                        continue;
                    };
                    // a value may have expired meanwhile
                    if let Some(value) = self.read(own).await? {
                        found.push((own.to_owned(), value));
                    }
                    if found.len() >= limit {
                        return Ok(found);
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(found)
    }

    async fn run<T: ::redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let connected = self.connected()?;
        let answer = connected.link.run(command, self.config.timeout).await;
        answer.inspect_err(|error| self.report_error(error))
    }

    /// Runs a command that writes, and records its failure for `/status`.
    async fn run_write<T: ::redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let answer = self.run(command).await;
        answer.inspect_err(|error| self.record_failed_write(error))
    }

    fn record_failed_write(&self, error: &StoreError) {
        *self.failed_write.lock() = Some((error.to_string(), Instant::now()));
    }

    /// Runs the commands, and waits until a replica has them, if there is one. `key` lies on the same cluster node.
    async fn run_durable(&self, key: &str, commands: Pipeline) -> Result<Replicated, StoreError> {
        let answer = self.run_and_wait(key, commands).await;
        answer.inspect_err(|error| self.record_failed_write(error))
    }

    async fn run_and_wait(&self, key: &str, mut commands: Pipeline) -> Result<Replicated, StoreError> {
        let connected = self.connected()?;
        let has_replicas = match &connected.durable {
            Link::Node(_) => connected.replicas.load(Ordering::Acquire),
            Link::Cluster(_) => {
                let answer = connected.durable.has_replicas(key, self.config.timeout).await;
                // if the replica count is unknown, do not WAIT
                answer.inspect_err(|error| self.report_error(error)).unwrap_or(false)
            }
        };
        let late_until = *self.replicas_late_until.lock();
        let is_paused = has_replicas && late_until.is_some_and(|until| Instant::now() < until);
        if has_replicas && !is_paused {
            // half of the timeout: the answer "no replica yet" must itself arrive in time
            commands.cmd("WAIT").arg(1).arg(px(self.config.timeout / 2));
        }
        let answers = connected.durable.run_all(key, commands, self.config.timeout).await;
        let answers = answers.inspect_err(|error| self.report_error(error))?;
        if is_paused {
            return Ok(Some(false));
        }
        if !has_replicas {
            return Ok(None);
        }
        let is_confirmed = matches!(answers.last(), Some(Value::Int(replicas)) if *replicas > 0);
        let late_until = (!is_confirmed).then(|| Instant::now() + REPLICA_PAUSE);
        *self.replicas_late_until.lock() = late_until;
        Ok(Some(is_confirmed))
    }

    fn connected(&self) -> Result<Arc<Connected>, StoreError> {
        self.current.load_full().ok_or_else(|| {
            let cause = self.last_error().unwrap_or_else(|| "connecting".to_owned());
            StoreError::Unreachable(cause)
        })
    }

    /// Logs a refusal, at intervals, and wakes the subscriber to check the connection.
    fn report_error(&self, error: &StoreError) {
        if let StoreError::Refused(cause) = error {
            if ["NOAUTH", "WRONGPASS"].iter().any(|code| cause.contains(code)) {
                self.is_password_rejected.store(true, Ordering::Release);
            }
            if self.refused_log.lock().should_log(cause, Instant::now()) {
                tracing::warn!(
                    error = cause,
                    "the session store refused a command; see its ACL rules and state"
                );
            }
        }
        self.check_now.notify_one();
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.config.key_prefix)
    }

    /// The stream of revocations. The hash tag `{feed}` puts both streams on one node of a cluster.
    fn revocations_key(&self) -> String {
        self.key("{feed}:revocations")
    }

    fn changes_key(&self) -> String {
        self.key("{feed}:changes")
    }
}

/// A time to live for `PX`: whole milliseconds, at least one.
fn px(ttl: Duration) -> i64 {
    millis(ttl).max(1)
}

impl Link {
    async fn run<T: FromRedisValue>(&self, command: &Cmd, deadline: Duration) -> Result<T, StoreError> {
        let answer = async {
            match self.clone() {
                Self::Node(mut node) => command.query_async(&mut node).await,
                Self::Cluster(mut cluster) => command.query_async(&mut cluster).await,
            }
        };
        with_deadline(deadline, answer).await
    }
}

async fn with_deadline<T>(deadline: Duration, answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
    match timeout(deadline, answer).await {
        Ok(answer) => answer.map_err(|error| store_error(&error)),
        Err(_late) => Err(StoreError::Timeout),
    }
}

/// Keeps the text of the server or the network; neither quotes keys, values or passwords.
fn store_error(error: &RedisError) -> StoreError {
    if error.is_timeout() {
        StoreError::Timeout
    } else if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() {
        StoreError::Unreachable(error.to_string())
    } else {
        StoreError::Refused(error.to_string())
    }
}
