//! The credentials besides `Authorization`, which `decide` prefers to them: the session cookie, and tokens in other places.
//!
//! A session becomes a caller as a token does. A request without a cookie costs nothing here.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use http::HeaderMap;
use http::header::{COOKIE, ORIGIN};

use super::{ActivePortal, Gate, RequestHead};
use crate::http::credentials::{FoundToken, OriginEvidence};
use crate::http::request::{SEC_FETCH_SITE, needs_evidence, same_origin};
use crate::login::RelyingParty;
use crate::portals::Caller;
use crate::session::IdentifiedSession;

/// The state of a request's session cookie.
#[derive(Default)]
pub(super) enum Cookie {
    /// The request has none, or the gate did not look at it.
    #[default]
    Absent,
    /// The request has one; its session is not found yet.
    Presented,
    Session(Box<IdentifiedSession>),
}

impl Gate {
    /// The caller of the session cookie; `None` without one.
    pub(super) async fn by_cookie(
        &self,
        head: &RequestHead,
        active_portal: ActivePortal<'_>,
        cookie: &mut Cookie,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        let parts = &head.parts;
        if !parts.headers.contains_key(COOKIE) || !self.sessions.cookies.has_session(&parts.headers) {
            return Ok(None);
        }
        *cookie = Cookie::Presented;
        self.check_origin(head, active_portal)?;
        let Some(presented) = self.presented_session(&parts.headers).await? else {
            return Ok(None);
        };
        let caller = self.session_caller(active_portal, &presented.session);
        *cookie = Cookie::Session(Box::new(presented));
        caller.map(Some)
    }

    /// The caller of a token outside `Authorization`.
    pub(super) async fn by_found_token(
        &self,
        head: &RequestHead,
        active_portal: ActivePortal<'_>,
        found: &FoundToken,
    ) -> Result<Arc<Caller>, Refusal> {
        let headers = &head.parts.headers;
        let must_show = match found.origin {
            OriginEvidence::AsForCookies => true,
            OriginEvidence::IfFromBrowser => headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE),
            OriginEvidence::NotNeeded => false,
        };
        if must_show {
            self.check_origin(head, active_portal)?;
        }
        let caller = self.caller(active_portal, found.token.expose()).await?;
        // every issuer of the portal may use `Authorization`, but only some of them this place
        let mut allowed = found.issuers.iter().filter_map(|index| self.config.issuers.get(*index));
        if !allowed.any(|issuer| issuer.scope.name == caller.proven.identity.issuer) {
            let detail = "the token's issuer has no tokens in that place (issuers[].token_from)";
            return Err(Refusal::new(Denial::IssuerUnknown, detail));
        }
        Ok(caller)
    }

    /// Checks that a page of the portal's own origin made a request that changes something or opens a tunnel.
    fn check_origin(&self, head: &RequestHead, active_portal: ActivePortal<'_>) -> Result<(), Refusal> {
        if !needs_evidence(&head.parts) {
            return Ok(());
        }
        let portal = &active_portal.portal.config;
        let ours = |origin: &str| self.config.origin_of(portal, &head.client.host).as_deref() == Some(origin);
        same_origin(&head.parts.headers, ours)
    }

    /// The session of a request's cookie, its claims renewed if they are due; `None` without a cookie.
    pub async fn presented_session(&self, headers: &HeaderMap) -> Result<Option<IdentifiedSession>, Refusal> {
        self.sessions.present(headers, &self.login, RelyingParty::renew).await
    }
}
