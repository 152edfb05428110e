//! Tells from the texts of two policies that no request satisfies both.
//!
//! Each side is read as a list of facts: every conjunct of its scope and conditions that compares a variable or an
//! attribute with a literal. Two facts that contradict each other, such as `resource.tenant == Tenant::"a"` and
//! `resource.tenant == Tenant::"b"`, say that no request satisfies both policies. A proof then has no question to ask
//! about the pair (docs/decisions/0052). What is not understood here is no fact.

#[cfg(test)]
mod tests;

use cedar_policy::{EntityUid, RequestEnv};
use cedargate_policy::engine::ErroredForbids;
use serde_json::Value;

use super::clause::{Clause, Expression, operation, variable};
use super::facts::ProofFacts;

/// What every request that satisfies a policy has.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// The term evaluates to the literal.
    Is(Equation),
    /// The term evaluates to something else.
    IsNot(Equation),
    /// The resource is the entity or below it.
    ResourceIn(EntityUid),
    /// The variable has the type.
    Type { variable: Value, ty: String },
}

/// A term and a literal.
#[derive(Clone, Debug)]
pub(super) struct Equation {
    /// A variable, or attributes of attributes of one.
    term: Value,
    literal: Value,
}

/// The requests in which two policies are compared.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub env: &'a RequestEnv,
    pub facts: &'a ProofFacts<'a>,
}

impl Fact {
    /// The facts of every request for which the expression is true.
    pub fn of_satisfied(expression: &Expression) -> Vec<Self> {
        Self::of_all(expression.conjuncts())
    }

    /// The facts of every request that the forbid denies.
    ///
    /// A forbid that fails denies, too: then the conjuncts after the failing one say nothing, so reading ends at the
    /// first one that can fail. Its own fact is kept. It holds unless its term fails, and a policy with the opposite
    /// fact is not satisfied either if that term fails.
    pub fn of_denying(clause: &Clause) -> Vec<Self> {
        let conjuncts = clause.when.conjuncts();
        let known = match clause.errored {
            ErroredForbids::Skip => conjuncts.len(),
            ErroredForbids::Deny => {
                let first = (0..conjuncts.len()).find(|at| can_fail(&conjuncts, *at));
                first.map_or(conjuncts.len(), |first| first + 1)
            }
        };
        Self::of_all(conjuncts.into_iter().take(known))
    }

    fn of_all<'v>(conjuncts: impl IntoIterator<Item = &'v Value>) -> Vec<Self> {
        let both = |conjunct: &Value| [Self::of(conjunct), Self::of_ancestor(conjunct)];
        conjuncts.into_iter().flat_map(both).flatten().collect()
    }

    /// `resource in …` and `resource is … in …`.
    fn of_ancestor(conjunct: &Value) -> Option<Self> {
        let (operator, operands) = operation(conjunct)?;
        let above = match operator {
            "in" => operands.get("right")?,
            "is" => operands.get("in")?,
            _ => return None,
        };
        let is_about_resource = operands.get("left") == Some(&variable("resource"));
        entity(above).filter(|_| is_about_resource).map(Self::ResourceIn)
    }

    fn of(conjunct: &Value) -> Option<Self> {
        let (operator, operands) = operation(conjunct)?;
        let operand = |name: &str| operands.get(name);
        match operator {
            "==" => Equation::of(operands).map(Self::Is),
            "!=" => Equation::of(operands).map(Self::IsNot),
            "!" => match Self::of(operand("arg")?)? {
                Self::Is(equation) => Some(Self::IsNot(equation)),
                Self::IsNot(equation) => Some(Self::Is(equation)),
                Self::ResourceIn(_) | Self::Type { .. } => None,
            },
            "is" => Some(Self::Type {
                variable: operand("left").filter(|left| left.get("Var").is_some())?.clone(),
                ty: operand("entity_type")?.as_str()?.to_owned(),
            }),
            "." if is_term(conjunct) => Some(Self::Is(Equation {
                term: conjunct.clone(),
                literal: Value::Bool(true),
            })),
            _ => None,
        }
    }

    /// True if no request of this world has the fact.
    pub fn is_impossible(&self, world: World<'_>) -> bool {
        match self {
            Self::Type { variable, ty } => world.has_another_type(variable, ty),
            Self::Is(Equation { term, literal }) => {
                let uid = as_entity(literal);
                uid.is_some_and(|uid| world.has_another_type(term, &uid.type_name().to_string()))
            }
            Self::IsNot(_) | Self::ResourceIn(_) => false,
        }
    }

    /// True if no request of this world has both.
    pub fn contradicts(&self, other: &Self, world: World<'_>) -> bool {
        match (self, other) {
            (Self::Is(one), Self::Is(other)) => one.term == other.term && one.literal != other.literal,
            (Self::Is(one), Self::IsNot(other)) | (Self::IsNot(one), Self::Is(other)) => {
                one.term == other.term && one.literal == other.literal
            }
            (Self::ResourceIn(one), Self::ResourceIn(other)) => world.are_apart(one, other),
            (Self::ResourceIn(above), Self::Is(equation)) | (Self::Is(equation), Self::ResourceIn(above)) => {
                let resource = as_entity(&equation.literal).filter(|_| equation.term == variable("resource"));
                resource.is_some_and(|resource| world.is_elsewhere(&resource, above))
            }
            _ => false,
        }
    }
}

impl World<'_> {
    /// True if a request with one list of facts may have the other one, too.
    pub fn may_hold(self, some: &[Fact], others: &[Fact]) -> bool {
        let is_impossible = |fact: &Fact| fact.is_impossible(self) || some.iter().any(|one| one.contradicts(fact, self));
        !others.iter().any(is_impossible)
    }

    fn has_another_type(self, variable: &Value, ty: &str) -> bool {
        match variable.get("Var").and_then(Value::as_str) {
            Some("principal") => self.env.principal().to_string() != ty,
            Some("resource") => self.env.resource().to_string() != ty,
            _ => false,
        }
    }

    fn are_apart(self, one: &EntityUid, other: &EntityUid) -> bool {
        self.is_elsewhere(one, other) && self.is_elsewhere(other, one)
    }

    /// True if the requested path is not below the other one, as their ids say.
    fn is_elsewhere(self, path: &EntityUid, above: &EntityUid) -> bool {
        self.facts.is_path(self.env.resource()) && self.facts.is_elsewhere(path, above)
    }
}

impl Equation {
    fn of(operands: &Value) -> Option<Self> {
        let of = |term: &Value, literal: &Value| {
            Some(Self {
                term: Some(term).filter(|term| is_term(term))?.clone(),
                literal: scalar(literal)?.clone(),
            })
        };
        let left = operands.get("left")?;
        let right = operands.get("right")?;
        of(left, right).or_else(|| of(right, left))
    }
}

/// True for a variable, and for attributes of attributes of one.
fn is_term(expression: &Value) -> bool {
    match operation(expression) {
        Some(("Var", _)) => true,
        Some((".", operands)) => operands.get("left").is_some_and(is_term),
        _ => false,
    }
}

/// The literal if two of them are equal exactly if their texts are: no set, no record and no extension value.
fn scalar(expression: &Value) -> Option<&Value> {
    let (operator, value) = operation(expression)?;
    let is_scalar = match value {
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Object(_) => as_entity(value).is_some(),
        Value::Null | Value::Array(_) => false,
    };
    (operator == "Value" && is_scalar).then_some(value)
}

fn entity(expression: &Value) -> Option<EntityUid> {
    as_entity(scalar(expression)?)
}

fn as_entity(literal: &Value) -> Option<EntityUid> {
    let (operator, uid) = operation(literal)?;
    (operator == "__entity").then(|| EntityUid::from_json(uid.clone()).ok())?
}

/// True if the conjunct can fail where those before it are true. An attribute does not fail behind its own `has`.
fn can_fail(conjuncts: &[&Value], at: usize) -> bool {
    let guards: Vec<&Value> = conjuncts.iter().take(at).copied().filter_map(guarded).collect();
    conjuncts.get(at).is_none_or(|conjunct| !is_safe(conjunct, &guards))
}

/// The operands of a `has`.
fn guarded(conjunct: &Value) -> Option<&Value> {
    operation(conjunct)
        .filter(|(operator, _)| *operator == "has")
        .map(|(_, operands)| operands)
}

fn is_safe(expression: &Value, guards: &[&Value]) -> bool {
    let Some((operator, operands)) = operation(expression) else {
        return false;
    };
    let all = |names: &[&str]| {
        let is_safe = |name: &&str| operands.get(*name).is_some_and(|operand| is_safe(operand, guards));
        names.iter().all(is_safe)
    };
    match operator {
        "Var" | "Value" => true,
        "." => guards.contains(&operands) && all(&["left"]),
        "is" => all(&["left"]) && operands.get("in").is_none_or(|above| is_safe(above, guards)),
        "has" | "like" => all(&["left"]),
        "!" | "isEmpty" => all(&["arg"]),
        "==" | "!=" | "in" | "&&" | "||" | "<" | "<=" | ">" | ">=" | "contains" | "containsAll" | "containsAny" => {
            all(&["left", "right"])
        }
        _ => false,
    }
}
