//! What the app is told about the client: encoded once for each, remembered for its next requests.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use quick_cache::unsync::Cache;

use crate::http::request::{ClientFacts, NamedBy};

/// Clients remembered per thread.
const CLIENTS_MAX: usize = 1024;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The clients that a thread has seen. No lock: it never leaves its thread.
#[derive(Clone)]
pub(super) struct Clients(Rc<RefCell<Cache<ClientFacts, ClientHeaders>>>);

/// One address, not a chain: the client as the gate believes it, so an app needs no hop counting.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ClientHeaders {
    address: HeaderValue,
    forwarded: HeaderValue,
    host: HeaderValue,
    port: HeaderValue,
}

impl Default for Clients {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Cache::new(CLIENTS_MAX))))
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    /// Says who the client is, in place of whatever the headers say.
    pub fn set(&self, headers: &mut HeaderMap, client: &ClientFacts) {
        let mut known = self.0.borrow_mut();
        let own = match known.get(client) {
            Some(own) => own.clone(),
            None => {
                let own = ClientHeaders::of(client);
                known.insert(client.clone(), own.clone());
                own
            }
        };
        if client.named_by == NamedBy::Proxy {
            // SECURITY: the app gets the host that was decided on
            headers.insert(HOST, own.host.clone());
        }
        headers.insert(FORWARDED, own.forwarded);
        headers.insert(&FORWARDED_FOR, own.address);
        headers.insert(&FORWARDED_PROTO, HeaderValue::from_static(client.scheme.as_str()));
        headers.insert(&FORWARDED_HOST, own.host);
        headers.insert(&FORWARDED_PORT, own.port);
    }
}

impl ClientHeaders {
    fn of(client: &ClientFacts) -> Self {
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
    use crate::types::Scheme;

    #[test]
    fn each_client_is_told_as_itself_however_often_and_whoever_came_before() {
        let known = Clients::default();
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
                    known.set(&mut headers, &client);
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
