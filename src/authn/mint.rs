//! Mints tokens for demos, and decodes any token for inspection.
//!
//! Used by `cedargate demo` and `cedargate token mint|inspect`, never on the path of a request. `inspect` only decodes:
//! it verifies nothing and sends the token nowhere.

use std::time::Duration;

use cedargate_policy::json;
use serde_json::{Map, Value, json};

use super::jws::{self, TokenKind};
use super::signer::{SignerError, SigningKey};

/// Longest token that `inspect` reads, in bytes.
const INSPECT_BYTES_MAX: usize = 1024 * 1024;

/// The unverified content of a token, and the reasons for which a gate would refuse it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct InspectReport {
    pub header: Option<Value>,
    pub claims: Option<Value>,
    /// Lower-case sentences; empty does not mean that the signature holds.
    pub problems: Vec<String>,
}

/// Mints an ES256 bearer token; adds `iat`, `exp` and `jti` where the claims lack them.
pub fn mint(key: &SigningKey, mut claims: Map<String, Value>, ttl: Duration, now: i64) -> Result<String, SignerError> {
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    claims.entry("iat").or_insert(json!(now));
    claims.entry("exp").or_insert(json!(now.saturating_add(ttl)));
    claims.entry("jti").or_insert_with(|| json!(uuid::Uuid::now_v7().to_string()));
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": key.kid()});
    key.sign(&header, &claims)
}

/// Decodes a token without verification.
pub fn inspect(token: &str, now: i64) -> InspectReport {
    let mut problems = vec![];
    let token = token.trim();
    if token.split('.').count() != 3 {
        problems.push("a compact token has exactly three segments".to_owned());
    }
    if token.len() > INSPECT_BYTES_MAX {
        problems.push(format!("longer than {INSPECT_BYTES_MAX} bytes"));
        return InspectReport {
            header: None,
            claims: None,
            problems,
        };
    }
    let mut segments = token.split('.');
    let header = decode_segment("header", segments.next(), &mut problems);
    let claims = decode_segment("claims", segments.next(), &mut problems);
    match segments.next().map(jws::decode) {
        Some(Ok(signature)) if signature.is_empty() => problems.push("the signature is empty".to_owned()),
        Some(Err(error)) => problems.push(format!("signature: {error}")),
        Some(Ok(_)) | None => {}
    }
    if let Some(Err(error)) = header.as_ref().map(|header| jws::parse_header(header, TokenKind::Bearer)) {
        problems.push(error.to_string());
    }
    if let Some(claims) = &claims {
        check_claims(claims, now, &mut problems);
    }
    InspectReport {
        header: header.map(Value::Object),
        claims: claims.map(Value::Object),
        problems,
    }
}

fn decode_segment(name: &str, segment: Option<&str>, problems: &mut Vec<String>) -> Option<Map<String, Value>> {
    let decoded = jws::decode(segment?)
        .map_err(|error| error.to_string())
        .and_then(|bytes| json::object_from_slice(&bytes).map_err(|error| error.to_string()));
    decoded.map_err(|error| problems.push(format!("{name}: {error}"))).ok()
}

fn check_claims(claims: &Map<String, Value>, now: i64, problems: &mut Vec<String>) {
    for claim in ["iss", "sub", "aud", "exp"] {
        if !claims.contains_key(claim) {
            problems.push(format!("claim `{claim}` is missing"));
        }
    }
    for claim in ["iss", "sub"] {
        if claims
            .get(claim)
            .is_some_and(|value| value.as_str().is_none_or(str::is_empty))
        {
            problems.push(format!("claim `{claim}` is not a non-empty string"));
        }
    }
    if claims.contains_key("cnf") {
        problems.push("bound to a key (`cnf`): refused as a plain bearer".to_owned());
    }
    match cedargate_policy::claims::window(claims, 0).map(|window| window.check(now)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => problems.push(error.to_string()),
        Err(error) if claims.contains_key("exp") => problems.push(error.to_string()),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn claims() -> Map<String, Value> {
        let claims = json!({"iss": "https://demo.test", "sub": "alice", "aud": "orders"});
        claims.as_object().unwrap().clone()
    }

    #[test]
    fn fresh_token_has_no_problems_and_expired_token_has() {
        let key = SigningKey::generate().unwrap();
        let token = mint(&key, claims(), Duration::from_secs(60), NOW).unwrap();
        let report = inspect(&token, NOW);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.claims.unwrap()["exp"], json!(NOW + 60));
        assert!(
            inspect(&token, NOW + 60)
                .problems
                .iter()
                .any(|problem| problem.contains("expired"))
        );
    }

    #[test]
    fn inspect_names_each_problem() {
        let token = format!(
            "{}.{}.",
            jws::encode(r#"{"alg":"none"}"#),
            jws::encode(r#"{"exp":"1","sub":""}"#)
        );
        let problems = inspect(&token, NOW).problems.join("\n");
        for expected in ["signature is empty", "`alg`", "`iss` is missing", "`exp`", "`sub` is not"] {
            assert!(problems.contains(expected), "{expected} not in {problems}");
        }
        assert!(!inspect("x", NOW).problems.is_empty());
    }
}
