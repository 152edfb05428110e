//! An explanation for people.

use cedar_policy::Effect;
use cedargate_policy::decision::explain::{
    Clause, ExplainedEvaluation, ExplainedPolicy, Explanation, FactSource, FoundValue, NamedWithAncestors, PolicyOutcome,
    ScopePart,
};

use super::Explained;
use crate::base::terminal::{Paint, escaped};

/// Policies out of scope that are shown without `--all`.
const OUT_OF_SCOPE_MAX: usize = 8;

/// The policies out of scope that a text shows.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum OutOfScope {
    Nearest,
    All,
}

pub(crate) fn report(explained: &Explained, shown: OutOfScope, paint: Paint) -> String {
    let mut text = headline(explained, paint);
    text.push_str(&subjects(explained));
    let explanation = &explained.explanation;
    text.push_str(&nearest(explanation, paint));
    for (at, evaluation) in explanation.evaluations.iter().enumerate() {
        let is_last = at + 1 == explanation.evaluations.len();
        if is_last || has_something_to_say(evaluation) {
            if !is_last {
                let reading = format!("{} on {}", evaluation.action, evaluation.resource.uid);
                text.push_str(&format!("\nforbids of the same request, read as {}\n", escaped(&reading)));
            }
            text.push_str(&one_evaluation(evaluation, shown, paint));
        }
    }
    text
}

/// The nearest permit and the policies whose scope fits, for a decision test that failed.
pub(crate) fn reasons(explanation: &Explanation, paint: Paint) -> String {
    let mut text = nearest(explanation, paint);
    if let Some(evaluation) = explanation.deciding() {
        let inside = evaluation
            .policies
            .iter()
            .filter(|policy| policy.verdict != PolicyOutcome::OutOfScope);
        text.push_str("\npolicies whose scope fits\n");
        let before = text.len();
        text.extend(inside.map(|one| policy(one, evaluation, paint)));
        if text.len() == before {
            text.push_str("  none\n");
        }
    }
    let indented = text.trim().lines().map(|line| {
        if line.is_empty() {
            "\n".to_owned()
        } else {
            format!("       {line}\n")
        }
    });
    indented.collect()
}

/// What would allow the request: the permits that hold already, or else the nearest one.
fn nearest(explanation: &Explanation, paint: Paint) -> String {
    let Some(evaluation) = explanation.deciding() else {
        return String::new();
    };
    let overridden: String = explanation.overridden().map(|one| policy(one, evaluation, paint)).collect();
    match explanation.nearest_permit() {
        _ if !overridden.is_empty() => format!("\nwithout the forbid, the request would be allowed\n{overridden}"),
        Some(nearest) => format!("\nnearest permit\n{}", policy(nearest, evaluation, paint)),
        None => String::new(),
    }
}

fn headline(explained: &Explained, paint: Paint) -> String {
    let decision = &explained.explanation.decision;
    let head = decision.denial().map_or_else(
        || paint.green("allow"),
        |denial| format!("{} {}", paint.red("deny"), denial.code()),
    );
    let mut text = format!("{head}  (portal {}, revision {})\n", explained.portal, explained.revision);
    if let Some(refusal) = decision.unevaluated() {
        text.push_str(&format!("  no policy was asked: {}\n", escaped(&refusal.detail)));
    }
    for policy in decision.policies() {
        text.push_str(&format!("  decided by {}  {}\n", policy.id, paint.dim(&policy.place)));
    }
    for error in decision.errors() {
        text.push_str(&format!("  {}\n", escaped(&error.message)));
    }
    text
}

/// How caller and request became principal, action and resource.
fn subjects(explained: &Explained) -> String {
    let mut text = String::from("\n");
    let mut row = |label: &str, value: &str| text.push_str(&format!("{label:<10}{}\n", escaped(value)));
    if let Some(evaluation) = explained.explanation.deciding() {
        row("principal", &entity(&evaluation.principal));
    }
    for fact in &explained.facts {
        let source = match &fact.source {
            FactSource::Claim(path) => format!("claim `{path}`"),
            FactSource::Entities => "entities.json".to_owned(),
            FactSource::Flag(rule) => format!("portal.yaml, {rule}"),
        };
        row("", &format!("{} = {}  <- {source}", fact.name, fact.value));
    }
    if let Some(request) = &explained.request {
        row("request", request);
    }
    if let Some(target) = &explained.explanation.decision.target {
        let by = match (&target.route, &explained.request) {
            (Some(route), _) => format!("  <- route `{route}`"),
            (None, Some(_)) => "  <- method and path: no route matches".to_owned(),
            (None, None) => String::new(),
        };
        row("action", &format!("{}{by}", target.action));
        match explained.explanation.deciding() {
            Some(evaluation) => row("resource", &entity(&evaluation.resource)),
            None => row("resource", &target.resource.uid.to_string()),
        }
    }
    text
}

fn entity(entity: &NamedWithAncestors) -> String {
    let above: Vec<String> = entity.ancestors.iter().map(ToString::to_string).collect();
    match above.as_slice() {
        [] => entity.uid.to_string(),
        above => format!("{} in {}", entity.uid, above.join(", ")),
    }
}

/// True if a policy of it holds or fails: the other evaluations of a request changed nothing.
fn has_something_to_say(evaluation: &ExplainedEvaluation) -> bool {
    let mut policies = evaluation.policies.iter();
    policies.any(|policy| matches!(policy.verdict, PolicyOutcome::Satisfied | PolicyOutcome::Failed(_)))
}

fn one_evaluation(evaluation: &ExplainedEvaluation, shown: OutOfScope, paint: Paint) -> String {
    let mut text = String::new();
    let (mut outside, inside): (Vec<_>, Vec<_>) = evaluation
        .policies
        .iter()
        .partition(|policy| policy.verdict == PolicyOutcome::OutOfScope);
    outside.sort_by_key(|policy| policy.distance());
    text.push_str("\npolicies whose scope fits\n");
    if inside.is_empty() {
        text.push_str("  none\n");
    }
    text.extend(inside.iter().map(|one| policy(one, evaluation, paint)));
    if !outside.is_empty() {
        text.push_str("\npolicies whose scope does not fit\n");
        let shown = match shown {
            OutOfScope::All => outside.len(),
            OutOfScope::Nearest => OUT_OF_SCOPE_MAX,
        };
        text.extend(outside.iter().take(shown).map(|one| out_of_scope(one, paint)));
        if let Some(more) = outside.len().checked_sub(shown).filter(|more| *more > 0) {
            text.push_str(&format!("  … and {more} more (--all)\n"));
        }
    }
    text
}

fn out_of_scope(policy: &ExplainedPolicy, paint: Paint) -> String {
    let wants: Vec<String> = policy.scope.iter().map(|mismatch| escaped(&mismatch.wants)).collect();
    format!("{}: wants {}\n", name(policy, paint), wants.join(" and "))
}

fn policy(policy: &ExplainedPolicy, evaluation: &ExplainedEvaluation, paint: Paint) -> String {
    let verdict = match &policy.verdict {
        PolicyOutcome::Satisfied => paint.green("holds"),
        PolicyOutcome::ConditionFalse => "does not hold: its condition is false".to_owned(),
        PolicyOutcome::Failed(message) => paint.red(&format!("cannot be evaluated: {}", escaped(message))),
        PolicyOutcome::OutOfScope => "does not hold: its scope does not fit".to_owned(),
    };
    let mut text = format!("{} {verdict}\n", name(policy, paint));
    for mismatch in &policy.scope {
        let found = match mismatch.part {
            ScopePart::Principal => entity(&evaluation.principal),
            ScopePart::Action => evaluation.action.to_string(),
            ScopePart::Resource => entity(&evaluation.resource),
        };
        text.push_str(&format!(
            "      wants {}\n      found {}\n",
            escaped(&mismatch.wants),
            escaped(&found)
        ));
    }
    text.extend(policy.clauses.iter().map(|one| clause(one, policy)));
    if policy.info.effect == Effect::Forbid && policy.verdict == PolicyOutcome::Satisfied {
        text.extend(policy.met.iter().map(|one| clause(one, policy)));
    }
    text
}

fn clause(clause: &Clause, policy: &ExplainedPolicy) -> String {
    let line = line_of(clause, policy)
        .map(|line| format!("line {line}: "))
        .unwrap_or_default();
    let found = match &clause.found {
        FoundValue::Value(value) if *value == clause.wants => format!("is {value}, as the policy needs it"),
        FoundValue::Value(value) => format!("is {value}, and the policy needs {}", clause.wants),
        FoundValue::Error(message) => format!("cannot be evaluated: {}", escaped(message)),
    };
    let mut text = format!("      {line}{} {found}\n", escaped(&clause.text));
    for operand in &clause.operands {
        let value = match &operand.value {
            Ok(value) => format!("= {}", escaped(value)),
            Err(why) => format!("has no value: {}", escaped(why)),
        };
        text.push_str(&format!("        {} {value}\n", escaped(&operand.text)));
    }
    text
}

fn name(policy: &ExplainedPolicy, paint: Paint) -> String {
    let effect = match policy.info.effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    format!("  {effect} {}  {}", policy.info.id, paint.dim(&policy.info.place))
}

/// The line of a clause in its file: the policy's own line and the lines down to the clause.
pub(super) fn line_of(clause: &Clause, policy: &ExplainedPolicy) -> Option<usize> {
    let (_, first) = policy.info.place.rsplit_once(':')?;
    Some(first.parse::<usize>().ok()? + clause.line_offset?)
}
