//! An issuer's public keys, each bound to what it may be used for.
//!
//! A set is read key by key: a malformed member is skipped and counted, it does not take the others down. A key's
//! own `kty`, `crv`, `alg`, `use` and `key_ops` decide which algorithms it can verify; the token's header never does.
//! Symmetric keys and keys published with their private part are never used.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use super::cache::sha256;
use super::jws::{KID_BYTES_MAX, algorithm_named, decode};
use crate::config::Algorithm;
use crate::json::{self, JsonError};

/// Keys in one set.
pub const KEYS_MAX: usize = 100;
/// Bytes of one set.
pub const JWKS_BYTES_MAX: usize = 1024 * 1024;
/// Keys of one `kid` that are tried for a token.
pub const CANDIDATES_MAX: usize = 4;
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

static RSA_ALGORITHMS: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
];

/// Why a document is no key set at all.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("key set is longer than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    #[error("key set is not strict JSON: {0}")]
    Json(#[from] JsonError),
    #[error("key set has no array `keys`")]
    NoKeys,
    #[error("key set has more than {KEYS_MAX} keys")]
    TooMany,
}

/// Why one member of a set is not used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    #[error("member `{0}` is missing or malformed")]
    Member(&'static str),
    #[error("key type is not usable for signatures here")]
    Type,
    #[error("private or symmetric key material is published")]
    Private,
    #[error("`use` or `key_ops` does not allow verification")]
    Use,
    #[error("`alg` does not fit the key")]
    Algorithm,
    #[error("key is weak or not valid on its curve")]
    Weak,
}

/// One usable public key.
pub struct Key {
    pub kid: Option<String>,
    /// RFC 7638, SHA-256.
    pub thumbprint: [u8; 32],
    /// Ready for each algorithm it may verify; parsed once, not per token.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// What an issuer published at one moment.
pub struct KeySet {
    pub keys: Vec<Key>,
    /// Members that could not be used, with the reason.
    pub skipped: Vec<KeyError>,
    /// Changes whenever the published bytes do.
    pub generation: u64,
}

/// Outcome of looking for a token's key.
#[derive(Debug)]
pub(super) enum Choice<'a> {
    Keys(Vec<&'a Key>),
    /// No key of that id: the only outcome worth a refetch.
    UnknownKid,
    Unusable(&'static str),
}

impl KeySet {
    pub fn parse(bytes: &[u8], generation: u64) -> Result<Self, JwksError> {
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLong);
        }
        let document = json::object_from_slice(bytes)?;
        let members = document.get("keys").and_then(Value::as_array).ok_or(JwksError::NoKeys)?;
        if members.len() > KEYS_MAX {
            return Err(JwksError::TooMany);
        }
        let mut set = Self {
            keys: Vec::new(),
            skipped: Vec::new(),
            generation,
        };
        for member in members {
            match Key::parse(member) {
                Ok(key) => set.keys.push(key),
                Err(why) => set.skipped.push(why),
            }
        }
        Ok(set)
    }

    /// Which keys may have signed a token with this header. A `kid` is only ever compared.
    pub(super) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Choice<'_> {
        let named = |key: &&Key| kid.is_none() || key.kid.as_deref() == kid;
        if kid.is_some() && !self.keys.iter().any(|key| named(&key)) {
            return Choice::UnknownKid;
        }
        let fitting = self.keys.iter().filter(named).filter(|key| key.fits(algorithm));
        let candidates: Vec<&Key> = fitting.take(CANDIDATES_MAX).collect();
        match candidates.len() {
            0 => Choice::Unusable("none fits the algorithm of the token"),
            2.. if kid.is_none() => Choice::Unusable("the token names no `kid` and several keys fit"),
            _ => Choice::Keys(candidates),
        }
    }

    /// Whether that very key is still there for that algorithm.
    pub(super) fn holds(&self, thumbprint: &[u8; 32], algorithm: Algorithm) -> bool {
        self.keys
            .iter()
            .any(|key| key.thumbprint == *thumbprint && key.fits(algorithm))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Key {
    /// Checks everything a JWK says about itself.
    pub fn parse(jwk: &Value) -> Result<Self, KeyError> {
        let jwk = jwk.as_object().ok_or(KeyError::Type)?;
        let kty = text(jwk, "kty")?;
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"]
            .iter()
            .any(|name| jwk.contains_key(*name))
        {
            return Err(KeyError::Private);
        }
        check_purpose(jwk)?;
        let kid = match jwk.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
            Some(_) => return Err(KeyError::Member("kid")),
        };
        let (canonical, mut verifiers) = match kty {
            "RSA" => rsa(jwk)?,
            "EC" => elliptic(jwk)?,
            "OKP" => edwards(jwk)?,
            _ => return Err(KeyError::Type),
        };
        if let Some(alg) = jwk.get("alg") {
            let own = alg.as_str().and_then(algorithm_named).ok_or(KeyError::Algorithm)?;
            verifiers.retain(|(algorithm, _)| *algorithm == own);
        }
        if verifiers.is_empty() {
            return Err(KeyError::Algorithm);
        }
        Ok(Self {
            kid,
            thumbprint: sha256(canonical.as_bytes()),
            verifiers,
        })
    }

    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.verifiers.iter().any(|(known, _)| *known == algorithm)
    }

    /// False for every doubt, also for an algorithm that is not this key's.
    pub fn verifies(&self, algorithm: Algorithm, signing_input: &[u8], signature: &[u8]) -> bool {
        self.verifiers
            .iter()
            .find(|(known, _)| *known == algorithm)
            .is_some_and(|(_, key)| key.verify_sig(signing_input, signature).is_ok())
    }
}

type Parsed = (String, Vec<(Algorithm, ParsedPublicKey)>);

fn text<'a>(jwk: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, KeyError> {
    jwk.get(name).and_then(Value::as_str).ok_or(KeyError::Member(name))
}

/// Strict base64url; the text is then also safe to put into canonical JSON.
fn bytes<'a>(jwk: &'a Map<String, Value>, name: &'static str) -> Result<(&'a str, Vec<u8>), KeyError> {
    let encoded = text(jwk, name)?;
    let bytes = decode(encoded).map_err(|_not_base64| KeyError::Member(name))?;
    Ok((encoded, bytes))
}

fn check_purpose(jwk: &Map<String, Value>) -> Result<(), KeyError> {
    if jwk.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err(KeyError::Use);
    }
    let Some(operations) = jwk.get("key_ops") else {
        return Ok(());
    };
    let operations = operations.as_array().ok_or(KeyError::Use)?;
    let distinct = operations
        .iter()
        .enumerate()
        .all(|(n, operation)| operation.is_string() && !operations.iter().take(n).any(|earlier| earlier == operation));
    let verifies = operations.iter().any(|operation| operation == "verify");
    (distinct && verifies).then_some(()).ok_or(KeyError::Use)
}

fn rsa(jwk: &Map<String, Value>) -> Result<Parsed, KeyError> {
    let (n_text, n) = bytes(jwk, "n")?;
    let (e_text, e) = bytes(jwk, "e")?;
    // Some issuers write the sign octet of a big integer, which RFC 7518 section 6.3.1.1 forbids but harms nobody.
    let (n, e) = (without_leading_zeros(&n), without_leading_zeros(&e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let exponent = e.iter().fold(0_u128, |value, byte| (value << 8) | u128::from(*byte));
    let odd = n.last().is_some_and(|byte| byte & 1 == 1) && exponent & 1 == 1;
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) || e.len() > 4 || exponent < 3 || !odd || is_roca(n) {
        return Err(KeyError::Weak);
    }
    let components = RsaPublicKeyComponents { n, e };
    let verifiers = RSA_ALGORITHMS
        .iter()
        .map(|(algorithm, parameters)| Ok((*algorithm, components.to_parsed_public_key(parameters)?)))
        .collect::<Result<_, aws_lc_rs::error::KeyRejected>>()
        .map_err(|_rejected| KeyError::Weak)?;
    Ok((format!(r#"{{"e":"{e_text}","kty":"RSA","n":"{n_text}"}}"#), verifiers))
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// The fingerprint of moduli made by the broken generator of CVE-2017-15361: modulo every small prime they lie in
/// the subgroup that 65537 generates. One good key in 2^27 looks like it too; that one is refused as well.
fn is_roca(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        (0..*prime).any(|_| {
            power = power * 65537 % prime;
            power == rest
        })
    })
}

fn elliptic(jwk: &Map<String, Value>) -> Result<Parsed, KeyError> {
    let curve = text(jwk, "crv")?;
    let (algorithm, verification, length): (_, &'static dyn VerificationAlgorithm, _) = match curve {
        "P-256" => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
        _ => return Err(KeyError::Type),
    };
    let (x_text, x) = bytes(jwk, "x")?;
    let (y_text, y) = bytes(jwk, "y")?;
    if x.len() != length || y.len() != length {
        return Err(KeyError::Weak);
    }
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    let key = ParsedPublicKey::new(verification, point).map_err(|_rejected| KeyError::Weak)?;
    let canonical = format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x_text}","y":"{y_text}"}}"#);
    Ok((canonical, vec![(algorithm, key)]))
}

fn edwards(jwk: &Map<String, Value>) -> Result<Parsed, KeyError> {
    if text(jwk, "crv")? != "Ed25519" {
        return Err(KeyError::Type);
    }
    let (x_text, x) = bytes(jwk, "x")?;
    if x.len() != 32 {
        return Err(KeyError::Weak);
    }
    let key = ParsedPublicKey::new(&ED25519, x).map_err(|_rejected| KeyError::Weak)?;
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x_text}"}}"#);
    Ok((canonical, vec![(Algorithm::EdDsa, key)]))
}
