//! Reload requests: the control socket asks the reloader to read the policy files now, and waits for the outcome.
//!
//! The control socket adds a request, the reloader takes all of them before it reads. A request is answered by the
//! first reading that began after the request and found every portal's files settled; a reading that finds a portal
//! still being written puts its requests back. At most `REQUESTS_MAX` wait; the next one is refused. A request whose
//! caller went away is dropped when another one arrives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use cedargate_policy::types::PortalSlug;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::outcome::{Outcomes, ReloadOutcome};
use crate::bundle_follower::{BundleFollower, BundleStatus};

const REQUESTS_MAX: usize = 16;
/// Longest wait of a request for files that keep changing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A reload request got no outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReloadRequestError {
    #[error("too many reload requests are waiting already")]
    TooMany,
    #[error("the reloader ended, or loading ended in a panic")]
    Ended,
    #[error("the policy files kept changing, or the bundle's server did not answer; the revisions in force are unchanged")]
    Busy,
}

/// A request that waits; dropping it answers `Ended`.
#[derive(Debug)]
pub(super) struct ReloadRequest(oneshot::Sender<()>);

/// The requesting end; cheap to clone.
#[derive(Clone)]
pub struct ReloadRequests {
    waiting: Arc<Mutex<Vec<ReloadRequest>>>,
    wake: Sender<()>,
    outcomes: Outcomes,
    /// Asked for a new bundle before the reading.
    bundle: Option<Arc<BundleFollower>>,
}

impl ReloadRequest {
    /// Tells the caller that its reading is done.
    pub fn answer(self) {
        let _caller_went_away = self.0.send(()).is_err();
    }
}

impl ReloadRequests {
    pub(super) fn new(wake: Sender<()>, outcomes: Outcomes, bundle: Option<Arc<BundleFollower>>) -> Self {
        Self {
            waiting: Arc::default(),
            wake,
            outcomes,
            bundle,
        }
    }

    /// Every portal's outcome after a reading that begins now. With a bundle the gate asks its server first; a failure
    /// of that is in the bundle's status.
    pub async fn reload(&self) -> Result<BTreeMap<PortalSlug, ReloadOutcome>, ReloadRequestError> {
        if let Some(bundle) = &self.bundle
            && !bundle.check_now().await
        {
            return Err(ReloadRequestError::Busy);
        }
        let (answer, answered) = oneshot::channel();
        self.add(ReloadRequest(answer))?;
        self.wake();
        match tokio::time::timeout(REQUEST_TIMEOUT, answered).await {
            Ok(Ok(())) => Ok(self.outcomes.all()),
            Ok(Err(_dropped)) => Err(ReloadRequestError::Ended),
            Err(_elapsed) => Err(ReloadRequestError::Busy),
        }
    }

    /// The bundle; `None` with folders.
    pub fn bundle(&self) -> Option<BundleStatus> {
        self.bundle.as_ref().map(|bundle| bundle.status())
    }

    fn add(&self, request: ReloadRequest) -> Result<(), ReloadRequestError> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|request| !request.0.is_closed());
        if waiting.len() >= REQUESTS_MAX {
            return Err(ReloadRequestError::TooMany);
        }
        waiting.push(request);
        Ok(())
    }

    /// Wakes the reloader from its wait for events.
    pub fn wake(&self) {
        // fails only after the reloader ended
        let _ended = self.wake.send(()).is_err();
    }

    /// Takes the requests that the next reading answers.
    pub(super) fn take(&self) -> Vec<ReloadRequest> {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// Keeps requests for a later reading: a portal's files were still being written.
    pub(super) fn put_back(&self, requests: Vec<ReloadRequest>) {
        self.waiting.lock().extend(requests);
    }
}
