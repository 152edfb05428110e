//! `POST auth/local`: the form of a local account.
//!
//! Only from a form that this origin showed this browser: the request must come from here, and carry a token that only the
//! browser's login cookie can have made. Whatever is wrong with name or password, the answer is the same.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use http::header::SET_COOKIE;
use hyper::body::Incoming;
use serde_json::json;

use super::outcome::Attempt;
use super::page::LoginForm;
use super::{IdentityDoor, ReturnPath, Visit, form};
use crate::config::ProviderKind;
use crate::denial::{Denial, Refusal};
use crate::http::request::same_origin;
use crate::http::upstream::Body;
use crate::login::accounts::Account;
use crate::login::{LoginCode, LoginFailure};
use crate::session::SessionData;
use crate::types::Redacted;

const TOKEN_LABEL: &[u8] = b"cedargate login form";

/// What a browser filled in.
struct Filled {
    provider: String,
    portal: String,
    return_to: String,
    name: String,
    password: Redacted<String>,
    token: String,
}

/// For what the form was, checked.
struct Asked {
    issuer: String,
    return_to: ReturnPath,
    /// Unix milliseconds from before anything was looked up: a change of the account from then on ends the session.
    at: i64,
}

impl IdentityDoor {
    pub(super) async fn local_login(&self, visit: &Visit<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        same_origin(&visit.head.headers, self.config.public_url.as_deref())?;
        let filled = Filled::read(form(visit.head, body).await?)?;
        let asked = self.asked(visit, &filled)?;
        // a browser without a secret of its own gets one with the form that it is shown again
        let browser = self.browser_secret(visit)?;
        match self.log_in(visit, &filled, &asked).await {
            Ok(response) => Ok(response),
            Err(failure) => {
                // SECURITY: people type passwords into the wrong field; only what is a name is recorded
                let known = self.accounts.current(&filled.provider, &filled.name);
                let attempt = Attempt {
                    provider: Some(&filled.provider),
                    portal: Some(&filled.portal),
                    subject: known.as_ref().map(|account| account.name.as_str()),
                    ..Attempt::default()
                };
                self.record_failure(visit, &failure, attempt);
                let shown = LoginForm {
                    failure: Some(failure.code),
                    ..filled.as_form(&browser)
                };
                let mut response = self.login_page(visit, &shown);
                let cookie = self.sessions.cookies.set_login(browser.expose());
                response.headers_mut().append(SET_COOKIE, cookie);
                Ok(response)
            }
        }
    }

    /// No form of ours asks for anything else.
    fn asked(&self, visit: &Visit<'_>, filled: &Filled) -> Result<Asked, Refusal> {
        let invalid = |detail: &'static str| Refusal::new(Denial::RequestInvalid, detail);
        let return_to = self.return_path(&filled.return_to)?;
        let portal = visit.serving.named(&filled.portal).ok_or_else(|| invalid("no such portal"))?;
        let provider = self.login.provider(&filled.provider);
        let provider = provider.filter(|one| matches!(one.kind, ProviderKind::Local(_)));
        let provider = provider.ok_or_else(|| invalid("no such provider of local accounts"))?;
        if !portal.config.issuers.contains(&provider.issuer) {
            return Err(invalid("the portal does not trust the provider"));
        }
        let issuer = self
            .config
            .issuers
            .get(provider.issuer)
            .ok_or_else(|| invalid("no such issuer"))?;
        Ok(Asked {
            issuer: issuer.scope.name.to_string(),
            return_to,
            at: now_millis(),
        })
    }

    async fn log_in(&self, visit: &Visit<'_>, filled: &Filled, asked: &Asked) -> Result<Response<Body>, LoginFailure> {
        let expired = |detail: &str| LoginFailure::new(LoginCode::LoginExpired, detail);
        let browser = self.sessions.cookies.login(&visit.head.headers);
        let browser = browser.ok_or_else(|| expired("the browser has no login cookie"))?;
        if !is_token_of(&filled.as_form(&browser), &filled.token) {
            return Err(expired("the form was shown to another browser, or for something else"));
        }
        let (provider, name) = (filled.provider.as_str(), filled.name.as_str());
        let from = visit.client.source_ip;
        let account = self.accounts.check(provider, name, filled.password.expose(), from).await?;
        if !account.may_use(&filled.portal) {
            return Err(LoginFailure::new(
                LoginCode::CredentialsInvalid,
                "the account may not use this portal",
            ));
        }
        self.establish(visit, data(filled, asked, &account), &asked.return_to).await
    }
}

impl Filled {
    fn read(fields: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut fields: std::collections::BTreeMap<String, String> = fields.into_iter().collect();
        let mut take = |name: &'static str| {
            let missing = || Refusal::new(Denial::RequestInvalid, format!("the form has no `{name}`"));
            fields.remove(name).ok_or_else(missing)
        };
        Ok(Self {
            provider: take("provider")?,
            portal: take("portal")?,
            return_to: take("rd")?,
            name: take("name")?,
            password: Redacted::new(take("password")?),
            token: take("token")?,
        })
    }

    fn as_form<'a>(&'a self, browser: &'a Redacted<[u8; 32]>) -> LoginForm<'a> {
        LoginForm {
            provider: &self.provider,
            portal: &self.portal,
            return_to: &self.return_to,
            name: &self.name,
            failure: None,
            browser,
        }
    }
}

fn data(filled: &Filled, asked: &Asked, account: &Account) -> SessionData {
    let mut claims = account.claims.as_ref().clone();
    claims.insert("auth_time".to_owned(), json!(asked.at / 1000));
    claims.insert("amr".to_owned(), json!(["pwd"]));
    SessionData {
        provider: filled.provider.clone(),
        issuer: asked.issuer.clone(),
        subject: account.name.clone(),
        portal: filled.portal.clone(),
        claims: Arc::new(claims),
        created_at: asked.at,
        idp_session: None,
        grant: None,
        portals: account.portals.clone(),
        rotation_due: false,
    }
}

/// What only this browser's secret makes of this form.
pub(super) fn form_token(form: &LoginForm<'_>) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(&token_key(form), &token_input(form)))
}

fn is_token_of(form: &LoginForm<'_>, token: &str) -> bool {
    let decoded = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    hmac::verify(&token_key(form), &token_input(form), &decoded).is_ok()
}

fn token_key(form: &LoginForm<'_>) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, form.browser.expose())
}

fn token_input(form: &LoginForm<'_>) -> Vec<u8> {
    let mut input = TOKEN_LABEL.to_vec();
    for part in [form.provider, form.portal, form.return_to] {
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    input
}

fn now_millis() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_counts_only_with_the_secret_and_the_fields_it_was_made_with() {
        let (mine, other) = (Redacted::new([1; 32]), Redacted::new([2; 32]));
        let form = |browser, portal, return_to| LoginForm {
            provider: "local",
            portal,
            return_to,
            name: "",
            failure: None,
            browser,
        };
        let token = form_token(&form(&mine, "a", "/b"));
        assert!(is_token_of(&form(&mine, "a", "/b"), &token));
        assert!(!is_token_of(&form(&other, "a", "/b"), &token));
        assert!(!is_token_of(&form(&mine, "a", "/c"), &token));
        assert!(!is_token_of(&form(&mine, "a/", "b"), &token));
        for bad in ["", "AAAA", &format!("{token}A"), "%"] {
            assert!(!is_token_of(&form(&mine, "a", "/b"), bad), "{bad}");
        }
    }
}
