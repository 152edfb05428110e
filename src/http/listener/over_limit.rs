//! The 503 for a connection over the limit, so that the client learns why it is closed.
//!
//! Closing a socket with unread bytes sends a reset, which destroys the answer on its way. So a task per connection, for
//! up to `LINGERING_MAX` connections of a worker, reads the request and closes only then. Further connections get the
//! answer if the kernel takes it at once. Neither ever holds up the accept loop.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::socket::Stream;

/// Connections of one worker that linger at a time.
const LINGERING_MAX: usize = 64;
/// Longest time that one of them lingers.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of its request that are read and dropped.
const LINGER_BYTES_MAX: usize = 64 * 1024;
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
    warned_at: Cell<Option<Instant>>,
}

impl OverLimitAnswers {
    pub fn new() -> Self {
        Self {
            lingering: Arc::new(Semaphore::new(LINGERING_MAX)),
            warned_at: Cell::new(None),
        }
    }

    /// Answers in plain HTTP/1 and closes.
    pub fn send(&self, stream: Stream, tracker: &TaskTracker) {
        match Arc::clone(&self.lingering).try_acquire_owned() {
            Ok(permit) => drop(tracker.spawn_local(async move {
                let _late_or_closed = timeout(LINGER_TIMEOUT, linger(stream)).await;
                drop(permit);
            })),
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
async fn linger(mut stream: Stream) -> std::io::Result<()> {
    let mut sink = [0; 4096];
    let _request_or_late = timeout(LINGER_TIMEOUT / 2, stream.read(&mut sink)).await;
    stream.write_all(ANSWER).await?;
    stream.shutdown().await?;
    let mut read = 0;
    while read < LINGER_BYTES_MAX {
        match stream.read(&mut sink).await? {
            0 => break,
            length => read += length,
        }
    }
    Ok(())
}
