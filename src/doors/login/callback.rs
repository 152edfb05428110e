//! `GET auth/callback`: the browser comes back from the provider.
//!
//! A callback counts once, in the browser that began the login. One that comes again (a reload, the back button) goes on to
//! where it wanted if the browser has a session by now, and begins again if not. So does one that another browser began.

use http::{Method, Response};
use url::form_urlencoded;

use super::outcome::Attempt;
use super::{IdentityDoor, Visit, not_allowed, see_other};
use crate::denial::{Denial, Refusal};
use crate::http::upstream::Body;
use crate::login::{About, Callback, LoginCode, LoginFailure, Outcome};
use crate::session::SessionError;

impl IdentityDoor {
    pub(super) async fn callback(&self, visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        // a HEAD must not use up what the GET after it needs
        if visit.head.method != Method::GET {
            return Ok(not_allowed("GET"));
        }
        let browser = self.sessions.cookies.login(&visit.head.headers);
        let callback = Callback {
            query: visit.head.uri.query().unwrap_or_default(),
            browser: browser.as_ref(),
        };
        match self.login.finish(callback).await {
            Ok(Outcome::Finished(finished)) => {
                let (provider, return_to) = (finished.data.provider.clone(), self.return_path(&finished.return_to)?);
                let established = self.establish(visit, finished.data, &return_to).await;
                Ok(established.unwrap_or_else(|failure| {
                    let attempt = Attempt {
                        provider: Some(&provider),
                        portal: Some(&finished.portal),
                        return_to: Some(return_to.as_str()),
                        subject: None,
                    };
                    self.login_failed(visit, &failure, attempt)
                }))
            }
            Ok(Outcome::Repeated { return_to, portal }) => self.repeated(visit, &portal, &return_to).await,
            Ok(Outcome::Elsewhere { about, why }) => self.elsewhere(visit, about, why).await,
            Err(failure) => Ok(self.login_failed(visit, &failure, Attempt::default())),
        }
    }

    /// The callback of a login that this browser cannot finish: of several tabs that began without a cookie, or of somebody
    /// else. The browser goes where it wanted if it has a session by now, or begins again as itself.
    ///
    /// SECURITY: neither the code nor whoever it is about counts, so nobody is logged in as somebody else this way.
    async fn elsewhere(&self, visit: &Visit<'_>, about: About, why: &'static str) -> Result<Response<Body>, Refusal> {
        let return_to = self.return_path(&about.return_to)?;
        let failure = match self.usable_session(visit).await {
            Ok(()) => return see_other(return_to.as_str()),
            Err(error @ SessionError::Unavailable(_)) => LoginFailure::new(LoginCode::StoreUnavailable, error.to_string()),
            // a browser that keeps no cookie would begin again for ever
            Err(_) if self.sessions.cookies.login(&visit.head.headers).is_none() => {
                LoginFailure::new(LoginCode::LoginExpired, why)
            }
            Err(_) => {
                self.count_for_loop(visit).await;
                return self.begin_again(&[
                    ("portal", &about.portal),
                    ("provider", &about.provider),
                    ("rd", return_to.as_str()),
                ]);
            }
        };
        let attempt = Attempt {
            provider: Some(&about.provider),
            portal: Some(&about.portal),
            return_to: Some(return_to.as_str()),
            subject: None,
        };
        Ok(self.login_failed(visit, &failure, attempt))
    }

    async fn usable_session(&self, visit: &Visit<'_>) -> Result<(), SessionError> {
        match self.sessions.cookies.session(&visit.head.headers) {
            Some(id) => self.sessions.find(&id).await.map(|_| ()),
            None => Err(SessionError::Missing),
        }
    }

    fn begin_again(&self, wish: &[(&str, &str)]) -> Result<Response<Body>, Refusal> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(wish).finish();
        see_other(&format!("{}/auth/login?{query}", self.config.identity.prefix))
    }

    async fn repeated(&self, visit: &Visit<'_>, portal: &str, return_to: &str) -> Result<Response<Body>, Refusal> {
        let return_to = self.return_path(return_to)?;
        match self.usable_session(visit).await {
            Ok(()) => see_other(return_to.as_str()),
            Err(SessionError::Missing | SessionError::Expired | SessionError::Revoked | SessionError::OtherKey) => {
                self.begin_again(&[("portal", portal), ("rd", return_to.as_str())])
            }
            Err(error @ SessionError::Unavailable(_)) => {
                let failure = LoginFailure::new(LoginCode::StoreUnavailable, error.to_string());
                let attempt = Attempt {
                    portal: Some(portal),
                    return_to: Some(return_to.as_str()),
                    ..Attempt::default()
                };
                Ok(self.login_failed(visit, &failure, attempt))
            }
        }
        .map_err(|refusal: Refusal| Refusal::new(Denial::RequestInvalid, refusal.detail))
    }
}
