//! Facts about certificates that listeners and clients share: the time of their validity, and the system's own
//! authorities.

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls_platform_verifier::Verifier;

use crate::base::clock::rfc3339_seconds;

/// The time of a certificate's validity, in Unix seconds, both ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// `None` for a certificate that cannot be parsed.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self {
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// The reason why the certificate is not valid at this time; `None` if it is.
    pub fn problem_at(self, unix_seconds: i64) -> Option<String> {
        if unix_seconds > self.not_after {
            Some(format!("expired at {}", rfc3339_seconds(self.not_after)))
        } else if unix_seconds < self.not_before {
            Some(format!("is not valid before {}", rfc3339_seconds(self.not_before)))
        } else {
            None
        }
    }
}

/// True if the system has certificates of public authorities; a minimal image has none. Looked up once. Without them a
/// client trusts no authority, so that only TLS to a server of a public authority fails.
pub fn has_system_authorities() -> bool {
    system_authorities().is_ok()
}

/// Logs a lack of public authorities. For the start alone, so that it is said once.
pub fn warn_without_authorities() {
    if let Err(error) = system_authorities() {
        tracing::warn!(%error, "no public authority is trusted, so TLS to issuers, providers and apps fails unless a key names their authority; install `ca-certificates` or set SSL_CERT_FILE");
    }
}

fn system_authorities() -> &'static Result<(), rustls::Error> {
    static FOUND: OnceLock<Result<(), rustls::Error>> = OnceLock::new();
    FOUND.get_or_init(|| Verifier::new(Arc::new(aws_lc_rs::default_provider())).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_from_its_first_to_its_last_second() {
        let validity = Validity {
            not_before: 100,
            not_after: 200,
        };
        assert_eq!(validity.problem_at(99).unwrap(), "is not valid before 1970-01-01T00:01:40Z");
        assert_eq!(validity.problem_at(100), None);
        assert_eq!(validity.problem_at(200), None);
        assert_eq!(validity.problem_at(201).unwrap(), "expired at 1970-01-01T00:03:20Z");
    }
}
