//! The 503 for a connection over the limit, so that the client learns why it is closed.
//!
//! The connection holds no slot, so this has limits of its own: a task per connection, for up to `LINGERING_MAX`
//! connections of a worker, answers and closes as `linger` does, within `LINGER_TIMEOUT`. Further connections get the
//! answer if the kernel takes it at once. Neither ever holds up the accept loop.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::connection_slots::LimitReached;
use super::linger::Linger;
use super::socket::Stream;

/// Connections of one worker that linger at a time.
const LINGERING_MAX: usize = 64;
/// Longest time that one of them lingers.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
/// Shortest time between two warnings in the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Answers the connections of one worker that are over the limit.
#[derive(Debug)]
pub(super) struct OverLimitAnswers {
    lingering: Arc<Semaphore>,
    linger: Linger,
    warned_at: Cell<Option<Instant>>,
}

impl OverLimitAnswers {
    pub fn new(linger: Linger) -> Self {
        Self {
            lingering: Arc::new(Semaphore::new(LINGERING_MAX)),
            linger,
            warned_at: Cell::new(None),
        }
    }

    /// Answers in plain HTTP/1 and closes.
    pub fn send(&self, stream: Stream, limit: &LimitReached, tracker: &TaskTracker) {
        match Arc::clone(&self.lingering).try_acquire_owned() {
            Ok(permit) => {
                let linger = self.linger;
                let text = answer(limit);
                drop(tracker.spawn_local(async move {
                    let _late_or_closed = timeout(LINGER_TIMEOUT, answer_and_linger(stream, text, linger)).await;
                    drop(permit);
                }));
            }
            Err(_too_many) => self.send_now(&stream, limit),
        }
    }

    /// The same for a connection that may not linger, because its descriptor is needed.
    pub fn send_now(&self, stream: &Stream, limit: &LimitReached) {
        stream.write_now(answer(limit).as_bytes());
    }

    /// True if a warning is due; then the next one is due after `WARNING_INTERVAL`.
    pub fn warning_is_due(&self) -> bool {
        let now = Instant::now();
        let due = self.warned_at.get().is_none_or(|last| last + WARNING_INTERVAL <= now);
        if due {
            self.warned_at.set(Some(now));
        }
        due
    }
}

/// The whole answer: a problem that names the limit.
fn answer(limit: &LimitReached) -> String {
    let body = serde_json::json!({
        "type": "urn:cedargate:denial:overloaded",
        "title": "too many connections",
        "status": 503,
        "code": "overloaded",
        "detail": format!("`{}` is reached", limit.0),
    })
    .to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncache-control: no-store\r\n\
         content-type: application/problem+json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Waits for the request first: some clients ignore an answer that comes before they have sent it.
async fn answer_and_linger(mut stream: Stream, text: String, linger: Linger) -> std::io::Result<()> {
    let _request_or_late = timeout(LINGER_TIMEOUT / 2, stream.read(&mut [0; 4096])).await;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let socket = stream.as_fd().try_clone_to_owned()?;
    drop(stream);
    linger.drain(socket).await
}
