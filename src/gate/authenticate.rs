//! The session cookie as a credential; `decide` prefers a bearer token to it.
//!
//! A session becomes a caller as a token does. A request without a cookie costs nothing here.

use std::sync::Arc;

use http::header::COOKIE;
use http::request::Parts;

use super::{ActivePortal, Gate};
use crate::denial::Refusal;
use crate::http::request::{needs_evidence, same_origin};
use crate::portals::Caller;
use crate::session::{Session, SessionId};

/// The state of a request's session cookie.
#[derive(Default)]
pub(super) enum Cookie {
    /// The request has none, or the gate did not look at it.
    #[default]
    Absent,
    /// The request has one; its session is not found yet.
    Presented,
    Session(Box<(SessionId, Arc<Session>)>),
}

impl Gate {
    /// The caller of the session cookie; `None` without one.
    pub(super) async fn by_cookie(
        &self,
        head: &Parts,
        scope: ActivePortal<'_>,
        cookie: &mut Cookie,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        if !head.headers.contains_key(COOKIE) || !self.sessions.cookies.has_session(&head.headers) {
            return Ok(None);
        }
        *cookie = Cookie::Presented;
        if needs_evidence(head) {
            same_origin(&head.headers, self.config.public_url.as_deref())?;
        }
        let Some((id, session)) = self.identity.session(&head.headers).await? else {
            return Ok(None);
        };
        let caller = self.session_caller(scope, &session);
        *cookie = Cookie::Session(Box::new((id, session)));
        caller.map(Some)
    }
}
