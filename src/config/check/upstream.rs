//! The app behind the gate: where it is, which HTTP it speaks, and what a portal's own app takes from the top level.

use url::Url;

use super::network::{UNIX, transpose};
use super::{Checker, HEADER_BYTES_MIN};
use crate::config::raw::{DurationText, RawCircuit, RawProtocol, RawUpstream, RawUpstreamOverride, RawUpstreamTls};
use crate::config::{Authority, Circuit, Protocol, Upstream, UpstreamTls, UpstreamUrl};

/// `http` with `protocol: http2`, in one word.
const H2C: &str = "h2c";
const FORMS: &str = "write it as `http://host:port`, `https://host:port`, `h2c://host:port` or `unix:/path`";

impl Checker<'_> {
    pub fn upstream(&mut self, raw: &RawUpstream) -> Option<Upstream> {
        let key = |name: &str| format!("upstream.{name}");
        let url = raw.url.as_ref().and_then(|url| self.upstream_url(&key("url"), url));
        let connect_timeout = self.timeout(&key("connect_timeout"), raw.connect_timeout);
        let response_timeout = self.timeout(&key("response_timeout"), raw.response_timeout);
        let idle_timeout = self.timeout(&key("idle_timeout"), raw.idle_timeout);
        let strip_headers = self.strip_headers(&key("strip_headers"), &raw.strip_headers);
        let response_header_bytes = self.size(&key("response_header_bytes"), raw.response_header_bytes, HEADER_BYTES_MIN);
        let tls = self.upstream_tls(&key("tls"), &raw.tls, raw.url.as_deref());
        let protocol = self.protocol(&key("protocol"), raw.protocol, raw.url.as_deref());
        let circuit = self.circuit(&key("circuit"), &raw.circuit);
        Some(Upstream {
            url: url?,
            protocol: protocol?,
            tls: tls?,
            connect_timeout,
            response_timeout,
            idle_timeout,
            strip_headers,
            forward_authorization: raw.forward_authorization,
            response_header_bytes,
            circuit,
        })
    }

    /// A portal's own upstream; what it leaves out is `base`'s.
    pub fn upstream_override(&mut self, section: &str, raw: &RawUpstreamOverride, base: &Upstream) -> Option<Upstream> {
        let key = |name: &str| format!("{section}.{name}");
        let url = raw.url.as_ref().and_then(|url| self.upstream_url(&key("url"), url));
        let mut time = |name: &str, value: Option<DurationText>, base| match value {
            Some(value) => self.timeout(&key(name), value),
            None => base,
        };
        let connect_timeout = time("connect_timeout", raw.connect_timeout, base.connect_timeout);
        let response_timeout = time("response_timeout", raw.response_timeout, base.response_timeout);
        let idle_timeout = time("idle_timeout", raw.idle_timeout, base.idle_timeout);
        let strip_headers = match &raw.strip_headers {
            Some(names) => self.strip_headers(&key("strip_headers"), names),
            None => base.strip_headers.clone(),
        };
        let response_header_bytes = match raw.response_header_bytes {
            Some(size) => self.size(&key("response_header_bytes"), size, HEADER_BYTES_MIN),
            None => base.response_header_bytes,
        };
        let tls = match &raw.tls {
            Some(tls) => self.upstream_tls(&key("tls"), tls, raw.url.as_deref()),
            None => Some(base.tls.clone()),
        };
        let protocol = match raw.protocol {
            None if !is_h2c(raw.url.as_deref()) => Some(base.protocol),
            protocol => self.protocol(&key("protocol"), protocol.unwrap_or_default(), raw.url.as_deref()),
        };
        let circuit = match &raw.circuit {
            Some(circuit) => self.circuit(&key("circuit"), circuit),
            None => base.circuit,
        };
        Some(Upstream {
            url: url?,
            protocol: protocol?,
            tls: tls?,
            connect_timeout,
            response_timeout,
            idle_timeout,
            strip_headers,
            forward_authorization: raw.forward_authorization.unwrap_or(base.forward_authorization),
            response_header_bytes,
            circuit,
        })
    }

    /// A portal's own URL, and everything else as at the top level.
    pub fn upstream_at(&mut self, key: &str, text: &str, base: &Upstream) -> Option<Upstream> {
        let url = self.upstream_url(key, text)?;
        let protocol = if is_h2c(Some(text)) { Protocol::Http2 } else { base.protocol };
        Some(Upstream {
            url,
            protocol,
            ..base.clone()
        })
    }

    fn upstream_url(&mut self, key: &str, text: &str) -> Option<UpstreamUrl> {
        if let Some(path) = text.strip_prefix(UNIX) {
            if path.is_empty() || path.starts_with("//") {
                self.error(key, "needs the path of a socket, such as `unix:/run/app.sock`");
                return None;
            }
            return Some(UpstreamUrl::Unix(self.path(key, path)));
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let Some(scheme) = scheme.filter(|scheme| ["http", "https", H2C].contains(&scheme.as_str())) else {
            self.error(key, FORMS);
            return None;
        };
        // the parser knows the default ports of http and https only
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        let parsed = if scheme == H2C { "http" } else { scheme.as_str() };
        let url = self.parse_url(key, &format!("{parsed}://{rest}"))?;
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        if !path.is_empty() || url.query().is_some() || url.fragment().is_some() {
            self.error(
                key,
                format!("has a path or query; requests keep their own, so write `{scheme}://host:port` only"),
            );
            return None;
        }
        let Some(authority) = authority(&url) else {
            self.error(key, format!("has no host or port 0; write `{scheme}://host:port`"));
            return None;
        };
        Some(if scheme == "https" {
            UpstreamUrl::Https(authority)
        } else {
            UpstreamUrl::Http(authority)
        })
    }

    fn protocol(&mut self, key: &str, raw: RawProtocol, url: Option<&str>) -> Option<Protocol> {
        match (raw, is_h2c(url)) {
            (RawProtocol::Http1, true) => {
                self.error(key, "`http1` contradicts the scheme `h2c` of the URL; keep one of them");
                None
            }
            (_, true) | (RawProtocol::Http2, _) => Some(Protocol::Http2),
            (RawProtocol::Http1, _) => Some(Protocol::Http1),
            (RawProtocol::Auto, _) => Some(Protocol::Auto),
        }
    }

    fn upstream_tls(&mut self, section: &str, raw: &RawUpstreamTls, url: Option<&str>) -> Option<UpstreamTls> {
        let is_https = url.is_none_or(|url| url.to_ascii_lowercase().starts_with("https:"));
        let key = |name: &str| format!("{section}.{name}");
        let ca = raw.ca.as_ref().map(|file| self.path(&key("ca"), file));
        let identity = match (&raw.cert, &raw.key) {
            (Some(cert), Some(private)) => Some(Some((self.path(&key("cert"), cert), self.path(&key("key"), private)))),
            (None, None) => None,
            _ => {
                self.error(&key("cert"), "needs `key`, and the other way round; write both or none");
                Some(None)
            }
        };
        let is_set = raw.ca.is_some() || raw.cert.is_some() || raw.server_name.is_some();
        if is_set && !is_https {
            self.error(
                section,
                "is for an `https` URL; this one is not, so nothing would be encrypted",
            );
        }
        if let Some(name) = &raw.server_name {
            self.not_blank(&key("server_name"), name);
        }
        Some(UpstreamTls {
            ca,
            server_name: raw.server_name.clone(),
            identity: transpose(identity)?,
        })
    }

    fn circuit(&mut self, section: &str, raw: &RawCircuit) -> Circuit {
        Circuit {
            failures: raw.failures,
            pause: self.timeout(&format!("{section}.pause"), raw.pause),
        }
    }
}

fn is_h2c(url: Option<&str>) -> bool {
    let scheme = url.and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(H2C))
}

fn authority(url: &Url) -> Option<Authority> {
    Some(Authority {
        host: url.host_str().filter(|host| !host.is_empty())?.to_owned(),
        port: url.port_or_known_default().filter(|port| *port != 0)?,
    })
}
