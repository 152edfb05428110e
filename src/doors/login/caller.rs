//! The credentials of a request to an endpoint: bearer token, session cookie, login cookie.
//!
//! As on the path of every request, a bearer token goes before the session cookie.

use std::sync::Arc;

use cedargate_policy::claims::login_identity;
use cedargate_policy::decision::check_tenant;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::{Identity, Redacted};

use super::{EndpointRequest, LoginDoor};
use crate::authn::PresentedToken;
use crate::http::credentials::{Authorization, foreign_scheme, no_proofs_here};
use crate::login::{BrowserSecret, RelyingParty};
use crate::portals::Portal;
use crate::session::{Revocable, Session, SessionError, StoreError};

/// The credential of the caller. The session is verified; the token is not yet.
pub(super) enum CallerCredential<'a> {
    Bearer(&'a str),
    Session(Arc<Session>),
}

impl<'a> CallerCredential<'a> {
    /// # Errors
    /// `token_missing` without token and session; else the fault of the credential.
    pub async fn of(door: &LoginDoor, request: &EndpointRequest<'a>) -> Result<Self, Refusal> {
        let headers = &request.head.headers;
        let authorization = Authorization::of(headers)?;
        if let Authorization::Dpop(_) = authorization {
            return Err(no_proofs_here());
        }
        if let Authorization::Bearer(token) = authorization {
            return Ok(Self::Bearer(token));
        }
        let presented = door.sessions.present(headers, &door.login, RelyingParty::renew).await?;
        let presented = presented.ok_or_else(|| match authorization {
            Authorization::Foreign => foreign_scheme(),
            Authorization::Absent | Authorization::Bearer(_) | Authorization::Dpop(_) => {
                Refusal::new(Denial::TokenMissing, "neither a token nor a session")
            }
        })?;
        Ok(Self::Session(presented.session))
    }

    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::Bearer(_) => None,
            Self::Session(session) => Some(session),
        }
    }

    /// The part of the caller that a revocation can name; `identity` is that of the credential.
    pub fn revocable<'b>(&'b self, identity: &'b Identity) -> Revocable<'b> {
        self.session().map_or(Revocable::Identity(identity), Revocable::Session)
    }

    /// Verifies the credential for a portal; returns the caller's identity there.
    pub async fn identity(&self, door: &LoginDoor, request: &EndpointRequest<'_>, portal: &Portal) -> Result<Identity, Refusal> {
        let identity = match self {
            Self::Bearer(token) => {
                let presented = PresentedToken::bearer(token);
                let verified = door
                    .introspection
                    .verify(&door.authn, presented, &portal.config.issuers)
                    .await?;
                verified.identity
            }
            Self::Session(session) => login_identity(&portal.scope, &session.login_claims())?,
        };
        door.sessions.check_caller(self.revocable(&identity), &portal.name)?;
        // a host of the portal names the tenant, as for the requests that the portal decides; another host names none
        let host = Some(&*request.client.host).filter(|host| portal.is_at(host));
        check_tenant(portal.scope.tenant.of_request(host), identity.tenant.as_deref())?;
        Ok(identity)
    }
}

/// The principal's id as policies and the app see it: the subject with the portal's prefix for the issuer.
pub(super) fn principal_id(portal: &Portal, identity: &Identity) -> Result<String, Refusal> {
    Ok(portal.scope.subject(identity)?)
}

/// The session of the browser's cookie, without renewing it. `None` without a usable session; an error if the store does not
/// tell.
pub(super) async fn current_session(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Option<Arc<Session>>, StoreError> {
    let Some(id) = door.sessions.cookies.session(&request.head.headers) else {
        return Ok(None);
    };
    match door.sessions.find(&id).await {
        Ok(session) => Ok(Some(session)),
        Err(SessionError::Missing | SessionError::Expired | SessionError::Revoked | SessionError::OtherKey) => Ok(None),
        Err(SessionError::Unavailable(error)) => Err(error),
    }
}

/// The secret of the browser's login cookie; a new one if it has none.
pub(super) fn browser_secret(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<BrowserSecret, Refusal> {
    if let Some(secret) = door.sessions.cookies.login(&request.head.headers) {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret)
        .map_err(|_unspecified| Refusal::new(Denial::StoreUnavailable, "the random number generator failed"))?;
    Ok(Redacted::new(secret))
}
