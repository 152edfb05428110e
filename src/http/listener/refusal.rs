//! Turning a connection away that there is no place for, so that the client learns why.
//!
//! A socket closed with unread bytes takes the answer with it, so a few refused connections are lingered on; the rest
//! get the answer if it can be written at once. Neither ever holds up the accept loop.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::socket::Stream;

/// Refused connections of one worker that are lingered on at a time.
const LINGERING_MAX: usize = 64;
/// How long for, in all.
const LINGER_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of a refused request that are read away.
const LINGER_BYTES_MAX: usize = 64 * 1024;
/// How often the log says that connections are turned away.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    cache-control: no-store\r\n\
    content-length: 0\r\n\r\n";

/// One worker's refusals.
#[derive(Debug)]
pub(super) struct Refusals {
    lingering: Arc<Semaphore>,
    warned: Cell<Option<Instant>>,
}

impl Refusals {
    pub fn new() -> Self {
        Self {
            lingering: Arc::new(Semaphore::new(LINGERING_MAX)),
            warned: Cell::new(None),
        }
    }

    /// Answers in plain HTTP/1 and closes.
    pub fn answer(&self, stream: Stream, tracker: &TaskTracker) {
        match Arc::clone(&self.lingering).try_acquire_owned() {
            Ok(place) => drop(tracker.spawn_local(async move {
                let _late_or_gone = timeout(LINGER_PATIENCE, linger(stream)).await;
                drop(place);
            })),
            Err(_too_many) => stream.write_now(ANSWER),
        }
    }

    /// Whether it is time to say so again.
    pub fn warn(&self) -> bool {
        let now = Instant::now();
        let due = self.warned.get().is_none_or(|last| last + WARNING_INTERVAL <= now);
        if due {
            self.warned.set(Some(now));
        }
        due
    }
}

/// The request is waited for: an answer that comes before it is none for some clients.
async fn linger(mut stream: Stream) -> std::io::Result<()> {
    let mut sink = [0; 4096];
    let _said_something = timeout(LINGER_PATIENCE / 2, stream.read(&mut sink)).await;
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
