//! The permit: proof that a decision allowed one request, and the identity that the forwarded request carries.
//!
//! Forwarding consumes a `Permit`. Only this crate can make one, and in it only `decision` does.

use std::sync::Arc;

use http::HeaderValue;
use uuid::Uuid;

/// Proof that a decision allowed this one request; forwarding consumes it.
///
/// SECURITY: `non_exhaustive` keeps every other crate from making one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Permit {
    /// The identity headers of the forwarded request.
    pub forwarded: ForwardedIdentity,
}

/// The identity that a permitted request carries to the app.
#[derive(Clone, Debug)]
pub struct ForwardedIdentity {
    /// Names the decision in the app's logs and in the gate's record.
    pub decision_id: Uuid,
    /// The portal's slug.
    pub portal: HeaderValue,
    /// The revision that decided.
    pub revision: HeaderValue,
    /// `None` on a public path without a credential.
    pub caller: Option<Arc<CallerHeaders>>,
    /// The signed assertion; empty without a caller.
    pub assertion: HeaderValue,
    /// `Authorization` in the place of the client's own; `None`: the gate has no token for the app.
    pub authorization: Option<HeaderValue>,
}

/// The caller's identity for the app: values already encoded for headers.
#[derive(Clone, Debug)]
pub struct CallerHeaders {
    /// Id of the principal.
    pub user: HeaderValue,
    /// Claim `email`, or the one that `portal.yaml` maps to it; empty if unknown.
    pub email: HeaderValue,
    /// Claim `groups`; the roles if the caller has no groups.
    pub groups: HeaderValue,
    /// Claim `preferred_username`; empty if unknown.
    pub preferred_username: HeaderValue,
    /// The credential's tenant; empty if it has none.
    pub tenant: HeaderValue,
    /// Roles, comma-separated.
    pub roles: HeaderValue,
    /// The provider's access token, for an app that calls the provider's APIs; usually `None`.
    pub access_token: Option<HeaderValue>,
}

impl Permit {
    pub(crate) fn new(forwarded: ForwardedIdentity) -> Self {
        Self { forwarded }
    }
}
