//! What a login says of a person: the ID token, and userinfo where the ID token does not say what is mapped.

use serde_json::{Map, Value};

use super::ProviderError;
use super::provider::Oidc;
use crate::authn::map_claims;
use crate::types::Redacted;

/// What only an ID token may say: userinfo is not signed.
const OF_THE_ID_TOKEN: [&str; 17] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "nbf",
    "jti",
    "azp",
    "nonce",
    "at_hash",
    "c_hash",
    "s_hash",
    "auth_time",
    "acr",
    "amr",
    "sid",
    "cnf",
];
/// What a provider leaves out of an ID token after a refresh, although it is as true as before.
const OF_THE_LOGIN: [&str; 4] = ["auth_time", "acr", "amr", "sid"];
/// Claims of `scope: email` that headers and schemas most often ask for.
const EMAIL: &str = "email";

/// The ID token's claims with what userinfo adds; the ID token's own win.
pub(super) async fn complete(
    provider: &Oidc,
    mut claims: Map<String, Value>,
    access_token: &Redacted<String>,
) -> Result<Map<String, Value>, ProviderError> {
    if !is_missing(provider, &claims) {
        return Ok(claims);
    }
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(more) = provider.userinfo(access_token, &subject).await? {
        for (name, value) in more {
            if !OF_THE_ID_TOKEN.contains(&name.as_str()) {
                claims.entry(name).or_insert(value);
            }
        }
    }
    Ok(claims)
}

fn is_missing(provider: &Oidc, claims: &Map<String, Value>) -> bool {
    let paths = &provider.issuer.claims;
    let wants_email = provider.scopes.iter().any(|scope| scope == EMAIL);
    let mapped = [&paths.subject, &paths.tenant, &paths.roles];
    mapped.iter().any(|path| !holds(claims, path)) || (wants_email && !claims.contains_key(EMAIL))
}

/// Whether a dotted path leads to something; what it leads to is judged later.
fn holds(claims: &Map<String, Value>, path: &str) -> bool {
    if claims.contains_key(path) {
        return true;
    }
    let mut parts = path.split('.');
    let first = parts.next().and_then(|part| claims.get(part));
    parts
        .fold(first, |value, part| value.and_then(|value| value.get(part)))
        .is_some()
}

/// Takes over what the login said and a renewed ID token does not repeat.
pub(super) fn carry_over(from: &Map<String, Value>, to: &mut Map<String, Value>) {
    for name in OF_THE_LOGIN {
        if let Some(value) = from.get(name) {
            to.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// Whether two sets of claims of one person give different privileges. What cannot be read differs.
pub(super) fn privileges_differ(provider: &Oidc, one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    match (map_claims(&provider.issuer, one), map_claims(&provider.issuer, other)) {
        (Ok(one_granted), Ok(other_granted)) => one_granted != other_granted || one.get("acr") != other.get("acr"),
        _ => true,
    }
}
