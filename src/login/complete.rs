//! Completes a login: turns the query of a callback into session data.
//!
//! The steps run in a fixed order and each can fail the login: open `state` with the browser's cookie; check `iss`
//! before any other parameter is used (RFC 9207); mark the callback as used; redeem the code; verify the ID token;
//! check the step-up; complete the claims from access token and userinfo.

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::claims::ClaimError;
use cedargate_policy::types::Redacted;
use url::form_urlencoded;

use super::provider::{OidcProvider, Tokens, printable};
use super::state::{Destination, LoginState};
use super::{
    BrowserSecret, Callback, CallbackOutcome, CompletedLogin, DESTINATION_SECRET, LoginCode, LoginContext, LoginFailure,
    ProviderError, RelyingParty, STATE_SEPARATOR,
};
use crate::authn::{ExpectedIdToken, IdToken, TokenError, map_claims};
use crate::base::clock::{unix_millis, unix_seconds};
use crate::base::digest::sha256;
use crate::session::{Grant, SessionData};

/// Bytes of a callback's query.
const QUERY_BYTES_MAX: usize = 16 * 1024;
/// Time for which a callback counts as used; longer than a login may take.
const CALLBACK_USED_TTL: Duration = Duration::from_secs(15 * 60);
/// Share of an access token's life after which claims are renewed, in tenths.
const REFRESH_TENTHS: i64 = 8;
/// Life of an access token without `expires_in`.
const ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(5 * 60);
/// Bounds of `expires_in`. The minimum limits how often the gate renews at a provider with very short tokens.
const ACCESS_TOKEN_LIFE_MIN: Duration = Duration::from_secs(10);
const ACCESS_TOKEN_LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The names of the parameters of a callback that the gate uses.
pub const CALLBACK_PARAMETERS: [&str; 4] = ["state", "code", "iss", "error"];
/// The claims that say whose token it is, and for whom.
const IDENTIFYING: [&str; 3] = ["iss", "aud", "azp"];

/// The parameters of a callback that the gate uses, each at most once.
#[derive(Default)]
pub(super) struct Parameters {
    state: Option<String>,
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// A callback's `state`, opened.
enum OpenedState<'a> {
    ThisBrowser {
        state: LoginState,
        browser: &'a BrowserSecret,
    },
    /// The login state does not open for this browser; the destination does.
    OtherBrowser {
        context: LoginContext,
        failure: LoginFailure,
    },
}

/// The two sealed parts of `state`.
#[derive(Clone, Copy)]
struct StateParts<'a> {
    /// Opens with the server's keys. Empty if the return path was too long.
    destination: &'a str,
    /// Opens with the server's keys and the browser's secret.
    login: &'a str,
}

impl<'a> StateParts<'a> {
    fn split(state: &'a str) -> Self {
        match state.rsplit_once(STATE_SEPARATOR) {
            Some((destination, login)) => Self { destination, login },
            None => Self {
                destination: "",
                login: state,
            },
        }
    }
}

impl Parameters {
    pub(super) fn parse(query: &str) -> Result<Self, LoginFailure> {
        let invalid = |why: &str| LoginFailure::new(LoginCode::LoginInvalid, why);
        if query.len() > QUERY_BYTES_MAX {
            return Err(invalid("the callback is too long"));
        }
        let mut parameters = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let [state, code, iss, error] = CALLBACK_PARAMETERS;
            let parameter = match &*name {
                name if name == state => &mut parameters.state,
                name if name == code => &mut parameters.code,
                name if name == iss => &mut parameters.iss,
                name if name == error => &mut parameters.error,
                _ => continue,
            };
            if parameter.replace(value.into_owned()).is_some() {
                return Err(invalid(&format!("`{name}` is repeated in the callback")));
            }
        }
        Ok(parameters)
    }
}

impl RelyingParty {
    /// Completes the login of a callback.
    pub async fn complete(&self, callback: Callback<'_>) -> Result<CallbackOutcome, LoginFailure> {
        let parameters = Parameters::parse(callback.query)?;
        let sealed_state = parameters
            .state
            .as_deref()
            .ok_or_else(|| LoginFailure::new(LoginCode::LoginExpired, "the callback has no `state`"))?;
        let parts = StateParts::split(sealed_state);
        let (state, browser) = match self.open_state(parts, callback.browser)? {
            OpenedState::ThisBrowser { state, browser } => (state, browser),
            OpenedState::OtherBrowser { context, failure } => return Ok(CallbackOutcome::OtherBrowser { context, failure }),
        };
        let with_context = |failure: LoginFailure| failure.with_context(&state);
        let provider = self.oidc(&state.provider).map_err(with_context)?;
        self.check_issuer(provider, &parameters).await.map_err(with_context)?;
        if !self.is_first_use(parts).await.map_err(with_context)? {
            return Ok(CallbackOutcome::Repeated {
                return_to: state.return_to,
                portal: state.portal,
            });
        }
        let data = self.redeem_callback(provider, &state, parameters, browser).await;
        let data = data.map_err(with_context)?;
        Ok(CallbackOutcome::Completed(Box::new(CompletedLogin {
            data,
            return_to: state.return_to,
            is_cut: state.is_cut,
            portal: state.portal,
        })))
    }

    fn open_state<'a>(&self, parts: StateParts<'_>, browser: Option<&'a BrowserSecret>) -> Result<OpenedState<'a>, LoginFailure> {
        let Some(browser) = browser else {
            let missing = LoginFailure::new(LoginCode::CookieMissing, "the browser has no login cookie");
            return self.open_destination(parts, missing);
        };
        let expired = |why: &str| LoginFailure::new(LoginCode::LoginExpired, why);
        let Some(bytes) = self.sessions.open_from_browser(browser.expose(), parts.login) else {
            return self.open_destination(parts, expired("`state` is not of a login of this browser"));
        };
        match LoginState::from_bytes(&bytes, unix_millis()) {
            Some(state) => Ok(OpenedState::ThisBrowser { state, browser }),
            None => Err(expired("the login began too long ago")),
        }
    }

    fn open_destination<'a>(&self, parts: StateParts<'_>, failure: LoginFailure) -> Result<OpenedState<'a>, LoginFailure> {
        let opened = self.sessions.open_from_browser(DESTINATION_SECRET, parts.destination);
        let destination = opened.and_then(|bytes| Destination::from_bytes(&bytes, unix_millis()));
        let Some(destination) = destination else {
            return Err(failure);
        };
        let context = LoginContext {
            provider: destination.provider,
            portal: destination.portal,
            return_to: destination.return_to,
        };
        Ok(OpenedState::OtherBrowser { context, failure })
    }

    /// RFC 9207: refuses the response of another provider before any of its parameters is used.
    pub(super) async fn check_issuer(&self, provider: &OidcProvider, parameters: &Parameters) -> Result<(), LoginFailure> {
        let invalid = |why: &str| Err(LoginFailure::new(LoginCode::LoginInvalid, why));
        match parameters.iss.as_deref() {
            Some(iss) if iss == provider.issuer.scope.issuer => Ok(()),
            Some(_) => invalid("`iss` of the callback names another provider"),
            None if provider.metadata().await?.sends_iss => invalid("the callback does not name its provider (`iss`)"),
            None => Ok(()),
        }
    }

    /// Marks the callback as used; false if it was used before.
    async fn is_first_use(&self, parts: StateParts<'_>) -> Result<bool, LoginFailure> {
        // SECURITY: keyed by the login part alone: a client can replace the destination and would make the callback
        // look new
        let first = self
            .sessions
            .first("state", &sha256(parts.login.as_bytes()), CALLBACK_USED_TTL)
            .await;
        first.map_err(|error| LoginFailure::store_unavailable(&error))
    }

    /// Redeems the code of a checked callback and verifies the tokens.
    pub(super) async fn redeem_callback(
        &self,
        provider: &OidcProvider,
        state: &LoginState,
        parameters: Parameters,
        browser: &BrowserSecret,
    ) -> Result<SessionData, LoginFailure> {
        if let Some(error) = parameters.error {
            return Err(authorization_failed(&error));
        }
        let invalid = |why: &str| LoginFailure::new(LoginCode::LoginInvalid, why);
        let code = parameters.code.ok_or_else(|| invalid("the callback has no `code`"))?;
        let (Some(verifier), Some(nonce)) = (state.verifier(browser), state.nonce(browser)) else {
            return Err(invalid("the login's secrets cannot be derived"));
        };
        // SECURITY: before the provider is asked: a logout that arrives from now on ends this session
        let begun_at = unix_millis();
        let origin = state.origin.as_deref().unwrap_or(&self.public_url);
        let mut tokens = provider.redeem(code, verifier, origin).await?;
        let raw_id_token = tokens
            .id_token
            .take()
            .ok_or_else(|| invalid("the token endpoint's response has no `id_token`; is `openid` among the scopes?"))?;
        let expected = ExpectedIdToken {
            audience: &provider.client_id,
            nonce: Some(&nonce),
            access_token: tokens.access_token.expose(),
        };
        let id_token = self
            .authn
            .verify_id_token(provider.index, raw_id_token.expose(), expected)
            .await
            .map_err(ProviderError::from)?;
        check_step_up(state, &id_token, provider)?;
        let claims = self
            .login_claims(provider, id_token.claims.clone(), &tokens.access_token)
            .await?;
        let subject = map_claims(&provider.issuer, &claims).map_err(ProviderError::from)?.subject;
        Ok(SessionData {
            provider: provider.name.to_string(),
            issuer: provider.issuer.scope.name.to_string(),
            subject,
            portal: state.portal.clone(),
            claims: Arc::new(claims),
            created_at: begun_at,
            idp_session: id_token.sid,
            grant: Some(new_grant(tokens, raw_id_token, unix_millis())),
            portals: None,
            rotation_due: false,
        })
    }
}

fn new_grant(tokens: Tokens, id_token: Redacted<String>, now_millis: i64) -> Grant {
    Grant {
        refresh_at: refresh_at(tokens.refresh_token.as_ref(), tokens.expires_in, now_millis),
        id_token,
        refresh_token: tokens.refresh_token,
        access_token: tokens.access_token,
    }
}

/// Unix milliseconds at which a renewal is due; `None` without a refresh token.
pub(super) fn refresh_at(refresh_token: Option<&Redacted<String>>, expires_in: Option<Duration>, now_millis: i64) -> Option<i64> {
    let life = expires_in
        .unwrap_or(ACCESS_TOKEN_LIFE)
        .clamp(ACCESS_TOKEN_LIFE_MIN, ACCESS_TOKEN_LIFE_MAX);
    let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
    refresh_token.map(|_token| now_millis.saturating_add(life / 10 * REFRESH_TENTHS))
}

/// Checks that the ID token confirms the requested `max_age` and `acr_values`: a provider may ignore the request.
fn check_step_up(state: &LoginState, id_token: &IdToken, provider: &OidcProvider) -> Result<(), LoginFailure> {
    let failed = |why: &str| LoginFailure::new(LoginCode::StepUpFailed, why);
    if let Some(max_age) = state.max_age {
        let auth_time = id_token
            .auth_time
            .ok_or_else(|| failed("the ID token has no `auth_time` although the request had `max_age`"))?;
        let max_age = i64::try_from(max_age).unwrap_or(i64::MAX);
        let leeway = i64::try_from(provider.issuer.leeway.as_secs()).unwrap_or(i64::MAX);
        if unix_seconds().saturating_sub(auth_time) > max_age.saturating_add(leeway) {
            return Err(failed("the provider's login is older than `max_age`"));
        }
    }
    if let Some(acr_values) = state.acr_values.as_deref() {
        let acr = id_token
            .acr
            .as_deref()
            .ok_or_else(|| failed("the ID token has no `acr` although the request had `acr_values`"))?;
        if !acr_values.split(' ').any(|value| value == acr) {
            return Err(failed("the provider's `acr` is not one of the requested `acr_values`"));
        }
    }
    Ok(())
}

/// The failure of an error response of the authorization endpoint (RFC 6749, OpenID Connect Core 1.0).
fn authorization_failed(error: &str) -> LoginFailure {
    let code = match error {
        "access_denied" | "login_required" | "interaction_required" | "account_selection_required" | "consent_required" => {
            LoginCode::LoginDenied
        }
        "temporarily_unavailable" | "server_error" => LoginCode::ProviderUnavailable,
        "unmet_authentication_requirements" => LoginCode::StepUpFailed,
        _ => LoginCode::LoginInvalid,
    };
    LoginFailure::new(code, format!("the provider answered `{}`", printable(error)))
}

impl From<TokenError> for ProviderError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::KeysUnavailable { .. } => Self::Unreachable(error.to_string()),
            TokenError::Claims(ClaimError::Claim { ref claim, .. }) if IDENTIFYING.contains(&claim.as_str()) => {
                Self::Mismatch(error.to_string())
            }
            other => Self::Invalid(other.to_string()),
        }
    }
}
