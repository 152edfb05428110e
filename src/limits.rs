//! Limits on requests: rates per client address, per principal and per login try, and a number of requests in flight.
//!
//! Beside the path; `gate` asks, and login asks for its tries. Rates use GCRA and count over all workers. A request
//! holds a `RequestSlot` until the app's answer ends. With sessions in Redis the rates also count over all replicas
//! (`shared`). A limit that is not configured costs one look at an `Option`. Nothing here waits or decides about a
//! caller's identity.
//!
//! Workers race for the same counts. GCRA measures and replaces one number atomically per key. The number of keys is
//! reserved before a key is inserted, so the map never passes `KEYS_MAX`; a worker that loses the race for the same key
//! gives its reservation back. When the map is full, further keys share spare counts, so no caller passes uncounted.

mod shared;

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cedar_policy::EntityUid;
use cedargate_policy::denial::{Denial, Refusal};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use self::shared::CountedAs;
pub use self::shared::{PassedRequests, SharedRate};
use crate::base::address::client_network;
use crate::config::{self, Rate, SessionStore};

/// Keys of one rate that have a count of their own. Further keys share `SPARE_COUNTS`: a flood of addresses takes no
/// memory and does not use up the rate of a known caller, and every caller is counted.
const KEYS_MAX: usize = 100_000;
/// Counts that keys beyond `KEYS_MAX` share. The hash that selects one has a secret seed.
const SPARE_COUNTS: usize = 1024;
/// One account gets this many times `limits.rate_login` from all addresses together: one address alone cannot lock the
/// account's owner out, and many addresses together guess no faster than this.
const ACCOUNT_TIMES: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// Shortest time between two requests that a rate can express.
const PERIOD_MIN: Duration = Duration::from_nanos(1);

/// Every limit on requests, as configured.
#[derive(Debug)]
pub struct RequestLimits {
    address: Option<Rates<IpAddr>>,
    principal: Option<Rates<PrincipalKey>>,
    slots: RequestSlots,
}

/// One principal in one portal. The issuer is part of the key: two issuers may use one name for different people.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PrincipalKey {
    pub portal: Arc<str>,
    pub issuer: Arc<str>,
    pub principal: EntityUid,
}

/// Rates of tries to log in to local accounts. Each try counts against its address, then against the account from that
/// address, then against the account from all addresses.
#[derive(Debug)]
pub struct LoginLimits {
    address: Rates<IpAddr>,
    pair: Rates<AccountFromAddress>,
    account: Rates<LocalAccount>,
}

/// A local account. Names of accounts that do not exist are counted alike.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct LocalAccount {
    pub provider: Arc<str>,
    pub name: String,
}

/// One account, tried from one address.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct AccountFromAddress {
    account: LocalAccount,
    address: IpAddr,
}

/// The processes that count a rate together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CountScope {
    ThisProcess,
    AllReplicas,
}

impl CountedAs for IpAddr {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::V4(v4) => v4.octets().to_vec(),
            Self::V6(v6) => v6.octets().to_vec(),
        }
    }
}

impl CountedAs for PrincipalKey {
    fn bytes(&self) -> Vec<u8> {
        join_with_lengths(&[&self.portal, &self.issuer, &self.principal.to_string()])
    }
}

impl CountedAs for LocalAccount {
    fn bytes(&self) -> Vec<u8> {
        join_with_lengths(&[&self.provider, &self.name])
    }
}

impl CountedAs for AccountFromAddress {
    fn bytes(&self) -> Vec<u8> {
        join_with_lengths(&[&self.account.provider, &self.account.name, &self.address.to_string()])
    }
}

/// Joins the parts with their lengths, so that no two lists of parts give the same bytes.
fn join_with_lengths(parts: &[&str]) -> Vec<u8> {
    let parts = parts
        .iter()
        .map(|part| [&part.len().to_be_bytes()[..], part.as_bytes()].concat());
    parts.flatten().collect()
}

impl CountScope {
    pub fn of(store: &SessionStore) -> Self {
        match store {
            SessionStore::Memory => Self::ThisProcess,
            SessionStore::Redis(_) => Self::AllReplicas,
        }
    }

    fn shared_rate(self, rate: Rate, area: &'static str) -> Option<Arc<SharedRate>> {
        (self == Self::AllReplicas).then(|| Arc::new(SharedRate::new(rate, area)))
    }
}

type Limiter<K> = RateLimiter<K, Counts<K>, DefaultClock, NoOpMiddleware<<DefaultClock as Clock>::Instant>>;

/// One rate, counted per key.
#[derive(Debug)]
struct Rates<K: CountedAs> {
    limiter: Limiter<K>,
    clock: DefaultClock,
    /// The rate's name in the configuration.
    key: &'static str,
    detail: &'static str,
    /// `None`: this process counts alone.
    shared: Option<Arc<SharedRate>>,
}

/// The counts of up to `max` keys, and spare counts for the rest.
#[derive(Debug)]
struct Counts<K: Clone + Eq + Hash> {
    own: DashMapStateStore<K>,
    /// Keys in `own`, and keys that a worker is about to insert. The map's own length would lock all its shards.
    known: AtomicUsize,
    max: usize,
    spare: Vec<InMemoryState>,
    /// Selects a spare count; its seed is secret and random per process.
    hasher: RandomState,
}

/// Requests in flight on all workers, up to `limits.requests`.
#[derive(Clone, Debug)]
struct RequestSlots {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// The slot of one request in flight; dropping it frees it for another request.
#[derive(Debug)]
pub struct RequestSlot(Arc<AtomicUsize>);

impl RequestLimits {
    pub fn new(limits: &config::Limits, scope: CountScope) -> Self {
        Self {
            address: limits.rate_per_address.map(|keys| {
                let rate = keys.rate();
                let detail = "more requests of one address than `limits.rate_per_address`";
                Rates::new(
                    rate,
                    "limits.rate_per_address",
                    detail,
                    scope.shared_rate(rate, "rate-address"),
                )
            }),
            principal: limits.rate_per_principal.map(|keys| {
                let rate = keys.rate();
                let detail = "more requests of one principal than `limits.rate_per_principal`";
                Rates::new(
                    rate,
                    "limits.rate_per_principal",
                    detail,
                    scope.shared_rate(rate, "rate-principal"),
                )
            }),
            slots: RequestSlots {
                taken: Arc::default(),
                max: limits.requests.as_usize(),
            },
        }
    }

    /// Takes one of `limits.requests` slots; `None` when all are taken.
    pub fn acquire_slot(&self) -> Option<RequestSlot> {
        self.slots.acquire()
    }

    /// Counts a request of this address, or refuses it.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        self.address
            .as_ref()
            .map_or(Ok(()), |rates| rates.check(&client_network(address)))
    }

    /// Counts a request of this principal, or refuses it. Makes the key only if the rate is configured.
    pub fn check_principal(&self, key: impl FnOnce() -> PrincipalKey) -> Result<(), Refusal> {
        self.principal.as_ref().map_or(Ok(()), |rates| rates.check(&key()))
    }

    /// Returns the rates that all replicas count together.
    pub fn shared(&self) -> Vec<Arc<SharedRate>> {
        let address = self.address.iter().filter_map(|rates| rates.shared.clone());
        let principal = self.principal.iter().filter_map(|rates| rates.shared.clone());
        address.chain(principal).collect()
    }

    /// Removes the counts of callers whose rate has recovered completely. The caller runs it periodically.
    pub fn sweep(&self) {
        for shared in self.shared() {
            shared.sweep(Instant::now());
        }
        if let Some(rates) = &self.address {
            rates.limiter.retain_recent();
        }
        if let Some(rates) = &self.principal {
            rates.limiter.retain_recent();
        }
    }
}

impl LoginLimits {
    pub fn new(rate: Rate, scope: CountScope) -> Self {
        let key = "limits.rate_login";
        let address = "more tries to log in from one address than `limits.rate_login`";
        let pair = "more tries to log in to one account from one address than `limits.rate_login`";
        let account = "more tries to log in to one account, from all addresses, than ten times `limits.rate_login`";
        let more = Rate {
            requests: rate.requests.saturating_mul(ACCOUNT_TIMES),
            burst: rate.burst.saturating_mul(ACCOUNT_TIMES),
            ..rate
        };
        Self {
            address: Rates::new(rate, key, address, scope.shared_rate(rate, "login-address")),
            pair: Rates::new(rate, key, pair, scope.shared_rate(rate, "login-pair")),
            account: Rates::new(more, key, account, scope.shared_rate(more, "login-account")),
        }
    }

    /// Returns the rates that all replicas count together.
    pub fn shared(&self) -> Vec<Arc<SharedRate>> {
        let all = [&self.address.shared, &self.pair.shared, &self.account.shared];
        all.into_iter().flatten().cloned().collect()
    }

    /// Counts a try, or refuses it. A try that one address has too many of does not count against the account.
    pub fn check(&self, address: IpAddr, account: &LocalAccount) -> Result<(), Refusal> {
        let network = client_network(address);
        self.address.check(&network)?;
        self.pair.check(&AccountFromAddress {
            account: account.clone(),
            address: network,
        })?;
        self.account.check(account)
    }

    /// Removes the counts of callers whose rate has recovered completely. The caller runs it periodically.
    pub fn sweep(&self) {
        for shared in self.shared() {
            shared.sweep(Instant::now());
        }
        self.address.limiter.retain_recent();
        self.pair.limiter.retain_recent();
        self.account.limiter.retain_recent();
    }
}

impl<K: CountedAs> Rates<K> {
    fn new(rate: Rate, key: &'static str, detail: &'static str, shared: Option<Arc<SharedRate>>) -> Self {
        let period = (rate.per / rate.requests.get()).max(PERIOD_MIN);
        // INVARIANT: `None` only for a period of zero
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(rate.requests));
        let clock = DefaultClock::default();
        Self {
            limiter: RateLimiter::new(quota.allow_burst(rate.burst), Counts::up_to(KEYS_MAX), clock.clone()),
            clock,
            key,
            detail,
            shared,
        }
    }

    fn check(&self, key: &K) -> Result<(), Refusal> {
        let own = self.limiter.check_key(key);
        let own = own.map_err(|until| until.wait_time_from(self.clock.now()));
        let all = || match &self.shared {
            Some(shared) => shared.check(key, Instant::now()),
            None => Ok(()),
        };
        own.and_then(|()| all()).map_err(|wait| Refusal {
            retry_after: Some(whole_seconds(wait)),
            limit: Some(self.key),
            ..Refusal::new(Denial::RateLimited, self.detail)
        })
    }
}

/// Rounded up, and at least one.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl<K: Clone + Eq + Hash> Counts<K> {
    fn up_to(max: usize) -> Self {
        Self {
            own: DashMapStateStore::default(),
            known: AtomicUsize::new(0),
            max,
            spare: (0..SPARE_COUNTS).map(|_| InMemoryState::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Reserves one more key; false if `max` keys are known.
    fn reserve(&self) -> bool {
        let reserved = self.known.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| {
            (known < self.max).then_some(known + 1)
        });
        reserved.is_ok()
    }

    fn spare(&self, key: &K) -> Option<&InMemoryState> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SPARE_COUNTS as u64).unwrap_or(0);
        self.spare.get(hash)
    }
}

impl<K: Clone + Eq + Hash> StateStore for Counts<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if let Some(count) = self.own.get(key) {
            return count.measure_and_replace(&NotKeyed::NonKey, measure);
        }
        if !self.reserve()
            && let Some(spare) = self.spare(key)
        {
            return spare.measure_and_replace(&NotKeyed::NonKey, measure);
        }
        let mut is_new = false;
        let count = self.own.entry(key.clone()).or_insert_with(|| {
            is_new = true;
            InMemoryState::default()
        });
        if !is_new {
            // another worker inserted the key first
            self.known.fetch_sub(1, Ordering::Relaxed);
        }
        count.measure_and_replace(&NotKeyed::NonKey, measure)
    }
}

impl<K: Clone + Eq + Hash> ShrinkableKeyedStateStore<K> for Counts<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut dropped = 0;
        self.own.retain(|_, count| {
            // the closure fails with the stored value, so the count is read and not replaced
            let read = count.measure_and_replace(&NotKeyed::NonKey, Err::<((), Nanos), _>);
            let keep = read.is_err_and(|arrival| arrival.is_some_and(|arrival| arrival > drop_below));
            dropped += usize::from(!keep);
            keep
        });
        self.known.fetch_sub(dropped, Ordering::Relaxed);
    }

    fn len(&self) -> usize {
        self.known.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl RequestSlots {
    fn acquire(&self) -> Option<RequestSlot> {
        // one addition, so workers never repeat it; the drop of a slot beyond the maximum undoes it
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let slot = RequestSlot(Arc::clone(&self.taken));
        (before < self.max).then_some(slot)
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
