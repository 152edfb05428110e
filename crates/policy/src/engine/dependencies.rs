//! The parts of a query that a policy's conditions can read, taken from their JSON form.
//!
//! Decides what a decision has to build (context fields, entities) before it evaluates. Always an over-estimate: an
//! expression that this file does not understand counts as "reads everything". Building too much costs time, too little
//! would be wrong.

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, Policy};
use serde_json::Value;

/// The parts of a query that the conditions of one policy, or of a match set, can read.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    pub principal: bool,
    pub action: bool,
    pub resource: bool,
    pub context: ContextDependencies,
    /// Entities named in conditions.
    pub literals: BTreeSet<EntityUid>,
    /// Most entity look-ups that an expression nests; 0: conditions read no entity.
    pub hops: usize,
    /// True if any condition reads ancestors.
    pub ancestors: bool,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ContextDependencies {
    #[default]
    Nothing,
    Fields(BTreeSet<String>),
    Everything,
}

/// Operators that look something up in an entity (or in a record; that over-estimates).
const LOOK_UPS: [&str; 5] = [".", "has", "getTag", "hasTag", "in"];

impl Dependencies {
    /// `None` if the policy has no readable JSON form; then it must be treated as reading everything.
    pub fn of(policy: &Policy) -> Option<Self> {
        let json = policy.to_json().ok()?;
        let mut reads = Self::default();
        for condition in json.get("conditions")?.as_array()? {
            let hops = reads.scan(condition.get("body")?);
            reads.hops = reads.hops.max(hops);
        }
        Some(reads)
    }

    /// The estimate for a policy whose form is unknown, and for policies evaluated with their scopes.
    pub fn everything(hops: usize) -> Self {
        Self {
            principal: true,
            action: true,
            resource: true,
            context: ContextDependencies::Everything,
            literals: BTreeSet::new(),
            hops,
            ancestors: true,
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.principal |= other.principal;
        self.action |= other.action;
        self.resource |= other.resource;
        self.hops = self.hops.max(other.hops);
        self.ancestors |= other.ancestors;
        self.literals.extend(other.literals.iter().cloned());
        match &other.context {
            ContextDependencies::Nothing => {}
            ContextDependencies::Everything => self.context = ContextDependencies::Everything,
            ContextDependencies::Fields(fields) => fields.iter().for_each(|f| self.add_field(f)),
        }
    }

    /// Records what an expression reads and returns how many look-ups it nests.
    fn scan(&mut self, expression: &Value) -> usize {
        match expression {
            Value::Object(node) => {
                if let Some(field) = context_field(expression) {
                    self.add_field(field);
                    return 1;
                }
                node.iter().map(|(key, inner)| self.scan_node(key, inner)).max().unwrap_or(0)
            }
            Value::Array(items) => items.iter().map(|item| self.scan(item)).max().unwrap_or(0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        }
    }

    fn scan_node(&mut self, key: &str, inner: &Value) -> usize {
        // also the `in` of `is … in`
        self.ancestors |= key == "in";
        match (key, inner) {
            // field names of a record literal are the author's, not operators
            ("Record", Value::Object(fields)) => fields.values().map(|v| self.scan(v)).max().unwrap_or(0),
            ("Var", Value::String(name)) => self.add_variable(name),
            ("Value", value) => self.add_literals(value),
            _ if LOOK_UPS.contains(&key) => self.scan(inner) + steps(inner),
            _ => self.scan(inner),
        }
    }

    fn add_variable(&mut self, name: &str) -> usize {
        match name {
            "principal" => self.principal = true,
            "action" => self.action = true,
            "resource" => self.resource = true,
            _ => self.context = ContextDependencies::Everything,
        }
        0
    }

    fn add_field(&mut self, field: &str) {
        match &mut self.context {
            ContextDependencies::Everything => {}
            ContextDependencies::Fields(fields) => {
                fields.insert(field.to_owned());
            }
            ContextDependencies::Nothing => self.context = ContextDependencies::Fields(BTreeSet::from([field.to_owned()])),
        }
    }

    fn add_literals(&mut self, value: &Value) -> usize {
        if let Some(uid) = value.get("__entity").and_then(|e| EntityUid::from_json(e.clone()).ok()) {
            self.literals.insert(uid);
            return 0;
        }
        match value {
            Value::Object(members) => members.values().for_each(|v| {
                self.add_literals(v);
            }),
            Value::Array(items) => items.iter().for_each(|v| {
                self.add_literals(v);
            }),
            _ => {}
        }
        0
    }
}

impl ContextDependencies {
    pub fn includes(&self, field: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Fields(fields) => fields.contains(field),
            Self::Everything => true,
        }
    }
}

/// The number of look-ups that one operator makes: `has a.b.c` is a list of three.
fn steps(operator: &Value) -> usize {
    let attributes = operator.get("attr").and_then(Value::as_array);
    attributes.map_or(1, Vec::len)
}

/// `context.x` and `context has x`, where `x` is a single name.
fn context_field(expression: &Value) -> Option<&str> {
    let node = expression.as_object().filter(|n| n.len() == 1)?;
    let access = node.get(".").or_else(|| node.get("has"))?;
    let is_context = access.get("left")?.get("Var")?.as_str()? == "context";
    is_context.then(|| access.get("attr")?.as_str()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(condition: &str) -> Dependencies {
        let policy = Policy::parse(None, format!("permit(principal, action, resource) when {{ {condition} }};")).unwrap();
        Dependencies::of(&policy).unwrap()
    }

    #[test]
    fn context_fields_are_listed_one_by_one() {
        let found = reads("context.ip.isLoopback() && context has mfa && context.mfa");
        assert_eq!(
            found.context,
            ContextDependencies::Fields(["ip".to_owned(), "mfa".to_owned()].into())
        );
        assert!(!found.principal && !found.resource);
        assert_eq!(reads("context == {a: 1}").context, ContextDependencies::Everything);
        assert_eq!(reads("[context].contains(context)").context, ContextDependencies::Everything);
        let nested = reads("context has a.b.c && context.a.b.c == 1");
        assert!(nested.context.includes("a"));
    }

    #[test]
    fn hops_count_nested_look_ups() {
        assert_eq!(reads("1 == 1").hops, 0);
        assert_eq!(reads("principal.age == 1").hops, 1);
        assert!(reads("principal.boss.boss.age == 1").hops >= 3);
        assert!(reads("principal.boss in resource.admins").hops >= 2);
        assert!(reads("principal has boss.boss.age").hops >= 3);
        assert!(reads("(if principal.a then resource.b else principal.c.d).e == 1").hops >= 3);
        assert!(reads(r#"principal.hasTag("x") && principal.getTag("x").y == 1"#).hops >= 2);
    }

    #[test]
    fn literals_are_roots_too() {
        let found = reads(
            r#"User::"bob".age > 1 && [User::"eve", User::"al"].contains(principal) && {"Var": {"Value": User::"z"}}["Var"]["Value"] == principal"#,
        );
        assert_eq!(found.literals.len(), 4);
        assert!(found.principal);
    }

    #[test]
    fn record_fields_named_like_operators_are_no_operators() {
        let found = reads("{\"Var\": \"context\", \"in\": resource}[\"in\"] == resource");
        assert_eq!(found.context, ContextDependencies::Nothing);
        assert!(found.resource);
    }
}
