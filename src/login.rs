//! Login at an OIDC provider: the gate as relying party. And local accounts, for those who have no provider.
//!
//! Beside the path; `identity` uses it. OAuth's own steps are the `oauth2` library's; ID tokens are verified by the code
//! that verifies bearer tokens. Nothing here ends a session because somebody did not answer.

pub mod accounts;
mod claims;
mod complete;
pub mod credential;
mod http;
mod metadata;
mod provider;
mod renew;
#[cfg(test)]
mod tests;
mod trip;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use self::complete::sha256;
use self::http::Http;
use self::provider::{Departure, Oidc};
use self::trip::Trip;
use crate::audit::Audit;
use crate::authn::Authn;
use crate::config::{self, Config};
use crate::session::{Revocation, SessionData, Sessions};
use crate::types::Redacted;

/// How often discovery documents are looked at for their age.
const FRESHEN_INTERVAL: Duration = Duration::from_secs(60);
/// In place of a browser's secret where there is none; of another length, so that no browser has it.
const DESTINATION_SECRET: &[u8] = b"cedargate login destination";
/// Between where a login wanted to go and what only its own browser opens.
const STATE_SEPARATOR: char = '.';
/// How long a logout token is remembered as used; longer than one may live.
const LOGOUT_MARK_LIFE: Duration = Duration::from_secs(60 * 60);

/// Why nothing can be logged in with.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("login.providers.{provider}: {message}")]
    Provider { provider: String, message: String },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("cannot set up the https client for logins: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a provider's part of a login or refresh was not done.
#[derive(Debug, thiserror::Error)]
enum ProviderError {
    /// It does not answer, or says that it is out of order.
    #[error("{0}")]
    Unreachable(String),
    /// The token endpoint's `invalid_grant`: the code or refresh token is used up, over or taken back.
    #[error("the provider answered `invalid_grant`")]
    InvalidGrant,
    /// Another error code of the token endpoint.
    #[error("the provider answered `{0}`")]
    Refused(String),
    /// What it said cannot be true.
    #[error("{0}")]
    Unbelievable(String),
    /// What it said is about somebody else, or for somebody else.
    #[error("{0}")]
    Other(String),
}

/// Why a login did not come to its end: for the page that explains it, the record and the metric.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoginFailure {
    pub code: LoginCode,
    /// For the log only.
    pub detail: String,
    /// What was known of the login by then.
    pub about: Option<Box<About>>,
}

/// Which login it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct About {
    pub provider: String,
    pub portal: String,
    pub return_to: String,
}

/// The reason codes of the login pages.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LoginCode {
    /// The login took too long, or did not begin in this browser.
    LoginExpired,
    /// The provider said no (`access_denied` and the like).
    LoginDenied,
    /// The provider's answer could not be believed.
    LoginInvalid,
    /// The provider does not answer.
    ProviderUnavailable,
    /// Logging in succeeded several times and the next request began another one.
    LoginLoop,
    /// The provider did not do what a policy asks for.
    StepUpFailed,
    /// The session store does not answer.
    StoreUnavailable,
    /// Name or password of a local account is wrong.
    CredentialsInvalid,
    /// Too many tries.
    RateLimited,
}

/// What a browser wants to log in for.
#[derive(Clone, Debug)]
pub struct Begin<'a> {
    pub provider: &'a str,
    pub portal: &'a str,
    /// Where to go afterwards: a checked path of this origin.
    pub return_to: &'a str,
    /// From a policy's `@step_up`.
    pub acr_values: Option<&'a str>,
    /// Seconds; from a policy that asks for a recent login.
    pub max_age: Option<u64>,
    /// Binds the login to this browser.
    pub browser: &'a Redacted<[u8; 32]>,
}

/// A login that came to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    pub data: SessionData,
    pub return_to: String,
    pub portal: String,
}

/// What a callback carries.
#[derive(Clone, Copy, Debug)]
pub struct Callback<'a> {
    /// The query, undecoded.
    pub query: &'a str,
    pub browser: Option<&'a Redacted<[u8; 32]>>,
}

/// What came of a callback.
#[derive(Debug)]
pub enum Outcome {
    Finished(Box<Finished>),
    /// The same callback was seen before: the browser goes on to where it wanted.
    Repeated {
        return_to: String,
        portal: String,
    },
    /// Of a login that this browser did not begin, or with a secret that it does not have any more: nothing in it counts
    /// but where it wanted to go.
    Elsewhere {
        about: About,
        why: &'static str,
    },
}

/// Who reads the provider's address of a logout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reader {
    /// It is sent there, and shows nobody the address before.
    Browser,
    /// A script of a page, whoever wrote it.
    Script,
}

/// What a logout token of a provider ends.
#[derive(Debug)]
pub struct LogoutOrder {
    pub provider: Arc<str>,
    /// `issuers[].name`.
    pub issuer: Arc<str>,
    pub revocations: Vec<Revocation>,
    /// Under which the token was marked as used: to be forgotten if nothing could be ended.
    pub mark: [u8; 32],
}

/// Every provider, with what discovery said.
pub struct Login {
    providers: Vec<config::Provider>,
    oidc: Vec<Oidc>,
    public_url: String,
    authn: Arc<Authn>,
    sessions: Arc<Sessions>,
    audit: Audit,
}

impl LoginCode {
    #[cfg(test)]
    pub const ALL: [Self; 9] = [
        Self::LoginExpired,
        Self::LoginDenied,
        Self::LoginInvalid,
        Self::ProviderUnavailable,
        Self::LoginLoop,
        Self::StepUpFailed,
        Self::StoreUnavailable,
        Self::CredentialsInvalid,
        Self::RateLimited,
    ];

    pub const fn code(self) -> &'static str {
        match self {
            Self::LoginExpired => "login_expired",
            Self::LoginDenied => "login_denied",
            Self::LoginInvalid => "login_invalid",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::LoginLoop => "login_loop",
            Self::StepUpFailed => "step_up_failed",
            Self::StoreUnavailable => "store_unavailable",
            Self::CredentialsInvalid => "credentials_invalid",
            Self::RateLimited => "rate_limited",
        }
    }
}

impl Login {
    /// Reads secrets and keys once; asks no provider yet.
    pub fn new(config: &Config, authn: &Arc<Authn>, sessions: &Arc<Sessions>, audit: &Audit) -> Result<Arc<Self>, LoginError> {
        Self::with_http(config, authn, (sessions, audit), &Http::new()?)
    }

    fn with_http(
        config: &Config,
        authn: &Arc<Authn>,
        (sessions, audit): (&Arc<Sessions>, &Audit),
        http: &Http,
    ) -> Result<Arc<Self>, LoginError> {
        let providers = config.login.providers.iter();
        let oidc = providers.filter_map(|provider| Oidc::new(provider, config, http).transpose());
        Ok(Arc::new(Self {
            oidc: oidc.collect::<Result<_, _>>()?,
            providers: config.login.providers.clone(),
            public_url: config.public_url.clone().unwrap_or_default(),
            authn: Arc::clone(authn),
            sessions: Arc::clone(sessions),
            audit: audit.clone(),
        }))
    }

    /// Keeps discovery fresh until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(FRESHEN_INTERVAL) => {}
            }
            for provider in &self.oidc {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = provider.freshen() => {}
                }
            }
        }
    }

    pub fn provider(&self, name: &str) -> Option<&config::Provider> {
        self.providers.iter().find(|provider| &*provider.name == name)
    }

    /// The provider's address that a browser is sent to.
    pub async fn begin(&self, begin: Begin<'_>) -> Result<String, LoginFailure> {
        let provider = self.oidc(begin.provider)?;
        let departure = self.departure(&begin);
        let departure = departure.ok_or_else(|| LoginFailure::new(LoginCode::StoreUnavailable, "no randomness for a login"))?;
        Ok(provider.departure(departure).await?)
    }

    fn departure<'a>(&self, begin: &Begin<'a>) -> Option<Departure<'a>> {
        let trip = Trip::begin(begin, now_millis())?;
        let inner = self.sessions.seal_for_trip(begin.browser.expose(), &trip.to_bytes()?);
        let outer = trip.destination().and_then(|destination| destination.to_bytes());
        let outer = outer.map(|bytes| self.sessions.seal_for_trip(DESTINATION_SECRET, &bytes));
        Some(Departure {
            state: outer.map_or_else(|| inner.clone(), |outer| format!("{outer}{STATE_SEPARATOR}{inner}")),
            nonce: trip.nonce(begin.browser)?,
            verifier: trip.verifier(begin.browser)?,
            acr_values: begin.acr_values,
            max_age: begin.max_age,
        })
    }

    /// Where to send a browser so that the session ends at the provider, too; `None`: the provider has no such place.
    /// It comes back to `<public_url>/` and nowhere else: providers compare with what is registered, whole.
    ///
    /// SECURITY: the hint is an ID token, which scripts of the app never get.
    pub async fn logout_location(&self, data: &SessionData, reader: Reader) -> Option<String> {
        let provider = self.oidc(&data.provider).ok()?;
        let back = format!("{}/", self.public_url);
        let id_token = &data.grant.as_ref()?.id_token;
        let hint = (reader == Reader::Browser).then_some(id_token);
        provider.logout_location(hint, &back).await
    }

    /// What an OIDC back-channel logout token ends. A second use of it ends nothing.
    pub async fn logout_token(&self, token: &str) -> Result<LogoutOrder, LoginFailure> {
        let invalid = |why: String| LoginFailure::new(LoginCode::LoginInvalid, why);
        let iss = Authn::claimed_issuer(token).map_err(|error| invalid(error.to_string()))?;
        let mut refused = invalid("the logout token is of no configured provider".to_owned());
        for provider in self.oidc.iter().filter(|provider| provider.issuer.scope.issuer == iss) {
            match self
                .authn
                .verify_logout_token(provider.index, token, &provider.client_id)
                .await
            {
                Ok(token) => return self.order(provider, &token).await,
                Err(error) => refused = ProviderError::from(error).into(),
            }
        }
        Err(refused)
    }

    async fn order(&self, provider: &Oidc, token: &crate::authn::LogoutToken) -> Result<LogoutOrder, LoginFailure> {
        let invalid = |why: &str| LoginFailure::new(LoginCode::LoginInvalid, why);
        let issuer = provider.issuer.scope.name.to_string();
        let revocation = match (&token.sid, &token.subject) {
            (Some(sid), _) => Revocation::IdpSession {
                issuer,
                sid: sid.clone(),
            },
            (None, Some(subject)) if provider.issuer.scope.claims.subject == "sub" => Revocation::Subject {
                issuer,
                subject: subject.clone(),
            },
            _ => {
                return Err(invalid(
                    "without `sid`, a session is found by `sub` only where `issuers[].claims.subject` is `sub`",
                ));
            }
        };
        let mark = sha256(&format!(
            "{} {} {}",
            provider.issuer.scope.issuer.len(),
            provider.issuer.scope.issuer,
            token.jti
        ));
        let first = self.sessions.first("logout", &mark, LOGOUT_MARK_LIFE).await;
        if !first.map_err(|error| LoginFailure::new(LoginCode::StoreUnavailable, error.to_string()))? {
            return Err(invalid("the logout token was used before (`jti`)"));
        }
        Ok(LogoutOrder {
            provider: Arc::clone(&provider.name),
            issuer: Arc::clone(&provider.issuer.scope.name),
            revocations: vec![revocation],
            mark,
        })
    }

    fn oidc(&self, name: &str) -> Result<&Oidc, LoginFailure> {
        let found = self.oidc.iter().find(|provider| &*provider.name == name);
        found.ok_or_else(|| LoginFailure::new(LoginCode::LoginInvalid, "there is no such OIDC provider"))
    }
}

impl LoginFailure {
    pub fn new(code: LoginCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            about: None,
        }
    }

    fn of(mut self, trip: &Trip) -> Self {
        self.about = Some(Box::new(About {
            provider: trip.provider.clone(),
            portal: trip.portal.clone(),
            return_to: trip.return_to.clone(),
        }));
        self
    }
}

impl From<ProviderError> for LoginFailure {
    fn from(error: ProviderError) -> Self {
        let code = match &error {
            ProviderError::Unreachable(_) => LoginCode::ProviderUnavailable,
            ProviderError::InvalidGrant => LoginCode::LoginExpired,
            ProviderError::Refused(_) | ProviderError::Unbelievable(_) | ProviderError::Other(_) => LoginCode::LoginInvalid,
        };
        Self::new(code, error.to_string())
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
