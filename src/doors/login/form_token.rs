//! The token of the login form: proves that the gate showed this form to this browser.
//!
//! It is an HMAC of the form's fixed fields with the secret of the browser's login cookie as key. So another site
//! cannot make it, and a form that was made for one portal or return path is not accepted for another.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::login::BrowserSecret;

const LABEL: &[u8] = b"cedargate login form";

/// The fields that the token covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct FormBinding<'a> {
    pub provider: &'a str,
    pub portal: &'a str,
    pub return_to: &'a str,
}

impl FormBinding<'_> {
    pub fn token(&self, browser: &BrowserSecret) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&key(browser), &self.input()))
    }

    pub fn accepts(&self, token: &str, browser: &BrowserSecret) -> bool {
        let decoded = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        hmac::verify(&key(browser), &self.input(), &decoded).is_ok()
    }

    /// The label and the fields, each with its length in front, so that no bytes can move from one field to the next.
    fn input(&self) -> Vec<u8> {
        let mut input = LABEL.to_vec();
        for field in [self.provider, self.portal, self.return_to] {
            input.extend_from_slice(&(field.len() as u64).to_be_bytes());
            input.extend_from_slice(field.as_bytes());
        }
        input
    }
}

fn key(browser: &BrowserSecret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, browser.expose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedargate_policy::types::Redacted;

    #[test]
    fn token_is_accepted_only_with_its_browser_and_fields() {
        let browser = Redacted::new([1; 32]);
        let other_browser = Redacted::new([2; 32]);
        let form = |portal, return_to| FormBinding {
            provider: "local",
            portal,
            return_to,
        };
        let token = form("a", "/b").token(&browser);
        assert!(form("a", "/b").accepts(&token, &browser));
        assert!(!form("a", "/b").accepts(&token, &other_browser));
        assert!(!form("a", "/c").accepts(&token, &browser));
        assert!(!form("a/", "b").accepts(&token, &browser));
        for bad in ["", "AAAA", &format!("{token}A"), "%"] {
            assert!(!form("a", "/b").accepts(bad, &browser), "{bad}");
        }
    }
}
