//! The login state: the data of a login while the browser is at the provider.
//!
//! It travels sealed in the OAuth parameter `state`. The gate stores nothing, so any replica can complete the login,
//! and logins in several tabs are independent of each other. Logins under way must survive an upgrade: the serialized
//! names and values of this file do not change.
//!
//! SECURITY: the seal's key is made of the server's keys and the browser's login cookie, so no other browser can
//! complete the login. Nonce and PKCE verifier are derived from a sealed seed; `state` never contains them.

use aws_lc_rs::{hkdf, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{BrowserSecret, LoginRequest};

/// Milliseconds in which a login must complete.
const LIFETIME_MILLIS: i64 = 10 * 60 * 1000;
/// Milliseconds by which the clock of the replica that began the login may be ahead.
const CLOCK_SKEW_MILLIS: i64 = 60 * 1000;
/// Version of the serialized format; other versions are refused.
const VERSION: u8 = 1;
/// Bytes of a return path that fits into `state` twice (login state and destination); with a longer one the URL would
/// be too long for some providers.
const DESTINATION_PATH_BYTES_MAX: usize = 512;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct LoginState {
    version: u8,
    pub provider: String,
    pub portal: String,
    pub return_to: String,
    /// Origin of the callback. Absent in the state of an older version: that of the top-level `public_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// True if `return_to` is a part of an address that was too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    pub acr_values: Option<String>,
    pub max_age: Option<u64>,
    /// Unix milliseconds.
    begun_at: i64,
    seed: Seed,
}

/// Provider, portal and return path of a login, sealed with the server's keys alone. Lets a browser begin the login
/// again if its login cookie has changed since: several tabs that began without a cookie overwrite each other's.
///
/// SECURITY: it is bound to no browser. It may begin a new login, never complete one.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Destination {
    /// The serialized name differs from that of `LoginState`, so that neither parses as the other.
    #[serde(rename = "destination")]
    version: u8,
    pub provider: String,
    pub portal: String,
    pub return_to: String,
    /// Unix milliseconds.
    begun_at: i64,
}

#[derive(Clone, Deserialize, Serialize)]
struct Seed([u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl LoginState {
    /// The state of a new login; `None` without randomness.
    pub fn new(login: &LoginRequest<'_>, now_millis: i64) -> Option<Self> {
        let mut seed = [0; 32];
        rand::fill(&mut seed).ok()?;
        Some(Self {
            version: VERSION,
            provider: login.provider.to_owned(),
            portal: login.portal.to_owned(),
            return_to: login.return_to.to_owned(),
            origin: Some(login.origin.to_owned()),
            is_cut: login.is_cut,
            acr_values: login.acr_values.map(str::to_owned),
            max_age: login.max_age,
            begun_at: now_millis,
            seed: Seed(seed),
        })
    }

    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    /// Parses an opened state; `None` for another version or an expired login.
    pub fn from_bytes(bytes: &[u8], now_millis: i64) -> Option<Self> {
        let state: Self = serde_json::from_slice(bytes).ok()?;
        (state.version == VERSION && is_current(state.begun_at, now_millis)).then_some(state)
    }

    /// The destination of this login; `None` if the return path is longer than `DESTINATION_PATH_BYTES_MAX`.
    pub fn destination(&self) -> Option<Destination> {
        (self.return_to.len() <= DESTINATION_PATH_BYTES_MAX).then(|| Destination {
            version: VERSION,
            provider: self.provider.clone(),
            portal: self.portal.clone(),
            return_to: self.return_to.clone(),
            begun_at: self.begun_at,
        })
    }

    pub fn nonce(&self, browser: &BrowserSecret) -> Option<String> {
        self.derive(browser, b"cedargate login nonce")
    }

    /// The PKCE verifier: 43 characters, the minimum of RFC 7636.
    pub fn verifier(&self, browser: &BrowserSecret) -> Option<String> {
        self.derive(browser, b"cedargate login pkce")
    }

    fn derive(&self, browser: &BrowserSecret, purpose: &[u8]) -> Option<String> {
        let key = hkdf::Salt::new(hkdf::HKDF_SHA256, browser.expose()).extract(&self.seed.0);
        let mut out = [0; 32];
        let info = [purpose];
        key.expand(&info, hkdf::HKDF_SHA256).ok()?.fill(&mut out).ok()?;
        Some(URL_SAFE_NO_PAD.encode(out))
    }
}

impl Destination {
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    /// Parses an opened destination; `None` for another version or an expired login.
    pub fn from_bytes(bytes: &[u8], now_millis: i64) -> Option<Self> {
        let destination: Self = serde_json::from_slice(bytes).ok()?;
        (destination.version == VERSION && is_current(destination.begun_at, now_millis)).then_some(destination)
    }
}

fn is_current(begun_at: i64, now_millis: i64) -> bool {
    (-CLOCK_SKEW_MILLIS..LIFETIME_MILLIS).contains(&now_millis.saturating_sub(begun_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedargate_policy::types::Redacted;

    #[test]
    fn login_state_expires_after_ten_minutes_and_has_its_own_secrets() {
        let browser = Redacted::new([7; 32]);
        let login = LoginRequest {
            provider: "corp",
            portal: "customer",
            origin: "https://shop.test",
            is_cut: false,
            return_to: "/a",
            acr_values: None,
            max_age: None,
            login_hint: None,
            prompt: None,
            browser: &browser,
        };
        let one = LoginState::new(&login, 0).unwrap();
        let two = LoginState::new(&login, 0).unwrap();
        let bytes = one.to_bytes().unwrap();
        assert!(LoginState::from_bytes(&bytes, LIFETIME_MILLIS - 1).is_some());
        assert!(LoginState::from_bytes(&bytes, LIFETIME_MILLIS).is_none());
        assert!(LoginState::from_bytes(&bytes, -CLOCK_SKEW_MILLIS - 1).is_none());
        assert!(LoginState::from_bytes(b"{}", 0).is_none());
        let again = LoginState::from_bytes(&bytes, 1).unwrap();
        assert_eq!(one.nonce(&browser), again.nonce(&browser));
        assert_eq!(one.verifier(&browser).unwrap().len(), 43);
        assert_ne!(one.verifier(&browser), one.nonce(&browser));
        assert_ne!(one.nonce(&browser), two.nonce(&browser));
        assert_ne!(one.nonce(&browser), one.nonce(&Redacted::new([8; 32])));
        assert!(!format!("{one:?}").contains(&format!("{:?}", one.seed.0)));
    }

    #[test]
    fn destination_expires_with_its_login_and_neither_parses_as_the_other() {
        let browser = Redacted::new([7; 32]);
        let path = format!("/{}", "a".repeat(DESTINATION_PATH_BYTES_MAX));
        let login = |return_to| LoginRequest {
            provider: "corp",
            portal: "customer",
            origin: "https://shop.test",
            is_cut: false,
            return_to,
            acr_values: None,
            max_age: None,
            login_hint: None,
            prompt: None,
            browser: &browser,
        };
        let state = LoginState::new(&login("/a"), 0).unwrap();
        let bytes = state.destination().unwrap().to_bytes().unwrap();
        let found = Destination::from_bytes(&bytes, LIFETIME_MILLIS - 1).unwrap();
        assert_eq!(
            (found.provider.as_str(), found.portal.as_str(), found.return_to.as_str()),
            ("corp", "customer", "/a")
        );
        assert!(Destination::from_bytes(&bytes, LIFETIME_MILLIS).is_none());
        assert!(Destination::from_bytes(&bytes, -CLOCK_SKEW_MILLIS - 1).is_none());
        assert!(LoginState::from_bytes(&bytes, 0).is_none());
        assert!(Destination::from_bytes(&state.to_bytes().unwrap(), 0).is_none());
        assert!(LoginState::new(&login(&path), 0).unwrap().destination().is_none());
    }

    #[test]
    fn logins_that_an_older_version_began_still_parse() {
        let seed = serde_json::to_string(&[5; 32]).unwrap();
        let state = format!(
            r#"{{"version":1,"provider":"corp","portal":"customer","return_to":"/a","acr_values":null,"max_age":60,"begun_at":0,"seed":{seed}}}"#
        );
        let parsed = LoginState::from_bytes(state.as_bytes(), 1).unwrap();
        assert_eq!(parsed.to_bytes().unwrap(), state.as_bytes());
        let browser = Redacted::new([7; 32]);
        assert_eq!(
            parsed.nonce(&browser).as_deref(),
            Some("Zxo4SigVnHwsUQifJqBXbFlHknYWn1ZfrYsxJOEXbTg")
        );
        assert_eq!(
            parsed.verifier(&browser).as_deref(),
            Some("Pdxsj5INuigXPvMvE983qcRDIuN1ErpNY8ZPPZV6ocI")
        );
        let destination = r#"{"destination":1,"provider":"corp","portal":"customer","return_to":"/a","begun_at":0}"#;
        assert!(Destination::from_bytes(destination.as_bytes(), 1).is_some());
        assert_eq!(parsed.destination().unwrap().to_bytes().unwrap(), destination.as_bytes());
    }
}
