//! `identity`: the endpoints and pages that the gate serves itself.

use std::path::PathBuf;

use cedargate_policy::portal::path::is_at_or_below;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::portals::RESERVED_PREFIX;
use crate::config::check::Checker;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityPages {
    /// Path prefix of the identity endpoints; no portal can lie under it.
    // a canonical path without trailing slash once the section is checked
    pub prefix: String,
    /// The brand on the gate's own pages. Absent: the portal's title.
    pub title: Option<String>,
    /// PNG or SVG file for the head of the login pages, 64KiB at most.
    pub logo: Option<PathBuf>,
    /// Answer the endpoints of oauth2-proxy below the prefix, too: `auth`, `userinfo`, `start`, `sign_in`, `sign_out`,
    /// `callback`. The value says in which headers the proxy in front states its question. Absent: off.
    pub oauth2_proxy: Option<StatedIn>,
}

/// The headers in which a proxy states the request that it asks about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StatedIn {
    /// `X-Forwarded-Method`, `-Uri`, `-Host` and `-Proto`: Traefik, Caddy, nginx with these lines.
    XForwarded,
    /// `X-Original-Method` and `X-Original-URL`: ingress-nginx.
    XOriginal,
}

impl IdentityPages {
    /// The path to which a provider sends browsers back.
    pub fn callback_path(&self) -> String {
        let below = match self.oauth2_proxy {
            Some(_) => "callback",
            None => "auth/callback",
        };
        format!("{}/{below}", self.prefix)
    }
}

impl Default for IdentityPages {
    fn default() -> Self {
        Self {
            prefix: "/api/v1/identity".to_owned(),
            title: None,
            logo: None,
            oauth2_proxy: None,
        }
    }
}

impl Checker<'_> {
    pub fn identity_prefix(&mut self, text: &str) -> Option<String> {
        let key = "identity.prefix";
        let prefix = self.canonical_prefix(key, text)?;
        if prefix == "/" || is_at_or_below(&prefix, RESERVED_PREFIX) || is_at_or_below(RESERVED_PREFIX, &prefix) {
            let message = format!("`{text}` would cover other paths; choose one such as `/api/v1/identity`");
            self.error(key, message);
            return None;
        }
        Some(prefix)
    }

    /// `prefix`: the checked one; `None`: a mistake in it was reported.
    pub fn identity(&mut self, pages: IdentityPages, prefix: Option<String>) -> Option<IdentityPages> {
        if let Some(title) = &pages.title {
            self.not_blank("identity.title", title);
        }
        let logo = self.optional_path("identity.logo", pages.logo.as_deref());
        Some(IdentityPages {
            prefix: prefix?,
            logo,
            ..pages
        })
    }
}
