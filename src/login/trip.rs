//! What a login remembers while the browser is at the provider. It travels there and back in `state`, sealed: nothing is kept
//! here, any replica can finish it, and tabs do not know of each other.
//!
//! SECURITY: the seal needs the server's keys and the browser's own cookie, so a callback is worth nothing in another browser.
//! Nonce and PKCE verifier are derived from a seed under the seal and never travel.

use aws_lc_rs::{hkdf, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Begin;
use crate::types::Redacted;

/// Milliseconds that a login may take.
const LIFE: i64 = 10 * 60 * 1000;
/// Milliseconds that another replica's clock may be ahead.
const CLOCK_SKEW: i64 = 60 * 1000;
/// Of the format; another one is no login of ours.
const VERSION: u8 = 1;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Trip {
    version: u8,
    pub provider: String,
    pub portal: String,
    pub return_to: String,
    pub acr_values: Option<String>,
    pub max_age: Option<u64>,
    /// Unix milliseconds.
    begun_at: i64,
    seed: Seed,
}

#[derive(Clone, Deserialize, Serialize)]
struct Seed([u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Trip {
    /// `None` without randomness.
    pub fn begin(begin: &Begin<'_>, now_millis: i64) -> Option<Self> {
        let mut seed = [0; 32];
        rand::fill(&mut seed).ok()?;
        Some(Self {
            version: VERSION,
            provider: begin.provider.to_owned(),
            portal: begin.portal.to_owned(),
            return_to: begin.return_to.to_owned(),
            acr_values: begin.acr_values.map(str::to_owned),
            max_age: begin.max_age,
            begun_at: now_millis,
            seed: Seed(seed),
        })
    }

    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    /// `None`: of another version, or its time is over.
    pub fn from_bytes(bytes: &[u8], now_millis: i64) -> Option<Self> {
        let trip: Self = serde_json::from_slice(bytes).ok()?;
        let age = now_millis.saturating_sub(trip.begun_at);
        (trip.version == VERSION && (-CLOCK_SKEW..LIFE).contains(&age)).then_some(trip)
    }

    pub fn nonce(&self, browser: &Redacted<[u8; 32]>) -> Option<String> {
        self.derived(browser, b"cedargate login nonce")
    }

    /// 43 characters, as RFC 7636 wants.
    pub fn verifier(&self, browser: &Redacted<[u8; 32]>) -> Option<String> {
        self.derived(browser, b"cedargate login pkce")
    }

    fn derived(&self, browser: &Redacted<[u8; 32]>, purpose: &[u8]) -> Option<String> {
        let key = hkdf::Salt::new(hkdf::HKDF_SHA256, browser.expose()).extract(&self.seed.0);
        let mut out = [0; 32];
        let info = [purpose];
        key.expand(&info, hkdf::HKDF_SHA256).ok()?.fill(&mut out).ok()?;
        Some(URL_SAFE_NO_PAD.encode(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trip_ends_after_ten_minutes_and_each_has_its_own_secrets() {
        let browser = Redacted::new([7; 32]);
        let begin = Begin {
            provider: "corp",
            portal: "customer",
            return_to: "/a",
            acr_values: None,
            max_age: None,
            browser: &browser,
        };
        let (one, two) = (Trip::begin(&begin, 0).unwrap(), Trip::begin(&begin, 0).unwrap());
        let bytes = one.to_bytes().unwrap();
        assert!(Trip::from_bytes(&bytes, LIFE - 1).is_some());
        assert!(Trip::from_bytes(&bytes, LIFE).is_none());
        assert!(Trip::from_bytes(&bytes, -CLOCK_SKEW - 1).is_none());
        assert!(Trip::from_bytes(b"{}", 0).is_none());
        let again = Trip::from_bytes(&bytes, 1).unwrap();
        assert_eq!(one.nonce(&browser), again.nonce(&browser));
        assert_eq!(one.verifier(&browser).unwrap().len(), 43);
        assert_ne!(one.verifier(&browser), one.nonce(&browser));
        assert_ne!(one.nonce(&browser), two.nonce(&browser));
        assert_ne!(one.nonce(&browser), one.nonce(&Redacted::new([8; 32])));
        assert!(!format!("{one:?}").contains(&format!("{:?}", one.seed.0)));
    }
}
