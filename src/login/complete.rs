//! The way back: from a callback's query to a session's data, every step of it able to end the login.

use aws_lc_rs::digest;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use url::form_urlencoded;

use super::claims::complete;
use super::provider::{Oidc, Tokens, printable};
use super::trip::{Destination, Trip};
use super::{
    About, Callback, DESTINATION_SECRET, Finished, Login, LoginCode, LoginFailure, Outcome, ProviderError, STATE_SEPARATOR,
    now_millis,
};
use crate::authn::{ExpectedIdToken, IdToken, TokenError, map_claims};
use crate::session::{Grant, SessionData};
use crate::types::Redacted;

/// Bytes of a callback's query.
const QUERY_BYTES_MAX: usize = 16 * 1024;
/// How long a callback is remembered as used; longer than a login may take.
const USED_LIFE: Duration = Duration::from_secs(15 * 60);
/// Share of an access token's life after which claims are renewed, in tenths.
const REFRESH_TENTHS: i64 = 8;
/// Life of an access token whose provider does not say.
const ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(5 * 60);
/// A provider that hands out tokens of a second is not asked more often than this.
const ACCESS_TOKEN_LIFE_MIN: Duration = Duration::from_secs(10);
const ACCESS_TOKEN_LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The parameters of a callback that mean something, each at most once.
#[derive(Default)]
pub(super) struct Parameters {
    state: Option<String>,
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// What a callback's `state` opens to.
enum Way<'a> {
    /// A login of this browser.
    Here(Trip, &'a Redacted<[u8; 32]>),
    Elsewhere(About, &'static str),
}

/// Where a login wanted to go, and what its own browser opens.
fn parts(state: &str) -> (&str, &str) {
    state.rsplit_once(STATE_SEPARATOR).unwrap_or(("", state))
}

impl Parameters {
    pub(super) fn parse(query: &str) -> Result<Self, LoginFailure> {
        let invalid = |why: &str| LoginFailure::new(LoginCode::LoginInvalid, why);
        if query.len() > QUERY_BYTES_MAX {
            return Err(invalid("the callback is too long"));
        }
        let mut found = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut found.state,
                "code" => &mut found.code,
                "iss" => &mut found.iss,
                "error" => &mut found.error,
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(invalid("a parameter of the callback is repeated"));
            }
        }
        Ok(found)
    }
}

impl Login {
    /// Takes a callback to its end.
    pub async fn finish(&self, callback: Callback<'_>) -> Result<Outcome, LoginFailure> {
        let parameters = Parameters::parse(callback.query)?;
        let (trip, browser) = match self.trip(&parameters, callback)? {
            Way::Here(trip, browser) => (trip, browser),
            Way::Elsewhere(about, why) => return Ok(Outcome::Elsewhere { about, why }),
        };
        let about = |failure: LoginFailure| failure.of(&trip);
        let provider = self.oidc(&trip.provider).map_err(about)?;
        self.check_sender(provider, &parameters).await.map_err(about)?;
        if !self.is_first(&parameters).await.map_err(about)? {
            return Ok(Outcome::Repeated {
                return_to: trip.return_to,
                portal: trip.portal,
            });
        }
        let data = self.arrival(provider, &trip, parameters, browser).await.map_err(about)?;
        Ok(Outcome::Finished(Box::new(Finished {
            data,
            return_to: trip.return_to,
            portal: trip.portal,
        })))
    }

    fn trip<'a>(&self, parameters: &Parameters, callback: Callback<'a>) -> Result<Way<'a>, LoginFailure> {
        let expired = |why: &str| LoginFailure::new(LoginCode::LoginExpired, why);
        let state = parameters
            .state
            .as_deref()
            .ok_or_else(|| expired("the callback has no `state`"))?;
        let (outer, inner) = parts(state);
        let (browser, opened) = match callback.browser {
            Some(browser) => (browser, self.sessions.open_from_trip(browser.expose(), inner)),
            None => return self.elsewhere(outer, "the browser has no login cookie"),
        };
        match opened.map(|bytes| Trip::from_bytes(&bytes, now_millis())) {
            Some(Some(trip)) => Ok(Way::Here(trip, browser)),
            Some(None) => Err(expired("the login began too long ago")),
            None => self.elsewhere(outer, "`state` is not of a login of this browser"),
        }
    }

    fn elsewhere<'a>(&self, outer: &str, why: &'static str) -> Result<Way<'a>, LoginFailure> {
        let opened = self.sessions.open_from_trip(DESTINATION_SECRET, outer);
        let wanted = opened.and_then(|bytes| Destination::from_bytes(&bytes, now_millis()));
        let wanted = wanted.ok_or_else(|| LoginFailure::new(LoginCode::LoginExpired, why))?;
        let about = About {
            provider: wanted.provider,
            portal: wanted.portal,
            return_to: wanted.return_to,
        };
        Ok(Way::Elsewhere(about, why))
    }

    /// RFC 9207: the answer of another provider ends here, before anything in it is used.
    pub(super) async fn check_sender(&self, provider: &Oidc, parameters: &Parameters) -> Result<(), LoginFailure> {
        let invalid = |why: &str| Err(LoginFailure::new(LoginCode::LoginInvalid, why));
        match parameters.iss.as_deref() {
            Some(iss) if iss == provider.issuer.issuer => Ok(()),
            Some(_) => invalid("`iss` of the callback names another provider"),
            None if provider.metadata().await?.names_itself => invalid("the callback does not name its provider (`iss`)"),
            None => Ok(()),
        }
    }

    async fn is_first(&self, parameters: &Parameters) -> Result<bool, LoginFailure> {
        // what stands before it can be exchanged by whoever brings it
        let (_, inner) = parts(parameters.state.as_deref().unwrap_or_default());
        let first = self.sessions.first("state", &sha256(inner), USED_LIFE).await;
        first.map_err(|error| LoginFailure::new(LoginCode::StoreUnavailable, error.to_string()))
    }

    /// From a believed callback to a session's data.
    pub(super) async fn arrival(
        &self,
        provider: &Oidc,
        trip: &Trip,
        parameters: Parameters,
        browser: &Redacted<[u8; 32]>,
    ) -> Result<SessionData, LoginFailure> {
        if let Some(error) = parameters.error {
            return Err(said_no(&error));
        }
        let invalid = |why: &str| LoginFailure::new(LoginCode::LoginInvalid, why);
        let code = parameters.code.ok_or_else(|| invalid("the callback has no `code`"))?;
        let (Some(verifier), Some(nonce)) = (trip.verifier(browser), trip.nonce(browser)) else {
            return Err(invalid("the login's secrets cannot be derived"));
        };
        let tokens = provider.redeem(code, verifier).await?;
        let raw = tokens
            .id_token
            .clone()
            .ok_or_else(|| invalid("the provider gave no ID token"))?;
        let expected = ExpectedIdToken {
            audience: &provider.client_id,
            nonce: Some(&nonce),
            access_token: tokens.access_token.expose(),
        };
        let id = self.authn.verify_id_token(provider.index, raw.expose(), expected).await;
        let id = id.map_err(ProviderError::from)?;
        check_step_up(trip, &id, leeway(provider))?;
        let claims = complete(provider, id.claims.clone(), &tokens.access_token).await?;
        data(provider, trip, &id, (claims, tokens, raw))
    }
}

fn data(
    provider: &Oidc,
    trip: &Trip,
    id: &IdToken,
    (claims, tokens, id_token): (Map<String, Value>, Tokens, Redacted<String>),
) -> Result<SessionData, LoginFailure> {
    let granted = map_claims(&provider.issuer, &claims).map_err(ProviderError::from)?;
    let now = now_millis();
    Ok(SessionData {
        provider: provider.name.to_string(),
        issuer: provider.issuer.name.to_string(),
        subject: granted.subject,
        portal: trip.portal.clone(),
        claims: Arc::new(claims),
        created_at: now,
        idp_session: id.sid.clone(),
        grant: Some(Grant {
            refresh_at: refresh_at(tokens.refresh_token.is_some(), tokens.expires_in, now),
            id_token,
            refresh_token: tokens.refresh_token,
            access_token: tokens.access_token,
        }),
        portals: None,
        rotation_due: false,
    })
}

/// Unix milliseconds after which to renew; `None` if there is nothing to renew with.
pub(super) fn refresh_at(renewable: bool, expires_in: Option<Duration>, now_millis: i64) -> Option<i64> {
    let life = expires_in
        .unwrap_or(ACCESS_TOKEN_LIFE)
        .clamp(ACCESS_TOKEN_LIFE_MIN, ACCESS_TOKEN_LIFE_MAX);
    let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
    renewable.then(|| now_millis.saturating_add(life / 10 * REFRESH_TENTHS))
}

/// The provider must have done what a policy asked for, not only been asked.
fn check_step_up(trip: &Trip, id: &IdToken, leeway: i64) -> Result<(), LoginFailure> {
    let failed = |why: &str| LoginFailure::new(LoginCode::StepUpFailed, why);
    if let Some(max_age) = trip.max_age {
        let at = id
            .auth_time
            .ok_or_else(|| failed("the ID token has no `auth_time` although `max_age` was asked for"))?;
        let max_age = i64::try_from(max_age).unwrap_or(i64::MAX);
        if (now_millis() / 1000).saturating_sub(at) > max_age.saturating_add(leeway) {
            return Err(failed("the provider's login is older than `max_age`"));
        }
    }
    if let Some(wanted) = trip.acr_values.as_deref() {
        let acr = id
            .acr
            .as_deref()
            .ok_or_else(|| failed("the ID token has no `acr` although `acr_values` were asked for"))?;
        if !wanted.split(' ').any(|value| value == acr) {
            return Err(failed("the provider's `acr` is none of those asked for"));
        }
    }
    Ok(())
}

fn leeway(provider: &Oidc) -> i64 {
    i64::try_from(provider.issuer.leeway.as_secs()).unwrap_or(i64::MAX)
}

/// An error response of the authorization endpoint (RFC 6749, OpenID Connect Core 1.0).
fn said_no(error: &str) -> LoginFailure {
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

pub(super) fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

impl From<TokenError> for ProviderError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::KeysUnavailable { .. } => Self::Unreachable(error.to_string()),
            TokenError::Audience { .. } => Self::Other(error.to_string()),
            TokenError::Claim { ref claim, .. } if claim == "iss" => Self::Other(error.to_string()),
            other => Self::Unbelievable(other.to_string()),
        }
    }
}
