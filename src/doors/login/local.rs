//! `POST auth/local`: the submitted form of a local account.
//!
//! Accepts only a form that the gate showed to this browser: the request must come from this origin and carry the form
//! token of the browser's login cookie. A wrong name and a wrong password get the same answer, and so does a wrong
//! one-time code.

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Redacted;
use http::Response;
use http::header::SET_COOKIE;
use hyper::body::Incoming;
use serde_json::json;

use super::caller::browser_secret;
use super::completion::establish;
use super::form_token::FormBinding;
use super::input::Parameters;
use super::page::{CodeField, LoginForm};
use super::portal_lookup::{self, LoginChoice};
use super::record::{LoginAttempt, record_failure};
use super::{EndpointRequest, LoginDoor, ReturnPath};
use crate::accounts::{Account, CheckError};
use crate::audit::LoginCode;
use crate::base::clock::unix_millis;
use crate::config::ProviderKind;
use crate::http::upstream::Body;
use crate::login::LoginFailure;
use crate::portals::Portal;
use crate::session::SessionData;

/// The fields of the form, unchecked.
struct SubmittedForm {
    provider: String,
    portal: String,
    return_to: ReturnPath,
    name: String,
    password: Redacted<String>,
    /// Empty without a second factor.
    code: Redacted<String>,
    token: String,
}

/// The portal, issuer and return path that the form names, checked.
struct FormTarget<'a> {
    portal: &'a Arc<Portal>,
    /// `issuers[].name`.
    issuer: String,
    /// Unix milliseconds, taken before the account is looked up: a change of the account after that ends the session.
    started_at: i64,
}

pub(super) async fn submit(door: &LoginDoor, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
    door.check_same_origin(request)?;
    let form = SubmittedForm::parse(door, &Parameters::from_form(&door.config.limits, request.head, body).await?)?;
    let target = form.check_target(door, request)?;
    // a browser without a login cookie gets one with the form that it is shown again
    let browser = browser_secret(door, request)?;
    let failure = match log_in(door, request, &form, &target).await {
        Ok(response) => return Ok(response),
        Err(failure) => failure,
    };
    // SECURITY: users type passwords into the name field; the record gets the name only if it is an account's
    let account = door.accounts.current(&form.provider, &form.name);
    let attempt = LoginAttempt {
        provider: Some(&form.provider),
        portal: Some(&form.portal),
        subject: account.as_ref().map(|account| account.name.as_str()),
        return_to: None,
    };
    record_failure(door, request, &failure, attempt);
    let mut response = door.pages(request).login_form(&LoginForm {
        portal_title: &portal_lookup::title(target.portal),
        binding: form.binding(),
        return_to: &form.return_to,
        token: &form.binding().token(&browser),
        name: &form.name,
        code: if door.accounts.has_codes(&form.provider) {
            CodeField::Optional
        } else {
            CodeField::Absent
        },
        failure: Some(&failure),
    });
    let cookie = door.sessions.cookies.set_login(browser.expose());
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

async fn log_in(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    form: &SubmittedForm,
    target: &FormTarget<'_>,
) -> Result<Response<Body>, LoginFailure> {
    let expired = |detail: &str| LoginFailure::new(LoginCode::LoginExpired, detail);
    let browser = door.sessions.cookies.login(&request.head.headers);
    let browser = browser.ok_or_else(|| LoginFailure::new(LoginCode::CookieMissing, "the browser has no login cookie"))?;
    if !form.binding().accepts(&form.token, &browser) {
        return Err(expired("the form was shown to another browser, or for another login"));
    }
    let address = request.client.source_ip;
    let account = door
        .accounts
        .check(&form.provider, &form.name, form.password.expose(), address)
        .await
        .map_err(|error| account_refused(&error))?;
    if !account.may_use(&form.portal) {
        return Err(LoginFailure::new(
            LoginCode::CredentialsInvalid,
            "the account may not use this portal",
        ));
    }
    if !form.code.expose().is_empty() {
        let checked = door.accounts.check_code(&form.provider, &form.name, form.code.expose());
        checked.map_err(|error| account_refused(&error))?;
    }
    establish(door, request, form.session_data(target, &account), &form.return_to).await
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}

fn account_refused(error: &CheckError) -> LoginFailure {
    let (code, limit) = match error {
        CheckError::Credentials(_) => (LoginCode::CredentialsInvalid, None),
        CheckError::RateLimited { limit, .. } => (LoginCode::RateLimited, *limit),
    };
    LoginFailure {
        limit,
        ..LoginFailure::new(code, error.to_string())
    }
}

impl SubmittedForm {
    fn parse(door: &LoginDoor, fields: &Parameters) -> Result<Self, Refusal> {
        Ok(Self {
            provider: fields.required("provider")?,
            portal: fields.required("portal")?,
            return_to: door.return_path(fields)?.ok_or_else(|| invalid("`rd` is missing"))?,
            name: fields.required("name")?,
            password: Redacted::new(fields.required("password")?),
            code: Redacted::new(fields.optional("code")?.unwrap_or_default()),
            token: fields.required("token")?,
        })
    }

    /// Refuses values that a form of the gate never has.
    fn check_target<'a>(&self, door: &LoginDoor, request: &EndpointRequest<'a>) -> Result<FormTarget<'a>, Refusal> {
        let portal = request.portals.named(&self.portal).ok_or_else(|| invalid("no such portal"))?;
        let provider = match portal_lookup::provider(door, portal, Some(&self.provider))? {
            LoginChoice::One(provider) if matches!(provider.kind, ProviderKind::Local(_)) => provider,
            _ => return Err(invalid("no such provider of local accounts")),
        };
        let issuer = door.config.issuers.get(provider.issuer);
        let issuer = issuer.ok_or_else(|| invalid("no such issuer"))?;
        Ok(FormTarget {
            portal,
            issuer: issuer.scope.name.to_string(),
            started_at: unix_millis(),
        })
    }

    fn binding(&self) -> FormBinding<'_> {
        FormBinding {
            provider: &self.provider,
            portal: &self.portal,
            return_to: self.return_to.as_str(),
        }
    }

    fn session_data(&self, target: &FormTarget<'_>, account: &Account) -> SessionData {
        let mut claims = account.claims.as_ref().clone();
        claims.insert("auth_time".to_owned(), json!(target.started_at / 1000));
        // `check_code` accepted the code if there is one; values of RFC 8176
        if self.code.expose().is_empty() {
            claims.insert("amr".to_owned(), json!(["pwd"]));
        } else {
            claims.insert("amr".to_owned(), json!(["pwd", "otp", "mfa"]));
            claims.insert("acr".to_owned(), json!("mfa"));
        }
        SessionData {
            provider: self.provider.clone(),
            issuer: target.issuer.clone(),
            subject: account.name.clone(),
            portal: self.portal.clone(),
            claims: Arc::new(claims),
            created_at: target.started_at,
            idp_session: None,
            grant: None,
            portals: account.portals.clone(),
            rotation_due: false,
        }
    }
}
