//! Which client certificates belong to an issuer, and which name in them is the subject.

use std::path::PathBuf;

/// Which certificates belong to an issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateRules {
    /// `None`: every authority of the listener.
    pub ca: Option<PathBuf>,
    pub subject: CertificateSubject,
}

/// The name in a certificate that is the subject.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateSubject {
    Spiffe { trust_domain: String },
    Dns,
    Email,
    CommonName,
    DistinguishedName,
}
