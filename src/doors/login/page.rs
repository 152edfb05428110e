//! The pages: login form, portal chooser, what went wrong. Plain HTML, no script, nothing from elsewhere.

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use super::local::form_token;
use super::{IdentityDoor, Visit};
use crate::http::pages::Html;
use crate::http::request::uuid_value;
use crate::http::upstream::Body;
use crate::login::LoginCode;
use crate::login::accounts::{NAME_CHARS_MAX, PASSWORD_BYTES_MAX};
use crate::types::Redacted;

/// What `Retry-After` says when nobody knows better, in seconds.
const RETRY_AFTER_SECONDS: u64 = 30;

/// What the page of a local login shows.
pub(super) struct LoginForm<'a> {
    pub provider: &'a str,
    pub portal: &'a str,
    pub return_to: &'a str,
    /// Shown again after a failure.
    pub name: &'a str,
    pub failure: Option<LoginCode>,
    /// Of the browser's login cookie.
    pub browser: &'a Redacted<[u8; 32]>,
}

/// One portal to choose.
#[derive(Clone, Debug)]
pub(super) struct PortalCard {
    pub slug: String,
    pub title: String,
    /// Of this origin.
    pub href: String,
}

/// What a person reads of a failure: what happened, and what to do.
const fn explained(code: LoginCode) -> (&'static str, &'static str) {
    match code {
        LoginCode::LoginExpired => (
            "The login took too long",
            "The login was begun too long ago, or in another browser. Please begin again.",
        ),
        LoginCode::LoginDenied => (
            "You were not logged in",
            "The login provider did not let you in. If you think that it should have, ask whoever manages your account.",
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
    }
}

/// The status of a page that says so.
const fn status(code: LoginCode) -> StatusCode {
    match code {
        LoginCode::LoginExpired | LoginCode::LoginInvalid => StatusCode::BAD_REQUEST,
        LoginCode::CredentialsInvalid => StatusCode::UNAUTHORIZED,
        LoginCode::LoginDenied | LoginCode::LoginLoop | LoginCode::StepUpFailed => StatusCode::FORBIDDEN,
        LoginCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        LoginCode::ProviderUnavailable | LoginCode::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IdentityDoor {
    /// The form of a local account, bound to the browser's login cookie; whoever shows it sets the cookie, or sets it again.
    pub(super) fn login_page(&self, visit: &Visit<'_>, form: &LoginForm<'_>) -> Response<Body> {
        let mut content = Html::new();
        let title = self.portal_title(visit, form.portal);
        content = content.raw("<p class=\"soft\">").text(&title).raw("</p>");
        let described = match form.failure {
            Some(code) => {
                let (what, then) = explained(code);
                content = content
                    .raw("<div class=\"error\" role=\"alert\" id=\"failure\"><strong>")
                    .text(what)
                    .raw(".</strong> ")
                    .text(then)
                    .raw("</div>");
                " aria-describedby=\"failure\""
            }
            None => "",
        };
        let invalid = match form.failure {
            Some(LoginCode::CredentialsInvalid) => " aria-invalid=\"true\"",
            _ => "",
        };
        // the first field that is not filled in
        let (on_name, on_password) = if form.name.is_empty() {
            (" autofocus", "")
        } else {
            ("", " autofocus")
        };
        let content = content
            .raw("<form method=\"post\"")
            .attribute("action", &format!("{}/auth/local", self.config.identity.prefix))
            .raw(">")
            .hidden("provider", form.provider)
            .hidden("portal", form.portal)
            .hidden("rd", form.return_to)
            .hidden("token", &form_token(form))
            .raw("<label for=\"name\">Name</label><input id=\"name\" name=\"name\" type=\"text\" autocomplete=\"username\" autocapitalize=\"none\" autocorrect=\"off\" spellcheck=\"false\" required")
            .attribute("maxlength", &NAME_CHARS_MAX.to_string())
            .attribute("value", form.name)
            .raw(on_name)
            .raw(described)
            .raw(invalid)
            .raw("><label for=\"password\">Password</label><input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required")
            .attribute("maxlength", &PASSWORD_BYTES_MAX.to_string())
            .raw(on_password)
            .raw(described)
            .raw(invalid)
            .raw("><button type=\"submit\">Log in</button></form>");
        let status = form.failure.map_or(StatusCode::OK, status);
        self.html((status, form.failure), visit, "Log in", &content)
    }

    /// Why a login did not come to its end, and a way to try again: `return_to` is where the browser wanted to go, a checked
    /// path of this origin.
    pub(super) fn failure_page(&self, visit: &Visit<'_>, code: LoginCode, return_to: Option<&str>) -> Response<Body> {
        let (heading, explanation) = explained(code);
        let mut content = Html::new().paragraph(explanation);
        let portals = format!("{}/portals/", self.config.identity.prefix);
        content = content
            .raw("<p><a class=\"button\"")
            .attribute("href", return_to.unwrap_or(&portals))
            .raw(">Try again</a></p>");
        let content = reference(content, visit, Some(code));
        self.html((status(code), Some(code)), visit, heading, &content)
    }

    /// Where one can go from here.
    pub(super) fn chooser_page(&self, visit: &Visit<'_>, portals: &[PortalCard]) -> Response<Body> {
        let mut content = Html::new();
        if portals.is_empty() {
            content = content.paragraph("There is nothing to choose from here.");
        } else {
            content = content.raw("<ul class=\"portals\">");
            for card in portals {
                content = content.raw("<li><a").attribute("href", &card.href).raw("><strong>");
                content = content.text(&card.title).raw("</strong><span class=\"small\">");
                content = content.text(&card.slug).raw("</span></a></li>");
            }
            content = content.raw("</ul>");
        }
        self.html((StatusCode::OK, None), visit, "Choose a portal", &content)
    }

    /// After a logout that leads nowhere else.
    pub(super) fn logged_out_page(&self, visit: &Visit<'_>, everywhere: bool) -> Response<Body> {
        let done = match everywhere {
            true => "You have been logged out, in all windows of this browser.",
            false => "You have been logged out of this browser. Not every server knows it yet; it may take some minutes.",
        };
        let content = Html::new()
            .paragraph(done)
            .raw("<p><a class=\"button\"")
            .attribute("href", &format!("{}/portals/", self.config.identity.prefix))
            .raw(">Log in again</a></p>");
        self.html((StatusCode::OK, None), visit, "Logged out", &content)
    }

    /// A portal's own title, or its name.
    pub(super) fn portal_title(&self, visit: &Visit<'_>, portal: &str) -> String {
        let active = visit.serving.named(portal).and_then(|portal| portal.active.load_full());
        active
            .and_then(|active| active.revision.file.title.clone())
            .unwrap_or_else(|| portal.to_owned())
    }

    fn html(
        &self,
        (status, failure): (StatusCode, Option<LoginCode>),
        visit: &Visit<'_>,
        heading: &str,
        content: &Html,
    ) -> Response<Body> {
        let mut response = Response::new(Body::full(Bytes::from(self.theme.page(heading, content))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        self.theme.headers(headers);
        headers.insert("x-cedargate-decision-id", uuid_value(visit.decision_id));
        if matches!(
            failure,
            Some(LoginCode::RateLimited | LoginCode::StoreUnavailable | LoginCode::ProviderUnavailable)
        ) {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// What somebody who is asked for help can find in the log.
fn reference(content: Html, visit: &Visit<'_>, code: Option<LoginCode>) -> Html {
    let content = content.raw("<p class=\"small\">Reference <code>");
    let content = content.text(&visit.decision_id.to_string()).raw("</code>");
    match code {
        Some(code) => content.raw("<br>Reason <code>").text(code.code()).raw("</code></p>"),
        None => content.raw("</p>"),
    }
}
