//! `auth` of oauth2-proxy: the question of a proxy that was configured for it, asked at the proxy listener.
//!
//! The answer is 202, 401 or 403 without a body. A permit carries the names that such proxies copy
//! (`X-Auth-Request-*`).
//!
//! SECURITY: a proxy may pass clients on to this path, too. So no answer holds a token or an assertion, and a client
//! learns what `auth/session` tells it. The proxy replaces few headers of the client, so a question with an identity
//! header is refused.

use cedargate_policy::denial::{Denial, Refusal};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use url::form_urlencoded;

use crate::config::{Config, IdentityPages, StatedIn};
use crate::gate::{AllowedCallers, Forwardable};
use crate::http::request::StatedRequest;
use crate::http::upstream::Body;

/// Below `identity.prefix`.
const QUESTION: &str = "/auth";
/// The header of the app's identity, and the name under which oauth2-proxy answers it.
const ANSWERED: [(&str, HeaderName); 4] = [
    ("x-forwarded-user", HeaderName::from_static("x-auth-request-user")),
    ("x-forwarded-email", HeaderName::from_static("x-auth-request-email")),
    ("x-forwarded-groups", HeaderName::from_static("x-auth-request-groups")),
    (
        "x-forwarded-preferred-username",
        HeaderName::from_static("x-auth-request-preferred-username"),
    ),
];
const DECISION_ID: HeaderName = HeaderName::from_static("x-cedargate-decision-id");
/// Further headers that apps take for an identity.
const ACCESS_TOKENS: [&str; 2] = ["x-forwarded-access-token", "x-auth-request-access-token"];

/// The form of the questions, if this path takes them.
pub(super) fn statement_at(identity: &IdentityPages, path: &str) -> Option<StatedIn> {
    let stated_in = identity.oauth2_proxy?;
    let is_question = path.strip_prefix(identity.prefix.as_str()) == Some(QUESTION);
    is_question.then_some(stated_in)
}

/// The request that the proxy states.
pub(super) fn stated(stated_in: StatedIn, config: &Config, head: &mut Parts) -> Result<StatedRequest, Refusal> {
    let assertion = config.assertion.header.as_str();
    let is_identity = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        let known = ANSWERED
            .iter()
            .any(|(own, answered)| name == *own || name == answered.as_str());
        known || name.starts_with("x-cedargate-") || name == assertion || ACCESS_TOKENS.contains(&name.as_str())
    };
    if let Some(name) = head.headers.keys().find(|name| is_identity(name)) {
        return Err(invalid(format!("`{name}`: the proxy would pass this header to the app")));
    }
    let headers = std::mem::take(&mut head.headers);
    match stated_in {
        StatedIn::XForwarded => StatedRequest::from_forwarded(headers),
        StatedIn::XOriginal => StatedRequest::from_original(headers),
    }
}

/// The lists in the query of the question.
pub(super) fn only_for(head: &Parts) -> Result<Option<AllowedCallers>, Refusal> {
    let query = head.uri.query().unwrap_or_default();
    let mut only = AllowedCallers::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let list = match &*name {
            "allowed_groups" => &mut only.groups,
            "allowed_emails" => &mut only.emails,
            "allowed_email_domains" => &mut only.email_domains,
            other if other.starts_with("allowed") => {
                return Err(invalid(format!("`{other}` is not a list that a question may hold")));
            }
            _ => continue,
        };
        let before = list.len();
        list.extend(value.split(',').filter(|item| !item.is_empty()).map(str::to_owned));
        if list.len() == before {
            return Err(invalid(format!("`{name}` is an empty list")));
        }
    }
    let is_narrow = [&only.groups, &only.emails, &only.email_domains]
        .iter()
        .any(|list| !list.is_empty());
    Ok(is_narrow.then_some(only))
}

/// 202 with the identity.
pub(super) fn accepted(forwardable: &Forwardable) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(ANSWERED.len() + 3);
    for (own, answered) in ANSWERED {
        let value = forwardable.set.get(own).cloned();
        headers.insert(answered, value.unwrap_or(HeaderValue::from_static("")));
    }
    if let Some(id) = forwardable.set.get(DECISION_ID) {
        headers.insert(DECISION_ID, id.clone());
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    *response.headers_mut() = headers;
    response
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_a_question_are_read_or_refused() {
        let read = |query: &str| {
            let (head, ()) = http::Request::get(format!("/oauth2/auth?{query}"))
                .body(())
                .unwrap()
                .into_parts();
            only_for(&head).map(|only| only.map(|only| (only.groups, only.emails, only.email_domains)))
        };
        let of = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("rd=%2Fa").unwrap(), None);
        assert_eq!(
            read("allowed_groups=a,b%20c&allowed_groups=d&allowed_emails=x@y.z").unwrap(),
            Some((of(&["a", "b c", "d"]), of(&["x@y.z"]), of(&[])))
        );
        for bad in [
            "allowed_groups=",
            "allowed_groups",
            "allowed_groups=,",
            "allowed_group=a",
            "allowed_roles=a",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
