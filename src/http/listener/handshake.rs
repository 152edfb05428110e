//! The steps before HTTP on a new connection, and which HTTP it speaks.
//!
//! The order is fixed. First a PROXY header, if the peer is a trusted proxy that must send one: the address in it is
//! the client's. Then that address takes its connection slot, so that no client costs a TLS handshake beyond its limit.
//! Then TLS. Then the first bytes: HTTP/2 starts with a preface that no HTTP/1 request can start with, and over TLS it
//! also needs ALPN.
//!
//! Every wait has a deadline: `limits.header_timeout` for the PROXY header, for TLS and for the rest of the preface,
//! `limits.idle_timeout` for the first byte. A peer that closes, or sends nothing, leaves no record: load balancers
//! open connections only to see that the port is open. Malformed bytes end the connection with a counted `Rejected`.
//! When the gate closes, the caller drops a handshake that is not done after `FIRST_REQUEST_GRACE`. Bytes that a step
//! read beyond its own end belong to the next step (`PrefixedIo`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use cedargate_policy::types::Scheme;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(super) use super::activity::Protocol;
use super::client_connection::Secured;
use super::connection_slots::{ConnectionSlot, LimitReached, TotalSlot};
use super::io_stream::{IoStream, PrefixedIo};
use super::socket::Stream;
use super::{ListenerContext, PeerAddr, Rejected, SharedTls, Timeouts, proxy_header};
use crate::http::client_certificate::ClientCertificate;

/// Every HTTP/2 connection starts with it (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read at once; more than the preface, because an HTTP/1 head may come as one.
const READ_BYTES: usize = 4096;
/// ALPN's name of HTTP/2.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// A connection whose client and protocol are known.
pub(super) struct Established {
    pub stream: PrefixedIo<IoStream>,
    pub protocol: Protocol,
    pub peer: PeerAddr,
    pub secured: Secured,
    pub slot: ConnectionSlot,
}

/// A connection that ended before it spoke HTTP.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The peer sent nothing, or closed.
    Closed,
    Rejected {
        reason: Rejected,
        peer: PeerAddr,
    },
    /// The client's address has too many connections.
    OverLimit {
        stream: Stream,
        limit: LimitReached,
    },
}

/// Brings one accepted connection to its first HTTP byte.
///
/// # Errors
/// The connection is over; nothing was written to the peer except by TLS.
pub(super) async fn handshake(
    mut stream: Stream,
    peer: PeerAddr,
    slot: TotalSlot,
    context: &ListenerContext,
) -> Result<Established, HandshakeError> {
    let source = read_proxy_header(&mut stream, peer, context).await?;
    let peer = source.peer;
    let slot = match ConnectionSlot::acquire(slot, context.options.addresses.as_ref(), peer) {
        Ok(slot) => slot,
        Err(limit) => return Err(HandshakeError::OverLimit { stream, limit }),
    };
    let (established, secured) = match &context.options.tls {
        None => {
            let detected = detect_protocol(stream, source.unread, context.timeouts).await;
            let plain = detected.map_err(|error| error.with(peer))?;
            let secured = Secured {
                scheme: Scheme::Http,
                certificate: None,
            };
            (plain.map(IoStream::Plain), secured)
        }
        Some(tls) => {
            let stream = PrefixedIo::new(stream, source.unread);
            // boxed: every connection's task would have room for it until its end
            let accepted = Box::pin(accept_tls(stream, tls, context)).await;
            let AcceptedTls { detected, certificate } = accepted.map_err(|error| error.with(peer))?;
            let secured = Secured {
                scheme: Scheme::Https,
                certificate,
            };
            (detected, secured)
        }
    };
    Ok(Established {
        stream: established.stream,
        protocol: established.protocol,
        peer,
        secured,
        slot,
    })
}

/// A stream whose protocol is known.
struct Detected<S> {
    stream: PrefixedIo<S>,
    protocol: Protocol,
}

impl<S> Detected<S> {
    fn map<T>(self, stream: impl FnOnce(S) -> T) -> Detected<T> {
        Detected {
            stream: self.stream.map(stream),
            protocol: self.protocol,
        }
    }
}

/// A stream inside TLS.
struct AcceptedTls {
    detected: Detected<IoStream>,
    certificate: Option<Arc<ClientCertificate>>,
}

/// A step that failed.
enum StepError {
    Closed,
    Rejected(Rejected),
}

impl StepError {
    fn with(self, peer: PeerAddr) -> HandshakeError {
        match self {
            Self::Closed => HandshakeError::Closed,
            Self::Rejected(reason) => HandshakeError::Rejected { reason, peer },
        }
    }
}

/// The client's address, and bytes that were read beyond the PROXY header.
struct ClientSource {
    peer: PeerAddr,
    unread: Bytes,
}

/// Reads the PROXY header if the peer is a trusted proxy, else keeps the socket's address.
async fn read_proxy_header(
    stream: &mut Stream,
    peer: PeerAddr,
    context: &ListenerContext,
) -> Result<ClientSource, HandshakeError> {
    let socket_source = ClientSource {
        peer,
        unread: Bytes::new(),
    };
    let PeerAddr::Tcp(address) = peer else {
        return Ok(socket_source);
    };
    let address = address.ip().to_canonical();
    if !context.options.proxies.iter().any(|net| net.contains(&address)) {
        return Ok(socket_source);
    }
    let deadline = Instant::now() + context.timeouts.header;
    let mut seen = BytesMut::with_capacity(READ_BYTES);
    let malformed = HandshakeError::Rejected {
        reason: Rejected::ProxyHeader,
        peer,
    };
    loop {
        match timeout_at(deadline, stream.read_buf(&mut seen)).await {
            Ok(Ok(1..)) => {}
            // a balancer's check that the port is open
            Ok(_closed) if seen.is_empty() => return Err(HandshakeError::Closed),
            _closed_or_late => return Err(malformed),
        }
        match proxy_header::parse(&seen) {
            proxy_header::Parsed::Partial => {}
            proxy_header::Parsed::Malformed => return Err(malformed),
            proxy_header::Parsed::Whole { source, length } => {
                seen.advance(length);
                return Ok(ClientSource {
                    peer: source.map_or(peer, PeerAddr::Tcp),
                    unread: seen.freeze(),
                });
            }
        }
    }
}

/// TLS and the protocol inside it. A client that negotiated `h2` must send the preface; any other client speaks HTTP/1.
async fn accept_tls(stream: PrefixedIo<Stream>, tls: &SharedTls, context: &ListenerContext) -> Result<AcceptedTls, StepError> {
    let timeouts = context.timeouts;
    let stream = tls_handshake(stream, tls, timeouts.header).await?;
    let presented = stream.get_ref().1.peer_certificates();
    let certificate = presented.zip(context.options.client_trust.as_ref());
    let certificate = certificate.and_then(|(chain, trust)| ClientCertificate::of(chain, trust));
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
    let stream = IoStream::Tls(Box::new(stream));
    if !is_http2 {
        let detected = Detected {
            stream: PrefixedIo::new(stream, Bytes::new()),
            protocol: Protocol::Http1,
        };
        return Ok(AcceptedTls { detected, certificate });
    }
    let detected = detect_protocol(stream, Bytes::new(), timeouts).await?;
    match detected.protocol {
        Protocol::Http2 => Ok(AcceptedTls { detected, certificate }),
        Protocol::Http1 => Err(StepError::Rejected(Rejected::Http2Protocol)),
    }
}

/// One TLS handshake, under the certificates that are in force now.
async fn tls_handshake(
    stream: PrefixedIo<Stream>,
    tls: &SharedTls,
    deadline: Duration,
) -> Result<TlsStream<PrefixedIo<Stream>>, StepError> {
    match timeout(deadline, TlsAcceptor::from(tls.load_full()).accept(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        // the peer closed, as a check that the port is open does
        Ok(Err(error)) if error.kind() != std::io::ErrorKind::InvalidData => Err(StepError::Closed),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            Err(StepError::Rejected(Rejected::TlsHandshake))
        }
        Err(_late) => Err(StepError::Rejected(Rejected::TlsHandshake)),
    }
}

/// Reads until the bytes are the preface, or can no longer become it. The client has the idle timeout for its first
/// byte, then the header timeout.
async fn detect_protocol<S>(mut stream: S, unread: Bytes, timeouts: Timeouts) -> Result<Detected<S>, StepError>
where
    S: AsyncRead + Unpin,
{
    let mut seen = BytesMut::from(unread);
    if seen.is_empty() {
        let first = timeout(timeouts.idle, read_more(&mut stream, &mut seen)).await;
        if !matches!(first, Ok(Ok(1..))) {
            return Err(StepError::Closed);
        }
    }
    let deadline = Instant::now() + timeouts.header;
    let protocol = loop {
        if seen.starts_with(PREFACE) {
            break Protocol::Http2;
        }
        if !PREFACE.starts_with(&seen) {
            break Protocol::Http1;
        }
        match timeout_at(deadline, read_more(&mut stream, &mut seen)).await {
            Ok(Ok(1..)) => {}
            Ok(_closed) => return Err(StepError::Closed),
            Err(_late) => return Err(StepError::Rejected(Rejected::HeaderTimeout)),
        }
    };
    Ok(Detected {
        stream: PrefixedIo::new(stream, seen.freeze()),
        protocol,
    })
}

/// Reads once, and returns the number of bytes. Clients open connections long before they use them, so the buffer is on
/// the stack: a wait holds none.
async fn read_more<S: AsyncRead + Unpin>(stream: &mut S, seen: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut bytes = [0; READ_BYTES];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        seen.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}
