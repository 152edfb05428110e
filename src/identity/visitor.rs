//! Who visits an endpoint: a bearer token before the session cookie, as on the path of every request.

use std::sync::Arc;

use super::{IdentityDoor, Visit};
use crate::authn::{self, Login, bearer};
use crate::denial::{Denial, Refusal};
use crate::serving::Portal;
use crate::session::Session;
use crate::types::Identity;

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
        let cookies = &self.sessions.cookies;
        if !cookies.has_session(headers) {
            return Err(Refusal::new(Denial::TokenMissing, "neither a token nor a session"));
        }
        let id = cookies.session(headers).ok_or(Denial::SessionMissing)?;
        let found = match self.sessions.try_find(&id) {
            Some(found) => found,
            None => self.sessions.find(&id).await,
        };
        let session = found.map_err(|error| Refusal::new(Denial::from(&error), error.to_string()))?;
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
                let data = &session.data;
                let login = Login {
                    claims: &data.claims,
                    subject: &data.subject,
                    began_at: data.created_at / 1000,
                    expires_at: session.expires_at,
                };
                authn::session_identity(&portal.issuers, &data.issuer, &login)?
            }
        };
        match (portal.config.tenant.fixed(), identity.tenant.as_deref()) {
            (Some(own), Some(tenant)) if own != tenant => Err(Refusal::new(
                Denial::TenantMismatch,
                format!("the portal is of tenant `{own}`, the caller of `{tenant}`"),
            )),
            _ => Ok(identity),
        }
    }
}

/// A portal by its slug.
pub(super) fn portal_named(visit: &Visit<'_>, slug: &str) -> Result<Arc<Portal>, Refusal> {
    let found = visit.serving.named(slug).cloned();
    found.ok_or_else(|| Refusal::new(Denial::PortalUnknown, "there is no portal of this name"))
}
