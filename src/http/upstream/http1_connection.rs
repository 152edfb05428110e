//! One HTTP/1.1 connection to the app, and who drives it.
//!
//! hyper's connection does nothing unless it is polled. The request that leased it polls it, in its own task: no other
//! task is woken between the client and the app, and each byte goes from one socket to the other in one poll. `drive`
//! polls it while the request waits for the answer, and while the client takes the answer's body.
//!
//! Two kinds of connection need a task of their own. One that is upgraded outlives its request. And an answer may begin
//! before the app has the whole request: a client that sends on, and does not read yet, would keep the request from
//! polling, so `drive_in_task` gives the connection a task from the answer's head on.
//!
//! An idle connection is polled when it is leased and by each sweep, which is when a close by the app is seen.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::apps::App;
use super::transport::{Transport, TransportWatch};
use super::{FailureReason, RequestBody, UpstreamError};

/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8192;

type Driven = Connection<TokioIo<Transport>, RequestBody>;

#[derive(Debug)]
pub(super) struct Http1Connection {
    pub sender: SendRequest<RequestBody>,
    pub watch: TransportWatch,
    driver: Driver,
}

/// Who polls hyper's connection.
#[derive(Debug)]
enum Driver {
    /// The request, the answer or the pool that holds this value. Its drop closes the connection.
    Holder(Box<Driven>),
    /// A task, which ends when `sender` is dropped or the app closes.
    Task,
    /// The connection has ended.
    Ended,
}

impl Http1Connection {
    /// Sets HTTP/1.1 up on a new transport.
    pub async fn handshake(app: &App, transport: Transport) -> Result<Self, UpstreamError> {
        let header_bytes = app.settings.response_header_bytes;
        let watch = transport.watch();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(header_bytes.max(BUFFER_BYTES_MIN))
            .max_header_size(header_bytes)
            .max_headers(app.settings.response_header_count)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| UpstreamError::failed(FailureReason::Connect, error))?;
        Ok(Self {
            sender,
            watch,
            driver: Driver::Holder(Box::new(connection)),
        })
    }

    /// Moves the connection on as far as its socket allows, and wakes this task when there is more to do. An end of the
    /// connection shows in the answer's future or in the answer's body.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Driver::Holder(connection) = &mut self.driver
            && let Poll::Ready(ended) = Pin::new(connection).poll(cx)
        {
            note_end(ended);
            self.driver = Driver::Ended;
        }
    }

    /// True if the connection can take a request. Polls an idle connection: the app may have closed it meanwhile.
    pub fn is_ready(&mut self) -> bool {
        self.poll_idle();
        self.sender.is_ready()
    }

    /// True if the connection can never take a request again. Polls an idle connection.
    pub fn is_closed(&mut self) -> bool {
        self.poll_idle();
        self.has_ended()
    }

    /// True if the connection is known to have ended; polls nothing.
    pub fn has_ended(&self) -> bool {
        matches!(self.driver, Driver::Ended) || self.sender.is_closed()
    }

    /// Lets a task drive the connection from now on.
    pub fn drive_in_task(&mut self) {
        self.spawn(|connection| async { note_end(connection.await) });
    }

    /// Lets a task drive a connection that the app may switch to another protocol.
    pub fn drive_upgradeable(&mut self) {
        self.spawn(|connection| async { note_end(connection.with_upgrades().await) });
    }

    fn spawn<F: Future<Output = ()> + 'static>(&mut self, task: impl FnOnce(Driven) -> F) {
        match std::mem::replace(&mut self.driver, Driver::Task) {
            Driver::Holder(connection) => drop(tokio::task::spawn_local(task(*connection))),
            other => self.driver = other,
        }
    }

    /// No task waits for an idle connection, so none is woken. This also forgets the task that polled it last.
    fn poll_idle(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }
}

fn note_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to the app ended");
    }
}
