//! The strong ETag of permissions, and its comparison with `If-None-Match` (RFC 9110, section 13.1.2).

use cedargate_policy::digest::sha256_of;
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, HeaderValue};
use serde_json::json;

use super::SnapshotForm;
use crate::permissions::PortalCaller;

/// An entity tag, without its quotes.
pub(super) struct EntityTag(String);

impl EntityTag {
    /// `digest` is that of the caller's facts. Every member of the answer takes part.
    pub fn of(caller: &PortalCaller, format: SnapshotForm, subject: &str, digest: [u8; 32]) -> Self {
        let identity = &caller.identity;
        let members = json!([
            &*caller.portal.name,
            &*caller.active.revision.id,
            subject,
            identity.tenant,
            identity.roles,
            identity.expires_at,
            format == SnapshotForm::Casl
        ]);
        let hash = sha256_of([digest.as_slice(), members.to_string().as_bytes()]);
        Self(hex::encode(hash.get(..16).unwrap_or(&hash)))
    }

    /// True if the client states that it has this answer.
    pub fn is_known(&self, headers: &HeaderMap) -> bool {
        let stated = headers
            .get_all(IF_NONE_MATCH)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        let mut tags = stated.flat_map(|list| list.split(','));
        tags.any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == self.0
        })
    }

    pub fn header(&self) -> HeaderValue {
        // INVARIANT: hex digits in quotes
        HeaderValue::try_from(format!("\"{}\"", self.0)).unwrap_or(HeaderValue::from_static("\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_matches_itself_in_a_list_and_nothing_else() {
        let tag = EntityTag("ab12".to_owned());
        for (stated, is_known) in [
            ("\"ab12\"", true),
            ("\"x\", \"ab12\"", true),
            ("W/\"ab12\"", true),
            ("*", false),
            ("\"ab1\"", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, stated.parse().unwrap());
            assert_eq!(tag.is_known(&headers), is_known, "{stated}");
        }
        assert!(!tag.is_known(&HeaderMap::new()));
    }
}
