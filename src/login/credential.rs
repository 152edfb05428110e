//! The gate's client credential at a provider: a secret, or a private key (RFC 7523).
//!
//! The file is read at every use, once per login or refresh, so that replacing the file rotates the secret. If the file
//! cannot be read, the value that was read last stays in force. Secrets and keys never print.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand;
use cedargate_policy::types::Redacted;
use oauth2::ClientSecret;
use parking_lot::Mutex;
use serde_json::json;

use crate::authn::SigningKey;
use crate::base::files::{read_secret, read_small_text};
use crate::config::{ClientAuth, Secret};

/// Lifetime of a client assertion in seconds.
const ASSERTION_SECONDS: i64 = 60;
/// Bytes of a secret or key file.
const FILE_BYTES_MAX: u64 = 16 * 1024;
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The configured credential.
pub(super) enum ClientCredential {
    Basic(SecretSource),
    Post(SecretSource),
    Key(KeyFile),
}

/// Client authentication of one request to the token endpoint.
pub(super) enum ClientAuthentication {
    Basic(ClientSecret),
    Post(ClientSecret),
    Assertion(Redacted<String>),
}

pub(super) struct SecretSource {
    source: Secret,
    /// The secret that was read last; used while the file cannot be read.
    last: Mutex<Option<Redacted<String>>>,
}

pub(super) struct KeyFile {
    path: PathBuf,
    /// The key that was read last; used while the file cannot be read.
    last: Mutex<Option<Arc<SigningKey>>>,
}

/// Reads the credential's file once; the error says why it cannot be used.
pub fn check(auth: &ClientAuth) -> Result<(), String> {
    ClientCredential::load(auth).map(drop)
}

impl ClientCredential {
    /// Reads the file once, so that a missing file is an error at start.
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

    /// Authenticates `client` to `token_endpoint`. Reads a small file. `now` is in Unix seconds.
    pub fn authenticate(&self, client: &str, token_endpoint: &str, now: i64) -> Result<ClientAuthentication, String> {
        Ok(match self {
            Self::Basic(source) => ClientAuthentication::Basic(ClientSecret::new(source.current()?.expose().clone())),
            Self::Post(source) => ClientAuthentication::Post(ClientSecret::new(source.current()?.expose().clone())),
            Self::Key(file) => ClientAuthentication::Assertion(assertion(&*file.current()?, client, token_endpoint, now)?),
        })
    }
}

impl SecretSource {
    fn read(&self) -> Result<Redacted<String>, String> {
        let path = match &self.source {
            Secret::Value(secret) => return Ok(secret.clone()),
            Secret::File(path) => path,
        };
        let secret = read_secret(path, FILE_BYTES_MAX);
        let secret = secret.map_err(|error| format!("cannot read `{}` (client_secret_file): {error}", path.display()))?;
        *self.last.lock() = Some(secret.clone());
        Ok(secret)
    }

    fn current(&self) -> Result<Redacted<String>, String> {
        self.read().or_else(|error| fall_back(error, self.last.lock().clone()))
    }
}

impl KeyFile {
    fn read(&self) -> Result<Arc<SigningKey>, String> {
        let shown = self.path.display();
        let key = SigningKey::from_pem(&read(&self.path)?).map_err(|error| format!("`{shown}` (client_key_file): {error}"))?;
        let key = Arc::new(key);
        *self.last.lock() = Some(Arc::clone(&key));
        Ok(key)
    }

    fn current(&self) -> Result<Arc<SigningKey>, String> {
        self.read().or_else(|error| fall_back(error, self.last.lock().clone()))
    }
}

/// The value that was read last; the error if there is none.
fn fall_back<T>(error: String, last: Option<T>) -> Result<T, String> {
    if last.is_some() {
        tracing::warn!(error, "the last good client secret or key stays");
    }
    last.ok_or(error)
}

fn read(path: &Path) -> Result<String, String> {
    read_small_text(path, FILE_BYTES_MAX).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}

/// OpenID Connect Core 1.0, section 9: `private_key_jwt`.
fn assertion(key: &SigningKey, client: &str, audience: &str, now: i64) -> Result<Redacted<String>, String> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_unspecified| "the random number generator failed".to_owned())?;
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": key.kid()});
    let claims = json!({
        "iss": client,
        "sub": client,
        "aud": audience,
        "jti": hex::encode(id),
        "iat": now,
        "exp": now.saturating_add(ASSERTION_SECONDS),
    });
    let signed = key.sign(&header, &claims).map_err(|error| error.to_string())?;
    Ok(Redacted::new(signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_secret_is_used_at_once_and_lost_file_leaves_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, " one\n").unwrap();
        let credential = ClientCredential::load(&ClientAuth::SecretPost(Secret::File(path.clone()))).unwrap();
        let secret = || match credential.authenticate("me", "https://id.test/t", 0).unwrap() {
            ClientAuthentication::Post(secret) => secret.secret().clone(),
            _ => panic!("another kind of client authentication"),
        };
        assert_eq!(secret(), "one");
        std::fs::write(&path, "\u{feff}two\r\n").unwrap();
        assert_eq!(secret(), "two");
        std::fs::write(&path, "three\nlines\n").unwrap();
        assert_eq!(secret(), "two", "a file of several lines holds no secret");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(secret(), "two");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(secret(), "two");
        assert!(ClientCredential::load(&ClientAuth::SecretBasic(Secret::File(path.clone()))).is_err());
        assert!(ClientCredential::load(&ClientAuth::PrivateKeyJwt(path)).is_err());
    }

    #[test]
    fn client_assertion_is_short_lived_unique_and_for_the_token_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = SigningKey::generate().unwrap();
        std::fs::write(&path, key.to_pem().unwrap().expose()).unwrap();
        let credential = ClientCredential::load(&ClientAuth::PrivateKeyJwt(path.clone())).unwrap();
        let assertion = || match credential.authenticate("me", "https://id.test/t", 1000).unwrap() {
            ClientAuthentication::Assertion(jwt) => jwt.expose().clone(),
            _ => panic!("another kind of client authentication"),
        };
        let first = assertion();
        let second = assertion();
        let claims = crate::authn::decode_id_token_claims(&first).unwrap();
        assert_eq!(claims["aud"], "https://id.test/t");
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("me"), &json!("me")));
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1000), &json!(1060)));
        assert_ne!(claims["jti"], crate::authn::decode_id_token_claims(&second).unwrap()["jti"]);
    }
}
