//! The session cookie as a credential; `decide` prefers a bearer token to it.
//!
//! A session becomes a caller as a token does. A request without a cookie costs nothing here.

use std::sync::Arc;

use cedargate_policy::denial::Refusal;
use http::HeaderMap;
use http::header::COOKIE;

use super::{ActivePortal, Gate, RequestHead};
use crate::http::request::{needs_evidence, same_origin};
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
        let RequestHead { parts, client, .. } = head;
        if !parts.headers.contains_key(COOKIE) || !self.sessions.cookies.has_session(&parts.headers) {
            return Ok(None);
        }
        *cookie = Cookie::Presented;
        if needs_evidence(parts) {
            let config = &self.config;
            let ours = |origin: &str| config.origin_of(&active_portal.portal.config, &client.host).as_deref() == Some(origin);
            same_origin(&parts.headers, ours)?;
        }
        let Some(presented) = self.presented_session(&parts.headers).await? else {
            return Ok(None);
        };
        let caller = self.session_caller(active_portal, &presented.session);
        *cookie = Cookie::Session(Box::new(presented));
        caller.map(Some)
    }

    /// The session of a request's cookie, its claims renewed if they are due; `None` without a cookie.
    pub async fn presented_session(&self, headers: &HeaderMap) -> Result<Option<IdentifiedSession>, Refusal> {
        self.sessions.present(headers, &self.login, RelyingParty::renew).await
    }
}
