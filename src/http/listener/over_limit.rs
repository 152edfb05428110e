//! The 503 for a connection over the limit, so that the client learns why it is closed.
//!
//! The connection holds no slot, so this has limits of its own: a task per connection, for up to `LINGERING_MAX` connections
//! of a worker, answers and closes as `linger` does, within `LINGER_TIMEOUT`. Further connections get the answer if the kernel
//! takes it at once. Neither ever holds up the accept loop.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::linger::Linger;
use super::socket::Stream;

/// Connections of one worker that linger at a time.
const LINGERING_MAX: usize = 64;
/// Longest time that one of them lingers.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
/// Shortest time between two warnings in the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    cache-control: no-store\r\n\
    content-length: 0\r\n\r\n";

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
    pub fn send(&self, stream: Stream, tracker: &TaskTracker) {
        match Arc::clone(&self.lingering).try_acquire_owned() {
            Ok(permit) => {
                let linger = self.linger;
                drop(tracker.spawn_local(async move {
                    let _late_or_closed = timeout(LINGER_TIMEOUT, answer(stream, linger)).await;
                    drop(permit);
                }));
            }
            Err(_too_many) => stream.write_now(ANSWER),
        }
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

/// Waits for the request first: some clients ignore an answer that comes before they have sent it.
async fn answer(mut stream: Stream, linger: Linger) -> std::io::Result<()> {
    let _request_or_late = timeout(LINGER_TIMEOUT / 2, stream.read(&mut [0; 4096])).await;
    stream.write_all(ANSWER).await?;
    stream.shutdown().await?;
    let socket = stream.as_fd().try_clone_to_owned()?;
    drop(stream);
    linger.drain(socket).await
}
