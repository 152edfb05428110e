//! `issuers`: whose tokens the gate accepts, for which audiences, and with which keys.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::scope::{IssuerScope, Overage, RoleLimits};
use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema as schema};
use serde::{Deserialize, Serialize};

use super::certificate_rules::CertificateRules;
use super::client_credentials::RawClientCredentials;
use super::egress::Egress;
use crate::config::Secret;
use crate::config::check::{Checker, is_loopback};
use crate::config::sections::issuer_claims::RawIdentityRules;
use crate::config::values::TimeSpan;

/// `iss` of the gate's own tokens without a `public_url`.
const OWN_ISSUER: &str = "cedargate";

/// At most 5 minutes: longer would keep expired tokens alive.
type Leeway = TimeSpan<0, 300_000>;
/// At most 5 minutes: longer would keep revoked tokens alive.
type CacheTime = TimeSpan<0, 300_000>;
/// At least a second, and at most 5 minutes: the gate remembers a proof for that time.
type ProofAge = TimeSpan<1_000, 300_000>;
/// At least a minute.
type JwksMaxAge = TimeSpan<60_000>;

/// An issuer whose tokens the gate accepts.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawIssuer {
    /// Unique name for logs and metrics: `[a-z0-9_-]+`.
    #[schemars(required)]
    pub name: Option<String>,
    /// Exactly the `iss` of its tokens.
    #[schemars(required)]
    pub issuer: Option<String>,
    /// The `aud` values accepted; at least one.
    #[schemars(required)]
    pub audiences: Option<Vec<String>>,
    /// The source of its keys. Absent: OIDC discovery at `issuer`.
    #[serde(default)]
    pub jwks: Option<RawJwks>,
    /// The claim that must hold one of `audiences`; an `aud` in the same token must fit as well.
    #[serde(default = "audience_claim")]
    pub audience_claim: String,
    /// Signature algorithms accepted; asymmetric ones only.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Tolerated difference of clocks, 5m at most.
    #[serde(default = "Leeway::seconds::<30>")]
    pub leeway: Leeway,
    #[serde(flatten)]
    pub identity: RawIdentityRules,
    /// The places of its tokens besides `Authorization: Bearer`, which goes first.
    #[serde(default)]
    pub token_from: Vec<RawTokenSource>,
    /// Count a mapped claim that the issuer left out of the token (group overage) as absent. A forbid that reads it, or
    /// one of its roles, then does not apply.
    #[serde(default)]
    pub danger_ignore_overage: bool,
    /// Allow fetching keys without TLS from another host. An attacker who can answer there can sign in as any user.
    #[serde(default)]
    pub danger_insecure_jwks: bool,
    /// PEM file of the only authorities that the gate trusts for requests to the issuer. Absent: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy for requests to the issuer, such as `http://proxy.example.com:3128`.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Accept its tokens with a DPoP proof (RFC 9449). Absent: such tokens are refused.
    #[serde(default)]
    pub dpop: Option<RawDpop>,
    /// Ask the issuer about bearer tokens that are no JWTs (RFC 7662). Absent: such tokens are refused.
    #[serde(default)]
    pub introspection: Option<RawIntrospection>,
}

/// A place of tokens: exactly one of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawTokenSource {
    /// A request header, with or without `Bearer` before the token.
    #[serde(default)]
    pub header: Option<String>,
    /// A cookie. A request that changes something needs the same evidence of its origin as with a session.
    #[serde(default)]
    pub cookie: Option<String>,
    /// A WebSocket subprotocol: the one after it is the token.
    #[serde(default)]
    pub websocket_protocol: Option<String>,
}

/// A place of tokens besides `Authorization`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenSource {
    Header(HeaderName),
    /// The cookie's name.
    Cookie(String),
    /// The subprotocol in front of the token.
    WebsocketProtocol(String),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDpop {
    /// Refuse its tokens without a proof.
    pub required: bool,
    /// Demand a nonce of the gate in each proof. Without Redis, each of several replicas accepts its own nonces alone.
    pub nonce: bool,
    /// Age of a proof, 5m at most.
    pub max_age: ProofAge,
}

/// How tokens with a DPoP proof are accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dpop {
    pub required: bool,
    /// True if each proof needs a nonce of this process.
    pub nonce: bool,
    pub max_age: Duration,
}

impl Default for RawDpop {
    fn default() -> Self {
        Self {
            required: false,
            nonce: false,
            max_age: ProofAge::seconds::<60>(),
        }
    }
}

/// The question to an issuer about tokens that are no JWTs.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawIntrospection {
    /// `https` URL of the introspection endpoint. Absent: OIDC discovery at `issuer`.
    #[serde(default)]
    pub url: Option<String>,
    #[serde(flatten)]
    pub client: RawClientCredentials,
    /// Time for which an answer may be used again, 5m at most.
    #[serde(default = "CacheTime::seconds::<30>")]
    pub cache: CacheTime,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawJwks {
    /// `https` URL of the key set. Either this or `file`.
    #[serde(default)]
    pub url: Option<String>,
    /// File of the key set, watched. Either this or `url`.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Time for which the last good keys are used when they cannot be fetched.
    #[serde(default = "jwks_max_age")]
    pub max_age: JwksMaxAge,
}

#[derive(Clone, Debug)]
pub struct Issuer {
    /// The part that policies depend on: name, audiences, claims and bounds.
    pub scope: Arc<IssuerScope>,
    pub keys: KeySource,
    /// The transports over which they may be fetched.
    pub key_transport: KeyTransport,
    /// Time for which the last good keys are used when they cannot be fetched.
    pub jwks_max_age: Duration,
    /// Never empty.
    pub algorithms: Vec<Algorithm>,
    pub leeway: Duration,
    /// The way of requests for keys, introspection and, unless the provider has its own, logins.
    pub egress: Egress,
    /// The places of its tokens besides `Authorization`.
    pub token_from: Vec<TokenSource>,
    /// `None`: bearer tokens that are no JWTs are refused.
    pub introspection: Option<Introspection>,
    /// `None`: its tokens come without a DPoP proof.
    pub dpop: Option<Dpop>,
    /// `None`: no client certificate proves its callers.
    pub certificates: Option<CertificateRules>,
}

/// The endpoint that the gate asks about opaque tokens of an issuer (RFC 7662).
#[derive(Clone, Debug)]
pub struct Introspection {
    /// `None`: discovery.
    pub url: Option<String>,
    pub client_id: String,
    pub client_secret: Secret,
    /// Time for which an answer may be used again.
    pub cache: Duration,
}

/// The transports over which an issuer's keys may be fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyTransport {
    /// https, or http to this very machine.
    Tls,
    /// `danger_insecure_jwks`: http to any host. An attacker who can answer there can sign in as any user.
    DangerPlain,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    Discovery,
    Url(String),
    File(PathBuf),
    /// Local accounts or client certificates: this issuer has no tokens, so the gate accepts none.
    NoTokens,
}

/// JWS algorithms by their names in RFC 7518 and 8037; symmetric ones (HS*) are not offered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

pub const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

fn algorithms() -> Vec<Algorithm> {
    vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]
}

fn audience_claim() -> String {
    "aud".to_owned()
}

fn jwks_max_age() -> JwksMaxAge {
    TimeSpan::seconds::<86_400>()
}

impl Issuer {
    /// An issuer whose tokens the gate never accepts: that of local accounts or of client certificates.
    pub fn without_tokens(scope: IssuerScope) -> Self {
        Self {
            scope: Arc::new(scope),
            keys: KeySource::NoTokens,
            key_transport: KeyTransport::Tls,
            jwks_max_age: Duration::ZERO,
            algorithms: vec![Algorithm::Es256],
            leeway: Duration::ZERO,
            egress: Egress::default(),
            token_from: Vec::new(),
            introspection: None,
            dpop: None,
            certificates: None,
        }
    }
}

impl JsonSchema for Algorithm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Algorithm".into()
    }

    // the format makes `schema` explain why symmetric algorithms and `none` are refused
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "format": "jws-algorithm", "enum": ALGORITHMS })
    }
}

impl Checker<'_> {
    pub fn issuers(&mut self, raw: &[RawIssuer], role_limits: RoleLimits) -> Vec<Issuer> {
        self.unique_issuers(raw);
        raw.iter()
            .enumerate()
            .filter_map(|(n, issuer)| self.issuer(&format!("issuers[{n}]"), issuer, role_limits))
            .collect()
    }

    /// SECURITY: tokens that `auth/token` mints are for apps. Accepted as a credential, such a token would lose the
    /// issuer of its subject, the portal it is for, and the revocation of its session.
    pub fn not_our_own(&mut self, issuers: &[RawIssuer], public_url: Option<&str>) {
        for (n, issuer) in issuers.iter().enumerate() {
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

    fn issuer(&mut self, section: &str, raw: &RawIssuer, role_limits: RoleLimits) -> Option<Issuer> {
        let key = |name: &str| format!("{section}.{name}");
        if let Some(name) = &raw.name {
            self.name(&key("name"), name);
        }
        let keys = self.keys(section, raw);
        self.audiences(&key("audiences"), raw.audiences.as_deref());
        let egress = self.egress(section, raw.ca_file.as_deref(), raw.proxy.as_deref());
        let audience_claim = self.claim_path(&key("audience_claim"), &raw.audience_claim);
        let claims = self.identity_rules(section, &raw.identity);
        let token_from = self.token_sources(&key("token_from"), &raw.token_from);
        let introspection = self.introspection(&key("introspection"), raw.introspection.as_ref());
        let max_age = raw.jwks.as_ref().map_or_else(jwks_max_age, |jwks| jwks.max_age);
        let unbounded = IssuerScope {
            audience_claim: audience_claim?,
            overage: if raw.danger_ignore_overage {
                Overage::DangerIgnore
            } else {
                Overage::Refuse
            },
            ..IssuerScope::new(raw.name.as_deref()?, raw.issuer.clone()?, raw.audiences.clone()?)
        };
        let scope = raw.identity.scope(unbounded, claims?, role_limits);
        Some(Issuer {
            scope: Arc::new(scope),
            keys: keys?,
            key_transport: if raw.danger_insecure_jwks {
                KeyTransport::DangerPlain
            } else {
                KeyTransport::Tls
            },
            jwks_max_age: max_age.get(),
            algorithms: self.algorithms(&key("algorithms"), &raw.algorithms),
            leeway: raw.leeway.get(),
            egress: egress?,
            token_from: token_from?,
            introspection: introspection?,
            dpop: raw.dpop.map(|dpop| Dpop {
                required: dpop.required,
                nonce: dpop.nonce,
                max_age: dpop.max_age.get(),
            }),
            certificates: None,
        })
    }

    fn token_sources(&mut self, key: &str, raw: &[RawTokenSource]) -> Option<Vec<TokenSource>> {
        let each = raw.iter().enumerate();
        let checked: Vec<_> = each.map(|(n, raw)| self.token_source(&format!("{key}[{n}]"), raw)).collect();
        checked.into_iter().collect()
    }

    fn token_source(&mut self, key: &str, raw: &RawTokenSource) -> Option<TokenSource> {
        let is_token = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        match (&raw.header, &raw.cookie, &raw.websocket_protocol) {
            (Some(header), None, None) => {
                let place = format!("{key}.header");
                let name = self.header_name(&place, header);
                if name.starts_with("sec-") || name.starts_with("x-cedargate-") {
                    self.error(
                        &place,
                        format!("`{header}` is set by the browser or the gate itself; name another header"),
                    );
                }
                HeaderName::try_from(name).ok().map(TokenSource::Header)
            }
            (None, Some(cookie), None) => {
                let place = format!("{key}.cookie");
                if !is_token(cookie) {
                    self.error(&place, format!("`{cookie}` is not the name of a cookie"));
                } else if cookie.starts_with("cedargate") || cookie.starts_with("__Host-cedargate") {
                    self.error(
                        &place,
                        format!("`{cookie}` is a name of the gate's own cookies; name another cookie"),
                    );
                }
                Some(TokenSource::Cookie(cookie.clone()))
            }
            (None, None, Some(protocol)) => {
                if !is_token(protocol) {
                    let message = format!("`{protocol}` is not a subprotocol; use letters, digits, `-` and `.`");
                    self.error(&format!("{key}.websocket_protocol"), message);
                }
                Some(TokenSource::WebsocketProtocol(protocol.clone()))
            }
            _ => {
                if !self.has_error_under(key) {
                    self.error(key, "needs exactly one of `header`, `cookie` and `websocket_protocol`");
                }
                None
            }
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

    /// The algorithms without repetitions.
    fn algorithms(&mut self, key: &str, named: &[Algorithm]) -> Vec<Algorithm> {
        let mut found = Vec::new();
        for algorithm in named {
            if !found.contains(algorithm) {
                found.push(*algorithm);
            }
        }
        if named.is_empty() {
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
                // a key of the wrong type was reported, and may be the one that is missing here
                let is_reported = self.has_error_under(&jwks_key) && !self.has_error_under(&format!("{jwks_key}.max_age"));
                if !is_reported {
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
            let message = "keys must be fetched over `https://`, or an attacker on the network could replace them; \
                           use https, a loopback host, `jwks: { file: … }`, or set `danger_insecure_jwks: true`";
            self.error(key, message);
            return None;
        }
        Some(())
    }

    /// `None` if something was reported; `Some(None)` if there is none.
    pub fn introspection(&mut self, section: &str, raw: Option<&RawIntrospection>) -> Option<Option<Introspection>> {
        let Some(raw) = raw else { return Some(None) };
        let key = |name: &str| format!("{section}.{name}");
        let client = self.client_credentials(section, &raw.client, "introspection");
        if let Some(url) = &raw.url {
            self.secret_url(&key("url"), url, "a secret is sent there")?;
        }
        let client = client?;
        Some(Some(Introspection {
            url: raw.url.clone(),
            client_id: client.id,
            client_secret: client.secret,
            cache: raw.cache.get(),
        }))
    }
}
