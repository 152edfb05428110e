//! The pages: login form, portal chooser, what went wrong. Plain HTML, no script, nothing from elsewhere.

use http::{Response, StatusCode};

use super::{IdentityDoor, Visit};
use crate::login::LoginCode;
use crate::upstream::Body;

/// What the page of a local login shows.
pub(super) struct LoginForm<'a> {
    pub provider: &'a str,
    pub portal: &'a str,
    pub return_to: &'a str,
    /// Shown again after a failure.
    pub name: &'a str,
    pub failure: Option<LoginCode>,
}

impl IdentityDoor {
    /// The form of a local account.
    pub(super) fn login_page(&self, _visit: &Visit<'_>, _form: &LoginForm<'_>) -> Response<Body> {
        Response::new(Body::empty())
    }

    /// Why a login did not come to its end, and a way to try again.
    pub(super) fn failure_page(&self, _visit: &Visit<'_>, _code: LoginCode, _return_to: Option<&str>) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    }
}
