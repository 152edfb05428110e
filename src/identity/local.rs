//! `POST auth/local`: the form of a local account.
//!
//! Only from a form that this origin showed this browser: the request must come from here, and carry a token that only the
//! browser's login cookie can have made. Whatever is wrong with name or password, the answer is the same.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::Incoming;
use serde_json::json;

use super::page::LoginForm;
use super::{IdentityDoor, Visit, form, see_other};
use crate::audit::{AuthEvent, Event};
use crate::config::ProviderKind;
use crate::denial::{Denial, Refusal};
use crate::login::accounts::Account;
use crate::login::{LoginCode, LoginFailure};
use crate::portal::path::CanonicalPath;
use crate::session::{Session, SessionData, SessionId};
use crate::types::Redacted;
use crate::upstream::Body;

/// Bytes of a return path.
const RETURN_PATH_BYTES_MAX: usize = 2048;
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

/// Who may answer the form, and for what.
struct Asked {
    issuer: String,
    /// Unix milliseconds from before anything was looked up: a change of the account from then on ends the session.
    at: i64,
}

impl IdentityDoor {
    pub(super) async fn local_login(&self, visit: &Visit<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        if !is_same_origin(&visit.head.headers, self.config.public_url.as_deref()) {
            return Err(Refusal::new(Denial::OriginMismatch, "the login form was sent from elsewhere"));
        }
        let filled = Filled::read(form(visit.head, body).await?)?;
        let asked = self.asked(visit, &filled)?;
        match self.log_in(visit, &filled, &asked).await {
            Ok((id, session)) => {
                self.told(visit, &filled, Ok(&session));
                let mut response = see_other(&filled.return_to)?;
                response
                    .headers_mut()
                    .append(SET_COOKIE, self.sessions.cookies.set_session(&id));
                Ok(response)
            }
            Err(failure) => {
                self.told(visit, &filled, Err(&failure));
                let form = LoginForm {
                    failure: Some(failure.code),
                    ..filled.as_form()
                };
                Ok(self.login_page(visit, &form))
            }
        }
    }

    /// The secret of this browser's logins under way; a new one if it has none.
    pub(super) fn browser(&self, visit: &Visit<'_>) -> Redacted<[u8; 32]> {
        self.sessions.cookies.login(&visit.head.headers).unwrap_or_else(|| {
            let mut secret = [0; 32];
            // a secret of zeros would be one that everybody knows; the form it is for is then refused
            let _no_random_numbers = aws_lc_rs::rand::fill(&mut secret).is_err();
            Redacted::new(secret)
        })
    }

    /// No form of ours asks for anything else.
    fn asked(&self, visit: &Visit<'_>, filled: &Filled) -> Result<Asked, Refusal> {
        let invalid = |detail: &'static str| Refusal::new(Denial::RequestInvalid, detail);
        return_path(&filled.return_to, &self.config.identity.prefix).ok_or_else(|| invalid("`rd` is no path of this origin"))?;
        let portal = visit.serving.named(&filled.portal).ok_or_else(|| invalid("no such portal"))?;
        let provider = self.config.login.providers.iter().find(|one| *one.name == *filled.provider);
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
            issuer: issuer.name.to_string(),
            at: now_millis(),
        })
    }

    async fn log_in(&self, visit: &Visit<'_>, filled: &Filled, asked: &Asked) -> Result<(SessionId, Arc<Session>), LoginFailure> {
        let browser = self.sessions.cookies.login(&visit.head.headers);
        let expired = |detail: &str| LoginFailure::new(LoginCode::LoginExpired, detail);
        let browser = browser.ok_or_else(|| expired("the browser has no login cookie"))?;
        if !is_token_of(&browser, &filled.as_form(), &filled.token) {
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
        self.end_earlier(visit).await;
        let unavailable = |error: crate::session::StoreError| LoginFailure::new(LoginCode::StoreUnavailable, error.to_string());
        self.sessions.create(data(filled, asked, &account)).await.map_err(unavailable)
    }

    /// The session that the browser has is not kept beside the new one.
    async fn end_earlier(&self, visit: &Visit<'_>) {
        let Some(id) = self.sessions.cookies.session(&visit.head.headers) else {
            return;
        };
        if let Ok(session) = self.sessions.find(&id).await
            && let Err(error) = self.sessions.end(&session).await
        {
            tracing::warn!(%error, "an earlier session of the browser was not ended");
        }
    }

    fn told(&self, visit: &Visit<'_>, filled: &Filled, outcome: Result<&Session, &LoginFailure>) {
        let (result, reason) = match outcome {
            Ok(_) => ("success", "password"),
            Err(failure) => ("failure", failure.code.code()),
        };
        let label = outcome.map_or_else(|failure| failure.code.code(), |_| "success");
        self.metrics.logins.with_label_values(&[&filled.provider, label]).inc();
        let claim = |name: &str| outcome.ok()?.data.claims.get(name)?.as_str().map(str::to_owned);
        // SECURITY: people type passwords into the wrong field; only what is a name is recorded
        let is_name = self.accounts.current(&filled.provider, &filled.name).is_some();
        self.audit.send(Event::Auth(Box::new(AuthEvent {
            event: "login",
            result,
            reason,
            detail: outcome.err().map(|failure| failure.detail.clone()),
            portal: Some(Arc::from(filled.portal.as_str())),
            provider: Some(Arc::from(filled.provider.as_str())),
            issuer: Some(Arc::from(filled.provider.as_str())),
            subject: is_name.then(|| filled.name.clone()),
            tenant: claim("tenant"),
            session: outcome.ok().map(|session| session.handle.to_hex()),
            client: Some(visit.client.source_ip),
            decision_id: Some(visit.decision_id),
        })));
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

    fn as_form(&self) -> LoginForm<'_> {
        LoginForm {
            provider: &self.provider,
            portal: &self.portal,
            return_to: &self.return_to,
            name: &self.name,
            failure: None,
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
        rotation_due: false,
    }
}

/// What only this browser's secret makes of this form.
pub(super) fn form_token(browser: &Redacted<[u8; 32]>, form: &LoginForm<'_>) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(&token_key(browser), &token_input(form)))
}

fn is_token_of(browser: &Redacted<[u8; 32]>, form: &LoginForm<'_>, token: &str) -> bool {
    // a browser that has no secret of its own proves nothing
    let is_secret = browser.expose() != &[0; 32];
    let decoded = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    is_secret && hmac::verify(&token_key(browser), &token_input(form), &decoded).is_ok()
}

fn token_key(browser: &Redacted<[u8; 32]>) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, browser.expose())
}

fn token_input(form: &LoginForm<'_>) -> Vec<u8> {
    let mut input = TOKEN_LABEL.to_vec();
    for part in [form.provider, form.portal, form.return_to] {
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    input
}

/// A path of this origin that a browser may be sent to, with its query; nothing else, and nothing is repaired.
fn return_path<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (path, query) = text.split_once('?').map_or((text, ""), |(path, query)| (path, query));
    let canonical = CanonicalPath::parse(path).ok()?;
    let id = canonical.plain_id();
    let own = id
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let plain = text.len() <= RETURN_PATH_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#');
    let encoded: Vec<u8> = percent_encoding::percent_decode_str(query).collect();
    let controls = encoded.iter().any(u8::is_ascii_control);
    (plain && !own && !controls && canonical.as_str() == path).then_some(text)
}

/// The browser says that a page of this very origin sent the request.
fn is_same_origin(headers: &HeaderMap, public_url: Option<&str>) -> bool {
    let only = |name: &http::HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
    };
    let site = only(&http::HeaderName::from_static("sec-fetch-site"));
    let origin = only(&ORIGIN);
    site == Some(b"same-origin") || (origin.is_some() && origin == public_url.map(str::as_bytes))
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
    fn only_paths_of_this_origin_are_returned_to() {
        let prefix = "/api/v1/identity";
        for good in [
            "/",
            "/portal/x",
            "/portal/x?a=b&c=%20d",
            "/a/b%20c",
            "/api/v1/identityx",
            "/p?next=https://x.test/",
        ] {
            assert_eq!(return_path(good, prefix), Some(good), "{good}");
        }
        let long = format!("/{}", "a".repeat(2048));
        for bad in [
            "",
            "x",
            "//evil.test",
            "///evil.test",
            "/\\evil.test",
            "\\\\evil.test",
            "/a\\b",
            "https://evil.test",
            "javascript:alert(1)",
            "/%09/evil.test",
            "/\t/evil.test",
            " /x",
            "/x ",
            "/x\n",
            "/x\r\nset-cookie: a=b",
            "/%0a",
            "/x?a=%0d%0a",
            "/x?a=\0",
            "/x#f",
            "/%2f%2fevil.test",
            "/%5cevil.test",
            "/./x",
            "/../x",
            "/a//b",
            "/%2e%2e/x",
            "/ä",
            "/%61",
            "?x",
            "/;/evil",
            "/api/v1/identity",
            "/api/v1/identity/auth/logout",
            "/api/v1/identity?x",
            "/%EF%BC%8Fevil.test?\u{a0}",
            &long,
        ] {
            assert_eq!(return_path(bad, prefix), None, "{bad:?}");
        }
    }

    #[test]
    fn a_form_counts_only_with_the_secret_and_the_fields_it_was_made_with() {
        let form = |portal, return_to| LoginForm {
            provider: "local",
            portal,
            return_to,
            name: "",
            failure: None,
        };
        let (mine, other, none) = (Redacted::new([1; 32]), Redacted::new([2; 32]), Redacted::new([0; 32]));
        let token = form_token(&mine, &form("a", "/b"));
        assert!(is_token_of(&mine, &form("a", "/b"), &token));
        assert!(!is_token_of(&other, &form("a", "/b"), &token));
        assert!(!is_token_of(&mine, &form("a", "/c"), &token));
        assert!(!is_token_of(&mine, &form("a/", "b"), &token));
        for bad in ["", "AAAA", &format!("{token}A"), "%"] {
            assert!(!is_token_of(&mine, &form("a", "/b"), bad), "{bad}");
        }
        let weak = form_token(&none, &form("a", "/b"));
        assert!(!is_token_of(&none, &form("a", "/b"), &weak));
    }

    #[test]
    fn evidence_of_the_same_origin_is_exact() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_same_origin(&headers, Some("https://shop.test"))
        };
        assert!(of(&[("sec-fetch-site", "same-origin")]));
        assert!(of(&[("origin", "https://shop.test")]));
        for bad in [
            &[][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-origin")],
            &[("origin", "null")],
            &[("origin", "https://shop.test.evil.test")],
            &[("origin", "https://SHOP.test")],
            &[("origin", "https://shop.test"), ("origin", "https://evil.test")],
        ] {
            assert!(!of(bad), "{bad:?}");
        }
        assert!(!is_same_origin(&HeaderMap::new(), None));
    }
}
