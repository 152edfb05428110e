//! The way to the app: TCP, a Unix socket, or TLS over TCP.
//!
//! `dial` makes one and says which HTTP it will carry. The deadline is the caller's; nothing here waits on its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::app::App;
use super::tls::{Tls, chose_http2};
use super::{Failure, UpstreamError};
use crate::config::{Authority, Protocol, UpstreamUrl};

/// The HTTP of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// What a connection may turn out to speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Offer {
    Http1,
    Http2,
    /// What the app chooses by ALPN; only over TLS.
    Either,
}

#[derive(Debug)]
pub(super) enum Transport {
    Tcp {
        stream: TcpStream,
        /// Whether something was written since anything was read: what is read next answers it.
        asked: bool,
    },
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A new connection. Without TLS it speaks what is offered: there is nobody to ask.
pub(super) async fn dial(app: &App, offer: Offer) -> Result<(Transport, Speaks), UpstreamError> {
    let known = match offer {
        Offer::Http2 => Speaks::Http2,
        Offer::Http1 | Offer::Either => Speaks::Http1,
    };
    match (&app.url, &app.tls) {
        (UpstreamUrl::Http(at), _) => {
            let (stream, asked) = (tcp(at).await?, false);
            Ok((Transport::Tcp { stream, asked }, known))
        }
        (UpstreamUrl::Unix(path), _) => {
            let stream = UnixStream::connect(path).await.map_err(refused)?;
            Ok((Transport::Unix(stream), known))
        }
        (UpstreamUrl::Https(at), Some(tls)) => secured(tcp(at).await?, tls, offer, app.settings.protocol).await,
        // INVARIANT: an app with an https URL was made with TLS
        (UpstreamUrl::Https(_), None) => Err(UpstreamError::unavailable(Failure::Tls)),
    }
}

async fn tcp(at: &Authority) -> Result<TcpStream, UpstreamError> {
    let stream = TcpStream::connect((at.dialled(), at.port)).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    Ok(stream)
}

fn refused(error: io::Error) -> UpstreamError {
    UpstreamError::failed(Failure::Connect, error)
}

async fn secured(stream: TcpStream, tls: &Tls, offer: Offer, protocol: Protocol) -> Result<(Transport, Speaks), UpstreamError> {
    let config = if offer == Offer::Http1 { &tls.http1 } else { &tls.any };
    let connector = TlsConnector::from(std::sync::Arc::clone(config));
    let stream = connector
        .connect(tls.name.clone(), stream)
        .await
        .map_err(|error| UpstreamError::failed(Failure::Tls, error))?;
    let http2 = chose_http2(stream.get_ref().1.alpn_protocol());
    let speaks = if http2 { Speaks::Http2 } else { Speaks::Http1 };
    let wrong = match offer {
        Offer::Http1 => http2,
        Offer::Http2 => !http2,
        Offer::Either => protocol == Protocol::Http2 && !http2,
    };
    if wrong {
        return Err(UpstreamError::failed(
            Failure::Tls,
            "the app did not choose the HTTP version that `upstream.protocol` asks for",
        ));
    }
    Ok((Transport::Tls(Box::new(stream)), speaks))
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { stream, asked } => {
                let before = buf.filled().len();
                let polled = Pin::new(stream).poll_read(cx, buf);
                *asked &= buf.filled().len() == before;
                polled
            }
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Transport {
    /// An app may answer (413) and hang up before it has read the whole request. Then what cannot be written any more is
    /// dropped, and the answer is read. Before the first byte of a request the error stays one: such a request may be sent
    /// again, and what waits to be read is no answer to it.
    fn after_write(&mut self, polled: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        let Self::Tcp { stream, asked } = self else {
            return polled;
        };
        match polled {
            Poll::Ready(Ok(1..)) => *asked = true,
            Poll::Ready(Err(ref error)) if *asked && is_closed(error) && has_answer(stream) => return Poll::Ready(Ok(offered)),
            _ => {}
        }
        polled
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Asks the kernel: the runtime may not have heard of it yet.
fn has_answer(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    matches!(socket2::SockRef::from(stream).peek(&mut byte), Ok(1..))
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match this {
            Self::Tcp { stream, .. } => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        this.after_write(polled, buf.len())
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match this {
            Self::Tcp { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        this.after_write(polled, offered)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp { stream, .. } => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { stream, .. } => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
