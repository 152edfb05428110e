//! `GET auth/login?portal=&rd=`: redirects the browser to its provider, or shows the form of a local account. Where a
//! portal has several providers and the link names none, a page lets the user choose.
//!
//! Any site can link to this endpoint. So every parameter is checked before anything is done; `acr_values`, `max_age`
//! and `prompt` can only demand a stronger login, never a weaker one, and `login_hint` only fills in a field of the
//! provider's page or of the form.

use std::borrow::Cow;

use cedargate_policy::denial::{Denial, Refusal};
use http::header::SET_COOKIE;
use http::{HeaderMap, Response};

use super::caller::browser_secret;
use super::completion::{login_failed, see_other};
use super::form_token::FormBinding;
use super::input::Parameters;
use super::page::{CodeField, LoginForm, ProviderLink};
use super::portal_lookup::{self, LoginChoice};
use super::record::LoginAttempt;
use super::{EndpointRequest, LoginDoor, ReturnPath, login_loop};
use crate::audit::LoginCode;
use crate::config::{self, ProviderKind, host_of};
use crate::http::upstream::Body;
use crate::login::{BrowserSecret, LoginFailure, LoginRequest};
use crate::portals::Portal;

/// Bytes of `acr_values`.
const ACR_BYTES_MAX: usize = 256;
/// Bytes of `login_hint`: an address, or an id of the provider.
const HINT_BYTES_MAX: usize = 320;
/// The values of `prompt` (OpenID Connect Core 1.0, section 3.1.2.1, and Prompt Create 1.0).
const PROMPTS: [&str; 5] = ["none", "login", "consent", "select_account", "create"];
/// Digits of `max_age`: three centuries of seconds.
const MAX_AGE_DIGITS_MAX: usize = 10;

/// The parameters of the link, unchecked.
struct LinkParameters {
    portal: Option<String>,
    return_to: Option<ReturnPath>,
    provider: Option<String>,
    acr_values: Option<String>,
    max_age: Option<String>,
    /// Present in a link that the gate moved to the portal's origin.
    moved: Option<String>,
    login_hint: Option<String>,
    prompt: Option<String>,
}

/// The login that the link asks for, checked.
struct CheckedLogin<'a> {
    provider: &'a config::Provider,
    portal: &'a Portal,
    origin: Cow<'a, str>,
    return_to: ReturnPath,
    acr_values: Option<String>,
    max_age: Option<u64>,
    login_hint: Option<String>,
    prompt: Option<String>,
}

pub(super) async fn begin(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    check_navigation(&request.head.headers)?;
    let link = LinkParameters::parse(door, &Parameters::from_query(request.head))?;
    let slug = link.portal.as_deref().ok_or_else(|| invalid("`portal` is missing"))?;
    let portal = portal_lookup::find(request, slug)?;
    if let Some(elsewhere) = link.at_the_portals_origin(door, request, portal)? {
        return see_other(&elsewhere);
    }
    let login = match portal_lookup::provider(door, portal, link.provider.as_deref())? {
        LoginChoice::One(provider) => link.check(door, request, portal, provider)?,
        LoginChoice::Several(providers) => {
            if let Some(first) = providers.first() {
                link.check(door, request, portal, first)?;
            }
            return Ok(choose_provider(door, request, portal, &providers));
        }
    };
    let browser = browser_secret(door, request)?;
    let mut response = match redirect_or_form(door, request, &login, &browser).await {
        Ok(response) => response,
        Err(failure) => {
            let attempt = LoginAttempt {
                provider: Some(&login.provider.name),
                portal: Some(&login.portal.name),
                return_to: Some(login.return_to.as_str()),
                subject: None,
            };
            login_failed(door, request, &failure, attempt).await
        }
    };
    let cookie = door.sessions.cookies.set_login(browser.expose());
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

/// Links to this login at each provider.
fn choose_provider(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    portal: &Portal,
    providers: &[&config::Provider],
) -> Response<Body> {
    let query = request.head.uri.query().unwrap_or_default();
    let links = providers.iter().map(|provider| ProviderLink {
        title: provider.title.clone(),
        // INVARIANT: a provider's name is `[a-z0-9_-]+`
        href: format!(
            "{}/auth/login?{query}&provider={}",
            door.config.identity.prefix, provider.name
        ),
    });
    let links: Vec<ProviderLink> = links.collect();
    door.pages(request).provider_chooser(&portal_lookup::title(portal), &links)
}

async fn redirect_or_form(
    door: &LoginDoor,
    request: &EndpointRequest<'_>,
    login: &CheckedLogin<'_>,
    browser: &BrowserSecret,
) -> Result<Response<Body>, LoginFailure> {
    login_loop::check(door, request)?;
    if let ProviderKind::Local(_) = login.provider.kind {
        let binding = FormBinding {
            provider: &login.provider.name,
            portal: &login.portal.name,
            return_to: login.return_to.as_str(),
        };
        return Ok(door.pages(request).login_form(&LoginForm {
            portal_title: &portal_lookup::title(login.portal),
            binding,
            return_to: &login.return_to,
            token: &binding.token(browser),
            name: login.login_hint.as_deref().unwrap_or_default(),
            code: match (door.accounts.has_codes(&login.provider.name), &login.acr_values) {
                (false, _) => CodeField::Absent,
                (true, None) => CodeField::Optional,
                (true, Some(_)) => CodeField::Required,
            },
            failure: None,
        }));
    }
    let location = door
        .login
        .authorization_url(LoginRequest {
            provider: &login.provider.name,
            portal: &login.portal.name,
            origin: &login.origin,
            return_to: login.return_to.as_str(),
            is_cut: login.return_to.is_cut,
            acr_values: login.acr_values.as_deref(),
            max_age: login.max_age,
            login_hint: login.login_hint.as_deref(),
            prompt: login.prompt.as_deref(),
            browser,
        })
        .await?;
    see_other(&location).map_err(|refusal| LoginFailure::new(LoginCode::LoginInvalid, refusal.detail))
}

impl LinkParameters {
    fn parse(door: &LoginDoor, query: &Parameters) -> Result<Self, Refusal> {
        Ok(Self {
            portal: query.optional("portal")?,
            return_to: door.return_path(query)?,
            provider: query.optional("provider")?,
            acr_values: query.optional("acr_values")?,
            max_age: query.optional("max_age")?,
            moved: query.optional("moved")?,
            login_hint: query.optional("login_hint")?,
            prompt: query.optional("prompt")?,
        })
    }

    /// The same link at the portal's origin, if the browser asked for another host: cookies of one host never reach the
    /// callback at another. A browser is moved once, because a proxy in front may replace every host by one of its own.
    fn at_the_portals_origin(
        &self,
        door: &LoginDoor,
        request: &EndpointRequest<'_>,
        portal: &Portal,
    ) -> Result<Option<String>, Refusal> {
        let is_anywhere = portal.config.public_url.is_none() && portal.config.matches.hosts.is_empty();
        if is_anywhere || self.moved.is_some() {
            return Ok(None);
        }
        let origin = portal_lookup::origin(door, request, portal)?;
        if host_of(&origin) == request.client.host {
            return Ok(None);
        }
        let prefix = &door.config.identity.prefix;
        let query = request.head.uri.query().unwrap_or_default();
        Ok(Some(format!("{origin}{prefix}/auth/login?{query}&moved=1")))
    }

    fn check<'a>(
        &self,
        door: &'a LoginDoor,
        request: &EndpointRequest<'_>,
        portal: &'a Portal,
        provider: &'a config::Provider,
    ) -> Result<CheckedLogin<'a>, Refusal> {
        let return_to = match &self.return_to {
            Some(return_to) => return_to.clone(),
            None => door.own_return_path(&portal.config.matches.path_prefix)?,
        };
        let acr_values = self.acr_values.clone();
        if acr_values.as_deref().is_some_and(|values| !is_acr_values(values)) {
            return Err(invalid("`acr_values` is malformed"));
        }
        if self.login_hint.as_deref().is_some_and(|hint| !is_login_hint(hint)) {
            return Err(invalid("`login_hint` is empty, too long, or holds a control character"));
        }
        if self.prompt.as_deref().is_some_and(|prompt| !is_prompt(prompt)) {
            return Err(invalid(
                "`prompt` is not `none`, nor a list of `login`, `consent`, `select_account` and `create`",
            ));
        }
        Ok(CheckedLogin {
            provider,
            portal,
            origin: portal_lookup::origin(door, request, portal)?,
            return_to,
            acr_values,
            max_age: self.max_age.as_deref().map(parse_seconds).transpose()?,
            login_hint: self.login_hint.clone(),
            prompt: self.prompt.clone(),
        })
    }
}

/// Refuses a script: it could not follow the redirect to the provider, so an error tells its author more.
fn check_navigation(headers: &HeaderMap) -> Result<(), Refusal> {
    let navigates = headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate");
    navigates
        .then_some(())
        .ok_or_else(|| invalid("only a navigation can log in (`sec-fetch-mode`)"))
}

fn is_acr_values(values: &str) -> bool {
    let is_acr = |acr: &str| !acr.is_empty() && acr.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    values.len() <= ACR_BYTES_MAX && values.split(' ').all(is_acr)
}

fn is_login_hint(hint: &str) -> bool {
    (1..=HINT_BYTES_MAX).contains(&hint.len()) && !hint.chars().any(char::is_control)
}

fn is_prompt(prompt: &str) -> bool {
    let all_known = prompt.split(' ').all(|value| PROMPTS.contains(&value));
    all_known && (prompt == "none" || !prompt.split(' ').any(|value| value == "none"))
}

fn parse_seconds(text: &str) -> Result<u64, Refusal> {
    let digits = (1..=MAX_AGE_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let parsed = digits.then(|| text.parse().ok()).flatten();
    parsed.ok_or_else(|| invalid("`max_age` is not a number of seconds"))
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}
