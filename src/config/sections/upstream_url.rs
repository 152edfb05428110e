//! The place of an app: what sections about apps share.

use std::path::PathBuf;

use url::Url;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum UpstreamUrl {
    Http(Authority),
    Https(Authority),
    Unix(PathBuf),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Authority {
    /// Name or address as a URL writes it: IPv6 in brackets.
    pub host: String,
    pub port: u16,
}

impl Authority {
    /// The host as sockets and certificates name it: an IPv6 address without its brackets.
    pub fn dialled(&self) -> &str {
        let bare = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        bare.unwrap_or(&self.host)
    }
}

impl UpstreamUrl {
    /// Scheme and authority, or the socket: the `aud` of assertions.
    pub fn origin(&self) -> String {
        match self {
            Self::Http(authority) => format!("http://{}:{}", authority.host, authority.port),
            Self::Https(authority) => format!("https://{}:{}", authority.host, authority.port),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

pub(super) fn authority(url: &Url) -> Option<Authority> {
    Some(Authority {
        host: url.host_str().filter(|host| !host.is_empty())?.to_owned(),
        port: url.port_or_known_default().filter(|port| *port != 0)?,
    })
}
