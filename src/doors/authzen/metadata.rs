//! The metadata document of AuthZEN: where a portal's endpoints are, and what its searches find.
//!
//! SECURITY: every URL begins with the configured identifier, never with the `Host` of the question.

use cedargate_policy::denial::{Denial, Refusal};
use serde_json::{Value, json};

use super::portal_of;
use super::search::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::gate::Gate;

/// The document; 404 without `authzen.identifier`.
pub(super) fn document(gate: &Gate, named: Option<&str>) -> Result<Value, Refusal> {
    let identifier = gate.config.authzen.identifier.as_deref();
    let identifier = identifier.ok_or(Refusal::new(
        Denial::PortalUnknown,
        "there is no metadata document: `authzen.identifier` is not set",
    ))?;
    let portal = portal_of(gate, named)?;
    let name = &portal.name;
    let (decision_point, base) = match named {
        Some(_) => (
            format!("{identifier}/{name}"),
            format!("{identifier}/portals/{name}/access/v1"),
        ),
        None => (identifier.to_owned(), format!("{identifier}/access/v1")),
    };
    Ok(json!({
        "policy_decision_point": decision_point,
        "access_evaluation_endpoint": format!("{base}/evaluation"),
        "access_evaluations_endpoint": format!("{base}/evaluations"),
        "search_subject_endpoint": format!("{base}/search/subject"),
        "search_resource_endpoint": format!("{base}/search/resource"),
        "search_action_endpoint": format!("{base}/search/action"),
        // beyond the specification, whose readers skip members that they do not know
        "cedargate_search": {
            "subjects": "stored_or_enumerated_entities",
            "resources": "stored_or_enumerated_entities",
            "actions": "actions_of_the_schema",
            "exact": true,
            "page_limit_default": LIMIT_DEFAULT,
            "page_limit_max": LIMIT_MAX,
        },
    }))
}
