//! `POST auth/logout`: ends the session everywhere, and at the provider.
//!
//! Needs evidence that a page of this origin asked. Without a session there is nothing to end, and the answer is the same. A
//! store that does not answer ends nothing: the browser keeps its cookie and can ask again.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use url::form_urlencoded;

use super::{IdentityDoor, ReturnPath, Visit, form, json as json_answer, see_other};
use crate::audit::Event;
use crate::denial::{Denial, Refusal};
use crate::http::request::same_origin;
use crate::http::upstream::Body;
use crate::login::Reader;
use crate::session::{Session, SessionError};

impl IdentityDoor {
    pub(super) async fn logout(&self, visit: &Visit<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let headers = &visit.head.headers;
        same_origin(headers, self.config.public_url.as_deref())?;
        let return_to = self.logout_target(visit, body).await?;
        let session = match self.sessions.cookies.session(headers) {
            Some(id) => self.living(self.sessions.find(&id).await)?,
            None => None,
        };
        let (mut location, mut everywhere) = (None, true);
        if let Some(session) = &session {
            everywhere = self.end(visit, session).await?;
            let reader = if navigates(headers) { Reader::Browser } else { Reader::Script };
            location = self.login.logout_location(&session.data, reader).await;
        }
        self.forget_loop(visit).await;
        let mut response = match (navigates(headers), location) {
            (true, Some(location)) => see_other(&location)?,
            (true, None) => match &return_to {
                Some(return_to) => see_other(return_to.as_str())?,
                None => self.logged_out_page(visit, everywhere),
            },
            (false, Some(location)) => json_answer(StatusCode::OK, &json!({"location": location})),
            (false, None) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
        };
        if !everywhere && response.status().is_success() {
            *response.status_mut() = StatusCode::ACCEPTED;
        }
        let cookie = self.sessions.cookies.clear_session();
        response.headers_mut().append(SET_COOKIE, cookie);
        Ok(response)
    }

    /// `rd` of the form, or of the query.
    async fn logout_target(&self, visit: &Visit<'_>, body: Incoming) -> Result<Option<ReturnPath>, Refusal> {
        let kind = visit.head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let fields = if kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
            form(visit.head, body).await?
        } else {
            let query = visit.head.uri.query().unwrap_or_default();
            form_urlencoded::parse(query.as_bytes()).into_owned().collect()
        };
        let mut targets = fields.iter().filter(|(name, _)| name == "rd");
        match (targets.next(), targets.next()) {
            (None, _) => Ok(None),
            (Some((_, text)), None) => self.return_path(text).map(Some),
            (Some(_), Some(_)) => Err(Refusal::new(Denial::RequestInvalid, "`rd` is repeated")),
        }
    }

    /// The session if there is one; an error if nobody can tell.
    fn living(&self, found: Result<Arc<Session>, SessionError>) -> Result<Option<Arc<Session>>, Refusal> {
        match found {
            Ok(session) => Ok(Some(session)),
            Err(SessionError::Missing | SessionError::Expired | SessionError::Revoked | SessionError::OtherKey) => Ok(None),
            Err(error @ SessionError::Unavailable(_)) => Err(Refusal::new(Denial::StoreUnavailable, error.to_string())),
        }
    }

    /// Whether every replica knows, or will at once.
    async fn end(&self, visit: &Visit<'_>, session: &Session) -> Result<bool, Refusal> {
        let ended = self.sessions.end(session).await;
        let mut event = self.auth_event(visit, "logout");
        (event.result, event.reason) = match &ended {
            Ok(_) => ("success", "logout"),
            Err(_) => ("failure", "store_unavailable"),
        };
        event.detail = match &ended {
            Ok(ended) => (!ended.everywhere).then(|| "not known everywhere yet".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        event.portal = Some(Arc::from(session.data.portal.as_str()));
        event.provider = Some(Arc::from(session.data.provider.as_str()));
        event.issuer = Some(Arc::from(session.data.issuer.as_str()));
        event.subject = Some(session.data.subject.clone());
        event.tenant = self.tenant_of(&session.data);
        event.session = Some(session.handle.to_hex());
        self.audit.send(Event::Auth(Box::new(event)));
        ended
            .map(|ended| ended.everywhere)
            .map_err(|error| Refusal::new(Denial::StoreUnavailable, error.to_string()))
    }
}

/// Whether a form or link asked, whose answer a browser shows; a script gets JSON.
fn navigates(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => headers
            .get(ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("text/html")),
    }
}
