//! The way of the gate's own requests to an issuer or provider: trusted authorities and a proxy.
//!
//! A section that sends such requests has the keys `ca_file` and `proxy`; `Checker::egress` checks them.

use std::path::{Path, PathBuf};

use crate::config::check::Checker;

/// Authorities and proxy of the gate's own requests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Egress {
    /// PEM file of the only trusted authorities; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// `http://` or `https://` URL of an HTTP proxy.
    pub proxy: Option<String>,
}

impl Egress {
    /// This way, as far as it is given; for the rest the other one.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            ca_file: self.ca_file.clone().or_else(|| other.ca_file.clone()),
            proxy: self.proxy.clone().or_else(|| other.proxy.clone()),
        }
    }
}

impl Checker<'_> {
    /// Checks `<section>.ca_file` and `<section>.proxy`; `None` if a mistake was reported.
    pub fn egress(&mut self, section: &str, ca_file: Option<&Path>, proxy: Option<&str>) -> Option<Egress> {
        let ca_file = self.optional_path(&format!("{section}.ca_file"), ca_file);
        let key = format!("{section}.proxy");
        let proxy = match proxy {
            None => None,
            Some(text) => {
                let url = self.parse_url(&key, text)?;
                let is_origin = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
                if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !is_origin {
                    self.error(
                        &key,
                        format!("`{text}` is not an HTTP proxy; write a URL such as `http://proxy.example.com:3128`"),
                    );
                    return None;
                }
                Some(text.to_owned())
            }
        };
        Some(Egress { ca_file, proxy })
    }
}
