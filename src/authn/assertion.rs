//! The gate's assertion: a signed statement of the caller's identity for the app.
//!
//! It is a short-lived ES256 JWT with its own `typ`, set on every forwarded request. The app verifies it with the
//! published JWKS, or sends it to `/authorize`, where it stands for exactly the identity that the proxy used. The proxy
//! listener never accepts it as a credential: it refuses the `typ`.
//!
//! One task reloads the key file; workers sign with the ring that is in force at that moment. A swap replaces the whole
//! ring, so a signature never mixes two rings. `generation` then differs, and workers stop handing out assertions of
//! the old ring. A file that cannot be read or parsed leaves the old ring in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use cedargate_policy::claims::{self, ClaimError};
use cedargate_policy::digest::short_hash;
use cedargate_policy::types::{AuthFacts, Identity, Redacted, TokenFacts, UnreadableFact};
use serde_json::{Map, Value, json};

use super::error::TokenError;
use super::jwk::PublicKey;
use super::jws::{self, ASSERTION_TYP, TokenKind};
use super::signer::{SignerError, SigningKey};
use crate::base::digest::sha256;
use crate::base::files::{ReadError, read_small_text};
use crate::config;

/// Longest assertion that `/authorize` accepts, in bytes.
pub const ASSERTION_BYTES_MAX: usize = 64 * 1024;
/// `typ` of an access token (RFC 9068).
const TOKEN_TYP: &str = "at+jwt";
/// Longest life of a minted token, in seconds.
const TOKEN_LIFE: i64 = 300;
/// Longest key file, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
const NAME: &str = "the gate's assertion";

/// An error of loading the assertion keys.
#[derive(Debug, thiserror::Error)]
pub enum AssertionError {
    #[error("cannot read `{path}` (assertion.key_file): {source}")]
    File { path: PathBuf, source: ReadError },
    #[error("`{path}` (assertion.key_file): {source}")]
    Key { path: PathBuf, source: SignerError },
    #[error("cannot make an assertion key: {0}")]
    Generate(SignerError),
}

/// True if a token claims by its `typ` to be an assertion of the gate; nothing is verified.
pub fn is_assertion(token: &str) -> bool {
    let header = token.split('.').next().and_then(|segment| jws::decode(segment).ok());
    let header = header.and_then(|bytes| cedargate_policy::json::object_from_slice(&bytes).ok());
    header.is_some_and(|h| h.get("typ").and_then(Value::as_str) == Some(ASSERTION_TYP))
}

/// The content of one assertion.
#[derive(Clone, Copy, Debug)]
pub struct AssertionClaims<'a> {
    pub identity: &'a Identity,
    /// The principal's id, with the portal's prefix for the issuer, so that subjects of two issuers never collide.
    pub subject: &'a str,
    pub portal: &'a str,
    /// The origin of the upstream.
    pub audience: &'a str,
    pub revision: &'a str,
    /// The claims that the app, or a later `/authorize` query, may read.
    pub claims: &'a Map<String, Value>,
    /// Unix seconds.
    pub now: i64,
}

/// An assertion that the app sent to `/authorize`, verified.
#[derive(Clone, Debug)]
pub struct VerifiedAssertion {
    pub identity: Identity,
    /// Unix seconds at which the gate signed it.
    pub issued_at: i64,
}

/// A token that the gate minted for its subject's own use.
pub struct MintedToken {
    pub token: String,
    /// Unix seconds.
    pub expires_at: i64,
}

/// Signs and verifies the gate's assertions. One task calls `reload`, which replaces the ring; all workers read the
/// ring.
pub struct AssertionKeys {
    ring: ArcSwap<KeyRing>,
    /// `None`: the ring has one ephemeral key.
    file: Option<PathBuf>,
    issuer: String,
    ttl: i64,
}

/// The keys of one version of the file: the first signs, all verify. Never empty.
struct KeyRing {
    signer: SigningKey,
    verifiers: Vec<Verifier>,
    jwks: Value,
    generation: u64,
    /// SHA-256 of the file.
    content: [u8; 32],
}

/// A public key of the ring.
struct Verifier {
    kid: String,
    key: PublicKey,
}

impl KeyRing {
    fn new(keys: Vec<SigningKey>, content: [u8; 32], generation: u64) -> Result<Self, SignerError> {
        let mut verifiers: Vec<Verifier> = Vec::with_capacity(keys.len());
        for key in &keys {
            if verifiers.iter().any(|known| known.kid == key.kid()) {
                return Err(SignerError::Repeated);
            }
            verifiers.push(Verifier {
                kid: key.kid().to_owned(),
                key: PublicKey::parse(key.jwk()).map_err(|_own_key| SignerError::Key)?,
            });
        }
        let jwks = json!({"keys": keys.iter().map(SigningKey::jwk).collect::<Vec<_>>()});
        Ok(Self {
            signer: keys.into_iter().next().ok_or(SignerError::Pem)?,
            verifiers,
            jwks,
            generation,
            content,
        })
    }
}

impl AssertionKeys {
    /// Reads the configured keys or makes an ephemeral one. `issuer` becomes `iss`: the public URL or `cedargate`.
    pub fn load(config: &config::Assertion, issuer: &str) -> Result<Self, AssertionError> {
        let ring = match &config.key_file {
            None => {
                let key = SigningKey::generate().map_err(AssertionError::Generate)?;
                KeyRing::new(vec![key], [0; 32], 0).map_err(AssertionError::Generate)?
            }
            Some(path) => parse_ring(path, &read(path)?, 0)?,
        };
        Ok(Self {
            ring: ArcSwap::from_pointee(ring),
            file: config.key_file.clone(),
            issuer: issuer.to_owned(),
            ttl: i64::try_from(config.ttl.get().as_secs()).unwrap_or(i64::MAX),
        })
    }

    /// Reads the file again and replaces the ring if the content changed; `None`: it did not. Unusable keys leave the
    /// old ring in force. Blocks on the file, so a worker must not call it.
    pub fn reload(&self) -> Option<Result<(), AssertionError>> {
        let path = self.file.as_ref()?;
        let before = self.ring.load_full();
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => return Some(Err(error)),
        };
        if sha256(text.expose().as_bytes()) == before.content {
            return None;
        }
        let ring = parse_ring(path, &text, before.generation.wrapping_add(1));
        Some(ring.map(|ring| self.ring.store(Arc::new(ring))))
    }

    /// Returns the number of the ring in force. Assertions of an older ring must not be handed out any more.
    pub fn generation(&self) -> u64 {
        self.ring.load().generation
    }

    /// Returns the expiry of an assertion that is signed now; never after that of the credential.
    pub fn expires_at(&self, identity: &Identity, now: i64) -> i64 {
        now.saturating_add(self.ttl).min(identity.expires_at)
    }

    pub fn sign(&self, assertion: AssertionClaims<'_>) -> Result<String, SignerError> {
        let AssertionClaims { identity, now, .. } = assertion;
        let mut claims = json!({
            "iss": self.issuer,
            "aud": assertion.audience,
            "sub": assertion.subject,
            "issuer_subject": identity.subject,
            "portal": assertion.portal,
            "roles": identity.roles,
            "claims": assertion.claims,
            "issuer": &*identity.issuer,
            "principal_type": &*identity.principal_type,
            "revision": assertion.revision,
            "jti": uuid::Uuid::now_v7().to_string(),
            "iat": now,
            "exp": self.expires_at(identity, now),
            "credential_exp": identity.expires_at,
            "auth": {"method": identity.auth.method, "amr": identity.auth.amr, "scopes": identity.auth.scopes},
        });
        if let Some(members) = claims.as_object_mut() {
            insert_some(members, "tenant", identity.tenant.as_deref().map(Value::from));
        }
        if let Some(Value::Object(auth)) = claims.get_mut("auth") {
            insert_some(auth, "time", identity.auth.time.map(Value::from));
            insert_some(auth, "acr", identity.auth.acr.as_deref().map(Value::from));
            let unreadable: Vec<&str> = identity.auth.unreadable.iter().map(|fact| fact.field).collect();
            insert_some(auth, "unreadable", (!unreadable.is_empty()).then(|| json!(unreadable)));
        }
        self.sign_claims(ASSERTION_TYP, &claims)
    }

    /// Mints a token for its subject's own use, with the same keys, another `typ` and its own audience.
    pub fn mint(&self, identity: &Identity, subject: &str, portal: &str, now: i64) -> Result<MintedToken, SignerError> {
        let expires_at = now.saturating_add(TOKEN_LIFE).min(identity.expires_at);
        let mut claims = json!({
            "iss": self.issuer,
            "aud": format!("cedargate:{portal}"),
            "sub": subject,
            "issuer_subject": identity.subject,
            "portal": portal,
            "roles": identity.roles,
            "issuer": &*identity.issuer,
            "amr": identity.auth.amr,
            "jti": uuid::Uuid::now_v7().to_string(),
            "iat": now,
            "exp": expires_at,
        });
        if let Some(members) = claims.as_object_mut() {
            insert_some(members, "tenant", identity.tenant.as_deref().map(Value::from));
            insert_some(members, "auth_time", identity.auth.time.map(Value::from));
            insert_some(members, "acr", identity.auth.acr.as_deref().map(Value::from));
        }
        Ok(MintedToken {
            token: self.sign_claims(TOKEN_TYP, &claims)?,
            expires_at,
        })
    }

    /// Signs claims with the ring's first key.
    fn sign_claims(&self, typ: &str, claims: &Value) -> Result<String, SignerError> {
        let ring = self.ring.load();
        let header = json!({"alg": "ES256", "typ": typ, "kid": ring.signer.kid()});
        ring.signer.sign(&header, claims)
    }

    /// Returns the public keys, for `/.well-known/cedargate/jwks.json`.
    pub fn jwks(&self) -> Value {
        self.ring.load().jwks.clone()
    }

    /// Verifies an assertion of this gate for this portal and upstream. The caller must not cache the identity beyond
    /// this query: its `expires_at` is the credential's, not the assertion's.
    pub fn verify(&self, token: &str, portal: &str, audience: &str, now: i64) -> Result<VerifiedAssertion, TokenError> {
        let parsed = jws::parse(token, ASSERTION_BYTES_MAX, TokenKind::Assertion)?;
        let ring = self.ring.load();
        let kid = parsed.header.kid.as_deref();
        let known = kid.and_then(|kid| ring.verifiers.iter().find(|verifier| verifier.kid == kid));
        let Some(verifier) = known else {
            return Err(TokenError::Key {
                issuer: NAME.to_owned(),
                why: "it was signed with another key",
            });
        };
        if !verifier
            .key
            .verifies(parsed.header.algorithm, parsed.signing_input.as_bytes(), &parsed.signature)
        {
            return Err(TokenError::Signature { issuer: NAME.to_owned() });
        }
        let claims = parsed.claims;
        claims::window(&claims, 0)?.check(now)?;
        if text(&claims, "aud")? != audience || text(&claims, "iss")? != self.issuer || text(&claims, "portal")? != portal {
            return Err(ClaimError::Audience { issuer: NAME.to_owned() }.into());
        }
        let issued_at = integer(&claims, "iat")?.ok_or(wrong("iat"))?;
        let identity = self.identity(&claims, parsed.header.kid)?;
        Ok(VerifiedAssertion { identity, issued_at })
    }

    fn identity(&self, claims: &Map<String, Value>, kid: Option<String>) -> Result<Identity, TokenError> {
        let auth = object(claims, "auth")?;
        Ok(Identity {
            issuer: Arc::from(text(claims, "issuer")?),
            subject: text(claims, "issuer_subject")?.to_owned(),
            principal_type: Arc::from(text(claims, "principal_type")?),
            tenant: optional_text(claims, "tenant")?,
            roles: texts(claims, "roles")?,
            claims: Arc::new(object(claims, "claims")?.clone()),
            expires_at: integer(claims, "credential_exp")?.ok_or(wrong("credential_exp"))?,
            auth: Arc::new(AuthFacts {
                method: method(text(auth, "method")?)?,
                time: integer(auth, "time")?,
                acr: optional_text(auth, "acr")?,
                amr: texts(auth, "amr")?,
                scopes: texts(auth, "scopes")?,
                unreadable: unreadable(auth)?,
            }),
            token: TokenFacts {
                iss: self.issuer.clone(),
                aud: vec![text(claims, "aud")?.to_owned()],
                kid,
                alg: "ES256",
                jti_hash: Some(short_hash(text(claims, "jti")?)),
            },
        })
    }
}

fn read(path: &Path) -> Result<Redacted<String>, AssertionError> {
    let read = read_small_text(path, KEY_FILE_BYTES_MAX).map(Redacted::new);
    read.map_err(|source| AssertionError::File {
        path: path.to_owned(),
        source,
    })
}

fn parse_ring(path: &Path, text: &Redacted<String>, generation: u64) -> Result<KeyRing, AssertionError> {
    let keys = SigningKey::all_from_pem(text.expose());
    let ring = keys.and_then(|keys| KeyRing::new(keys, sha256(text.expose().as_bytes()), generation));
    ring.map_err(|source| AssertionError::Key {
        path: path.to_owned(),
        source,
    })
}

fn insert_some(map: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(name.to_owned(), value);
    }
}

/// The fields that the credential had in a form that the gate could not read.
fn unreadable(auth: &Map<String, Value>) -> Result<Vec<UnreadableFact>, TokenError> {
    if !auth.contains_key("unreadable") {
        return Ok(Vec::new());
    }
    let named = texts(auth, "unreadable")?;
    let fact = |name: &String| {
        let field = ["time", "acr", "amr", "scopes"].into_iter().find(|field| field == name);
        field.map(|field| UnreadableFact {
            field,
            claim: format!("auth.{field}"),
            detail: format!("`auth.{field}` of the asserted credential is malformed"),
        })
    };
    named.iter().map(fact).collect::<Option<_>>().ok_or(wrong("auth.unreadable"))
}

/// Maps a text to one of the values of `AuthFacts::method`.
fn method(text: &str) -> Result<&'static str, TokenError> {
    AuthFacts::method_named(text).ok_or(wrong("auth.method"))
}

fn wrong(claim: &str) -> TokenError {
    TokenError::claim(claim, "is missing or of another type")
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Result<&'a str, TokenError> {
    map.get(name).and_then(Value::as_str).ok_or_else(|| wrong(name))
}

fn optional_text(map: &Map<String, Value>, name: &str) -> Result<Option<String>, TokenError> {
    map.contains_key(name).then(|| text(map, name).map(str::to_owned)).transpose()
}

fn integer(map: &Map<String, Value>, name: &str) -> Result<Option<i64>, TokenError> {
    map.get(name)
        .map(|value| value.as_i64().ok_or_else(|| wrong(name)))
        .transpose()
}

fn object<'a>(map: &'a Map<String, Value>, name: &str) -> Result<&'a Map<String, Value>, TokenError> {
    map.get(name).and_then(Value::as_object).ok_or_else(|| wrong(name))
}

fn texts(map: &Map<String, Value>, name: &str) -> Result<Vec<String>, TokenError> {
    let values = map.get(name).and_then(Value::as_array).ok_or_else(|| wrong(name))?;
    let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(|| wrong(name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const APP: &str = "http://127.0.0.1:3000";

    fn keys() -> AssertionKeys {
        let config = config::Assertion {
            header: "x-cedargate-assertion".into(),
            ttl: config::TimeSpan::seconds::<60>(),
            key_file: None,
        };
        AssertionKeys::load(&config, "cedargate").unwrap()
    }

    fn identity() -> Identity {
        Identity {
            issuer: Arc::from("corp"),
            subject: "alice".into(),
            principal_type: Arc::from("User"),
            tenant: Some("acme".into()),
            roles: vec!["viewer".into()],
            claims: Arc::default(),
            expires_at: NOW + 600,
            auth: Arc::new(AuthFacts {
                method: "bearer",
                ..AuthFacts::default()
            }),
            token: TokenFacts::default(),
        }
    }

    fn sign(keys: &AssertionKeys, identity: &Identity) -> String {
        let assertion = AssertionClaims {
            identity,
            subject: &identity.subject,
            portal: "customer",
            audience: APP,
            revision: "3f2a",
            claims: &identity.claims,
            now: NOW,
        };
        keys.sign(assertion).unwrap()
    }

    #[test]
    fn assertion_expires_with_its_ttl_or_the_credential() {
        let keys = keys();
        let token = sign(&keys, &identity());
        assert!(keys.verify(&token, "customer", APP, NOW + 59).is_ok());
        assert!(matches!(
            keys.verify(&token, "customer", APP, NOW + 60),
            Err(TokenError::Claims(ClaimError::Expired { .. }))
        ));
        let short = Identity {
            expires_at: NOW + 5,
            ..identity()
        };
        let token = sign(&keys, &short);
        assert!(keys.verify(&token, "customer", APP, NOW + 4).is_ok());
        assert!(keys.verify(&token, "customer", APP, NOW + 5).is_err());
    }

    #[test]
    fn assertion_is_valid_only_for_its_portal_app_and_gate() {
        let ours = keys();
        let token = sign(&ours, &identity());
        assert!(matches!(
            ours.verify(&token, "admin", APP, NOW),
            Err(TokenError::Claims(ClaimError::Audience { .. }))
        ));
        assert!(matches!(
            ours.verify(&token, "customer", "http://other", NOW),
            Err(TokenError::Claims(ClaimError::Audience { .. }))
        ));
        assert!(matches!(
            keys().verify(&token, "customer", APP, NOW),
            Err(TokenError::Key { .. })
        ));
        let bearer = super::super::mint::mint(&ours.ring.load().signer, Map::new(), Duration::from_secs(60), NOW).unwrap();
        assert!(matches!(
            ours.verify(&bearer, "customer", APP, NOW),
            Err(TokenError::Header { member: "typ", .. })
        ));
    }

    #[test]
    fn published_keys_have_no_private_part() {
        let jwks = keys().jwks();
        assert!(jwks["keys"][0].get("d").is_none());
        assert_eq!(jwks["keys"][0]["alg"], "ES256");
    }

    prop_compose! {
        fn identities()(
            subject in "\\PC{1,40}", tenant in proptest::option::of("\\PC{1,20}"), roles in proptest::collection::vec("\\PC{1,20}", 0..5),
            time in proptest::option::of(0..NOW), acr in proptest::option::of("\\PC{0,20}"),
            amr in proptest::collection::vec("[a-z]{1,5}", 0..3), scopes in proptest::collection::vec("[a-z:]{1,9}", 0..3),
            claims in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..4), life in 1..100_000_i64,
        ) -> Identity {
            let claims = claims.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
            Identity {
                subject, tenant, roles, claims: Arc::new(claims), expires_at: NOW + life,
                auth: Arc::new(AuthFacts { method: "session", time, acr, amr, scopes, unreadable: Vec::new() }), ..identity()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn identity_is_unchanged_after_its_assertion_is_verified(identity in identities()) {
            let keys = keys();
            let mut back = keys.verify(&sign(&keys, &identity), "customer", APP, NOW).unwrap().identity;
            back.token = TokenFacts::default();
            prop_assert_eq!(format!("{identity:?}"), format!("{back:?}"));
        }
    }
}
