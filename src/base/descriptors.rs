//! File descriptors: how many this process may have, and the share that clients may use.
//!
//! Clients and their connections to apps must never use up the descriptors that the admin listener, the control socket,
//! policy files and the session store need: a gate that cannot be asked or stopped is worse than one that refuses a
//! client. So `share` keeps a reserve for each of them, at start, from the limit of the process (`ulimit -n`, raised to
//! its hard limit).
//!
//! The kernel gives every new descriptor the lowest free number. A descriptor whose number reaches a `Ceiling`
//! therefore shows that all numbers below are in use, without a count that each owner of a descriptor would have to
//! keep.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for policy files, watches, logs, Redis, issuers and providers.
const FILES: u64 = 64;
/// Descriptors of the process itself: runtimes, listeners, signals.
const OWN: u64 = 32;
/// The same, of each worker.
const OWN_PER_WORKER: u64 = 8;
/// A client's connection, and one to the app.
const PER_CLIENT: u64 = 2;

/// The connections that the configuration allows.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub workers: u64,
    /// Connections of the proxy listener.
    pub clients: u64,
    /// Connections of the decision listener.
    pub decisions: u64,
    /// Connections of the admin listener and of the control socket.
    pub operations: u64,
}

/// The shares of a process with so many descriptors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shares {
    /// For clients of the proxy listener, and for connections to apps.
    pub clients: Ceiling,
    /// For connections that are refused and linger: they leave a descriptor for each client's connection to the app.
    pub lingering: Ceiling,
    /// For clients of the decision listener.
    pub decisions: Ceiling,
    /// Connections of the proxy listener for which there are descriptors.
    pub connections: u64,
    /// Descriptors that the whole configuration needs.
    pub needed: u64,
}

/// The first descriptor that is kept back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ceiling(u64);

impl Ceiling {
    pub const NONE: Self = Self(u64::MAX);

    /// True if this descriptor is one of those that are kept back.
    pub fn is_reached_by(self, descriptor: &impl AsFd) -> bool {
        let number: RawFd = descriptor.as_fd().as_raw_fd();
        u64::try_from(number).is_ok_and(|number| number >= self.0)
    }
}

impl Default for Ceiling {
    fn default() -> Self {
        Self::NONE
    }
}

/// The descriptors that the process itself needs with so many workers.
pub fn own(workers: u64) -> u64 {
    OWN + OWN_PER_WORKER * workers
}

/// The most descriptors that this process may have; `None`: unlimited.
pub fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Raises the limit of this process to the most that it may have, and returns it; `None`: unlimited.
pub fn raise() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => before.maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            before.current
        }
    }
}

/// Divides `limit` descriptors. Each reserve is at most a quarter of those that the process does not need itself, so
/// that clients have half of a small limit.
pub fn share(limit: Option<u64>, wanted: &Wanted) -> Shares {
    let own = own(wanted.workers);
    let operations = FILES + wanted.operations;
    let needed = own + operations + wanted.decisions + PER_CLIENT * wanted.clients;
    let Some(limit) = limit else {
        return Shares {
            clients: Ceiling::NONE,
            lingering: Ceiling::NONE,
            decisions: Ceiling::NONE,
            connections: wanted.clients,
            needed,
        };
    };
    let free = limit.saturating_sub(own);
    let operations = operations.min(free / 4);
    let decisions = wanted.decisions.min(free / 4);
    let clients = limit.saturating_sub(operations + decisions);
    let connections = (free.saturating_sub(operations + decisions) / PER_CLIENT).clamp(1, wanted.clients.max(1));
    Shares {
        clients: Ceiling(clients),
        lingering: Ceiling(clients.saturating_sub(connections)),
        decisions: Ceiling(limit.saturating_sub(operations)),
        connections,
        needed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        workers: 2,
        clients: 10_000,
        decisions: 1024,
        operations: 80,
    };

    #[test]
    fn a_sufficient_limit_gives_every_listener_what_it_is_configured_for() {
        let shares = share(Some(1 << 20), &WANTED);
        assert_eq!(shares.connections, 10_000);
        let enough = share(Some(shares.needed), &WANTED);
        assert_eq!(enough.connections, 10_000);
        assert_eq!(share(None, &WANTED).clients, Ceiling::NONE);
    }

    #[test]
    fn clients_get_half_of_a_small_limit_and_leave_the_rest() {
        for limit in [0, 1, 40, 64, 128, 256, 1024, 4096, 20_000] {
            let shares = share(Some(limit), &WANTED);
            assert!(
                shares.clients.0 <= shares.decisions.0 && shares.decisions.0 <= limit,
                "{shares:?}"
            );
            assert!(shares.connections >= 1, "{limit}: {shares:?}");
            if limit >= 128 {
                assert!(
                    shares.decisions.0 < limit,
                    "{limit}: nothing is left for operations: {shares:?}"
                );
                assert!(shares.connections * PER_CLIENT <= shares.clients.0, "{limit}: {shares:?}");
                assert!(
                    shares.connections * 4 + OWN * 2 >= limit.min(20_000) / 2,
                    "{limit}: {shares:?}"
                );
            }
        }
    }

    #[test]
    fn a_ceiling_is_reached_by_the_number_of_a_descriptor() {
        let file = tempfile::tempfile().unwrap();
        let number = u64::try_from(file.as_raw_fd()).unwrap();
        assert!(Ceiling(number).is_reached_by(&file));
        assert!(!Ceiling(number + 1).is_reached_by(&file));
        assert!(!Ceiling::NONE.is_reached_by(&file));
    }
}
