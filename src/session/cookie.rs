//! The two cookies that the gate sets, and how they are read.
//!
//! The session's carries the opaque id; the login's binds a login that is under way to the browser that began it. Nothing
//! else is ever in a cookie.

use http::{HeaderMap, HeaderValue};

use crate::config::CookieSecurity;
use crate::types::Redacted;

/// The opaque id that a cookie carries. Never prints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionId(pub(super) Redacted<[u8; 32]>);

/// Names and attributes of the cookies.
#[derive(Clone, Debug)]
pub struct Cookies {
    pub(super) security: CookieSecurity,
}

impl Cookies {
    /// The session id of a request. Two cookies of the name, or one that is no id: none.
    pub fn session(&self, _headers: &HeaderMap) -> Option<SessionId> {
        None
    }

    /// Whether the request carries a session cookie at all, well-formed or not.
    pub fn has_session(&self, _headers: &HeaderMap) -> bool {
        false
    }

    /// The browser's secret of logins under way.
    pub fn login(&self, _headers: &HeaderMap) -> Option<Redacted<[u8; 32]>> {
        None
    }

    /// `Set-Cookie` of a session.
    pub fn set_session(&self, _id: &SessionId) -> HeaderValue {
        HeaderValue::from_static("")
    }

    /// `Set-Cookie` that takes the session away.
    pub fn clear_session(&self) -> HeaderValue {
        HeaderValue::from_static("")
    }

    /// `Set-Cookie` of a browser's secret for logins under way; short-lived, readable by the identity endpoints only as far
    /// as `__Host-` allows.
    pub fn set_login(&self, _secret: &[u8; 32]) -> HeaderValue {
        HeaderValue::from_static("")
    }

    /// Takes the gate's own cookies out of a request's `Cookie` headers: the app never sees them.
    pub fn strip(&self, _headers: &mut HeaderMap) {}
}
