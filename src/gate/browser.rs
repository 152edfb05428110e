//! The form of a refusal for a browser, and the cookies of an answer.
//!
//! The gate redirects a navigation to the portal's login, and answers a script's request with a problem, never a
//! redirect. A session store that does not answer neither starts a login nor ends a session.

use std::time::Duration;

use cedargate_policy::denial::{Denial, Refusal};
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use tokio::time::timeout;
use url::form_urlencoded::Serializer;

use super::authenticate::Cookie;
use super::record::{Progress, Visit};
use super::{Gate, Worker};
use crate::doors::login::{ReturnPath, ReturnRules};
use crate::http::answer::{self, AnswerContext, PageLinks};
use crate::http::pages::PageUser;
use crate::http::upstream::Body;
use crate::portals::Portal;
use crate::session::{IdentifiedSession, SessionId};

/// The time that an answer waits for a new session id; the next answer tries again.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(2);

impl Gate {
    /// The answer to a refused request: a problem, a page, or a redirect.
    pub(super) fn refused(&self, refusal: &Refusal, answer: &AnswerContext, progress: &Progress) -> Response<Body> {
        let mut response = answer::refusal_response(refusal, answer);
        // SECURITY: an answer to a script clears no cookie: a login may have set a new cookie after the script sent its
        // request
        let may_clear = progress.navigation().is_some() || progress.portal.is_none();
        if may_clear && is_stale(refusal) && !matches!(progress.cookie, Cookie::Absent) {
            let cookie = self.sessions.cookies.clear_session();
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        match self.way_on(refusal, progress) {
            Some(location) => redirected(response, location),
            None => response,
        }
    }
}

impl Worker {
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
        // SECURITY: looks the session up again: if the browser logged in or out meanwhile, it must keep its other
        // cookie
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
    /// The facts of a navigation, before its head is checked.
    pub(super) fn visit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Box<Visit> {
        let cookies = &self.sessions.cookies;
        Box::new(Visit {
            target: (*method == Method::GET).then(|| uri.clone()),
            host: String::new(),
            is_after_logout: cookies.is_after_logout(headers),
            logins: cookies.logins(headers),
            is_let_in: false,
        })
    }

    /// Removes the count of logins that did not help: this one did.
    pub(super) fn forget_logins(&self, response: &mut Response<Body>, progress: &Progress) {
        if progress
            .visit
            .as_ref()
            .is_some_and(|visit| visit.is_let_in && visit.logins > 0)
        {
            response
                .headers_mut()
                .append(SET_COOKIE, self.sessions.cookies.clear_logins());
        }
    }

    /// The redirect of a navigation that another page helps on: the confirmation of a logout, or the portal's login.
    fn way_on(&self, refusal: &Refusal, progress: &Progress) -> Option<HeaderValue> {
        progress.navigation()?;
        // a provider's logout ends at `/`, which may be a portal's
        let is_after_logout = progress.visit.as_ref().is_some_and(|visit| visit.is_after_logout);
        let location = if is_after_logout && lacks_session(refusal) && path_of(progress) == Some("/") {
            format!("{}/auth/logged-out", self.config.identity.prefix)
        } else {
            self.login_location(refusal, progress)?
        };
        HeaderValue::try_from(location).ok()
    }

    /// The login URL for a navigation whose request lacks a credential.
    fn login_location(&self, refusal: &Refusal, progress: &Progress) -> Option<String> {
        let acr = match refusal.denial {
            _ if lacks_session(refusal) => None,
            // a session of another portal's provider: this portal has a login of its own
            Denial::IssuerUnknown if matches!(progress.cookie, Cookie::Session(_)) => None,
            Denial::StepUpRequired if matches!(progress.cookie, Cookie::Session(_)) => Some(refusal.step_up.as_deref()?),
            _ => return None,
        };
        let portal = progress.portal.as_ref().filter(|portal| portal.has_login(&self.config))?;
        let login = self
            .return_path(progress)?
            .login_at(&portal.name, &self.config.identity.prefix);
        let Some(acr) = acr else {
            return Some(login);
        };
        let mut query = Serializer::new(String::new());
        query.append_pair("acr_values", acr);
        if let Some(provider) = provider_of_step_up(portal, progress) {
            query.append_pair("provider", &provider);
        }
        Some(format!("{login}&{}", query.finish()))
    }

    /// The path to which a login returns: that of the navigation, or the portal's prefix after a form.
    fn return_path(&self, progress: &Progress) -> Option<ReturnPath> {
        let portal = progress.portal.as_ref()?;
        let entry = &portal.config.matches.path_prefix;
        let rules = ReturnRules::of(&self.config);
        match progress.navigation() {
            Some(uri) => ReturnPath::of_navigation(path_of(progress)?, uri.query(), entry, rules),
            None => ReturnPath::of_navigation(entry, None, entry, rules),
        }
    }

    /// The links of the page of a refusal; `None` if no person sees it.
    pub(super) fn page_links(&self, progress: &Progress) -> Option<Box<PageLinks>> {
        let visit = progress.visit.as_ref()?;
        let prefix = &self.config.identity.prefix;
        let mut ways = PageLinks {
            chooser: self.has_chooser(&visit.host).then(|| format!("{prefix}/portals/")),
            ..PageLinks::default()
        };
        let Some(portal) = &progress.portal else {
            return Some(Box::new(ways));
        };
        ways.portal = Some(portal.title());
        let return_to = self.return_path(progress).filter(|_| portal.has_login(&self.config));
        let login = |return_to: &ReturnPath| return_to.login_at(&portal.name, prefix);
        ways.login = return_to.as_ref().map(login);
        if let Cookie::Session(held) = &progress.cookie {
            let user = portal.user_of(&held.session);
            let other_account = return_to
                .as_ref()
                .map(|return_to| return_to.login_as_another(&portal.name, prefix));
            ways.user = Some(PageUser {
                name: user.name,
                detail: user.detail,
                logout: format!("{prefix}/auth/logout"),
                other_account,
            });
        }
        Some(Box::new(ways))
    }

    /// True if the chooser of a host has a portal.
    pub(super) fn has_chooser(&self, host: &str) -> bool {
        let registry = self.portals.load();
        let mut portals = registry.portals.iter();
        portals.any(|portal| portal.is_at(host) && portal.has_login(&self.config))
    }
}

/// A step-up is of the same user: the provider of the session, where the user could choose another one.
fn provider_of_step_up(portal: &Portal, progress: &Progress) -> Option<String> {
    let Cookie::Session(held) = &progress.cookie else {
        return None;
    };
    let active = portal.active.load();
    let login = active
        .as_ref()?
        .revision
        .file
        .login
        .as_ref()
        .filter(|login| login.providers.len() > 1)?;
    let provider = login.providers.iter().find(|one| one.name == held.session.data.provider);
    provider.map(|provider| provider.name.clone())
}

/// The canonical path, or the one that was sent if it has no canonical form.
fn path_of(progress: &Progress) -> Option<&str> {
    progress.record.record.http.as_ref().map(|http| http.path.as_str())
}

/// True if the request has no usable session and no token.
fn lacks_session(refusal: &Refusal) -> bool {
    matches!(
        refusal.denial,
        Denial::TokenMissing | Denial::SessionMissing | Denial::SessionExpired | Denial::SessionRevoked
    )
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
