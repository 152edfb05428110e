//! Where an issuer's keys come from and how they stay fresh.
//!
//! One task per issuer on the control runtime reads or fetches and publishes an immutable `KeySet`; the workers take
//! snapshots. A worker that meets an unknown key id asks for ONE refetch per `REFETCH_INTERVAL`, whoever else asks in
//! that time shares it or is told no. A failed fetch keeps the last good keys until their maximum age.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Guard};
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::cache::sha256;
use super::jwk::{JWKS_BYTES_MAX, JwksError, KeySet};
use crate::base::metrics::Metrics;
use crate::config::{Issuer, KeySource, KeyTransport};
use crate::json;

/// Between two refetches that unknown key ids cause, per issuer.
pub const REFETCH_INTERVAL: Duration = Duration::from_secs(10);
/// How long a token with an unknown key id waits for that refetch.
pub const REFETCH_WAIT: Duration = Duration::from_secs(3);
/// How long a token waits for the very first keys.
pub const FIRST_FETCH_WAIT: Duration = Duration::from_secs(2);
/// One HTTP exchange, from connecting to the last byte.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
const REFRESH_MIN: Duration = Duration::from_secs(60);
const REFRESH_MAX: Duration = Duration::from_secs(5 * 60);
/// How often a key file is read; reading goes through the path each time, so swapped symlinks are seen.
const FILE_POLL: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Key ids known to be unknown, per issuer.
const UNKNOWN_KIDS_MAX: usize = 1024;
/// How long such a key id is not asked for again.
const UNKNOWN_KID_LIFE: Duration = Duration::from_secs(30);
const DISCOVERY_BYTES_MAX: usize = 256 * 1024;

/// Why keys could not be had. Shown in `/status`; holds no key material.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot read `{path}`: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot fetch `{url}`: {source}")]
    Http { url: String, source: reqwest::Error },
    #[error("`{url}` answered {status}, expected 200")]
    Status { url: String, status: u16 },
    #[error("`{url}` sent more than {max} bytes")]
    TooLong { url: String, max: usize },
    #[error("`{url}` is not https: plain http is accepted for loopback only")]
    Insecure { url: String },
    #[error("`{url}` is no usable URL")]
    Url { url: String },
    #[error("discovery document of `{issuer}` is not usable: {why}")]
    Discovery { issuer: String, why: String },
    #[error("this issuer has no tokens")]
    NoTokens,
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

/// How far the refresher got; the workers wait on it.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    attempts: u64,
    /// The highest request that a finished attempt, begun after it, has served.
    served: u64,
}

#[derive(Default)]
struct Requests {
    last: u64,
    at: Option<Instant>,
}

/// The keys of one issuer. Written by its refresher, read by every worker.
pub(super) struct IssuerKeys {
    name: Arc<str>,
    issuer: String,
    source: KeySource,
    transport: KeyTransport,
    max_age: Duration,
    set: ArcSwapOption<KeySet>,
    generation: AtomicU64,
    /// Unix seconds of the last successful read; meaningful once `set` is.
    fetched_at: AtomicI64,
    last_error: Mutex<Option<String>>,
    wanted: Notify,
    requests: Mutex<Requests>,
    progress: watch::Sender<Progress>,
    unknown: Cache<[u8; 32], (u64, Instant)>,
    /// Absent for files.
    client: Option<reqwest::Client>,
    metrics: Metrics,
}

impl IssuerKeys {
    pub(super) fn new(issuer: &Issuer, client: Option<reqwest::Client>, metrics: Metrics) -> Self {
        Self {
            name: Arc::clone(&issuer.scope.name),
            issuer: issuer.scope.issuer.clone(),
            source: issuer.keys.clone(),
            transport: issuer.key_transport,
            max_age: issuer.jwks_max_age,
            set: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            fetched_at: AtomicI64::new(0),
            last_error: Mutex::new(None),
            wanted: Notify::new(),
            requests: Mutex::new(Requests::default()),
            progress: watch::Sender::new(Progress::default()),
            unknown: Cache::new(UNKNOWN_KIDS_MAX),
            client,
            metrics,
        }
    }

    /// The keys as they are now; `None` before the first success.
    pub(super) fn snapshot(&self) -> Guard<Option<Arc<KeySet>>> {
        self.set.load()
    }

    /// Whether the keys were last confirmed too long ago.
    pub(super) fn is_stale(&self, now: i64) -> bool {
        self.age(now) > i64::try_from(self.max_age.as_secs()).unwrap_or(i64::MAX)
    }

    pub(super) fn age(&self, now: i64) -> i64 {
        now.saturating_sub(self.fetched_at.load(Ordering::Acquire)).max(0)
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits, once and shortly, for the first attempt to end.
    pub(super) async fn wait_for_first(&self) {
        let mut progress = self.progress.subscribe();
        let first = progress.wait_for(|progress| progress.attempts > 0);
        // Ready, failed or late: the caller looks at the snapshot.
        drop(tokio::time::timeout(FIRST_FETCH_WAIT, first).await);
    }

    /// Asks for fresh keys on behalf of an unknown key id. `false`: not now, the id stays unknown.
    pub(super) async fn refetch_for(&self, kid: &str, generation: u64) -> bool {
        let hash = sha256(kid.as_bytes());
        if self
            .unknown
            .get(&hash)
            .is_some_and(|(known, until)| known == generation && Instant::now() < until)
        {
            return false;
        }
        let Some(ticket) = self.request(Instant::now()) else {
            return false;
        };
        let mut progress = self.progress.subscribe();
        let served = progress.wait_for(|progress| progress.served >= ticket);
        matches!(tokio::time::timeout(REFETCH_WAIT, served).await, Ok(Ok(_)))
    }

    /// Remembers that a fresh set does not have this key id either.
    pub(super) fn remember_unknown(&self, kid: &str, generation: u64) {
        self.unknown
            .insert(sha256(kid.as_bytes()), (generation, Instant::now() + UNKNOWN_KID_LIFE));
    }

    /// A ticket of the fetch under way, or of a new one; `None` within `REFETCH_INTERVAL` of the last.
    fn request(&self, now: Instant) -> Option<u64> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.last > self.progress.borrow().served {
            return Some(requests.last);
        }
        if requests.at.is_some_and(|at| now.duration_since(at) < REFETCH_INTERVAL) {
            return None;
        }
        requests.at = Some(now);
        requests.last += 1;
        self.wanted.notify_one();
        Some(requests.last)
    }

    /// Keeps the keys fresh until stopped. Runs on the control runtime.
    pub(super) async fn refresh(&self, stop: CancellationToken) {
        let mut digest = None;
        let mut failures = 0_u32;
        loop {
            let serving = self.requests.lock().unwrap_or_else(PoisonError::into_inner).last;
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.attempt(&mut digest) => outcome,
            };
            failures = if outcome { 0 } else { failures.saturating_add(1) };
            self.progress.send_modify(|progress| {
                progress.attempts += 1;
                progress.served = serving;
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.pause(failures)) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// One read or fetch; true if the keys are now known to be current.
    async fn attempt(&self, digest: &mut Option<[u8; 32]>) -> bool {
        let outcome = match self.fetch().await {
            Ok(bytes) => self.accept(&bytes, digest),
            Err(error) => Err(error),
        };
        let is_file = matches!(self.source, KeySource::File(_));
        let mut last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, error) = match &outcome {
            // A file is looked at every second: only what changed is worth a count.
            Ok(false) if is_file && last_error.is_none() => return true,
            Ok(_) => ("ok", None),
            Err(error) => ("error", Some(error.to_string())),
        };
        if !(is_file && error.is_some() && *last_error == error) {
            self.metrics.jwks_refresh.with_label_values(&[&*self.name, result]).inc();
            if let Some(error) = &error {
                tracing::warn!(issuer = &*self.name, error, "keys not refreshed, the last good ones stay");
            }
        }
        *last_error = error;
        outcome.is_ok()
    }

    /// Publishes what was read; true if it differs from what was there.
    pub(super) fn accept(&self, bytes: &[u8], digest: &mut Option<[u8; 32]>) -> Result<bool, FetchError> {
        let hash = sha256(bytes);
        let changed = *digest != Some(hash);
        if changed {
            let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
            let set = KeySet::parse(bytes, generation)?;
            if !set.skipped.is_empty() || set.keys.is_empty() {
                tracing::warn!(issuer = &*self.name, usable = set.keys.len(), skipped = ?set.skipped, "some published keys are not used");
            }
            // The age first: a set must never be visible with the age of nothing.
            self.fetched_at.store(unix_now(), Ordering::Release);
            self.set.store(Some(Arc::new(set)));
            *digest = Some(hash);
        }
        self.fetched_at.store(unix_now(), Ordering::Release);
        Ok(changed)
    }

    #[cfg(test)]
    pub(super) fn set_fetched_at(&self, at: i64) {
        self.fetched_at.store(at, Ordering::Release);
    }

    fn pause(&self, failures: u32) -> Duration {
        if matches!(self.source, KeySource::File(_)) {
            return FILE_POLL;
        }
        let pause = match failures {
            0 => (self.max_age / 8)
                .clamp(REFRESH_MIN, REFRESH_MAX)
                .min(self.max_age / 2)
                .max(BACKOFF_MIN),
            n => BACKOFF_MIN.saturating_mul(1 << n.saturating_sub(1).min(6)).min(BACKOFF_MAX),
        };
        pause.mul_f64(jitter())
    }

    async fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        match &self.source {
            KeySource::File(path) => read_file(path.clone()).await,
            KeySource::Url(url) => self.get(url, JWKS_BYTES_MAX).await,
            // INVARIANT: nobody refreshes or asks for keys of an issuer without tokens
            KeySource::NoTokens => Err(FetchError::NoTokens),
            KeySource::Discovery => {
                let document = self.get(&discovery_url(&self.issuer), DISCOVERY_BYTES_MAX).await?;
                self.get(&jwks_uri(&self.issuer, &document)?, JWKS_BYTES_MAX).await
            }
        }
    }

    async fn get(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>, FetchError> {
        check_url(url, self.transport)?;
        let client = self.client.as_ref().ok_or_else(|| FetchError::Url { url: url.to_owned() })?;
        let failed = |source| FetchError::Http {
            url: url.to_owned(),
            source,
        };
        let mut response = client.get(url).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status {
                url: url.to_owned(),
                status: response.status().as_u16(),
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > bytes_max {
                return Err(FetchError::TooLong {
                    url: url.to_owned(),
                    max: bytes_max,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// No redirects: a key set that moved is a configuration to change, not a server to follow.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(FETCH_DEADLINE)
        .user_agent(concat!("cedargate/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// https, or http to this very machine, unless the operator took the danger.
pub fn check_url(text: &str, transport: KeyTransport) -> Result<(), FetchError> {
    let insecure = || FetchError::Insecure { url: text.to_owned() };
    let url = Url::parse(text).map_err(|_not_a_url| FetchError::Url { url: text.to_owned() })?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(domain)) => domain == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback || transport == KeyTransport::DangerPlain => Ok(()),
        _ => Err(insecure()),
    }
}

/// OpenID Connect Discovery 1.0, section 4: a trailing slash of the issuer is dropped first.
pub fn discovery_url(issuer: &str) -> String {
    format!(
        "{}/.well-known/openid-configuration",
        issuer.strip_suffix('/').unwrap_or(issuer)
    )
}

fn jwks_uri(issuer: &str, document: &[u8]) -> Result<String, FetchError> {
    let refuse = |why: String| FetchError::Discovery {
        issuer: issuer.to_owned(),
        why,
    };
    let document = json::object_from_slice(document).map_err(|error| refuse(error.to_string()))?;
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(refuse(
            "its `issuer` is not exactly the configured one (issuers[].issuer)".to_owned(),
        ));
    }
    let uri = document.get("jwks_uri").and_then(Value::as_str);
    uri.map(str::to_owned)
        .ok_or_else(|| refuse("it has no `jwks_uri`".to_owned()))
}

async fn read_file(path: PathBuf) -> Result<Vec<u8>, FetchError> {
    let shown = path.clone();
    // Bounded, so that a path that turns into an endless device does not fill the memory.
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let limit = u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes).map(|_| bytes)
    });
    read.await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|source| FetchError::File { path: shown, source })
}

pub(super) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// 0.9 to 1.1, so that replicas do not fetch in step.
fn jitter() -> f64 {
    let mut byte = [128];
    // Without randomness the pause is merely not jittered.
    let filled = aws_lc_rs::rand::fill(&mut byte);
    debug_assert!(filled.is_ok(), "randomness");
    0.9 + f64::from(u8::from_be_bytes(byte)) / 255.0 * 0.2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> IssuerKeys {
        let issuer = super::super::attack_tests::issuer("corp");
        IssuerKeys::new(&issuer, None, Metrics::new().unwrap())
    }

    fn finish(keys: &IssuerKeys, served: u64) {
        keys.progress.send_modify(|progress| progress.served = served);
    }

    #[test]
    fn refetches_are_shared_while_under_way_and_throttled_after() {
        let (keys, start) = (keys(), Instant::now());
        assert_eq!(keys.request(start), Some(1));
        assert_eq!(keys.request(start), Some(1), "shared");
        finish(&keys, 1);
        assert_eq!(keys.request(start + REFETCH_INTERVAL - Duration::from_millis(1)), None);
        assert_eq!(keys.request(start + REFETCH_INTERVAL), Some(2));
    }

    #[tokio::test]
    async fn a_kid_known_to_be_unknown_asks_for_nothing_until_the_keys_change() {
        let keys = keys();
        keys.remember_unknown("x", 1);
        assert!(!keys.refetch_for("x", 1).await);
        assert_eq!(keys.requests.lock().unwrap().last, 0);
        for n in 0..10 * UNKNOWN_KIDS_MAX {
            keys.remember_unknown(&n.to_string(), 1);
        }
        assert!(keys.unknown.len() <= UNKNOWN_KIDS_MAX);
        let (asked, ()) = tokio::join!(keys.refetch_for("x", 2), async { finish(&keys, 1) });
        assert!(asked);
        assert_eq!(keys.requests.lock().unwrap().last, 1);
    }

    #[test]
    fn pauses_grow_with_failures_and_stay_below_the_maximum_age() {
        let mut keys = keys();
        keys.source = KeySource::Discovery;
        let bound = |pause: Duration| pause.mul_f64(1.11);
        assert!(keys.pause(1) <= bound(BACKOFF_MIN) && keys.pause(20) <= bound(BACKOFF_MAX));
        assert!(keys.pause(5) > keys.pause(1));
        keys.max_age = Duration::from_secs(60);
        assert!(keys.pause(0) < keys.max_age);
        keys.max_age = Duration::from_secs(86_400);
        assert!((REFRESH_MIN..=bound(REFRESH_MAX)).contains(&keys.pause(0)));
    }
}
