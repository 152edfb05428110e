//! `client_certificates`: which client certificates of the proxy listener prove a caller, and which identity each
//! gives.
//!
//! Each entry is an issuer without tokens: portals name it in `issuers`, its subjects get a prefix, and its tenants and
//! roles are bounded, as those of every issuer. The facts of a certificate are its claims.

use std::path::PathBuf;

use cedargate_policy::scope::{IssuerScope, RoleLimits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::certificate_rules::{CertificateRules, CertificateSubject};
use super::issuer_claims::RawIdentityRules;
use super::issuers::{Issuer, RawIssuer};
use super::listen::RawProxyListen;
use crate::config::check::Checker;

/// Client certificates that prove a caller.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawClientCertificates {
    /// Unique name among the issuers, for portals, logs and metrics: `[a-z0-9_-]+`.
    #[schemars(required)]
    pub name: Option<String>,
    /// The name in the certificate that is the subject.
    #[schemars(required)]
    pub subject: Option<RawCertificateSubject>,
    /// The trust domain of its SPIFFE IDs; only with `subject: spiffe`, and required there.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// PEM file of the only authorities that vouch for these certificates; watched. Absent: every authority of
    /// `listen.proxy.tls.client_ca`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(flatten)]
    pub identity: RawIdentityRules,
}

/// A name in a certificate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawCertificateSubject {
    /// The SPIFFE ID of the workload: the only URI of the certificate.
    Spiffe,
    /// The only DNS name.
    Dns,
    /// The only email address.
    Email,
    /// The only common name of the subject.
    CommonName,
    /// The whole subject, as RFC 4514 writes it: `CN=web,O=Acme`.
    DistinguishedName,
}

impl Checker<'_> {
    /// The issuers of client certificates, in the order of the file. Fewer than entries if a mistake was reported.
    pub fn client_certificates(
        &mut self,
        entries: &[RawClientCertificates],
        proxy: &RawProxyListen,
        issuers: &[RawIssuer],
        role_limits: RoleLimits,
    ) -> Vec<Issuer> {
        let asks = proxy.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !entries.is_empty() && !asks {
            let message = "needs `listen.proxy.tls.client_ca`: without it the listener asks clients for no certificate";
            self.error("client_certificates", message);
        }
        let mut names: Vec<Option<&str>> = issuers.iter().map(|issuer| issuer.name.as_deref()).collect();
        let mut found = Vec::new();
        for (n, raw) in entries.iter().enumerate() {
            let section = format!("client_certificates[{n}]");
            if raw.name.is_some() && names.contains(&raw.name.as_deref()) {
                self.error(&format!("{section}.name"), "another issuer has this name; names must differ");
            }
            names.push(raw.name.as_deref());
            found.extend(self.certificate_issuer(&section, raw, role_limits));
        }
        found
    }

    fn certificate_issuer(&mut self, section: &str, raw: &RawClientCertificates, role_limits: RoleLimits) -> Option<Issuer> {
        let key = |name: &str| format!("{section}.{name}");
        if let Some(name) = &raw.name {
            self.name(&key("name"), name);
        }
        let claims = self.identity_rules(section, &raw.identity);
        let subject = self.certificate_subject(&key("trust_domain"), raw);
        let ca = raw.ca_file.as_ref().map(|file| self.path(&key("ca_file"), file));
        let name = raw.name.as_deref()?;
        let unbounded = IssuerScope::new(
            name,
            format!("urn:cedargate:certificate:{name}"),
            vec!["cedargate".to_owned()],
        );
        let scope = raw.identity.scope(unbounded, claims?, role_limits);
        Some(Issuer {
            certificates: Some(CertificateRules { ca, subject: subject? }),
            ..Issuer::without_tokens(scope)
        })
    }

    fn certificate_subject(&mut self, key: &str, raw: &RawClientCertificates) -> Option<CertificateSubject> {
        let subject = raw.subject?;
        match (subject, &raw.trust_domain) {
            (RawCertificateSubject::Spiffe, None) => {
                self.error(
                    key,
                    "is required with `subject: spiffe`: an authority vouches for one trust domain",
                );
                None
            }
            (RawCertificateSubject::Spiffe, Some(domain)) => {
                let is_sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
                if domain.is_empty() || !domain.bytes().all(is_sound) {
                    let message = format!("`{domain}` is not a trust domain; write it as `prod.example.com`");
                    self.error(key, message);
                    return None;
                }
                Some(CertificateSubject::Spiffe {
                    trust_domain: domain.clone(),
                })
            }
            (_, Some(_)) => {
                self.error(key, "has no effect without `subject: spiffe`; remove one of them");
                None
            }
            (RawCertificateSubject::Dns, None) => Some(CertificateSubject::Dns),
            (RawCertificateSubject::Email, None) => Some(CertificateSubject::Email),
            (RawCertificateSubject::CommonName, None) => Some(CertificateSubject::CommonName),
            (RawCertificateSubject::DistinguishedName, None) => Some(CertificateSubject::DistinguishedName),
        }
    }
}
