//! `POST auth/logout`: ends the session in all replicas, and at the provider.
//!
//! Needs evidence that a page of this origin sent the request. Without a session the answer is that of a successful logout. If
//! the store does not answer, nothing ends: the browser keeps its cookie and can try again.

use std::borrow::Cow;

use cedargate_policy::denial::{Denial, Refusal};
use http::header::{ACCEPT, SET_COOKIE};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::caller::current_session;
use super::completion::see_other;
use super::input::Parameters;
use super::page::LogoutReach;
use super::record::session_event;
use super::{EndpointRequest, LoginDoor, login_loop};
use crate::audit::Event;
use crate::http::answer;
use crate::http::upstream::Body;
use crate::login::LogoutCaller;
use crate::session::{Session, StoreError};

pub(super) async fn log_out(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    door.check_same_origin(request)?;
    let return_to = Parameters::from_form_or_query(request.head, body).await?.optional("rd")?;
    let return_to = return_to.map(|text| door.return_path(&text)).transpose()?;
    let caller = logout_caller(&request.head.headers);
    let session = current_session(door, request).await.map_err(|error| unavailable(&error))?;
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
    login_loop::reset(door, request).await;
    let mut response = match (caller, provider_location, return_to) {
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
    let cookie = door.sessions.cookies.clear_session();
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

/// Ends the session and records it.
async fn end(door: &LoginDoor, request: &EndpointRequest<'_>, session: &Session) -> Result<LogoutReach, Refusal> {
    let ended = door.sessions.end(session).await;
    let mut event = session_event(door, request, "logout", session);
    match &ended {
        Ok(ended) => {
            event.result = "success";
            event.reason = "logout";
            event.detail = (!ended.everywhere).then(|| "not known everywhere yet".to_owned());
        }
        Err(error) => {
            event.result = "failure";
            event.reason = "store_unavailable";
            event.detail = Some(error.to_string());
        }
    }
    door.audit.send(Event::Auth(Box::new(event)));
    match ended {
        Ok(ended) if ended.everywhere => Ok(LogoutReach::AllReplicas),
        Ok(_not_everywhere) => Ok(LogoutReach::ThisReplica),
        Err(error) => Err(unavailable(&error)),
    }
}

fn unavailable(error: &StoreError) -> Refusal {
    Refusal::new(Denial::StoreUnavailable, error.to_string())
}

/// A form or link shows the response to the user and gets redirects and pages; a script gets JSON.
pub(super) fn logout_caller(headers: &HeaderMap) -> LogoutCaller {
    let navigates = match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => headers
            .get(ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("text/html")),
    };
    if navigates {
        LogoutCaller::Browser
    } else {
        LogoutCaller::Script
    }
}
