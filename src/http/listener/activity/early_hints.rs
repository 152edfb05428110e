//! Interim responses: `103 Early Hints`, and the `100 Continue` that asks whether a client is still there, sent for one
//! HTTP/1.1 request while it has no answer.
//!
//! `EarlyHints::send` leaves the head in `Activity`, and the stream writes it at its next flush: hyper flushes when
//! nothing of its own is half written. Best effort: a hint that comes too late, is too long, or meets a client that
//! does not read is dropped.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};

use super::{Activity, AnswerState, Protocol};

/// Longest `103 Early Hints` head; a longer one is not sent. Also the limit of all that wait together.
const HINT_BYTES_MAX: usize = 8 * 1024;

/// The bytes by which `probe` asks the client's kernel whether the client is still there.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Sends `103 Early Hints` for one HTTP/1.1 request, while it has no answer.
#[derive(Clone, Debug)]
pub struct EarlyHints {
    activity: Arc<Activity>,
    request: u64,
}

/// Informational heads that are still to be written, and their request.
#[derive(Debug)]
pub(super) struct PendingHint {
    pub request: u64,
    pub head: Vec<u8>,
}

impl Activity {
    /// Sends hints for the request that came last. `None` if the client takes none (HTTP/1.0, HTTP/2).
    pub fn early_hints(self: &Arc<Self>) -> Option<EarlyHints> {
        let state = self.state.lock();
        (self.protocol == Protocol::Http1 && state.takes_early_hints).then(|| EarlyHints {
            activity: Arc::clone(self),
            request: state.requests,
        })
    }

    /// Leaves a `100 Continue` for the stream's next flush, in the request that came last. The caller runs on the task
    /// that flushes.
    pub fn probe(&self) {
        let mut state = self.state.lock();
        let request = state.requests;
        if state.takes_early_hints && state.stuck_write.is_none() && state.early_hint.is_none() {
            let head = PROBE.to_vec();
            state.early_hint = Some(PendingHint { request, head });
        }
    }
}

impl EarlyHints {
    /// Not sent if the answer is decided, an earlier write is stuck, or too many hints wait already.
    pub fn send(&self, headers: &HeaderMap) {
        let mut state = self.activity.state.lock();
        let is_current = state.requests == self.request && state.answer_to(self.request) == AnswerState::Undecided;
        if !is_current || state.stuck_write.is_some() {
            return;
        }
        let Some(head) = informational_head(headers) else {
            return;
        };
        match &mut state.early_hint {
            Some(pending) if pending.request == self.request => {
                if pending.head.len() + head.len() <= HINT_BYTES_MAX {
                    pending.head.extend_from_slice(&head);
                }
            }
            pending => {
                *pending = Some(PendingHint {
                    request: self.request,
                    head,
                });
            }
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// `None` if it is too long.
fn informational_head(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut head = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
    for (name, value) in headers {
        // no field that a client could read as framing
        if ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(name) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
    head.extend_from_slice(b"\r\n");
    (head.len() <= HINT_BYTES_MAX).then_some(head)
}
