//! An explanation for scripts.

use cedargate_policy::decision::explain::{
    CallerFact, Clause, Effects, EvaluationOutcome, ExplainedEvaluation, ExplainedPolicy, FactSource, FoundValue,
    NamedWithAncestors, PolicyOutcome,
};
use serde_json::{Value, json};

use super::Explained;
use super::text::line_of;

pub(crate) fn report(explained: &Explained) -> Value {
    let explanation = &explained.explanation;
    let decision = &explanation.decision;
    let denial = decision.denial();
    let target = decision.target.as_ref();
    let evaluations: Vec<Value> = explanation.evaluations.iter().map(evaluation).collect();
    json!({
        "decision": if denial.is_none() { "allow" } else { "deny" },
        "reason": denial.map_or("permitted", |denial| denial.code()),
        "detail": decision.unevaluated().map(|refusal| refusal.detail.as_ref()),
        "portal": *explained.portal,
        "revision": *explained.revision,
        "caller": explained.facts.iter().map(fact).collect::<Vec<_>>(),
        "request": explained.request,
        "route": target.and_then(|target| target.route.as_deref()),
        "action": target.map(|target| target.action.to_string()),
        "resource": target.map(|target| target.resource.uid.to_string()),
        "policies": decision.policies().iter().map(|policy| &*policy.id).collect::<Vec<_>>(),
        "errors": decision.errors().iter().map(|error| json!({"policy": *error.policy, "message": error.message})).collect::<Vec<_>>(),
        "nearest_permit": explanation.nearest_permit().map(policy),
        "evaluations": evaluations,
    })
}

fn fact(fact: &CallerFact) -> Value {
    let (kind, claim) = match &fact.source {
        FactSource::Claim(path) => ("claim", Some(path)),
        FactSource::Entities => ("entities", None),
        FactSource::Flag(rule) => {
            return json!({"name": fact.name, "value": fact.value, "source": "flag", "claim": null, "rule": rule.to_string()});
        }
    };
    json!({"name": fact.name, "value": fact.value, "source": kind, "claim": claim})
}

fn entity(entity: &NamedWithAncestors) -> Value {
    let ancestors: Vec<String> = entity.ancestors.iter().map(ToString::to_string).collect();
    json!({"uid": entity.uid.to_string(), "ancestors": ancestors})
}

fn evaluation(evaluation: &ExplainedEvaluation) -> Value {
    json!({
        "principal": entity(&evaluation.principal),
        "action": evaluation.action.to_string(),
        "resource": entity(&evaluation.resource),
        "effects": match evaluation.effects {
            Effects::Both => "all",
            Effects::Forbids => "forbids",
        },
        "outcome": match evaluation.outcome {
            EvaluationOutcome::Allow => "allow",
            EvaluationOutcome::NotPermitted => "not_permitted",
            EvaluationOutcome::Forbidden => "forbidden",
            EvaluationOutcome::EvaluationError => "evaluation_error",
            EvaluationOutcome::NothingLoaded => "no_policy_loaded",
        },
        "policies": evaluation.policies.iter().map(policy).collect::<Vec<_>>(),
    })
}

fn policy(policy: &ExplainedPolicy) -> Value {
    let (verdict, message) = match &policy.verdict {
        PolicyOutcome::Satisfied => ("satisfied", None),
        PolicyOutcome::ConditionFalse => ("condition_false", None),
        PolicyOutcome::Failed(message) => ("error", Some(message)),
        PolicyOutcome::OutOfScope => ("out_of_scope", None),
    };
    let scope = policy
        .scope
        .iter()
        .map(|mismatch| json!({"part": mismatch.part.as_str(), "wants": mismatch.wants}));
    json!({
        "id": *policy.info.id,
        "effect": policy.info.effect.to_string(),
        "place": policy.info.place,
        "verdict": verdict,
        "message": message,
        "scope": scope.collect::<Vec<_>>(),
        "clauses": policy.clauses.iter().map(|one| clause(one, policy)).collect::<Vec<_>>(),
        "met": policy.met.iter().map(|one| clause(one, policy)).collect::<Vec<_>>(),
    })
}

fn clause(clause: &Clause, policy: &ExplainedPolicy) -> Value {
    let (found, error) = match &clause.found {
        FoundValue::Value(value) => (Some(*value), None),
        FoundValue::Error(message) => (None, Some(message)),
    };
    let operands = clause.operands.iter().map(|operand| match &operand.value {
        Ok(value) => json!({"text": operand.text, "value": value}),
        Err(why) => json!({"text": operand.text, "error": why}),
    });
    json!({
        "text": clause.text,
        "line": line_of(clause, policy),
        "wants": clause.wants,
        "found": found,
        "error": error,
        "operands": operands.collect::<Vec<_>>(),
    })
}
