//! The answer to a query as JSON.

use cedargate_policy::decision::Decision;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::engine::PolicyInfo;
use cedargate_policy::json::append;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};
use uuid::Uuid;

use crate::http::answer;
use crate::http::request::X_REQUEST_ID;
use crate::http::upstream::Body;

/// Room for an answer with one policy.
const ANSWER_BYTES: usize = 320;

/// Appends the answer to one query.
pub fn append(out: &mut Vec<u8>, decision: &Decision, decision_id: Uuid, portal: &str, revision: &str) {
    out.reserve(ANSWER_BYTES);
    let denial = decision.denial();
    append_result(out, denial);
    out.extend_from_slice(b",\"policies\":");
    append::list(out, decision.policies(), |out, policy| append_policy(out, policy));
    out.extend_from_slice(b",\"errors\":");
    append::list(out, decision.errors(), |out, error| {
        out.extend_from_slice(b"{\"policy\":");
        append::text(out, &error.policy);
        out.extend_from_slice(b",\"message\":");
        append::text(out, &error.message);
        out.push(b'}');
    });
    append_origin(out, decision_id, portal, revision);
}

/// Appends the answer to an item of a batch that has no decision, with the cause.
pub(super) fn append_undecided(out: &mut Vec<u8>, refusal: &Refusal, decision_id: Uuid, portal: &str) {
    append_result(out, Some(refusal.denial));
    out.extend_from_slice(b",\"detail\":");
    append::text(out, &refusal.detail);
    out.extend_from_slice(b",\"policies\":[],\"errors\":[]");
    append_origin(out, decision_id, portal, "");
}

fn append_result(out: &mut Vec<u8>, denial: Option<Denial>) {
    out.extend_from_slice(b"{\"decision\":");
    append::text(out, if denial.is_none() { "allow" } else { "deny" });
    out.extend_from_slice(b",\"reason\":");
    append::text(out, denial.map_or("permitted", Denial::code));
}

fn append_policy(out: &mut Vec<u8>, policy: &PolicyInfo) {
    out.extend_from_slice(b"{\"id\":");
    append::text(out, &policy.id);
    out.extend_from_slice(b",\"annotations\":{");
    for (at, (name, value)) in policy.annotations.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        append::text(out, name);
        out.push(b':');
        append::text(out, value);
    }
    out.extend_from_slice(b"}}");
}

fn append_origin(out: &mut Vec<u8>, decision_id: Uuid, portal: &str, revision: &str) {
    out.extend_from_slice(b",\"decision_id\":");
    append::text(out, decision_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    out.extend_from_slice(b",\"portal\":");
    append::text(out, portal);
    out.extend_from_slice(b",\"revision\":");
    append::text(out, revision);
    out.push(b'}');
}

/// The response with an answer.
pub(super) fn response(body: Vec<u8>, request_id: HeaderValue) -> Response<Body> {
    let mut response = answer::json_text(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(&X_REQUEST_ID, request_id);
    response
}
