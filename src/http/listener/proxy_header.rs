//! The PROXY protocol header (v1 and v2), in which a load balancer names the client of the connection it forwards.
//!
//! SECURITY: the source in it becomes the client's address. So `handshake` reads it only from `trusted_proxies`, only
//! as the first bytes of a connection, and only once: the bytes behind it are the client's own, and a second header in
//! them is no header. The parse has one reading: a header is complete, incomplete or malformed. An incomplete one is
//! read on until `limits.header_timeout`, a malformed one ends the connection; neither falls back to the socket's
//! address, which is the proxy's and might be trusted with more. A complete header without an address (LOCAL, UNKNOWN)
//! is the balancer's own health check, and keeps the socket's address.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// Longest v1 header, line end included (the protocol's own number).
const TEXT_BYTES_MAX: usize = 107;
/// Longest v2 header, its extensions (TLVs) included, which the gate does not read.
const BINARY_BYTES_MAX: usize = 4096;
/// Bytes before the addresses of v2; the last two of them are the length of the rest.
const BINARY_PREFIX: usize = 16;

/// A header as far as it has come.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Parsed {
    /// More bytes are needed.
    Partial,
    Whole {
        /// `None`: a health check of the balancer itself, or it does not know the client.
        source: Option<SocketAddr>,
        /// Length of the header in bytes.
        length: usize,
    },
    Malformed,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if may_start_with(bytes, v2::PROTOCOL_PREFIX) {
        parse_v2(bytes)
    } else if may_start_with(bytes, b"PROXY ") {
        parse_v1(bytes)
    } else {
        Parsed::Malformed
    }
}

/// True if the bytes start with the prefix, or may come to.
fn may_start_with(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.starts_with(prefix) || prefix.starts_with(bytes)
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some(&[high, low]) = bytes.get(BINARY_PREFIX - 2..BINARY_PREFIX) else {
        return Parsed::Partial;
    };
    let length = BINARY_PREFIX + usize::from(u16::from_be_bytes([high, low]));
    if length > BINARY_BYTES_MAX {
        return Parsed::Malformed;
    }
    let Some(whole) = bytes.get(..length) else {
        return Parsed::Partial;
    };
    let Ok(header) = v2::Header::try_from(whole) else {
        return Parsed::Malformed;
    };
    let source = match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, ..) | (_, _, v2::Addresses::Unspecified) => None,
        (_, v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => Some(socket_addr(ip.source_address, ip.source_port)),
        (_, v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => Some(socket_addr(ip.source_address, ip.source_port)),
        // a Unix socket or a datagram is no client of the gate
        _ => return Parsed::Malformed,
    };
    Parsed::Whole { source, length }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let line = bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < TEXT_BYTES_MAX {
            Parsed::Partial
        } else {
            Parsed::Malformed
        };
    };
    let length = end + 2;
    // the library reads ports with `str::parse`, which takes a sign
    if line.contains(&b'+') {
        return Parsed::Malformed;
    }
    let source = match line.get(..length).map(v1::Header::try_from) {
        Some(Ok(header)) => match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(ip) => Some(socket_addr(ip.source_address, ip.source_port)),
            v1::Addresses::Tcp6(ip) => Some(socket_addr(ip.source_address, ip.source_port)),
        },
        _ => return Parsed::Malformed,
    };
    Parsed::Whole { source, length }
}

fn socket_addr(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into().to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 127, 0, 0, 1, 4, 210, 1, 187];

    fn source(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn complete_headers_of_both_versions_give_their_source() {
        let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 16], &[4, 210, 1, 187]].concat();
        let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 1], &[0; 16], &[4, 210, 1, 187]].concat();
        let with_tlv = [&V4[..], &[4, 0, 1, 42]].concat();
        let cases: Vec<(Vec<u8>, Option<SocketAddr>)> = vec![
            (v2(0x21, 0x11, &V4), source("192.0.2.1:1234")),
            (v2(0x21, 0x11, &with_tlv), source("192.0.2.1:1234")),
            (v2(0x21, 0x21, &six), source("[2001:db8::1]:1234")),
            (v2(0x21, 0x21, &mapped), source("192.0.2.1:1234")),
            (v2(0x20, 0x11, &V4), None),
            (v2(0x20, 0, &[]), None),
            (v2(0x21, 0, &[]), None),
            (
                b"PROXY TCP4 192.0.2.1 127.0.0.1 1234 443\r\n".to_vec(),
                source("192.0.2.1:1234"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 1234 443\r\n".to_vec(),
                source("[2001:db8::1]:1234"),
            ),
            (
                b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1234 443\r\n".to_vec(),
                source("192.0.2.1:1234"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
        ];
        for (bytes, source) in cases {
            let length = bytes.len();
            let after = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&after), Parsed::Whole { source, length }, "{bytes:?}");
            for end in 0..length {
                assert_eq!(parse(&bytes[..end]), Parsed::Partial, "{bytes:?} up to {end}");
            }
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        let unix = [0; 216];
        let long = vec![0; BINARY_BYTES_MAX];
        let cases: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 1234\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 1234 443 5\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 1234 70000\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 +1 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 1234 +443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.01 127.0.0.1 1234 443\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 127.0.0.1 1234 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 ::1 1234 443\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 127.0.0.1 1234 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 127.0.0.1 1234 443\r\n".to_vec(),
            b"proxy TCP4 192.0.2.1 127.0.0.1 1234 443\r\n".to_vec(),
            b"PROXY \xff\xfe\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x12, &V4),
            v2(0x21, 0x31, &unix),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x11, &V4[..8]),
            v2(0x21, 0x11, &long),
        ];
        for bytes in cases {
            assert_eq!(parse(&bytes), Parsed::Malformed, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_and_no_header_is_longer_than_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3) {
            let bytes = match kind {
                0 => bytes,
                1 => [b"PROXY ", &bytes[..]].concat(),
                _ => [v2::PROTOCOL_PREFIX, &bytes[..]].concat(),
            };
            if let Parsed::Whole { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
