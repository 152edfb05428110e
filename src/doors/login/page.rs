//! Renders the pages: login form, portal chooser, failures, logged out.
//!
//! Plain HTML without scripts and without resources of other origins. Renders values that it is given; reads no state.

use bytes::Bytes;
use cedargate_policy::denial::{Denial, Refusal, over_limit};
use http::header::{ALLOW, REFRESH, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use uuid::Uuid;

use super::form_token::FormBinding;
use super::{Endpoint, ReturnPath};
use crate::accounts::{NAME_CHARS_MAX, PASSWORD_BYTES_MAX};
use crate::audit::LoginCode;
use crate::base::clock::rfc3339_seconds;
use crate::http::pages::{Html, Page, PageUser, Theme};
use crate::http::request::uuid_value;
use crate::http::upstream::Body;
use crate::login::LoginFailure;

/// `Retry-After` of a temporary failure, in seconds.
const RETRY_AFTER_SECONDS: u64 = 30;
/// Heading of the question before a logout.
const LOG_OUT: &str = "Log out?";

/// The values that all pages of one response need.
pub(super) struct Pages<'a> {
    pub theme: &'a Theme,
    /// `identity.prefix`.
    pub prefix: &'a str,
    pub decision_id: Uuid,
    /// Title of the portal that the page is about.
    pub portal: Option<String>,
}

/// The form of a local account. The response must set the login cookie from which `token` was made.
pub(super) struct LoginForm<'a> {
    pub portal_title: &'a str,
    /// The hidden fields, covered by `token`.
    pub binding: FormBinding<'a>,
    pub return_to: &'a ReturnPath,
    pub token: &'a str,
    /// The submitted name, shown again after a failure.
    pub name: &'a str,
    pub code: CodeField,
    pub failure: Option<&'a LoginFailure>,
}

/// The field of the form for a one-time code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum CodeField {
    /// No account of the provider has a second factor.
    Absent,
    Optional,
    /// A policy asked for a stronger login. Only the browser demands the code; policies decide what a login without it
    /// may do.
    Required,
}

/// A portal in the chooser.
#[derive(Clone, Debug)]
pub(super) struct PortalLink {
    pub title: String,
    /// A path of this origin, or the portal's URL at its own.
    pub href: String,
}

/// A provider in the chooser.
#[derive(Clone, Debug)]
pub(super) struct ProviderLink {
    pub title: String,
    /// A path of this origin.
    pub href: String,
}

/// One of the user's own sessions.
#[derive(Clone, Debug)]
pub(super) struct OwnSession {
    pub handle: String,
    pub portal_title: String,
    /// Unix seconds.
    pub began_at: i64,
    /// Unix seconds.
    pub used_at: i64,
    /// True for the session of this browser.
    pub is_current: bool,
}

/// The user's own sessions, as far as the gate found them.
#[derive(Clone, Debug)]
pub(super) struct OwnSessions {
    pub sessions: Vec<OwnSession>,
    /// True if there are no more.
    pub is_complete: bool,
}

/// The replicas that know the logout when the response is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LogoutReach {
    AllReplicas,
    /// The store did not take the revocation yet; other replicas may accept the session for some minutes.
    ThisReplica,
}

/// The text of a failure for the user.
struct FailureText {
    heading: &'static str,
    /// The cause, and the user's next step.
    text: &'static str,
}

const fn explain(code: LoginCode) -> FailureText {
    let (heading, text) = match code {
        LoginCode::LoginExpired => (
            "The login took too long",
            "The login was begun too long ago, or in another browser. Please begin again.",
        ),
        LoginCode::CookieMissing => (
            "Your browser sent no cookie",
            "Logging in needs a cookie of this site, and your browser did not send it. Allow cookies for this site, then begin again. If cookies are allowed, you may have begun at another address of this site, or in another browser.",
        ),
        LoginCode::LoginDenied => (
            "You were not logged in",
            "The login provider did not let you in. If you think that it should have, ask the administrator of your account.",
        ),
        LoginCode::LoginInvalid => (
            "The login could not be verified",
            "What the login provider answered could not be verified, so you were not logged in. Please try again; if it keeps happening, tell us the reference below.",
        ),
        LoginCode::ProviderUnavailable => (
            "The login provider does not answer",
            "This is usually over soon. Please try again in a moment.",
        ),
        LoginCode::LoginLoop => (
            "Logging in does not help here",
            "You were logged in several times in a row, and each time the page asked for another login. Your browser may be refusing cookies, or your account may not be meant for this page.",
        ),
        LoginCode::StepUpFailed => (
            "A stronger login is needed",
            "This page asks for a stronger login, such as a second factor, and the login provider did not confirm one.",
        ),
        LoginCode::StoreUnavailable => (
            "Logging in is not possible right now",
            "This is a problem on our side, and usually a short one. Please try again in a moment.",
        ),
        LoginCode::CredentialsInvalid => (
            "Name or password is wrong",
            "Check both and try again. Capital letters count in passwords.",
        ),
        LoginCode::RateLimited => (
            "Too many attempts",
            "There were too many attempts to log in. Wait a minute, then try again.",
        ),
    };
    FailureText { heading, text }
}

/// A time as `2026-01-31 23:59 UTC`.
fn utc(seconds: i64) -> String {
    let text = rfc3339_seconds(seconds);
    match text.split_once('T').and_then(|(date, time)| Some((date, time.get(..5)?))) {
        Some((date, time)) => format!("{date} {time} UTC"),
        None => text,
    }
}

const fn status(code: LoginCode) -> StatusCode {
    match code {
        LoginCode::LoginExpired | LoginCode::CookieMissing | LoginCode::LoginInvalid => StatusCode::BAD_REQUEST,
        LoginCode::CredentialsInvalid => StatusCode::UNAUTHORIZED,
        LoginCode::LoginDenied | LoginCode::LoginLoop | LoginCode::StepUpFailed => StatusCode::FORBIDDEN,
        LoginCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        LoginCode::ProviderUnavailable | LoginCode::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl CodeField {
    const fn html(self) -> &'static str {
        match self {
            Self::Absent => "",
            Self::Optional => {
                "<label for=\"code\">One-time code, if you have one</label><input id=\"code\" name=\"code\" type=\"text\" \
                 inputmode=\"numeric\" autocomplete=\"one-time-code\" maxlength=\"16\">"
            }
            Self::Required => {
                "<label for=\"code\">One-time code</label><input id=\"code\" name=\"code\" type=\"text\" \
                 inputmode=\"numeric\" autocomplete=\"one-time-code\" maxlength=\"16\" required>"
            }
        }
    }
}

impl Pages<'_> {
    pub fn login_form(&self, form: &LoginForm<'_>) -> Response<Body> {
        let mut content = Html::new();
        // without a title of the gate's own, the portal's title is the brand
        if self.theme.has_title() {
            content = content.raw("<p class=\"soft\">").text(form.portal_title).raw("</p>");
        }
        if let CodeField::Required = form.code {
            content = content.raw("<p class=\"soft\">This page needs a second factor: a code of your authenticator app.</p>");
        }
        let described = match form.failure {
            Some(failure) => {
                let explanation = explain(failure.code);
                content = content
                    .raw("<div class=\"error\" role=\"alert\" id=\"failure\"><strong>")
                    .text(explanation.heading)
                    .raw(".</strong> ")
                    .text(explanation.text)
                    .raw("</div>");
                " aria-describedby=\"failure\""
            }
            None => "",
        };
        let invalid = match form.failure.map(|failure| failure.code) {
            Some(LoginCode::CredentialsInvalid) => " aria-invalid=\"true\"",
            _ => "",
        };
        // the focus goes to the first empty field
        let name_focus = if form.name.is_empty() { " autofocus" } else { "" };
        let password_focus = if form.name.is_empty() { "" } else { " autofocus" };
        let mut content = content
            .raw("<form method=\"post\"")
            .attribute("action", &format!("{}/auth/local", self.prefix))
            .raw(">")
            .hidden("provider", form.binding.provider)
            .hidden("portal", form.binding.portal);
        for field in form.return_to.parameters() {
            content = content.hidden(field.name, &field.value);
        }
        content = content
            .hidden("token", form.token)
            .raw("<label for=\"name\">Name</label><input id=\"name\" name=\"name\" type=\"text\" autocomplete=\"username\" autocapitalize=\"none\" autocorrect=\"off\" spellcheck=\"false\" required")
            .attribute("maxlength", &NAME_CHARS_MAX.to_string())
            .attribute("value", form.name)
            .raw(name_focus)
            .raw(described)
            .raw(invalid)
            .raw("><label for=\"password\">Password</label><input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required")
            .attribute("maxlength", &PASSWORD_BYTES_MAX.to_string())
            .raw(password_focus)
            .raw(described)
            .raw(invalid)
            .raw(">")
            .raw(form.code.html())
            .raw("<button type=\"submit\">Log in</button></form>");
        let pages = Self {
            portal: Some(form.portal_title.to_owned()),
            ..*self
        };
        let Some(failure) = form.failure else {
            return pages.html(StatusCode::OK, "Log in", &content);
        };
        if let Some(limit) = failure.limit {
            content = content.for_operators(&over_limit(limit));
        }
        pages.html_of_failure(failure.code, "Log in", &content)
    }

    /// Explains why a login failed. The link to try again leads to `return_to`, a checked path of this origin.
    pub fn failure(&self, failure: &LoginFailure, return_to: Option<&str>, user: Option<&PageUser>) -> Response<Body> {
        let code = failure.code;
        let explanation = explain(code);
        let mut content = Html::new().paragraph(explanation.text);
        let chooser = self.chooser_address();
        content = content.button(return_to.unwrap_or(&chooser), "Try again");
        if let Some(user) = user {
            content = content.user(user);
        }
        if return_to.is_some() {
            content = content
                .raw("<p><a")
                .attribute("href", &chooser)
                .raw(">Choose another portal</a></p>");
        }
        // lets support find the record of the failure
        content = content
            .raw("<p class=\"small\">Reference <code>")
            .text(&self.decision_id.to_string())
            .raw("</code><br>Reason <code>")
            .text(code.as_str())
            .raw("</code></p>");
        if let Some(limit) = failure.limit {
            content = content.for_operators(&over_limit(limit));
        }
        self.html_of_failure(code, explanation.heading, &content)
    }

    /// Links to the portals of this host.
    pub fn chooser(&self, portals: &[PortalLink]) -> Response<Body> {
        let mut content = Html::new();
        if portals.is_empty() {
            content = content.paragraph("No portal at this address has a login.");
        } else {
            content = content.raw("<ul class=\"portals\">");
            for portal in portals {
                content = content.raw("<li><a").attribute("href", &portal.href).raw("><strong>");
                content = content.text(&portal.title).raw("</strong></a></li>");
            }
            content = content.raw("</ul>");
        }
        self.html(StatusCode::OK, "Choose a portal", &content)
    }

    /// Links to the ways to log in at one portal.
    pub fn provider_chooser(&self, portal_title: &str, providers: &[ProviderLink]) -> Response<Body> {
        let mut content = Html::new()
            .raw("<p class=\"soft\">")
            .text(portal_title)
            .raw("</p><ul class=\"portals\">");
        for provider in providers {
            content = content.raw("<li><a").attribute("href", &provider.href).raw("><strong>");
            content = content.text(&provider.title).raw("</strong></a></li>");
        }
        self.html(StatusCode::OK, "Choose how to log in", &content.raw("</ul>"))
    }

    /// Lists the user's own sessions, each with a button that ends it.
    pub fn own_sessions(&self, own: &OwnSessions) -> Response<Body> {
        let action = format!("{}/auth/sessions", self.prefix);
        let mut content = Html::new();
        if !own.is_complete {
            content =
                content.paragraph("There may be more sessions of yours than this list shows. Log out everywhere to end all.");
        }
        let mut content = content.raw("<ul class=\"portals\">");
        for session in &own.sessions {
            let label = if session.is_current {
                "This browser"
            } else {
                "Another browser"
            };
            content = content
                .raw("<li><strong>")
                .text(label)
                .raw("</strong><span class=\"small\">")
                .text(&session.portal_title)
                .raw("<br>Logged in ")
                .text(&utc(session.began_at))
                .raw("<br>Last used ")
                .text(&utc(session.used_at))
                .raw("</span><form method=\"post\"")
                .attribute("action", &action)
                .raw(">")
                .hidden("session", &session.handle)
                .raw("<button type=\"submit\"")
                .attribute("aria-label", &format!("End the session of {}", utc(session.began_at)))
                .raw(">End this session</button></form></li>");
        }
        content = content
            .raw("</ul><p class=\"small\"><br>If one of them is not yours, log out everywhere.</p><form method=\"post\"")
            .attribute("action", &action)
            .raw(">")
            .hidden("all", "true")
            .raw("<button type=\"submit\">Log out everywhere</button></form>");
        self.html(StatusCode::OK, "Your sessions", &content)
    }

    pub fn logged_out(&self, reach: LogoutReach) -> Response<Body> {
        let text = match reach {
            LogoutReach::AllReplicas => "You have been logged out, in all windows of this browser.",
            LogoutReach::ThisReplica => {
                "You have been logged out of this browser. Not every server knows it yet; it may take some minutes."
            }
        };
        let content = Html::new().paragraph(text).button(&self.chooser_address(), "Log in again");
        self.html(StatusCode::OK, "Logged out", &content)
    }

    /// Leads the browser to the provider's logout. `Refresh`, because a content security policy forbids the redirect of
    /// a form to another origin.
    pub fn logging_out(&self, location: &str) -> Result<Response<Body>, Refusal> {
        let content = Html::new()
            .paragraph("You have been logged out here. Your login provider ends its own session now.")
            .button(location, "Continue");
        let mut response = self.html(StatusCode::OK, "Logging out", &content);
        let refresh = HeaderValue::try_from(format!("0; url={location}"))
            .map_err(|_invalid| Refusal::new(Denial::RequestInvalid, "the provider's address is not a valid header value"))?;
        response.headers_mut().insert(REFRESH, refresh);
        Ok(response)
    }

    /// Says after a login that the address did not survive it.
    pub fn logged_in(&self, return_to: &str) -> Response<Body> {
        let content = Html::new()
            .paragraph("The address that you came from is too long, or has a form that a login cannot keep. Open your link again, or continue without the rest of it.")
            .button(return_to, "Continue");
        self.html(StatusCode::OK, "You are logged in", &content)
    }

    /// Asks a person whether to log out: a link of another site may have led here.
    pub fn confirm_logout(&self, return_to: Option<&ReturnPath>) -> Response<Body> {
        self.html(StatusCode::OK, LOG_OUT, &self.logout_button(return_to))
    }

    fn logout_button(&self, return_to: Option<&ReturnPath>) -> Html {
        let mut content = Html::new()
            .paragraph("You will be logged out, in all windows of this browser.")
            .raw("<form method=\"post\"")
            .attribute("action", &format!("{}/auth/logout", self.prefix))
            .raw(">")
            .hidden("from", "page");
        for parameter in return_to.into_iter().flat_map(ReturnPath::parameters) {
            content = content.hidden(parameter.name, &parameter.value);
        }
        content.raw("<button type=\"submit\">Log out</button></form>")
    }

    /// 405 for a person; at the logout with the button that logs out.
    pub fn method_not_allowed(&self, methods: &'static str, endpoint: Endpoint<'_>) -> Response<Body> {
        let (heading, content) = if endpoint == Endpoint::Logout {
            (LOG_OUT, self.logout_button(None))
        } else {
            let content = Html::new()
                .paragraph("This address is for forms and programs. A link cannot open it.")
                .button(&self.chooser_address(), "Choose a portal");
            ("This address does not work", content)
        };
        let mut response = self.html(StatusCode::METHOD_NOT_ALLOWED, heading, &content);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        response
    }

    fn chooser_address(&self) -> String {
        format!("{}/portals/", self.prefix)
    }

    fn html_of_failure(&self, code: LoginCode, heading: &str, content: &Html) -> Response<Body> {
        let mut response = self.html(status(code), heading, content);
        if matches!(
            code,
            LoginCode::RateLimited | LoginCode::StoreUnavailable | LoginCode::ProviderUnavailable
        ) {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }

    fn html(&self, status: StatusCode, heading: &str, content: &Html) -> Response<Body> {
        let html = self.theme.page(&Page {
            portal: self.portal.as_deref(),
            heading,
            content,
        });
        let mut response = Response::new(Body::full(Bytes::from(html)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        self.theme.headers(headers);
        headers.insert("x-cedargate-decision-id", uuid_value(self.decision_id));
        response
    }
}
