//! Permission snapshots: what `cedargate_policy::permissions` computes, remembered, and computed on a thread of its
//! own.
//!
//! Partial evaluation takes milliseconds to seconds, so no worker does it. A worker looks into the cache; if the answer
//! is not there, it asks the thread `permissions`, which computes one answer at a time. A full queue, and an answer
//! that takes longer than `TIMEOUT`, end in 503 `overloaded`. An answer holds for one revision: the key is the digest
//! of the caller's facts, and an entry of another revision is not used.

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::permissions::{Permissions, PermissionsQuery};
use cedargate_policy::principal::Principal;
use cedargate_policy::types::Identity;
use prometheus::IntCounterVec;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::base::answer_thread::{AnswerThread, AnswerThreadOptions, NoAnswer};
use crate::base::metrics::Metrics;
use crate::portals::{ActiveRevision, Portal};

/// Questions that wait for the thread; a further one is refused.
const QUEUE: usize = 1024;
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Answers that are remembered, in the unit of `AnswerWeight`: 32 MiB.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Expected size of an answer: the cache makes room for as many of them.
const ANSWER_BYTES: u64 = 4 * 1024;
/// Seconds after which a refused caller may ask again.
const RETRY_AFTER: u64 = 2;

/// The cache of answers, and the sending end of the thread `permissions`. Dropping it ends the thread.
pub struct PermissionSnapshots {
    thread: AnswerThread<Question, Result<Arc<Snapshot>, Refusal>>,
    known: Arc<Known>,
    counter: IntCounterVec,
}

/// Answers by the digest of the facts that they depend on.
type Known = Cache<[u8; 32], Arc<Snapshot>, AnswerWeight>;

/// The permissions of one caller under one revision.
pub struct Snapshot {
    revision: Arc<str>,
    pub permissions: Permissions,
}

/// A caller at a portal, under the revision in force.
#[derive(Clone)]
pub struct PortalCaller {
    pub portal: Arc<Portal>,
    pub active: Arc<ActiveRevision>,
    pub identity: Arc<Identity>,
    pub principal: Arc<Principal>,
}

struct Question {
    caller: PortalCaller,
    digest: [u8; 32],
}

/// Estimates the bytes of an answer: each cell is a name and an entry of a tree.
#[derive(Clone)]
struct AnswerWeight;

impl Weighter<[u8; 32], Arc<Snapshot>> for AnswerWeight {
    fn weight(&self, _: &[u8; 32], snapshot: &Arc<Snapshot>) -> u64 {
        let cells = snapshot.permissions.resource_types.values().flatten();
        512 + cells.map(|(action, _)| action.len() as u64 + 64).sum::<u64>()
    }
}

impl PortalCaller {
    pub fn query(&self) -> PermissionsQuery<'_> {
        PermissionsQuery {
            portal: &self.portal.scope,
            revision: &self.active.revision,
            identity: &self.identity,
            principal: &self.principal,
        }
    }
}

impl Snapshot {
    /// The text of a revision's id is a shortened hash, so it does not tell revisions apart.
    fn is_under(&self, active: &ActiveRevision) -> bool {
        Arc::ptr_eq(&self.revision, &active.revision.id)
    }
}

impl PermissionSnapshots {
    pub fn start(metrics: &Metrics) -> std::io::Result<Self> {
        let entries = usize::try_from(CACHE_BYTES / ANSWER_BYTES).unwrap_or(usize::MAX);
        let known = Arc::new(Cache::with_weighter(entries, CACHE_BYTES, AnswerWeight));
        let of_thread = Arc::clone(&known);
        let options = AnswerThreadOptions {
            name: "permissions",
            queue: QUEUE,
            patience: TIMEOUT,
            panics: metrics.panics.clone(),
        };
        Ok(Self {
            thread: AnswerThread::start(options, move |question| answer(&question, &of_thread))?,
            known,
            counter: metrics.permissions.snapshots.clone(),
        })
    }

    /// The caller's permissions; `digest` is that of its query.
    ///
    /// # Errors
    /// The caller's tenant is not the portal's, or the thread has no time.
    pub async fn of(&self, caller: PortalCaller, digest: [u8; 32]) -> Result<Arc<Snapshot>, Refusal> {
        let portal = Arc::clone(&caller.portal);
        if let Some(snapshot) = self.known.get(&digest).filter(|known| known.is_under(&caller.active)) {
            self.count(&portal, "remembered");
            return Ok(snapshot);
        }
        let answered = self.thread.ask(Question { caller, digest }).await;
        let is_busy = matches!(answered, Err(NoAnswer::Busy));
        self.count(&portal, if is_busy { "refused" } else { "computed" });
        answered.unwrap_or_else(|no_answer| {
            Err(match no_answer {
                NoAnswer::Busy => busy(),
                NoAnswer::Failed => Refusal::new(Denial::EvaluationError, "computing the permissions failed"),
            })
        })
    }

    /// Counts an answer; `result` is a word of `docs/metrics.md`.
    pub fn count(&self, portal: &Portal, result: &str) {
        self.counter.with_label_values(&[&*portal.name, result]).inc();
    }
}

fn busy() -> Refusal {
    Refusal {
        retry_after: Some(RETRY_AFTER),
        ..Refusal::new(Denial::Overloaded, "permissions of too many callers are asked at once")
    }
}

fn answer(Question { caller, digest }: &Question, known: &Known) -> Result<Arc<Snapshot>, Refusal> {
    if let Some(same) = known.get(digest).filter(|known| known.is_under(&caller.active)) {
        return Ok(same);
    }
    let snapshot = Arc::new(Snapshot {
        revision: Arc::clone(&caller.active.revision.id),
        permissions: Permissions::of(caller.query())?,
    });
    known.insert(*digest, Arc::clone(&snapshot));
    Ok(snapshot)
}
