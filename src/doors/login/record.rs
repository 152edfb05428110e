//! Audit events, metric and log line of logins and logouts.

use std::sync::Arc;

use super::{EndpointRequest, LoginDoor};
use crate::audit::{AuthEvent, Event};
use crate::authn::map_claims;
use crate::login::{LoginCode, LoginFailure};
use crate::session::{Revoked, Session, SessionData, StoreError};

/// Metric label of a provider that is not configured.
const UNKNOWN_PROVIDER: &str = "unknown";

/// A login that failed, as far as the endpoint knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoginAttempt<'a> {
    pub provider: Option<&'a str>,
    pub portal: Option<&'a str>,
    pub return_to: Option<&'a str>,
    /// Name of a local account that exists; never text that a user typed into the wrong field.
    pub subject: Option<&'a str>,
}

/// An event of this request; the caller sets the result.
pub(super) fn auth_event(request: &EndpointRequest<'_>, event: &'static str) -> AuthEvent {
    AuthEvent {
        event,
        client: Some(request.client.source_ip),
        decision_id: Some(request.decision_id),
        ..AuthEvent::default()
    }
}

/// An event of this request about a session; the caller sets the result.
pub(super) fn session_event(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    event: &'static str,
    session: &Session,
) -> AuthEvent {
    let data = &session.data;
    AuthEvent {
        portal: Some(Arc::from(data.portal.as_str())),
        provider: Some(Arc::from(data.provider.as_str())),
        issuer: Some(Arc::from(data.issuer.as_str())),
        subject: Some(data.subject.clone()),
        tenant: tenant_of(door, data),
        session: Some(session.handle.to_hex()),
        ..auth_event(request, event)
    }
}

/// Records and counts a login that began a session.
pub(super) fn record_success(door: &LoginDoor, request: &EndpointRequest<'_>, session: &Session) {
    let mut event = session_event(door, request, "login", session);
    event.result = "success";
    event.reason = "success";
    count(door, Some(&session.data.provider), "success");
    door.audit.send(&Event::Auth(Box::new(event)));
}

/// Records, counts and logs a login that failed.
pub(super) fn record_failure(door: &LoginDoor, request: &EndpointRequest<'_>, failure: &LoginFailure, attempt: LoginAttempt<'_>) {
    let context = failure.context.as_deref();
    let provider = attempt.provider.or(context.map(|context| context.provider.as_str()));
    let portal = attempt.portal.or(context.map(|context| context.portal.as_str()));
    let code = failure.code.code();
    let decision_id = request.decision_id;
    let detail = &failure.detail;
    // a client can cause the other failures at will: they go to the audit record, and to the log at debug level only
    match failure.code {
        LoginCode::LoginInvalid | LoginCode::ProviderUnavailable | LoginCode::StepUpFailed | LoginCode::LoginLoop => {
            tracing::warn!(%decision_id, provider, code, detail, "a login failed");
        }
        _ => tracing::debug!(%decision_id, provider, code, detail, "a login failed"),
    }
    let mut event = auth_event(request, "login");
    event.result = "failure";
    event.reason = code;
    event.detail = Some(failure.detail.clone());
    event.limit = failure.limit;
    event.provider = configured(door, provider).map(Arc::from);
    event.portal = portal.map(Arc::from);
    event.subject = attempt.subject.map(str::to_owned);
    count(door, provider, code);
    door.audit.send(&Event::Auth(Box::new(event)));
}

/// The tenant by the claim mapping of the session's issuer.
fn tenant_of(door: &LoginDoor, data: &SessionData) -> Option<String> {
    let issuer = door.config.issuers.iter().find(|issuer| *issuer.scope.name == *data.issuer)?;
    map_claims(issuer, &data.claims).ok()?.tenant
}

fn count(door: &LoginDoor, provider: Option<&str>, result: &str) {
    let provider = configured(door, provider).unwrap_or(UNKNOWN_PROVIDER);
    door.metrics.logins.with_label_values(&[provider, result]).inc();
}

/// The name if a provider of this name is configured: a client chose the name.
fn configured<'a>(door: &LoginDoor, name: Option<&'a str>) -> Option<&'a str> {
    name.filter(|name| door.login.provider(name).is_some())
}

/// Completes the record of a logout with its outcome, and sends it.
pub(super) fn record_logout(door: &LoginDoor, mut event: AuthEvent, ended: &Result<Revoked, StoreError>) {
    match ended {
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
    door.audit.send(&Event::Auth(Box::new(event)));
}
