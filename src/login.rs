//! Login at an OIDC provider: the gate as relying party. And local accounts, for those who have no provider.
//!
//! Beside the path; `identity` uses it. OAuth's own steps are the `oauth2` library's; ID tokens are verified by the code
//! that verifies bearer tokens. Nothing here ends a session because somebody did not answer.

pub mod accounts;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::authn::Authn;
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::session::{RefreshError, Revocation, SessionData, Sessions};
use crate::types::Redacted;

/// Why nothing can be logged in with.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("login.providers.{provider}: {message}")]
    Provider { provider: String, message: String },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a login did not come to its end: for the page that explains it, the record and the metric.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoginFailure {
    pub code: LoginCode,
    /// For the log only.
    pub detail: String,
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
}

/// Every provider, with what discovery said.
pub struct Login {
    providers: Vec<config::Provider>,
}

impl LoginCode {
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
    pub fn new(
        config: &Config,
        _authn: &Arc<Authn>,
        _sessions: &Arc<Sessions>,
        _metrics: &Metrics,
    ) -> Result<Arc<Self>, LoginError> {
        Ok(Arc::new(Self {
            providers: config.login.providers.clone(),
        }))
    }

    /// Keeps discovery and secrets fresh until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.cancelled().await;
    }

    pub fn provider(&self, name: &str) -> Option<&config::Provider> {
        self.providers.iter().find(|provider| &*provider.name == name)
    }

    /// The provider's address that a browser is sent to.
    pub async fn begin(&self, _begin: Begin<'_>) -> Result<String, LoginFailure> {
        Err(LoginFailure::new(LoginCode::ProviderUnavailable, "not built yet"))
    }

    /// Takes a callback to its end.
    pub async fn finish(&self, _callback: Callback<'_>) -> Result<Outcome, LoginFailure> {
        Err(LoginFailure::new(LoginCode::ProviderUnavailable, "not built yet"))
    }

    /// Renews a session's grant and claims at the provider.
    pub async fn renew(self: Arc<Self>, _data: SessionData) -> Result<SessionData, RefreshError> {
        Err(RefreshError::Temporary("not built yet".to_owned()))
    }

    /// Where to send a browser so that the session ends at the provider, too; `None`: the provider has no such place.
    pub async fn logout_location(&self, _data: &SessionData, _return_to: &str) -> Option<String> {
        None
    }

    /// What an OIDC back-channel logout token ends.
    pub async fn logout_token(&self, _token: &str) -> Result<Vec<Revocation>, LoginFailure> {
        Err(LoginFailure::new(LoginCode::LoginInvalid, "not built yet"))
    }
}

impl LoginFailure {
    pub fn new(code: LoginCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}
