//! The credentials of a request to an endpoint: bearer token, session cookie, client certificate, login cookie.
//!
//! As on the path of every request, a token goes before the session cookie and the cookie before the certificate of the
//! connection, and a token that is bound to a client certificate or to a key counts only with it.

use std::sync::Arc;

use cedargate_policy::claims::Possession;
use cedargate_policy::claims::login_identity;
use cedargate_policy::decision::check_tenant;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::{Identity, Redacted};

use super::{EndpointRequest, LoginDoor};
use crate::authn::certificate::possession;
use crate::authn::{PresentedToken, ProofTarget, Proofs};
use crate::http::client_certificate::ClientCertificate;
use crate::http::credentials::{Authorization, foreign_scheme};
use crate::http::request::{AskedUrl, is_from_browser};
use crate::login::{BrowserSecret, RelyingParty};
use crate::portals::Portal;
use crate::session::{Revocable, Session, SessionError, StoreError};

/// The credential of the caller. The session is verified; the token is not yet.
pub(super) enum CallerCredential<'a> {
    Bearer(&'a str),
    /// A token that comes with a DPoP proof.
    WithProof(&'a str),
    Session(Arc<Session>),
    /// The certificate of the connection; a portal says which issuers of certificates it trusts.
    Certificate(&'a Arc<ClientCertificate>),
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
        match (presented, request.certificate, authorization) {
            (Some(presented), _, _) => Ok(Self::Session(presented.session)),
            (None, Some(certificate), _) => Ok(Self::Certificate(certificate)),
            (None, None, Authorization::Foreign) => Err(foreign_scheme()),
            (None, None, Authorization::Absent | Authorization::Bearer(_) | Authorization::Dpop(_)) => Err(no_credential()),
        }
    }

    /// Refuses a request that another site's page may have made a browser send, if the browser presents the credential
    /// by itself.
    pub fn check_origin(&self, door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<(), Refusal> {
        match self {
            Self::Session(_) => door.check_same_origin(request),
            Self::Certificate(_) if is_from_browser(&request.head.headers) => door.check_same_origin(request),
            Self::Bearer(_) | Self::WithProof(_) | Self::Certificate(_) => Ok(()),
        }
    }

    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::Bearer(_) | Self::WithProof(_) | Self::Certificate(_) => None,
            Self::Session(session) => Some(session),
        }
    }

    /// The part of the caller that a revocation can name; `identity` is that of the credential.
    pub fn revocable<'b>(&'b self, identity: &'b Identity) -> Revocable<'b> {
        self.session().map_or(Revocable::Identity(identity), Revocable::Session)
    }

    /// Checks again, without waiting, a credential that gave this identity: neither it nor the caller was revoked
    /// meanwhile.
    pub fn check_again(&self, door: &LoginDoor, portal: &Portal, identity: &Identity) -> Result<(), Refusal> {
        if let Self::Certificate(certificate) = self {
            portal.certificate_trust(&door.config).check(certificate, &identity.issuer)?;
        }
        Ok(door.sessions.check_caller(self.revocable(identity), &portal.name)?)
    }

    /// Verifies the credential for a portal; returns the caller's identity there.
    pub async fn identity(&self, door: &LoginDoor, request: &EndpointRequest<'_>, portal: &Portal) -> Result<Identity, Refusal> {
        let identity = match self {
            Self::Bearer(token) => {
                let possession = possession(request.certificate);
                verify(door, portal, PresentedToken { token, possession }).await?
            }
            Self::WithProof(token) => by_proof(door, request, portal, token).await?,
            Self::Session(session) => login_identity(&portal.scope, &session.login_claims())?,
            // as on the path of every request, a certificate means nothing where the portal trusts no issuer of
            // certificates
            Self::Certificate(_) if portal.certificate_issuers.is_empty() => return Err(no_credential()),
            Self::Certificate(certificate) => portal.certificate_trust(&door.config).identity(certificate)?,
        };
        door.sessions.check_caller(self.revocable(&identity), &portal.name)?;
        // a host of the portal names the tenant, as for the requests that the portal decides; another host names none
        let host = Some(&*request.client.host).filter(|host| portal.is_at(host));
        check_tenant(portal.scope.tenant.of_request(host), identity.tenant.as_deref())?;
        Ok(identity)
    }
}

fn no_credential() -> Refusal {
    Refusal::new(
        Denial::TokenMissing,
        "neither a token nor a session, nor a client certificate of an issuer of the portal",
    )
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
        ..possession(request.certificate)
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

/// The session of the browser's cookie, without renewing it. `None` without a usable session; an error if the store
/// does not tell.
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
