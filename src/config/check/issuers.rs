//! Issuers: who is believed, for what, with which keys.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cedar_policy::EntityTypeName;

use super::Checker;
use super::network::is_loopback;
use crate::config::raw::{AlgorithmText, Raw, RawIssuer, RawJwks};
use crate::config::{Algorithm, Issuer, KeySource, KeyTransport};
use cedargate_policy::scope::{ClaimPaths, IssuerScope};

/// `iss` of the gate's own tokens without a `public_url`.
const OWN_ISSUER: &str = "cedargate";
/// Longer would keep expired tokens alive.
const LEEWAY_MAX: Duration = Duration::from_secs(5 * 60);
const JWKS_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const JWKS_MAX_AGE_MIN: Duration = Duration::from_secs(60);

impl Checker<'_> {
    pub fn issuers(&mut self, raw: &[RawIssuer]) -> Vec<Issuer> {
        self.unique_issuers(raw);
        raw.iter()
            .enumerate()
            .filter_map(|(n, issuer)| self.issuer(&format!("issuers[{n}]"), issuer))
            .collect()
    }

    /// SECURITY: what `auth/token` mints is for apps. Taken back as a credential it would lose who vouched for its subject,
    /// which portal it is for, and that its session was revoked.
    pub fn not_our_own(&mut self, raw: &Raw, public_url: Option<&str>) {
        for (n, issuer) in raw.issuers.iter().enumerate() {
            if issuer.issuer.as_deref() == Some(public_url.unwrap_or(OWN_ISSUER)) {
                let message = "is the gate's own `iss`: its tokens are for apps, and no credential here; remove this issuer";
                self.error(&format!("issuers[{n}].issuer"), message);
            }
        }
    }

    fn unique_issuers(&mut self, raw: &[RawIssuer]) {
        for (n, issuer) in raw.iter().enumerate() {
            let before = raw.iter().take(n);
            if issuer.name.is_some() && before.clone().any(|other| other.name == issuer.name) {
                self.error(
                    &format!("issuers[{n}].name"),
                    "another issuer has this name; names must differ",
                );
            }
            if issuer.issuer.is_some() && before.clone().any(|other| other.issuer == issuer.issuer) {
                let message =
                    "another issuer has this `issuer`, so a token could not be told apart; merge their audiences into one entry";
                self.error(&format!("issuers[{n}].issuer"), message);
            }
        }
    }

    fn issuer(&mut self, section: &str, raw: &RawIssuer) -> Option<Issuer> {
        let key = |name: &str| format!("{section}.{name}");
        if let Some(name) = &raw.name {
            self.issuer_name(&key("name"), name);
        }
        let keys = self.keys(section, raw);
        self.audiences(&key("audiences"), raw.audiences.as_deref());
        self.principal(&key("principal"), &raw.principal);
        for (name, path) in [
            ("subject", &raw.claims.subject),
            ("tenant", &raw.claims.tenant),
            ("roles", &raw.claims.roles),
        ] {
            self.not_blank(&key(&format!("claims.{name}")), path);
        }
        let introspection = self.introspection(&key("introspection"), raw.introspection.as_ref());
        let max_age = raw
            .jwks
            .as_ref()
            .map(|jwks| self.at_least(&key("jwks.max_age"), jwks.max_age, JWKS_MAX_AGE_MIN));
        let scope = IssuerScope {
            name: Arc::from(raw.name.as_deref()?),
            issuer: raw.issuer.clone()?,
            audiences: raw.audiences.clone()?,
            claims: ClaimPaths {
                subject: raw.claims.subject.clone(),
                tenant: raw.claims.tenant.clone(),
                roles: raw.claims.roles.clone(),
            },
            principal: Arc::from(raw.principal.as_str()),
            subject_prefix: raw.subject_prefix.clone(),
            tenants: raw.tenants.clone(),
            roles: raw.roles.clone(),
        };
        Some(Issuer {
            scope: Arc::new(scope),
            keys: keys?,
            key_transport: if raw.danger_insecure_jwks {
                KeyTransport::DangerPlain
            } else {
                KeyTransport::Tls
            },
            jwks_max_age: max_age.unwrap_or(JWKS_MAX_AGE),
            algorithms: self.algorithms(&key("algorithms"), &raw.algorithms),
            leeway: self.at_most(&key("leeway"), raw.leeway, LEEWAY_MAX),
            introspection: introspection?,
        })
    }

    pub fn issuer_name(&mut self, key: &str, name: &str) {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(fits) {
            self.error(
                key,
                format!("`{name}` is not a name; use 1 to 63 of `a-z`, `0-9`, `_` and `-`"),
            );
        }
    }

    fn audiences(&mut self, key: &str, audiences: Option<&[String]>) {
        if audiences.is_some_and(<[String]>::is_empty) {
            self.error(
                key,
                "is empty, so tokens made for any other service would be accepted; name at least one audience",
            );
        }
        for (n, audience) in audiences.unwrap_or_default().iter().enumerate() {
            self.not_blank(&format!("{key}[{n}]"), audience);
        }
    }

    fn principal(&mut self, key: &str, name: &str) {
        if !EntityTypeName::from_str(name).is_ok_and(|parsed| parsed.to_string() == name) {
            self.error(
                key,
                format!("`{name}` is not a Cedar entity type; write a name such as `User` or `Shop::Service`"),
            );
        }
    }

    fn algorithms(&mut self, key: &str, names: &[AlgorithmText]) -> Vec<Algorithm> {
        let mut found = Vec::new();
        // unknown names were reported while reading
        for algorithm in names.iter().filter_map(|name| Algorithm::parse(&name.0)) {
            if !found.contains(&algorithm) {
                found.push(algorithm);
            }
        }
        if names.is_empty() {
            self.error(
                key,
                "is empty, so no token could be accepted; remove the key for the default, or name one",
            );
        }
        found
    }

    fn keys(&mut self, section: &str, raw: &RawIssuer) -> Option<KeySource> {
        let jwks_key = format!("{section}.jwks");
        let issuer_key = format!("{section}.issuer");
        if let Some(issuer) = &raw.issuer {
            self.not_blank(&issuer_key, issuer);
        }
        match &raw.jwks {
            None => {
                let issuer = raw.issuer.as_deref()?;
                self.safe_url(&issuer_key, issuer, raw)?;
                Some(KeySource::Discovery)
            }
            Some(RawJwks {
                url: Some(url),
                file: None,
                ..
            }) => {
                self.safe_url(&format!("{jwks_key}.url"), url, raw)?;
                Some(KeySource::Url(url.clone()))
            }
            Some(RawJwks {
                url: None,
                file: Some(file),
                ..
            }) => Some(KeySource::File(self.path(&format!("{jwks_key}.file"), file))),
            Some(_) => {
                // one that did not read was reported, and may be the one meant
                if !self.errors.iter().any(|error| error.key.starts_with(&jwks_key)) {
                    self.error(&jwks_key, "needs exactly one of `url` and `file`");
                }
                None
            }
        }
    }

    /// A URL that keys may be fetched from.
    fn safe_url(&mut self, key: &str, text: &str, issuer: &RawIssuer) -> Option<()> {
        let url = self.parse_url(key, text)?;
        let insecure_ok = url.scheme() == "http" && (is_loopback(&url) || issuer.danger_insecure_jwks);
        if url.host().is_none() || !(url.scheme() == "https" || insecure_ok) {
            let message = "keys must be fetched over `https://`, or anyone on the way could replace them; \
                           use https, a loopback host, `jwks: { file: … }`, or set `danger_insecure_jwks: true`";
            self.error(key, message);
            return None;
        }
        Some(())
    }
}

impl Algorithm {
    /// By the name in RFC 7518 and 8037.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}
