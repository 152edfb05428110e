//! The client behind trusted proxies: `X-Forwarded-*` and RFC 7239's `Forwarded`.
//!
//! The headers count only if the peer is in `trusted_proxies`. A proxy that writes one of the two families passes on a
//! client's forgery of the other, so if both are there they must agree. A malformed header is refused: falling back to
//! the proxy's own address could give a foreign client the rights of an internal one.

use std::net::IpAddr;

use cedargate_policy::denial::Refusal;
use cedargate_policy::types::Scheme;
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::{Authority, ClientFacts, NamedBy, Target, authority, invalid, single_value};

static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static NAMED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The statements of one family of headers; `None` for a fact that it does not state.
#[derive(Default, PartialEq)]
struct Statements {
    source_ip: Option<IpAddr>,
    scheme: Option<Scheme>,
    host: Option<Authority>,
}

/// One proxy's element of `Forwarded`.
struct ForwardedElement {
    source_ip: IpAddr,
    proto: Option<String>,
    host: Option<String>,
}

/// Returns address, scheme and host of the client. `peer` and `scheme` are those of the connection.
pub fn client_facts(
    headers: &HeaderMap,
    peer: IpAddr,
    scheme: Scheme,
    target: Target<'_>,
    trusted: &[IpNet],
) -> Result<ClientFacts, Refusal> {
    let peer = peer.to_canonical();
    let stated = if is_trusted(peer, trusted) {
        merge(read_x_forwarded(headers, trusted)?, read_forwarded(headers, trusted)?)?
    } else {
        Statements::default()
    };
    let scheme = stated.scheme.unwrap_or(scheme);
    let named_by = if stated.host.is_some() {
        NamedBy::Proxy
    } else {
        NamedBy::Host
    };
    let host = stated.host.unwrap_or(Authority {
        host: target.host,
        port: target.port,
    });
    Ok(ClientFacts {
        source_ip: stated.source_ip.unwrap_or(peer),
        scheme,
        host: host.host,
        port: host.port.unwrap_or_else(|| scheme.default_port()),
        named_by,
    })
}

/// SECURITY: if both families are there they must state the same facts. A fact that one does not state could be the
/// client's own in the other.
fn merge(x_forwarded: Statements, forwarded: Statements) -> Result<Statements, Refusal> {
    match (x_forwarded == Statements::default(), forwarded == Statements::default()) {
        (_, true) => Ok(x_forwarded),
        (true, _) => Ok(forwarded),
        _ if x_forwarded == forwarded => Ok(x_forwarded),
        _ => Err(invalid("`Forwarded` and `X-Forwarded-*` disagree")),
    }
}

/// The client's address by `X-Forwarded-For`; `None` without the header.
pub(super) fn forwarded_address(headers: &HeaderMap, trusted: &[IpNet]) -> Result<Option<IpAddr>, Refusal> {
    if !headers.contains_key(&FOR) {
        return Ok(None);
    }
    let hops = items_from_right(headers, &FOR, |line| Some(line.split(',').collect()));
    let addresses = hops.map(|hop| parse_address(hop?.trim()));
    let client = rightmost_untrusted(addresses, |address| *address, trusted);
    client
        .map(Some)
        .ok_or_else(|| invalid("`X-Forwarded-For` is not a list of addresses"))
}

fn read_x_forwarded(headers: &HeaderMap, trusted: &[IpNet]) -> Result<Statements, Refusal> {
    let mut stated = Statements {
        source_ip: forwarded_address(headers, trusted)?,
        ..Statements::default()
    };
    if headers.contains_key(&PROTO) {
        stated.scheme = single_value(headers, &PROTO).and_then(scheme_named);
        stated
            .scheme
            .ok_or(invalid("`X-Forwarded-Proto` is neither http nor https"))?;
    }
    if headers.contains_key(&NAMED_HOST) {
        stated.host = single_value(headers, &NAMED_HOST).and_then(authority);
        if stated.host.is_none() {
            return Err(invalid("`X-Forwarded-Host` is not one host"));
        }
    }
    Ok(stated)
}

fn read_forwarded(headers: &HeaderMap, trusted: &[IpNet]) -> Result<Statements, Refusal> {
    let malformed = || invalid("`Forwarded` is not a list of hops that each name an address");
    if !headers.contains_key(FORWARDED) {
        return Ok(Statements::default());
    }
    let hops = items_from_right(headers, &FORWARDED, |line| split_unquoted(line, ',')).map(|element| parse_hop(element?));
    let client = rightmost_untrusted(hops, |hop| hop.source_ip, trusted).ok_or_else(malformed)?;
    Ok(Statements {
        source_ip: Some(client.source_ip),
        scheme: match &client.proto {
            Some(proto) => Some(scheme_named(proto).ok_or_else(malformed)?),
            None => None,
        },
        host: match &client.host {
            Some(host) => Some(authority(host).ok_or_else(malformed)?),
            None => None,
        },
    })
}

/// Returns a header's items from the last one of the last line on; `None` in place of an unreadable line. Empty items
/// are ignored (RFC 9110, 5.6.1).
fn items_from_right<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    items: impl Fn(&'a str) -> Option<Vec<&'a str>>,
) -> impl Iterator<Item = Option<&'a str>> {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    lines.into_iter().rev().flat_map(move |line| {
        let items = line.to_str().ok().and_then(&items);
        let items = items.map_or_else(|| vec![None], |items| items.into_iter().map(Some).collect());
        let is_empty = |item: &Option<&str>| item.is_some_and(|item| item.trim().is_empty());
        items.into_iter().rev().filter(move |item| !is_empty(item))
    })
}

/// Returns the rightmost hop outside `trusted`, else the leftmost hop. Hops left of it may be the client's own text and
/// are not read. `None` if a hop that is read is malformed.
fn rightmost_untrusted<T>(hops: impl Iterator<Item = Option<T>>, address: impl Fn(&T) -> IpAddr, trusted: &[IpNet]) -> Option<T> {
    let mut leftmost = None;
    for hop in hops {
        let hop = hop?;
        if !is_trusted(address(&hop), trusted) {
            return Some(hop);
        }
        leftmost = Some(hop);
    }
    leftmost
}

/// Splits outside quotes; `None` if a quote stays open.
fn split_unquoted(text: &str, at: char) -> Option<Vec<&str>> {
    let mut quoted = false;
    let mut escaped = false;
    let mut parts = Vec::new();
    let mut rest = text;
    let mut length = 0;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == at && !quoted => {
                let (part, after) = rest.split_at_checked(length)?;
                parts.push(part);
                rest = after.strip_prefix(at)?;
                length = 0;
                continue;
            }
            _ => {}
        }
        length += c.len_utf8();
    }
    parts.push(rest);
    (!quoted).then_some(parts)
}

/// Parses `for=192.0.2.1;proto=https;host="shop.test"`. `None` if it is malformed or names no address (`unknown`,
/// `_hidden`).
fn parse_hop(element: &str) -> Option<ForwardedElement> {
    let mut address = None;
    let mut proto = None;
    let mut host = None;
    for pair in split_unquoted(element, ';')? {
        let (name, value) = pair.trim().split_once('=')?;
        let slot = match name.to_ascii_lowercase().as_str() {
            "for" => &mut address,
            "proto" => &mut proto,
            "host" => &mut host,
            _ => continue,
        };
        if slot.replace(unquote(value)?).is_some() {
            return None;
        }
    }
    Some(ForwardedElement {
        source_ip: parse_address(&address?)?,
        proto,
        host,
    })
}

fn unquote(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let inner = inner.strip_suffix('"')?;
    // no value that the gate reads needs an escape
    (!inner.contains(['"', '\\'])).then(|| inner.to_owned())
}

pub(super) fn scheme_named(text: &str) -> Option<Scheme> {
    [Scheme::Http, Scheme::Https]
        .into_iter()
        .find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
}

/// Parses an address as proxies write it: bare, `ip:port`, `[ipv6]` or `[ipv6]:port`.
fn parse_address(hop: &str) -> Option<IpAddr> {
    let address = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// True if this peer's statements about a client count.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::check;
    use cedargate_policy::denial::Denial;

    fn facts_from(peer: &str, headers: &[(&str, &str)], direct: Scheme) -> Result<ClientFacts, Refusal> {
        let mut builder = http::Request::builder().uri("/").header("host", "a.test");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let parts = builder.body(()).unwrap().into_parts().0;
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_facts(
            &parts.headers,
            peer.parse().unwrap(),
            direct,
            check(&parts).unwrap(),
            &trusted,
        )
    }

    fn facts(peer: &str, headers: &[(&str, &str)]) -> ClientFacts {
        facts_from(peer, headers, Scheme::Http).unwrap()
    }

    #[test]
    fn forwarded_headers_count_only_from_trusted_peers() {
        let headers = [
            ("x-forwarded-for", "6.6.6.6, 1.2.3.4"),
            ("x-forwarded-for", "10.9.9.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "Shop.test"),
        ];
        let direct = facts("9.9.9.9", &headers);
        assert_eq!(
            (direct.source_ip.to_string().as_str(), direct.scheme),
            ("9.9.9.9", Scheme::Http)
        );
        assert_eq!((direct.host.as_str(), direct.port), ("a.test", 80));
        let proxied = facts("::ffff:10.1.1.1", &headers);
        assert_eq!(
            (proxied.source_ip.to_string().as_str(), proxied.scheme),
            ("1.2.3.4", Scheme::Https)
        );
        assert_eq!((proxied.host.as_str(), proxied.port), ("shop.test", 443));
    }

    #[test]
    fn empty_items_of_a_list_of_addresses_are_ignored() {
        for value in ["203.0.113.7, ", "203.0.113.7,", ", 203.0.113.7", "6.6.6.6, 203.0.113.7 ,, "] {
            let proxied = facts("10.0.0.1", &[("x-forwarded-for", value)]);
            assert_eq!(proxied.source_ip.to_string(), "203.0.113.7", "{value}");
            let value = value.replace("6.6.6.6", "for=6.6.6.6").replace("203", "for=203");
            let proxied = facts("10.0.0.1", &[("forwarded", &value)]);
            assert_eq!(proxied.source_ip.to_string(), "203.0.113.7", "{value}");
        }
        for value in ["", " , "] {
            assert!(
                facts_from("10.0.0.1", &[("x-forwarded-for", value)], Scheme::Http).is_err(),
                "{value}"
            );
        }
    }

    #[test]
    fn the_connection_gives_the_scheme_if_no_header_states_it() {
        for (headers, scheme, port) in [
            (&[][..], Scheme::Https, 443),
            (&[("x-forwarded-proto", "http")], Scheme::Http, 80),
            (&[("forwarded", "for=1.2.3.4;proto=http")], Scheme::Http, 80),
        ] {
            let facts = facts_from("10.0.0.1", headers, Scheme::Https).unwrap();
            assert_eq!((facts.scheme, facts.port), (scheme, port), "{headers:?}");
        }
        let forged = facts_from("9.9.9.9", &[("x-forwarded-proto", "http")], Scheme::Https).unwrap();
        assert_eq!(forged.scheme, Scheme::Https);
    }

    #[test]
    fn the_standard_header_states_address_scheme_and_host() {
        for (value, address, scheme, host) in [
            ("for=1.2.3.4", "1.2.3.4", Scheme::Http, "a.test"),
            (
                "For=\"1.2.3.4:99\";Proto=HTTPS;Host=\"Shop.test:8443\"",
                "1.2.3.4",
                Scheme::Https,
                "shop.test",
            ),
            (
                "for=\"[2001:db8::1]:4711\"; by=10.0.0.1",
                "2001:db8::1",
                Scheme::Http,
                "a.test",
            ),
            (
                "for=6.6.6.6;proto=https, for=1.2.3.4, for=10.0.0.7;proto=https",
                "1.2.3.4",
                Scheme::Http,
                "a.test",
            ),
            ("for=10.0.0.9;host=in.test, for=10.0.0.7", "10.0.0.9", Scheme::Http, "in.test"),
            ("for=\"::ffff:1.2.3.4\"", "1.2.3.4", Scheme::Http, "a.test"),
            ("whatever a client writes, for=1.2.3.4", "1.2.3.4", Scheme::Http, "a.test"),
            ("for=1.2.3.4;ext=\"a,b;c\\\"\"", "1.2.3.4", Scheme::Http, "a.test"),
        ] {
            let facts = facts("10.0.0.1", &[("forwarded", value)]);
            assert_eq!(
                (facts.source_ip.to_string().as_str(), facts.scheme, facts.host.as_str()),
                (address, scheme, host),
                "{value}"
            );
        }
        let stranger = facts("9.9.9.9", &[("forwarded", "for=1.2.3.4;proto=https")]);
        assert_eq!(
            (stranger.source_ip.to_string().as_str(), stranger.scheme),
            ("9.9.9.9", Scheme::Http)
        );
    }

    #[test]
    fn two_headers_that_disagree_are_refused() {
        let both = |new: &str, old: &[(&str, &str)]| {
            let mut headers = vec![("forwarded", new)];
            headers.extend_from_slice(old);
            facts_from("10.0.0.1", &headers, Scheme::Http)
        };
        let same = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")];
        assert!(both("for=1.2.3.4;proto=https", &same).is_ok());
        for (new, old) in [
            ("for=1.2.3.4", ("x-forwarded-for", "1.2.3.5")),
            ("for=1.2.3.4;proto=https", ("x-forwarded-for", "1.2.3.4")),
            ("for=1.2.3.4;host=b.test", ("x-forwarded-for", "1.2.3.4")),
            ("for=1.2.3.4", ("x-forwarded-host", "b.test")),
            ("for=1.2.3.4;proto=https", ("x-forwarded-proto", "http")),
            ("for=1.2.3.4;host=a.test", ("x-forwarded-host", "b.test")),
        ] {
            assert_eq!(both(new, &[old]).unwrap_err().denial, Denial::RequestInvalid, "{new} {old:?}");
        }
    }

    #[test]
    fn a_malformed_forwarded_chain_is_refused() {
        for (name, chain) in [
            ("x-forwarded-for", ""),
            ("x-forwarded-for", "1.2.3.4, unknown"),
            ("x-forwarded-for", " , "),
            ("x-forwarded-for", "%00"),
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "a.test, b.test"),
            ("forwarded", ""),
            ("forwarded", "for=unknown"),
            ("forwarded", "for=_hidden"),
            ("forwarded", "proto=https"),
            ("forwarded", " ,"),
            ("forwarded", "for=1.2.3.4;for=1.2.3.5"),
            ("forwarded", "for=1.2.3.4;proto=https;proto=http"),
            ("forwarded", "for=\"1.2.3.4"),
            ("forwarded", "for=1.2.3.4\""),
            ("forwarded", "for=1.2.3.4;proto=ftp"),
            ("forwarded", "for=1.2.3.4;host=\"a b\""),
            ("forwarded", "1.2.3.4"),
        ] {
            let facts = facts_from("10.1.1.1", &[(name, chain)], Scheme::Http);
            assert_eq!(facts.unwrap_err().denial, Denial::RequestInvalid, "{name}: {chain}");
        }
        for (chain, expected) in [
            ("1.2.3.4:99", "1.2.3.4"),
            ("[2001:db8::1]:9", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("garbage, 1.2.3.4, 10.0.0.9", "1.2.3.4"),
        ] {
            assert_eq!(
                facts("10.1.1.1", &[("x-forwarded-for", chain)]).source_ip.to_string(),
                expected
            );
        }
    }
}
