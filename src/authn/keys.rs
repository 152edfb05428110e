//! Fetches an issuer's keys and keeps them fresh.
//!
//! One refresher task per issuer, on the control runtime, reads a file or fetches a URL and publishes an immutable
//! `KeySet`. The workers load snapshots of it. A failed fetch leaves the last good keys in force until `jwks.max_age`;
//! after that the issuer's tokens are denied `key_unavailable`.
//!
//! A token with an unknown key id may be signed with a new key, so its request asks for a refetch. Requests race for
//! that refetch, and the lock of `RefetchRequests` orders them. While a requested fetch is not finished, every request
//! shares its ticket. Else the first request makes a new ticket, at most one per `REFETCH_INTERVAL`; within that
//! interval a request is refused at once. So tokens with random key ids cost one fetch per interval.
//!
//! The refresher reads the newest ticket before it fetches and marks that ticket served afterwards. A fetch that was
//! already under way when a ticket was made therefore never serves it. A failed fetch serves its tickets too: the
//! requests wake, do not find the key id and refuse their tokens. A fetch slower than `REFETCH_WAIT` refuses the tokens
//! of the requests that wait. A key id that a fresh set does not have is refused without a refetch for
//! `UNKNOWN_KID_LIFE`, or until the published keys change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use cedargate_policy::json;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::jwk::{JWKS_BYTES_MAX, JwksError, KeySet};
use crate::base::clock::unix_seconds;
use crate::base::digest::sha256;
use crate::base::files::{ReadError, read_small};
use crate::base::metrics::Metrics;
use crate::base::outbound::cause;
use crate::config::{Issuer, KeySource, KeyTransport};

/// Shortest interval between two refetches that unknown key ids cause, per issuer.
pub const REFETCH_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time that a token with an unknown key id waits for that refetch.
pub const REFETCH_WAIT: Duration = Duration::from_secs(3);
/// Longest time that a token waits for an issuer's first keys.
pub const FIRST_FETCH_WAIT: Duration = Duration::from_secs(2);
/// One HTTP exchange, from connecting to the last byte.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
const REFRESH_MIN: Duration = Duration::from_secs(60);
const REFRESH_MAX: Duration = Duration::from_secs(5 * 60);
/// Interval of reading a key file. Each read follows the path again, so it sees a swapped symlink.
const FILE_POLL: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Most cached unknown key ids, per issuer.
const UNKNOWN_KIDS_MAX: usize = 1024;
/// Life of a cached unknown key id; within it the id causes no refetch.
const UNKNOWN_KID_LIFE: Duration = Duration::from_secs(30);
const DISCOVERY_BYTES_MAX: usize = 256 * 1024;

/// An error of reading or fetching keys. `/status` shows it; it contains no key material.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot read `{path}`: {source}")]
    File { path: PathBuf, source: ReadError },
    #[error("cannot read `{path}`: the read did not finish")]
    Interrupted { path: PathBuf },
    #[error("cannot fetch `{url}`: {why}")]
    Http { url: String, why: String },
    #[error("`{url}` answered {status}, expected 200")]
    Status { url: String, status: u16 },
    #[error("`{url}` sent more than {max} bytes")]
    TooLong { url: String, max: usize },
    #[error("`{url}` is not https: plain http is accepted for loopback only")]
    Insecure { url: String },
    #[error("`{url}` is not a usable URL")]
    Url { url: String },
    #[error("discovery document of `{issuer}` is not usable: {why}")]
    Discovery { issuer: String, why: String },
    #[error("this issuer has no tokens")]
    NoTokens,
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

/// Progress of the refresher; requests wait for it to change.
#[derive(Clone, Copy, Debug, Default)]
struct RefreshProgress {
    attempts: u64,
    /// The newest ticket that a finished attempt has served. The attempt began after the ticket was made.
    served: u64,
}

/// Refetches that requests asked for.
#[derive(Default)]
struct RefetchRequests {
    newest_ticket: u64,
    requested_at: Option<Instant>,
}

/// A key id that the issuer does not have.
#[derive(Clone, Copy)]
struct UnknownKid {
    /// The key set that was searched.
    generation: u64,
    expires_at: Instant,
}

/// The keys of one issuer. Its refresher writes them, every worker reads them.
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
    /// Wakes the refresher for a requested refetch.
    refetch_requested: Notify,
    requests: Mutex<RefetchRequests>,
    progress: watch::Sender<RefreshProgress>,
    /// Keyed by the SHA-256 of the key id.
    unknown_kids: Cache<[u8; 32], UnknownKid>,
    /// `None` for files.
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
            refetch_requested: Notify::new(),
            requests: Mutex::new(RefetchRequests::default()),
            progress: watch::Sender::new(RefreshProgress::default()),
            unknown_kids: Cache::new(UNKNOWN_KIDS_MAX),
            client,
            metrics,
        }
    }

    /// Returns the keys in force; `None` before the first successful fetch.
    pub(super) fn snapshot(&self) -> Guard<Option<Arc<KeySet>>> {
        self.set.load()
    }

    /// True if the last successful fetch is older than `jwks.max_age`.
    pub(super) fn is_stale(&self, now: i64) -> bool {
        self.age(now) > i64::try_from(self.max_age.as_secs()).unwrap_or(i64::MAX)
    }

    pub(super) fn age(&self, now: i64) -> i64 {
        now.saturating_sub(self.fetched_at.load(Ordering::Acquire)).max(0)
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Waits for the first attempt to end, at most `FIRST_FETCH_WAIT`.
    pub(super) async fn wait_for_first(&self) {
        let mut progress = self.progress.subscribe();
        let first = progress.wait_for(|progress| progress.attempts > 0);
        // after success, failure or time-out the caller reads the snapshot again
        drop(tokio::time::timeout(FIRST_FETCH_WAIT, first).await);
    }

    /// Requests fresh keys for an unknown key id and waits for them. `false`: refused or too slow, the id stays
    /// unknown.
    pub(super) async fn refetch_for(&self, kid: &str, generation: u64) -> bool {
        let hash = sha256(kid.as_bytes());
        let is_known_unknown = |kid: UnknownKid| kid.generation == generation && Instant::now() < kid.expires_at;
        if self.unknown_kids.get(&hash).is_some_and(is_known_unknown) {
            return false;
        }
        let Some(ticket) = self.request_refetch(Instant::now()) else {
            return false;
        };
        let mut progress = self.progress.subscribe();
        let served = progress.wait_for(|progress| progress.served >= ticket);
        matches!(tokio::time::timeout(REFETCH_WAIT, served).await, Ok(Ok(_)))
    }

    /// Caches that a fresh set does not have this key id.
    pub(super) fn remember_unknown(&self, kid: &str, generation: u64) {
        let unknown = UnknownKid {
            generation,
            expires_at: Instant::now() + UNKNOWN_KID_LIFE,
        };
        self.unknown_kids.insert(sha256(kid.as_bytes()), unknown);
    }

    /// Returns the ticket of the requested fetch that is not finished, or a new ticket; `None` within
    /// `REFETCH_INTERVAL` of the last one.
    fn request_refetch(&self, now: Instant) -> Option<u64> {
        let mut requests = self.requests.lock();
        if requests.newest_ticket > self.progress.borrow().served {
            return Some(requests.newest_ticket);
        }
        if requests
            .requested_at
            .is_some_and(|at| now.duration_since(at) < REFETCH_INTERVAL)
        {
            return None;
        }
        requests.requested_at = Some(now);
        requests.newest_ticket += 1;
        self.refetch_requested.notify_one();
        Some(requests.newest_ticket)
    }

    /// Refreshes the keys until stopped. Runs on the control runtime.
    pub(super) async fn refresh(&self, stop: CancellationToken) {
        let mut digest = None;
        let mut failures = 0_u32;
        loop {
            // before the fetch: a ticket that is made during it needs another one
            let served_ticket = self.requests.lock().newest_ticket;
            let succeeded = tokio::select! {
                () = stop.cancelled() => return,
                succeeded = self.attempt(&mut digest) => succeeded,
            };
            failures = if succeeded { 0 } else { failures.saturating_add(1) };
            self.progress.send_modify(|progress| {
                progress.attempts += 1;
                progress.served = served_ticket;
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.pause(failures)) => {}
                () = self.refetch_requested.notified() => {}
            }
        }
    }

    /// Reads or fetches once; true if the keys in force are confirmed.
    async fn attempt(&self, digest: &mut Option<[u8; 32]>) -> bool {
        let outcome = match self.fetch().await {
            Ok(bytes) => self.accept(&bytes, digest),
            Err(error) => Err(error),
        };
        let is_file = matches!(self.source, KeySource::File(_));
        let mut last_error = self.last_error.lock();
        let (result, error) = match &outcome {
            // a file is read every second, so only a change counts in the metric
            Ok(false) if is_file && last_error.is_none() => return true,
            Ok(_) => ("ok", None),
            Err(error) => ("error", Some(error.to_string())),
        };
        if !(is_file && error.is_some() && *last_error == error) {
            self.metrics.jwks_refresh.with_label_values(&[&*self.name, result]).inc();
            if let Some(error) = &error {
                let state = match &*self.set.load() {
                    None => "there are none yet, so this issuer's tokens are denied",
                    Some(_) if self.is_stale(unix_seconds()) => {
                        "the last good ones are too old, so this issuer's tokens are denied"
                    }
                    Some(_) => "the last good keys stay in force",
                };
                tracing::warn!(issuer = &*self.name, error, "keys not refreshed; {state}");
            }
        }
        *last_error = error;
        outcome.is_ok()
    }

    /// Publishes a key set; true if it differs from the one in force.
    pub(super) fn accept(&self, bytes: &[u8], digest: &mut Option<[u8; 32]>) -> Result<bool, FetchError> {
        let hash = sha256(bytes);
        let changed = *digest != Some(hash);
        if changed {
            let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
            let set = KeySet::parse(bytes, generation)?;
            if !set.skipped.is_empty() || set.keys.is_empty() {
                tracing::warn!(issuer = &*self.name, usable = set.keys.len(), skipped = ?set.skipped, "some published keys are not used");
            }
            // the time first: a worker that sees the first set must not see the time zero with it
            self.fetched_at.store(unix_seconds(), Ordering::Release);
            self.set.store(Some(Arc::new(set)));
            *digest = Some(hash);
        }
        self.fetched_at.store(unix_seconds(), Ordering::Release);
        Ok(changed)
    }

    #[cfg(test)]
    pub(super) fn set_fetched_at(&self, at: i64) {
        self.fetched_at.store(at, Ordering::Release);
    }

    /// The time until the next attempt.
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
            // INVARIANT: `Authn` never refreshes or requests keys of an issuer without tokens
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
        let failed = |error: reqwest::Error| FetchError::Http {
            url: url.to_owned(),
            why: cause(&error),
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

/// Adds the deadline of one exchange.
pub(super) fn with_deadline(client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    client.timeout(FETCH_DEADLINE)
}

/// Checks that a URL is https, or http to the loopback interface. `DangerPlain` permits http to any host.
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

/// Returns the URL of the discovery document (OpenID Connect Discovery 1.0, section 4). A trailing slash of the issuer
/// is dropped first.
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
    let document = json::without_bom(document).and_then(json::object_from_slice);
    let document = document.map_err(|error| refuse(error.to_string()))?;
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(refuse(
            "its `issuer` is not exactly the configured one (issuers[].issuer)".to_owned(),
        ));
    }
    let uri = document.get("jwks_uri").and_then(Value::as_str);
    uri.map(str::to_owned)
        .ok_or_else(|| refuse("it has no `jwks_uri`".to_owned()))
}

/// Fails if a key set of a file cannot be used now.
pub fn check_key_file(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let bytes =
        read_small(path, u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX)).map_err(|error| format!("`{shown}`: {error}"))?;
    let set = KeySet::parse(&bytes, 0).map_err(|error| format!("`{shown}`: {error}"))?;
    if set.keys.is_empty() {
        return Err(format!("`{shown}` has no usable key"));
    }
    Ok(())
}

async fn read_file(path: PathBuf) -> Result<Vec<u8>, FetchError> {
    let shown = path.clone();
    let bytes_max = u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX);
    match tokio::task::spawn_blocking(move || read_small(&path, bytes_max)).await {
        Ok(read) => read.map_err(|source| FetchError::File { path: shown, source }),
        Err(_panicked_or_cancelled) => Err(FetchError::Interrupted { path: shown }),
    }
}

/// A random factor from 0.9 to 1.1, so that replicas do not fetch at the same time.
fn jitter() -> f64 {
    let mut byte = [128];
    // without randomness the pause has no jitter
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
    fn refetch_is_shared_while_it_runs_and_throttled_afterwards() {
        let keys = keys();
        let start = Instant::now();
        assert_eq!(keys.request_refetch(start), Some(1));
        assert_eq!(keys.request_refetch(start), Some(1), "shared");
        finish(&keys, 1);
        assert_eq!(
            keys.request_refetch(start + REFETCH_INTERVAL - Duration::from_millis(1)),
            None
        );
        assert_eq!(keys.request_refetch(start + REFETCH_INTERVAL), Some(2));
    }

    #[tokio::test]
    async fn cached_unknown_kid_causes_no_refetch_until_the_keys_change() {
        let keys = keys();
        keys.remember_unknown("x", 1);
        assert!(!keys.refetch_for("x", 1).await);
        assert_eq!(keys.requests.lock().newest_ticket, 0);
        for n in 0..10 * UNKNOWN_KIDS_MAX {
            keys.remember_unknown(&n.to_string(), 1);
        }
        assert!(keys.unknown_kids.len() <= UNKNOWN_KIDS_MAX);
        let (fetched, ()) = tokio::join!(keys.refetch_for("x", 2), async { finish(&keys, 1) });
        assert!(fetched);
        assert_eq!(keys.requests.lock().newest_ticket, 1);
    }

    #[test]
    fn pause_grows_with_failures_and_stays_below_the_maximum_age() {
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
