//! The headers that tell the app about the client: `Forwarded`, `X-Forwarded-*` and, behind a proxy, `Host`.
//!
//! Each worker encodes them once per client and caches them for the client's next requests.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use quick_cache::unsync::Cache;

use crate::http::request::{ClientFacts, NamedBy};

/// Clients kept per thread; the cache evicts beyond that.
const CLIENTS_MAX: usize = 1024;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The encoded headers of a worker's recent clients. No lock: the cache never leaves its thread.
#[derive(Clone)]
pub(super) struct ClientHeaderCache(Rc<RefCell<Cache<ClientFacts, ClientHeaders>>>);

/// The encoded headers of one client. They name one address, the client's as the gate determined it; the app need not
/// count hops.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ClientHeaders {
    address: HeaderValue,
    forwarded: HeaderValue,
    host: HeaderValue,
    port: HeaderValue,
}

impl Default for ClientHeaderCache {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Cache::new(CLIENTS_MAX))))
    }
}

impl fmt::Debug for ClientHeaderCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHeaderCache").finish_non_exhaustive()
    }
}

impl ClientHeaderCache {
    /// Writes the client's headers over those that the request brought.
    pub fn set(&self, headers: &mut HeaderMap, client: &ClientFacts) {
        let mut cache = self.0.borrow_mut();
        let encoded = match cache.get(client) {
            Some(encoded) => encoded.clone(),
            None => {
                let encoded = ClientHeaders::encode(client);
                cache.insert(client.clone(), encoded.clone());
                encoded
            }
        };
        if client.named_by == NamedBy::Proxy {
            // SECURITY: the app gets the host that the decision used
            headers.insert(HOST, encoded.host.clone());
        }
        headers.insert(FORWARDED, encoded.forwarded);
        headers.insert(&FORWARDED_FOR, encoded.address);
        headers.insert(&FORWARDED_PROTO, HeaderValue::from_static(client.scheme.as_str()));
        headers.insert(&FORWARDED_HOST, encoded.host);
        headers.insert(&FORWARDED_PORT, encoded.port);
    }
}

impl ClientHeaders {
    fn encode(client: &ClientFacts) -> Self {
        let address = client.source_ip.to_string();
        let (before, after) = if client.source_ip.is_ipv6() {
            ("for=\"[", "]\"")
        } else {
            ("for=", "")
        };
        let host = if client.port == client.scheme.default_port() {
            Cow::Borrowed(&client.host)
        } else {
            Cow::Owned(format!("{}:{}", client.host, client.port))
        };
        let scheme = client.scheme.as_str();
        let forwarded = [before, &address, after, ";proto=", scheme, ";host=\"", &host, "\""].concat();
        Self {
            forwarded: value(forwarded),
            address: value(address),
            host: value(host.into_owned()),
            port: HeaderValue::from(client.port),
        }
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedargate_policy::types::Scheme;

    #[test]
    fn each_client_gets_its_own_headers_on_every_request() {
        let cache = ClientHeaderCache::default();
        let facts = |n: u8, port: u16, named_by| ClientFacts {
            source_ip: [10, 0, 0, n].into(),
            scheme: Scheme::Https,
            host: format!("h{n}.test"),
            port,
            named_by,
        };
        for _ in 0..2 {
            for n in 0..=255 {
                for (port, named_by) in [(443, NamedBy::Host), (8443, NamedBy::Proxy), (443, NamedBy::Proxy)] {
                    let client = facts(n, port, named_by);
                    let mut headers = HeaderMap::new();
                    headers.insert(HOST, HeaderValue::from_static("said.test"));
                    headers.insert(&FORWARDED_FOR, HeaderValue::from_static("6.6.6.6"));
                    cache.set(&mut headers, &client);
                    let host = match port {
                        443 => format!("h{n}.test"),
                        _ => format!("h{n}.test:{port}"),
                    };
                    let named = if named_by == NamedBy::Proxy {
                        host.as_str()
                    } else {
                        "said.test"
                    };
                    assert_eq!(headers[HOST], named);
                    assert_eq!(headers[&FORWARDED_FOR], format!("10.0.0.{n}"));
                    assert_eq!(headers[FORWARDED], format!("for=10.0.0.{n};proto=https;host=\"{host}\""));
                    assert_eq!(headers[&FORWARDED_HOST], host);
                    assert_eq!(headers[&FORWARDED_PORT], port.to_string());
                    assert_eq!(headers[&FORWARDED_PROTO], "https");
                }
            }
        }
    }
}
