//! The credentials of a request to an endpoint: bearer token, session cookie, login cookie.
//!
//! As on the path of every request, a token goes before the session cookie, and a token that is bound to a client certificate or
//! to a key counts only with it.

use std::sync::Arc;

use cedargate_policy::claims::Possession;
use cedargate_policy::claims::login_identity;
use cedargate_policy::decision::check_tenant;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::{Identity, Redacted};

use super::{EndpointRequest, LoginDoor};
use crate::authn::{PresentedToken, ProofTarget, Proofs};
use crate::http::credentials::{Authorization, foreign_scheme};
use crate::http::request::AskedUrl;
use crate::login::{BrowserSecret, RelyingParty};
use crate::portals::Portal;
use crate::session::{Revocable, Session, SessionError, StoreError};

/// The credential of the caller. The session is verified; the token is not yet.
pub(super) enum CallerCredential<'a> {
    Bearer(&'a str),
    /// A token that comes with a DPoP proof.
    WithProof(&'a str),
    Session(Arc<Session>),
}

impl<'a> CallerCredential<'a> {
    /// # Errors
    /// `token_missing` without token and session; else the fault of the credential.
    pub async fn of(door: &LoginDoor, request: &EndpointRequest<'a>) -> Result<Self, Refusal> {
        let headers = &request.head.headers;
        let authorization = Authorization::of(headers)?;
        match authorization {
            Authorization::Bearer(token) => return Ok(Self::Bearer(token)),
            Authorization::Dpop(token) => return Ok(Self::WithProof(token)),
            Authorization::Absent | Authorization::Foreign => {}
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
            Self::Bearer(_) | Self::WithProof(_) => None,
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
                let possession = request.possession;
                verify(door, portal, PresentedToken { token, possession }).await?
            }
            Self::WithProof(token) => by_proof(door, request, portal, token).await?,
            Self::Session(session) => login_identity(&portal.scope, &session.login_claims())?,
        };
        door.sessions.check_caller(self.revocable(&identity), &portal.name)?;
        // a host of the portal names the tenant, as for the requests that the portal decides; another host names none
        let host = Some(&*request.client.host).filter(|host| portal.is_at(host));
        check_tenant(portal.scope.tenant.of_request(host), identity.tenant.as_deref())?;
        Ok(identity)
    }
}

async fn verify(door: &LoginDoor, portal: &Portal, presented: PresentedToken<'_>) -> Result<Identity, Refusal> {
    let issuers = &portal.config.issuers;
    let verified = door.introspection.verify(&door.authn, presented, issuers).await?;
    Ok(verified.identity)
}

/// The proof by itself, then the token with the proof's key, then whether the proof may still count.
async fn by_proof(door: &LoginDoor, request: &EndpointRequest<'_>, portal: &Portal, token: &str) -> Result<Identity, Refusal> {
    let asked = AskedUrl::of(request.head, request.client);
    let target = ProofTarget {
        method: request.head.method.as_str(),
        is_url: &|url| asked.is(url, &door.config, &portal.config),
        token,
    };
    let proof = Proofs::read(&request.head.headers, &target)?;
    let possession = Possession {
        key: Some(proof.key),
        ..request.possession
    };
    let identity = verify(door, portal, PresentedToken { token, possession }).await;
    let identity = identity.map_err(Proofs::bad_token)?;
    let next = door.proofs.admit(&proof, token, &identity.issuer).await?;
    request.next_nonce.set(next);
    Ok(identity)
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
