//! Somebody wants the reloader to look now, and to know how it went.
//!
//! Written by the control door, read by the reloader: an ask is answered by the first look that began after it and found
//! every portal's files at rest. At most `ASKS_MAX` wait; an ask that nobody waits for any more costs nothing.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Outcome, Outcomes};
use crate::types::PortalSlug;

/// Asks that wait for a look.
const ASKS_MAX: usize = 16;
/// How long an ask waits for files that do not come to rest.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AskError {
    #[error("too many are waiting already")]
    TooMany,
    #[error("the reloader ended, or its look ended in a panic")]
    Ended,
    #[error("the files did not come to rest in time; what is served is unchanged")]
    Busy,
}

/// The asking end; cheap to clone.
#[derive(Clone)]
pub struct Asks {
    waiting: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    wake: Sender<()>,
    outcomes: Outcomes,
}

/// Whether anybody still waits or not.
pub(super) fn answer(ask: oneshot::Sender<()>) {
    let _given_up = ask.send(()).is_err();
}

impl Asks {
    pub(super) fn new(wake: Sender<()>, outcomes: Outcomes) -> Self {
        Self {
            waiting: Arc::default(),
            wake,
            outcomes,
        }
    }

    /// Every portal's outcome after a look that begins now.
    pub async fn look(&self) -> Result<BTreeMap<PortalSlug, Outcome>, AskError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            waiting.retain(|ask| !ask.is_closed());
            if waiting.len() >= ASKS_MAX {
                return Err(AskError::TooMany);
            }
            waiting.push(answer);
        }
        self.wake();
        match tokio::time::timeout(LOOK_TIMEOUT, answered).await {
            Ok(Ok(())) => Ok(self.outcomes.all()),
            Ok(Err(_dropped)) => Err(AskError::Ended),
            Err(_elapsed) => Err(AskError::Busy),
        }
    }

    /// The reloader looks up from its sleep.
    pub fn wake(&self) {
        // nobody sleeps any more after the end
        let _ended = self.wake.send(()).is_err();
    }

    /// What the next look answers.
    pub(super) fn take(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut *self.waiting())
    }

    /// For the look after next: somebody was still writing.
    pub(super) fn put_back(&self, asks: Vec<oneshot::Sender<()>>) {
        self.waiting().extend(asks);
    }

    // A list of senders has no state that a panic could leave half-written.
    fn waiting(&self) -> MutexGuard<'_, Vec<oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
