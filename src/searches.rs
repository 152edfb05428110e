//! Searches of AuthZEN, on a thread of their own: what `cedargate_policy::search` finds, page by page.
//!
//! A page decides up to `WORK.decided` candidates and lets Cedar evaluate policies partially; it takes milliseconds, so
//! no worker does it. The thread `search` makes one page at a time. If it has no time, the question ends in 503
//! `overloaded`.

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::search::{FoundPage, PageRange, Search, SearchQuestion, WorkMax};

use crate::base::answer_thread::{AnswerThread, AnswerThreadOptions, NoAnswer};
use crate::base::clock::unix_millis;
use crate::base::metrics::Metrics;
use crate::portals::{ActiveRevision, Portal};

/// The most that one page does.
pub const WORK: WorkMax = WorkMax {
    decided: 1000,
    looked_at: 100_000,
    evaluated: 256,
};
/// Questions that wait for the thread; a further one is refused.
const QUEUE: usize = 64;
/// Longest wait for a page.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds after which a refused caller may ask again.
const RETRY_AFTER: u64 = 2;

/// The sending end of the thread `search`. Dropping it ends the thread.
pub struct Searches(AnswerThread<SearchJob, FoundPage>);

/// One page of a search at a portal, under the revision in force.
pub struct SearchJob {
    pub portal: Arc<Portal>,
    pub active: Arc<ActiveRevision>,
    pub question: SearchQuestion,
    pub range: PageRange,
}

impl Searches {
    pub fn start(metrics: &Metrics) -> std::io::Result<Self> {
        let options = AnswerThreadOptions {
            name: "search",
            queue: QUEUE,
            patience: TIMEOUT,
            panics: metrics.panics.clone(),
        };
        AnswerThread::start(options, |job: SearchJob| job.page()).map(Self)
    }

    /// # Errors
    /// The thread has no time, or the search failed.
    pub async fn page(&self, job: SearchJob) -> Result<FoundPage, Refusal> {
        let answered = self.0.ask(job).await;
        answered.map_err(|no_answer| match no_answer {
            NoAnswer::Busy => Refusal {
                retry_after: Some(RETRY_AFTER),
                ..Refusal::new(Denial::Overloaded, "too many searches are asked at once")
            },
            NoAnswer::Failed => Refusal::new(Denial::EvaluationError, "the search failed"),
        })
    }
}

impl SearchJob {
    fn page(&self) -> FoundPage {
        let search = Search {
            portal: &self.portal.scope,
            revision: &self.active.revision,
            now_millis: unix_millis(),
            question: &self.question,
            work: WORK,
        };
        search.page(&self.range)
    }
}
