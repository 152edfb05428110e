//! How many connections there may be: on all workers together, and of one client address.
//!
//! A place is taken before anything is read and freed when the last holder drops it. What is remembered per address goes
//! with the address's last connection, so memory is bounded by `limits.connections`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::PeerAddr;
use crate::base::metrics::Metrics;
use crate::config::{Count, Limits};

/// Connections open on all workers together, up to `limits.connections`.
#[derive(Clone, Debug)]
pub struct ConnectionCount {
    open: Arc<AtomicUsize>,
    max: usize,
    gauge: Option<prometheus::IntGauge>,
}

/// One counted connection; dropping it frees its place.
#[derive(Debug)]
pub struct Counted(ConnectionCount);

/// Connections per client address, up to `limits.connections_per_address`; shared by all workers.
#[derive(Clone, Debug)]
pub struct AddressCount {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
    exempt: Arc<[IpNet]>,
}

/// One connection of an address; dropping it frees its place.
#[derive(Debug)]
pub struct CountedAddress {
    count: AddressCount,
    address: IpAddr,
}

/// What one connection takes.
#[derive(Debug)]
pub struct Place {
    _connection: Counted,
    _address: Option<CountedAddress>,
}

/// The limit is reached.
#[derive(Debug)]
pub struct Full;

impl ConnectionCount {
    pub fn new(limits: &Limits, metrics: &Metrics) -> Self {
        Self {
            open: Arc::default(),
            max: limits.connections.as_usize(),
            gauge: Some(metrics.connections.clone()),
        }
    }

    /// Counted for itself, outside the published number: the admin listener's.
    pub fn apart(max: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
            gauge: None,
        }
    }

    pub(super) fn take(&self) -> Result<Counted, Full> {
        let free = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < self.max).then_some(open + 1)
        });
        match free {
            Ok(_before) => {
                if let Some(gauge) = &self.gauge {
                    gauge.inc();
                }
                Ok(Counted(self.clone()))
            }
            Err(_open) => Err(Full),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(gauge) = &self.0.gauge {
            gauge.dec();
        }
    }
}

impl AddressCount {
    /// `None` without a limit.
    pub fn new(limits: &Limits, exempt: &[IpNet]) -> Option<Self> {
        limits.connections_per_address.map(Count::as_usize).map(|max| Self {
            open: Arc::default(),
            max,
            exempt: exempt.into(),
        })
    }

    /// `None` for whom the limit is not.
    fn take(&self, peer: PeerAddr) -> Result<Option<CountedAddress>, Full> {
        let PeerAddr::Tcp(address) = peer else { return Ok(None) };
        let address = address.ip().to_canonical();
        if self.exempt.iter().any(|net| net.contains(&address)) {
            return Ok(None);
        }
        let address = client(address);
        let mut open = self.open();
        let count = open.entry(address).or_default();
        if *count >= self.max {
            return Err(Full);
        }
        *count += 1;
        drop(open);
        Ok(Some(CountedAddress {
            count: self.clone(),
            address,
        }))
    }

    // Numbers have no state that a panic could leave half-written.
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CountedAddress {
    fn drop(&mut self) {
        let mut open = self.count.open();
        if let Some(count) = open.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.address);
                // what a flood made it grow to is given back
                if open.len() * 4 < open.capacity() {
                    open.shrink_to_fit();
                }
            }
        }
    }
}

impl Place {
    /// `addresses` is who counts them, if anybody does.
    pub(super) fn take(connection: Counted, addresses: Option<&AddressCount>, peer: PeerAddr) -> Result<Self, Full> {
        let address = match addresses {
            Some(addresses) => addresses.take(peer)?,
            None => None,
        };
        Ok(Self {
            _connection: connection,
            _address: address,
        })
    }
}

/// What counts as one client: with IPv6 one client has a whole /64.
fn client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(max: usize) -> AddressCount {
        AddressCount {
            open: Arc::default(),
            max,
            exempt: vec!["10.0.0.0/8".parse().unwrap()].into(),
        }
    }

    fn peer(text: &str) -> PeerAddr {
        PeerAddr::Tcp(format!("{text}:1234").parse().unwrap())
    }

    #[test]
    fn connections_are_counted_up_to_the_limit() {
        let metrics = Metrics::new().unwrap();
        let count = ConnectionCount {
            open: Arc::default(),
            max: 1,
            gauge: Some(metrics.connections.clone()),
        };
        let one = count.take().unwrap();
        assert!(count.take().is_err());
        assert_eq!(metrics.connections.get(), 1);
        drop(one);
        assert!(count.take().is_ok());
    }

    #[test]
    fn an_address_has_its_own_limit_and_a_mapped_one_is_the_same() {
        let count = count(2);
        let one = count.take(peer("192.0.2.1")).unwrap();
        let _two = count.take(peer("[::ffff:192.0.2.1]")).unwrap();
        assert!(count.take(peer("192.0.2.1")).is_err());
        assert!(count.take(peer("192.0.2.2")).is_ok());
        drop(one);
        assert!(count.take(peer("192.0.2.1")).is_ok());
    }

    #[test]
    fn a_whole_64_is_one_client_and_the_next_one_is_not() {
        let count = count(1);
        let _one = count.take(peer("[2001:db8::1]")).unwrap();
        assert!(count.take(peer("[2001:db8::ffff:0:0:2]")).is_err());
        assert!(count.take(peer("[2001:db8:0:1::1]")).is_ok());
    }

    #[test]
    fn trusted_proxies_and_local_processes_are_exempt() {
        let count = count(1);
        let held: Vec<_> = ["10.1.2.3", "10.1.2.3", "[::ffff:10.1.2.3]"].map(peer).to_vec();
        assert!(held.into_iter().all(|peer| count.take(peer).unwrap().is_none()));
        assert!(count.take(PeerAddr::Unix).unwrap().is_none());
    }

    #[test]
    fn addresses_are_forgotten_with_their_last_connection() {
        let count = count(5);
        let held: Vec<_> = (0..1000_u32)
            .map(|n| {
                count
                    .take(PeerAddr::Tcp((std::net::Ipv4Addr::from_bits(0xC000_0000 + n), 1).into()))
                    .unwrap()
            })
            .collect();
        assert_eq!(count.open().len(), 1000);
        drop(held);
        assert_eq!(count.open().len(), 0);
        assert!(count.open().capacity() < 1000);
    }
}
