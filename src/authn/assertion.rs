//! The gate's own statement of who is calling, for the app behind it.
//!
//! A short-lived ES256 JWT with its own `typ`, set on every forwarded request. The app verifies it with the published
//! JWKS, or hands it back to `/authorize`, where it stands for exactly the identity the proxy used. The proxy listener
//! never takes it as a credential: its `typ` is refused there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};

use super::cache::sha256;
use cedargate_policy::claims::{self, ClaimError};
use cedargate_policy::digest::short_hash;

use super::error::TokenError;
use super::jwk::Key;
use super::jws::{self, ASSERTION_TYP, Typ};
use super::signer::{SignerError, SigningKey};
use crate::config;
use crate::types::{AuthFacts, Identity, Redacted, TokenFacts};

/// Bytes of an assertion that is handed back.
pub const ASSERTION_BYTES_MAX: usize = 64 * 1024;
/// RFC 9068.
const TOKEN_TYP: &str = "at+jwt";
/// Seconds that a token for its subject's own use lives at most.
const TOKEN_LIFE: i64 = 300;
const NAME: &str = "the gate's assertion";

/// Why there are no assertion keys.
#[derive(Debug, thiserror::Error)]
pub enum AssertionError {
    #[error("cannot read `{path}` (assertion.key_file): {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("`{path}` (assertion.key_file): {source}")]
    Key { path: PathBuf, source: SignerError },
    #[error("cannot make an assertion key: {0}")]
    Generate(SignerError),
}

/// Whether a token calls itself an assertion of the gate; nothing is verified.
pub fn is_assertion(token: &str) -> bool {
    let header = token.split('.').next().and_then(|segment| jws::decode(segment).ok());
    let header = header.and_then(|bytes| crate::json::object_from_slice(&bytes).ok());
    header.is_some_and(|h| h.get("typ").and_then(Value::as_str) == Some(ASSERTION_TYP))
}

/// What one assertion says.
#[derive(Clone, Copy, Debug)]
pub struct AssertionClaims<'a> {
    pub identity: &'a Identity,
    /// The principal's id: with the portal's prefix for the issuer, so that two issuers' subjects never meet.
    pub subject: &'a str,
    pub portal: &'a str,
    /// Origin of the upstream.
    pub audience: &'a str,
    pub revision: &'a str,
    /// The claims that the app, or a later question, may see.
    pub claims: &'a Map<String, Value>,
    /// Unix seconds.
    pub now: i64,
}

/// An assertion that the app handed back.
#[derive(Clone, Debug)]
pub struct Returned {
    pub identity: Identity,
    /// Unix seconds at which the gate stood by it.
    pub issued_at: i64,
}

/// Signs assertions and knows its own. The ring is replaced by whoever calls `look`, and read by everybody.
pub struct AssertionKeys {
    ring: ArcSwap<Ring>,
    /// `None`: one ephemeral key.
    file: Option<PathBuf>,
    issuer: String,
    ttl: i64,
}

/// The keys of one reading: the first signs, all verify. Never empty.
struct Ring {
    signer: SigningKey,
    verifiers: Vec<(String, Key)>,
    jwks: Value,
    generation: u64,
    /// SHA-256 of the file.
    content: [u8; 32],
}

impl Ring {
    fn new(keys: Vec<SigningKey>, content: [u8; 32], generation: u64) -> Result<Self, SignerError> {
        let mut verifiers: Vec<(String, Key)> = Vec::with_capacity(keys.len());
        for key in &keys {
            if verifiers.iter().any(|(kid, _)| kid == key.kid()) {
                return Err(SignerError::Repeated);
            }
            let verifier = Key::parse(key.jwk()).map_err(|_own_key| SignerError::Key)?;
            verifiers.push((key.kid().to_owned(), verifier));
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
                Ring::new(vec![key], [0; 32], 0).map_err(AssertionError::Generate)?
            }
            Some(path) => parsed(path, &read(path)?, 0)?,
        };
        Ok(Self {
            ring: ArcSwap::from_pointee(ring),
            file: config.key_file.clone(),
            issuer: issuer.to_owned(),
            ttl: i64::try_from(config.ttl.get().as_secs()).unwrap_or(i64::MAX),
        })
    }

    /// Reads the file again; `None`: it holds what it held. Keys that cannot be used leave the old ones in force. Reads a file:
    /// not for a thread that serves.
    pub fn look(&self) -> Option<Result<(), AssertionError>> {
        let path = self.file.as_ref()?;
        let before = self.ring.load_full();
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => return Some(Err(error)),
        };
        if sha256(text.expose().as_bytes()) == before.content {
            return None;
        }
        let ring = parsed(path, &text, before.generation.wrapping_add(1));
        Some(ring.map(|ring| self.ring.store(Arc::new(ring))))
    }

    /// Differs when the keys do: what an older one signed is not handed out any more.
    pub fn generation(&self) -> u64 {
        self.ring.load().generation
    }

    /// When an assertion signed now stops being valid: never after the credential.
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
            put(members, "tenant", identity.tenant.as_deref().map(Value::from));
        }
        if let Some(Value::Object(auth)) = claims.get_mut("auth") {
            put(auth, "time", identity.auth.time.map(Value::from));
            put(auth, "acr", identity.auth.acr.as_deref().map(Value::from));
        }
        self.signed(ASSERTION_TYP, &claims)
    }

    /// A token for its subject's own use, and when it ends: the same keys, another `typ`, an audience of its own.
    pub fn mint(&self, (identity, subject): (&Identity, &str), portal: &str, now: i64) -> Result<(String, i64), SignerError> {
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
            put(members, "tenant", identity.tenant.as_deref().map(Value::from));
            put(members, "auth_time", identity.auth.time.map(Value::from));
            put(members, "acr", identity.auth.acr.as_deref().map(Value::from));
        }
        Ok((self.signed(TOKEN_TYP, &claims)?, expires_at))
    }

    /// A JWT with claims that the caller made, by the key that signs.
    fn signed(&self, typ: &str, claims: &Value) -> Result<String, SignerError> {
        let ring = self.ring.load();
        let header = json!({"alg": "ES256", "typ": typ, "kid": ring.signer.kid()});
        ring.signer.sign(&header, claims)
    }

    /// The public keys, for `/.well-known/cedargate/jwks.json`.
    pub fn jwks(&self) -> Value {
        self.ring.load().jwks.clone()
    }

    /// Whom an assertion of this gate is about, for this portal and upstream. Never remember it beyond this question:
    /// its `expires_at` is the credential's, not the assertion's.
    pub fn verify(&self, token: &str, portal: &str, audience: &str, now: i64) -> Result<Returned, TokenError> {
        let parsed = jws::parse(token, ASSERTION_BYTES_MAX, Typ::Assertion)?;
        let ring = self.ring.load();
        let known = parsed.header.kid.as_deref();
        let known = known.and_then(|kid| ring.verifiers.iter().find(|(own, _)| own == kid));
        let Some((_, verifier)) = known else {
            return Err(TokenError::Key {
                issuer: NAME.to_owned(),
                why: "it was signed with another key",
            });
        };
        if !verifier.verifies(parsed.header.algorithm, parsed.signing_input.as_bytes(), &parsed.signature) {
            return Err(TokenError::Signature { issuer: NAME.to_owned() });
        }
        let claims = parsed.claims;
        claims::window(&claims, 0)?.check(now)?;
        if text(&claims, "aud")? != audience || text(&claims, "iss")? != self.issuer || text(&claims, "portal")? != portal {
            return Err(ClaimError::Audience { issuer: NAME.to_owned() }.into());
        }
        let issued_at = integer(&claims, "iat")?.ok_or(wrong("iat"))?;
        let identity = self.identity(&claims, parsed.header.kid)?;
        Ok(Returned { identity, issued_at })
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
    let read = std::fs::read_to_string(path).map(Redacted::new);
    read.map_err(|source| AssertionError::File {
        path: path.to_owned(),
        source,
    })
}

fn parsed(path: &Path, text: &Redacted<String>, generation: u64) -> Result<Ring, AssertionError> {
    let keys = SigningKey::all_from_pem(text.expose());
    let ring = keys.and_then(|keys| Ring::new(keys, sha256(text.expose().as_bytes()), generation));
    ring.map_err(|source| AssertionError::Key {
        path: path.to_owned(),
        source,
    })
}

fn put(map: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(name.to_owned(), value);
    }
}

/// The closed set of `AuthFacts::method`.
fn method(text: &str) -> Result<&'static str, TokenError> {
    ["bearer", "session", "assertion"]
        .into_iter()
        .find(|known| *known == text)
        .ok_or(wrong("auth.method"))
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
    fn an_assertion_lives_no_longer_than_its_ttl_or_the_credential() {
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
    fn an_assertion_is_good_for_its_portal_app_and_gate_only() {
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
    fn the_published_keys_hold_no_private_part() {
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
                auth: Arc::new(AuthFacts { method: "session", time, acr, amr, scopes }), ..identity()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_identity_survives_its_assertion(identity in identities()) {
            let keys = keys();
            let mut back = keys.verify(&sign(&keys, &identity), "customer", APP, NOW).unwrap().identity;
            back.token = TokenFacts::default();
            prop_assert_eq!(format!("{identity:?}"), format!("{back:?}"));
        }
    }
}
