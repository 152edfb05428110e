//! The lingering close (RFC 9112, 9.6): reads and drops what a client still sends after the gate ended the connection.
//!
//! A gate that refuses a request before it read the body closes a socket with unread bytes. The kernel then sends a
//! reset, which destroys the answer on its way: the client sees a broken connection in the place of a 401. So the gate
//! first closes only its own sending side, and keeps the socket until the client closes, too.
//!
//! Nothing else of the connection is left by then: no HTTP, no TLS, no buffer. The connection's slot stays taken, so
//! `limits.connections` bounds the sockets that linger. `limits.linger_timeout`, `limits.linger_idle_timeout` and
//! `limits.linger_bytes` bound each of them.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ClientConnection, first_request_grace_over};
use crate::base::lifecycle::Shutdown;

/// Bytes read at once.
const PIECE_BYTES: usize = 16 * 1024;
/// A client that sends fewer bytes than this in a whole `limits.linger_idle_timeout` uploads nothing.
const DRIP_BYTES: u64 = 1024;

/// The bounds of one lingering close.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linger {
    pub timeout: Duration,
    pub idle_timeout: Duration,
    pub bytes: u64,
}

impl Linger {
    /// Lets the socket of an ended connection linger beside the other connections. A gate that closes does not wait for
    /// it.
    pub fn spawn(self, socket: OwnedFd, client: &Rc<ClientConnection>, shutdown: Shutdown) {
        client.spawn(async move {
            tokio::select! {
                // the end of the client, its reset and the limits all mean the same: close
                _over = self.drain(socket) => {}
                () = first_request_grace_over(shutdown) => {}
            }
        });
    }

    /// Returns when the client closed its side, or a limit is reached.
    pub async fn drain(self, socket: OwnedFd) -> io::Result<()> {
        // a Unix socket is read in the same way
        let socket = TcpStream::from_std(socket.into())?;
        let drain = async {
            let mut left = self.bytes;
            loop {
                let before = left;
                let at_end = timeout(self.idle_timeout, read_to_end(&socket, &mut left)).await;
                if at_end.is_ok() || before.saturating_sub(left) < DRIP_BYTES {
                    return at_end.unwrap_or(Ok(()));
                }
            }
        };
        timeout(self.timeout, drain).await.unwrap_or(Ok(()))
    }
}

/// Reads to the client's end, or until no byte of the limit is left.
async fn read_to_end(socket: &TcpStream, left: &mut u64) -> io::Result<()> {
    while *left > 0 {
        socket.readable().await?;
        // not across an await: a lingering socket needs no buffer
        match socket.try_read(&mut [0; PIECE_BYTES]) {
            Ok(0) => break,
            Ok(length) => *left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // a client that sends without a pause must not keep the worker from others
        tokio::task::consume_budget().await;
    }
    Ok(())
}
