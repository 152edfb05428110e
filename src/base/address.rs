//! The address by which limits count a client.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that name a client: one client has a whole /64.
const IPV6_PREFIX: u32 = 64;

/// The network that counts as one client: an IPv4 address, or the /64 of an IPv6 address. An IPv4-mapped address is
/// IPv4.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - IPV6_PREFIX)))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_counts_by_its_network_and_a_mapped_ipv4_client_by_its_address() {
        let network = |text: &str| client_network(text.parse().unwrap()).to_string();
        assert_eq!(network("10.1.2.3"), "10.1.2.3");
        assert_eq!(network("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:2::9"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:3::9"), "2001:db8:1:3::");
    }
}
