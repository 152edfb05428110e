//! Binds every configured listener before the gate is built.
//!
//! A listener that cannot be bound is a start error that names its configuration key; sockets that were bound before it
//! close again. Socket files are removed when `Bound::files` drops.

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::StartError;
use crate::config::{Address, Config};
use crate::http::listener::{SocketFile, bind, bind_private, bind_unix};

/// The gate's addresses; a port that is 0 in the configuration is the port that the kernel chose.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The proxy listener, for clients.
    pub proxy: SocketAddr,
    /// The decision listener, for the app, if configured.
    pub(crate) decision: Option<Address>,
    /// The listener for Envoy, if configured.
    pub(crate) ext_authz: Option<Address>,
    /// The admin listener, if configured.
    pub admin: Option<SocketAddr>,
    /// The control socket, if configured.
    pub(crate) control: Option<PathBuf>,
}

/// Every listener, bound and not served yet.
pub(super) struct Bound {
    pub traffic: TrafficListeners,
    pub operations: OperationsListeners,
    pub addresses: Addresses,
    /// The files of Unix sockets.
    pub files: Vec<SocketFile>,
}

/// The listeners that worker threads serve.
pub(super) struct TrafficListeners {
    /// One copy for each worker.
    pub proxy: Vec<TcpListener>,
    pub decision: DecisionListeners,
    /// For Envoy.
    pub ext_authz: DecisionListeners,
}

/// The listeners of a door, at any kind of address.
pub(super) enum DecisionListeners {
    Off,
    /// One copy for each worker.
    Tcp(Vec<TcpListener>),
    /// Served by the first worker: a Unix socket cannot be bound twice.
    Unix(UnixListener),
}

/// The listeners that the operations thread serves.
pub(super) struct OperationsListeners {
    pub admin: Option<TcpListener>,
    pub control: Option<UnixListener>,
}

impl Bound {
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let listen = &config.listen;
        let workers = config.limits.workers().max(1);
        let mut files = Vec::new();
        let proxy = bind_tcp("proxy", listen.proxy.address, workers)?;
        let decision = listen.decision.as_ref().map(|decision| &decision.address);
        let decision = DecisionListeners::bind("decision", decision, workers, &mut files)?;
        let ext_authz = DecisionListeners::bind("ext_authz", listen.ext_authz.as_ref(), workers, &mut files)?;
        let admin = match listen.admin {
            Some(address) => bind_tcp("admin", address, 1)?.pop(),
            None => None,
        };
        let control = match &listen.control {
            Some(path) => Some(bind_control(path, &mut files)?),
            None => None,
        };
        let addresses = Addresses {
            proxy: proxy.first().map_or(Ok(listen.proxy.address), TcpListener::local_addr)?,
            decision: decision.address(listen.decision.as_ref().map(|decision| &decision.address))?,
            ext_authz: ext_authz.address(listen.ext_authz.as_ref())?,
            admin: admin.as_ref().map(TcpListener::local_addr).transpose()?,
            control: listen.control.clone(),
        };
        Ok(Self {
            traffic: TrafficListeners {
                proxy,
                decision,
                ext_authz,
            },
            operations: OperationsListeners { admin, control },
            addresses,
            files,
        })
    }
}

impl DecisionListeners {
    fn bind(
        name: &'static str,
        address: Option<&Address>,
        workers: usize,
        files: &mut Vec<SocketFile>,
    ) -> Result<Self, StartError> {
        Ok(match address {
            Some(Address::Tcp(address)) => Self::Tcp(bind_tcp(name, *address, workers)?),
            Some(Address::Unix(path)) => {
                let listener = bind_unix(path).map_err(bind_error(name, path.display()))?;
                files.push(SocketFile::of(path)?);
                Self::Unix(listener)
            }
            None => Self::Off,
        })
    }

    /// The address in use; `configured` may leave the port to the kernel.
    fn address(&self, configured: Option<&Address>) -> std::io::Result<Option<Address>> {
        match self {
            Self::Tcp(listeners) => listeners.first().map(local_address).transpose(),
            Self::Unix(_) | Self::Off => Ok(configured.cloned()),
        }
    }
}

impl Addresses {
    /// The decision listener's TCP address.
    pub fn decision_tcp(&self) -> Option<SocketAddr> {
        match self.decision {
            Some(Address::Tcp(address)) => Some(address),
            _ => None,
        }
    }

    /// The TCP address of the listener for Envoy.
    pub fn ext_authz_tcp(&self) -> Option<SocketAddr> {
        match self.ext_authz {
            Some(Address::Tcp(address)) => Some(address),
            _ => None,
        }
    }

    /// The addresses of all TCP listeners.
    pub(super) fn tcp(&self) -> Vec<SocketAddr> {
        [Some(self.proxy), self.decision_tcp(), self.ext_authz_tcp(), self.admin]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Logs one line for each listener.
    pub(super) fn log(&self) {
        let log = |listener: &str, address: &dyn Display| tracing::info!(listener, %address, "listening");
        log("proxy", &self.proxy);
        for (listener, address) in [("decision", &self.decision), ("ext_authz", &self.ext_authz)] {
            match address {
                Some(Address::Tcp(address)) => log(listener, address),
                Some(Address::Unix(path)) => log(listener, &format_args!("unix:{}", path.display())),
                None => {}
            }
        }
        if let Some(address) = &self.admin {
            log("admin", address);
        }
        if let Some(path) = &self.control {
            log("control", &format_args!("unix:{}", path.display()));
        }
    }
}

fn local_address(listener: &TcpListener) -> std::io::Result<Address> {
    listener.local_addr().map(Address::Tcp)
}

fn bind_tcp(listener: &'static str, address: SocketAddr, copies: usize) -> Result<Vec<TcpListener>, StartError> {
    bind(address, copies).map_err(bind_error(listener, address))
}

fn bind_control(path: &Path, files: &mut Vec<SocketFile>) -> Result<UnixListener, StartError> {
    let listener = bind_private(path).map_err(bind_error("control", path.display()))?;
    files.push(SocketFile::of(path)?);
    Ok(listener)
}

fn bind_error(listener: &'static str, address: impl Display) -> impl FnOnce(std::io::Error) -> StartError {
    let address = address.to_string();
    move |source| StartError::Bind {
        listener,
        address,
        source,
    }
}
