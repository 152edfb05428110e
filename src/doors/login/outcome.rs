//! How a login ends, whichever way it was made: with a session in the browser, or with a page that says why not.
//!
//! Both are an auth event and a count. A new session replaces the one that the browser had; its id never survives a login.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use http::Response;
use http::header::SET_COOKIE;

use super::{IdentityDoor, ReturnPath, Visit, see_other};
use crate::audit::{AuthEvent, Event};
use crate::authn::map_claims;
use crate::denial::Refusal;
use crate::http::upstream::Body;
use crate::login::{LoginCode, LoginFailure};
use crate::session::{SessionData, SessionError};
use crate::types::Redacted;

/// Completed logins of one browser that are counted together.
const LOOP_WINDOW: Duration = Duration::from_secs(60);
/// Completed logins in that time that nobody makes on purpose.
const LOOP_LOGINS_MAX: u64 = 5;
/// The label of providers that are not configured.
const NO_PROVIDER: &str = "unknown";

/// Which login it is, as far as is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempt<'a> {
    pub provider: Option<&'a str>,
    pub portal: Option<&'a str>,
    pub return_to: Option<&'a str>,
    /// Of a local account that exists; never what somebody typed into the wrong field.
    pub subject: Option<&'a str>,
}

impl IdentityDoor {
    /// Begins the session of a login in place of the one that the browser had, and sends it on.
    pub(super) async fn establish(
        &self,
        visit: &Visit<'_>,
        data: SessionData,
        return_to: &ReturnPath,
    ) -> Result<Response<Body>, LoginFailure> {
        let unavailable = |error: &dyn std::fmt::Display| LoginFailure::new(LoginCode::StoreUnavailable, error.to_string());
        let created = self.sessions.create(data).await;
        let (id, session) = created.map_err(|error| unavailable(&error))?;
        self.end_former(visit).await;
        self.count_for_loop(visit).await;
        let mut event = self.auth_event(visit, "login");
        event.result = "success";
        event.reason = "success";
        event.portal = Some(Arc::from(session.data.portal.as_str()));
        event.provider = Some(Arc::from(session.data.provider.as_str()));
        event.issuer = Some(Arc::from(session.data.issuer.as_str()));
        event.subject = Some(session.data.subject.clone());
        event.tenant = self.tenant_of(&session.data);
        event.session = Some(session.handle.to_hex());
        self.count_login(Some(&session.data.provider), "success");
        self.audit.send(Event::Auth(Box::new(event)));
        let target = see_other(return_to.as_str());
        let mut response = target.map_err(|refusal| LoginFailure::new(LoginCode::LoginInvalid, refusal.detail))?;
        let headers = response.headers_mut();
        headers.append(SET_COOKIE, self.sessions.cookies.set_session(&id));
        Ok(response)
    }

    /// The page of a login that did not come to its end; recorded and counted.
    pub(super) fn login_failed(&self, visit: &Visit<'_>, failure: &LoginFailure, attempt: Attempt<'_>) -> Response<Body> {
        self.record_failure(visit, failure, attempt);
        let about = failure.about.as_deref();
        let return_to = attempt.return_to.or(about.map(|about| about.return_to.as_str()));
        self.failure_page(visit, failure.code, return_to)
    }

    /// The event and the count of a login that did not come to its end.
    pub(super) fn record_failure(&self, visit: &Visit<'_>, failure: &LoginFailure, attempt: Attempt<'_>) {
        let about = failure.about.as_deref();
        let provider = attempt.provider.or(about.map(|about| about.provider.as_str()));
        let portal = attempt.portal.or(about.map(|about| about.portal.as_str()));
        let code = failure.code.code();
        // what anybody can bring about must not fill the log; the record has it all
        match failure.code {
            LoginCode::LoginInvalid | LoginCode::ProviderUnavailable | LoginCode::StepUpFailed | LoginCode::LoginLoop => {
                tracing::warn!(decision_id = %visit.decision_id, provider, code, detail = failure.detail, "a login failed");
            }
            _ => tracing::debug!(decision_id = %visit.decision_id, provider, code, detail = failure.detail, "a login failed"),
        }
        let mut event = self.auth_event(visit, "login");
        event.result = "failure";
        event.reason = code;
        event.detail = Some(failure.detail.clone());
        event.provider = self.known_provider(provider).map(Arc::from);
        event.portal = portal.map(Arc::from);
        event.subject = attempt.subject.map(str::to_owned);
        self.count_login(provider, code);
        self.audit.send(Event::Auth(Box::new(event)));
    }

    /// An event with what is known of the visit.
    pub(super) fn auth_event(&self, visit: &Visit<'_>, event: &'static str) -> AuthEvent {
        AuthEvent {
            event,
            client: Some(visit.client.source_ip),
            decision_id: Some(visit.decision_id),
            ..AuthEvent::default()
        }
    }

    /// Ends in `login_loop` if this browser has just logged in again and again.
    pub(super) async fn check_loop(&self, browser: &Redacted<[u8; 32]>) -> Result<(), LoginFailure> {
        let counted = self.sessions.counted("loop", &loop_key(browser)).await;
        match counted.map_err(|error| LoginFailure::new(LoginCode::StoreUnavailable, error.to_string()))? {
            logins if logins > LOOP_LOGINS_MAX => Err(LoginFailure::new(
                LoginCode::LoginLoop,
                format!("{logins} logins within a minute, each followed by another one"),
            )),
            _ => Ok(()),
        }
    }

    /// After a logout, logging in again is no loop.
    pub(super) async fn forget_loop(&self, visit: &Visit<'_>) {
        if let Some(browser) = self.sessions.cookies.login(&visit.head.headers)
            && let Err(error) = self.sessions.forget("loop", &loop_key(&browser)).await
        {
            tracing::debug!(%error, "a count of logins was not forgotten");
        }
    }

    /// A login, or one that began again: either leads to the next one in a loop.
    pub(super) async fn count_for_loop(&self, visit: &Visit<'_>) {
        if let Some(browser) = self.sessions.cookies.login(&visit.head.headers)
            && let Err(error) = self.sessions.count("loop", &loop_key(&browser), LOOP_WINDOW).await
        {
            tracing::debug!(%error, "a login was not counted");
        }
    }

    /// The session that the browser had is worth nothing any more, wherever its cookie may be.
    async fn end_former(&self, visit: &Visit<'_>) {
        let Some(id) = self.sessions.cookies.session(&visit.head.headers) else {
            return;
        };
        match self.sessions.find(&id).await {
            Ok(session) => {
                if let Err(error) = self.sessions.end(&session).await {
                    tracing::warn!(session = session.handle.to_hex(), %error, "the session before a login was not ended");
                }
            }
            Err(SessionError::Unavailable(error)) => tracing::warn!(%error, "the session before a login was not ended"),
            Err(SessionError::Missing | SessionError::Expired | SessionError::Revoked | SessionError::OtherKey) => {}
        }
    }

    /// By the issuer's claim mapping, as every portal reads it.
    pub(super) fn tenant_of(&self, data: &SessionData) -> Option<String> {
        let issuer = self.config.issuers.iter().find(|issuer| *issuer.name == *data.issuer)?;
        map_claims(issuer, &data.claims).ok()?.tenant
    }

    fn count_login(&self, provider: Option<&str>, result: &str) {
        let provider = self.known_provider(provider).unwrap_or(NO_PROVIDER);
        self.metrics.logins.with_label_values(&[provider, result]).inc();
    }

    fn known_provider<'a>(&self, name: Option<&'a str>) -> Option<&'a str> {
        name.filter(|name| self.login.provider(name).is_some())
    }

    /// A return target of a link.
    pub(super) fn return_path(&self, text: &str) -> Result<ReturnPath, Refusal> {
        ReturnPath::parse(text, &self.config.identity.prefix)
    }
}

fn loop_key(browser: &Redacted<[u8; 32]>) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, browser.expose()).as_ref());
    key
}
