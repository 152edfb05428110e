//! Portals, policies and the running gate.

use std::path::Path;

use cedar_policy::Effect;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::call_context::{CallContext, Snapshot};
use crate::cli::client;
use crate::cli::control::ControlSocket;
use crate::cli::diff::changes::formatted;
use crate::cli::explain::from_log::files;
use crate::cli::report::{Finding, Severity};
use crate::cli::tree::{PortalLoad, Workbench};

/// The portals of the tree, and what else the page can show.
pub(super) fn tree(context: &CallContext, snapshot: &Snapshot) -> Value {
    let workbench = &snapshot.workbench;
    let loads = workbench.load_untested();
    let portals: Vec<Value> = loads.iter().map(portal).collect();
    let place = workbench.folders().map(|folders| {
        let policies = folders
            .policies
            .canonicalize()
            .unwrap_or_else(|_gone| folders.policies.clone());
        policies.display().to_string()
    });
    let has_log = files(&context.logs, workbench).is_ok();
    let mut pages = vec!["overview", "matrix", "explain", "tests", "changes"];
    pages.extend(workbench.folders().is_some().then_some("editor"));
    pages.extend(has_log.then_some("log"));
    pages.extend(context.gate.is_some().then_some("sessions"));
    let configuration: Vec<Finding> = workbench.config.warnings().into_iter().map(Finding::configuration).collect();
    json!({
        "name": place.as_deref().unwrap_or("a bundle"),
        "version": env!("CARGO_PKG_VERSION"),
        "hash": snapshot.hash,
        "configured": workbench.loaded.is_some(),
        "warnings": configuration,
        "has_log": has_log,
        "has_gate": context.gate.is_some(),
        "is_folder": workbench.folders().is_some(),
        "pages": pages,
        "portals": portals,
    })
}

fn portal(load: &PortalLoad<'_>) -> Value {
    let slug = load.portal.slug.as_str();
    let revision = load.revision.as_deref();
    let policies = revision.map(|revision| revision.rules.engine.policies()).unwrap_or_default();
    let permits = policies.iter().filter(|entry| entry.info.effect == Effect::Permit).count();
    let errors: Vec<Finding> = load
        .problems
        .iter()
        .map(|problem| Finding::from_problem(problem, Severity::Error, slug))
        .collect();
    json!({
        "portal": slug,
        "title": revision.and_then(|revision| revision.file.title.as_deref()),
        "hosts": load.portal.matches.hosts,
        "prefix": load.portal.matches.path_prefix,
        "revision": revision.map(|revision| &*revision.id),
        "permits": permits,
        "forbids": policies.len() - permits,
        "errors": errors,
    })
}

/// The problems of a portal that does not load, as one text.
pub(super) fn problems(load: &PortalLoad<'_>) -> String {
    let problems: Vec<String> = load.problems.iter().map(ToString::to_string).collect();
    format!("portal `{}` does not load: {}", load.portal.slug, problems.join("; "))
}

/// The policies of a portal without their texts.
pub(super) fn policies(workbench: &Workbench, portal: &str) -> Result<Value, String> {
    let load = workbench.load_untested_one(workbench.named(portal)?);
    let revision = load.revision.as_ref().ok_or_else(|| problems(&load))?;
    let policies = revision
        .rules
        .engine
        .policies()
        .iter()
        .map(|entry| json!({"id": &*entry.info.id, "effect": entry.info.effect.to_string(), "place": entry.info.place}));
    Ok(json!({ "policies": policies.collect::<Vec<_>>() }))
}

/// One policy with its text.
pub(super) fn policy(workbench: &Workbench, portal: &str, id: &str) -> Result<Value, String> {
    let load = workbench.load_untested_one(workbench.named(portal)?);
    let revision = load.revision.as_ref().ok_or_else(|| problems(&load))?;
    let found = revision.rules.engine.policies().iter().find(|entry| *entry.info.id == *id);
    let entry = found.ok_or_else(|| format!("portal `{portal}` has no policy `{id}`"))?;
    let annotations = entry.info.annotations.iter();
    let annotations: Map<String, Value> = annotations.map(|(name, value)| (name.clone(), json!(value))).collect();
    Ok(json!({
        "id": &*entry.info.id,
        "effect": entry.info.effect.to_string(),
        "place": entry.info.place,
        "annotations": annotations,
        "text": formatted(entry),
    }))
}

/// The status of the running gate, or why there is none.
pub(super) fn gate(socket: Option<&Path>) -> Value {
    let Some(socket) = socket else {
        return json!({"absent": true});
    };
    let asked = client::runtime().map_err(|error| error.to_string()).and_then(|runtime| {
        let response = runtime.block_on(ControlSocket::at(socket).get("/status"));
        let response = response.map_err(|error| format!("{error}; does the gate run, with `listen.control`?"))?;
        match (response.status, response.json()) {
            (StatusCode::OK, Some(status)) => Ok(status),
            _ => Err(response.body),
        }
    });
    match asked {
        Ok(status) => json!({"status": status}),
        Err(why) => json!({"error": why, "socket": socket.display().to_string()}),
    }
}
