//! The claims of a login: those of the ID token, of the source that `claims_from` names, and of userinfo if a mapped
//! claim is missing.
//!
//! SECURITY: the claims that identify the user and the login come from the ID token alone; no other source replaces
//! them.

use cedargate_policy::claim_path::ClaimPath;
use cedargate_policy::types::Redacted;
use serde_json::{Map, Value};

use super::provider::OidcProvider;
use super::{ProviderError, RelyingParty};
use crate::authn::{ExpectedAccessToken, TokenError};
use crate::config::ClaimsFrom;

/// Claims that only the ID token may set: userinfo is not signed, and an access token is made for an API.
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

impl RelyingParty {
    /// The claims of a login: those of the ID token, and of the source that the provider's `claims_from` names.
    /// Userinfo adds what a mapping lacks.
    pub(super) async fn login_claims(
        &self,
        provider: &OidcProvider,
        id_token: Map<String, Value>,
        access_token: &Redacted<String>,
    ) -> Result<Map<String, Value>, ProviderError> {
        let mut claims = id_token;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        match provider.claims_from {
            ClaimsFrom::IdToken => {}
            ClaimsFrom::AccessToken => {
                let expected = ExpectedAccessToken {
                    client: &provider.client_id,
                    subject: &subject,
                };
                let verified = self
                    .authn
                    .verify_access_token(provider.index, access_token.expose(), expected);
                let verified = verified.await.map_err(access_token_unusable)?;
                claims.extend(verified.into_iter().filter(|(name, _)| !is_of_id_token(name)));
            }
            ClaimsFrom::Userinfo => {
                let userinfo = provider.userinfo(access_token, &subject).await?;
                let userinfo = userinfo.ok_or_else(|| {
                    ProviderError::Invalid("`claims_from` is `userinfo`, and the provider has no userinfo endpoint".to_owned())
                })?;
                claims.extend(userinfo.into_iter().filter(|(name, _)| !is_of_id_token(name)));
                return Ok(claims);
            }
        }
        if lacks_mapped_claim(provider, &claims)
            && let Some(userinfo) = provider.userinfo(access_token, &subject).await?
        {
            for (name, value) in userinfo.into_iter().filter(|(name, _)| !is_of_id_token(name)) {
                claims.entry(name).or_insert(value);
            }
        }
        Ok(claims)
    }
}

fn is_of_id_token(claim: &str) -> bool {
    ID_TOKEN_ONLY.contains(&claim)
}

fn access_token_unusable(error: TokenError) -> ProviderError {
    let text = format!("the access token gives no claims (`claims_from`): {error}");
    match ProviderError::from(error) {
        ProviderError::Unreachable(_) => ProviderError::Unreachable(text),
        ProviderError::Mismatch(_) => ProviderError::Mismatch(text),
        _ => ProviderError::Invalid(text),
    }
}

fn lacks_mapped_claim(provider: &OidcProvider, claims: &Map<String, Value>) -> bool {
    let paths = &provider.issuer.scope.claims;
    let wants_email = provider.scopes.iter().any(|scope| scope == EMAIL);
    let roles = paths.roles.iter().map(|claim| &claim.path);
    let mut mapped = [&paths.subject, &paths.tenant].into_iter().chain(roles);
    mapped.any(|path| !has_value(claims, path)) || (wants_email && !claims.contains_key(EMAIL))
}

/// True if there is a claim at the path; `authn` checks its type later.
fn has_value(claims: &Map<String, Value>, path: &ClaimPath) -> bool {
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
