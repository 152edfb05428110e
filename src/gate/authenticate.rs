//! The credentials besides `Authorization`, which `decide` prefers to them: tokens in other places, the session cookie,
//! the client certificate of the connection.
//!
//! A session and a certificate become a caller as a token does. A request without cookie and certificate costs nothing
//! here.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use http::HeaderMap;
use http::header::COOKIE;

use super::{ActivePortal, Gate, RequestHead};
use crate::http::credentials::{FoundToken, OriginEvidence};
use crate::http::request::{is_from_browser, needs_evidence, same_origin};
use crate::login::RelyingParty;
use crate::portals::{Caller, Portal};
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
    /// The caller of a credential that clients present by themselves: the session cookie, else the certificate.
    pub(super) async fn by_itself(
        &self,
        head: &RequestHead,
        active_portal: ActivePortal<'_>,
        cookie: &mut Cookie,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        match self.by_cookie(head, active_portal, cookie).await? {
            Some(caller) => Ok(Some(caller)),
            None => self.by_certificate(head, active_portal),
        }
    }

    /// The caller of the connection's certificate; `None` without one, and where the portal trusts no issuer of
    /// certificates.
    fn by_certificate(&self, head: &RequestHead, active_portal: ActivePortal<'_>) -> Result<Option<Arc<Caller>>, Refusal> {
        let Some(certificate) = &head.certificate else {
            return Ok(None);
        };
        if active_portal.portal.certificate_issuers.is_empty() {
            return Ok(None);
        }
        // SECURITY: a browser presents its certificate by itself, also for a page of another origin
        if is_from_browser(&head.parts.headers) {
            self.check_origin(head, active_portal)?;
        }
        self.certificate_caller(active_portal, certificate).map(Some)
    }

    /// The caller of the session cookie; `None` without one.
    async fn by_cookie(
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
        let Some(presented) = self.presented_session(active_portal.portal, &parts.headers).await? else {
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
            OriginEvidence::IfFromBrowser => is_from_browser(headers),
            OriginEvidence::NotNeeded => false,
        };
        if must_show {
            self.check_origin(head, active_portal)?;
        }
        let caller = self.caller(active_portal, head.presented(found.token.expose())).await?;
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

    /// The session of the cookie of a request to `portal`, its claims renewed if they are due; `None` without a cookie.
    pub async fn presented_session(&self, portal: &Portal, headers: &HeaderMap) -> Result<Option<IdentifiedSession>, Refusal> {
        let sessions = &self.sessions;
        sessions
            .present_at(&portal.name, headers, &self.login, RelyingParty::renew)
            .await
    }
}
