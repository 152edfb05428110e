//! `POST auth/logout`: ends the session in all replicas, and at the provider.
//!
//! Needs evidence that a page of this origin sent the request. Without a session the answer is that of a successful
//! logout. If the store does not answer, nothing ends: the browser keeps its cookie and can try again.

use std::borrow::Cow;

use cedargate_policy::denial::Refusal;
use http::header::SET_COOKIE;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::caller::current_session;
use super::completion::see_other;
use super::input::Parameters;
use super::page::LogoutReach;
use super::record::{record_logout, session_subject};
use super::{EndpointRequest, LoginDoor, ReturnPath};
use crate::http::answer;
use crate::http::upstream::Body;
use crate::login::LogoutCaller;
use crate::session::Session;

/// The end of a logout for the browser.
#[derive(Default)]
pub(super) struct LogoutEnd {
    pub return_to: Option<ReturnPath>,
    /// True if the form of a page of the gate asked for it.
    pub is_from_page: bool,
}

pub(super) async fn log_out(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    door.check_same_origin(request)?;
    let parameters = Parameters::from_form_or_query(&door.config.limits, request.head, body).await?;
    let return_to = door.return_path(&parameters)?;
    let is_from_page = parameters.optional("from")?.is_some_and(|from| from == "page");
    end_session(door, request, LogoutEnd { return_to, is_from_page }).await
}

/// Ends the session of a request whose origin is evident.
pub(super) async fn end_session(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    ending: LogoutEnd,
) -> Result<Response<Body>, Refusal> {
    let LogoutEnd { return_to, is_from_page } = ending;
    let caller = logout_caller(&request.head.headers);
    let session = current_session(door, request).await.map_err(|error| Refusal::from(&error))?;
    let mut provider_location = None;
    let mut reach = LogoutReach::AllReplicas;
    if let Some(session) = &session {
        reach = end(door, request, session).await?;
        let portal = request.portals.named(&session.data.portal);
        let origin = portal.and_then(|portal| door.config.origin_of(&portal.config, &request.client.host));
        let origin = origin
            .or(door.config.public_url.as_deref().map(Cow::Borrowed))
            .unwrap_or_default();
        provider_location = door.login.logout_location(&session.data, caller, &origin).await;
    }
    let is_at_provider = provider_location.is_some();
    let mut response = match (caller, provider_location, return_to) {
        // a browser refuses to follow a form of a page of the gate to another origin
        (LogoutCaller::Browser, Some(location), _) if is_from_page => door.pages(request).logging_out(&location)?,
        (LogoutCaller::Browser, Some(location), _) => see_other(&location)?,
        (LogoutCaller::Browser, None, Some(return_to)) => see_other(return_to.as_str())?,
        (LogoutCaller::Browser, None, None) => door.pages(request).logged_out(reach),
        (LogoutCaller::Script, Some(location), _) => answer::json(StatusCode::OK, &json!({"location": location})),
        (LogoutCaller::Script, None, _) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
    };
    if reach == LogoutReach::ThisReplica && response.status().is_success() {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    let cookies = &door.sessions.cookies;
    let headers = response.headers_mut();
    headers.append(SET_COOKIE, cookies.clear_session());
    headers.append(SET_COOKIE, cookies.clear_logins());
    if is_at_provider {
        headers.append(SET_COOKIE, cookies.set_after_logout());
    }
    Ok(response)
}

/// `GET auth/logged-out`: the page after a logout at a provider.
pub(super) fn logged_out(door: &LoginDoor, request: &EndpointRequest<'_>) -> Response<Body> {
    let mut response = door.pages(request).logged_out(LogoutReach::AllReplicas);
    let cookie = door.sessions.cookies.clear_after_logout();
    response.headers_mut().append(SET_COOKIE, cookie);
    response
}

/// Ends the session and records it.
async fn end(door: &LoginDoor, request: &EndpointRequest<'_>, session: &Session) -> Result<LogoutReach, Refusal> {
    let ended = door.sessions.end(session).await;
    record_logout(door, session_subject(door, request, session), &ended);
    match ended {
        Ok(ended) if ended.everywhere => Ok(LogoutReach::AllReplicas),
        Ok(_not_everywhere) => Ok(LogoutReach::ThisReplica),
        Err(error) => Err(Refusal::from(&error)),
    }
}

/// A form or link shows the response to the user and gets redirects and pages; a script gets JSON.
pub(super) fn logout_caller(headers: &HeaderMap) -> LogoutCaller {
    if answer::is_shown_by_browser(headers) {
        LogoutCaller::Browser
    } else {
        LogoutCaller::Script
    }
}
