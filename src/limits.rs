//! How much one caller may ask, and how much everybody may ask at once.
//!
//! Beside the path; `gate` asks. Rates are counted per client address and per principal, by GCRA, over all workers;
//! requests being answered are counted by places that go with their response's body; with sessions in Redis the rates
//! are those of all replicas together (`shared`). What is not configured costs one look at an `Option`. Nothing here waits, and nothing here decides who somebody is.

mod shared;

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cedar_policy::EntityUid;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use self::shared::CountedAs;
pub use self::shared::{Passed, Shared};
use crate::config::{self, Rate, SessionStore};
use crate::denial::{Denial, Refusal};

/// Callers of one kind that are counted each for themselves. Further ones share `SPARE_COUNTS`: a flood of addresses
/// takes neither memory nor the turn of a caller who is known already, and nobody passes uncounted.
const KEYS_MAX: usize = 100_000;
/// Counts that callers beyond `KEYS_MAX` share, told apart by a hash that only this process knows.
const SPARE_COUNTS: usize = 1024;
/// The network part of an IPv6 address: what one customer gets.
const IPV6_PREFIX: u32 = 64;
/// How many times `limits.rate_login` one account gets from all addresses together: one address alone never locks its
/// owner out, and many guess no faster than this.
const ACCOUNT_TIMES: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// Smallest time between two requests that a rate can say.
const PERIOD_MIN: Duration = Duration::from_nanos(1);

/// Every limit on requests, as configured.
#[derive(Debug)]
pub struct RequestLimits {
    address: Option<Rates<IpAddr>>,
    principal: Option<Rates<PrincipalKey>>,
    places: Places,
}

/// One principal in one portal. An issuer is part of it: two issuers may know different people by one name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PrincipalKey {
    pub portal: Arc<str>,
    pub issuer: Arc<str>,
    pub principal: EntityUid,
}

/// Tries to log in to local accounts: each counts against the address first, then against the account from there, then
/// against the account from everywhere.
#[derive(Debug)]
pub struct LoginLimits {
    address: Rates<IpAddr>,
    pair: Rates<(LocalAccount, IpAddr)>,
    account: Rates<LocalAccount>,
}

/// Provider and name; names that nobody has are counted like any other.
pub type LocalAccount = (Arc<str>, String);

/// Who counts together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
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
        with_lengths(&[&self.portal, &self.issuer, &self.principal.to_string()])
    }
}

impl CountedAs for LocalAccount {
    fn bytes(&self) -> Vec<u8> {
        with_lengths(&[&self.0, &self.1])
    }
}

impl CountedAs for (LocalAccount, IpAddr) {
    fn bytes(&self) -> Vec<u8> {
        let ((provider, name), address) = self;
        with_lengths(&[provider, name, &address.to_string()])
    }
}

/// No two lists of parts have the same bytes.
fn with_lengths(parts: &[&str]) -> Vec<u8> {
    let parts = parts
        .iter()
        .map(|part| [&part.len().to_be_bytes()[..], part.as_bytes()].concat());
    parts.flatten().collect()
}

impl Reach {
    pub fn of(store: &SessionStore) -> Self {
        match store {
            SessionStore::Memory => Self::ThisProcess,
            SessionStore::Redis(_) => Self::AllReplicas,
        }
    }

    fn shared(self, rate: Rate, area: &'static str) -> Option<Arc<Shared>> {
        (self == Self::AllReplicas).then(|| Arc::new(Shared::new(rate, area)))
    }
}

type Limiter<K> = RateLimiter<K, Counts<K>, DefaultClock, NoOpMiddleware<<DefaultClock as Clock>::Instant>>;

/// One rate, counted for each key.
#[derive(Debug)]
struct Rates<K: CountedAs> {
    limiter: Limiter<K>,
    clock: DefaultClock,
    detail: &'static str,
    /// `None`: this process counts for itself.
    shared: Option<Arc<Shared>>,
}

/// The counts of up to `max` keys, and spare ones for the rest.
#[derive(Debug)]
struct Counts<K: Clone + Eq + Hash> {
    own: DashMapStateStore<K>,
    /// Keys in `own`, or about to be: asking the map would lock every shard of it.
    known: AtomicUsize,
    max: usize,
    spare: Vec<InMemoryState>,
    /// For a spare count; its seed is this process's own.
    hasher: RandomState,
}

/// Requests being answered, on all workers together.
#[derive(Clone, Debug)]
struct Places {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// The right to be answered; dropping it lets another request in.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl RequestLimits {
    pub fn new(limits: &config::Limits, reach: Reach) -> Self {
        Self {
            address: limits.rate_per_address.map(|keys| {
                let rate = keys.rate();
                let detail = "more requests of one address than `limits.rate_per_address`";
                Rates::new(rate, detail, reach.shared(rate, "rate-address"))
            }),
            principal: limits.rate_per_principal.map(|keys| {
                let rate = keys.rate();
                let detail = "more requests of one principal than `limits.rate_per_principal`";
                Rates::new(rate, detail, reach.shared(rate, "rate-principal"))
            }),
            places: Places {
                taken: Arc::default(),
                max: limits.requests.as_usize(),
            },
        }
    }

    /// A place among `limits.requests`; `None` when all are taken.
    pub fn place(&self) -> Option<Place> {
        self.places.take()
    }

    /// Counts a request of this address, or refuses it.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        self.address.as_ref().map_or(Ok(()), |rates| rates.check(&network(address)))
    }

    /// Counts a request of this principal, or refuses it. The key is made only where somebody counts.
    pub fn check_principal(&self, key: impl FnOnce() -> PrincipalKey) -> Result<(), Refusal> {
        self.principal.as_ref().map_or(Ok(()), |rates| rates.check(&key()))
    }

    /// The rates that all replicas count together.
    pub fn shared(&self) -> Vec<Arc<Shared>> {
        let address = self.address.iter().filter_map(|rates| rates.shared.clone());
        let principal = self.principal.iter().filter_map(|rates| rates.shared.clone());
        address.chain(principal).collect()
    }

    /// Forgets who has not asked for so long that it makes no difference; to be called now and then.
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
    pub fn new(rate: Rate, reach: Reach) -> Self {
        let address = "more tries to log in from one address than `limits.rate_login`";
        let pair = "more tries to log in to one account from one address than `limits.rate_login`";
        let account = "more tries to log in to one account, from all addresses, than ten times `limits.rate_login`";
        let more = Rate {
            requests: rate.requests.saturating_mul(ACCOUNT_TIMES),
            burst: rate.burst.saturating_mul(ACCOUNT_TIMES),
            ..rate
        };
        Self {
            address: Rates::new(rate, address, reach.shared(rate, "login-address")),
            pair: Rates::new(rate, pair, reach.shared(rate, "login-pair")),
            account: Rates::new(more, account, reach.shared(more, "login-account")),
        }
    }

    /// The rates that all replicas count together.
    pub fn shared(&self) -> Vec<Arc<Shared>> {
        let all = [&self.address.shared, &self.pair.shared, &self.account.shared];
        all.into_iter().flatten().cloned().collect()
    }

    /// Counts a try, or refuses it. What one address has too many of does not count against the account.
    pub fn check(&self, address: IpAddr, account: &LocalAccount) -> Result<(), Refusal> {
        let network = network(address);
        self.address.check(&network)?;
        self.pair.check(&(account.clone(), network))?;
        self.account.check(account)
    }

    /// Forgets who has not tried for so long that it makes no difference; to be called now and then.
    pub fn sweep(&self) {
        for shared in self.shared() {
            shared.sweep(Instant::now());
        }
        self.address.limiter.retain_recent();
        self.pair.limiter.retain_recent();
        self.account.limiter.retain_recent();
    }
}

/// An IPv6 address stands for its /64; whoever has one address of it has them all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - IPV6_PREFIX)))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl<K: CountedAs> Rates<K> {
    fn new(rate: Rate, detail: &'static str, shared: Option<Arc<Shared>>) -> Self {
        let period = (rate.per / rate.requests.get()).max(PERIOD_MIN);
        // INVARIANT: `None` only for a period of zero
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(rate.requests));
        let clock = DefaultClock::default();
        Self {
            limiter: RateLimiter::new(quota.allow_burst(rate.burst), Counts::up_to(KEYS_MAX), clock.clone()),
            clock,
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
            ..Refusal::new(Denial::RateLimited, self.detail)
        })
    }
}

/// Rounded up, and never "at once".
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

    fn is_full(&self) -> bool {
        let taken = self.known.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| {
            (known < self.max).then_some(known + 1)
        });
        taken.is_err()
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
        if self.is_full()
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
            // another worker was faster
            self.known.fetch_sub(1, Ordering::Relaxed);
        }
        count.measure_and_replace(&NotKeyed::NonKey, measure)
    }
}

impl<K: Clone + Eq + Hash> ShrinkableKeyedStateStore<K> for Counts<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut dropped = 0;
        self.own.retain(|_, count| {
            // reads, and never replaces: the error is the answer
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

impl Places {
    fn take(&self) -> Option<Place> {
        // counted first, so that workers never repeat each other's work; one too many is undone by its drop
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.taken));
        (before < self.max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
