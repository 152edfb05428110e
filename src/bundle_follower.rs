//! Follows a policy bundle: fetches it, decides whether to take it, keeps it on disk.
//!
//! One task on the `operations` thread asks the server every `policies.bundle.poll`; without a change that costs one
//! 304. What it downloads passes these checks in order: size, signature, manifest, files (`crate::bundle`), then name
//! and sequence number. A bundle that passes is *taken*: written to `policies.state_dir`, then published as a `Tree`
//! for the reloader, which loads it like folders. A taken bundle can still be rejected there, portal by portal, as an
//! edit in a folder can.
//!
//! On failure: the taken bundle stays, and the reason is in log, metric and `/status`. A server that fails is asked
//! less and less often. A refused bundle is not downloaded again until the server's version or the key files change.
//!
//! Sequence numbers only grow, also across restarts: `state_dir` holds the last one. A restart reads the kept bundle
//! through the same checks. `confirm` keeps a second one, the last that every portal accepted, so that a restart into a
//! bundle with a broken portal serves that portal's last good revision.

mod download;
mod http_source;
mod kept;
mod oci_source;
mod order;
mod registry_auth;

use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use cedargate_policy::revision::source::Tree;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::download::{Download, DownloadAnswer, Failure};
use self::http_source::HttpSource;
use self::kept::Kept;
pub use self::kept::{check_state_dir, read_kept};
use self::oci_source::OciSource;
use self::order::{Mark, check_order};
use crate::base::clock;
use crate::base::digest::sha256;
use crate::base::files::read_small;
use crate::base::metrics::BundleMetrics;
use crate::bundle::{Bundle, PublicKey, Trust, public_keys};
use crate::config::{self, BundleKeys, BundleSource};

/// Bytes of a key file.
const KEY_BYTES_MAX: u64 = 64 * 1024;
/// First pause after a failure while there is no bundle at all; with one it is `policies.bundle.poll`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after failures, unless `policies.bundle.poll` is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest pause that a server can ask for with `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);
/// Added to the time of an attempt before `check_now` gives up.
const CHECK_GRACE: Duration = Duration::from_secs(15);

/// The bundle in use.
pub struct BundleInUse {
    pub tree: Arc<Tree>,
    mark: Mark,
    name: Option<String>,
    signed_by: Option<String>,
    archive: [u8; 32],
}

/// A bundle that was downloaded and not taken.
struct RefusedBundle {
    why: String,
    keys: [u8; 32],
}

/// Written by the follower's task alone.
#[derive(Default)]
struct DownloadProgress {
    /// The server's word for what it sent last: an entity tag, or the digest of a registry's manifest.
    version: Option<String>,
    /// `version` was refused.
    refused: Option<RefusedBundle>,
    /// Unix seconds of the last answer that left no doubt about the bundle.
    confirmed_at: Option<f64>,
    last_error: Option<String>,
    /// The taken bundle is not on disk yet.
    unsaved: Option<Vec<u8>>,
}

/// Wakes the reloader's two threads.
struct Wakers {
    reload: Sender<()>,
    emergency: SyncSender<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    begun: u64,
    finished: u64,
}

enum FollowedSource {
    Http(HttpSource),
    Oci(OciSource),
}

pub struct BundleFollower {
    config: config::Bundle,
    source: FollowedSource,
    kept: Kept,
    taken: ArcSwapOption<BundleInUse>,
    /// The last bundle that every portal accepted, from before the start; the first load takes it.
    good: Mutex<Option<Tree>>,
    /// The order of bundles; outlives `taken`, whose file may be unusable after a restart.
    mark: Mutex<Option<Mark>>,
    progress: Mutex<DownloadProgress>,
    attempts: watch::Sender<Attempts>,
    check_requested: Notify,
    wakers: Mutex<Option<Wakers>>,
    metrics: BundleMetrics,
}

/// The bundle, as `/status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct BundleStatus {
    pub source: String,
    pub sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hash of the policy tree, as `cedargate bundle inspect` shows it.
    pub tree: Option<String>,
    pub signed_by: Option<String>,
    /// Unix seconds of the last answer that left no doubt about the bundle.
    pub confirmed_at: Option<f64>,
    pub last_error: Option<String>,
}

/// The result of one attempt; the label of `bundle_refresh_total{result}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FetchOutcome {
    Unchanged,
    Updated,
    Refused,
    Error,
}

/// One attempt, for the pause after it.
struct Attempt {
    outcome: FetchOutcome,
    retry_after: Option<Duration>,
}

impl BundleFollower {
    /// Reads the kept bundles; asks no server yet.
    ///
    /// # Errors
    /// A text that names the key whose file cannot be used.
    pub fn open(config: &config::Bundle, metrics: BundleMetrics) -> Result<Arc<Self>, String> {
        let client = download::client(&config.egress)?;
        let source = match &config.source {
            BundleSource::Http(url) => FollowedSource::Http(HttpSource::new(url.clone(), client, config)),
            BundleSource::Oci(reference) => FollowedSource::Oci(OciSource::new(reference.clone(), client, config)),
        };
        let follower = Self {
            source,
            kept: Kept::new(&config.state_dir),
            taken: ArcSwapOption::empty(),
            good: Mutex::default(),
            mark: Mutex::default(),
            progress: Mutex::default(),
            attempts: watch::Sender::default(),
            check_requested: Notify::new(),
            wakers: Mutex::default(),
            metrics,
            config: config.clone(),
        };
        follower.restore();
        Ok(Arc::new(follower))
    }

    /// Takes the bundle from before the restart, if it is still trusted.
    fn restore(&self) {
        let state = match self.kept.state() {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(error, "the last bundle's sequence number could not be read");
                None
            }
        };
        *self.mark.lock() = state.as_ref().map(kept::KeptState::mark);
        let latest = self.restored(self.kept.latest());
        if let Some(bytes) = latest {
            match self.check(&bytes) {
                Ok(taken) => {
                    let version = state
                        .filter(|state| state.describes(&bytes, &self.shown()))
                        .and_then(|state| state.version);
                    self.progress.lock().version = version;
                    tracing::info!(sequence = taken.mark.sequence, "the last bundle is restored");
                    *self.mark.lock() = Some(taken.mark.clone());
                    self.publish(taken);
                }
                Err(why) => tracing::warn!(why, "the last bundle cannot be used any more"),
            }
        }
        if let Some(bytes) = self.restored(self.kept.good())
            && let Ok(bundle) = self.read(&bytes)
            && self
                .taken
                .load()
                .as_ref()
                .is_none_or(|taken| taken.mark.tree != bundle.manifest.tree)
        {
            *self.good.lock() = Some(bundle.tree());
        }
    }

    fn restored(&self, read: Result<Option<Vec<u8>>, String>) -> Option<Vec<u8>> {
        read.unwrap_or_else(|error| {
            tracing::warn!(error, folder = %self.config.state_dir.display(), "a kept bundle could not be read");
            None
        })
    }

    /// The threads to wake for a new bundle.
    pub fn set_wakers(&self, reload: Sender<()>, emergency: SyncSender<()>) {
        *self.wakers.lock() = Some(Wakers { reload, emergency });
    }

    /// The tree in use; `None` before the first bundle.
    pub fn tree(&self) -> Option<Arc<Tree>> {
        self.taken.load().as_ref().map(|taken| Arc::clone(&taken.tree))
    }

    /// The tree of the last bundle before the start that every portal accepted, if it is not the one in use. Once.
    pub fn take_good(&self) -> Option<Tree> {
        self.good.lock().take()
    }

    /// Keeps the bundle in use for a restart: every portal accepted its tree.
    pub fn confirm(&self, tree: &Tree) {
        let taken = self.taken.load_full().filter(|taken| *taken.tree == *tree);
        if let Some(taken) = taken
            && let Err(error) = self.kept.confirm(&taken.archive)
        {
            tracing::warn!(error, "the bundle could not be kept as the last good one");
        }
    }

    pub fn status(&self) -> BundleStatus {
        let taken = self.taken.load();
        let progress = self.progress.lock();
        let taken = taken.as_ref();
        BundleStatus {
            source: self.shown(),
            sequence: taken.map(|taken| taken.mark.sequence),
            name: taken.and_then(|taken| taken.name.clone()),
            tree: taken.map(|taken| taken.mark.tree.clone()),
            signed_by: taken.and_then(|taken| taken.signed_by.clone()),
            confirmed_at: progress.confirmed_at,
            last_error: progress.last_error.clone(),
        }
    }

    /// The source without its query, which may hold a token.
    fn shown(&self) -> String {
        match &self.source {
            FollowedSource::Http(source) => source.shown(),
            FollowedSource::Oci(source) => source.shown(),
        }
    }

    /// Asks the server now and returns when an attempt that began after the call is over. False if that takes too long.
    pub async fn check_now(&self) -> bool {
        let mut attempts = self.attempts.subscribe();
        let wanted = attempts.borrow_and_update().begun + 1;
        self.check_requested.notify_one();
        let done = attempts.wait_for(|attempts| attempts.finished >= wanted);
        let longest = self.config.timeout.saturating_mul(2).saturating_add(CHECK_GRACE);
        matches!(tokio::time::timeout(longest, done).await, Ok(Ok(_)))
    }

    /// Follows until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            self.attempts.send_modify(|attempts| attempts.begun += 1);
            let attempt = tokio::select! {
                () = stop.cancelled() => return,
                attempt = self.attempt() => attempt,
            };
            self.metrics.refresh.with_label_values(&[attempt.outcome.as_str()]).inc();
            failures = match attempt.outcome {
                FetchOutcome::Unchanged | FetchOutcome::Updated => 0,
                // the next attempt costs a 304
                FetchOutcome::Refused if self.progress.lock().version.is_some() => 0,
                FetchOutcome::Refused | FetchOutcome::Error => failures.saturating_add(1),
            };
            self.attempts.send_modify(|attempts| attempts.finished = attempts.begun);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.pause(failures, attempt.retry_after)) => {}
                () = self.check_requested.notified() => {}
            }
        }
    }

    async fn attempt(self: &Arc<Self>) -> Attempt {
        let known = self.known_version();
        let fetched = tokio::time::timeout(self.config.timeout, self.fetch(known.as_deref()));
        let fetched = fetched.await.unwrap_or_else(|_elapsed| {
            Err(Failure::new(format!(
                "`{}` did not answer in time (policies.bundle.timeout)",
                self.shown()
            )))
        });
        match fetched {
            Ok(DownloadAnswer::Unchanged) => self.unchanged().await,
            Ok(DownloadAnswer::New(download)) => {
                let this = Arc::clone(self);
                let taken = tokio::task::spawn_blocking(move || this.take(download)).await;
                Attempt::new(taken.unwrap_or_else(|_panicked| {
                    self.note("reading the bundle ended in a panic; report this as a bug");
                    FetchOutcome::Refused
                }))
            }
            Err(failure) => {
                self.note(&failure.why);
                Attempt {
                    outcome: FetchOutcome::Error,
                    retry_after: failure.retry_after,
                }
            }
        }
    }

    async fn fetch(&self, known: Option<&str>) -> Result<DownloadAnswer, Failure> {
        match &self.source {
            FollowedSource::Http(source) => source.fetch(known).await,
            FollowedSource::Oci(source) => source.fetch(known).await,
        }
    }

    /// The version that need not be sent again. A refused one must be, if the keys changed since.
    fn known_version(&self) -> Option<String> {
        let progress = self.progress.lock();
        let keys = progress.refused.as_ref().map(|refused| refused.keys);
        if keys.is_some_and(|keys| keys != self.keys_hash()) {
            return None;
        }
        progress.version.clone()
    }

    async fn unchanged(self: &Arc<Self>) -> Attempt {
        let unsaved = self.progress.lock().unsaved.clone();
        if let Some(bytes) = unsaved {
            let this = Arc::clone(self);
            let _panicked = tokio::task::spawn_blocking(move || this.save(bytes)).await.is_err();
        }
        let refused = self.progress.lock().refused.as_ref().map(|refused| refused.why.clone());
        if let Some(why) = refused {
            self.note_refused(&why);
            return Attempt::new(FetchOutcome::Refused);
        }
        self.confirmed(&mut self.progress.lock());
        Attempt::new(FetchOutcome::Unchanged)
    }

    fn confirmed(&self, progress: &mut DownloadProgress) {
        let now = clock::unix_seconds_f64();
        if progress.last_error.take().is_some() {
            tracing::info!(source = self.shown(), "the policy bundle is followed again");
        }
        progress.confirmed_at = Some(now);
        self.metrics.last_success.set(now);
    }

    /// Takes a download, or refuses it. Blocks.
    fn take(&self, download: Download) -> FetchOutcome {
        let keys = self.keys_hash();
        match self.check(&download.bytes) {
            Err(why) => {
                self.note_refused(&why);
                let mut progress = self.progress.lock();
                progress.version = download.version;
                progress.refused = Some(RefusedBundle { why, keys });
                FetchOutcome::Refused
            }
            Ok(taken) => {
                let before = self.taken.load_full();
                let is_same_tree = before.as_ref().is_some_and(|before| before.mark.tree == taken.mark.tree);
                let is_same_file = before.as_ref().is_some_and(|before| before.archive == taken.archive);
                {
                    let mut progress = self.progress.lock();
                    progress.version = download.version;
                    progress.refused = None;
                    self.confirmed(&mut progress);
                }
                if is_same_file {
                    return FetchOutcome::Unchanged;
                }
                if !is_same_tree {
                    tracing::info!(
                        sequence = taken.mark.sequence,
                        tree = taken.mark.tree,
                        signed_by = taken.signed_by,
                        "a policy bundle is taken"
                    );
                }
                *self.mark.lock() = Some(taken.mark.clone());
                // before the swap: a gate that restarts must not have served what it does not remember
                self.save(download.bytes);
                self.publish(taken);
                FetchOutcome::Updated
            }
        }
    }

    /// A disk that fails must not hold an emergency forbid back: the bundle is used, and saved at the next attempt.
    fn save(&self, bytes: Vec<u8>) {
        let version = self.progress.lock().version.clone();
        let mark = self.mark.lock().clone();
        let Some(mark) = mark else { return };
        let saved = self
            .kept
            .save(&bytes, &kept::KeptState::new(&mark, &bytes, version, self.shown()));
        let mut progress = self.progress.lock();
        progress.unsaved = saved.err().map(|error| {
            tracing::error!(
                error,
                "the bundle could not be saved; a restart would forget its sequence number"
            );
            bytes
        });
    }

    fn publish(&self, taken: BundleInUse) {
        self.metrics
            .sequence
            .set(i64::try_from(taken.mark.sequence).unwrap_or(i64::MAX));
        self.taken.store(Some(Arc::new(taken)));
        if let Some(wakers) = &*self.wakers.lock() {
            // fail only after the threads ended, or if a message waits
            let _waits_or_ended = wakers.emergency.try_send(()).is_err();
            let _ended = wakers.reload.send(()).is_err();
        }
    }

    /// Every check between a download and its use.
    fn check(&self, bytes: &[u8]) -> Result<BundleInUse, String> {
        let bundle = self.read(bytes)?;
        let manifest = &bundle.manifest;
        if self.config.name.is_some() && manifest.name != self.config.name {
            let wanted = self.config.name.as_deref().unwrap_or_default();
            let found = manifest.name.as_deref().unwrap_or("absent");
            return Err(format!("its name is `{found}`, and policies.bundle.name is `{wanted}`"));
        }
        if manifest.sequence < self.config.sequence_min {
            return Err(format!(
                "its sequence number {} is lower than {} (policies.bundle.sequence_min)",
                manifest.sequence, self.config.sequence_min
            ));
        }
        let mark = Mark {
            sequence: manifest.sequence,
            tree: manifest.tree.clone(),
        };
        check_order(self.mark.lock().as_ref(), &mark, self.config.rollback)?;
        Ok(BundleInUse {
            tree: Arc::new(bundle.tree()),
            mark,
            name: manifest.name.clone(),
            signed_by: bundle.signed_by,
            archive: sha256(bytes),
        })
    }

    fn read(&self, bytes: &[u8]) -> Result<Bundle, String> {
        let keys;
        let trust = match &self.config.keys {
            BundleKeys::DangerUnsigned => Trust::DangerUnsigned,
            BundleKeys::Files(files) => {
                keys = read_keys(files)?;
                Trust::Keys(&keys)
            }
        };
        Bundle::read(bytes, trust).map_err(|error| error.to_string())
    }

    /// Changes when a key file does.
    fn keys_hash(&self) -> [u8; 32] {
        let files = match &self.config.keys {
            BundleKeys::DangerUnsigned => return [0; 32],
            BundleKeys::Files(files) => files,
        };
        let contents = files.iter().map(|file| {
            read_small(file, KEY_BYTES_MAX)
                .map(|bytes| sha256(&bytes))
                .unwrap_or_default()
        });
        sha256(&contents.flatten().collect::<Vec<u8>>())
    }

    fn note_refused(&self, why: &str) {
        self.note(&format!("the bundle is refused: {why}"));
    }

    /// Remembers a failure, and logs it if it is not the one before.
    fn note(&self, why: &str) {
        let mut progress = self.progress.lock();
        if progress.last_error.as_deref() == Some(why) {
            return;
        }
        progress.last_error = Some(why.to_owned());
        let state = if self.taken.load().is_some() {
            "the last bundle stays in use"
        } else {
            "there is no bundle yet, so every request is denied"
        };
        tracing::error!(source = self.shown(), why, "policy bundle not refreshed; {state}");
    }

    fn pause(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        let poll = self.config.poll;
        let random = random();
        if failures == 0 {
            return poll.mul_f64(0.9 + random * 0.2);
        }
        let base = if self.taken.load().is_some() {
            poll
        } else {
            FIRST_PAUSE.min(poll)
        };
        let doubled = base.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = doubled.min(BACKOFF_MAX.max(poll)).mul_f64(0.5 + random * 0.5);
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        pause.max(asked.mul_f64(1.0 + random * 0.1))
    }
}

impl Attempt {
    fn new(outcome: FetchOutcome) -> Self {
        Self {
            outcome,
            retry_after: None,
        }
    }
}

impl FetchOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Updated => "updated",
            Self::Refused => "refused",
            Self::Error => "error",
        }
    }
}

/// The keys of all files. The error names the file.
pub fn read_keys(files: &[std::path::PathBuf]) -> Result<Vec<PublicKey>, String> {
    let mut keys = Vec::new();
    for path in files {
        let shown = path.display();
        let text = read_small(path, KEY_BYTES_MAX).map_err(|error| format!("cannot read `{shown}`: {error}"))?;
        keys.extend(public_keys(&text).map_err(|error| format!("`{shown}`: {error}"))?);
    }
    Ok(keys)
}

/// A number from 0 to 1, so that gates do not ask at the same time; 0.5 without randomness.
fn random() -> f64 {
    let mut byte = [128];
    let filled = aws_lc_rs::rand::fill(&mut byte);
    debug_assert!(filled.is_ok(), "randomness");
    f64::from(u8::from_be_bytes(byte)) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::metrics::Metrics;

    #[test]
    fn the_pause_grows_with_failures_and_honours_the_server_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = format!(
            "upstream: {{ url: 'http://127.0.0.1:1' }}\npolicies: {{ state_dir: '{}', bundle: {{ url: 'https://f.test/b', keys: [k] }} }}",
            folder.path().display()
        );
        let config = config::Config::from_yaml(&yaml).unwrap();
        let follower = BundleFollower::open(config.bundle.as_ref().unwrap(), Metrics::new().unwrap().bundle).unwrap();
        let seconds = Duration::from_secs;
        let within = |pause: Duration, least: Duration, most: Duration| (least..=most).contains(&pause);
        for _ in 0..100 {
            assert!(within(follower.pause(0, None), seconds(27), seconds(33)), "polls are spread");
            assert!(
                within(follower.pause(1, None), seconds(1) / 2, seconds(1)),
                "without a bundle"
            );
            assert!(within(follower.pause(4, None), seconds(4), seconds(8)));
            assert!(within(follower.pause(60, None), BACKOFF_MAX / 2, BACKOFF_MAX));
            assert!(within(follower.pause(1, Some(seconds(60))), seconds(60), seconds(66)));
            let longest = RETRY_AFTER_MAX.mul_f64(1.1);
            assert!(within(follower.pause(1, Some(seconds(u64::MAX))), RETRY_AFTER_MAX, longest));
        }
    }
}
