//! The page of a refusal, for a person in a browser: what happened, what to do, and the ways on.
//!
//! The texts are fixed and follow from status and code. A page names the user and links to login, logout and chooser as
//! far as the gate knows them (`PageLinks`), so that no page is a dead end.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{AnswerContext, PublicText};
use crate::http::pages::{Html, Page, PageUser};
use crate::http::upstream::Body;

/// Where a person can go from a page. Addresses are paths of this origin.
#[derive(Clone, Debug, Default)]
pub struct PageLinks {
    /// Title of the portal.
    pub portal: Option<String>,
    /// The login of the portal, if a login may help.
    pub login: Option<String>,
    /// The user of the session.
    pub user: Option<PageUser>,
    /// The list of the portals.
    pub chooser: Option<String>,
}

/// What happened, for a person.
struct FailureText {
    heading: &'static str,
    text: &'static str,
    /// True if the same request may succeed later.
    is_temporary: bool,
}

pub(super) fn page(text: &PublicText<'_>, answer: &AnswerContext) -> Response<Body> {
    let none = PageLinks::default();
    let ways = answer.page_links.as_deref().unwrap_or(&none);
    let explanation = explain(text, ways);
    let mut content = Html::new().paragraph(explanation.text);
    if let Some(advice) = text.advice {
        content = content.paragraph(advice);
    }
    if explanation.is_temporary {
        // an empty `href` is the address of the page itself
        content = content.button("", "Try again");
    }
    content = match (&ways.login, &ways.user, &ways.chooser) {
        (Some(login), None, _) if text.status == StatusCode::UNAUTHORIZED => content.button(login, "Log in"),
        (_, _, Some(chooser)) if text.status == StatusCode::NOT_FOUND => content.button(chooser, "Choose a portal"),
        _ => content,
    };
    if let Some(user) = &ways.user {
        content = content.user(user);
    }
    if let Some(chooser) = ways.chooser.as_ref().filter(|_| text.status != StatusCode::NOT_FOUND) {
        content = content
            .raw("<p><a")
            .attribute("href", chooser)
            .raw(">Choose another portal</a></p>");
    }
    content = content.raw("<p class=\"small\">Reason: ");
    // the title of a 401 is about tokens, which a person does not send
    if text.status != StatusCode::UNAUTHORIZED {
        content = content.text(text.title).raw(" ");
    }
    content = content
        .raw("<code>")
        .text(text.code)
        .raw("</code><br>Reference <code>")
        .text(&answer.decision_id.to_string())
        .raw("</code></p>");
    if let Some(detail) = &text.detail {
        content = content.for_operators(detail);
    }
    let html = answer.theme.page(&Page {
        portal: ways.portal.as_deref(),
        heading: explanation.heading,
        content: &content,
    });
    let mut response = Response::new(Body::full(Bytes::from(html)));
    *response.status_mut() = text.status;
    answer.theme.headers(response.headers_mut());
    response
}

fn explain(text: &PublicText<'_>, ways: &PageLinks) -> FailureText {
    let lasting = |heading, text| FailureText {
        heading,
        text,
        is_temporary: false,
    };
    let temporary = |heading, text| FailureText {
        heading,
        text,
        is_temporary: true,
    };
    match text.status {
        StatusCode::BAD_REQUEST => lasting(
            "This address does not work",
            "The address or the form is damaged. If a link brought you here, tell the people who made it.",
        ),
        StatusCode::UNAUTHORIZED => unauthorized(ways, lasting),
        StatusCode::FORBIDDEN if text.code == "origin_mismatch" => lasting(
            "Access denied",
            "What was sent did not come from a page of this site. Open the page again and send it from there.",
        ),
        StatusCode::FORBIDDEN => lasting("Access denied", "You are not allowed to see this page."),
        StatusCode::NOT_FOUND => lasting(
            "Page not found",
            "There is nothing at this address. Check that it is spelled right.",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => lasting(
            "Too much at once",
            "What you sent is larger than this page accepts. Go back and send less, such as a smaller file.",
        ),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => lasting(
            "Address or cookies are too long",
            "Your browser sent a longer address, or more cookies, than this site accepts. Delete the cookies of this site, then try again.",
        ),
        StatusCode::TOO_MANY_REQUESTS => temporary("Too many requests", "Wait a moment, then try again."),
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            temporary("Not available right now", "The application behind this page does not answer.")
        }
        _ => temporary(
            "Not available right now",
            "This is a problem on our side, and usually a short one. You have not been logged out.",
        ),
    }
}

fn unauthorized(ways: &PageLinks, lasting: impl Fn(&'static str, &'static str) -> FailureText) -> FailureText {
    match (&ways.user, &ways.login) {
        (Some(_), _) => lasting(
            "Your login does not fit this page",
            "You are logged in, but not in a way that this page accepts. Another account may fit.",
        ),
        (None, Some(_)) => lasting("Please log in", "This page is for users who are logged in."),
        (None, None) => lasting(
            "Please log in",
            "This page is for users who are logged in, and it has no login of its own. Ask the people who run it how to get in.",
        ),
    }
}
