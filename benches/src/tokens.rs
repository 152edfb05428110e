//! Verification of bearer tokens with the keys of one issuer, and the cache of verified tokens.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cedargate::measured::{Algorithm, Authn, Issuer, KeySource, Metrics, PresentedToken, TokenCache, Verified, token_hash};
use tokio_util::sync::CancellationToken;

use crate::portal::issuer_scope;
use crate::unix_millis;

/// Longest token of a bench, in bytes.
const TOKEN_BYTES: usize = 16 * 1024;
const TOKEN_CACHE: usize = 1024;
/// Time within which the key file must have been read.
const KEYS_MAX: Duration = Duration::from_secs(10);
const KEYS_POLL: Duration = Duration::from_millis(1);

/// One issuer's keys, and the tokens that were verified with them.
pub struct Tokens {
    authn: Arc<Authn>,
    cache: TokenCache<Verified>,
}

impl Tokens {
    /// Reads the key set in the file `jwks`.
    pub fn new(jwks: &Path) -> Result<Self, String> {
        Self::with_cache(jwks, TOKEN_CACHE)
    }

    /// The same with a cache of at most `entries` tokens.
    pub fn with_cache(jwks: &Path, entries: usize) -> Result<Self, String> {
        let metrics = Metrics::new().map_err(|error| error.to_string())?;
        let authn = Authn::new(&[issuer(jwks)], TOKEN_BYTES, metrics).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let refresh = Arc::clone(&authn).run(CancellationToken::new());
            let until_read = async {
                while has_no_key(&authn) {
                    tokio::time::sleep(KEYS_POLL).await;
                }
            };
            tokio::select! {
                () = refresh => {}
                () = until_read => {}
                () = tokio::time::sleep(KEYS_MAX) => {}
            }
        });
        if has_no_key(&authn) {
            return Err(format!("no key was read from `{}`", jwks.display()));
        }
        Ok(Self {
            authn,
            cache: TokenCache::new(entries),
        })
    }

    /// Verifies a token that is in no cache: form, signature, claims. `None` if it is refused.
    pub fn verify(&self, token: &str) -> Option<Verified> {
        self.authn
            .try_verify(PresentedToken::bearer(token), &[0], unix_seconds())?
            .ok()
    }

    /// Verifies a token and puts it into the cache.
    pub fn remember(&self, token: &str) -> Option<()> {
        let verified = self.verify(token)?;
        self.cache.insert(token_hash(token), Arc::new(verified));
        Some(())
    }

    /// Finds a token in the cache: hash, look-up, time and key checked again.
    pub fn seen_before(&self, token: &str) -> bool {
        let verified = self.cache.get(&token_hash(token));
        verified.is_some_and(|verified| self.authn.recheck(&verified.proof, unix_seconds()).is_ok())
    }
}

fn unix_seconds() -> i64 {
    unix_millis() / 1000
}

fn has_no_key(authn: &Authn) -> bool {
    authn.status().iter().any(|issuer| issuer.keys == 0)
}

fn issuer(jwks: &Path) -> Issuer {
    Issuer {
        keys: KeySource::File(jwks.to_owned()),
        jwks_max_age: Duration::from_hours(24),
        algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
        leeway: Duration::from_secs(30),
        ..Issuer::without_tokens(issuer_scope())
    }
}
