//! The reasons for which the gate refuses a token.
//!
//! One enum covers every way in which a credential can fail; it converts once, exhaustively, into a refusal. The texts
//! go to the log: they name the fault and never contain the token or a signature.

use std::borrow::Cow;

use cedargate_policy::claims::ClaimError;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::json::JsonError;

/// The reason for which a token was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    #[error("token is malformed: {0}")]
    Malformed(Cow<'static, str>),
    #[error("token is longer than {max} bytes (limits.token_bytes)")]
    TooLong { max: usize },
    #[error("{part} of the token is not strict JSON: {source}")]
    Json { part: &'static str, source: JsonError },
    #[error("header `{member}` is not accepted: {why}")]
    Header { member: &'static str, why: Cow<'static, str> },
    #[error("algorithm is not in the allow-list of issuer `{issuer}` (issuers[].algorithms)")]
    Algorithm { issuer: String },
    #[error("no key of issuer `{issuer}` may be used: {why}")]
    Key { issuer: String, why: &'static str },
    #[error("signature does not verify with the keys of issuer `{issuer}`")]
    Signature { issuer: String },
    #[error("key of the token is no longer published by issuer `{issuer}`")]
    KeyGone { issuer: String },
    #[error("issuer of the token is not trusted by this portal")]
    IssuerUnknown,
    #[error("no introspected issuer knows the token as active")]
    Inactive,
    #[error("DPoP proof {0}")]
    Proof(Cow<'static, str>),
    #[error(transparent)]
    Claims(#[from] ClaimError),
    #[error("keys of issuer `{issuer}` are not available: {why}")]
    KeysUnavailable { issuer: String, why: &'static str },
}

impl TokenError {
    pub(super) fn malformed(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed(why.into())
    }

    pub(super) fn header(member: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Header { member, why: why.into() }
    }

    pub(super) fn claim(claim: &str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Claims(ClaimError::claim(claim, why))
    }

    /// The check that failed, in one word for the record.
    pub(super) fn check(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::TooLong { .. } | Self::Json { .. } => "form",
            Self::Header { .. } => "header",
            Self::Algorithm { .. } => "algorithm",
            Self::Key { .. } | Self::KeyGone { .. } | Self::KeysUnavailable { .. } => "key",
            Self::Signature { .. } => "signature",
            Self::IssuerUnknown => "issuer",
            Self::Inactive => "introspection",
            Self::Proof(_) => "proof",
            Self::Claims(ClaimError::NotYetValid | ClaimError::Expired { .. }) => "time",
            Self::Claims(ClaimError::Audience { .. }) => "audience",
            Self::Claims(ClaimError::Bound(_)) => "binding",
            Self::Claims(ClaimError::Elsewhere { .. } | ClaimError::Claim { .. }) => "claim",
        }
    }

    /// The claim that a check of claims refused.
    pub(super) fn claim_at_fault(&self) -> Option<String> {
        match self {
            Self::Claims(error) => error.claim_at_fault().map(str::to_owned),
            _ => None,
        }
    }

    /// Returns the denial, which is the public part of the error.
    pub fn denial(&self) -> Denial {
        match self {
            Self::Malformed(_)
            | Self::TooLong { .. }
            | Self::Json { .. }
            | Self::Header { .. }
            | Self::Algorithm { .. }
            | Self::Key { .. }
            | Self::Signature { .. }
            | Self::KeyGone { .. }
            | Self::Proof(_)
            | Self::Inactive => Denial::TokenInvalid,
            Self::IssuerUnknown => Denial::IssuerUnknown,
            Self::Claims(error) => error.denial(),
            Self::KeysUnavailable { .. } => Denial::KeyUnavailable,
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let limit = matches!(error, TokenError::TooLong { .. }).then_some("limits.token_bytes");
        Self {
            limit,
            ..Self::new(error.denial(), error.to_string())
        }
    }
}
