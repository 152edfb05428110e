//! Login at an OIDC provider: the gate is the relying party.
//!
//! `doors::login` calls it: to send a browser to a provider, to turn the callback into session data, to renew a
//! session's claims and to verify logout tokens. The `oauth2` library runs the OAuth steps; `authn` verifies ID tokens
//! with the code that verifies bearer tokens. A provider that does not answer never ends a session.

mod claims;
mod complete;
pub mod credential;
mod device;
mod http;
mod metadata;
mod provider;
mod renew;
mod state;
mod token_response;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::types::Redacted;
use tokio_util::sync::CancellationToken;

pub use self::complete::CALLBACK_PARAMETERS;
pub use self::device::{DeviceError, DeviceLogin, DeviceRequest, DeviceTokens};
use self::provider::{AuthorizationRequest, OidcProvider};
use self::state::LoginState;
use crate::audit::{Audit, LoginCode};
use crate::authn::{Authn, LogoutToken};
use crate::base::clock::unix_millis;
use crate::base::digest::sha256;
use crate::config::{self, Config};
use crate::session::{Revocation, SessionData, Sessions};

/// Interval at which the age of the discovery documents is checked.
const DISCOVERY_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Key input for the part of `state` that is not bound to a browser; 27 bytes, so it cannot equal a 32-byte cookie
/// secret.
const DESTINATION_SECRET: &[u8] = b"cedargate login destination";
/// Separates the two sealed parts of `state`: destination, login state.
const STATE_SEPARATOR: char = '.';
/// Time for which the first arrival of a logout token is remembered; longer than the lifetime that `authn` accepts.
const LOGOUT_TOKEN_SEEN_TTL: Duration = Duration::from_secs(60 * 60);

/// The secret in a browser's login cookie. Binds a login to the browser that began it.
pub type BrowserSecret = Redacted<[u8; 32]>;

/// The reason why the relying party cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("login.providers.{provider}: {message}")]
    Provider { provider: String, message: String },
}

/// The reason why a request to a provider gave nothing usable.
#[derive(Debug, thiserror::Error)]
enum ProviderError {
    /// The provider does not answer, or answers with a server error.
    #[error("{0}")]
    Unreachable(String),
    /// `invalid_grant` of the token endpoint: the code or refresh token is used, expired or revoked.
    #[error("the provider answered `invalid_grant`")]
    InvalidGrant,
    /// Another error code of the token endpoint.
    #[error("the provider answered `{0}`")]
    Refused(String),
    /// The response is malformed, or its token fails verification.
    #[error("{0}")]
    Invalid(String),
    /// Issuer, subject or audience is not the expected one.
    #[error("{0}")]
    Mismatch(String),
}

/// The reason why a login failed: for the page that explains it, the audit record and the metric.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoginFailure {
    pub code: LoginCode,
    /// Written to the log and the audit record, never shown to the user.
    pub detail: String,
    /// Key of the limit that ended the login.
    pub limit: Option<&'static str>,
    /// The login, if `state` was opened before the failure.
    pub context: Option<Box<LoginContext>>,
}

/// The provider, portal and return path of a login.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoginContext {
    pub provider: String,
    pub portal: String,
    pub return_to: String,
}

/// A login that a browser asks for.
#[derive(Clone, Debug)]
pub struct LoginRequest<'a> {
    pub provider: &'a str,
    pub portal: &'a str,
    /// Origin of the portal, to which the provider sends the browser back.
    pub origin: &'a str,
    /// Path of this origin to return to after the login, checked.
    pub return_to: &'a str,
    /// True if `return_to` is a part of an address that was too long.
    pub is_cut: bool,
    /// From a policy's `@step_up`.
    pub acr_values: Option<&'a str>,
    /// Seconds; from a policy that demands a recent login.
    pub max_age: Option<u64>,
    /// The account that the login page should suggest.
    pub login_hint: Option<&'a str>,
    /// The questions that the provider must ask the user, as in `prompt` of OpenID Connect.
    pub prompt: Option<&'a str>,
    pub browser: &'a BrowserSecret,
}

/// A login that succeeded.
#[derive(Clone, Debug)]
pub struct CompletedLogin {
    pub data: SessionData,
    pub return_to: String,
    pub is_cut: bool,
    pub portal: String,
}

/// A request to `auth/callback`.
#[derive(Clone, Copy, Debug)]
pub struct Callback<'a> {
    /// The query, undecoded.
    pub query: &'a str,
    pub browser: Option<&'a BrowserSecret>,
}

/// The result of a callback that did not fail.
#[derive(Debug)]
pub enum CallbackOutcome {
    Completed(Box<CompletedLogin>),
    /// The same callback was used before; the browser continues to the return path.
    Repeated {
        return_to: String,
        portal: String,
    },
    /// The browser's login cookie is missing, or is not the one with which the login began. Only the destination is
    /// used; the code is not redeemed.
    OtherBrowser {
        context: LoginContext,
        /// The reason for the page, if the login cannot go on.
        failure: LoginFailure,
    },
}

/// The kind of client that receives the provider's logout URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogoutCaller {
    /// A navigation: the browser follows the redirect and shows the URL to no script.
    Browser,
    /// A script of a page of the app.
    Script,
}

/// A verified logout token of a provider, as the revocations that it demands. Carrying it out twice ends nothing more.
#[derive(Debug)]
pub struct BackchannelLogout {
    pub provider: Arc<str>,
    /// `issuers[].name`.
    pub issuer: Arc<str>,
    pub revocations: Vec<Revocation>,
    /// Unix milliseconds: ends what began at this time or before.
    pub at: i64,
}

/// All providers, and the state of the OIDC ones.
pub struct RelyingParty {
    providers: Vec<config::Provider>,
    oidc: Vec<OidcProvider>,
    /// Origin of the callbacks of logins that an older version began.
    public_url: String,
    authn: Arc<Authn>,
    sessions: Arc<Sessions>,
    audit: Audit,
}

impl RelyingParty {
    /// Reads client secrets and keys; sends no request to a provider yet.
    pub fn new(config: &Config, authn: &Arc<Authn>, sessions: &Arc<Sessions>, audit: &Audit) -> Result<Arc<Self>, LoginError> {
        Self::with_deadline(config, authn, sessions, audit, http::DEADLINE)
    }

    fn with_deadline(
        config: &Config,
        authn: &Arc<Authn>,
        sessions: &Arc<Sessions>,
        audit: &Audit,
        deadline: Duration,
    ) -> Result<Arc<Self>, LoginError> {
        let providers = config.login.providers.iter();
        let oidc = providers.filter_map(|provider| OidcProvider::new(provider, config, deadline).transpose());
        Ok(Arc::new(Self {
            oidc: oidc.collect::<Result<_, _>>()?,
            providers: config.login.providers.clone(),
            public_url: config.public_url.clone().unwrap_or_default(),
            authn: Arc::clone(authn),
            sessions: Arc::clone(sessions),
            audit: audit.clone(),
        }))
    }

    /// Refreshes old discovery documents until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(DISCOVERY_CHECK_INTERVAL) => {}
            }
            for provider in &self.oidc {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = provider.refresh_metadata() => {}
                }
            }
        }
    }

    pub fn provider(&self, name: &str) -> Option<&config::Provider> {
        self.providers.iter().find(|provider| &*provider.name == name)
    }

    /// The provider's URL to which the browser is redirected for the login.
    pub async fn authorization_url(&self, login: LoginRequest<'_>) -> Result<String, LoginFailure> {
        let provider = self.oidc(login.provider)?;
        let request = self
            .authorization_request(&login)
            .ok_or_else(|| LoginFailure::new(LoginCode::StoreUnavailable, "the random number generator failed"))?;
        Ok(provider.authorization_url(request).await?)
    }

    fn authorization_request<'a>(&self, login: &LoginRequest<'a>) -> Option<AuthorizationRequest<'a>> {
        let state = LoginState::new(login, unix_millis())?;
        let sealed = self.sessions.seal_for_browser(login.browser.expose(), &state.to_bytes()?);
        let destination = state.destination().and_then(|destination| destination.to_bytes());
        let destination = destination.map(|bytes| self.sessions.seal_for_browser(DESTINATION_SECRET, &bytes));
        Some(AuthorizationRequest {
            origin: login.origin,
            state: match destination {
                Some(destination) => format!("{destination}{STATE_SEPARATOR}{sealed}"),
                None => sealed,
            },
            nonce: state.nonce(login.browser)?,
            verifier: state.verifier(login.browser)?,
            acr_values: login.acr_values,
            max_age: login.max_age,
            login_hint: login.login_hint,
            prompt: login.prompt,
        })
    }

    /// The provider's URL that ends the session there, too; `None` if the provider has no such endpoint. The provider
    /// redirects back to `<origin>/` only: providers compare the whole URL with the registered one.
    ///
    /// SECURITY: the hint is an ID token, so a script of the app gets a URL without it.
    pub async fn logout_location(&self, data: &SessionData, caller: LogoutCaller, origin: &str) -> Option<String> {
        let provider = self.oidc(&data.provider).ok()?;
        let return_to = format!("{origin}/");
        let id_token = &data.grant.as_ref()?.id_token;
        let hint = match caller {
            LogoutCaller::Browser => Some(id_token),
            LogoutCaller::Script => None,
        };
        provider.logout_location(hint, &return_to).await
    }

    /// Verifies an OIDC back-channel logout token.
    pub async fn accept_logout_token(&self, token: &str) -> Result<BackchannelLogout, LoginFailure> {
        let invalid = |why: String| LoginFailure::new(LoginCode::LoginInvalid, why);
        let iss = Authn::claimed_issuer(token).map_err(|error| invalid(error.to_string()))?;
        let mut refused = invalid("the logout token is of no configured provider".to_owned());
        for provider in self.oidc.iter().filter(|provider| provider.issuer.scope.issuer == iss) {
            match self
                .authn
                .verify_logout_token(provider.index, token, &provider.client_id)
                .await
            {
                Ok(verified) => return self.backchannel_logout(provider, verified, token).await,
                Err(error) => refused = ProviderError::from(error).into(),
            }
        }
        Err(refused)
    }

    /// `raw`: the token as it came.
    async fn backchannel_logout(
        &self,
        provider: &OidcProvider,
        token: LogoutToken,
        raw: &str,
    ) -> Result<BackchannelLogout, LoginFailure> {
        let issuer = provider.issuer.scope.name.to_string();
        let at = self.logout_time(provider, &token, raw).await;
        // a session is stored under the claim that `issuers[].claims.subject` names
        let subject = token
            .subject
            .filter(|_| provider.issuer.scope.claims.subject.as_str() == "sub");
        let revocations = match (token.sid, subject) {
            (Some(sid), subject) => {
                let unnamed = subject.map(|subject| Revocation::Unnamed {
                    issuer: issuer.clone(),
                    subject,
                });
                [Revocation::IdpSession { issuer, sid }].into_iter().chain(unnamed).collect()
            }
            (None, Some(subject)) => vec![Revocation::Subject { issuer, subject }],
            (None, None) => {
                return Err(LoginFailure::new(
                    LoginCode::LoginInvalid,
                    "without `sid`, a session is found by `sub` only where `issuers[].claims.subject` is `sub`",
                ));
            }
        };
        Ok(BackchannelLogout {
            provider: Arc::clone(&provider.name),
            issuer: Arc::clone(&provider.issuer.scope.name),
            revocations,
            at,
        })
    }

    /// Unix milliseconds up to which a logout token ends what began: the end of its `iat`'s second, by the issuer's
    /// clock, which may be behind by the issuer's leeway; never later than the token's first arrival. So a token that
    /// arrives late or again does not end the login after it.
    ///
    /// SECURITY: the whole token is remembered, not its `jti`: a provider that gave two tokens one `jti` would lose the
    /// second logout.
    async fn logout_time(&self, provider: &OidcProvider, token: &LogoutToken, raw: &str) -> i64 {
        let key = sha256(raw.as_bytes());
        let first_seen = self.sessions.first_seen("logout", &key, LOGOUT_TOKEN_SEEN_TTL).await;
        let leeway = i64::try_from(provider.issuer.leeway.as_secs()).unwrap_or(i64::MAX);
        let next_second = token.issued.saturating_add(leeway).saturating_add(1);
        first_seen.min(next_second.saturating_mul(1000).saturating_sub(1))
    }

    fn oidc(&self, name: &str) -> Result<&OidcProvider, LoginFailure> {
        let found = self.oidc.iter().find(|provider| &*provider.name == name);
        found.ok_or_else(|| LoginFailure::new(LoginCode::LoginInvalid, "there is no such OIDC provider"))
    }
}

impl LoginFailure {
    pub fn new(code: LoginCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            limit: None,
            context: None,
        }
    }

    /// The same, because of the limit that the configuration names `key`.
    pub fn over_limit(mut self, key: &'static str) -> Self {
        self.limit = Some(key);
        self
    }

    pub fn store_unavailable(error: &impl std::fmt::Display) -> Self {
        Self::new(LoginCode::StoreUnavailable, error.to_string())
    }

    fn with_context(mut self, state: &LoginState) -> Self {
        self.context = Some(Box::new(LoginContext {
            provider: state.provider.clone(),
            portal: state.portal.clone(),
            return_to: state.return_to.clone(),
        }));
        self
    }
}

impl From<ProviderError> for LoginFailure {
    fn from(error: ProviderError) -> Self {
        let code = match &error {
            ProviderError::Unreachable(_) => LoginCode::ProviderUnavailable,
            ProviderError::InvalidGrant => LoginCode::LoginExpired,
            ProviderError::Refused(_) | ProviderError::Invalid(_) | ProviderError::Mismatch(_) => LoginCode::LoginInvalid,
        };
        Self::new(code, error.to_string())
    }
}
