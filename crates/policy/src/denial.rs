//! Every reason to refuse, and the one table of their codes, statuses and public texts.
//!
//! `Denial` is closed: a new reason does not compile until it has a status, a public text and a code, and the
//! tidy test wants it in the docs. `Refusal` pairs the public denial with the private detail, which goes to the
//! log and never to the caller.

use std::borrow::Cow;

use http::StatusCode;

/// The reason why a request was refused. The code is the metric label, the audit reason and the `code` of problem+json.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Denial {
    TokenMissing,
    TokenInvalid,
    TokenExpired,
    IssuerUnknown,
    AudienceMismatch,
    ClaimInvalid,
    SessionMissing,
    SessionExpired,
    SessionRevoked,
    StepUpRequired,
    NotPermitted,
    Forbidden,
    EvaluationError,
    NoPolicyLoaded,
    TenantMismatch,
    OriginMismatch,
    PortalUnknown,
    RequestInvalid,
    RequestTooLarge,
    HeadersTooLarge,
    RateLimited,
    KeyUnavailable,
    StoreUnavailable,
    Overloaded,
    Draining,
}

/// A denial with its private detail for the operator, and the advice that a policy author publishes to the caller.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub denial: Denial,
    /// Text for the log: never sent to the caller unless the door is the app's own.
    pub detail: Cow<'static, str>,
    /// From the deciding policy's `@advice` annotation; public by its author's choice.
    pub advice: Option<String>,
    /// From `@step_up("acr")`: the authentication context the caller should come back with.
    pub step_up: Option<Box<str>>,
    /// Seconds after which the caller may try again, if that is known.
    pub retry_after: Option<u64>,
    /// True if the caller may read `detail`: it speaks of the request alone.
    pub is_detail_public: bool,
    /// Key of the configuration whose limit refuses the request: public, and part of the record.
    pub limit: Option<&'static str>,
    /// True if the browser keeps its session cookie: another replica may accept the session, or this one may later.
    pub keeps_cookie: bool,
    /// The credential that was refused, for the record.
    pub credential: Option<Box<RefusedCredential>>,
    /// What the answer says of DPoP; `None`: nothing.
    pub dpop: Option<Box<DpopChallenge>>,
}

/// The challenge to come with a DPoP proof (RFC 9449, sections 7.1 and 9).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DpopChallenge {
    /// `None`: the request used another scheme.
    pub error: Option<&'static str>,
    /// A nonce for the next proof.
    pub nonce: Option<String>,
}

/// A refused credential as decision records show it: enough to find the fault, nothing that could be used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RefusedCredential {
    /// The check that failed, in one word.
    pub check: &'static str,
    /// `iss` as the credential claims it, unverified.
    pub issuer: Option<String>,
    /// `kid` as the credential claims it, unverified.
    pub kid: Option<String>,
    /// The path of the claim at fault.
    pub claim: Option<String>,
}

impl Denial {
    pub const ALL: [Self; 25] = [
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::IssuerUnknown,
        Self::AudienceMismatch,
        Self::ClaimInvalid,
        Self::SessionMissing,
        Self::SessionExpired,
        Self::SessionRevoked,
        Self::StepUpRequired,
        Self::NotPermitted,
        Self::Forbidden,
        Self::EvaluationError,
        Self::NoPolicyLoaded,
        Self::TenantMismatch,
        Self::OriginMismatch,
        Self::PortalUnknown,
        Self::RequestInvalid,
        Self::RequestTooLarge,
        Self::HeadersTooLarge,
        Self::RateLimited,
        Self::KeyUnavailable,
        Self::StoreUnavailable,
        Self::Overloaded,
        Self::Draining,
    ];

    /// Code, status and public title: the table.
    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::TokenMissing => ("token_missing", StatusCode::UNAUTHORIZED, "a bearer token is required"),
            Self::TokenInvalid => ("token_invalid", StatusCode::UNAUTHORIZED, "the bearer token is not valid"),
            Self::TokenExpired => ("token_expired", StatusCode::UNAUTHORIZED, "the bearer token has expired"),
            Self::IssuerUnknown => (
                "issuer_unknown",
                StatusCode::UNAUTHORIZED,
                "the token's issuer is not trusted here",
            ),
            Self::AudienceMismatch => (
                "audience_mismatch",
                StatusCode::UNAUTHORIZED,
                "the token was issued for another audience",
            ),
            Self::ClaimInvalid => (
                "claim_invalid",
                StatusCode::UNAUTHORIZED,
                "a claim of the token is missing, malformed or not accepted here",
            ),
            Self::SessionMissing => ("session_missing", StatusCode::UNAUTHORIZED, "a session is required"),
            Self::SessionExpired => ("session_expired", StatusCode::UNAUTHORIZED, "the session has expired"),
            Self::SessionRevoked => ("session_revoked", StatusCode::UNAUTHORIZED, "the session was ended"),
            Self::StepUpRequired => ("step_up_required", StatusCode::UNAUTHORIZED, "a stronger login is required"),
            Self::NotPermitted => ("not_permitted", StatusCode::FORBIDDEN, "no policy permits this"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "a policy forbids this"),
            Self::EvaluationError => ("evaluation_error", StatusCode::FORBIDDEN, "a policy could not be evaluated"),
            Self::NoPolicyLoaded => ("no_policy_loaded", StatusCode::FORBIDDEN, "this portal has no policy"),
            Self::TenantMismatch => (
                "tenant_mismatch",
                StatusCode::FORBIDDEN,
                "the caller belongs to another tenant",
            ),
            Self::OriginMismatch => (
                "origin_mismatch",
                StatusCode::FORBIDDEN,
                "the request came from another origin",
            ),
            Self::PortalUnknown => ("portal_unknown", StatusCode::NOT_FOUND, "no portal serves this address"),
            Self::RequestInvalid => (
                "request_invalid",
                StatusCode::BAD_REQUEST,
                "the request is malformed or ambiguous",
            ),
            Self::RequestTooLarge => (
                "request_too_large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "the request body is too large",
            ),
            Self::HeadersTooLarge => (
                "request_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request headers are too large",
            ),
            Self::RateLimited => ("rate_limited", StatusCode::TOO_MANY_REQUESTS, "too many requests"),
            Self::KeyUnavailable => (
                "key_unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "the issuer's keys are not available",
            ),
            Self::StoreUnavailable => (
                "store_unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "a store that this answer needs is not available",
            ),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "too many requests at once"),
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE, "this instance is shutting down"),
        }
    }

    pub const fn code(self) -> &'static str {
        self.row().0
    }

    /// Always 4xx or 5xx.
    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// The fixed public text.
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    /// The `error` of `WWW-Authenticate: Bearer` (RFC 6750, RFC 9470); `None` if the challenge carries none.
    pub const fn bearer_error(self) -> Option<&'static str> {
        match self {
            Self::TokenInvalid | Self::TokenExpired | Self::IssuerUnknown | Self::AudienceMismatch | Self::ClaimInvalid => {
                Some("invalid_token")
            }
            Self::StepUpRequired => Some("insufficient_user_authentication"),
            _ => None,
        }
    }
}

impl Refusal {
    pub fn new(denial: Denial, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            denial,
            detail: detail.into(),
            advice: None,
            step_up: None,
            retry_after: None,
            is_detail_public: false,
            limit: None,
            keeps_cookie: false,
            credential: None,
            dpop: None,
        }
    }

    /// The same, with a challenge to come with a DPoP proof if it is a 401.
    pub fn challenged(self, challenge: DpopChallenge) -> Self {
        let dpop = (self.denial.status() == StatusCode::UNAUTHORIZED).then(|| Box::new(challenge));
        Self { dpop, ..self }
    }

    /// The same, with the credential that was refused.
    pub fn of_credential(self, credential: RefusedCredential) -> Self {
        Self {
            credential: Some(Box::new(credential)),
            ..self
        }
    }

    /// The same, with a detail that the caller may read.
    pub fn with_public_detail(self) -> Self {
        Self {
            is_detail_public: true,
            ..self
        }
    }

    /// A refusal because of the limit that the configuration names `key`.
    pub fn over_limit(denial: Denial, key: &'static str) -> Self {
        Self {
            limit: Some(key),
            ..Self::new(denial, over_limit(key))
        }
    }

    /// The same, with the place of a batch's item before the detail.
    pub fn at(mut self, place: &str) -> Self {
        if !self.detail.starts_with(place) {
            self.detail = format!("{place}: {}", self.detail).into();
        }
        self
    }
}

/// The text for a caller whose request is beyond the limit `key`.
pub fn over_limit(key: &str) -> String {
    format!("beyond the limit `{key}`")
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::new(denial, denial.title())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_never_a_success_and_codes_are_snake_case() {
        for denial in Denial::ALL {
            assert!(
                denial.status().is_client_error() || denial.status().is_server_error(),
                "{denial:?}"
            );
            assert!(
                denial.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{denial:?}"
            );
        }
    }
}
