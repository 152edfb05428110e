//! Tunnels: bytes in both directions between a client and an app that agreed to an upgrade. The gate does not interpret
//! them.
//!
//! A tunnel begins after the app's 101 and runs as its own task, because the request that opened it ends with the
//! response. Both sides hand their connections over first; if one does not within `HANDOVER_TIMEOUT`, the tunnel ends.
//!
//! The first of four events ends a tunnel: the forced shutdown, the gate's cut signal, the end or an error of the copy,
//! or `limits.tunnel_idle_timeout` without a byte in either direction. A half-close passes through: the other direction
//! goes on. Every end drops both connections and gives the client's place in `limits.connections` back. Buffers have a
//! fixed size, so a side that does not read stops the side that writes.

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
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::cut_signal::CutSignal;
use crate::base::deadline::sleep_until;
use crate::base::lifecycle::Shutdown;

/// Bytes buffered per direction.
const BUFFER_BYTES: usize = 16 * 1024;
/// Longest time for both sides to hand over their connections after the app's 101.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The tunnels of one worker.
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

    /// Returns when every tunnel has ended, by itself or by the forced shutdown.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Starts a tunnel. It holds `connection_slot` until it ends; `cut` ends it from outside.
    pub(super) fn open(&self, client: OnUpgrade, app: OnUpgrade, connection_slot: Rc<dyn Any>, cut: Rc<CutSignal>) {
        let mut shutdown = self.shutdown.clone();
        let idle_timeout = self.idle_timeout;
        self.tracker.spawn_local(async move {
            let _connection_slot = connection_slot;
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
    let last_transfer = Rc::new(Cell::new(Instant::now()));
    let mut client = TunnelEnd::new(client, &last_transfer);
    let mut app = TunnelEnd::new(app, &last_transfer);
    tokio::select! {
        outcome = copy_bidirectional_with_sizes(&mut client, &mut app, BUFFER_BYTES, BUFFER_BYTES) => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a tunnel broke");
            }
        }
        () = wait_until_idle(&last_transfer, idle_timeout) => {
            tracing::debug!("a tunnel was idle for `limits.tunnel_idle_timeout`");
        }
    }
}

async fn wait_until_idle(last_transfer: &Cell<Instant>, timeout: Duration) {
    loop {
        let deadline = last_transfer.get() + timeout;
        if deadline <= Instant::now() {
            return;
        }
        sleep_until(deadline).await;
    }
}

/// One side of a tunnel; records the time of the last byte.
struct TunnelEnd {
    io: TokioIo<Upgraded>,
    last_transfer: Rc<Cell<Instant>>,
}

impl TunnelEnd {
    fn new(io: Upgraded, last_transfer: &Rc<Cell<Instant>>) -> Self {
        Self {
            io: TokioIo::new(io),
            last_transfer: Rc::clone(last_transfer),
        }
    }
}

impl AsyncRead for TunnelEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.last_transfer.set(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.last_transfer.set(Instant::now());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
