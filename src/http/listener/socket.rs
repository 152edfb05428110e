//! Binds sockets so that a conflict is an error at start, and accepts connections from them.
//!
//! The workers share one address with SO_REUSEPORT. The same option would let two gates of one user share a port
//! without an error, so a fixed port is first bound without it.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections that the kernel queues for one socket before it refuses more.
const BACKLOG: i32 = 1024;

/// The address of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerAddr {
    Tcp(SocketAddr),
    /// A process on this machine, and the id of its user as the kernel knows it.
    Unix(Option<u32>),
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

/// A new connection.
#[derive(Debug)]
pub(super) struct Accepted {
    pub stream: Stream,
    pub peer: PeerAddr,
}

/// Binds `copies` listeners to one address; port 0 is chosen once and shared. Fails if another process listens there.
pub fn bind(address: SocketAddr, copies: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if address.port() != 0 {
        // bound and dropped: fails if another process listens there, with or without SO_REUSEPORT
        let probe = new_socket(address)?;
        probe.bind(&address.into())?;
        probe.listen(1)?;
    }
    let mut listeners: Vec<std::net::TcpListener> = Vec::with_capacity(copies);
    for _ in 0..copies {
        let address = listeners.first().map_or(Ok(address), std::net::TcpListener::local_addr)?;
        let socket = new_socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// The present use of an address that this machine has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AddressUse {
    Free,
    /// A process listens there.
    Taken,
}

/// Fails if this machine cannot listen there. An address at which a process listens already is usable: it may be the
/// gate whose configuration is checked.
pub fn check_address(address: SocketAddr) -> io::Result<AddressUse> {
    match new_socket(address)?.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(AddressUse::Taken),
        bound => bound.map(|()| AddressUse::Free),
    }
}

/// The same for a Unix socket. Binds a neighbour of the path, so that a gate that serves the path is not disturbed.
pub fn check_unix(path: &Path) -> io::Result<()> {
    if let Ok(found) = std::fs::symlink_metadata(path)
        && !found.file_type().is_socket()
    {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is another file at this path; remove it or choose another",
        ));
    }
    // of the same length: a path that is too long for a socket is an error of its own
    let mut neighbour = path.as_os_str().to_owned().into_encoded_bytes();
    if let Some(last) = neighbour.last_mut() {
        *last = if *last == b'~' { b'-' } else { b'~' };
    }
    let neighbour = PathBuf::from(OsString::from_vec(neighbour));
    match std::os::unix::net::UnixListener::bind(&neighbour) {
        Ok(_listener) => std::fs::remove_file(neighbour),
        // another check is under way
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        Err(error) => Err(error),
    }
}

fn new_socket(address: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    remove_stale_socket(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a stale socket file: a socket on which no process listens. Any other file at the path is an error.
pub(super) fn remove_stale_socket(path: &Path) -> io::Result<()> {
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
            Self::Unix(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// The id of the user whose process connected; `None`: the client is on the network.
    pub fn user_id(self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(user) => user,
        }
    }

    fn of_process(stream: &UnixStream) -> Self {
        Self::Unix(stream.peer_cred().ok().map(|process| process.uid()))
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

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // fails only for a connection that is closed already
                drop(stream.set_nodelay(true));
                Ok(Accepted {
                    stream: Stream::Tcp(stream),
                    peer: PeerAddr::Tcp(peer),
                })
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted {
                peer: PeerAddr::of_process(&stream),
                stream: Stream::Unix(stream),
            }),
        }
    }

    /// Accepts the connections in the kernel's queue and stops listening. Dropping a listener would reset them.
    pub(super) fn into_queued(self) -> Vec<Accepted> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(|l| accept_all(|| accept_tcp(&l))),
            Self::Unix(listener) => listener.into_std().map(|l| accept_all(|| accept_unix(&l))),
        }
        .unwrap_or_default()
    }
}

/// Asks the kernel, not the runtime, which may not know yet that connections are in the queue.
fn accept_all(mut accept: impl FnMut() -> io::Result<Accepted>) -> Vec<Accepted> {
    let mut all = Vec::new();
    for _ in 0..BACKLOG {
        match accept() {
            Ok(accepted) => all.push(accepted),
            // closed by the client while it waited
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_empty) => break,
        }
    }
    all
}

fn accept_tcp(listener: &std::net::TcpListener) -> io::Result<Accepted> {
    let (stream, peer) = listener.accept()?;
    stream.set_nonblocking(true)?;
    drop(stream.set_nodelay(true));
    Ok(Accepted {
        stream: Stream::Tcp(TcpStream::from_std(stream)?),
        peer: PeerAddr::Tcp(peer),
    })
}

fn accept_unix(listener: &std::os::unix::net::UnixListener) -> io::Result<Accepted> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    Ok(Accepted {
        peer: PeerAddr::of_process(&stream),
        stream: Stream::Unix(stream),
    })
}

impl Stream {
    /// Writes as many of the bytes as the kernel takes at once.
    pub(super) fn write_now(&self, bytes: &[u8]) {
        let _best_effort = match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
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
