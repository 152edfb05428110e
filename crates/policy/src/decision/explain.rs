//! A decision with its explanation: what every policy said, and the permit that came nearest.
//!
//! The decision is made by the same function as every other; an observer sees the evaluations on the way. Costs as much
//! as all policies together, so it is for people and never on the path of a request.

use std::cell::RefCell;
use std::fmt;

use cedar_policy::Effect;
use serde_json::Value;

use super::{Access, Caller, Decision, Query};
use crate::claim_path::ClaimPath;
pub use crate::engine::explain::{
    Clause, ExplainedEvaluation, ExplainedPolicy, FoundValue, NamedWithAncestors, Operand, PolicyOutcome, ScopeMismatch,
    ScopePart,
};
use crate::engine::nearest_permit::CLAUSE_DISTANCE;
use crate::engine::{Ancestors, Engine, EntityQuery, Evaluation};
pub use crate::engine::{Effects, EvaluationOutcome};
use crate::flags::{ExplainedFlag, FlagRule};
use crate::principal::Principal;
use crate::rules::Observer;
use crate::types::Identity;

/// A decision, and every evaluation that led to it, in order. A route's request has several: its own, and those in
/// which only the forbids count.
pub struct Explanation {
    pub decision: Decision,
    pub evaluations: Vec<ExplainedEvaluation>,
}

/// A fact about a caller, and where it comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallerFact {
    /// `subject`, `tenant`, `roles`, an attribute of the principal, or `flags.<name>`.
    pub name: String,
    /// As JSON, or as Cedar writes it.
    pub value: String,
    pub source: FactSource,
}

/// The source of a fact about a caller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FactSource {
    /// The path of a claim.
    Claim(String),
    /// `entities.json` of the portal.
    Entities,
    /// `portal.yaml`, and the rule that gave the flag its value.
    Flag(FlagRule),
}

/// The flags without a credential.
pub fn anonymous_facts(query: &Query<'_>) -> Vec<CallerFact> {
    let flags = query.revision.rules.flags.explained(None);
    flags.iter().map(flag_fact).collect()
}

fn flag_fact(flag: &ExplainedFlag) -> CallerFact {
    CallerFact {
        name: format!("flags.{}", flag.name),
        value: flag.value.to_string(),
        source: FactSource::Flag(flag.rule),
    }
}

/// Says of each fact of a caller which claim, or file, it comes from.
pub fn caller_facts(query: &Query<'_>, identity: &Identity, principal: &Principal) -> Vec<CallerFact> {
    let mut facts = Vec::new();
    let mut add = |name: &str, value: String, source| {
        facts.push(CallerFact {
            name: name.to_owned(),
            value,
            source,
        });
    };
    let claim = |path: &ClaimPath| FactSource::Claim(path.as_str().to_owned());
    if let Some(issuer) = query.portal.issuer(&identity.issuer) {
        let text = |text: &str| Value::from(text).to_string();
        add("subject", text(&identity.subject), claim(&issuer.claims.subject));
        if let Some(tenant) = &identity.tenant {
            add("tenant", text(tenant), claim(&issuer.claims.tenant));
        }
        if !identity.roles.is_empty() {
            let paths: Vec<&str> = issuer.claims.roles.iter().map(|role| role.path.as_str()).collect();
            let roles = Value::from(identity.roles.clone()).to_string();
            add("roles", roles, FactSource::Claim(paths.join("`, `")));
        }
    }
    let rules = &query.revision.rules;
    let flags = rules.explained_flags(identity, principal);
    let flags = flags.iter().map(flag_fact);
    let Some(model) = rules.schema.entity(principal.entity.uid.type_name()) else {
        return facts.into_iter().chain(flags).collect();
    };
    let resolved = principal.entity.entity(Ancestors::Unread);
    for name in model.attrs.fields.keys() {
        let Some(value) = resolved.as_ref().and_then(|entity| entity.attr(name)) else {
            continue;
        };
        let is_claimed = matches!(rules.claims.claim(&identity.claims, name), Ok(Some(_)));
        let path = rules.claims.get(name).map_or(name.as_str(), ClaimPath::as_str);
        let source = if is_claimed {
            FactSource::Claim(path.to_owned())
        } else {
            FactSource::Entities
        };
        add(name, value.to_string(), source);
    }
    facts.extend(flags);
    facts
}

/// Decides, and says why.
pub fn explain(query: &Query<'_>, caller: Caller<'_>) -> Explanation {
    let recorder = Recorder::default();
    let decision = match query.access() {
        Access::Closed(decision) => *decision,
        Access::Public(open) | Access::Credential(open) => open.decide_observed(caller, Some(&recorder)),
    };
    Explanation {
        decision,
        evaluations: recorder.evaluations.into_inner(),
    }
}

/// A decision without its reasons.
impl From<Decision> for Explanation {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            evaluations: Vec::new(),
        }
    }
}

impl fmt::Debug for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explanation")
            .field("denial", &self.decision.denial())
            .field("evaluations", &self.evaluations)
            .finish()
    }
}

impl Explanation {
    /// The evaluation that decided: the last one.
    pub fn deciding(&self) -> Option<&ExplainedEvaluation> {
        self.evaluations.last()
    }

    /// The permit that would need the least to hold; `None` if the decision allows, if a permit holds and a forbid
    /// denies, or if permits did not take part.
    pub fn nearest_permit(&self) -> Option<&ExplainedPolicy> {
        if self.overridden().next().is_some() {
            return None;
        }
        self.permits().min_by_key(|policy| policy.distance())
    }

    /// The permits that hold, of a decision that a forbid denies.
    pub fn overridden(&self) -> impl Iterator<Item = &ExplainedPolicy> {
        self.permits().filter(|policy| policy.verdict == PolicyOutcome::Satisfied)
    }

    /// The permits that took part in a denial.
    fn permits(&self) -> impl Iterator<Item = &ExplainedPolicy> {
        let deciding = self.deciding().filter(|_| self.decision.denial().is_some());
        let evaluation = deciding.filter(|evaluation| evaluation.effects == Effects::Both);
        let policies = evaluation.into_iter().flat_map(|evaluation| &evaluation.policies);
        policies.filter(|policy| policy.info.effect == Effect::Permit)
    }
}

impl ExplainedPolicy {
    /// How much would have to differ. A request is about its action and resource, so another caller counts less, and a
    /// missing fact of this caller least.
    pub fn distance(&self) -> usize {
        let scope = self.scope.iter().map(|mismatch| mismatch.part.distance());
        let condition = match &self.verdict {
            PolicyOutcome::Failed(_) => 3,
            PolicyOutcome::Satisfied | PolicyOutcome::ConditionFalse | PolicyOutcome::OutOfScope => {
                CLAUSE_DISTANCE * self.clauses.len()
            }
        };
        scope.sum::<usize>() + condition
    }
}

#[derive(Default)]
struct Recorder {
    evaluations: RefCell<Vec<ExplainedEvaluation>>,
}

impl Observer for Recorder {
    fn evaluated(&self, engine: &Engine, query: &EntityQuery<'_>, evaluation: &Evaluation) {
        self.evaluations.borrow_mut().push(engine.explain(query, evaluation));
    }
}
