//! The refusal of a token as its record shows it: the failed check, and what the token says about its issuer and key.
//!
//! The token is not verified here, so its words are cut and lose control characters. The token itself is never
//! recorded.

use cedargate_policy::denial::{Refusal, RefusedCredential};
use cedargate_policy::json;

use super::error::TokenError;
use super::jws;

/// Characters of an unverified name that a record shows.
const SHOWN_CHARS_MAX: usize = 256;

impl TokenError {
    /// The refusal of a token, with what its record shows: the check that failed, and the token's own words on its
    /// issuer and key, cut to `SHOWN_CHARS_MAX`. Never the token.
    pub fn refusal_of(self, token: &str) -> Refusal {
        let mut segments = token.split('.').map(|segment| {
            let bytes = jws::decode(segment).ok()?;
            json::object_from_slice(&bytes).ok()
        });
        let mut word = |name: &str| {
            let object = segments.next().flatten()?;
            let text = object.get(name)?.as_str()?;
            Some(text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect())
        };
        let kid = word("kid");
        let credential = RefusedCredential {
            check: self.check(),
            issuer: word("iss"),
            kid,
            claim: self.claim_at_fault(),
        };
        Refusal::from(self).of_credential(credential)
    }
}
