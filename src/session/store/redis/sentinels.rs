//! The master that the Sentinels name: every Sentinel is asked, all the time, and a majority of those configured
//! decides.
//!
//! A server that was cut off from the others goes on as master until a Sentinel demotes it, and answers every client
//! that still reaches it. So its data may lack revocations that the new master has. Rule: an answer of the server
//! counts only as of the time at which a majority of Sentinels was asked and named that server (`confirmed_at`).
//! Another server becomes master for a gate only after a majority named it, and two majorities share a Sentinel, which
//! does not go back to the old name.
//!
//! If a Sentinel does not answer, its last answer counts until it is older than `staleness_max`. If fewer than a
//! majority answer, or they disagree, no master is confirmed: the revocation log becomes stale and sessions are
//! refused.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cmd;
use cedargate_policy::types::Redacted;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{CONNECT_DEADLINE, RedisAddress, connect_to_sentinel};
use super::with_deadline;
use crate::config::{self, Topology};
use crate::session::StoreError;

/// Questions per `staleness_max`, so that one lost answer changes nothing.
const QUESTIONS: u32 = 4;
/// Minimum interval between two questions to one Sentinel.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Pause after a question that was not answered.
const PAUSE: Duration = Duration::from_millis(250);

pub struct Sentinels {
    /// Name of the master in the Sentinels' configuration.
    master_name: String,
    urls: Vec<Redacted<String>>,
    staleness_max: Duration,
    /// In the order of `urls`. One task per Sentinel writes; the subscriber reads.
    states: Mutex<Vec<SentinelState>>,
    /// Notified when the master named by the majority changes.
    pub changed: Notify,
}

/// The last answer of one Sentinel, and the error since then.
#[derive(Clone, Debug, Default)]
struct SentinelState {
    answer: Option<MasterAnswer>,
    error: Option<String>,
}

#[derive(Clone, Debug)]
struct MasterAnswer {
    /// The time of the question.
    sent: Instant,
    master: RedisAddress,
}

impl Sentinels {
    /// `None` unless the topology is Sentinel.
    pub fn new(config: &config::Redis, staleness_max: Duration) -> Option<Arc<Self>> {
        let Topology::Sentinel { master, urls, .. } = &config.topology else {
            return None;
        };
        Some(Arc::new(Self {
            master_name: master.clone(),
            urls: urls.clone(),
            staleness_max,
            states: Mutex::new(vec![SentinelState::default(); urls.len()]),
            changed: Notify::new(),
        }))
    }

    /// Asks every Sentinel again and again, each in a task of its own, so that one that hangs delays no other. Runs
    /// until the future is dropped.
    pub async fn run(self: &Arc<Self>, config: &config::Redis) {
        let mut tasks = JoinSet::new();
        for (index, url) in self.urls.iter().enumerate() {
            let sentinels = Arc::clone(self);
            let url = url.clone();
            let config = config.clone();
            tasks.spawn(async move { sentinels.run_one(index, &url, &config).await });
        }
        tasks.join_all().await;
    }

    async fn run_one(&self, index: usize, url: &Redacted<String>, config: &config::Redis) {
        let interval = (self.staleness_max / QUESTIONS).max(INTERVAL_MIN);
        let mut connection = None;
        loop {
            let began = Instant::now();
            match self.query(&mut connection, url, config).await {
                Ok(answer) => {
                    self.record(index, Ok(answer));
                    sleep_until(began + interval).await;
                }
                Err(error) => {
                    connection = None;
                    self.record(index, Err(error.cause()));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn query(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        url: &Redacted<String>,
        config: &config::Redis,
    ) -> Result<MasterAnswer, StoreError> {
        let connection = match connection {
            Some(open) => open,
            None => connection.insert(connect_to_sentinel(url, config).await?),
        };
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.master_name);
        let sent = Instant::now();
        let deadline = config.timeout.min(self.staleness_max / 2).max(INTERVAL_MIN);
        let answer: Option<(String, u16)> = with_deadline(deadline, question.query_async(connection)).await?;
        let unknown = || StoreError::Refused(format!("a Sentinel knows no `{}`", self.master_name));
        let (host, port) = answer.ok_or_else(unknown)?;
        let master = RedisAddress { host, port };
        Ok(MasterAnswer { sent, master })
    }

    fn record(&self, index: usize, answer: Result<MasterAnswer, String>) {
        let before = self.agreed_master();
        if let Some(state) = self.states.lock().get_mut(index) {
            match answer {
                Ok(answer) => {
                    state.answer = Some(answer);
                    state.error = None;
                }
                Err(error) => state.error = Some(error),
            }
        }
        if self.agreed_master() != before {
            self.changed.notify_one();
        }
    }

    /// The master that a majority named within `staleness_max`.
    pub fn agreed_master(&self) -> Option<RedisAddress> {
        let states = self.states.lock();
        let answers = || states.iter().filter_map(|state| state.answer.as_ref());
        let recent = || answers().filter(|answer| answer.sent.elapsed() <= self.staleness_max);
        let votes = |master: &RedisAddress| recent().filter(|answer| answer.master == *master).count();
        recent()
            .map(|answer| &answer.master)
            .find(|master| votes(master) >= self.majority())
            .cloned()
    }

    /// The latest time as of which a majority named this master.
    pub fn confirmed_at(&self, master: &RedisAddress) -> Option<Instant> {
        let states = self.states.lock();
        let answers = states.iter().filter_map(|state| state.answer.as_ref());
        let mut sent: Vec<Instant> = answers
            .filter(|answer| answer.master == *master)
            .map(|answer| answer.sent)
            .collect();
        sent.sort_unstable_by(|one, other| other.cmp(one));
        sent.get(self.majority().saturating_sub(1)).copied()
    }

    /// Waits until a majority names a master.
    pub async fn wait_for_master(&self) -> Result<RedisAddress, StoreError> {
        let agreed = async {
            loop {
                if let Some(master) = self.agreed_master() {
                    return master;
                }
                self.changed.notified().await;
            }
        };
        let agreed = timeout(CONNECT_DEADLINE, agreed).await;
        agreed.map_err(|_late| StoreError::Unreachable(self.disagreement()))
    }

    /// The reason why no master is confirmed, with the first error of a Sentinel.
    pub fn disagreement(&self) -> String {
        let states = self.states.lock();
        let error = states.iter().find_map(|state| state.error.as_deref());
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        format!(
            "fewer than {} of {} Sentinels name the same master{error}",
            self.majority(),
            states.len()
        )
    }

    /// The majority of those configured, not of those that answer.
    fn majority(&self) -> usize {
        self.urls.len() / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinels(count: usize) -> Sentinels {
        Sentinels {
            master_name: "mm".to_owned(),
            urls: (0..count).map(|_| Redacted::new(String::new())).collect(),
            staleness_max: Duration::from_secs(1),
            states: Mutex::new(vec![SentinelState::default(); count]),
            changed: Notify::new(),
        }
    }

    fn at(port: u16) -> RedisAddress {
        let host = "redis".to_owned();
        RedisAddress { host, port }
    }

    #[test]
    fn master_is_named_by_a_majority_of_those_configured_as_of_its_oldest_question() {
        let sentinels = sentinels(5);
        let now = Instant::now();
        let answer = |index: usize, port: u16, millis_ago: u64| {
            let sent = now.checked_sub(Duration::from_millis(millis_ago)).unwrap();
            let master = at(port);
            sentinels.record(index, Ok(MasterAnswer { sent, master }));
        };
        answer(0, 1, 10);
        answer(1, 1, 300);
        assert_eq!(
            (sentinels.agreed_master(), sentinels.confirmed_at(&at(1))),
            (None, None),
            "two of five"
        );
        answer(2, 2, 20);
        assert_eq!(sentinels.agreed_master(), None);
        answer(3, 1, 40);
        assert_eq!(sentinels.agreed_master(), Some(at(1)));
        assert_eq!(sentinels.confirmed_at(&at(1)), now.checked_sub(Duration::from_millis(300)));
        assert_eq!(sentinels.confirmed_at(&at(2)), None);
        // the last answer of a Sentinel that fails counts until it is too old
        sentinels.record(3, Err("refused".to_owned()));
        assert_eq!(sentinels.agreed_master(), Some(at(1)));
        answer(3, 1, 1100);
        assert_eq!(sentinels.agreed_master(), None);
        assert!(sentinels.disagreement().starts_with("fewer than 3 of 5 Sentinels"));
        answer(1, 2, 5);
        answer(4, 2, 5);
        assert_eq!(sentinels.agreed_master(), Some(at(2)));
    }
}
