//! Upgraded connections: bytes both ways between a client and the app, after the app agreed.
//!
//! Nothing in here knows what the bytes mean. A tunnel holds its client's place in `limits.connections`, ends after
//! `limits.tunnel_idle_timeout` of silence in both directions or when the shutdown is forced, and passes a half-close
//! on. Buffers are fixed: a side that does not read stops the side that writes.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::cut::Cut;
use crate::base::lifecycle::Shutdown;

/// Bytes on their way, per direction.
const BUFFER_BYTES: usize = 16 * 1024;
/// How long both ends may take to hand over their connection once the app said 101.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Every tunnel of one worker.
#[derive(Clone, Debug)]
pub struct Tunnels {
    tracker: TaskTracker,
    shutdown: Shutdown,
    idle_timeout: Duration,
}

impl Tunnels {
    pub fn new(shutdown: Shutdown, idle_timeout: Duration) -> Self {
        Self {
            tracker: TaskTracker::new(),
            shutdown,
            idle_timeout,
        }
    }

    /// Returns when every tunnel has ended: by itself, or by force.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Begins one; `place` lives as long as it does. Whoever cuts it closes both ends.
    pub(super) fn open(&self, client: OnUpgrade, app: OnUpgrade, (place, cut): (Rc<dyn Any>, Rc<Cut>)) {
        let (mut shutdown, idle_timeout) = (self.shutdown.clone(), self.idle_timeout);
        self.tracker.spawn_local(async move {
            let _place = place;
            tokio::select! {
                biased;
                () = shutdown.forced() => {}
                () = cut.wait() => tracing::debug!("a tunnel was cut"),
                () = run(client, app, idle_timeout) => {}
            }
        });
    }
}

async fn run(client: OnUpgrade, app: OnUpgrade, idle_timeout: Duration) {
    let Ok(Ok((client, app))) = timeout(HANDOVER_TIMEOUT, async { tokio::try_join!(client, app) }).await else {
        tracing::debug!("an upgraded connection was not handed over");
        return;
    };
    let moved = Rc::new(Cell::new(Instant::now()));
    let end = |io| End {
        io: TokioIo::new(io),
        moved: Rc::clone(&moved),
    };
    let (mut client, mut app) = (end(client), end(app));
    tokio::select! {
        outcome = copy_bidirectional_with_sizes(&mut client, &mut app, BUFFER_BYTES, BUFFER_BYTES) => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a tunnel broke");
            }
        }
        () = silence(&moved, idle_timeout) => tracing::debug!("a tunnel was silent for `limits.tunnel_idle_timeout`"),
    }
}

async fn silence(moved: &Cell<Instant>, timeout: Duration) {
    loop {
        let deadline = moved.get() + timeout;
        if deadline <= Instant::now() {
            return;
        }
        sleep_until(deadline).await;
    }
}

/// One side of a tunnel; notes when bytes last moved.
struct End {
    io: TokioIo<Upgraded>,
    moved: Rc<Cell<Instant>>,
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.moved.set(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.moved.set(Instant::now());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
