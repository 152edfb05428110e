//! Connections to the apps, one pool per worker: idle HTTP/1.1 connections, and shared HTTP/2 connections.
//!
//! A pool never leaves its thread, so it needs no lock; a borrow of it never spans an await. A request leases a
//! connection, and the lease decides its end: `give_back` after the answer was read to the end, the drop closes an
//! HTTP/1.1 connection or resets an HTTP/2 stream. The most recently used HTTP/1.1 connection and the first HTTP/2
//! connection with room come first, so surplus connections stay unused and `sweep` closes them.
//!
//! Requests that find no HTTP/2 connection with room race to make one. A semaphore with one permit serialises them: the
//! first connects, the rest wait, look again and take a stream of its connection. If it fails, the next waiter
//! connects; the wait counts against `upstream.connect_timeout`. Where the app chose HTTP/1.1, waiting has no use: a
//! waiter then gives the permit back and connects at once. Every new connection asks the circuit breaker first and
//! records its result there.
//!
//! A pooled connection may die while a request is on its way to it. `Exchange::send_with_retry` then sends some
//! requests once more, on a connection from `lease_fresh`: one that is younger than the loss, because an app that
//! restarts ends all of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::apps::App;
use super::client_headers::ClientHeaderCache;
use super::http1_connection::Http1Connection;
use super::http2_connection::{CONNECTIONS_MAX, Http2Connection, Http2Stream};
use super::transport::{HttpVersion, VersionOffer, dial};
use super::tunnel::Tunnels;
use super::{FailureReason, UpstreamError};
use crate::base::descriptors::Ceiling;
use crate::config::Protocol;

/// Idle HTTP/1.1 connections kept per upstream and thread; more are closed.
pub const IDLE_CONNECTIONS_MAX: usize = 256;

/// One worker's connections to the apps.
#[derive(Clone, Debug)]
pub struct Pool {
    apps: AppConnectionsMap,
    pub(super) tunnels: Tunnels,
    pub(super) client_headers: ClientHeaderCache,
    /// The descriptors that connections to apps may use.
    descriptors: Ceiling,
}

/// Keyed by `App::number`; as many entries as the configuration has apps.
type AppConnectionsMap = Rc<RefCell<FxHashMap<usize, AppConnections>>>;

/// One worker's connections to one app.
#[derive(Debug)]
struct AppConnections {
    idle: Vec<IdleConnection>,
    http2: Vec<Rc<Http2Connection>>,
    /// One permit: its holder makes the next HTTP/2 connection.
    connect_permit: Rc<Semaphore>,
    /// The version that the app chose last, where it can choose.
    chosen_version: Option<HttpVersion>,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct IdleConnection {
    connection: Http1Connection,
    expires_at: Instant,
}

/// An HTTP/1.1 connection, or a stream of an HTTP/2 connection, in use by one request.
#[derive(Debug)]
pub(super) enum Lease {
    Http1(Http1Lease),
    Http2(Http2Stream),
}

/// The requests that used a connection before.
#[derive(Clone, Copy, Eq, PartialEq)]
enum EarlierUse {
    None,
    Some,
}

/// An HTTP/1.1 connection in use; its drop closes the connection.
#[derive(Debug)]
pub(super) struct Http1Lease {
    pub connection: Http1Connection,
    /// True if an earlier request used the connection: it may have been dead before this request.
    pub reused: bool,
    apps: AppConnectionsMap,
    app_number: usize,
}

impl Pool {
    pub fn new(tunnels: Tunnels) -> Self {
        Self {
            apps: AppConnectionsMap::default(),
            tunnels,
            client_headers: ClientHeaderCache::default(),
            descriptors: Ceiling::NONE,
        }
    }

    pub fn with_descriptors(self, descriptors: Ceiling) -> Self {
        Self { descriptors, ..self }
    }

    /// Leases a pooled connection that is alive, else a new one.
    pub(super) async fn lease(&self, app: &App, offer: VersionOffer) -> Result<Lease, UpstreamError> {
        let is_http1 = match offer {
            VersionOffer::Http1 => true,
            VersionOffer::Http2 => false,
            VersionOffer::Either => self.chosen_version(app) == Some(HttpVersion::Http1),
        };
        if !is_http1 {
            return Box::pin(self.lease_stream(app, offer, None)).await;
        }
        match self.with_connections(app, AppConnections::take_newest_idle) {
            Some(connection) => Ok(Lease::Http1(self.http1_lease(app, connection, EarlierUse::Some))),
            // boxed: few requests need it, and a future has room for its largest branch
            None => Box::pin(self.connect(app, offer)).await,
        }
    }

    /// Leases a connection for a request whose first one was lost: a new one, or a stream of an HTTP/2 connection that
    /// was made since. No later request uses the lost connection.
    pub(super) async fn lease_fresh(&self, app: &App, offer: VersionOffer, lost: Lease) -> Result<Lease, UpstreamError> {
        match lost {
            Lease::Http1(_closes) => self.connect(app, offer).await,
            Lease::Http2(stream) => {
                stream.retire_connection();
                self.lease_stream(app, offer, Some(Instant::now())).await
            }
        }
    }

    /// Leases a new connection, even if a pooled one is free.
    async fn connect(&self, app: &App, offer: VersionOffer) -> Result<Lease, UpstreamError> {
        match connect(app, offer, self.descriptors).await? {
            NewConnection::Http1(connection) => {
                self.with_connections(app, |connections| connections.chosen_version = Some(HttpVersion::Http1));
                Ok(Lease::Http1(self.http1_lease(app, connection, EarlierUse::None)))
            }
            NewConnection::Http2(connection) => {
                let stream = connection.open_stream();
                self.with_connections(app, |connections| {
                    connections.chosen_version = Some(HttpVersion::Http2);
                    if connections.http2.len() < CONNECTIONS_MAX {
                        connections.http2.push(connection);
                    }
                });
                Ok(Lease::Http2(stream))
            }
        }
    }

    /// Leases a new HTTP/1.1 connection that may be upgraded.
    pub(super) async fn connect_for_upgrade(&self, app: &App) -> Result<Lease, UpstreamError> {
        let NewConnection::Http1(mut connection) = connect(app, VersionOffer::Http1, self.descriptors).await? else {
            return Err(UpstreamError::unavailable(FailureReason::Connect));
        };
        connection.drive_upgradeable();
        Ok(Lease::Http1(self.http1_lease(app, connection, EarlierUse::None)))
    }

    /// Closes connections that were unused for longer than the idle timeout. Each worker calls it once a second.
    pub fn sweep(&self) {
        let now = Instant::now();
        for connections in self.apps.borrow_mut().values_mut() {
            connections
                .idle
                .retain_mut(|idle| idle.expires_at > now && !idle.connection.is_closed());
            let idle_timeout = connections.idle_timeout;
            connections
                .http2
                .retain(|connection| !connection.is_closed() && !connection.is_unused(idle_timeout, now));
        }
    }

    /// Leases a stream of an HTTP/2 connection that exists or that another request is making, made after `newer_than`
    /// if that is given. The wait counts as connecting.
    async fn lease_stream(&self, app: &App, offer: VersionOffer, newer_than: Option<Instant>) -> Result<Lease, UpstreamError> {
        let open_stream = |connections: &mut AppConnections| connections.open_stream(newer_than);
        if let Some(stream) = self.with_connections(app, open_stream) {
            return Ok(Lease::Http2(stream));
        }
        let semaphore = self.with_connections(app, |connections| Rc::clone(&connections.connect_permit));
        let permit = timeout(app.settings.connect_timeout, semaphore.acquire())
            .await
            .map_err(|_elapsed| UpstreamError::unavailable(FailureReason::ConnectTimeout))?;
        if let Some(stream) = self.with_connections(app, open_stream) {
            return Ok(Lease::Http2(stream));
        }
        if offer == VersionOffer::Either && self.chosen_version(app) == Some(HttpVersion::Http1) {
            // an HTTP/1.1 connection serves one request, so the other waiters need not wait for it
            drop(permit);
        }
        self.connect(app, offer).await
    }

    fn chosen_version(&self, app: &App) -> Option<HttpVersion> {
        self.with_connections(app, |connections| connections.chosen_version)
    }

    /// Calls `use_connections` with the app's connections; the borrow ends before it returns.
    fn with_connections<T>(&self, app: &App, use_connections: impl FnOnce(&mut AppConnections) -> T) -> T {
        let mut apps = self.apps.borrow_mut();
        use_connections(apps.entry(app.number).or_insert_with(|| AppConnections {
            idle: Vec::new(),
            http2: Vec::new(),
            connect_permit: Rc::new(Semaphore::new(1)),
            chosen_version: None,
            idle_timeout: app.settings.idle_timeout,
        }))
    }

    fn http1_lease(&self, app: &App, connection: Http1Connection, earlier: EarlierUse) -> Http1Lease {
        Http1Lease {
            connection,
            reused: earlier == EarlierUse::Some,
            apps: Rc::clone(&self.apps),
            app_number: app.number,
        }
    }
}

impl AppConnections {
    /// Takes the most recently used idle HTTP/1.1 connection that is alive. The sweep closes those that are not.
    fn take_newest_idle(&mut self) -> Option<Http1Connection> {
        let now = Instant::now();
        // a connection that still finishes its last exchange stays for a later request
        let is_usable = |idle: &mut IdleConnection| idle.expires_at > now && idle.connection.is_ready();
        let newest = self.idle.iter_mut().rposition(is_usable)?;
        Some(self.idle.remove(newest).connection)
    }

    /// Opens a stream on the first connection with room. With `CONNECTIONS_MAX` full connections it opens one on the
    /// connection with the fewest streams, where the request waits for room. Connections that are not newer than
    /// `newer_than` do not count. `None`: the caller makes a new connection.
    fn open_stream(&mut self, newer_than: Option<Instant>) -> Option<Http2Stream> {
        self.http2
            .retain(|connection| !connection.is_closed() && !connection.is_retired());
        let is_new = |connection: &&Rc<Http2Connection>| newer_than.is_none_or(|loss| connection.is_newer_than(loss));
        let fresh = || self.http2.iter().filter(is_new);
        let least_loaded = fresh().min_by_key(|connection| connection.open_streams())?;
        // connections fill one after the other, so that surplus ones stay unused
        let with_room = fresh().find(|connection| connection.has_room());
        let chosen = match with_room {
            Some(connection) => connection,
            None if self.http2.len() >= CONNECTIONS_MAX => least_loaded,
            None => return None,
        };
        Some(chosen.open_stream())
    }
}

impl Lease {
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.reused,
            Self::Http2(stream) => stream.reused,
        }
    }

    /// True if nothing of an answer has come since the last request began, as far as the transport shows it. For HTTP/2
    /// the answer's own future shows it.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Http1(lease) => !lease.connection.watch.answer_has_begun(),
            Self::Http2(_) => true,
        }
    }

    /// Moves an HTTP/1.1 connection on; tasks of their own drive HTTP/2 connections.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Self::Http1(lease) = self {
            lease.connection.drive(cx);
        }
    }

    /// True if bytes of the request wait for the app to read; never for HTTP/2.
    pub fn write_waits(&self) -> bool {
        matches!(self, Self::Http1(lease) if lease.connection.watch.write_waits())
    }

    /// Lets a task drive an HTTP/1.1 connection: the app has not taken the whole request although its answer began.
    pub fn drive_in_task(&mut self) {
        if let Self::Http1(lease) = self {
            lease.connection.drive_in_task();
        }
    }

    /// Returns the connection or stream after its answer was read to the end.
    pub fn give_back(self) {
        match self {
            Self::Http1(lease) => lease.give_back(),
            Self::Http2(stream) => stream.complete(),
        }
    }
}

impl Http1Lease {
    fn give_back(self) {
        if self.connection.has_ended() {
            return;
        }
        if let Some(connections) = self.apps.borrow_mut().get_mut(&self.app_number)
            && connections.idle.len() < IDLE_CONNECTIONS_MAX
        {
            connections.idle.push(IdleConnection {
                connection: self.connection,
                expires_at: Instant::now() + connections.idle_timeout,
            });
        }
    }
}

enum NewConnection {
    Http1(Http1Connection),
    Http2(Rc<Http2Connection>),
}

/// Makes a connection if the circuit breaker permits one. The deadline covers name look-up, TCP, TLS and HTTP/2's
/// SETTINGS.
async fn connect(app: &App, offer: VersionOffer, descriptors: Ceiling) -> Result<NewConnection, UpstreamError> {
    let Some(attempt) = app.circuit.attempt() else {
        return Err(UpstreamError::unavailable(FailureReason::CircuitOpen));
    };
    // With `protocol: auto` and no TLS, the client's content type selected HTTP/2. An app that accepts TCP and does not
    // speak HTTP/2 is reachable, so a failure after `dial` must not count against it.
    let client_selected_http2 = app.settings.protocol == Protocol::Auto && offer == VersionOffer::Http2;
    let mut attempt = Some(attempt);
    let connecting = async {
        let dialed = dial(app, offer).await?;
        if let Some(attempt) = attempt.take_if(|_| client_selected_http2) {
            attempt.record_success();
        }
        if descriptors.is_reached_by(&dialed.transport) {
            // the app was reached: this says nothing against it
            if let Some(attempt) = attempt.take() {
                attempt.record_success();
            }
            return Err(UpstreamError::unavailable(FailureReason::Descriptors));
        }
        match dialed.version {
            HttpVersion::Http1 => Http1Connection::handshake(app, dialed.transport)
                .await
                .map(NewConnection::Http1),
            HttpVersion::Http2 => Http2Connection::handshake(app, dialed.transport)
                .await
                .map(NewConnection::Http2),
        }
    };
    let connected = match timeout(app.settings.connect_timeout, connecting).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(UpstreamError::unavailable(FailureReason::ConnectTimeout)),
    };
    match (attempt, &connected) {
        (Some(attempt), Ok(_)) => attempt.record_success(),
        (Some(attempt), Err(error)) => attempt.record_failure(&error.cause()),
        (None, _) => {}
    }
    connected
}
