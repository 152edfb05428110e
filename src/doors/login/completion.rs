//! The end of a login, of an OIDC provider or a local account: a new session, or the page that explains the failure.
//!
//! Each end writes one audit event and counts once. A new session replaces the browser's former session, whose id stops
//! working.

use cedargate_policy::denial::{Denial, Refusal};
use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderValue, Response, StatusCode};

use super::caller::current_session;
use super::record::{LoginAttempt, record_failure, record_success};
use super::{EndpointRequest, LoginDoor, ReturnPath, login_loop};
use crate::audit::LoginCode;
use crate::http::pages::PageUser;
use crate::http::upstream::Body;
use crate::login::LoginFailure;
use crate::portals::Portal;
use crate::session::{IdentifiedSession, SessionData};

/// Begins the session of a login, ends the browser's former session, and redirects to the return path.
pub(super) async fn establish(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    data: SessionData,
    return_to: &ReturnPath,
) -> Result<Response<Body>, LoginFailure> {
    let created = door.sessions.create(data).await;
    let IdentifiedSession { id, session } = created.map_err(|error| LoginFailure::store_unavailable(&error))?;
    end_former_session(door, request).await;
    record_success(door, request, &session);
    let mut response = if return_to.is_cut {
        door.pages(request).logged_in(return_to.as_str())
    } else {
        see_other(return_to.as_str()).map_err(|refusal| LoginFailure::new(LoginCode::LoginInvalid, refusal.detail))?
    };
    response.headers_mut().append(SET_COOKIE, login_loop::count(door, request));
    let cookie = door.sessions.session_cookie(&id, &session);
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

/// Records the failure and explains it on a page. The page names the user of a session that the browser has, if another
/// account may help.
pub(super) async fn login_failed(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    failure: &LoginFailure,
    attempt: LoginAttempt<'_>,
) -> Response<Body> {
    record_failure(door, request, failure, attempt);
    let context = failure.context.as_deref();
    let return_to = attempt.return_to.or(context.map(|context| context.return_to.as_str()));
    let mut page = door.pages(request);
    let portal = attempt.portal.or(context.map(|context| context.portal.as_str()));
    let portal = portal.and_then(|slug| request.portals.named(slug));
    page.portal = portal.map(|portal| portal.title());
    let user = match portal {
        Some(portal) if may_need_another_account(failure.code) => page_user(door, request, portal, return_to).await,
        _ => None,
    };
    page.failure(failure, return_to, user.as_ref())
}

const fn may_need_another_account(code: LoginCode) -> bool {
    matches!(code, LoginCode::LoginLoop | LoginCode::StepUpFailed | LoginCode::LoginDenied)
}

/// The user of the browser's session, for a page about `portal`.
async fn page_user(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    portal: &Portal,
    return_to: Option<&str>,
) -> Option<PageUser> {
    let session = current_session(door, request).await.ok().flatten()?;
    let user = portal.user_of(&session);
    let return_to = door
        .own_return_path(return_to.unwrap_or(&portal.config.matches.path_prefix))
        .ok()?;
    Some(PageUser {
        name: user.name,
        detail: user.detail,
        logout: format!("{}/auth/logout", door.config.identity.prefix),
        other_account: Some(return_to.login_as_another(&portal.name, &door.config.identity.prefix)),
    })
}

/// 303: the browser follows with a GET, also after a POST.
pub(super) fn see_other(location: &str) -> Result<Response<Body>, Refusal> {
    let location = HeaderValue::try_from(location)
        .map_err(|_invalid| Refusal::new(Denial::RequestInvalid, "the redirect target is not a valid header value"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Ends the session that the browser had before the login, also for any other holder of its cookie. A failure is
/// logged; the new session stays valid.
async fn end_former_session(door: &LoginDoor, request: &EndpointRequest<'_>) {
    match current_session(door, request).await {
        Ok(Some(session)) => {
            if let Err(error) = door.sessions.end(&session).await {
                tracing::warn!(session = session.handle.to_hex(), %error, "the session before a login was not ended");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the session before a login was not ended"),
    }
}
