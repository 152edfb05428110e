//! `explain` of the control socket: a decision of the last records by its id, decided again by the revision in force.
//!
//! For operators alone: an explanation shows policies. It may take as long as all policies together, so a thread of its
//! own computes it.

use std::sync::Arc;

use cedargate_policy::revision::Revision;
use http::StatusCode;
use serde_json::json;
use url::form_urlencoded;

use super::{Control, JsonAnswer, error};
use crate::audit::AdminAct;
use crate::base::terminal::Paint;
use crate::explained::text::OutOfScope;
use crate::explained::{json as json_report, text};
use crate::gate::Gate;
use crate::portals::Portal;
use crate::replay::{LogRecord, PortalRevision, Portals};

/// A portal and its revision in force.
struct InForce {
    portal: Arc<Portal>,
    revision: Arc<Revision>,
}

impl Control {
    pub(super) async fn explain(&self, query: &str) -> JsonAnswer {
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        let id = match (parameters.next(), parameters.next()) {
            (Some((name, id)), None) if name == "id" && !id.is_empty() => id.into_owned(),
            _ => return error(StatusCode::BAD_REQUEST, "give `id`, a decision id or request id"),
        };
        self.record(AdminAct::ExplainRequested, Some(id.clone()));
        let gate = Arc::clone(&self.gate);
        let explained = tokio::task::spawn_blocking(move || explained(&gate, &id)).await;
        explained.unwrap_or_else(|_panic| error(StatusCode::INTERNAL_SERVER_ERROR, "the explanation ended in a panic"))
    }
}

fn explained(gate: &Gate, id: &str) -> JsonAnswer {
    let lines = gate.audit.recent_lines(id);
    let mut records = lines
        .iter()
        .filter_map(|line| LogRecord::parse(line))
        .filter(LogRecord::is_decision);
    let Some(record) = records.find(|record| record.has_id(id).is_some()) else {
        let why = "no record of that id is among the newest (audit.recent_bytes); look into the log with `cedargate explain --from-log`";
        return error(StatusCode::NOT_FOUND, why);
    };
    let registry = gate.portals.load_full();
    let in_force = registry.portals.iter().filter_map(|portal| {
        let active = portal.active.load_full()?;
        Some(InForce {
            portal: Arc::clone(portal),
            revision: Arc::clone(&active.revision),
        })
    });
    let in_force: Vec<InForce> = in_force.collect();
    let portals = Portals::new(in_force.iter().map(|one| PortalRevision {
        portal: &one.portal.scope,
        revision: &one.revision,
    }));
    match portals.explained(&record) {
        Err(why) => error(StatusCode::CONFLICT, &why),
        Ok(explained) => JsonAnswer {
            status: StatusCode::OK,
            body: json!({
                "decision_id": record.decision_id,
                "recorded": {"decision": record.decision, "reason": record.reason, "revision": record.revision},
                "explanation": json_report::report(&explained),
                "text": text::report(&explained, OutOfScope::Nearest, Paint::PLAIN),
            }),
        },
    }
}
