//! Connections to the app that wait for their next request; one pool per worker thread.
//!
//! No locks: a pool never leaves its thread. The connection used last is used next, so that surplus ones age and go.
//! A connection returns only after its answer was read to the end; anything else closes it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Failure, RequestBody, UpstreamError};
use crate::config::{Upstream, UpstreamUrl};

/// Unused connections kept per upstream and thread.
pub const IDLE_CONNECTIONS_MAX: usize = 256;

#[derive(Clone, Debug, Default)]
pub struct Pool(Rc<RefCell<FxHashMap<UpstreamUrl, Vec<Idle>>>>);

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    until: Instant,
}

/// A connection in use; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Lease {
    pub sender: SendRequest<RequestBody>,
    /// Whether an earlier request used it, so that its death says nothing about this one.
    pub reused: bool,
    pool: Pool,
    url: UpstreamUrl,
    idle_timeout: Duration,
}

impl Pool {
    /// The newest idle connection that is alive, else a new one.
    pub(super) async fn lease(&self, upstream: &Upstream) -> Result<Lease, UpstreamError> {
        match self.idle(&upstream.url) {
            Some(sender) => Ok(self.leased(upstream, sender).reused()),
            None => self.connect(upstream).await,
        }
    }

    /// Always a new connection. The deadline covers name lookup, TCP and hyper's handshake.
    pub(super) async fn connect(&self, upstream: &Upstream) -> Result<Lease, UpstreamError> {
        let url = &upstream.url;
        let UpstreamUrl::Http(authority) = url else {
            return Err(UpstreamError::unavailable(Failure::Connect));
        };
        let stream = timeout(
            upstream.connect_timeout,
            TcpStream::connect((authority.host.as_str(), authority.port)),
        )
        .await
        .map_err(|_elapsed| UpstreamError::unavailable(Failure::ConnectTimeout))?
        .map_err(|error| UpstreamError::failed(Failure::Connect, error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| UpstreamError::failed(Failure::Connect, error))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| UpstreamError::failed(Failure::Connect, error))?;
        // Ends by itself: when its lease or pool entry is dropped, or the app closes.
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the app ended");
            }
        });
        Ok(self.leased(upstream, sender))
    }

    /// Closes what has been unused for too long; workers call it once a second.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| idle.until > now && !idle.sender.is_closed());
            !idle.is_empty()
        });
    }

    fn idle(&self, url: &UpstreamUrl) -> Option<SendRequest<RequestBody>> {
        let mut pool = self.0.borrow_mut();
        let list = pool.get_mut(url)?;
        let now = Instant::now();
        list.retain(|idle| idle.until > now && !idle.sender.is_closed());
        // One that is still finishing its last exchange stays for later.
        let newest = list.iter().rposition(|idle| idle.sender.is_ready())?;
        Some(list.remove(newest).sender)
    }

    fn leased(&self, upstream: &Upstream, sender: SendRequest<RequestBody>) -> Lease {
        Lease {
            sender,
            reused: false,
            pool: self.clone(),
            url: upstream.url.clone(),
            idle_timeout: upstream.idle_timeout,
        }
    }
}

impl Lease {
    fn reused(mut self) -> Self {
        self.reused = true;
        self
    }

    pub fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let idle = Idle {
            sender: self.sender,
            until: Instant::now() + self.idle_timeout,
        };
        let mut pool = self.pool.0.borrow_mut();
        let list = pool.entry(self.url).or_default();
        if list.len() < IDLE_CONNECTIONS_MAX {
            list.push(idle);
        }
    }
}
