//! The client certificate of a connection as the only credential: the issuer that vouches for it, and the identity that
//! it proves.
//!
//! `gate` asks for requests to apps and for live connections, the login door for its endpoints. The certificate itself,
//! and whether it is trusted now, is `http::client_certificate`.

use std::sync::Arc;

use cedargate_policy::claims::{Possession, certificate_identity};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Identity;

use crate::base::clock::unix_seconds;
use crate::config::Issuer;
use crate::http::client_certificate::ClientCertificate;

/// The issuers of client certificates that a portal trusts.
#[derive(Clone, Copy)]
pub struct CertificateIssuers<'a> {
    /// `Config::issuers`.
    pub all: &'a [Issuer],
    /// Indexes into `all`, in the portal's order.
    pub trusted: &'a [usize],
}

impl<'a> CertificateIssuers<'a> {
    /// What `find` makes of the first issuer whose authorities vouch for the certificate now; `find` passes an issuer
    /// over with `None`.
    ///
    /// # Errors
    /// `token_invalid` if the certificate is not trusted any more, `issuer_unknown` if `find` passed over every issuer.
    pub fn first<T>(
        self,
        certificate: &ClientCertificate,
        mut find: impl FnMut(&'a Issuer) -> Result<Option<T>, Refusal>,
    ) -> Result<T, Refusal> {
        let verdict = certificate.check(unix_seconds())?;
        let vouching = verdict.issuers.as_deref().unwrap_or_default();
        let vouching = self.trusted.iter().filter(|index| vouching.contains(index));
        for issuer in vouching.filter_map(|index| self.all.get(*index)) {
            if let Some(found) = find(issuer)? {
                return Ok(found);
            }
        }
        let detail = "no issuer of certificates that this portal trusts vouches for the client certificate (client_certificates)";
        Err(Refusal::new(Denial::IssuerUnknown, detail))
    }

    /// The identity that the certificate proves.
    ///
    /// # Errors
    /// As `first`; and the fault of the certificate's names.
    pub fn identity(self, certificate: &ClientCertificate) -> Result<Identity, Refusal> {
        self.first(certificate, |issuer| identity_at(issuer, certificate))
    }

    /// Checks that the issuer of this name still vouches for the certificate.
    pub fn check(self, certificate: &ClientCertificate, issuer: &str) -> Result<(), Refusal> {
        self.first(certificate, |one| Ok((*one.scope.name == *issuer).then_some(())))
    }
}

/// The keys that a connection's TLS proves; a DPoP proof adds its own.
pub fn possession(certificate: Option<&Arc<ClientCertificate>>) -> Possession {
    Possession {
        certificate: certificate.map(|certificate| certificate.fingerprint),
        key: None,
    }
}

/// The identity that a certificate proves at an issuer that vouches for it; `None` if it has no name of the issuer's
/// kind.
pub fn identity_at(issuer: &Issuer, certificate: &ClientCertificate) -> Result<Option<Identity>, Refusal> {
    let Some(rules) = &issuer.certificates else {
        return Ok(None);
    };
    let Some(claims) = certificate.claims(rules)? else {
        return Ok(None);
    };
    let identity = certificate_identity(&issuer.scope, &certificate.fingerprint_hex(), claims)?;
    Ok(Some(identity))
}
