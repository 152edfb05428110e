//! The comparison for programs.

use serde_json::{Value, json};

use super::changes::DiffLine;
use super::flips::{Flip, SideAnswer};
use super::proof::{COVERS, Proof, ProofOutcome, Unproved};
use super::{Comparison, FailOnDiff, PortalDiff};
use crate::cli::Exit;

pub(super) fn report(comparison: &Comparison) -> Value {
    let portals: Vec<Value> = comparison.portals.iter().map(portal).collect();
    json!({
        "old": comparison.old,
        "new": comparison.new,
        "changed": comparison.portals.iter().any(PortalDiff::is_changed),
        "widens": comparison.exit(&[FailOnDiff::Widen]) != Exit::Ok,
        "portals": portals,
        "log": comparison.logs.as_ref().map(|logs| &logs.json),
    })
}

fn portal(portal: &PortalDiff) -> Value {
    let diff = |lines: &[DiffLine]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("{}{}", line.sign, line.text)).collect();
        lines.join("\n")
    };
    let policies: Vec<Value> = portal
        .policies
        .iter()
        .map(|policy| {
            let (file, line) = policy.place.rsplit_once(':').unwrap_or((&policy.place, ""));
            json!({
                "policy": policy.id, "change": policy.kind.word(), "file": file, "line": line.parse::<usize>().ok(),
                "diff": diff(&policy.lines),
            })
        })
        .collect();
    let files: Vec<Value> = portal
        .files
        .iter()
        .map(|file| json!({"file": file.name, "change": file.kind.word(), "details": file.details, "diff": diff(&file.lines)}))
        .collect();
    json!({
        "portal": portal.slug,
        "change": portal.kind.map(|kind| kind.word()),
        "widens": portal.widens(),
        "policies": policies,
        "files": files,
        "tests": {
            "asked": portal.asked.cases,
            "flips": portal.asked.flips.iter().map(flip).collect::<Vec<_>>(),
            "problems": portal.asked.problems,
        },
        "proof": portal.proof.as_ref().map(proof),
    })
}

fn flip(flip: &Flip) -> Value {
    let answer = |answer: &SideAnswer| match answer {
        SideAnswer::Allow { policies } => json!({"decision": "allow", "reason": "permitted", "policies": policies}),
        SideAnswer::Deny { reason, policies } => json!({"decision": "deny", "reason": reason, "policies": policies}),
        SideAnswer::Unasked(why) => json!({"decision": null, "reason": why, "policies": []}),
    };
    json!({"case": flip.case, "file": flip.file, "line": flip.line, "old": answer(&flip.old), "new": answer(&flip.new)})
}

fn proof(proof: &Proof) -> Value {
    json!({
        "proved": proof.is_proved(),
        "kinds": proof.kinds,
        "questions": proof.questions,
        "covers": COVERS,
        "unproved": proof.unproved.iter().map(unproved).collect::<Vec<_>>(),
    })
}

fn unproved(unproved: &Unproved) -> Value {
    let about = Some(unproved.about).filter(|about| !about.is_empty());
    match &unproved.outcome {
        ProofOutcome::Unknown(reason) => json!({"result": "unknown", "kind": unproved.kind, "about": about, "reason": reason}),
        ProofOutcome::Widened(request) => json!({
            "result": "widened", "kind": unproved.kind, "about": about,
            "request": {
                "principal": request.principal, "action": request.action, "resource": request.resource,
                "context": request.context, "entities": request.entities,
            },
            "old": request.old, "new": request.new,
        }),
    }
}
