//! The identity that a session gives its user at one portal.
//!
//! The gate and the endpoints under `auth/` use it. It says nothing about revocations; its callers check those.

use crate::authn::{self, Login};
use crate::denial::{Denial, Refusal};
use crate::portals::Portal;
use crate::session::Session;
use crate::types::Identity;

/// The identity of a session at a portal. Refused if the account may not use the portal, or if the portal does not trust the
/// issuer of the login.
pub fn session_identity(portal: &Portal, session: &Session) -> Result<Identity, Refusal> {
    let data = &session.data;
    if data
        .portals
        .as_ref()
        .is_some_and(|all| all.iter().all(|own| **own != *portal.name))
    {
        let detail = "the account may not use this portal (`portals` in the users file)";
        return Err(Refusal::new(Denial::NotPermitted, detail));
    }
    let login = Login {
        claims: &data.claims,
        subject: &data.subject,
        began_at: data.created_at / 1000,
        expires_at: session.expires_at,
    };
    Ok(authn::session_identity(&portal.issuers, &data.issuer, &login)?)
}
