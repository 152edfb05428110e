//! Work on a decision after its answer is on its way: the portal's candidate set, and the nearest permit of a denial.
//!
//! A decision of a portal with a candidate keeps its facts. When the answer is made, the facts and the audit guard go
//! to the thread `shadow` through a bounded queue; the thread decides by the candidate, counts, and sends the record.
//! So no request waits for a candidate, and a candidate never decides. The budget (`policies.shadow_budget`) and a full
//! queue skip the candidate, which is counted; the record is sent without it.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use cedargate_policy::denial::Denial;
use cedargate_policy::engine::nearest_permit::NearestPermitKey;
use governor::clock::DefaultClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::ActivePortal;
use crate::audit::{AuditGuard, Shadow};
use crate::base::metrics::Metrics;
use crate::base::priority;
use crate::portals::{ActiveRevision, Portal};

/// Decisions that wait for the thread; each holds the facts of one request.
const QUEUE: usize = 1024;

/// Decides by the candidate: `None` if it allows.
type Decide = Box<dyn FnOnce(ActivePortal<'_>) -> Option<Denial> + Send>;

/// The sending end of the thread `shadow`.
pub struct Shadows {
    queue: SyncSender<DeferredRecord>,
    budget: RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
    metrics: Metrics,
}

/// A decision to repeat by the candidate.
pub struct ShadowQuery {
    portal: Arc<Portal>,
    candidate: Arc<ActiveRevision>,
    enforced: ShadowOutcome,
    decide: Decide,
}

/// A decision of one of the two sets; its name in metrics and records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ShadowOutcome {
    Allow,
    Deny,
}

/// A denial whose nearest permit is not known yet.
pub struct NearestPermitQuery {
    pub active: Arc<ActiveRevision>,
    pub key: NearestPermitKey,
}

/// The work that a decision leaves for the thread.
#[derive(Default)]
pub struct DeferredWork {
    pub shadow: Option<Box<ShadowQuery>>,
    pub nearest_permit: Option<Box<NearestPermitQuery>>,
}

struct DeferredRecord {
    afterwards: DeferredWork,
    guard: AuditGuard,
}

/// The thread `shadow` before it starts.
pub struct ShadowThread {
    queue: Receiver<DeferredRecord>,
    metrics: Metrics,
}

impl ShadowOutcome {
    const fn of(denial: Option<Denial>) -> Self {
        match denial {
            None => Self::Allow,
            Some(_) => Self::Deny,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl ShadowQuery {
    /// `enforced` is the denial of the revision in force.
    pub fn new(
        portal: &Arc<Portal>,
        candidate: Arc<ActiveRevision>,
        enforced: Option<Denial>,
        decide: impl FnOnce(ActivePortal<'_>) -> Option<Denial> + Send + 'static,
    ) -> Box<Self> {
        Box::new(Self {
            portal: Arc::clone(portal),
            candidate,
            enforced: ShadowOutcome::of(enforced),
            decide: Box::new(decide),
        })
    }
}

impl Shadows {
    /// `per_second`: decisions that candidates are evaluated for.
    pub fn with_thread(per_second: NonZeroU32, metrics: &Metrics) -> ShadowParts {
        let (sender, receiver) = sync_channel(QUEUE);
        ShadowParts {
            shadows: Self {
                queue: sender,
                budget: RateLimiter::direct(Quota::per_second(per_second)),
                metrics: metrics.clone(),
            },
            thread: ShadowThread {
                queue: receiver,
                metrics: metrics.clone(),
            },
        }
    }

    /// The portal's candidate, if there is one and the budget lets it be evaluated for this decision.
    pub fn candidate(&self, portal: &Portal) -> Option<Arc<ActiveRevision>> {
        let candidate = portal.shadow.load_full()?;
        if self.budget.check().is_err() {
            self.count(portal, "skipped");
            return None;
        }
        Some(candidate)
    }

    /// Sends the record, after the thread did the work that the decision left. A full queue sends it at once.
    pub fn finish(&self, afterwards: DeferredWork, guard: AuditGuard) {
        if afterwards.shadow.is_none() && afterwards.nearest_permit.is_none() {
            return;
        }
        let work = DeferredRecord { afterwards, guard };
        if let Err(TrySendError::Full(work) | TrySendError::Disconnected(work)) = self.queue.try_send(work)
            && let Some(query) = work.afterwards.shadow
        {
            self.count(&query.portal, "skipped");
        }
    }

    fn count(&self, portal: &Portal, result: &str) {
        self.metrics
            .shadow
            .decisions
            .with_label_values(&[&*portal.name, result])
            .inc();
    }
}

/// Both ends.
pub struct ShadowParts {
    pub shadows: Shadows,
    pub thread: ShadowThread,
}

impl ShadowThread {
    /// Ends when the gate is dropped and everything that was handed over is done.
    pub fn run(self) {
        priority::lower();
        while let Ok(work) = self.queue.recv() {
            let DeferredRecord { afterwards, mut guard } = work;
            if let Some(query) = afterwards.nearest_permit {
                let NearestPermitQuery { active, key } = *query;
                let found = catch_unwind(AssertUnwindSafe(|| active.revision.rules.engine.find_near(key)));
                guard.record.near = found.ok().flatten().map(|policy| Arc::clone(&policy.id));
            }
            if let Some(query) = afterwards.shadow {
                self.evaluate(*query, &mut guard);
            }
        }
    }

    /// Without a decision of the candidate the record goes out all the same.
    fn evaluate(&self, query: ShadowQuery, guard: &mut AuditGuard) {
        let ShadowQuery {
            portal,
            candidate,
            enforced,
            decide,
        } = query;
        let active_portal = ActivePortal {
            portal: &portal,
            active: &candidate,
        };
        let decided = catch_unwind(AssertUnwindSafe(|| decide(active_portal)));
        let result = match decided {
            Ok(denial) => {
                let shadow = ShadowOutcome::of(denial);
                guard.record.shadow = Some(Shadow {
                    revision: Arc::clone(&candidate.revision.id),
                    decision: shadow.as_str(),
                });
                if shadow != enforced {
                    let labels = [&*portal.name, enforced.as_str(), shadow.as_str()];
                    self.metrics.shadow.disagreements.with_label_values(&labels).inc();
                }
                "evaluated"
            }
            Err(_panic) => {
                self.metrics.panics.inc();
                "failed"
            }
        };
        self.metrics
            .shadow
            .decisions
            .with_label_values(&[&*portal.name, result])
            .inc();
    }
}
