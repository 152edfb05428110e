//! Why each policy of a revision holds or does not hold for one query.
//!
//! Built on Cedar's own syntax tree and evaluator: a policy's condition is taken apart into clauses, and Cedar
//! evaluates each of them on the same request and entities as the decision. The verdict on a policy comes from its
//! whole condition, so it cannot differ from the decision's; the clauses only say which part made it false. Never used
//! on the path of a request.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, EvalResult, Expression, Policy, PrincipalConstraint, ResourceConstraint, eval_expression,
};
use cedar_policy_core::ast::{Expr, ExprKind, Literal, UnaryOp};

use super::{CedarRequest, Effects, Engine, EntityQuery, Evaluation, EvaluationOutcome, PolicyEntry, PolicyInfo, QueryEntity};
use crate::engine::query::Ancestors;

/// Ancestors of an entity that are named.
const ANCESTORS_MAX: usize = 50;
/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 200;

/// One evaluation of the policies, and what became of each policy in it.
#[derive(Clone, Debug)]
pub struct ExplainedEvaluation {
    pub principal: NamedWithAncestors,
    pub action: EntityUid,
    pub resource: NamedWithAncestors,
    /// `Forbids`: the permits did not take part.
    pub effects: Effects,
    pub outcome: EvaluationOutcome,
    /// In the order of the revision.
    pub policies: Vec<ExplainedPolicy>,
}

/// An entity and what it is in.
#[derive(Clone, Debug)]
pub struct NamedWithAncestors {
    pub uid: EntityUid,
    /// Sorted; at most `ANCESTORS_MAX` of them.
    pub ancestors: Vec<EntityUid>,
}

/// A policy, and why it holds or does not hold.
#[derive(Clone, Debug)]
pub struct ExplainedPolicy {
    pub info: Arc<PolicyInfo>,
    pub verdict: PolicyOutcome,
    /// The parts of its scope that the query does not satisfy.
    pub scope: Vec<ScopeMismatch>,
    /// The clauses of its condition that are not as the policy needs them, in order. The first one decided.
    pub clauses: Vec<Clause>,
    /// The clauses that are as the policy needs them, in order; of a policy whose action fits.
    pub met: Vec<Clause>,
}

/// The clauses of one condition.
#[derive(Default)]
struct Clauses {
    unmet: Vec<Clause>,
    met: Vec<Clause>,
}

/// What became of a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PolicyOutcome {
    /// Scope and condition hold.
    Satisfied,
    /// The scope fits, and the condition is false.
    ConditionFalse,
    /// The scope fits, and the condition cannot be evaluated.
    Failed(String),
    /// The scope does not fit, so the condition was not asked.
    OutOfScope,
}

/// A part of a query that does not satisfy a scope.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ScopePart {
    Principal,
    Action,
    Resource,
}

/// What a scope wants of one part of the query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScopeMismatch {
    pub part: ScopePart,
    /// As Cedar writes it: `principal in Role::"editor"`.
    pub wants: String,
}

/// A part of a condition, and why it is not as the policy needs it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clause {
    /// As the author wrote it.
    pub text: String,
    /// Line breaks between the beginning of the policy and the clause; `None` for the policy of a template link.
    pub line_offset: Option<usize>,
    /// The value that the policy needs; `false` below `unless` and `!`.
    pub wants: bool,
    pub found: FoundValue,
    /// The operands of the clause that are not written out in it, with their values.
    pub operands: Vec<Operand>,
}

/// The value of a clause.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FoundValue {
    Value(bool),
    /// The clause cannot be evaluated.
    Error(String),
}

/// A part of a clause and its value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Operand {
    pub text: String,
    /// As Cedar writes it, or the reason why there is none.
    pub value: Result<String, String>,
}

impl ScopePart {
    /// How much differs if the part does not fit. A request is about its action and resource, so another caller counts
    /// less.
    pub(crate) const fn distance(self) -> usize {
        match self {
            Self::Principal => 3,
            Self::Resource => 5,
            Self::Action => 6,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Action => "action",
            Self::Resource => "resource",
        }
    }
}

impl Engine {
    /// Says of every policy that took part why it holds or does not hold.
    pub(crate) fn explain(&self, query: &EntityQuery<'_>, evaluation: &Evaluation) -> ExplainedEvaluation {
        let takes_part = |policy: &&Arc<PolicyEntry>| query.effects == Effects::Both || policy.info.effect == Effect::Forbid;
        let policies = self.policies.iter().filter(takes_part);
        ExplainedEvaluation {
            principal: self.with_ancestors(query.principal),
            action: query.action.clone(),
            resource: self.with_ancestors(query.resource),
            effects: query.effects,
            outcome: evaluation.outcome,
            policies: policies.map(|policy| self.explain_policy(policy, query)).collect(),
        }
    }

    fn with_ancestors(&self, entity: &QueryEntity) -> NamedWithAncestors {
        let mut ancestors = match entity.entity(Ancestors::Read) {
            Some(resolved) => resolved.ancestors(),
            None => self.store.ancestors(&entity.uid).to_vec(),
        };
        ancestors.sort();
        ancestors.truncate(ANCESTORS_MAX);
        NamedWithAncestors {
            uid: entity.uid.clone(),
            ancestors,
        }
    }

    fn explain_policy(&self, entry: &PolicyEntry, query: &EntityQuery<'_>) -> ExplainedPolicy {
        let scope = self.scope_mismatches(entry.policy(), query);
        let condition = entry.policy().as_ref().non_scope_constraints();
        // a policy for another action may read fields that this action's context does not have
        let is_asked = scope.iter().all(|mismatch| mismatch.part != ScopePart::Action);
        let (condition_verdict, clauses) = match condition.filter(|_| is_asked) {
            None => (PolicyOutcome::Satisfied, Clauses::default()),
            Some(condition) => match self.situation(entry.reads(), query) {
                Ok(situation) => (situation.verdict(condition), situation.clauses(condition)),
                Err(message) => (PolicyOutcome::Failed(message), Clauses::default()),
            },
        };
        let verdict = if scope.is_empty() {
            condition_verdict
        } else {
            PolicyOutcome::OutOfScope
        };
        ExplainedPolicy {
            info: Arc::clone(&entry.info),
            clauses: if verdict == PolicyOutcome::Satisfied {
                Vec::new()
            } else {
                clauses.unmet
            },
            met: clauses.met,
            verdict,
            scope,
        }
    }

    fn scope_mismatches(&self, policy: &Policy, query: &EntityQuery<'_>) -> Vec<ScopeMismatch> {
        let undeclared = || self.index.actions.key(query.action, []);
        let action = self.actions.get(query.action).cloned().unwrap_or_else(undeclared);
        let fit = self.index.fit(policy, &query.principal.key, &action, &query.resource.key);
        let mut mismatches = Vec::new();
        let mut add = |part, wants: String| mismatches.push(ScopeMismatch { part, wants });
        if !fit.principal {
            add(ScopePart::Principal, principal_text(policy));
        }
        if !fit.action {
            add(ScopePart::Action, action_text(policy));
        }
        if !fit.resource {
            add(ScopePart::Resource, resource_text(policy));
        }
        mismatches
    }
}

/// The names of all attributes and fields that a policy's conditions look up.
pub(super) fn mentioned_names(policy: &Policy) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Some(condition) = policy.as_ref().non_scope_constraints() else {
        return names;
    };
    for part in condition.subexpressions() {
        match part.expr_kind() {
            ExprKind::GetAttr { attr, .. } | ExprKind::HasAttr { attr, .. } => drop(names.insert(attr.to_string())),
            ExprKind::ExtHasAttr { attrs, .. } => names.extend(attrs.iter().map(ToString::to_string)),
            _ => {}
        }
    }
    names
}

fn principal_text(policy: &Policy) -> String {
    match policy.principal_constraint() {
        PrincipalConstraint::Any => "principal".to_owned(),
        PrincipalConstraint::Is(ty) => format!("principal is {ty}"),
        PrincipalConstraint::In(uid) => format!("principal in {uid}"),
        PrincipalConstraint::Eq(uid) => format!("principal == {uid}"),
        PrincipalConstraint::IsIn(ty, uid) => format!("principal is {ty} in {uid}"),
    }
}

fn action_text(policy: &Policy) -> String {
    match policy.action_constraint() {
        ActionConstraint::Any => "action".to_owned(),
        ActionConstraint::Eq(uid) => format!("action == {uid}"),
        ActionConstraint::In(uids) => {
            let uids: Vec<String> = uids.iter().map(EntityUid::to_string).collect();
            format!("action in [{}]", uids.join(", "))
        }
    }
}

fn resource_text(policy: &Policy) -> String {
    match policy.resource_constraint() {
        ResourceConstraint::Any => "resource".to_owned(),
        ResourceConstraint::Is(ty) => format!("resource is {ty}"),
        ResourceConstraint::In(uid) => format!("resource in {uid}"),
        ResourceConstraint::Eq(uid) => format!("resource == {uid}"),
        ResourceConstraint::IsIn(ty, uid) => format!("resource is {ty} in {uid}"),
    }
}

/// A clause of a condition: the policy holds only if every clause has its wanted value.
pub(super) struct Part<'a> {
    pub expression: &'a Expr,
    pub wants: bool,
}

/// A clause of a policy's condition.
pub(crate) struct WrittenClause {
    /// As the author wrote it.
    pub text: String,
    /// Line breaks between the beginning of the policy and the clause; `None` for the policy of a template link.
    pub line_offset: Option<usize>,
    /// The value that the policy needs.
    pub wants: bool,
}

impl Part<'_> {
    pub fn written(&self) -> WrittenClause {
        WrittenClause {
            text: text_of(self.expression),
            line_offset: line_offset(self.expression),
            wants: self.wants,
        }
    }
}

/// Takes a condition apart into clauses, in the order in which Cedar evaluates them.
pub(super) fn parts(condition: &Expr) -> Vec<Part<'_>> {
    let mut all = Vec::new();
    let whole = Part {
        expression: condition,
        wants: true,
    };
    whole.push_parts(&mut all);
    all
}

impl<'a> Part<'a> {
    fn push_parts(self, into: &mut Vec<Self>) {
        let wants = self.wants;
        let part = |expression: &'a Expr| Self { expression, wants };
        match self.expression.expr_kind() {
            ExprKind::And { left, right } if wants => [left, right].into_iter().for_each(|side| part(side).push_parts(into)),
            ExprKind::Or { left, right } if !wants => [left, right].into_iter().for_each(|side| part(side).push_parts(into)),
            ExprKind::UnaryApp { op: UnaryOp::Not, arg } => Self {
                expression: arg,
                wants: !wants,
            }
            .push_parts(into),
            ExprKind::Lit(Literal::Bool(value)) if *value == wants => {}
            _ => into.push(self),
        }
    }
}

impl CedarRequest {
    fn value(&self, expression: &Expr) -> Result<EvalResult, String> {
        eval_expression(&self.request, &self.entities, &Expression::from(expression.clone())).map_err(|e| e.to_string())
    }

    pub(super) fn truth(&self, expression: &Expr) -> FoundValue {
        match self.value(expression) {
            Ok(EvalResult::Bool(value)) => FoundValue::Value(value),
            Ok(other) => FoundValue::Error(format!("`{other}` is not true or false")),
            Err(message) => FoundValue::Error(message),
        }
    }

    fn verdict(&self, condition: &Expr) -> PolicyOutcome {
        match self.truth(condition) {
            FoundValue::Value(true) => PolicyOutcome::Satisfied,
            FoundValue::Value(false) => PolicyOutcome::ConditionFalse,
            FoundValue::Error(message) => PolicyOutcome::Failed(message),
        }
    }

    /// The clauses by their values. Cedar stops at the first that is not as wanted: one after it that cannot be
    /// evaluated is left out.
    fn clauses(&self, condition: &Expr) -> Clauses {
        let mut clauses = Clauses::default();
        for part in parts(condition) {
            let found = self.truth(part.expression);
            let is_guarded = matches!(found, FoundValue::Error(_)) && !clauses.unmet.is_empty();
            if found == FoundValue::Value(part.wants) {
                clauses.met.push(self.clause(&part, found));
            } else if !is_guarded {
                clauses.unmet.push(self.clause(&part, found));
            }
        }
        clauses
    }

    fn clause(&self, part: &Part<'_>, found: FoundValue) -> Clause {
        let Part { expression, wants } = *part;
        let mut operands = Vec::new();
        self.push_operands(expression, &mut operands);
        let text = text_of(expression);
        operands.retain(|operand| operand.text != text);
        Clause {
            line_offset: line_offset(expression),
            text,
            wants,
            found,
            operands,
        }
    }

    /// The values that a clause compares; a constant says itself what it is.
    fn push_operands(&self, expression: &Expr, into: &mut Vec<Operand>) {
        match expression.expr_kind() {
            ExprKind::And { left, right } | ExprKind::Or { left, right } => {
                [left, right].into_iter().for_each(|side| self.push_operands(side, into));
            }
            ExprKind::UnaryApp { op: UnaryOp::Not, arg } => self.push_operands(arg, into),
            ExprKind::If {
                test_expr,
                then_expr,
                else_expr,
            } => [test_expr, then_expr, else_expr]
                .into_iter()
                .for_each(|part| self.push_operands(part, into)),
            ExprKind::UnaryApp { arg, .. } => self.push_operand(arg, expression, into),
            ExprKind::BinaryApp { arg1, arg2, .. } => [arg1, arg2]
                .into_iter()
                .for_each(|side| self.push_operand(side, expression, into)),
            ExprKind::ExtensionFunctionApp { args, .. } => {
                args.iter().for_each(|arg| self.push_operand(arg, expression, into));
            }
            ExprKind::HasAttr { expr, .. }
            | ExprKind::ExtHasAttr { expr, .. }
            | ExprKind::Like { expr, .. }
            | ExprKind::Is { expr, .. } => self.push_value(expr, into),
            _ => self.push_value(expression, into),
        }
    }

    /// An operand of `whole`. Of `a.contains(b)` Cedar knows one place for both the call and `a`.
    fn push_operand(&self, operand: &Expr, whole: &Expr, into: &mut Vec<Operand>) {
        let text = text_of(operand);
        let of_whole = text_of(whole);
        if text == of_whole {
            let receiver = receiver_of(&of_whole).map_or_else(|| operand.to_string(), str::to_owned);
            return self.push_named(operand, receiver, into);
        }
        self.push_named(operand, text, into);
    }

    fn push_value(&self, expression: &Expr, into: &mut Vec<Operand>) {
        self.push_named(expression, text_of(expression), into);
    }

    fn push_named(&self, expression: &Expr, text: String, into: &mut Vec<Operand>) {
        if is_constant(expression) {
            return;
        }
        if into.iter().all(|operand| operand.text != text) {
            let value = self.value(expression).map(|value| shortened(&value.to_string()));
            into.push(Operand { text, value });
        }
    }
}

/// `a.b.contains(c.d)` → `a.b`; `None` if the text is no call of a method.
fn receiver_of(call: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let open = call.rmatch_indices(['(', ')']).find_map(|(at, bracket)| {
        depth = if bracket == ")" { depth + 1 } else { depth.saturating_sub(1) };
        (depth == 0).then_some(at)
    })?;
    let (receiver, _method) = call.get(..open)?.rsplit_once('.')?;
    Some(receiver.trim_end()).filter(|receiver| !receiver.is_empty() && call.ends_with(')'))
}

/// True for a value that is written out: `"a"`, `User::"a"`, `["a", "b"]`, `ip("10.0.0.1")`.
fn is_constant(expression: &Expr) -> bool {
    match expression.expr_kind() {
        ExprKind::Lit(_) => true,
        ExprKind::Set(items) => items.iter().all(is_constant),
        ExprKind::Record(fields) => fields.values().all(is_constant),
        ExprKind::ExtensionFunctionApp { args, .. } => args.iter().all(is_constant),
        _ => false,
    }
}

/// The author's own text, on one line; Cedar's spelling for a policy without source.
fn text_of(expression: &Expr) -> String {
    let written = expression.source_loc().and_then(|place| place.snippet());
    let text = written.map_or_else(|| expression.to_string(), str::to_owned);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_offset(expression: &Expr) -> Option<usize> {
    let place = expression.source_loc()?;
    let before = place.src.get(..place.start())?;
    Some(before.matches('\n').count())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::receiver_of;

    #[test]
    fn the_receiver_of_a_call_ends_before_the_last_method() {
        for (call, receiver) in [
            ("context.auth.amr.contains(\"mfa\")", Some("context.auth.amr")),
            ("a.b.containsAny(c.d)", Some("a.b")),
            ("a.contains(b.f(c))", Some("a")),
            ("a.isEmpty()", Some("a")),
            ("f(a).contains(b)", Some("f(a)")),
            ("f(a)", None),
            ("a == b", None),
            ("", None),
            (")", None),
        ] {
            assert_eq!(receiver_of(call), receiver, "{call}");
        }
    }
}
