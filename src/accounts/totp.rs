//! One-time codes of an authenticator app (TOTP, RFC 6238): the second factor of a local account.
//!
//! Codes have six digits and a step of 30 seconds, with HMAC-SHA-1: what every authenticator app does. The gate accepts
//! the code of this step, of the one before and of the one after. `accounts` sees to it that a code counts once.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use cedargate_policy::types::Redacted;
use data_encoding::BASE32_NOPAD;

/// Seconds of a step.
const STEP_SECONDS: i64 = 30;
const DIGITS: usize = 6;
/// Bytes of a new secret: the length of the HMAC (RFC 4226, section 4).
const NEW_BYTES: usize = 20;
/// Bytes that a secret needs at least (RFC 4226, section 4).
const BYTES_MIN: usize = 16;
const BYTES_MAX: usize = 128;

/// The secret that the gate shares with a user's authenticator app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TotpSecret(Redacted<Vec<u8>>);

impl TotpSecret {
    pub fn generate() -> Result<Self, String> {
        let mut bytes = [0; NEW_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| "the random number generator failed".to_owned())?;
        Ok(Self(Redacted::new(bytes.to_vec())))
    }

    /// Reads base32; spaces, lower case and padding are those of other tools. The message never quotes the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = text.replace(' ', "").to_ascii_uppercase();
        let bytes = BASE32_NOPAD
            .decode(plain.trim_end_matches('=').as_bytes())
            .map_err(|_error| "is not base32".to_owned())?;
        if !(BYTES_MIN..=BYTES_MAX).contains(&bytes.len()) {
            return Err(format!("has {} bytes; {BYTES_MIN} to {BYTES_MAX} are accepted", bytes.len()));
        }
        Ok(Self(Redacted::new(bytes)))
    }

    /// The text that a users file holds.
    pub fn to_text(&self) -> String {
        BASE32_NOPAD.encode(self.0.expose())
    }

    /// The address that an authenticator app reads, as a link or a QR code.
    pub fn address(&self, account: &str, issuer: &str) -> String {
        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let account = encode(account);
        let issuer = encode(issuer);
        format!("otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}", self.to_text())
    }

    /// The code at this time, in Unix seconds.
    pub fn code(&self, now: i64) -> String {
        self.code_of(step_of(now))
    }

    /// The step whose code this is: the present one, or one of its neighbours. `None` for a wrong code.
    pub(super) fn step_of_code(&self, code: &str, now: i64) -> Option<i64> {
        let present = step_of(now);
        let is_code = |step: &i64| verify_slices_are_equal(self.code_of(*step).as_bytes(), code.as_bytes()).is_ok();
        [present, present - 1, present + 1].into_iter().find(is_code)
    }

    /// RFC 4226, section 5.3.
    fn code_of(&self, step: i64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.0.expose());
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let bytes = tag.as_ref();
        let offset = usize::from(bytes.last().copied().unwrap_or_default() & 0x0f);
        let part = bytes.iter().skip(offset).take(4);
        let number = part.fold(0_u32, |number, byte| (number << 8) | u32::from(*byte)) & 0x7fff_ffff;
        format!("{:0DIGITS$}", number % 10_u32.pow(6))
    }
}

const fn step_of(now: i64) -> i64 {
    now.div_euclid(STEP_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_rfc() {
        // RFC 6238, appendix B, the last six of eight digits
        let secret = TotpSecret(Redacted::new(b"12345678901234567890".to_vec()));
        for (now, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(secret.code(now), code, "{now}");
        }
        assert_eq!(TotpSecret::parse("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").unwrap(), secret);
        assert_eq!(TotpSecret::parse("gezd gnbv gy3t qojq gezd gnbv gy3t qojq").unwrap(), secret);
    }

    #[test]
    fn codes_of_the_neighbouring_steps_count_and_no_others() {
        let secret = TotpSecret::generate().unwrap();
        let now = 1_700_000_000;
        for (ago, accepted) in [(0, true), (30, true), (-30, true), (90, false), (-90, false)] {
            assert_eq!(secret.step_of_code(&secret.code(now - ago), now).is_some(), accepted, "{ago}");
        }
        for bad in ["", "1", "abcdef", "1234567", " 287082"] {
            assert_eq!(secret.step_of_code(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn secrets_that_are_short_or_no_base32_are_refused_and_never_shown() {
        for bad in ["", "GEZDGNBV", "not base32!", "018"] {
            let error = TotpSecret::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        let secret = TotpSecret::generate().unwrap();
        assert!(!format!("{secret:?}").contains(&secret.to_text()));
        assert!(
            secret
                .address("al ice", "Demo")
                .starts_with("otpauth://totp/Demo:al%20ice?secret=")
        );
    }
}
