//! Connections to the apps, one pool per worker thread: unused HTTP/1.1 ones, and shared HTTP/2 ones.
//!
//! No locks: a pool never leaves its thread. The HTTP/1.1 connection used last is used next, so that surplus ones age
//! and go; one returns only after its answer was read to the end, anything else closes it. Of several requests that
//! find no HTTP/2 connection, one makes it. Every new connection asks the app's circuit first and tells it how it went.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::app::App;
use super::client::Clients;
use super::http2::{CONNECTIONS_MAX, Shared, Stream};
use super::transport::{Offer, Speaks, Transport, dial};
use super::tunnel::Tunnels;
use super::{Failure, RequestBody, UpstreamError};
use crate::config::Protocol;

/// Unused HTTP/1.1 connections kept per upstream and thread.
pub const IDLE_CONNECTIONS_MAX: usize = 256;
/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8192;

/// What one worker holds towards the apps.
#[derive(Clone, Debug)]
pub struct Pool {
    slots: Slots,
    pub(super) tunnels: Tunnels,
    pub(super) clients: Clients,
}

/// By `App::number`; apps are as many as the configuration has.
type Slots = Rc<RefCell<FxHashMap<usize, Slot>>>;

#[derive(Debug)]
struct Slot {
    idle: Vec<Idle>,
    shared: Vec<Rc<Shared>>,
    /// One permit: who makes the next HTTP/2 connection.
    turn: Rc<Semaphore>,
    /// What the app chose last, where it can choose.
    speaks: Option<Speaks>,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    until: Instant,
}

/// A connection, or a stream of one, in use.
#[derive(Debug)]
pub(super) enum Lease {
    Http1(Exclusive),
    Http2(Stream),
}

/// An HTTP/1.1 connection in use; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Exclusive {
    pub sender: SendRequest<RequestBody>,
    /// Whether an earlier request used it, so that its death says nothing about this one.
    pub reused: bool,
    slots: Slots,
    number: usize,
}

impl Pool {
    pub fn new(tunnels: Tunnels) -> Self {
        Self {
            slots: Slots::default(),
            tunnels,
            clients: Clients::default(),
        }
    }

    /// A connection that is alive, else a new one.
    pub(super) async fn lease(&self, app: &App, offer: Offer) -> Result<Lease, UpstreamError> {
        let exclusive = match offer {
            Offer::Http1 => true,
            Offer::Http2 => false,
            Offer::Either => self.slot(app, |slot| slot.speaks) == Some(Speaks::Http1),
        };
        if !exclusive {
            return self.share(app, offer).await;
        }
        match self.slot(app, Slot::newest) {
            Some(sender) => Ok(Lease::Http1(self.exclusive(app, sender, true))),
            None => self.connect(app, offer).await,
        }
    }

    /// Always a new connection.
    pub(super) async fn connect(&self, app: &App, offer: Offer) -> Result<Lease, UpstreamError> {
        match reach(app, offer).await? {
            Reached::Http1(handshake) => {
                let (sender, connection) = *handshake;
                self.slot(app, |slot| slot.speaks = Some(Speaks::Http1));
                // Ends by itself: when its lease or pool entry is dropped, or the app closes.
                tokio::task::spawn_local(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "connection to the app ended");
                    }
                });
                Ok(Lease::Http1(self.exclusive(app, sender, false)))
            }
            Reached::Http2(shared) => {
                let stream = shared.stream();
                self.slot(app, |slot| {
                    slot.speaks = Some(Speaks::Http2);
                    if slot.shared.len() < CONNECTIONS_MAX {
                        slot.shared.push(shared);
                    }
                });
                Ok(Lease::Http2(stream))
            }
        }
    }

    /// A new HTTP/1.1 connection that may be upgraded.
    pub(super) async fn connect_for_upgrade(&self, app: &App) -> Result<Lease, UpstreamError> {
        let Reached::Http1(handshake) = reach(app, Offer::Http1).await? else {
            return Err(UpstreamError::unavailable(Failure::Connect));
        };
        let (sender, connection) = *handshake;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the app ended");
            }
        });
        Ok(Lease::Http1(self.exclusive(app, sender, false)))
    }

    /// Closes what has been unused for too long; workers call it once a second.
    pub fn sweep(&self) {
        let now = Instant::now();
        for slot in self.slots.borrow_mut().values_mut() {
            slot.idle.retain(|idle| idle.until > now && !idle.sender.is_closed());
            slot.shared
                .retain(|shared| !shared.is_closed() && !shared.is_unused(slot.idle_timeout, now));
        }
    }

    /// A stream of a connection that is there or that somebody is just making. Waiting for it counts as connecting.
    async fn share(&self, app: &App, offer: Offer) -> Result<Lease, UpstreamError> {
        if let Some(stream) = self.slot(app, Slot::stream) {
            return Ok(Lease::Http2(stream));
        }
        let turn = self.slot(app, |slot| Rc::clone(&slot.turn));
        let mine = timeout(app.settings.connect_timeout, turn.acquire())
            .await
            .map_err(|_elapsed| UpstreamError::unavailable(Failure::ConnectTimeout))?;
        if let Some(stream) = self.slot(app, Slot::stream) {
            return Ok(Lease::Http2(stream));
        }
        if offer == Offer::Either && self.slot(app, |slot| slot.speaks) == Some(Speaks::Http1) {
            // everybody has one to themselves: no need to wait for each other
            drop(mine);
        }
        self.connect(app, offer).await
    }

    fn slot<T>(&self, app: &App, look: impl FnOnce(&mut Slot) -> T) -> T {
        let mut slots = self.slots.borrow_mut();
        look(slots.entry(app.number).or_insert_with(|| Slot {
            idle: Vec::new(),
            shared: Vec::new(),
            turn: Rc::new(Semaphore::new(1)),
            speaks: None,
            idle_timeout: app.settings.idle_timeout,
        }))
    }

    fn exclusive(&self, app: &App, sender: SendRequest<RequestBody>, reused: bool) -> Exclusive {
        Exclusive {
            sender,
            reused,
            slots: Rc::clone(&self.slots),
            number: app.number,
        }
    }
}

impl Slot {
    /// The newest unused HTTP/1.1 connection that is alive.
    fn newest(&mut self) -> Option<SendRequest<RequestBody>> {
        let now = Instant::now();
        self.idle.retain(|idle| idle.until > now && !idle.sender.is_closed());
        // One that is still finishing its last exchange stays for later.
        let newest = self.idle.iter().rposition(|idle| idle.sender.is_ready())?;
        Some(self.idle.remove(newest).sender)
    }

    /// A stream where there is room. With every connection there may be, also where there is none: it waits.
    fn stream(&mut self) -> Option<Stream> {
        self.shared.retain(|shared| !shared.is_closed() && !shared.is_worn());
        let least = self.shared.iter().min_by_key(|shared| shared.load())?;
        // filled one after the other, so that surplus ones age and go
        let free = self.shared.iter().find(|shared| shared.has_room());
        let chosen = match free {
            Some(free) => free,
            None if self.shared.len() >= CONNECTIONS_MAX => least,
            None => return None,
        };
        Some(chosen.stream())
    }
}

impl Lease {
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Http1(exclusive) => exclusive.reused,
            Self::Http2(stream) => stream.reused,
        }
    }

    /// The answer was read to its end.
    pub fn give_back(self) {
        match self {
            Self::Http1(exclusive) => exclusive.give_back(),
            Self::Http2(stream) => stream.end(),
        }
    }
}

impl Exclusive {
    fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        if let Some(slot) = self.slots.borrow_mut().get_mut(&self.number)
            && slot.idle.len() < IDLE_CONNECTIONS_MAX
        {
            slot.idle.push(Idle {
                sender: self.sender,
                until: Instant::now() + slot.idle_timeout,
            });
        }
    }
}

enum Reached {
    Http1(Box<Handshake>),
    Http2(Rc<Shared>),
}

type Handshake = (SendRequest<RequestBody>, http1::Connection<TokioIo<Transport>, RequestBody>);

/// The deadline covers name lookup, TCP, TLS and what HTTP/2 says before the first request.
async fn reach(app: &App, offer: Offer) -> Result<Reached, UpstreamError> {
    let Some(attempt) = app.circuit.attempt() else {
        return Err(UpstreamError::unavailable(Failure::CircuitOpen));
    };
    // in plain text a caller's content type chose HTTP/2: that an app does not speak it says nothing of whether it is there
    let chosen = app.settings.protocol == Protocol::Auto && offer == Offer::Http2;
    let mut attempt = Some(attempt);
    let reaching = async {
        let (transport, speaks) = dial(app, offer).await?;
        if let Some(attempt) = attempt.take_if(|_| chosen) {
            attempt.succeeded();
        }
        match speaks {
            Speaks::Http1 => handshake(app, transport).await.map(Box::new).map(Reached::Http1),
            Speaks::Http2 => Shared::handshake(app, transport).await.map(Reached::Http2),
        }
    };
    let reached = match timeout(app.settings.connect_timeout, reaching).await {
        Ok(reached) => reached,
        Err(_elapsed) => Err(UpstreamError::unavailable(Failure::ConnectTimeout)),
    };
    match (attempt, &reached) {
        (Some(attempt), Ok(_)) => attempt.succeeded(),
        (Some(attempt), Err(error)) => attempt.failed(&error.cause()),
        (None, _) => {}
    }
    reached
}

/// Headers beyond hyper's hundred are an error, as a head beyond `upstream.response_header_bytes` is: raising the number
/// would cost every answer an allocation.
async fn handshake(app: &App, transport: Transport) -> Result<Handshake, UpstreamError> {
    let header_bytes = app.settings.response_header_bytes;
    http1::Builder::new()
        .max_buf_size(header_bytes.max(BUFFER_BYTES_MIN))
        .max_header_size(header_bytes)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| UpstreamError::failed(Failure::Connect, error))
}
