//! HTTP/2 to the app: a few connections per thread, each shared by many requests.
//!
//! Windows are chosen so that slow readers cannot stall the others: what all streams of a connection may hold together
//! fits its window. A connection that says nothing for a while although it is in use is asked with a ping, and given
//! up without an answer. Everything runs on the worker's own thread.

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

use super::app::App;
use super::transport::Transport;
use super::{Failure, RequestBody, UpstreamError};
use crate::config::UpstreamUrl;

/// Requests on one connection, if the app allows as many.
const STREAMS_MAX: usize = 100;
/// What is allowed before the app has said how many: one more would be refused, and lost.
const STREAMS_UNKNOWN: usize = 0;
/// How often a new connection is asked whether the app has said it.
const SETTINGS_INTERVAL: Duration = Duration::from_millis(1);
/// Connections per upstream and thread; past it requests wait for a stream, at most `upstream.response_timeout`.
pub(super) const CONNECTIONS_MAX: usize = 8;
/// What an app may send on one stream before its reader has taken any of it.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// All streams together: no slow reader takes another's share. Memory is bounded by the streams' windows; this one also
/// bounds how many small frames may wait (h2 counts each as up to 256 bytes against half of it, and ends the connection
/// beyond), so it has room for every stream full of frames of a dozen bytes.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * 100 * 48;
/// Streams given up before their end (a client went away), after which a connection gets no new ones. Apps end a
/// connection with many, and with it the requests of clients who stayed.
const RESETS_MAX: u32 = 100;
/// Of a request's body, per stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
const FRAME_BYTES: u32 = 16 * 1024;
/// How long a connection in use may say nothing before it is asked, and then before it is given up.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

type Io = TokioIo<Transport>;

/// Runs hyper's tasks where the worker runs.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// One connection; the pool holds it, streams keep it counted.
#[derive(Debug)]
pub(super) struct Shared {
    sender: SendRequest<RequestBody>,
    /// Polled by its own task, which drops it when it ends: what still waits in it is given back then. Borrowed between
    /// polls to ask how many streams the app allows.
    connection: Rc<RefCell<Driven>>,
    open: Cell<usize>,
    unused_since: Cell<Instant>,
    used: Cell<bool>,
    resets: Cell<u32>,
}

/// `None` once it ended.
type Driven = Option<Connection<Io, RequestBody, Here>>;

/// One request's share of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub sender: SendRequest<RequestBody>,
    /// Whether an earlier request used the connection, so that its death says nothing about this one.
    pub reused: bool,
    shared: Rc<Shared>,
    ended: bool,
}

impl Shared {
    /// Returns when requests can be sent.
    pub async fn handshake(app: &App, transport: Transport) -> Result<Rc<Self>, UpstreamError> {
        let header_bytes = u32::try_from(app.settings.response_header_bytes).unwrap_or(u32::MAX);
        let (sender, connection) = Builder::new(Here)
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
            .map_err(|error| UpstreamError::failed(Failure::Connect, error))?;
        let connection = Rc::new(RefCell::new(Some(connection)));
        // ends by itself: when the pool and every stream let go, or the app closes
        tokio::task::spawn_local(drive(Rc::clone(&connection)));
        let shared = Rc::new(Self {
            sender,
            connection,
            open: Cell::new(0),
            unused_since: Cell::new(Instant::now()),
            used: Cell::new(false),
            resets: Cell::new(0),
        });
        // with TLS 1.3 an app that does not like the gate's certificate says so only after the handshake
        let over = if app.tls.is_some() { Failure::Tls } else { Failure::Connect };
        shared.settled(over).await.map(|()| shared)
    }

    /// Once the app's SETTINGS are here: it does speak HTTP/2, and how many streams it takes is known. The deadline is
    /// that of connecting.
    async fn settled(&self, over: Failure) -> Result<(), UpstreamError> {
        while self.allowed() == STREAMS_UNKNOWN {
            if self.is_closed() {
                return Err(UpstreamError::failed(
                    over,
                    "the app ended a new connection before it spoke HTTP/2",
                ));
            }
            tokio::time::sleep(SETTINGS_INTERVAL).await;
        }
        Ok(())
    }

    fn allowed(&self) -> usize {
        let connection = self.connection.borrow();
        connection
            .as_ref()
            .map_or(STREAMS_UNKNOWN, Connection::current_max_send_streams)
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// What is in use of it goes on.
    pub fn is_worn(&self) -> bool {
        self.resets.get() >= RESETS_MAX
    }

    /// Streams in use.
    pub fn load(&self) -> usize {
        self.open.get()
    }

    pub fn has_room(&self) -> bool {
        self.load() < self.allowed().clamp(1, STREAMS_MAX)
    }

    pub fn is_unused(&self, idle_timeout: Duration, now: Instant) -> bool {
        self.load() == 0 && self.unused_since.get() + idle_timeout <= now
    }

    pub fn stream(self: &Rc<Self>) -> Stream {
        self.open.set(self.open.get() + 1);
        Stream {
            sender: self.sender.clone(),
            reused: self.used.replace(true),
            shared: Rc::clone(self),
            ended: false,
        }
    }
}

async fn drive(connection: Rc<RefCell<Driven>>) {
    let polled = poll_fn(|cx| match &mut *connection.borrow_mut() {
        Some(connection) => Pin::new(connection).poll(cx),
        None => Poll::Ready(Ok(())),
    });
    if let Err(error) = polled.await {
        tracing::debug!(%error, "HTTP/2 connection to the app ended");
    }
    drop(connection.take());
}

impl Stream {
    /// The answer was read to its end.
    pub fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let shared = &self.shared;
        if !self.ended {
            shared.resets.set(shared.resets.get().saturating_add(1));
        }
        shared.open.set(shared.open.get().saturating_sub(1));
        shared.unused_since.set(Instant::now());
    }
}

/// Puts a request into HTTP/2's form: `:scheme` and `:authority` instead of `Host`.
pub(super) fn put_authority<B>(request: &mut Request<B>, url: &UpstreamUrl) -> Result<(), UpstreamError> {
    let host = request.headers_mut().remove(HOST);
    let authority = host.as_ref().map_or(b"localhost".as_slice(), HeaderValue::as_bytes);
    // the request's check let nothing else through; if it did, nothing is sent
    let authority = Authority::try_from(authority).map_err(|_odd| UpstreamError::ClientBody)?;
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(match url {
        UpstreamUrl::Https(_) => Scheme::HTTPS,
        UpstreamUrl::Http(_) | UpstreamUrl::Unix(_) => Scheme::HTTP,
    });
    uri.authority = Some(authority);
    uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_odd| UpstreamError::ClientBody)?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Back into HTTP/1.1's form, for a request that an HTTP/2 connection gave back.
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
