//! The URL of a request, for a DPoP proof (RFC 9449, section 4.3) to be compared with.
//!
//! SECURITY: a URL in a proof must be one of the portal's own: the origin that its configuration says, or the requested
//! host where the configuration names it. A `Host` that only the client chose proves nothing.

use cedargate_policy::portal::path::CanonicalPath;
use http::header::HOST;
use http::request::Parts;
use url::Url;

use super::ClientFacts;
use crate::config::{Config, Portal};

/// Host, origin and path of a request.
pub struct AskedUrl<'a> {
    host: &'a str,
    /// Scheme, host and port as the client asked for them.
    origin: Option<String>,
    path: Option<CanonicalPath>,
}

impl<'a> AskedUrl<'a> {
    pub fn of(parts: &Parts, client: &'a ClientFacts) -> Self {
        Self {
            host: &client.host,
            origin: origin(parts, client),
            path: CanonicalPath::parse_request(parts.uri.path()).ok(),
        }
    }

    /// True if `text` is this URL at a portal. Query and fragment do not count.
    pub fn is(&self, text: &str, config: &Config, portal: &Portal) -> bool {
        let (Ok(url), Some(asked)) = (Url::parse(text), &self.path) else {
            return false;
        };
        if !url.username().is_empty() || url.password().is_some() {
            return false;
        }
        let origin = url.origin().ascii_serialization();
        let is_configured = config.origin_of(portal, self.host).as_deref() == Some(&origin);
        let is_requested = !portal.matches.hosts.is_empty() && self.origin.as_deref() == Some(&origin);
        let is_path = CanonicalPath::parse_request(url.path()).is_ok_and(|path| path.as_str() == asked.as_str());
        is_path && (is_configured || is_requested)
    }
}

fn origin(parts: &Parts, client: &ClientFacts) -> Option<String> {
    let authority = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(HOST)?.to_str().ok()?,
    };
    let url = Url::parse(&format!("{}://{authority}", client.scheme.as_str())).ok()?;
    (url.host_str() == Some(client.host.as_str())).then(|| url.origin().ascii_serialization())
}
