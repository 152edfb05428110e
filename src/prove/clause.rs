//! One policy as a proof takes it: its scope and conditions as one expression of Cedar's JSON.
//!
//! Expressions are put together as JSON, because Cedar's public interface has no other way to build one. Cedar's own
//! type checker reads every result again, and refuses what is put together wrong.

use cedar_policy::{Effect, EntityUid, Policy, PolicyId};
use cedargate_policy::engine::ErroredForbids;
use serde_json::{Value, json};

/// One policy.
#[derive(Debug)]
pub(super) struct Clause {
    pub effect: Effect,
    /// The effect of an error, if it forbids.
    pub errored: ErroredForbids,
    pub when: Expression,
    pub literals: Vec<EntityUid>,
}

/// A condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Expression(Value);

/// The resource of the requests that a proof is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Described {
    /// It has what the schema says.
    Yes,
    /// It has no entry in the entities: it has no attribute, and reading one is an error.
    No,
}

impl Clause {
    /// `None` if the policy has no JSON form.
    pub fn new(policy: &Policy, errored: ErroredForbids) -> Option<Self> {
        Some(Self {
            effect: policy.effect(),
            errored,
            when: Expression::of_policy(policy)?,
            literals: policy.entity_literals(),
        })
    }

    /// The text that two policies have in common if they decide every request alike.
    pub fn key(&self) -> String {
        format!("{:?}{:?}{}", self.effect, self.errored, self.when.0)
    }
}

impl Expression {
    /// Scope and conditions of a policy.
    pub fn of_policy(policy: &Policy) -> Option<Self> {
        Self::of(&policy.to_json().ok()?)
    }

    fn of(policy: &Value) -> Option<Self> {
        let mut parts = Self::scope_parts(policy)?;
        for condition in policy.get("conditions")?.as_array()? {
            let body = Self(condition.get("body")?.clone());
            parts.push(match condition.get("kind")?.as_str()? {
                "when" => body,
                "unless" => body.not(),
                _ => return None,
            });
        }
        Some(Self::all(parts))
    }

    /// The scope of a policy alone.
    pub fn of_scope(policy: &Policy) -> Option<Self> {
        Some(Self::all(Self::scope_parts(&policy.to_json().ok()?)?))
    }

    fn scope_parts(policy: &Value) -> Option<Vec<Self>> {
        let mut parts = Vec::new();
        for variable in ["principal", "action", "resource"] {
            parts.extend(scope_part(variable, policy.get(variable)?)?);
        }
        Some(parts)
    }

    /// `left in right`.
    pub fn is_in(left: &Value, right: &Value) -> Self {
        Self(json!({"in": {"left": left, "right": right}}))
    }

    /// `left == "text"`.
    pub fn is_text(left: &Value, text: &str) -> Self {
        Self(json!({"==": {"left": left, "right": {"Value": text}}}))
    }

    pub fn not(self) -> Self {
        Self(json!({"!": {"arg": self.0}}))
    }

    pub fn or(self, other: &Self) -> Self {
        Self(json!({"||": {"left": self.0, "right": other.0}}))
    }

    /// True if every part is; the parts are halved, so that the result nests little.
    pub fn all(mut parts: Vec<Self>) -> Self {
        match parts.len() {
            0 => Self(json!({"Value": true})),
            1 => parts.swap_remove(0),
            length => {
                let right = parts.split_off(length / 2);
                Self(json!({"&&": {"left": Self::all(parts).0, "right": Self::all(right).0}}))
            }
        }
    }

    /// True if any part is; an error in a part makes it an error.
    pub fn any(mut parts: Vec<Self>) -> Self {
        match parts.len() {
            0 => Self(json!({"Value": false})),
            1 => parts.swap_remove(0),
            length => {
                let right = parts.split_off(length / 2);
                Self::any(parts).or(&Self::any(right))
            }
        }
    }

    /// The conditions that are all true, in the order of evaluation, if the expression is true.
    pub fn conjuncts(&self) -> Vec<&Value> {
        let mut found = Vec::new();
        let mut left = vec![&self.0];
        while let Some(one) = left.pop() {
            match operation(one) {
                Some(("&&", operands)) => left.extend(["right", "left"].into_iter().filter_map(|side| operands.get(side))),
                _ => found.push(one),
            }
        }
        found
    }

    /// Each conjunct, behind the `has` that stand before it: they make its attributes safe to read.
    pub fn demanded(&self) -> Vec<Self> {
        let mut guards: Vec<Self> = Vec::new();
        let mut demanded = Vec::new();
        for conjunct in self.conjuncts() {
            let mut parts = guards.clone();
            parts.push(Self(conjunct.clone()));
            demanded.push(Self::all(parts));
            if matches!(operation(conjunct), Some(("has", _))) {
                guards.push(Self(conjunct.clone()));
            }
        }
        demanded
    }

    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// A policy with this condition and an open scope.
    pub fn policy(&self, number: usize, effect: Effect, described: Described) -> Option<Policy> {
        let body = match described {
            Described::Yes => self.0.clone(),
            Described::No => undescribed(&self.0),
        };
        let effect = if effect == Effect::Permit { "permit" } else { "forbid" };
        let any = json!({"op": "All"});
        let json = json!({
            "effect": effect, "principal": any, "action": any, "resource": any,
            "conditions": [{"kind": "when", "body": body}],
        });
        Policy::from_json(Some(PolicyId::new(format!("p{number}"))), json).ok()
    }
}

/// The operator of an expression, and its operands.
pub(super) fn operation(expression: &Value) -> Option<(&str, &Value)> {
    let node = expression.as_object().filter(|node| node.len() == 1)?;
    node.iter().next().map(|(operator, operands)| (operator.as_str(), operands))
}

/// An entity literal.
pub(super) fn literal(uid: &EntityUid) -> Value {
    json!({"Value": {"__entity": {"type": uid.type_name().to_string(), "id": uid.id().unescaped()}}})
}

/// An attribute of a variable.
pub(super) fn attribute(of: &str, name: &str) -> Value {
    json!({".": {"left": variable(of), "attr": name}})
}

pub(super) fn variable(name: &str) -> Value {
    json!({"Var": name})
}

/// A part of a scope as a condition; an inner `None` says that it fits everything.
fn scope_part(name: &str, constraint: &Value) -> Option<Option<Expression>> {
    let left = variable(name);
    // a filled slot of a template has the form of a value, every other entity that of a name
    let entity = |value: &Value| json!({"Value": {"__entity": value.get("__entity").unwrap_or(value)}});
    let is_in = |right: Value| Expression::is_in(&left, &right);
    Some(Some(match constraint.get("op")?.as_str()? {
        "All" => return Some(None),
        "==" => Expression(json!({"==": {"left": left, "right": entity(constraint.get("entity")?)}})),
        "in" => match constraint.get("entities") {
            Some(entities) => is_in(json!({"Set": entities.as_array()?.iter().map(entity).collect::<Vec<_>>()})),
            None => is_in(entity(constraint.get("entity")?)),
        },
        "is" => {
            let mut test = json!({"left": left, "entity_type": constraint.get("entity_type")?});
            if let Some(within) = constraint.get("in") {
                test.as_object_mut()?.insert("in".to_owned(), entity(within.get("entity")?));
            }
            Expression(json!({"is": test}))
        }
        _ => return None,
    }))
}

/// The expression about a resource that has no entry: `has` is false, and reading an attribute fails as an overflow
/// does.
fn undescribed(expression: &Value) -> Value {
    match expression {
        Value::Object(node) => {
            let of_resource = |operands: &Value| operands.get("left") == Some(&variable("resource"));
            match operation(expression) {
                Some(("has" | "hasTag", operands)) if of_resource(operands) => json!({"Value": false}),
                Some(("." | "getTag", operands)) if of_resource(operands) => failing(expression),
                Some(("Value", _)) => expression.clone(),
                _ => node.iter().map(|(key, value)| (key.clone(), undescribed(value))).collect(),
            }
        }
        Value::Array(items) => items.iter().map(undescribed).collect(),
        other => other.clone(),
    }
}

/// An expression of the same type that cannot be evaluated.
fn failing(expression: &Value) -> Value {
    let one = json!({"Value": 1});
    let overflow = json!({"+": {"left": {"Value": i64::MAX}, "right": one}});
    json!({"if-then-else": {
        "if": {"==": {"left": overflow, "right": one}},
        "then": expression,
        "else": expression,
    }})
}
