//! Addresses, URLs and header names.
//!
//! Messages show no URL that could hold a password: one with `@` in it is described, not repeated.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use url::{Host, Url};

use super::Checker;
use crate::config::raw::{RawControlListen, RawDecisionListen, RawListen, RawProxyListen, RawTls};
use crate::config::{Address, DecisionListen, Listen, ProxyListen, ProxyProtocol, Tls};

pub const UNIX: &str = "unix:";

/// Hop-by-hop and framing headers are the HTTP library's; stripping or replacing them would break requests.
const RESERVED_HEADERS: [&str; 11] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-type",
];

impl Checker<'_> {
    pub fn listen(&mut self, raw: &RawListen) -> Option<Listen> {
        let proxy = self.proxy(&raw.proxy);
        let decision = raw.decision.as_ref().map(|decision| self.decision(decision));
        let admin = raw
            .admin
            .as_ref()
            .map(|admin| self.socket_address("listen.admin.address", &admin.address));
        let control = raw.control.as_ref().map(|control| self.control(control));
        let listen = Listen {
            proxy: proxy?,
            decision: transpose(decision)?,
            admin: transpose(admin)?,
            control: transpose(control)?,
        };
        self.distinct(&listen);
        Some(listen)
    }

    fn distinct(&mut self, listen: &Listen) {
        let tcp = |address: &Address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        };
        let decision = listen.decision.as_ref().and_then(|decision| tcp(&decision.address));
        let named = [("listen.decision.address", decision), ("listen.admin.address", listen.admin)];
        let mut taken = vec![("listen.proxy.address", listen.proxy.address)];
        for (key, address) in named.into_iter().filter_map(|(key, address)| Some((key, address?))) {
            if let Some((other, _)) = taken.iter().find(|(_, other)| overlaps(*other, address)) {
                self.error(key, format!("`{address}` is also taken by `{other}`; choose another port"));
            }
            taken.push((key, address));
        }
    }

    fn proxy(&mut self, raw: &RawProxyListen) -> Option<ProxyListen> {
        let address = self.socket_address("listen.proxy.address", &raw.address);
        let tls = raw.tls.as_ref().map(|tls| self.tls("listen.proxy.tls", tls));
        let proxy_protocol = if raw.proxy_protocol {
            ProxyProtocol::Required
        } else {
            ProxyProtocol::Off
        };
        Some(ProxyListen {
            address: address?,
            tls: transpose(tls)?,
            proxy_protocol,
        })
    }

    fn control(&mut self, raw: &RawControlListen) -> Option<PathBuf> {
        let key = "listen.control.address";
        match raw.address.as_ref()?.strip_prefix(UNIX) {
            Some(path) if !path.is_empty() => Some(self.path(key, path)),
            _ => {
                self.error(key, "is a Unix socket only; write it as `unix:/run/cedargate/control.sock`");
                None
            }
        }
    }

    /// What is in the files is `tls`'s to say, at start and whenever they change.
    fn tls(&mut self, section: &str, raw: &RawTls) -> Option<Tls> {
        let mut file = |name: &str, text: &Option<String>| {
            let text = text.as_ref()?;
            Some(self.path(&format!("{section}.{name}"), text))
        };
        let (cert, key) = (file("cert", &raw.cert), file("key", &raw.key));
        let client_ca = file("client_ca", &raw.client_ca);
        Some(Tls {
            cert: cert?,
            key: key?,
            client_ca,
        })
    }

    fn decision(&mut self, raw: &RawDecisionListen) -> Option<DecisionListen> {
        let key = "listen.decision.address";
        let section = "listen.decision.auth";
        let address = match raw.address.strip_prefix(UNIX) {
            Some("") => {
                self.error(key, "`unix:` needs a path, such as `unix:/run/cedargate/decision.sock`");
                None
            }
            Some(path) => Some(Address::Unix(self.path(key, path))),
            None => self.socket_address(key, &raw.address).map(Address::Tcp),
        };
        let tokens = self.tokens(section, raw.auth.tokens.as_deref(), raw.auth.tokens_file.as_deref());
        let tls = transpose(raw.tls.as_ref().map(|tls| self.tls("listen.decision.tls", tls)))?;
        if tls.is_some() && matches!(address, Some(Address::Unix(_))) {
            self.error("listen.decision.tls", "is for TCP; a Unix socket needs none, so remove it");
            return None;
        }
        let known = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let address = address?;
        let open = matches!(&address, Address::Tcp(tcp) if !tcp.ip().to_canonical().is_loopback());
        // INVARIANT: off loopback there are tokens; a mistake in them was reported with their key
        if open && tokens.is_empty() && !known {
            if !self.errors.iter().any(|error| error.key.starts_with(section)) {
                let message = format!(
                    "`{}` is reachable from other hosts, so callers must present a token or a certificate: set this key or \
                     `listen.decision.tls.client_ca`, or listen on 127.0.0.1",
                    raw.address
                );
                self.error(&format!("{section}.tokens_file"), message);
            }
            return None;
        }
        Some(DecisionListen { address, tokens, tls })
    }

    fn socket_address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let problem = match text.parse() {
            Ok(address) => return Some(address),
            Err(_) if text.starts_with(UNIX) => {
                "is a Unix socket, which only `listen.decision` and `listen.control` can use; write an IP address and port"
            }
            Err(_) if text.parse::<IpAddr>().is_ok() => "has no port; write it as `127.0.0.1:8900` or `[::1]:8900`",
            Err(_) if text.starts_with(':') => "has no address; write `0.0.0.0` before it to listen on all",
            Err(_) if text.starts_with("localhost:") => "is a name; write the IP address, `127.0.0.1`",
            Err(_) => "is not an IP address and port, such as `127.0.0.1:8900` or `[::1]:8900`",
        };
        self.error(key, format!("`{text}` {problem}"));
        None
    }

    pub fn public_url(&mut self, text: Option<&str>) -> Option<String> {
        let text = text?;
        let key = "public_url";
        let url = self.parse_url(key, text)?;
        let whole = format!("{}://", url.scheme());
        let bare = text.trim_end_matches('/').matches('/').count() == 2;
        if !["http", "https"].contains(&url.scheme()) || !text.to_ascii_lowercase().starts_with(&whole) || url.host().is_none() {
            self.error(key, "write `https://` and the host that browsers use");
            return None;
        }
        if !bare || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            self.error(key, "has a path or query; write scheme and host only");
            return None;
        }
        Some(url.origin().ascii_serialization())
    }

    /// Parses what is meant as a URL; one with credentials in it is refused, so that none can end up in a log.
    pub fn parse_url(&mut self, key: &str, text: &str) -> Option<Url> {
        // the parser would quietly drop or turn these
        let odd = text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\');
        match Url::parse(text) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() || text.contains('@') => {
                self.error(key, "has a user name or password in it; remove it");
                None
            }
            Ok(url) if !odd => Some(url),
            _ if text.contains('@') => {
                self.error(key, "is not a URL such as `http://127.0.0.1:3000`");
                None
            }
            _ => {
                self.error(key, format!("`{text}` is not a URL such as `http://127.0.0.1:3000`"));
                None
            }
        }
    }

    pub fn strip_headers(&mut self, key: &str, names: &[String]) -> Vec<String> {
        let each = names.iter().enumerate();
        each.map(|(n, name)| self.header_name(&format!("{key}[{n}]"), name)).collect()
    }

    /// A header's name in lower case.
    pub fn header_name(&mut self, key: &str, text: &str) -> String {
        let name = text.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            self.error(key, format!("`{text}` is not a header name; use letters, digits and `-`"));
        } else if RESERVED_HEADERS.contains(&name.as_str()) {
            self.error(
                key,
                format!("`{text}` has a meaning of its own in HTTP and cannot be used here"),
            );
        }
        name
    }

    pub fn trusted_proxies(&mut self, texts: &[String]) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(net) => nets.push(net.trunc()),
                Err(_) => {
                    let message = format!(
                        "`{text}` is not a network; write an address, such as `10.0.0.7`, or a range, such as `10.0.0.0/8`"
                    );
                    self.error(&format!("trusted_proxies[{n}]"), message);
                }
            }
        }
        nets
    }
}

/// Whether the URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).to_canonical().is_loopback(),
        None => false,
    }
}

fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    // port 0 asks the system for a free one
    let either_any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || either_any)
}

/// Off is fine, on with a mistake is not.
pub fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(inner) => inner.map(Some),
    }
}
