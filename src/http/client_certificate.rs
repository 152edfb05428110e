//! A client's certificate, as the requests of its connection see it: verified again whenever that could change the
//! result.
//!
//! The TLS handshake verifies the certificate and proves that the client holds its key. A connection may live longer
//! than the trust in its certificate: the certificate expires, `http::tls` puts other authorities or revocation lists
//! in force. Each request therefore asks for the verdict. It is cached, and made anew under another `ClientTrust` or
//! after `until`, the first second at which time alone could change it.
//!
//! SECURITY: the names of a certificate are read strictly. A certificate with a name that has two readings gives no
//! identity.

mod names;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use cedargate_policy::denial::{Denial, Refusal};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Map, Value};

use self::names::CertificateNames;
use crate::base::certificates::Validity;
use crate::base::clock::unix_seconds;
use crate::base::digest::{sha256, sha256_of};
use crate::config::CertificateRules;

/// The trust of one listener in clients' certificates, as its files say it at one time.
pub struct ClientTrust {
    /// Verifies under all authorities of the listener.
    pub verifier: Arc<dyn ClientCertVerifier>,
    pub issuers: Vec<IssuerTrust>,
    /// Unix second at which the first revocation list is out of date.
    pub lists_until: Option<i64>,
}

/// The authorities of one entry of `client_certificates`.
pub struct IssuerTrust {
    /// Index into `Config::issuers`.
    pub index: usize,
    /// `None`: every authority of the listener.
    pub verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The trust in force; written by `http::tls`. `None`: clients need no certificate.
pub type SharedTrust = Arc<ArcSwapOption<ClientTrust>>;

/// The certificate that a client proved to hold the key of.
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the client's own certificate.
    pub fingerprint: [u8; 32],
    /// SHA-256 of the whole chain.
    pub digest: [u8; 32],
    names: Result<CertificateNames, &'static str>,
    validity: Option<Validity>,
    trust: SharedTrust,
    verdict: ArcSwap<CheckedCertificate>,
}

/// The result of one verification.
pub struct CheckedCertificate {
    trust: Option<Arc<ClientTrust>>,
    /// The first Unix second at which the result must be made anew.
    until: i64,
    /// The entries of `client_certificates` whose authorities vouch for the certificate: indexes into
    /// `Config::issuers`.
    pub issuers: Result<Vec<usize>, String>,
}

/// The reason why a certificate gives no identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateRefused {
    #[error("the client certificate of the connection is not trusted any more: {0}")]
    Untrusted(String),
    #[error("the client certificate {0}")]
    Names(&'static str),
}

impl From<CertificateRefused> for Refusal {
    fn from(error: CertificateRefused) -> Self {
        Self::new(Denial::TokenInvalid, error.to_string())
    }
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("fingerprint", &self.fingerprint_hex())
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// The certificate of a finished handshake; `None` without one. `chain` is what the client sent, its own
    /// certificate first.
    pub fn of(chain: &[CertificateDer<'_>], trust: &SharedTrust) -> Option<Arc<Self>> {
        let chain: Vec<CertificateDer<'static>> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let own = chain.first()?;
        let parts: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let verdict = CheckedCertificate::of(&chain, trust.load_full(), unix_seconds());
        Some(Arc::new(Self {
            fingerprint: sha256(own),
            digest: sha256_of(&parts),
            names: CertificateNames::read(own),
            validity: Validity::of(own),
            trust: Arc::clone(trust),
            verdict: ArcSwap::from_pointee(verdict),
            chain,
        }))
    }

    /// The verdict at this time, under the trust in force.
    ///
    /// # Errors
    /// The certificate is not trusted any more.
    pub fn check(&self, now: i64) -> Result<Arc<CheckedCertificate>, CertificateRefused> {
        let known = self.verdict.load_full();
        let verdict = if now < known.until && self.is_current() {
            known
        } else {
            let verdict = Arc::new(CheckedCertificate::of(&self.chain, self.trust.load_full(), now));
            self.verdict.store(Arc::clone(&verdict));
            verdict
        };
        match &verdict.issuers {
            Ok(_) => Ok(verdict),
            Err(why) => Err(CertificateRefused::Untrusted(why.clone())),
        }
    }

    /// True if the trust in force is the one of the last verdict.
    pub fn is_current(&self) -> bool {
        let verdict = self.verdict.load();
        match (&verdict.trust, self.trust.load().as_ref()) {
            (Some(known), Some(now)) => Arc::ptr_eq(known, now),
            _ => false,
        }
    }

    /// False once a check refused the certificate: the connection should end.
    pub fn is_trusted(&self) -> bool {
        self.verdict.load().issuers.is_ok()
    }

    pub fn fingerprint_hex(&self) -> String {
        hex::encode(self.fingerprint)
    }

    /// The facts of the certificate as claims, for an entry of `client_certificates`. `None`: it has no name of the
    /// entry's kind, or one of another trust domain.
    ///
    /// # Errors
    /// A name is malformed, or there are several where one is needed.
    pub fn claims(&self, rules: &CertificateRules) -> Result<Option<Map<String, Value>>, CertificateRefused> {
        let names = self.names.as_ref().map_err(|why| CertificateRefused::Names(why))?;
        let validity = self.validity.ok_or(CertificateRefused::Names("cannot be read"))?;
        let Some(subject) = names.subject(rules).map_err(CertificateRefused::Names)? else {
            return Ok(None);
        };
        let mut claims = names.claims();
        for (name, value) in [
            ("sub", Value::from(subject)),
            ("fingerprint", Value::from(self.fingerprint_hex())),
            ("nbf", Value::from(validity.not_before)),
            ("iat", Value::from(validity.not_before)),
            // the last second of validity is included
            ("exp", Value::from(validity.not_after.saturating_add(1))),
        ] {
            claims.insert(name.to_owned(), value);
        }
        Ok(Some(claims))
    }
}

impl CheckedCertificate {
    fn of(chain: &[CertificateDer<'static>], trust: Option<Arc<ClientTrust>>, now: i64) -> Self {
        let ends = chain
            .iter()
            .filter_map(Validity::of)
            .map(|validity| validity.not_after.saturating_add(1));
        let lists = trust.as_ref().and_then(|trust| trust.lists_until);
        Self {
            until: ends.chain(lists).filter(|end| *end > now).min().unwrap_or(i64::MAX),
            issuers: vouching(chain, trust.as_deref(), now),
            trust,
        }
    }
}

/// The entries whose authorities vouch for the chain.
fn vouching(chain: &[CertificateDer<'static>], trust: Option<&ClientTrust>, now: i64) -> Result<Vec<usize>, String> {
    let trust = trust.ok_or("the listener asks for no certificates")?;
    let (own, others) = chain.split_first().ok_or("it is missing")?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
    let verify = |verifier: &Arc<dyn ClientCertVerifier>| verifier.verify_client_cert(own, others, at);
    verify(&trust.verifier).map_err(|error| error.to_string())?;
    let issuers = trust.issuers.iter();
    let vouches = |issuer: &&IssuerTrust| issuer.verifier.as_ref().is_none_or(|verifier| verify(verifier).is_ok());
    Ok(issuers.filter(vouches).map(|issuer| issuer.index).collect())
}
