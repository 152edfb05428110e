//! `POST auth/refresh`: renews the session's claims now.
//!
//! Concurrent requests share one request to the provider. The response is that of `auth/session` after the renewal.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use http::Response;
use http::header::SET_COOKIE;

use super::{EndpointRequest, LoginDoor, session};
use crate::http::upstream::Body;
use crate::session::SessionError;

pub(super) async fn refresh(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    door.check_same_origin(request)?;
    let refuse = |error: SessionError| Refusal::new(Denial::from(&error), error.to_string());
    let id = door.sessions.cookies.session(&request.head.headers);
    let id = id.ok_or_else(|| refuse(SessionError::Missing))?;
    let mut session = door.sessions.find(&id).await.map_err(refuse)?;
    let grant = session.data.grant.as_ref();
    if grant.is_some_and(|grant| grant.refresh_token.is_some()) {
        let login = Arc::clone(&door.login);
        let handle = session.handle;
        let renewed = door
            .sessions
            .refresh(&id, &session, move |data| login.renew(handle, data))
            .await;
        session = renewed.map_err(refuse)?;
    }
    let mut response = session::show(door, request).await?;
    if let Some(next) = &session.next {
        let cookie = door.sessions.session_cookie(next, &session);
        response.headers_mut().append(SET_COOKIE, cookie);
    } else if session.data.rotation_due && !response.headers().contains_key(SET_COOKIE) {
        match door.sessions.rotate(&id, &session).await {
            Ok(rotated) => {
                let cookie = door.sessions.session_cookie(&rotated.id, &rotated.session);
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            // the rotation stays due
            Err(error) => tracing::debug!(%error, "a session got no new id yet"),
        }
    }
    Ok(response)
}
