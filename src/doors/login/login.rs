//! `GET auth/login?portal=&rd=`: sends a browser to its provider, or shows a form.
//!
//! Anybody can make a link to here, so everything in it is checked before anything is done, and what it asks for can only make
//! a login stronger (`acr_values`, `max_age`).

use http::header::SET_COOKIE;
use http::{HeaderMap, Response};
use url::form_urlencoded;

use super::outcome::Attempt;
use super::page::LoginForm;
use super::{IdentityDoor, ReturnPath, Visit, see_other};
use crate::config::{self, ProviderKind};
use crate::denial::{Denial, Refusal};
use crate::http::upstream::Body;
use crate::login::{Begin, LoginCode, LoginFailure};
use crate::portals::Portal;
use crate::types::Redacted;

/// Bytes of `acr_values`.
const ACR_BYTES_MAX: usize = 256;
/// Digits of `max_age`: three centuries of seconds.
const MAX_AGE_DIGITS_MAX: usize = 10;

/// What a link asks for, each at most once.
#[derive(Default)]
struct Asked {
    portal: Option<String>,
    rd: Option<String>,
    provider: Option<String>,
    acr_values: Option<String>,
    max_age: Option<String>,
}

/// The same, checked.
struct Wish<'a> {
    provider: &'a config::Provider,
    portal: &'a str,
    return_to: ReturnPath,
    acr_values: Option<String>,
    max_age: Option<u64>,
}

impl IdentityDoor {
    pub(super) async fn begin_login(&self, visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        check_navigation(&visit.head.headers)?;
        let asked = Asked::parse(visit.head.uri.query().unwrap_or_default())?;
        let name = asked.portal.as_deref().ok_or_else(|| invalid("`portal` is missing"))?;
        let portal = visit.serving.named(name);
        let portal = portal.ok_or_else(|| Refusal::new(Denial::PortalUnknown, "no such portal"))?;
        let wish = self.wish(portal, &asked)?;
        let browser = self.browser_secret(visit)?;
        let mut response = match self.departure(visit, &wish, &browser).await {
            Ok(response) => response,
            Err(failure) => {
                let attempt = Attempt {
                    provider: Some(&wish.provider.name),
                    portal: Some(wish.portal),
                    return_to: Some(wish.return_to.as_str()),
                    subject: None,
                };
                self.login_failed(visit, &failure, attempt)
            }
        };
        let cookie = self.sessions.cookies.set_login(browser.expose());
        response.headers_mut().append(SET_COOKIE, cookie);
        Ok(response)
    }

    fn wish<'a>(&'a self, portal: &'a Portal, asked: &Asked) -> Result<Wish<'a>, Refusal> {
        let return_to = self.return_path(asked.rd.as_deref().unwrap_or(&portal.config.matches.path_prefix))?;
        let acr_values = asked.acr_values.clone();
        if acr_values.as_deref().is_some_and(|values| !is_acr(values)) {
            return Err(invalid("`acr_values` is malformed"));
        }
        Ok(Wish {
            provider: self.provider_of(portal, asked.provider.as_deref())?,
            portal: &portal.name,
            return_to,
            acr_values,
            max_age: asked.max_age.as_deref().map(seconds).transpose()?,
        })
    }

    /// The provider that is asked for, else the portal's own, else the only one that there is; never one that the portal does not
    /// trust.
    pub(super) fn provider_of(&self, portal: &Portal, wanted: Option<&str>) -> Result<&config::Provider, Refusal> {
        let active = portal.active.load_full().ok_or(Refusal::from(Denial::NoPolicyLoaded))?;
        let own = active.revision.file.login.as_ref().map(|by| by.provider.as_str());
        let trusted = |provider: &&config::Provider| portal.config.issuers.contains(&provider.issuer);
        if let Some(name) = wanted.or(own) {
            let provider = self.login.provider(name).filter(trusted);
            return provider.ok_or_else(|| invalid("the provider is not configured, or the portal does not trust its issuer"));
        }
        let mut all = self.config.login.providers.iter().filter(trusted);
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(invalid("this portal has no login (portal.yaml, `login.provider`)")),
            (Some(_), Some(_)) => Err(invalid("several providers; name one in portal.yaml (`login.provider`)")),
        }
    }

    /// The browser's own secret, or its first.
    pub(super) fn browser_secret(&self, visit: &Visit<'_>) -> Result<Redacted<[u8; 32]>, Refusal> {
        if let Some(known) = self.sessions.cookies.login(&visit.head.headers) {
            return Ok(known);
        }
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_unspecified| Refusal::new(Denial::StoreUnavailable, "no randomness"))?;
        Ok(Redacted::new(secret))
    }

    async fn departure(
        &self,
        visit: &Visit<'_>,
        wish: &Wish<'_>,
        browser: &Redacted<[u8; 32]>,
    ) -> Result<Response<Body>, LoginFailure> {
        self.check_loop(browser).await?;
        if let ProviderKind::Local(_) = wish.provider.kind {
            return Ok(self.login_page(
                visit,
                &LoginForm {
                    provider: &wish.provider.name,
                    portal: wish.portal,
                    return_to: wish.return_to.as_str(),
                    name: "",
                    browser,
                    failure: None,
                },
            ));
        }
        let begin = Begin {
            provider: &wish.provider.name,
            portal: wish.portal,
            return_to: wish.return_to.as_str(),
            acr_values: wish.acr_values.as_deref(),
            max_age: wish.max_age,
            browser,
        };
        let location = self.login.begin(begin).await?;
        see_other(&location).map_err(|refusal| LoginFailure::new(LoginCode::LoginInvalid, refusal.detail))
    }
}

impl Asked {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "portal" => &mut asked.portal,
                "rd" => &mut asked.rd,
                "provider" => &mut asked.provider,
                "acr_values" => &mut asked.acr_values,
                "max_age" => &mut asked.max_age,
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(invalid("a parameter is repeated"));
            }
        }
        Ok(asked)
    }
}

/// A script cannot follow to a provider; it is told so instead of being sent there.
fn check_navigation(headers: &HeaderMap) -> Result<(), Refusal> {
    let navigates = headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate");
    navigates
        .then_some(())
        .ok_or_else(|| invalid("only a navigation can log in (`sec-fetch-mode`)"))
}

fn is_acr(values: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    values.len() <= ACR_BYTES_MAX && values.split(' ').all(is_word)
}

fn seconds(text: &str) -> Result<u64, Refusal> {
    let digits = (1..=MAX_AGE_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let parsed = digits.then(|| text.parse().ok()).flatten();
    parsed.ok_or_else(|| invalid("`max_age` is no number of seconds"))
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}
