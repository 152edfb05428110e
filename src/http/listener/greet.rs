//! What comes before HTTP on a new connection, and which HTTP it is.
//!
//! In this order: a PROXY header where a trusted proxy must send one, the address's place, TLS, the first bytes. HTTP/2
//! starts with a preface that no HTTP/1 request can start with; over TLS it also needs ALPN. Every wait has a deadline.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::places::{Counted, Full, Place};
use super::socket::Stream;
use super::wire::{Rewound, Wire};
use super::{Front, PeerAddr, Rejected, SharedTls, proxy_header};
use crate::types::Scheme;

/// What every HTTP/2 connection starts with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read at once while looking; more than the preface, because an HTTP/1 head may come as one.
const LOOK_BYTES: usize = 4096;
/// ALPN's name of HTTP/2.
pub const ALPN_HTTP2: &[u8] = b"h2";

pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection of which it is known who is there and what is spoken.
pub(super) struct Greeted {
    pub stream: Rewound<Wire>,
    pub protocol: Protocol,
    pub peer: PeerAddr,
    pub scheme: Scheme,
    pub place: Place,
}

/// Why a connection ended before it spoke HTTP.
#[derive(Debug)]
pub(super) enum Unheard {
    /// It said nothing, or is gone.
    Silent,
    Rejected(Rejected, PeerAddr),
    /// Its address has too many.
    Crowded(Stream),
}

pub(super) async fn greet(mut stream: Stream, peer: PeerAddr, counted: Counted, front: &Front) -> Result<Greeted, Unheard> {
    let (peer, early) = introduced(&mut stream, peer, front).await?;
    let place = match Place::take(counted, front.entrance.addresses.as_ref(), peer) {
        Ok(place) => place,
        Err(Full) => return Err(Unheard::Crowded(stream)),
    };
    let patience = (front.patience.idle, front.patience.header);
    let (stream, protocol, scheme) = match &front.entrance.tls {
        None => {
            let (stream, protocol) = look(stream, early, patience).await.map_err(|why| why.of(peer))?;
            let (stream, first) = stream.into_parts();
            (Rewound::new(Wire::Plain(stream), first), protocol, Scheme::Http)
        }
        Some(tls) => {
            let shaken = encrypted(Rewound::new(stream, early), tls, front.patience.header).await;
            let stream = shaken.map_err(|why| why.of(peer))?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
            let wire = Wire::Tls(Box::new(stream));
            let (stream, protocol) = if is_http2 {
                match look(wire, Bytes::new(), patience).await.map_err(|why| why.of(peer))? {
                    (stream, Protocol::Http2) => (stream, Protocol::Http2),
                    (_, Protocol::Http1) => return Err(Unheard::Rejected(Rejected::Http2Protocol, peer)),
                }
            } else {
                (Rewound::new(wire, Bytes::new()), Protocol::Http1)
            };
            (stream, protocol, Scheme::Https)
        }
    };
    Ok(Greeted {
        stream,
        protocol,
        peer,
        scheme,
        place,
    })
}

/// Why a wait ended badly.
enum Ended {
    Silent,
    Rejected(Rejected),
}

impl Ended {
    fn of(self, peer: PeerAddr) -> Unheard {
        match self {
            Self::Silent => Unheard::Silent,
            Self::Rejected(reason) => Unheard::Rejected(reason, peer),
        }
    }
}

/// Who a proxy says is there, and what came after that. Whoever need not say is who the socket says.
async fn introduced(stream: &mut Stream, peer: PeerAddr, front: &Front) -> Result<(PeerAddr, Bytes), Unheard> {
    let proxies = &front.entrance.proxies;
    let PeerAddr::Tcp(address) = peer else {
        return Ok((peer, Bytes::new()));
    };
    let address = address.ip().to_canonical();
    if !proxies.iter().any(|net| net.contains(&address)) {
        return Ok((peer, Bytes::new()));
    }
    let deadline = Instant::now() + front.patience.header;
    let mut seen = BytesMut::with_capacity(LOOK_BYTES);
    let malformed = Unheard::Rejected(Rejected::ProxyHeader, peer);
    loop {
        match timeout_at(deadline, stream.read_buf(&mut seen)).await {
            Ok(Ok(1..)) => {}
            // a balancer's check that a port is open
            Ok(_gone) if seen.is_empty() => return Err(Unheard::Silent),
            _gone_or_late => return Err(malformed),
        }
        match proxy_header::read(&seen) {
            proxy_header::Read::Partial => {}
            proxy_header::Read::Malformed => return Err(malformed),
            proxy_header::Read::Whole { source, length } => {
                seen.advance(length);
                return Ok((source.map_or(peer, PeerAddr::Tcp), seen.freeze()));
            }
        }
    }
}

/// One handshake under the certificates as they are now.
async fn encrypted(stream: Rewound<Stream>, tls: &SharedTls, patience: Duration) -> Result<TlsStream<Rewound<Stream>>, Ended> {
    match timeout(patience, TlsAcceptor::from(tls.load_full()).accept(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        // gone, as whoever only looks whether a port is open
        Ok(Err(error)) if error.kind() != std::io::ErrorKind::InvalidData => Err(Ended::Silent),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            Err(Ended::Rejected(Rejected::TlsHandshake))
        }
        Err(_late) => Err(Ended::Rejected(Rejected::TlsHandshake)),
    }
}

/// Reads until it cannot be, or is, the preface. A client may take the idle timeout to say the first byte and then the
/// header timeout.
async fn look<S>(
    mut stream: S,
    early: Bytes,
    (idle_timeout, header_timeout): (Duration, Duration),
) -> Result<(Rewound<S>, Protocol), Ended>
where
    S: AsyncRead + Unpin,
{
    let mut seen = BytesMut::from(early);
    if seen.is_empty() {
        seen.reserve(LOOK_BYTES);
        let first = timeout(idle_timeout, stream.read_buf(&mut seen)).await;
        if !matches!(first, Ok(Ok(1..))) {
            return Err(Ended::Silent);
        }
    }
    let deadline = Instant::now() + header_timeout;
    let protocol = loop {
        if seen.starts_with(PREFACE) {
            break Protocol::Http2;
        }
        if !PREFACE.starts_with(&seen) {
            break Protocol::Http1;
        }
        seen.reserve(LOOK_BYTES);
        match timeout_at(deadline, stream.read_buf(&mut seen)).await {
            Ok(Ok(1..)) => {}
            Ok(_gone) => return Err(Ended::Silent),
            Err(_late) => return Err(Ended::Rejected(Rejected::HeaderTimeout)),
        }
    };
    Ok((Rewound::new(stream, seen.freeze()), protocol))
}
