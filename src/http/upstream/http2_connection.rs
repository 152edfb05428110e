//! HTTP/2 to the app: a few connections per thread, each shared by many requests.
//!
//! A request takes an `Http2Stream`, which counts as open until its drop. The windows are chosen so that one client
//! that reads slowly cannot stall the other streams of its connection: all stream windows together fit the connection's
//! window. hyper pings a connection that is in use and silent for `PING_INTERVAL`, and ends it without an answer after
//! `PING_TIMEOUT`.
//!
//! A new connection becomes usable when the app's SETTINGS arrive, because a stream beyond the app's limit would be
//! refused and its request lost. `handshake` therefore waits for them; the connect deadline covers that wait.
//! Everything runs on the worker's own thread: the connection's task borrows the connection during a poll, the pool
//! borrows it between two polls.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::apps::App;
use super::transport::Transport;
use super::{FailureReason, RequestBody, UpstreamError};
use crate::config::UpstreamUrl;

/// Open streams per connection, if the app allows as many.
const STREAMS_MAX: usize = 100;
/// Streams allowed before the app's SETTINGS arrive.
const STREAMS_UNKNOWN: usize = 0;
/// Interval of the check for the app's SETTINGS on a new connection.
const SETTINGS_INTERVAL: Duration = Duration::from_millis(1);
/// Connections per upstream and thread. Beyond it requests wait for a stream, at most `upstream.response_timeout`.
pub(super) const CONNECTIONS_MAX: usize = 8;
/// Bytes that an app may send on one stream before the client has read any of them.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes on all streams together, so that a slow client takes no other stream's share. The streams' windows bound the
/// memory. This window also bounds how many small frames may wait: h2 counts each as up to 256 bytes against half of it
/// and ends the connection beyond. The factor leaves room for every stream full of frames of a dozen bytes.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * 100 * 48;
/// Streams that the gate may reset on one connection (their clients went away) before the pool stops using it. Apps
/// close a connection with many resets, and with it the requests of other clients.
const RESETS_MAX: u32 = 100;
/// Bytes of a request body buffered per stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
const FRAME_BYTES: u32 = 16 * 1024;
/// Silence on a connection in use before hyper sends a ping.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time for the app to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

type Io = TokioIo<Transport>;

/// Runs hyper's tasks on the worker's thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// One connection. The pool holds it; its streams count themselves in it.
#[derive(Debug)]
pub(super) struct Http2Connection {
    sender: SendRequest<RequestBody>,
    /// The connection's own task polls it and drops it at its end, which gives queued requests back. The pool borrows
    /// it between polls to read how many streams the app allows.
    connection: Rc<RefCell<DrivenConnection>>,
    open_streams: Cell<usize>,
    unused_since: Cell<Instant>,
    was_used: Cell<bool>,
    resets: Cell<u32>,
    made_at: Instant,
    /// True once a request was lost on it.
    lost_request: Cell<bool>,
}

/// `None` once the connection has ended.
type DrivenConnection = Option<Connection<Io, RequestBody, LocalExecutor>>;

/// One request's stream on a shared connection.
#[derive(Debug)]
pub(super) struct Http2Stream {
    pub sender: SendRequest<RequestBody>,
    /// True if an earlier request used the connection: it may have been dead before this request.
    pub reused: bool,
    connection: Rc<Http2Connection>,
    is_complete: bool,
}

impl Http2Connection {
    /// Sets HTTP/2 up on a new transport and waits for the app's SETTINGS.
    pub async fn handshake(app: &App, transport: Transport) -> Result<Rc<Self>, UpstreamError> {
        let header_bytes = u32::try_from(app.settings.response_header_bytes).unwrap_or(u32::MAX);
        let (sender, connection) = Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_header_list_size(header_bytes)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .initial_max_send_streams(STREAMS_UNKNOWN)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| UpstreamError::failed(FailureReason::Connect, error))?;
        let connection = Rc::new(RefCell::new(Some(connection)));
        // the task ends when the pool and every stream have dropped their senders, or the app closes
        tokio::task::spawn_local(drive(Rc::clone(&connection)));
        let shared = Rc::new(Self {
            sender,
            connection,
            open_streams: Cell::new(0),
            unused_since: Cell::new(Instant::now()),
            was_used: Cell::new(false),
            resets: Cell::new(0),
            made_at: Instant::now(),
            lost_request: Cell::new(false),
        });
        // with TLS 1.3 an app refuses the gate's certificate only after the handshake
        let closed_reason = if app.tls.is_some() {
            FailureReason::Tls
        } else {
            FailureReason::Connect
        };
        shared.wait_for_settings(closed_reason).await.map(|()| shared)
    }

    /// Returns when the app's SETTINGS have arrived: the app does speak HTTP/2, and its stream limit is known. The
    /// caller's connect deadline bounds the wait.
    async fn wait_for_settings(&self, closed_reason: FailureReason) -> Result<(), UpstreamError> {
        while self.streams_allowed() == STREAMS_UNKNOWN {
            if self.is_closed() {
                return Err(UpstreamError::failed(
                    closed_reason,
                    "the app ended a new connection before it sent HTTP/2 settings",
                ));
            }
            tokio::time::sleep(SETTINGS_INTERVAL).await;
        }
        Ok(())
    }

    fn streams_allowed(&self) -> usize {
        let connection = self.connection.borrow();
        connection
            .as_ref()
            .map_or(STREAMS_UNKNOWN, Connection::current_max_send_streams)
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// True if the pool must not open more streams, because a request was lost or the gate reset too many; open streams
    /// go on.
    pub fn is_retired(&self) -> bool {
        self.lost_request.get() || self.resets.get() >= RESETS_MAX
    }

    pub fn is_newer_than(&self, instant: Instant) -> bool {
        self.made_at > instant
    }

    pub fn open_streams(&self) -> usize {
        self.open_streams.get()
    }

    pub fn has_room(&self) -> bool {
        self.open_streams() < self.streams_allowed().clamp(1, STREAMS_MAX)
    }

    pub fn is_unused(&self, idle_timeout: Duration, now: Instant) -> bool {
        self.open_streams() == 0 && self.unused_since.get() + idle_timeout <= now
    }

    pub fn open_stream(self: &Rc<Self>) -> Http2Stream {
        self.open_streams.set(self.open_streams.get() + 1);
        Http2Stream {
            sender: self.sender.clone(),
            reused: self.was_used.replace(true),
            connection: Rc::clone(self),
            is_complete: false,
        }
    }
}

async fn drive(connection: Rc<RefCell<DrivenConnection>>) {
    let polled = poll_fn(|cx| match &mut *connection.borrow_mut() {
        Some(connection) => Pin::new(connection).poll(cx),
        None => Poll::Ready(Ok(())),
    });
    if let Err(error) = polled.await {
        tracing::debug!(%error, "HTTP/2 connection to the app ended");
    }
    drop(connection.take());
}

impl Http2Stream {
    /// Marks the answer as read to the end, so that the drop does not count as a reset.
    pub fn complete(mut self) {
        self.is_complete = true;
    }

    /// Takes the connection of a lost request out of use.
    pub fn retire_connection(self) {
        self.connection.lost_request.set(true);
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let connection = &self.connection;
        if !self.is_complete {
            connection.resets.set(connection.resets.get().saturating_add(1));
        }
        connection.open_streams.set(connection.open_streams.get().saturating_sub(1));
        connection.unused_since.set(Instant::now());
    }
}

/// Converts a request into HTTP/2's form: `:scheme` and `:authority` in place of `Host`.
pub(super) fn put_authority<B>(request: &mut Request<B>, url: &UpstreamUrl) -> Result<(), UpstreamError> {
    let host = request.headers_mut().remove(HOST);
    let authority = host.as_ref().map_or(b"localhost".as_slice(), HeaderValue::as_bytes);
    // `request` already refused every other host; if one came through, nothing is sent
    let authority = Authority::try_from(authority).map_err(|_invalid| UpstreamError::ClientBody)?;
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(match url {
        UpstreamUrl::Https(_) => Scheme::HTTPS,
        UpstreamUrl::Http(_) | UpstreamUrl::Unix(_) => Scheme::HTTP,
    });
    uri.authority = Some(authority);
    uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_invalid| UpstreamError::ClientBody)?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Converts a request that an HTTP/2 connection gave back into HTTP/1.1's form.
pub(super) fn put_host<B>(request: &mut Request<B>) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let uri = std::mem::take(request.uri_mut()).into_parts();
    let host = uri.authority.and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = uri.path_and_query.map(Uri::from).unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
}
