//! One OIDC provider: the URLs that browsers are redirected to, and the gate's own requests to its endpoints.
//!
//! The `oauth2` library runs each OAuth step over one bounded HTTP exchange. The tokens that come back are unverified
//! strings; `complete.rs` and `renew.rs` have `authn` verify them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::json;
use cedargate_policy::types::Redacted;
use oauth2::basic::{BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, Client, ClientId, CsrfToken, EndpointNotSet, EndpointSet, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardRevocableToken, TokenResponse as _, TokenUrl,
};
use serde_json::{Map, Value};
use url::Url;

use super::credential::{ASSERTION_TYPE, ClientAuthentication, ClientCredential};
use super::http::{Http, HttpError};
use super::metadata::{Discovery, Metadata};
use super::token_response::OidcTokenResponse;
use super::{LoginError, ProviderError};
use crate::base::clock::unix_seconds;
use crate::config::{self, ClaimsFrom, Issuer, ProviderKind};

/// Characters of a provider's error code in the log.
const ERROR_CHARS_MAX: usize = 64;
/// Bytes of an ID token that goes into the provider's logout URL.
const LOGOUT_HINT_BYTES_MAX: usize = 2048;
const PROMPT: &str = "prompt";

type OAuthClient = Client<
    BasicErrorResponse,
    OidcTokenResponse,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;
type TokenRequestError = RequestTokenError<HttpError, BasicErrorResponse>;

/// The tokens of a response of the token endpoint, unverified.
pub(super) struct Tokens {
    pub access_token: Redacted<String>,
    pub refresh_token: Option<Redacted<String>>,
    pub id_token: Option<Redacted<String>>,
    pub expires_in: Option<Duration>,
}

/// The parameters of one authorization request (RFC 6749, section 4.1.1).
pub(super) struct AuthorizationRequest<'a> {
    /// Origin of the callback.
    pub origin: &'a str,
    pub state: String,
    pub nonce: String,
    /// The PKCE verifier; only its challenge is sent.
    pub verifier: String,
    pub acr_values: Option<&'a str>,
    pub max_age: Option<u64>,
    pub login_hint: Option<&'a str>,
    pub prompt: Option<&'a str>,
}

/// The OAuth client with its credential, for one request to the token endpoint.
struct AuthenticatedClient {
    client: OAuthClient,
    /// With `private_key_jwt`: the assertion to send as a parameter.
    assertion: Option<Redacted<String>>,
}

pub(super) struct OidcProvider {
    pub name: Arc<str>,
    /// Index into `Config::issuers`.
    pub index: usize,
    pub issuer: Issuer,
    pub client_id: String,
    pub scopes: Vec<String>,
    pub claims_from: ClaimsFrom,
    /// More parameters of every authorization request.
    parameters: BTreeMap<String, String>,
    credential: ClientCredential,
    discovery: Discovery,
    /// The callback's path.
    callback: String,
    http: Http,
}

impl OidcProvider {
    /// `None` for local accounts.
    pub fn new(provider: &config::Provider, config: &config::Config, deadline: Duration) -> Result<Option<Self>, LoginError> {
        let ProviderKind::Oidc(client) = &provider.kind else {
            return Ok(None);
        };
        let failed = |message: String| LoginError::Provider {
            provider: provider.name.to_string(),
            message,
        };
        let issuer = config.issuers.get(provider.issuer);
        let issuer = issuer.ok_or_else(|| failed("its issuer is missing".to_owned()))?.clone();
        Ok(Some(Self {
            name: Arc::clone(&provider.name),
            index: provider.issuer,
            client_id: client.client_id.clone(),
            scopes: client.scopes.clone(),
            claims_from: client.claims_from,
            parameters: client.authorization_params.clone(),
            credential: ClientCredential::load(&client.auth).map_err(failed)?,
            discovery: Discovery::new(&issuer.scope.issuer, client).map_err(failed)?,
            callback: config.identity.callback_path(),
            http: Http::new(&client.egress.or(&issuer.egress), deadline).map_err(failed)?,
            issuer,
        }))
    }

    pub async fn metadata(&self) -> Result<Metadata, ProviderError> {
        self.discovery.metadata(&self.http).await
    }

    pub async fn refresh_metadata(&self) {
        self.discovery.refresh(&self.http).await;
    }

    /// The authorization endpoint's URL with the parameters of one login.
    pub async fn authorization_url(&self, login: AuthorizationRequest<'_>) -> Result<String, ProviderError> {
        let metadata = self.metadata().await?;
        let parameters = self.parameters(&login);
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(login.verifier));
        let client = self.client(&metadata)?.set_redirect_uri(self.redirect_uri(login.origin)?);
        let mut request = client
            .authorize_url(|| CsrfToken::new(login.state))
            .set_pkce_challenge(challenge)
            .add_scopes(self.scopes.iter().cloned().map(Scope::new))
            .add_extra_param("nonce", login.nonce);
        for (name, value) in parameters {
            request = request.add_extra_param(name, value);
        }
        Ok(request.url().0.into())
    }

    /// The configured parameters with those of this login in their place. The prompts of both count: a link can demand
    /// more of the user, never less.
    fn parameters(&self, login: &AuthorizationRequest<'_>) -> BTreeMap<String, String> {
        let mut parameters = self.parameters.clone();
        for (name, value) in [
            ("acr_values", login.acr_values.map(str::to_owned)),
            ("max_age", login.max_age.map(|seconds| seconds.to_string())),
            ("login_hint", login.login_hint.map(str::to_owned)),
        ] {
            if let Some(value) = value {
                parameters.insert(name.to_owned(), value);
            }
        }
        if let Some(prompt) = login.prompt {
            let merged = match parameters.get(PROMPT) {
                Some(configured) => merge_prompts(configured, prompt),
                None => prompt.to_owned(),
            };
            parameters.insert(PROMPT.to_owned(), merged);
        }
        parameters
    }

    /// Exchanges an authorization code for tokens; `origin` is that of the authorization request.
    pub async fn redeem(&self, code: String, verifier: String, origin: &str) -> Result<Tokens, ProviderError> {
        let metadata = self.metadata().await?;
        let AuthenticatedClient { client, assertion } = self.authenticated_client(&metadata)?;
        let client = client.set_redirect_uri(self.redirect_uri(origin)?);
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

    /// Exchanges a refresh token for new tokens.
    pub async fn refresh(&self, token: &Redacted<String>) -> Result<Tokens, ProviderError> {
        let metadata = self.metadata().await?;
        let AuthenticatedClient { client, assertion } = self.authenticated_client(&metadata)?;
        let token = RefreshToken::new(token.expose().clone());
        let mut request = client.exchange_refresh_token(&token);
        if let Some(assertion) = &assertion {
            request = request
                .add_extra_param("client_assertion_type", ASSERTION_TYPE)
                .add_extra_param("client_assertion", assertion.expose().as_str());
        }
        tokens(request.request_async(&self.http).await)
    }

    /// The userinfo endpoint's claims about `subject`; `None` if the provider has no userinfo endpoint.
    pub async fn userinfo(&self, token: &Redacted<String>, subject: &str) -> Result<Option<Map<String, Value>>, ProviderError> {
        let Some(url) = self.metadata().await?.userinfo else {
            return Ok(None);
        };
        let response = self.http.get(&url, Some(token)).await?;
        let invalid = |why: &str| ProviderError::Invalid(format!("userinfo {why}"));
        if response.status != 200 {
            return Err(invalid(&format!("answered {}", response.status)));
        }
        let media_type = response.content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(invalid("is not plain JSON (signed or encrypted userinfo is not supported)"));
        }
        let claims = json::object_from_slice(&response.body).map_err(|error| invalid(&error.to_string()))?;
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(ProviderError::Mismatch(
                "userinfo is about another subject (`sub`)".to_owned(),
            ));
        }
        Ok(Some(claims))
    }

    /// The URL that ends the provider's own session (OpenID Connect RP-Initiated Logout 1.0); `None` if the provider
    /// has no such endpoint. Without the hint the provider may ask the user for confirmation. A hint longer than
    /// `LOGOUT_HINT_BYTES_MAX` is left out: providers refuse long URLs, and then the user would be logged out only
    /// here.
    pub async fn logout_location(&self, hint: Option<&Redacted<String>>, return_to: &str) -> Option<String> {
        let mut url: Url = self.metadata().await.ok()?.end_session?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.client_id)
            .append_pair("post_logout_redirect_uri", return_to);
        if let Some(id_token) = hint.filter(|hint| hint.expose().len() <= LOGOUT_HINT_BYTES_MAX) {
            url.query_pairs_mut().append_pair("id_token_hint", id_token.expose());
        }
        Some(url.into())
    }

    fn client(&self, metadata: &Metadata) -> Result<OAuthClient, ProviderError> {
        let client = Client::new(ClientId::new(self.client_id.clone()))
            .set_auth_uri(AuthUrl::from_url(metadata.authorization.clone()))
            .set_token_uri(TokenUrl::from_url(metadata.token.clone()));
        Ok(client)
    }

    fn redirect_uri(&self, origin: &str) -> Result<RedirectUrl, ProviderError> {
        let uri = RedirectUrl::new(format!("{origin}{}", self.callback));
        uri.map_err(|error| ProviderError::Invalid(format!("public_url: {error}")))
    }

    fn authenticated_client(&self, metadata: &Metadata) -> Result<AuthenticatedClient, ProviderError> {
        let client = self.client(metadata)?;
        let authentication = self
            .credential
            .authenticate(&self.client_id, metadata.token.as_str(), unix_seconds())
            .map_err(ProviderError::Unreachable)?;
        Ok(match authentication {
            ClientAuthentication::Basic(secret) => AuthenticatedClient {
                client: client.set_client_secret(secret).set_auth_type(AuthType::BasicAuth),
                assertion: None,
            },
            ClientAuthentication::Post(secret) => AuthenticatedClient {
                client: client.set_client_secret(secret).set_auth_type(AuthType::RequestBody),
                assertion: None,
            },
            ClientAuthentication::Assertion(jwt) => AuthenticatedClient {
                client: client.set_auth_type(AuthType::RequestBody),
                assertion: Some(jwt),
            },
        })
    }
}

fn tokens(response: Result<OidcTokenResponse, TokenRequestError>) -> Result<Tokens, ProviderError> {
    let response = response.map_err(token_request_failed)?;
    Ok(Tokens {
        access_token: Redacted::new(response.access_token().secret().clone()),
        refresh_token: response.refresh_token().map(|token| Redacted::new(token.secret().clone())),
        id_token: response.id_token().map(|token| Redacted::new(token.to_owned())),
        expires_in: response.expires_in(),
    })
}

/// SECURITY: of the token endpoint's response, only the error code goes into a message.
fn token_request_failed(error: TokenRequestError) -> ProviderError {
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            BasicErrorResponseType::InvalidGrant => ProviderError::InvalidGrant,
            code => ProviderError::Refused(printable(code.as_ref())),
        },
        RequestTokenError::Request(error) => error.into(),
        // the texts of `OidcTokenResponse` and of a JSON parser that reads a `Value`; neither repeats a value
        RequestTokenError::Parse(error, _) => {
            ProviderError::Invalid(format!("the token endpoint's response cannot be used: {}", error.inner()))
        }
        RequestTokenError::Other(_) => ProviderError::Invalid("the token endpoint's response is empty".to_owned()),
    }
}

/// The values of `prompt` in both lists; `none` forbids every other value, so it gives way.
fn merge_prompts(configured: &str, asked: &str) -> String {
    let mut prompts: Vec<&str> = Vec::new();
    for prompt in configured.split(' ').chain(asked.split(' ')) {
        if !prompt.is_empty() && prompt != "none" && !prompts.contains(&prompt) {
            prompts.push(prompt);
        }
    }
    if prompts.is_empty() {
        "none".to_owned()
    } else {
        prompts.join(" ")
    }
}

/// The error code for the log: only the characters that the RFCs allow, shortened, because the provider chose it.
pub(super) fn printable(code: &str) -> String {
    code.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        .take(ERROR_CHARS_MAX)
        .collect()
}

impl From<HttpError> for ProviderError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable { .. } | HttpError::Status { .. } | HttpError::Request => Self::Unreachable(error.to_string()),
            HttpError::TooLong { .. } => Self::Invalid(error.to_string()),
        }
    }
}
