//! A client that closed its sending side while its request is being answered.
//!
//! Two clients look alike: one that only has no more to send (`printf … | nc`) and waits for its answer, and one that
//! is gone. hyper would end the request at once for both. So the stream keeps the client's end from hyper until the
//! answer was sent, and asks the kernel of the client meanwhile: the kernel of a client that is gone resets the
//! connection when bytes come.
//!
//! - Before the answer, the gate sends `100 Continue` every `PROBE_INTERVAL` (an interim response that every HTTP/1.1
//!   client takes, RFC 9110, 15.2). The write after a reset fails, which ends the request.
//! - During the answer, its own bytes find out. An answer that is silent for `limits.half_close_timeout` ends: a stream
//!   without events would otherwise keep a client that left.
//! - An HTTP/1.0 client takes no interim response: `upstream.response_timeout` bounds its wait.
//!
//! A body or a head that the end cuts off is not kept from hyper: that request will never be complete.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::http::listener::activity::{Activity, AnswerProgress};

/// Time between two questions whether the client is still there. Most answers come earlier.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The wait for the answer to a client that sends no more.
#[derive(Debug)]
pub(super) struct HalfClose {
    timer: Pin<Box<Sleep>>,
    /// Bytes sent at the last look, and when they had come to that number.
    sent: u64,
    sent_at: Instant,
}

impl HalfClose {
    pub fn start() -> Self {
        Self {
            timer: Box::pin(sleep(PROBE_INTERVAL)),
            sent: 0,
            sent_at: Instant::now(),
        }
    }

    /// Ready when hyper may read the client's end: no request is open.
    ///
    /// # Errors
    /// The answer was silent for `silence_max`.
    pub fn poll_answered(&mut self, activity: &Activity, silence_max: Duration, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let progress = activity.wait_for_end(cx);
            if progress == AnswerProgress::Done {
                return Poll::Ready(Ok(()));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            self.timer.as_mut().reset(now + PROBE_INTERVAL.min(silence_max));
            match progress {
                AnswerProgress::Awaited => activity.probe(),
                AnswerProgress::Sending { written } if written == self.sent => {
                    if now.duration_since(self.sent_at) >= silence_max {
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    continue;
                }
                AnswerProgress::Sending { written } => self.sent = written,
                // `limits.send_timeout` runs
                AnswerProgress::Stuck | AnswerProgress::Done => {}
            }
            self.sent_at = now;
        }
    }
}
