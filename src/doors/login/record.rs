//! Audit events, metric and log line of logins and logouts.

use std::sync::Arc;

use cedargate_policy::claims::tenant_of_session;

use super::{EndpointRequest, LoginDoor};
use crate::audit::{AuthAct, AuthFact, AuthSubject, Event, LoginCode};
use crate::login::LoginFailure;
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

/// What the records of this request say of it.
pub(super) fn request_subject(request: &EndpointRequest<'_>) -> AuthSubject {
    AuthSubject {
        client: Some(request.client.source_ip),
        decision_id: Some(request.decision_id),
        ..AuthSubject::default()
    }
}

/// The same for a request about a session.
pub(super) fn session_subject(door: &LoginDoor, request: &EndpointRequest<'_>, session: &Session) -> AuthSubject {
    let data = &session.data;
    AuthSubject {
        portal: Some(Arc::from(data.portal.as_str())),
        provider: Some(Arc::from(data.provider.as_str())),
        issuer: Some(Arc::from(data.issuer.as_str())),
        subject: Some(data.subject.clone()),
        tenant: tenant_of(door, data),
        session: Some(session.handle.to_hex()),
        ..request_subject(request)
    }
}

/// Records and counts a login that began a session.
pub(super) fn record_success(door: &LoginDoor, request: &EndpointRequest<'_>, session: &Session) {
    let event = session_subject(door, request, session).succeeded(AuthAct::Login, AuthFact::LoggedIn);
    count(door, Some(&session.data.provider), AuthFact::LoggedIn.as_str());
    door.audit.send(&Event::Auth(Box::new(event)));
}

/// Records, counts and logs a login that failed.
pub(super) fn record_failure(door: &LoginDoor, request: &EndpointRequest<'_>, failure: &LoginFailure, attempt: LoginAttempt<'_>) {
    let context = failure.context.as_deref();
    let provider = attempt.provider.or(context.map(|context| context.provider.as_str()));
    let portal = attempt.portal.or(context.map(|context| context.portal.as_str()));
    let code = failure.code.as_str();
    let decision_id = request.decision_id;
    let detail = &failure.detail;
    // a client can cause the other failures at will: they go to the audit record, and to the log at debug level only
    match failure.code {
        LoginCode::LoginInvalid | LoginCode::ProviderUnavailable | LoginCode::StepUpFailed | LoginCode::LoginLoop => {
            tracing::warn!(%decision_id, provider, code, detail, "a login failed");
        }
        _ => tracing::debug!(%decision_id, provider, code, detail, "a login failed"),
    }
    let about = AuthSubject {
        provider: configured(door, provider).map(Arc::from),
        portal: portal.map(Arc::from),
        subject: attempt.subject.map(str::to_owned),
        ..request_subject(request)
    };
    let mut event = about
        .failed(AuthAct::Login, failure.code)
        .with_detail(Some(failure.detail.clone()));
    event.limit = failure.limit;
    count(door, provider, code);
    door.audit.send(&Event::Auth(Box::new(event)));
}

fn tenant_of(door: &LoginDoor, data: &SessionData) -> Option<String> {
    let issuer = door.config.issuers.iter().find(|issuer| *issuer.scope.name == *data.issuer)?;
    tenant_of_session(&data.claims, &issuer.scope.claims).map(str::to_owned)
}

fn count(door: &LoginDoor, provider: Option<&str>, result: &str) {
    let provider = configured(door, provider).unwrap_or(UNKNOWN_PROVIDER);
    door.metrics.logins.with_label_values(&[provider, result]).inc();
}

/// The name if a provider of this name is configured: a client chose the name.
fn configured<'a>(door: &LoginDoor, name: Option<&'a str>) -> Option<&'a str> {
    name.filter(|name| door.login.provider(name).is_some())
}

/// Records a logout and its outcome.
pub(super) fn record_logout(door: &LoginDoor, about: AuthSubject, ended: &Result<Revoked, StoreError>) {
    let event = match ended {
        Ok(ended) => about
            .succeeded(AuthAct::Logout, AuthFact::LoggedOut)
            .with_detail((!ended.everywhere).then(|| "not known everywhere yet".to_owned())),
        Err(error) => about
            .failed(AuthAct::Logout, LoginCode::StoreUnavailable)
            .with_detail(Some(error.to_string())),
    };
    door.audit.send(&Event::Auth(Box::new(event)));
}
