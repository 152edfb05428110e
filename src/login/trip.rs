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
/// Bytes of a return path that travels twice; a longer one would make an address that providers refuse.
const TWICE_BYTES_MAX: usize = 512;

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

/// Where a login wanted to go: under the server's keys alone, for the browser whose secret is not that of the login any more.
///
/// SECURITY: it proves nothing of who brings it. It begins a login again, and never finishes one.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Destination {
    destination: u8,
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
        (trip.version == VERSION && is_under_way(trip.begun_at, now_millis)).then_some(trip)
    }

    /// `None`: the way is too long to travel twice.
    pub fn destination(&self) -> Option<Destination> {
        (self.return_to.len() <= TWICE_BYTES_MAX).then(|| Destination {
            destination: VERSION,
            provider: self.provider.clone(),
            portal: self.portal.clone(),
            return_to: self.return_to.clone(),
            begun_at: self.begun_at,
        })
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

impl Destination {
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    /// `None`: of another version, or its time is over.
    pub fn from_bytes(bytes: &[u8], now_millis: i64) -> Option<Self> {
        let found: Self = serde_json::from_slice(bytes).ok()?;
        (found.destination == VERSION && is_under_way(found.begun_at, now_millis)).then_some(found)
    }
}

fn is_under_way(begun_at: i64, now_millis: i64) -> bool {
    (-CLOCK_SKEW..LIFE).contains(&now_millis.saturating_sub(begun_at))
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

    #[test]
    fn a_destination_ends_with_its_trip_and_neither_is_taken_for_the_other() {
        let browser = Redacted::new([7; 32]);
        let path = format!("/{}", "a".repeat(TWICE_BYTES_MAX));
        let begin = |return_to| Begin {
            provider: "corp",
            portal: "customer",
            return_to,
            acr_values: None,
            max_age: None,
            browser: &browser,
        };
        let trip = Trip::begin(&begin("/a"), 0).unwrap();
        let bytes = trip.destination().unwrap().to_bytes().unwrap();
        let found = Destination::from_bytes(&bytes, LIFE - 1).unwrap();
        assert_eq!(
            (found.provider.as_str(), found.portal.as_str(), found.return_to.as_str()),
            ("corp", "customer", "/a")
        );
        assert!(Destination::from_bytes(&bytes, LIFE).is_none());
        assert!(Destination::from_bytes(&bytes, -CLOCK_SKEW - 1).is_none());
        assert!(Trip::from_bytes(&bytes, 0).is_none());
        assert!(Destination::from_bytes(&trip.to_bytes().unwrap(), 0).is_none());
        assert!(Trip::begin(&begin(&path), 0).unwrap().destination().is_none());
    }
}
