//! `POST auth/refresh`: renews the session.
//!
//! However many ask, the provider is asked once. The answer is what `auth/session` says afterwards.

use std::sync::Arc;

use http::Response;
use http::header::SET_COOKIE;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::http::request::same_origin;
use crate::http::upstream::Body;
use crate::session::SessionError;

impl IdentityDoor {
    pub(super) async fn refresh(&self, visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        let headers = &visit.head.headers;
        same_origin(headers, self.config.public_url.as_deref())?;
        let refuse = |error: SessionError| Refusal::new(Denial::from(&error), error.to_string());
        let id = self.sessions.cookies.session(headers);
        let id = id.ok_or_else(|| refuse(SessionError::Missing))?;
        let mut session = self.sessions.find(&id).await.map_err(refuse)?;
        let grant = session.data.grant.as_ref();
        if grant.is_some_and(|grant| grant.refresh_token.is_some()) {
            let (login, handle) = (Arc::clone(&self.login), session.handle);
            let renewed = self
                .sessions
                .refresh(&id, &session, move |data| login.renew(handle, data))
                .await;
            session = renewed.map_err(refuse)?;
        }
        let mut response = self.who_am_i(visit).await?;
        if let Some(next) = &session.next {
            let cookie = self.sessions.cookies.set_session(next);
            response.headers_mut().append(SET_COOKIE, cookie);
        } else if session.data.rotation_due && !response.headers().contains_key(SET_COOKIE) {
            match self.sessions.rotate(&id, &session).await {
                Ok(rotated) => {
                    let cookie = self.sessions.cookies.set_session(&rotated.id);
                    response.headers_mut().append(SET_COOKIE, cookie);
                }
                // it stays due
                Err(error) => tracing::debug!(%error, "a session got no new id yet"),
            }
        }
        Ok(response)
    }
}
