//! Which credential of a request counts: a bearer token before the session cookie before nothing.
//!
//! A session becomes a caller as a token does (`session::present` finds it). Nothing of it costs a request without a
//! cookie.

use std::sync::Arc;

use http::HeaderMap;
use http::header::COOKIE;
use http::request::Parts;

use super::Gate;
use crate::denial::Refusal;
use crate::http::request::{needs_evidence, same_origin};
use crate::login::Login;
use crate::portals::{Active, Caller, Portal};
use crate::session::IdentifiedSession;

/// What a request's cookie came to.
#[derive(Default)]
pub(super) enum Cookie {
    /// There is none, or it was not looked at.
    #[default]
    Absent,
    /// There is one, and no session yet.
    Presented,
    Session(Box<IdentifiedSession>),
}

impl Gate {
    /// Who calls, as the session cookie says; `None` without one.
    pub(super) async fn by_cookie(
        &self,
        head: &Parts,
        (portal, active): (&Portal, &Active),
        cookie: &mut Cookie,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        if !head.headers.contains_key(COOKIE) || !self.sessions.cookies.has_session(&head.headers) {
            return Ok(None);
        }
        *cookie = Cookie::Presented;
        if needs_evidence(head) {
            same_origin(&head.headers, self.config.public_url.as_deref())?;
        }
        let Some(presented) = self.presented_session(&head.headers).await? else {
            return Ok(None);
        };
        let caller = self.session_caller(portal, active, &presented.session);
        *cookie = Cookie::Session(Box::new(presented));
        caller.map(Some)
    }

    /// The session of a request's cookie, its claims renewed if they are due; `None` without a cookie.
    pub async fn presented_session(&self, headers: &HeaderMap) -> Result<Option<IdentifiedSession>, Refusal> {
        self.sessions.present(headers, &self.login, Login::renew).await
    }
}
