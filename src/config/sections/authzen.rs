//! `authzen`: the AuthZEN door of the decision listener.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::check::Checker;

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authzen {
    /// The portal that `/access/v1/…` means. Absent: the only portal; with several, each has its own paths alone.
    pub portal: Option<String>,
    /// URL under which clients reach the decision listener, such as `https://pdp.example.com`; the metadata document
    /// names it. Absent: there is no metadata document.
    pub identifier: Option<String>,
}

impl Checker<'_> {
    /// `slugs`: the portals of the configuration; `None` if every folder is one.
    pub fn authzen(&mut self, authzen: Authzen, slugs: Option<&[&str]>) -> Option<Authzen> {
        let key = "authzen.portal";
        if let (Some(portal), Some(slugs)) = (&authzen.portal, slugs)
            && !slugs.contains(&portal.as_str())
        {
            self.error(key, format!("there is no portal `{portal}` under `portals`"));
            return None;
        }
        let Some(text) = &authzen.identifier else {
            return Some(authzen);
        };
        let plain = |url: &url::Url| {
            let is_web = matches!(url.scheme(), "https" | "http") && url.has_host();
            is_web && url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none()
        };
        if !url::Url::parse(text).is_ok_and(|url| plain(&url)) {
            let message = format!("`{text}` is not a URL without query and fragment, such as `https://pdp.example.com`");
            self.error("authzen.identifier", message);
            return None;
        }
        Some(Authzen {
            identifier: Some(text.trim_end_matches('/').to_owned()),
            ..authzen
        })
    }
}
