//! A connection's byte stream to the app: TCP, a Unix socket, or TLS over TCP.
//!
//! `dial` opens one and reports the HTTP version that it will carry. The caller sets the deadline; no function here
//! waits with a timeout of its own.
//!
//! `TransportWatch` tells whether a byte came from the app since a request began: only without one may the request be
//! sent again. It also tells whether a write waits for the app to read.
//!
//! An app may answer early (a 413, say) and close while hyper still writes the request. The write error then races with
//! the answer, which may already lie in the kernel's receive buffer. `after_write` drops the rest of the request if an
//! answer is there, so that hyper reads it. Before the first byte of a request is written the error is reported as it
//! is: hyper then gives the request back, the pool may send it again, and unread bytes cannot be its answer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::apps::App;
use super::client_tls::{ClientTls, chose_http2};
use super::{FailureReason, UpstreamError};
use crate::config::{Authority, Protocol, UpstreamUrl};

/// Time after which the next address of a name is tried, too.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The HTTP version of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

/// The versions that a new connection may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum VersionOffer {
    Http1,
    Http2,
    /// The app chooses by ALPN; only over TLS.
    Either,
}

#[derive(Debug)]
pub(super) struct Transport {
    stream: AppStream,
    watch: TransportWatch,
}

#[derive(Debug)]
enum AppStream {
    Tcp {
        stream: TcpStream,
        /// True if bytes were written since the last read, so that the next read belongs to them.
        awaits_answer: bool,
    },
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the request sees of its transport, which hyper holds. Both run on one thread; hyper moves the transport of an
/// upgraded connection, and therefore asks for `Send`.
#[derive(Clone, Debug, Default)]
pub(super) struct TransportWatch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// True if the app sent a byte since the last request began.
    answer_began: AtomicBool,
    /// True if the last write found no room: the app has not read what was sent.
    write_waits: AtomicBool,
}

/// A new connection and its HTTP version.
#[derive(Debug)]
pub(super) struct Dialed {
    pub transport: Transport,
    pub version: HttpVersion,
}

/// Opens a connection. Without TLS there is no negotiation: the connection has the offered version, HTTP/1.1 for
/// `Either`.
pub(super) async fn dial(app: &App, offer: VersionOffer) -> Result<Dialed, UpstreamError> {
    let version = match offer {
        VersionOffer::Http2 => HttpVersion::Http2,
        VersionOffer::Http1 | VersionOffer::Either => HttpVersion::Http1,
    };
    let stream = match (&app.url, &app.tls) {
        (UpstreamUrl::Http(authority), _) => AppStream::Tcp {
            stream: connect_tcp(authority).await?,
            awaits_answer: false,
        },
        (UpstreamUrl::Unix(path), _) => AppStream::Unix(UnixStream::connect(path).await.map_err(connect_failed)?),
        (UpstreamUrl::Https(authority), Some(tls)) => {
            return connect_tls(connect_tcp(authority).await?, tls, offer, app.settings.protocol).await;
        }
        // INVARIANT: `Apps::load` sets up TLS for every https URL
        (UpstreamUrl::Https(_), None) => return Err(UpstreamError::unavailable(FailureReason::Tls)),
    };
    Ok(Dialed {
        transport: Transport::new(stream),
        version,
    })
}

pub(super) async fn connect_tcp(authority: &Authority) -> Result<TcpStream, UpstreamError> {
    let addresses = lookup_host((authority.dialled(), authority.port))
        .await
        .map_err(connect_failed)?;
    let stream = connect_any(addresses.collect()).await.map_err(connect_failed)?;
    stream.set_nodelay(true).map_err(connect_failed)?;
    Ok(stream)
}

/// Connects to the first address that answers. The attempts begin in the resolver's order; the next one when an earlier
/// one failed, or has not answered for `ATTEMPT_DELAY` (RFC 8305, 5).
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut rest = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = rest.next() {
            attempts.spawn_local(TcpStream::connect(address));
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(panicked) => failure = panicked.into(),
            },
            () = sleep(ATTEMPT_DELAY), if rest.len() > 0 => {}
            else => return Err(failure),
        }
    }
}

fn connect_failed(error: io::Error) -> UpstreamError {
    UpstreamError::failed(FailureReason::Connect, error)
}

async fn connect_tls(
    stream: TcpStream,
    tls: &ClientTls,
    offer: VersionOffer,
    protocol: Protocol,
) -> Result<Dialed, UpstreamError> {
    let config = if offer == VersionOffer::Http1 {
        &tls.http1_only
    } else {
        &tls.all_versions
    };
    let connector = TlsConnector::from(std::sync::Arc::clone(config));
    let stream = connector
        .connect(tls.server_name.clone(), stream)
        .await
        .map_err(|error| UpstreamError::failed(FailureReason::Tls, error))?;
    let http2 = chose_http2(stream.get_ref().1.alpn_protocol());
    let is_wrong = match offer {
        VersionOffer::Http1 => http2,
        VersionOffer::Http2 => !http2,
        VersionOffer::Either => protocol == Protocol::Http2 && !http2,
    };
    if is_wrong {
        return Err(UpstreamError::failed(
            FailureReason::Tls,
            "the app did not choose the HTTP version that `upstream.protocol` requires",
        ));
    }
    Ok(Dialed {
        transport: Transport::new(AppStream::Tls(Box::new(stream))),
        version: if http2 { HttpVersion::Http2 } else { HttpVersion::Http1 },
    })
}

impl TransportWatch {
    /// A request begins: no byte of its answer has come.
    pub fn request_begins(&self) {
        self.0.answer_began.store(false, Ordering::Relaxed);
    }

    pub fn answer_has_begun(&self) -> bool {
        self.0.answer_began.load(Ordering::Relaxed)
    }

    pub fn write_waits(&self) -> bool {
        self.0.write_waits.load(Ordering::Relaxed)
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            AppStream::Tcp { stream, .. } => stream.as_fd(),
            AppStream::Unix(stream) => stream.as_fd(),
            AppStream::Tls(stream) => stream.get_ref().0.as_fd(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.stream {
            AppStream::Tcp { stream, awaits_answer } => {
                let polled = Pin::new(stream).poll_read(cx, buf);
                *awaits_answer &= buf.filled().len() == before;
                polled
            }
            AppStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            AppStream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            this.watch.0.answer_began.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl Transport {
    fn new(stream: AppStream) -> Self {
        Self {
            stream,
            watch: TransportWatch::default(),
        }
    }

    pub fn watch(&self) -> TransportWatch {
        self.watch.clone()
    }

    /// Turns a write error into success if the app closed its side after an early answer; see the header.
    fn after_write(&mut self, polled: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        self.watch.0.write_waits.store(polled.is_pending(), Ordering::Relaxed);
        let AppStream::Tcp { stream, awaits_answer } = &mut self.stream else {
            return polled;
        };
        match polled {
            Poll::Ready(Ok(1..)) => *awaits_answer = true,
            Poll::Ready(Err(ref error)) if *awaits_answer && is_closed(error) && has_unread_bytes(stream) => {
                return Poll::Ready(Ok(offered));
            }
            _ => {}
        }
        polled
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Asks the kernel, because tokio may not have processed the readiness event yet.
fn has_unread_bytes(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    matches!(socket2::SockRef::from(stream).peek(&mut byte), Ok(1..))
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            AppStream::Tcp { stream, .. } => Pin::new(stream).poll_write(cx, buf),
            AppStream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            AppStream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        this.after_write(polled, buf.len())
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            AppStream::Tcp { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
            AppStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            AppStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        this.after_write(polled, offered)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            AppStream::Tcp { stream, .. } => stream.is_write_vectored(),
            AppStream::Unix(stream) => stream.is_write_vectored(),
            AppStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            AppStream::Tcp { stream, .. } => Pin::new(stream).poll_flush(cx),
            AppStream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            AppStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            AppStream::Tcp { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            AppStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            AppStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use socket2::{Domain, Socket, Type};
    use tokio::task::LocalSet;

    use super::*;

    /// A listener whose queue is full: the kernel drops further connections, as a firewall does.
    fn silent() -> (Vec<Socket>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = vec![listener];
        for _ in 0..4 {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _in_progress = client.connect(&address).is_err();
            held.push(client);
        }
        (held, address.as_socket().unwrap())
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried_and_a_silent_one_delays_the_next_only_a_little() {
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = live.local_addr().map(|address| (live, address)).unwrap();
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (_held, silent) = silent();
        LocalSet::new()
            .run_until(async {
                for addresses in [
                    vec![live.1],
                    vec![refused, live.1],
                    vec![live.1, refused],
                    vec![silent, live.1],
                    vec![refused, silent, live.1],
                ] {
                    let started = Instant::now();
                    let stream = connect_any(addresses.clone()).await.unwrap();
                    assert_eq!(stream.peer_addr().unwrap(), live.1, "{addresses:?}");
                    assert!(started.elapsed() < Duration::from_millis(900), "{addresses:?}");
                }
                let error = connect_any(vec![refused, refused]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
                assert_eq!(connect_any(Vec::new()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
            })
            .await;
    }
}
