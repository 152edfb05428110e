//! An issuer's public keys, each bound to the algorithms that it may verify.
//!
//! A set is parsed key by key: a malformed member is skipped and counted, and the other keys stay usable. A key's own
//! `kty`, `crv`, `alg`, `use` and `key_ops` decide which algorithms it can verify; the token's header never does.
//! Symmetric keys and keys published with their private part are never used.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use cedargate_policy::json::{self, JsonError};
use serde_json::{Map, Value};

use super::jws::{KID_BYTES_MAX, algorithm_named, decode};
use crate::base::digest::sha256;
use crate::config::Algorithm;

/// Most keys of one set.
pub const KEYS_MAX: usize = 100;
/// Longest set, in bytes.
pub const JWKS_BYTES_MAX: usize = 1024 * 1024;
/// Most keys of one `kid` that are tried for a token.
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

/// An error of a document that is not a key set.
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

/// The reason for which a member of a set is not used.
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
pub struct PublicKey {
    pub kid: Option<String>,
    /// SHA-256 thumbprint (RFC 7638).
    pub thumbprint: [u8; 32],
    /// The parsed key for each algorithm that it may verify; parsed once, not per token.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// An issuer's key set, as published at one time.
pub struct KeySet {
    pub keys: Vec<PublicKey>,
    /// The reasons of the members that cannot be used.
    pub skipped: Vec<KeyError>,
    /// Changes when the published bytes change.
    pub generation: u64,
}

/// Result of the search for a token's key.
#[derive(Debug)]
pub(super) enum KeyChoice<'a> {
    Keys(Vec<&'a PublicKey>),
    /// The set has no key of that id: the only result that causes a refetch.
    UnknownKid {
        /// The only fitting key without an id, if there is exactly one: it may be the token's key all the same.
        unnamed: Option<&'a PublicKey>,
    },
    Unusable(&'static str),
}

impl KeySet {
    pub fn parse(bytes: &[u8], generation: u64) -> Result<Self, JwksError> {
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLong);
        }
        let document = json::object_from_slice(json::without_bom(bytes)?)?;
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
            match PublicKey::parse(member) {
                Ok(key) => set.keys.push(key),
                Err(why) => set.skipped.push(why),
            }
        }
        Ok(set)
    }

    /// Returns the keys that may have signed a token with this header. A `kid` is only compared, never used in another
    /// way.
    pub(super) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> KeyChoice<'_> {
        let named = |key: &&PublicKey| kid.is_none() || key.kid.as_deref() == kid;
        if kid.is_some() && !self.keys.iter().any(|key| named(&key)) {
            let mut unnamed = self.keys.iter().filter(|key| key.kid.is_none() && key.fits(algorithm));
            return KeyChoice::UnknownKid {
                unnamed: unnamed.next().filter(|_| unnamed.next().is_none()),
            };
        }
        let fitting = self.keys.iter().filter(named).filter(|key| key.fits(algorithm));
        let candidates: Vec<&PublicKey> = fitting.take(CANDIDATES_MAX).collect();
        match candidates.len() {
            0 => KeyChoice::Unusable("none fits the algorithm of the token"),
            2.. if kid.is_none() => KeyChoice::Unusable("the token names no `kid` and several keys fit"),
            _ => KeyChoice::Keys(candidates),
        }
    }

    /// True if the set still has that key for that algorithm.
    pub(super) fn holds(&self, thumbprint: &[u8; 32], algorithm: Algorithm) -> bool {
        self.keys
            .iter()
            .any(|key| key.thumbprint == *thumbprint && key.fits(algorithm))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl PublicKey {
    /// Parses a JWK and checks all its members that restrict its use.
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
            None | Some(Value::Null) => None,
            Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
            Some(_) => return Err(KeyError::Member("kid")),
        };
        let KeyMaterial {
            canonical,
            mut verifiers,
        } = match kty {
            "RSA" => parse_rsa(jwk)?,
            "EC" => parse_elliptic(jwk)?,
            "OKP" => parse_edwards(jwk)?,
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

    /// True if the signature holds. False on every doubt, also for an algorithm that the key may not verify.
    pub fn verifies(&self, algorithm: Algorithm, signing_input: &[u8], signature: &[u8]) -> bool {
        self.verifiers
            .iter()
            .find(|(known, _)| *known == algorithm)
            .is_some_and(|(_, key)| key.verify_sig(signing_input, signature).is_ok())
    }
}

/// The parsed members of one key type.
struct KeyMaterial {
    /// The canonical JSON whose hash is the thumbprint (RFC 7638).
    canonical: String,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// A base64url member of a JWK.
struct EncodedMember {
    /// Unpadded base64url.
    text: String,
    bytes: Vec<u8>,
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, KeyError> {
    jwk.get(name).and_then(Value::as_str).ok_or(KeyError::Member(name))
}

/// Reads a base64url member. RFC 7518 forbids padding and the characters `+` and `/`; some issuers write them, and they
/// change no byte of a key.
fn encoded_member(jwk: &Map<String, Value>, name: &'static str) -> Result<EncodedMember, KeyError> {
    let text = text(jwk, name)?;
    let unpadded = text.trim_end_matches('=');
    if unpadded.len() != text.len() && text.len() != unpadded.len().next_multiple_of(4) {
        return Err(KeyError::Member(name));
    }
    let text = unpadded.replace('+', "-").replace('/', "_");
    let bytes = decode(&text).map_err(|_not_base64| KeyError::Member(name))?;
    Ok(EncodedMember { text, bytes })
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

fn parse_rsa(jwk: &Map<String, Value>) -> Result<KeyMaterial, KeyError> {
    let modulus = encoded_member(jwk, "n")?;
    let exponent = encoded_member(jwk, "e")?;
    // some issuers write the sign octet of a big integer, which RFC 7518, section 6.3.1.1, forbids; it is harmless
    let n = without_leading_zeros(&modulus.bytes);
    let e = without_leading_zeros(&exponent.bytes);
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let exponent_value = e.iter().fold(0_u128, |value, byte| (value << 8) | u128::from(*byte));
    let are_odd = n.last().is_some_and(|byte| byte & 1 == 1) && exponent_value & 1 == 1;
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) || e.len() > 4 || exponent_value < 3 || !are_odd || is_roca(n) {
        return Err(KeyError::Weak);
    }
    let components = RsaPublicKeyComponents { n, e };
    let verifiers = RSA_ALGORITHMS
        .iter()
        .map(|(algorithm, parameters)| Ok((*algorithm, components.to_parsed_public_key(parameters)?)))
        .collect::<Result<_, aws_lc_rs::error::KeyRejected>>()
        .map_err(|_rejected| KeyError::Weak)?;
    let canonical = format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, exponent.text, modulus.text);
    Ok(KeyMaterial { canonical, verifiers })
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// True for moduli of the broken generator of CVE-2017-15361: modulo every small prime they lie in the subgroup that
/// 65537 generates. One good key in 2^27 has the same property and is refused as well.
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

fn parse_elliptic(jwk: &Map<String, Value>) -> Result<KeyMaterial, KeyError> {
    let curve = text(jwk, "crv")?;
    let (algorithm, verification, length): (_, &'static dyn VerificationAlgorithm, _) = match curve {
        "P-256" => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
        _ => return Err(KeyError::Type),
    };
    let x = encoded_member(jwk, "x")?;
    let y = encoded_member(jwk, "y")?;
    if x.bytes.len() != length || y.bytes.len() != length {
        return Err(KeyError::Weak);
    }
    let point = [&[4], x.bytes.as_slice(), y.bytes.as_slice()].concat();
    let key = ParsedPublicKey::new(verification, point).map_err(|_rejected| KeyError::Weak)?;
    let canonical = format!(r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#, x.text, y.text);
    Ok(KeyMaterial {
        canonical,
        verifiers: vec![(algorithm, key)],
    })
}

fn parse_edwards(jwk: &Map<String, Value>) -> Result<KeyMaterial, KeyError> {
    if text(jwk, "crv")? != "Ed25519" {
        return Err(KeyError::Type);
    }
    let x = encoded_member(jwk, "x")?;
    if x.bytes.len() != 32 {
        return Err(KeyError::Weak);
    }
    let key = ParsedPublicKey::new(&ED25519, &x.bytes).map_err(|_rejected| KeyError::Weak)?;
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, x.text);
    Ok(KeyMaterial {
        canonical,
        verifiers: vec![(Algorithm::EdDsa, key)],
    })
}
