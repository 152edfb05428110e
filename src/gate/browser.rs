//! The form of a refusal for a browser, and the cookies of an answer.
//!
//! The gate redirects a navigation to the portal's login, and answers a script's request with a problem, never a redirect. A
//! session store that does not answer neither starts a login nor ends a session.

use std::time::Duration;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::path::CanonicalPath;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use tokio::time::timeout;

use super::authenticate::Cookie;
use super::record::Progress;
use super::{Gate, Worker};
use crate::http::answer::{self, AnswerContext};
use crate::http::upstream::Body;
use crate::session::{IdentifiedSession, SessionId};

/// Longest `rd` that a login takes.
const RETURN_BYTES_MAX: usize = 2048;
/// The time that an answer waits for a new session id; the next answer tries again.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn refused(&self, refusal: &Refusal, answer: &AnswerContext, progress: &Progress) -> Response<Body> {
        let mut response = answer::refusal_response(refusal, answer);
        // SECURITY: an answer to a script clears no cookie: a login may have set a new cookie after the script sent its request
        let may_clear = progress.navigation.is_some() || progress.portal.is_none();
        if may_clear && is_stale(refusal) && !matches!(progress.cookie, Cookie::Absent) {
            let cookie = self.gate.sessions.cookies.clear_session();
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        match self.gate.login_location(refusal, progress) {
            Some(location) => redirected(response, location),
            None => response,
        }
    }

    /// Gives the session a new id if one is due, and sets its cookie on the answer.
    pub(super) async fn rotate(&self, response: &mut Response<Body>, cookie: &Cookie) {
        let Cookie::Session(held) = cookie else { return };
        let IdentifiedSession { id, session } = &**held;
        if session.next.is_some() {
            return self.set_cookie_again(response, id);
        }
        if !session.data.rotation_due {
            return;
        }
        let Some(_guard) = self.gate.sessions.in_progress.start(session.version) else {
            return;
        };
        let sessions = &self.gate.sessions;
        match timeout(ROTATE_TIMEOUT, Box::pin(sessions.rotate(id, session))).await {
            Ok(Ok(rotated)) => set_session_cookie(response, sessions.session_cookie(&rotated.id, &rotated.session)),
            Ok(Err(error)) => tracing::debug!(%error, "a session got no new id yet"),
            Err(_elapsed) => tracing::debug!("a session got no new id in time"),
        }
    }
}

impl Worker {
    /// Sets the cookie of the new id again, because the answer that carried it may have been lost.
    fn set_cookie_again(&self, response: &mut Response<Body>, id: &SessionId) {
        // SECURITY: looks the session up again: if the browser logged in or out meanwhile, it must keep its other cookie
        let now = self.gate.sessions.try_find(id).and_then(Result::ok);
        if let Some(session) = now
            && let Some(next) = &session.next
        {
            set_session_cookie(response, self.gate.sessions.session_cookie(next, &session));
        }
    }
}

fn set_session_cookie(response: &mut Response<Body>, cookie: HeaderValue) {
    let headers = response.headers_mut();
    headers.append(SET_COOKIE, cookie);
    // SECURITY: no cache may store an answer that carries a session id
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

impl Gate {
    /// The login URL for a navigation whose request lacks a credential.
    fn login_location(&self, refusal: &Refusal, progress: &Progress) -> Option<HeaderValue> {
        let uri = progress.navigation.as_ref()?;
        let acr = match refusal.denial {
            Denial::TokenMissing | Denial::SessionMissing | Denial::SessionExpired | Denial::SessionRevoked => None,
            // a session of another portal's provider: this portal has a login of its own
            Denial::IssuerUnknown if matches!(progress.cookie, Cookie::Session(_)) => None,
            Denial::StepUpRequired if matches!(progress.cookie, Cookie::Session(_)) => Some(refusal.step_up.as_deref()?),
            _ => return None,
        };
        let portal = progress.portal.as_ref()?;
        let active = progress.active.as_ref()?;
        let login = active.revision.file.login.as_ref();
        if login.is_none() {
            self.config.login.default_of(&portal.config)?;
        }
        let path = progress.record.record.http.as_ref().map(|http| http.path.as_str())?;
        let return_to = match uri.query().filter(|query| can_return(query)) {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let return_to = [return_to.as_str(), path, portal.config.matches.path_prefix.as_str()]
            .into_iter()
            .find(|place| place.len() <= RETURN_BYTES_MAX && is_ordinary(place))?
            .to_owned();
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("portal", &portal.name).append_pair("rd", &return_to);
        if let Some(acr) = acr {
            query.append_pair("acr_values", acr);
        }
        // a step-up is of the same user: the provider of the session, where the user could choose another one
        if let (Denial::StepUpRequired, Cookie::Session(held)) = (refusal.denial, &progress.cookie)
            && let Some(login) = login.filter(|login| login.providers.len() > 1)
            && let Some(provider) = login.providers.iter().find(|one| one.name == held.session.data.provider)
        {
            query.append_pair("provider", &provider.name);
        }
        let location = format!("{}/auth/login?{}", self.config.identity.prefix, query.finish());
        HeaderValue::try_from(location).ok()
    }
}

/// True if the login accepts this return path: a link of any site can name one, so it takes no opaque segments.
fn is_ordinary(place: &str) -> bool {
    let path = place.split('?').next().unwrap_or(place);
    CanonicalPath::parse(path).is_ok()
}

/// True if the login accepts a return path with this query: no controls, encoded or not, and no unsafe characters.
fn can_return(query: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !b"\\#<>\"".contains(&b);
    query.bytes().all(plain) && percent_encoding::percent_decode_str(query).all(|b| b >= b' ' && b != 0x7f)
}

/// True if the session of the cookie is over at every portal.
fn is_stale(refusal: &Refusal) -> bool {
    let over = [Denial::SessionMissing, Denial::SessionExpired, Denial::SessionRevoked];
    over.contains(&refusal.denial) && !refusal.keeps_cookie
}

/// The same answer without a body, as 302.
fn redirected(response: Response<Body>, location: HeaderValue) -> Response<Body> {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::FOUND;
    for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, WWW_AUTHENTICATE] {
        head.headers.remove(name);
    }
    head.headers.insert(LOCATION, location);
    Response::from_parts(head, Body::empty())
}
