//! Sockets: binding them so that a conflict is an error at start, and accepting from them.
//!
//! SO_REUSEPORT would let two gates of one user share a port in silence; so a fixed port is first bound without it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections the kernel keeps for us before it refuses.
const BACKLOG: i32 = 1024;

/// Who is on the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerAddr {
    Tcp(SocketAddr),
    /// Some process on this machine.
    Unix,
}

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// `copies` listeners on one address; port 0 is chosen once and shared. Fails if anyone else listens there.
pub fn bind(address: SocketAddr, copies: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if address.port() != 0 {
        // Bound and dropped: a foreign listener, with or without SO_REUSEPORT, makes this fail.
        let probe = raw(address)?;
        probe.bind(&address.into())?;
        probe.listen(1)?;
    }
    let mut listeners: Vec<std::net::TcpListener> = Vec::with_capacity(copies);
    for _ in 0..copies {
        let address = listeners.first().map_or(Ok(address), std::net::TcpListener::local_addr)?;
        let socket = raw(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

fn raw(address: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    make_way(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A stale socket file goes only if it is a socket and nobody answers on it.
pub(super) fn make_way(path: &Path) -> io::Result<()> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        let stale = found.file_type().is_socket()
            && std::os::unix::net::UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !stale {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "the socket path is in use; remove it or choose another",
            ));
        }
        std::fs::remove_file(path)?;
    }
    Ok(())
}

impl PeerAddr {
    /// A Unix peer counts as loopback.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Tcp(address) => address.ip(),
            Self::Unix => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

impl Socket {
    /// Must run inside the runtime that will accept.
    pub fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    pub fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        UnixListener::from_std(listener).map(Self::Unix)
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Fails only for a connection that is gone already.
                drop(stream.set_nodelay(true));
                Ok((Stream::Tcp(stream), PeerAddr::Tcp(peer)))
            }
            Self::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| (Stream::Unix(stream), PeerAddr::Unix)),
        }
    }

    /// What the kernel had accepted for us, and the end of listening: dropping a listener resets what is in its queue.
    pub(super) fn into_queued(self) -> Vec<(Stream, PeerAddr)> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(|l| queued(|| tcp_queued(&l))),
            Self::Unix(listener) => listener.into_std().map(|l| queued(|| unix_queued(&l))),
        }
        .unwrap_or_default()
    }
}

/// Straight from the kernel: the runtime may not know yet that there is something to accept.
fn queued(mut accept: impl FnMut() -> io::Result<(Stream, PeerAddr)>) -> Vec<(Stream, PeerAddr)> {
    let mut all = Vec::new();
    for _ in 0..BACKLOG {
        match accept() {
            Ok(accepted) => all.push(accepted),
            // gone again while it waited
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_none_left) => break,
        }
    }
    all
}

fn tcp_queued(listener: &std::net::TcpListener) -> io::Result<(Stream, PeerAddr)> {
    let (stream, peer) = listener.accept()?;
    stream.set_nonblocking(true)?;
    drop(stream.set_nodelay(true));
    Ok((Stream::Tcp(TcpStream::from_std(stream)?), PeerAddr::Tcp(peer)))
}

fn unix_queued(listener: &std::os::unix::net::UnixListener) -> io::Result<(Stream, PeerAddr)> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok((Stream::Unix(UnixStream::from_std(stream)?), PeerAddr::Unix))
}

impl Stream {
    /// Writes what the kernel takes without waiting.
    pub(super) fn write_now(&self, bytes: &[u8]) {
        let _best_effort = match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        };
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
