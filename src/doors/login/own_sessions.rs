//! `GET auth/sessions`: the caller's own sessions, in all browsers. `POST auth/sessions`: ends one of them, or all.
//!
//! A browser gets a page with forms, a script JSON. Only the session cookie opens this endpoint: a bearer token could
//! otherwise end sessions that it did not begin. The list shows no id that opens a session.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use http::header::SET_COOKIE;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::caller::current_session;
use super::completion::see_other;
use super::input::Parameters;
use super::logout::logout_caller;
use super::page::{LogoutReach, OwnSession, OwnSessions};
use super::record::{record_logout, session_subject};
use super::{EndpointRequest, LoginDoor, portal_lookup};
use crate::http::answer::{self, Style};
use crate::http::upstream::Body;
use crate::login::LogoutCaller;
use crate::session::{Handle, Revocation, Revoked, Session, SessionSummary, StoreError};

/// The sessions that a request ends.
enum SessionsToEnd {
    One(Handle),
    All,
}

pub(super) async fn show(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let session = required_session(door, request).await?;
    let listing = door.sessions.list_of(&session.data.issuer, &session.data.subject).await;
    let listing = listing.map_err(|error| Refusal::from(&error))?;
    let is_complete = listing.all && listing.unreadable == 0;
    let mut summaries = listing.summaries;
    summaries.sort_by_key(|summary| std::cmp::Reverse(summary.used_at));
    let own = session.handle.to_hex();
    let is_current = |summary: &SessionSummary| summary.session == own;
    if request.style == Style::Page {
        let sessions: Vec<OwnSession> = summaries
            .iter()
            .map(|summary| OwnSession {
                handle: summary.session.clone(),
                portal_title: match request.portals.named(&summary.portal) {
                    Some(portal) => portal_lookup::title(portal),
                    None => summary.portal.clone(),
                },
                began_at: summary.created_at / 1000,
                used_at: summary.used_at / 1000,
                is_current: is_current(summary),
            })
            .collect();
        return Ok(door.pages(request).own_sessions(&OwnSessions { sessions, is_complete }));
    }
    let sessions: Vec<Value> = summaries
        .iter()
        .map(|summary| {
            json!({"session": summary.session, "portal": summary.portal, "provider": summary.provider,
                "created_at": summary.created_at / 1000, "used_at": summary.used_at / 1000, "current": is_current(summary)})
        })
        .collect();
    let body = json!({"sessions": sessions, "complete": is_complete});
    Ok(answer::json(StatusCode::OK, &body))
}

pub(super) async fn end(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    door.check_same_origin(request)?;
    let session = required_session(door, request).await?;
    let ending = SessionsToEnd::parse(&Parameters::from_form_or_json(&door.config.limits, request.head, body).await?)?;
    let revocation = match ending {
        SessionsToEnd::One(handle) => {
            let is_own = door
                .sessions
                .is_session_of(handle, &session.data.issuer, &session.data.subject)
                .await;
            if !is_own.map_err(|error| Refusal::from(&error))? {
                return Err(Refusal::new(
                    Denial::RequestInvalid,
                    "no session of the caller has this name (`session`)",
                ));
            }
            Revocation::Session(handle)
        }
        SessionsToEnd::All => Revocation::Subject {
            issuer: session.data.issuer.clone(),
            subject: session.data.subject.clone(),
        },
    };
    let ends_current = match ending {
        SessionsToEnd::One(handle) => handle == session.handle,
        SessionsToEnd::All => true,
    };
    let ended = door.sessions.revoke(revocation).await;
    record(door, request, &session, &ending, &ended);
    let ended = ended.map_err(|error| Refusal::from(&error))?;
    let reach = if ended.everywhere {
        LogoutReach::AllReplicas
    } else {
        LogoutReach::ThisReplica
    };
    let mut response = match (logout_caller(&request.head.headers), ends_current) {
        (LogoutCaller::Browser, true) => door.pages(request).logged_out(reach),
        (LogoutCaller::Browser, false) => see_other(&format!("{}/auth/sessions", door.config.identity.prefix))?,
        (LogoutCaller::Script, _) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = match reach {
                LogoutReach::AllReplicas => StatusCode::NO_CONTENT,
                LogoutReach::ThisReplica => StatusCode::ACCEPTED,
            };
            response
        }
    };
    if ends_current {
        let cookie = door.sessions.cookies.clear_session();
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(response)
}

impl SessionsToEnd {
    fn parse(parameters: &Parameters) -> Result<Self, Refusal> {
        let invalid = || {
            Refusal::new(
                Denial::RequestInvalid,
                "give `session`, or `all` with the value `true`; nothing else",
            )
        };
        if let Some(text) = parameters.only("session") {
            return Handle::from_hex(text).map(Self::One).ok_or_else(invalid);
        }
        parameters
            .only("all")
            .filter(|all| *all == "true")
            .map(|_| Self::All)
            .ok_or_else(invalid)
    }
}

async fn required_session(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Arc<Session>, Refusal> {
    let session = current_session(door, request).await.map_err(|error| Refusal::from(&error))?;
    session.ok_or_else(|| Refusal::new(Denial::SessionMissing, "the list of sessions is for the browser that has one"))
}

fn record(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    session: &Session,
    ending: &SessionsToEnd,
    ended: &Result<Revoked, StoreError>,
) {
    let mut about = session_subject(door, request, session);
    about.session = match ending {
        SessionsToEnd::One(handle) => Some(handle.to_hex()),
        SessionsToEnd::All => None,
    };
    record_logout(door, about, ended);
}
