//! `GET auth/callback`: the provider redirects the browser back. `POST auth/callback`: it sends a form
//! (`response_mode=form_post`).
//!
//! The form is redirected to the GET: a browser sends no `SameSite=Lax` cookie with a POST of another site, and the
//! login cookie must come along. With `SameSite=None` every site could send it. A callback logs in once, and only the
//! browser that began the login. A repeated callback (reload, back button) or one of another browser goes on to the
//! return path if the browser has a session, and begins a new login if it has none.

use cedargate_policy::denial::Refusal;
use http::header::SET_COOKIE;
use http::{Method, Response};
use hyper::body::Incoming;
use url::form_urlencoded;

use super::caller::current_session;
use super::completion::{establish, login_failed, see_other};
use super::input::Parameters;
use super::record::LoginAttempt;
use super::{EndpointRequest, LoginDoor, ReturnPath, login_loop};
use crate::audit::LoginCode;
use crate::http::answer::method_not_allowed;
use crate::http::upstream::Body;
use crate::login::{CALLBACK_PARAMETERS, Callback, CallbackOutcome, CompletedLogin, LoginContext, LoginFailure};

/// Redirects the form of the provider to the callback by GET.
pub(super) async fn receive_form(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let form = Parameters::from_form(&door.config.limits, request.head, body).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in CALLBACK_PARAMETERS {
        if let Some(value) = form.optional(name)? {
            query.append_pair(name, &value);
        }
    }
    see_other(&format!("{}?{}", door.config.identity.callback_path(), query.finish()))
}

pub(super) async fn complete(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    // a HEAD would use up the callback, and the GET after it would fail
    if request.head.method != Method::GET {
        return Ok(method_not_allowed("GET, POST"));
    }
    let browser = door.sessions.cookies.login(&request.head.headers);
    let callback = Callback {
        query: request.head.uri.query().unwrap_or_default(),
        browser: browser.as_ref(),
    };
    match door.login.complete(callback).await {
        Ok(CallbackOutcome::Completed(login)) => completed(door, request, *login).await,
        Ok(CallbackOutcome::Repeated { return_to, portal }) => repeated(door, request, &portal, &return_to).await,
        Ok(CallbackOutcome::OtherBrowser { context, failure }) => other_browser(door, request, &context, failure).await,
        Err(failure) => Ok(login_failed(door, request, &failure, LoginAttempt::default()).await),
    }
}

async fn completed(door: &LoginDoor, request: &EndpointRequest<'_>, login: CompletedLogin) -> Result<Response<Body>, Refusal> {
    let provider = login.data.provider.clone();
    let mut return_to = door.own_return_path(&login.return_to)?;
    return_to.is_cut = login.is_cut;
    let failure = match establish(door, request, login.data, &return_to).await {
        Ok(response) => return Ok(response),
        Err(failure) => failure,
    };
    let attempt = LoginAttempt {
        provider: Some(&provider),
        portal: Some(&login.portal),
        return_to: Some(return_to.as_str()),
        subject: None,
    };
    Ok(login_failed(door, request, &failure, attempt).await)
}

async fn repeated(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    portal: &str,
    return_to: &str,
) -> Result<Response<Body>, Refusal> {
    let return_to = door.own_return_path(return_to)?;
    match current_session(door, request).await {
        Ok(Some(_session)) => see_other(return_to.as_str()),
        Ok(None) => begin_again(door, &[("portal", portal)], &return_to),
        Err(error) => {
            let attempt = LoginAttempt {
                portal: Some(portal),
                return_to: Some(return_to.as_str()),
                ..LoginAttempt::default()
            };
            let failure = LoginFailure::store_unavailable(&error);
            Ok(login_failed(door, request, &failure, attempt).await)
        }
    }
}

/// Answers the callback of a login that this browser cannot complete: another browser began it, or several tabs began
/// logins before the browser had a login cookie and overwrote each other's.
///
/// SECURITY: the code is not redeemed, so an attacker's callback cannot log the victim in as the attacker.
async fn other_browser(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    context: &LoginContext,
    failure: LoginFailure,
) -> Result<Response<Body>, Refusal> {
    let return_to = door.own_return_path(&context.return_to)?;
    let failure = match current_session(door, request).await {
        Ok(Some(_session)) => return see_other(return_to.as_str()),
        Err(error) => LoginFailure::store_unavailable(&error),
        // a browser that keeps no cookies would begin a login again and again
        Ok(None) if failure.code == LoginCode::CookieMissing => failure,
        Ok(None) => {
            let parameters = [("portal", context.portal.as_str()), ("provider", context.provider.as_str())];
            let mut response = begin_again(door, &parameters, &return_to)?;
            response.headers_mut().append(SET_COOKIE, login_loop::count(door, request));
            return Ok(response);
        }
    };
    let attempt = LoginAttempt {
        provider: Some(&context.provider),
        portal: Some(&context.portal),
        return_to: Some(return_to.as_str()),
        subject: None,
    };
    Ok(login_failed(door, request, &failure, attempt).await)
}

fn begin_again(door: &LoginDoor, parameters: &[(&str, &str)], return_to: &ReturnPath) -> Result<Response<Body>, Refusal> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    return_to.append_to(&mut query);
    see_other(&format!("{}/auth/login?{}", door.config.identity.prefix, query.finish()))
}
