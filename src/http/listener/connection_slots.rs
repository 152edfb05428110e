//! Slots for connections: a total of one listener over all workers, and a limit per client address.
//!
//! A new connection acquires the total slot before a byte of it is read, and the address's slot as soon as its address
//! is known (`handshake`). Both are freed when the last holder of the connection drops them, tunnels and panics
//! included.
//!
//! Workers race for both. The total is one compare-and-swap that never passes the maximum, so the number of open
//! connections never exceeds it. The address counts are one map behind a lock; look-up and increment happen under it,
//! and so do decrement and removal, so an entry is never removed while another worker adds to it. An entry lives as
//! long as its last connection: the map is never larger than `limits.connections`. A connection that gets no slot for
//! its address gives its total slot back when it closes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;

use super::PeerAddr;
use crate::base::address::client_network;
use crate::config::Limits;

/// Open connections of one listener, on all workers together. Each listener has a count of its own, so that clients of
/// one cannot starve another.
#[derive(Clone, Debug)]
pub struct ConnectionCount {
    open: Arc<AtomicUsize>,
    max: usize,
    /// The key of `max`.
    key: &'static str,
    gauge: Option<prometheus::IntGauge>,
}

/// One counted connection; dropping it frees its slot.
#[derive(Debug)]
pub struct TotalSlot(ConnectionCount);

/// Connections per client address, up to `limits.connections_per_address`; shared by all workers.
#[derive(Clone, Debug)]
pub struct AddressCount {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
    exempt: Arc<[IpNet]>,
}

/// One connection of an address; dropping it frees its slot.
#[derive(Debug)]
pub struct AddressSlot {
    count: AddressCount,
    address: IpAddr,
}

/// The slots of one connection.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// Dropped first: the map of addresses never has more entries than there are total slots.
    _address: Option<AddressSlot>,
    _total: TotalSlot,
}

/// No slot is free; holds the key of the limit.
#[derive(Debug)]
pub struct LimitReached(pub &'static str);

impl ConnectionCount {
    /// `key`: the name of `max` in the configuration.
    pub fn new(key: &'static str, max: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
            key,
            gauge: None,
        }
    }

    /// The same, added to a published number.
    pub fn published(self, gauge: &prometheus::IntGauge) -> Self {
        Self {
            gauge: Some(gauge.clone()),
            ..self
        }
    }

    pub(super) fn acquire(&self) -> Result<TotalSlot, LimitReached> {
        let acquired = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < self.max).then_some(open + 1)
        });
        match acquired {
            Ok(_before) => {
                if let Some(gauge) = &self.gauge {
                    gauge.inc();
                }
                Ok(TotalSlot(self.clone()))
            }
            Err(_open) => Err(LimitReached(self.key)),
        }
    }
}

impl Drop for TotalSlot {
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
        limits.connections_per_address.map(|max| Self {
            open: Arc::default(),
            max: max.as_usize(),
            exempt: exempt.into(),
        })
    }

    /// `None` for peers without a limit: trusted proxies and processes of this machine.
    fn acquire(&self, peer: PeerAddr) -> Result<Option<AddressSlot>, LimitReached> {
        let PeerAddr::Tcp(address) = peer else { return Ok(None) };
        let address = address.ip().to_canonical();
        if self.exempt.iter().any(|net| net.contains(&address)) {
            return Ok(None);
        }
        let address = client_network(address);
        let mut open = self.open.lock();
        let count = open.entry(address).or_default();
        if *count >= self.max {
            return Err(LimitReached("limits.connections_per_address"));
        }
        *count += 1;
        drop(open);
        Ok(Some(AddressSlot {
            count: self.clone(),
            address,
        }))
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut open = self.count.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.address);
                // frees the memory that a flood of addresses took
                if open.len() * 4 < open.capacity() {
                    open.shrink_to_fit();
                }
            }
        }
    }
}

impl ConnectionSlot {
    /// Adds the address's slot to the total slot. `addresses` is `None` if the listener has no limit per address.
    pub(super) fn acquire(total: TotalSlot, addresses: Option<&AddressCount>, peer: PeerAddr) -> Result<Self, LimitReached> {
        let address = match addresses {
            Some(addresses) => addresses.acquire(peer)?,
            None => None,
        };
        Ok(Self {
            _address: address,
            _total: total,
        })
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
    fn total_slots_are_given_up_to_the_limit_and_come_back() {
        let gauge = prometheus::IntGauge::new("open", "open").unwrap();
        let count = ConnectionCount::new("limits.connections", 1).published(&gauge);
        let one = count.acquire().unwrap();
        assert_eq!(count.acquire().unwrap_err().0, "limits.connections");
        assert_eq!(gauge.get(), 1);
        drop(one);
        assert!(count.acquire().is_ok());
    }

    #[test]
    fn an_address_has_its_own_limit_and_its_ipv4_mapped_form_counts_with_it() {
        let count = count(2);
        let one = count.acquire(peer("192.0.2.1")).unwrap();
        let _two = count.acquire(peer("[::ffff:192.0.2.1]")).unwrap();
        assert!(count.acquire(peer("192.0.2.1")).is_err());
        assert!(count.acquire(peer("192.0.2.2")).is_ok());
        drop(one);
        assert!(count.acquire(peer("192.0.2.1")).is_ok());
    }

    #[test]
    fn an_ipv6_64_counts_as_one_client_and_the_next_64_as_another() {
        let count = count(1);
        let _one = count.acquire(peer("[2001:db8::1]")).unwrap();
        assert!(count.acquire(peer("[2001:db8::ffff:0:0:2]")).is_err());
        assert!(count.acquire(peer("[2001:db8:0:1::1]")).is_ok());
    }

    #[test]
    fn trusted_proxies_and_local_processes_have_no_address_limit() {
        let count = count(1);
        let held: Vec<_> = ["10.1.2.3", "10.1.2.3", "[::ffff:10.1.2.3]"].map(peer).to_vec();
        assert!(held.into_iter().all(|peer| count.acquire(peer).unwrap().is_none()));
        assert!(count.acquire(PeerAddr::Unix(None)).unwrap().is_none());
    }

    #[test]
    fn an_address_is_forgotten_with_its_last_connection() {
        let count = count(5);
        let held: Vec<_> = (0..1000_u32)
            .map(|n| {
                count
                    .acquire(PeerAddr::Tcp((std::net::Ipv4Addr::from_bits(0xC000_0000 + n), 1).into()))
                    .unwrap()
            })
            .collect();
        assert_eq!(count.open.lock().len(), 1000);
        drop(held);
        assert_eq!(count.open.lock().len(), 0);
        assert!(count.open.lock().capacity() < 1000);
    }
}
