//! One question, one revision → a `Permit` or a refusal.
//!
//! On the path after `authn`, before `upstream`. `Permit` is the only key to forwarding and only this file can make
//! one, for public paths too.

use std::sync::Arc;

use http::HeaderValue;
use uuid::Uuid;

/// Proof that a decision allowed this one request; forwarding consumes it.
#[derive(Debug)]
pub struct Permit {
    pub decision_id: Uuid,
    pub portal: HeaderValue,
    pub revision: HeaderValue,
    /// `None` on a public path without a credential.
    pub caller: Option<Arc<CallerHeaders>>,
    /// The signed assertion; empty without a caller.
    pub assertion: HeaderValue,
    /// Keeps construction inside this file.
    _sealed: (),
}

/// What the app is told about the caller: values already encoded for headers.
#[derive(Clone, Debug)]
pub struct CallerHeaders {
    pub user: HeaderValue,
    pub email: HeaderValue,
    pub groups: HeaderValue,
    pub preferred_username: HeaderValue,
    pub tenant: HeaderValue,
    pub roles: HeaderValue,
}

impl Permit {
    #[cfg(test)]
    pub fn for_test(caller: Option<CallerHeaders>) -> Self {
        Self {
            decision_id: Uuid::nil(),
            portal: HeaderValue::from_static("customer"),
            revision: HeaderValue::from_static("3f2a"),
            caller: caller.map(Arc::new),
            assertion: HeaderValue::from_static("a.b.c"),
            _sealed: (),
        }
    }
}
