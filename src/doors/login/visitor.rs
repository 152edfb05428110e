//! Who visits an endpoint: a bearer token before the session cookie, as on the path of every request.

use std::sync::Arc;

use super::{IdentityDoor, Visit, session_identity};
use crate::authn::bearer;
use crate::denial::{Denial, Refusal};
use crate::portals::Portal;
use crate::session::Session;
use crate::types::Identity;
use cedargate_policy::decision::check_tenant;

/// What a visitor came with; nothing is proven yet but the session.
pub(super) enum Visitor<'a> {
    Bearer(&'a str),
    Session(Arc<Session>),
}

impl IdentityDoor {
    /// # Errors
    /// `token_missing` where there is neither, or whatever is wrong with what there is.
    pub(super) async fn visitor<'a>(&self, visit: &Visit<'a>) -> Result<Visitor<'a>, Refusal> {
        let headers = &visit.head.headers;
        if let Some(token) = bearer(headers)? {
            return Ok(Visitor::Bearer(token));
        }
        let found = self.session(headers).await?;
        let (_, session) = found.ok_or_else(|| Refusal::new(Denial::TokenMissing, "neither a token nor a session"))?;
        Ok(Visitor::Session(session))
    }

    /// Who that is at a portal, if the portal trusts who vouches.
    pub(super) async fn identity(&self, visitor: &Visitor<'_>, portal: &Portal) -> Result<Identity, Refusal> {
        let identity = match visitor {
            Visitor::Bearer(token) => {
                let (identity, _) = self.introspection.proven(&self.authn, token, &portal.config.issuers).await?;
                self.sessions.check_identity(&identity, &portal.name)?;
                identity
            }
            Visitor::Session(session) => {
                if self.sessions.is_revoked(session, &portal.name) {
                    return Err(Denial::SessionRevoked.into());
                }
                session_identity(portal, session)?
            }
        };
        check_tenant(portal.scope.tenant.of_request(None), identity.tenant.as_deref())?;
        Ok(identity)
    }
}

/// What the policies and the app call somebody: with the portal's prefix for the issuer.
pub(super) fn principal_id(portal: &Portal, identity: &Identity) -> String {
    portal.scope.subject(identity)
}

/// A portal by its slug.
pub(super) fn portal_named(visit: &Visit<'_>, slug: &str) -> Result<Arc<Portal>, Refusal> {
    let found = visit.serving.named(slug).cloned();
    found.ok_or_else(|| Refusal::new(Denial::PortalUnknown, "there is no portal of this name"))
}
