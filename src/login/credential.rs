//! How the gate proves itself to a provider: a secret, or a key of its own (RFC 7523).
//!
//! Files are read at every use, which is once per login or refresh, so that a rotated secret is a replaced file. One that
//! cannot be read leaves the last good one in force. Secrets and keys never print.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand;
use oauth2::ClientSecret;
use serde_json::json;

use crate::authn::SigningKey;
use crate::config::{ClientAuth, Secret};
use crate::types::Redacted;

/// Seconds that a client assertion is good for.
const ASSERTION_LIFE: i64 = 60;
/// Bytes of a secret or key file.
const FILE_BYTES_MAX: u64 = 16 * 1024;
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The configured way, with what was read last.
pub(super) enum Credential {
    Basic(SecretSource),
    Post(SecretSource),
    Key(KeyFile),
}

/// What goes with one request to the token endpoint.
pub(super) enum Proof {
    Basic(ClientSecret),
    Post(ClientSecret),
    Assertion(Redacted<String>),
}

pub(super) struct SecretSource {
    source: Secret,
    last: Mutex<Option<Redacted<String>>>,
}

pub(super) struct KeyFile {
    path: PathBuf,
    last: Mutex<Option<Arc<SigningKey>>>,
}

/// Whether the files of a way can be used.
pub fn check(auth: &ClientAuth) -> Result<(), String> {
    Credential::load(auth).map(drop)
}

impl Credential {
    /// Reads it once, so that a missing file is a mistake at start.
    pub fn load(auth: &ClientAuth) -> Result<Self, String> {
        let secret = |source: &Secret| {
            let source = SecretSource {
                source: source.clone(),
                last: Mutex::new(None),
            };
            source.read().map(|_| source)
        };
        Ok(match auth {
            ClientAuth::SecretBasic(source) => Self::Basic(secret(source)?),
            ClientAuth::SecretPost(source) => Self::Post(secret(source)?),
            ClientAuth::PrivateKeyJwt(path) => {
                let key = KeyFile {
                    path: path.clone(),
                    last: Mutex::new(None),
                };
                key.read()?;
                Self::Key(key)
            }
        })
    }

    /// Proves `client` to `token_endpoint`. Reads a small file.
    pub fn prove(&self, client: &str, token_endpoint: &str, now: i64) -> Result<Proof, String> {
        Ok(match self {
            Self::Basic(source) => Proof::Basic(ClientSecret::new(source.current()?.expose().clone())),
            Self::Post(source) => Proof::Post(ClientSecret::new(source.current()?.expose().clone())),
            Self::Key(file) => Proof::Assertion(assertion(&*file.current()?, client, token_endpoint, now)?),
        })
    }
}

impl SecretSource {
    fn read(&self) -> Result<Redacted<String>, String> {
        let path = match &self.source {
            Secret::Value(secret) => return Ok(secret.clone()),
            Secret::File(path) => path,
        };
        let secret = read(path)?.trim().to_owned();
        if secret.is_empty() {
            return Err(format!("`{}` (client_secret_file) is empty", path.display()));
        }
        let secret = Redacted::new(secret);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret.clone());
        Ok(secret)
    }

    fn current(&self) -> Result<Redacted<String>, String> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.read().or_else(|error| or_last(error, last()))
    }
}

impl KeyFile {
    fn read(&self) -> Result<Arc<SigningKey>, String> {
        let shown = self.path.display();
        let key = SigningKey::from_pem(&read(&self.path)?).map_err(|error| format!("`{shown}` (client_key_file): {error}"))?;
        let key = Arc::new(key);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&key));
        Ok(key)
    }

    fn current(&self) -> Result<Arc<SigningKey>, String> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.read().or_else(|error| or_last(error, last()))
    }
}

fn or_last<T>(error: String, last: Option<T>) -> Result<T, String> {
    if last.is_some() {
        tracing::warn!(error, "the last good client secret or key stays");
    }
    last.ok_or(error)
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// OpenID Connect Core 1.0, section 9: `private_key_jwt`.
fn assertion(key: &SigningKey, client: &str, audience: &str, now: i64) -> Result<Redacted<String>, String> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_unspecified| "no randomness".to_owned())?;
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": key.kid()});
    let claims = json!({
        "iss": client,
        "sub": client,
        "aud": audience,
        "jti": hex::encode(id),
        "iat": now,
        "exp": now.saturating_add(ASSERTION_LIFE),
    });
    let signed = key.sign(&header, &claims).map_err(|error| error.to_string())?;
    Ok(Redacted::new(signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_secret_is_used_at_once_and_a_lost_one_leaves_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, " one\n").unwrap();
        let credential = Credential::load(&ClientAuth::SecretPost(Secret::File(path.clone()))).unwrap();
        let secret = || match credential.prove("me", "https://id.test/t", 0).unwrap() {
            Proof::Post(secret) => secret.secret().clone(),
            _ => panic!("another kind of proof"),
        };
        assert_eq!(secret(), "one");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(secret(), "two");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(secret(), "two");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(secret(), "two");
        assert!(Credential::load(&ClientAuth::SecretBasic(Secret::File(path.clone()))).is_err());
        assert!(Credential::load(&ClientAuth::PrivateKeyJwt(path)).is_err());
    }

    #[test]
    fn an_assertion_is_short_lived_its_own_and_for_the_token_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = SigningKey::generate().unwrap();
        std::fs::write(&path, key.to_pem().unwrap().expose()).unwrap();
        let credential = Credential::load(&ClientAuth::PrivateKeyJwt(path.clone())).unwrap();
        let made = || match credential.prove("me", "https://id.test/t", 1000).unwrap() {
            Proof::Assertion(jwt) => jwt.expose().clone(),
            _ => panic!("another kind of proof"),
        };
        let (first, second) = (made(), made());
        let claims = crate::authn::decode_id_token_claims(&first).unwrap();
        assert_eq!(claims["aud"], "https://id.test/t");
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("me"), &json!("me")));
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1000), &json!(1060)));
        assert_ne!(claims["jti"], crate::authn::decode_id_token_claims(&second).unwrap()["jti"]);
    }
}
