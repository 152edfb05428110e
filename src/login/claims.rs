//! The claims of a login: those of the ID token, completed from userinfo if a mapped claim is missing.

use cedargate_policy::types::Redacted;
use serde_json::{Map, Value};

use super::ProviderError;
use super::provider::OidcProvider;
use crate::authn::map_claims;

/// Claims that only the ID token may set; userinfo is not signed.
const ID_TOKEN_ONLY: [&str; 17] = [
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
/// Claims about the login itself. Providers often leave them out of the ID token of a refresh; they stay valid.
const LOGIN_CLAIMS: [&str; 4] = ["auth_time", "acr", "amr", "sid"];
/// The scope, and its claim, that headers and schemas use most often.
const EMAIL: &str = "email";

/// Adds userinfo's claims if a mapped claim is missing. A claim of the ID token wins over the one of userinfo.
pub(super) async fn complete_claims(
    provider: &OidcProvider,
    mut claims: Map<String, Value>,
    access_token: &Redacted<String>,
) -> Result<Map<String, Value>, ProviderError> {
    if !lacks_mapped_claim(provider, &claims) {
        return Ok(claims);
    }
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(userinfo) = provider.userinfo(access_token, &subject).await? {
        for (name, value) in userinfo {
            if !ID_TOKEN_ONLY.contains(&name.as_str()) {
                claims.entry(name).or_insert(value);
            }
        }
    }
    Ok(claims)
}

fn lacks_mapped_claim(provider: &OidcProvider, claims: &Map<String, Value>) -> bool {
    let paths = &provider.issuer.scope.claims;
    let wants_email = provider.scopes.iter().any(|scope| scope == EMAIL);
    let mapped = [&paths.subject, &paths.tenant, &paths.roles];
    mapped.iter().any(|path| !has_value(claims, path)) || (wants_email && !claims.contains_key(EMAIL))
}

/// True if there is a claim at the path; `authn` checks its type later.
fn has_value(claims: &Map<String, Value>, path: &str) -> bool {
    matches!(cedargate_policy::claims::at(claims, path), Ok(Some(_)))
}

/// Copies the claims about the login that the renewed ID token does not repeat.
pub(super) fn carry_over(from: &Map<String, Value>, to: &mut Map<String, Value>) {
    for name in LOGIN_CLAIMS {
        if let Some(value) = from.get(name) {
            to.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// True if two sets of claims of one user give different privileges, or if either cannot be read.
pub(super) fn privileges_differ(provider: &OidcProvider, one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    match (map_claims(&provider.issuer, one), map_claims(&provider.issuer, other)) {
        (Ok(one_granted), Ok(other_granted)) => one_granted != other_granted || one.get("acr") != other.get("acr"),
        _ => true,
    }
}
