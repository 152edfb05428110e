//! Whom the Sentinels call master: all of them are asked, all the time, and a majority of those configured is believed.
//!
//! A server that was cut off goes on as master until somebody tells it otherwise, and answers whoever still reaches it. So
//! what it says counts only as of a question that a majority answered with its name: another one is a master for any gate
//! only after a majority named that, and two majorities share a Sentinel that does not change its mind back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cmd;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{CONNECT_DEADLINE, connect_to_sentinel, in_time};
use crate::config::{self, Topology};
use crate::session::StoreError;
use crate::types::Redacted;

/// Parts of the staleness that is allowed between two questions: one lost answer costs nothing.
const PARTS: u32 = 4;
/// Between two questions however little staleness is allowed.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// After one that did not answer.
const PAUSE: Duration = Duration::from_millis(250);

/// As the Sentinels write it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

pub struct Sentinels {
    master: String,
    urls: Vec<Redacted<String>>,
    staleness_max: Duration,
    /// In the order of `urls`.
    seats: Mutex<Vec<Seat>>,
    /// A majority may have changed its mind.
    pub news: Notify,
}

/// What one of them said.
#[derive(Clone, Debug, Default)]
struct Seat {
    heard: Option<Heard>,
    error: Option<String>,
}

#[derive(Clone, Debug)]
struct Heard {
    /// When it was asked.
    sent: Instant,
    named: Address,
}

impl Sentinels {
    /// `None`: there are none.
    pub fn of(config: &config::Redis, staleness_max: Duration) -> Option<Arc<Self>> {
        let Topology::Sentinel { master, urls, .. } = &config.topology else {
            return None;
        };
        Some(Arc::new(Self {
            master: master.clone(),
            urls: urls.clone(),
            staleness_max,
            seats: Mutex::new(vec![Seat::default(); urls.len()]),
            news: Notify::new(),
        }))
    }

    /// For ever; whoever stops waiting ends it.
    pub async fn ask(self: &Arc<Self>, config: &config::Redis) {
        let mut each = JoinSet::new();
        for (seat, url) in self.urls.iter().enumerate() {
            let (me, url, config) = (Arc::clone(self), url.clone(), config.clone());
            each.spawn(async move { me.ask_one(seat, &url, &config).await });
        }
        each.join_all().await;
    }

    /// One that hangs holds up no other.
    async fn ask_one(&self, seat: usize, url: &Redacted<String>, config: &config::Redis) {
        let interval = (self.staleness_max / PARTS).max(INTERVAL_MIN);
        let mut connection = None;
        loop {
            let began = Instant::now();
            match self.question(&mut connection, url, config).await {
                Ok(heard) => {
                    self.note(seat, Ok(heard));
                    sleep_until(began + interval).await;
                }
                Err(error) => {
                    connection = None;
                    self.note(seat, Err(error.why()));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn question(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        url: &Redacted<String>,
        config: &config::Redis,
    ) -> Result<Heard, StoreError> {
        let asked = match connection {
            Some(open) => open,
            None => connection.insert(connect_to_sentinel(url, config).await?),
        };
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.master);
        let sent = Instant::now();
        let deadline = config.timeout.min(self.staleness_max / 2).max(INTERVAL_MIN);
        let answer: Option<(String, u16)> = in_time(deadline, question.query_async(asked)).await?;
        let (host, port) = answer.ok_or_else(|| StoreError::Refused(format!("a Sentinel knows no `{}`", self.master)))?;
        let named = Address { host, port };
        Ok(Heard { sent, named })
    }

    fn note(&self, seat: usize, answer: Result<Heard, String>) {
        let before = self.named();
        if let Some(seat) = self.seats().get_mut(seat) {
            match answer {
                Ok(heard) => (seat.heard, seat.error) = (Some(heard), None),
                Err(error) => seat.error = Some(error),
            }
        }
        if self.named() != before {
            self.news.notify_one();
        }
    }

    /// Whom a majority named lately.
    pub fn named(&self) -> Option<Address> {
        let seats = self.seats();
        let heard = || seats.iter().filter_map(|seat| seat.heard.as_ref());
        let recent = || heard().filter(|heard| heard.sent.elapsed() <= self.staleness_max);
        let votes = |named: &Address| recent().filter(|heard| heard.named == *named).count();
        recent()
            .map(|heard| &heard.named)
            .find(|named| votes(named) >= self.majority())
            .cloned()
    }

    /// The last moment as of which a majority names this one.
    pub fn confirmed(&self, master: &Address) -> Option<Instant> {
        let seats = self.seats();
        let heard = seats.iter().filter_map(|seat| seat.heard.as_ref());
        let mut sent: Vec<Instant> = heard.filter(|heard| heard.named == *master).map(|heard| heard.sent).collect();
        sent.sort_unstable_by(|one, other| other.cmp(one));
        sent.get(self.majority().saturating_sub(1)).copied()
    }

    /// Waits until a majority names one.
    pub async fn master(&self) -> Result<Address, StoreError> {
        let named = async {
            loop {
                if let Some(named) = self.named() {
                    return named;
                }
                self.news.notified().await;
            }
        };
        let named = timeout(CONNECT_DEADLINE, named).await;
        named.map_err(|_late| StoreError::Unreachable(self.disagreement()))
    }

    /// Why there is no master, or nobody who confirms it.
    pub fn disagreement(&self) -> String {
        let seats = self.seats();
        let error = seats.iter().find_map(|seat| seat.error.as_deref());
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        format!(
            "fewer than {} of {} Sentinels name the same master{error}",
            self.majority(),
            seats.len()
        )
    }

    /// Of those configured, not of those that answer.
    fn majority(&self) -> usize {
        self.urls.len() / 2 + 1
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinels(count: usize) -> Sentinels {
        Sentinels {
            master: "mm".to_owned(),
            urls: (0..count).map(|_| Redacted::new(String::new())).collect(),
            staleness_max: Duration::from_secs(1),
            seats: Mutex::new(vec![Seat::default(); count]),
            news: Notify::new(),
        }
    }

    fn at(port: u16) -> Address {
        let host = "redis".to_owned();
        Address { host, port }
    }

    #[test]
    fn a_majority_of_those_configured_names_the_master_as_of_its_oldest_question() {
        let (sentinels, now) = (sentinels(5), Instant::now());
        let said = |seat: usize, port: u16, millis_ago: u64| {
            let sent = now.checked_sub(Duration::from_millis(millis_ago)).unwrap();
            sentinels.note(seat, Ok(Heard { sent, named: at(port) }));
        };
        said(0, 1, 10);
        said(1, 1, 300);
        assert_eq!((sentinels.named(), sentinels.confirmed(&at(1))), (None, None), "two of five");
        said(2, 2, 20);
        assert_eq!(sentinels.named(), None);
        said(3, 1, 40);
        assert_eq!(sentinels.named(), Some(at(1)));
        assert_eq!(sentinels.confirmed(&at(1)), now.checked_sub(Duration::from_millis(300)));
        assert_eq!(sentinels.confirmed(&at(2)), None);
        // one that does not answer keeps its word, but not for ever
        sentinels.note(3, Err("refused".to_owned()));
        assert_eq!(sentinels.named(), Some(at(1)));
        said(3, 1, 1100);
        assert_eq!(sentinels.named(), None);
        assert!(sentinels.disagreement().starts_with("fewer than 3 of 5 Sentinels"));
        said(1, 2, 5);
        said(4, 2, 5);
        assert_eq!(sentinels.named(), Some(at(2)));
    }
}
