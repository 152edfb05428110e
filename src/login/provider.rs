//! One OIDC provider: where browsers are sent, and what the gate asks it behind their backs.
//!
//! OAuth's steps are the `oauth2` library's over one bounded HTTP exchange each. What comes back is strings; nothing here
//! believes them.

use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, Client, ClientId, CsrfToken, EndpointNotSet, EndpointSet, ExtraTokenFields,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardRevocableToken,
    StandardTokenResponse, TokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

use super::credential::{ASSERTION_TYPE, Credential, Proof};
use super::http::{Http, HttpError};
use super::metadata::{Discovery, Metadata};
use super::{LoginError, ProviderError, now_millis};
use crate::config::{self, Issuer, ProviderKind};
use crate::json;
use crate::types::Redacted;

/// Bytes of a provider's error code in the log.
const ERROR_BYTES_MAX: usize = 64;

/// The token response's member that OpenID Connect adds.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct WithIdToken {
    id_token: Option<Redact>,
}

/// A string of the response that never prints.
#[derive(Clone, Deserialize, Serialize)]
#[serde(transparent)]
struct Redact(String);

impl std::fmt::Debug for Redact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl ExtraTokenFields for WithIdToken {}

type TokenAnswer = StandardTokenResponse<WithIdToken, BasicTokenType>;
type OAuth = Client<
    BasicErrorResponse,
    TokenAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;
type GrantError = RequestTokenError<HttpError, BasicErrorResponse>;

/// What a grant at the token endpoint gave.
pub(super) struct Tokens {
    pub access_token: Redacted<String>,
    pub refresh_token: Option<Redacted<String>>,
    pub id_token: Option<Redacted<String>>,
    pub expires_in: Option<Duration>,
}

/// What a browser takes along to the provider.
pub(super) struct Departure<'a> {
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    pub acr_values: Option<&'a str>,
    pub max_age: Option<u64>,
}

pub(super) struct Oidc {
    pub name: Arc<str>,
    /// Index into `Config::issuers`.
    pub index: usize,
    pub issuer: Issuer,
    pub client_id: String,
    pub scopes: Vec<String>,
    credential: Credential,
    discovery: Discovery,
    /// `<public_url><identity.prefix>/auth/callback`.
    redirect: String,
    http: Http,
}

impl Oidc {
    /// `None` for local accounts.
    pub fn new(provider: &config::Provider, config: &config::Config, http: &Http) -> Result<Option<Self>, LoginError> {
        let ProviderKind::Oidc { client_id, auth, scopes } = &provider.kind else {
            return Ok(None);
        };
        let failed = |message: String| LoginError::Provider {
            provider: provider.name.to_string(),
            message,
        };
        let issuer = config.issuers.get(provider.issuer);
        let issuer = issuer.ok_or_else(|| failed("its issuer is missing".to_owned()))?.clone();
        let public_url = config.public_url.as_deref().unwrap_or_default();
        Ok(Some(Self {
            name: Arc::clone(&provider.name),
            index: provider.issuer,
            client_id: client_id.clone(),
            scopes: scopes.clone(),
            credential: Credential::load(auth).map_err(failed)?,
            discovery: Discovery::new(&issuer.scope.issuer).map_err(failed)?,
            redirect: format!("{public_url}{}/auth/callback", config.identity.prefix),
            http: http.clone(),
            issuer,
        }))
    }

    pub async fn metadata(&self) -> Result<Metadata, ProviderError> {
        self.discovery.metadata(&self.http).await
    }

    pub async fn freshen(&self) {
        self.discovery.freshen(&self.http).await;
    }

    /// The provider's address for one login.
    pub async fn departure(&self, departure: Departure<'_>) -> Result<String, ProviderError> {
        let metadata = self.metadata().await?;
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(departure.verifier));
        let client = self.client(&metadata)?;
        let mut request = client
            .authorize_url(|| CsrfToken::new(departure.state))
            .set_pkce_challenge(challenge)
            .add_scopes(self.scopes.iter().cloned().map(Scope::new))
            .add_extra_param("nonce", departure.nonce);
        if let Some(acr_values) = departure.acr_values {
            request = request.add_extra_param("acr_values", acr_values);
        }
        if let Some(max_age) = departure.max_age {
            request = request.add_extra_param("max_age", max_age.to_string());
        }
        Ok(request.url().0.into())
    }

    /// The code for tokens.
    pub async fn redeem(&self, code: String, verifier: String) -> Result<Tokens, ProviderError> {
        let metadata = self.metadata().await?;
        let (client, assertion) = self.proven(&metadata)?;
        let mut request = client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier));
        if let Some(assertion) = &assertion {
            request = request
                .add_extra_param("client_assertion_type", ASSERTION_TYPE)
                .add_extra_param("client_assertion", assertion.expose().as_str());
        }
        tokens(request.request_async(&self.http).await)
    }

    /// A refresh token for new tokens.
    pub async fn refresh(&self, token: &Redacted<String>) -> Result<Tokens, ProviderError> {
        let metadata = self.metadata().await?;
        let (client, assertion) = self.proven(&metadata)?;
        let token = RefreshToken::new(token.expose().clone());
        let mut request = client.exchange_refresh_token(&token);
        if let Some(assertion) = &assertion {
            request = request
                .add_extra_param("client_assertion_type", ASSERTION_TYPE)
                .add_extra_param("client_assertion", assertion.expose().as_str());
        }
        tokens(request.request_async(&self.http).await)
    }

    /// The claims about `subject` at the userinfo endpoint; `None`: there is none.
    pub async fn userinfo(&self, token: &Redacted<String>, subject: &str) -> Result<Option<Map<String, Value>>, ProviderError> {
        let Some(url) = self.metadata().await?.userinfo else {
            return Ok(None);
        };
        let reply = self.http.get(&url, Some(token)).await?;
        let invalid = |why: &str| ProviderError::Unbelievable(format!("userinfo {why}"));
        if reply.status != 200 {
            return Err(invalid(&format!("answered {}", reply.status)));
        }
        let kind = reply.kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" {
            return Err(invalid("is no plain JSON (a signed or encrypted one is not understood)"));
        }
        let claims = json::object_from_slice(&reply.body).map_err(|error| invalid(&error.to_string()))?;
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(ProviderError::Other("userinfo is about somebody else (`sub`)".to_owned()));
        }
        Ok(Some(claims))
    }

    /// Where the provider's own session ends (OpenID Connect RP-Initiated Logout 1.0); `None`: it has no such place. Without
    /// the hint the provider may ask the user.
    pub async fn logout_location(&self, hint: Option<&Redacted<String>>, return_to: &str) -> Option<String> {
        let mut url: Url = self.metadata().await.ok()?.end_session?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.client_id)
            .append_pair("post_logout_redirect_uri", return_to);
        if let Some(id_token) = hint {
            url.query_pairs_mut().append_pair("id_token_hint", id_token.expose());
        }
        Some(url.into())
    }

    fn client(&self, metadata: &Metadata) -> Result<OAuth, ProviderError> {
        let redirect = RedirectUrl::new(self.redirect.clone());
        let redirect = redirect.map_err(|error| ProviderError::Unbelievable(format!("public_url: {error}")))?;
        let client = Client::new(ClientId::new(self.client_id.clone()))
            .set_auth_uri(AuthUrl::from_url(metadata.authorization.clone()))
            .set_token_uri(TokenUrl::from_url(metadata.token.clone()))
            .set_redirect_uri(redirect);
        Ok(client)
    }

    /// The client with its proof, or with an assertion to send along.
    fn proven(&self, metadata: &Metadata) -> Result<(OAuth, Option<Redacted<String>>), ProviderError> {
        let client = self.client(metadata)?;
        let now = now_millis() / 1000;
        let proof = self.credential.prove(&self.client_id, metadata.token.as_str(), now);
        Ok(match proof.map_err(ProviderError::Unreachable)? {
            Proof::Basic(secret) => (client.set_client_secret(secret).set_auth_type(AuthType::BasicAuth), None),
            Proof::Post(secret) => (client.set_client_secret(secret).set_auth_type(AuthType::RequestBody), None),
            Proof::Assertion(jwt) => (client.set_auth_type(AuthType::RequestBody), Some(jwt)),
        })
    }
}

fn tokens(answer: Result<TokenAnswer, GrantError>) -> Result<Tokens, ProviderError> {
    let answer = answer.map_err(refused)?;
    if *answer.token_type() != BasicTokenType::Bearer {
        return Err(ProviderError::Unbelievable("the access token is no bearer token".to_owned()));
    }
    let id_token = answer.extra_fields().id_token.as_ref();
    Ok(Tokens {
        access_token: Redacted::new(answer.access_token().secret().clone()),
        refresh_token: answer.refresh_token().map(|token| Redacted::new(token.secret().clone())),
        id_token: id_token.map(|token| Redacted::new(token.0.clone())),
        expires_in: answer.expires_in(),
    })
}

/// SECURITY: of what the token endpoint answered, only the error code is repeated anywhere.
fn refused(error: GrantError) -> ProviderError {
    match error {
        RequestTokenError::ServerResponse(answer) => match answer.error() {
            BasicErrorResponseType::InvalidGrant => ProviderError::InvalidGrant,
            code => ProviderError::Refused(printable(code.as_ref())),
        },
        RequestTokenError::Request(error) => error.into(),
        RequestTokenError::Parse(..) => {
            ProviderError::Unbelievable("the token endpoint's answer is not the JSON it should be".to_owned())
        }
        RequestTokenError::Other(_) => ProviderError::Unbelievable("the token endpoint's answer is empty or no JSON".to_owned()),
    }
}

/// An error code as the RFCs allow it, shortened: it came from outside.
pub(super) fn printable(code: &str) -> String {
    code.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        .take(ERROR_BYTES_MAX)
        .collect()
}

impl From<HttpError> for ProviderError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable { .. } | HttpError::Status { .. } | HttpError::Request => Self::Unreachable(error.to_string()),
            HttpError::TooLong { .. } => Self::Unbelievable(error.to_string()),
        }
    }
}
