//! A policy for callers of whom only the roles are known: the policy's JSON with these questions answered.
//!
//! Cedar's partial evaluation knows an entity's ancestors only together with its id, and the callers of a row have many ids. So
//! `principal in Role::"viewer"` is replaced by `true` or `false` before; every other part stays for Cedar. The same holds for
//! a path, which is in its portal under every id.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use serde_json::{Map, Value, json};

/// Memberships of principal and resource that are known without their ids.
pub(super) struct Known<'a> {
    /// The principal is in these.
    pub roles: &'a BTreeSet<EntityUid>,
    /// The principal is in no other entity of this type.
    pub role_type: Option<&'a EntityTypeName>,
    /// The resource is in these.
    pub resource: &'a [EntityUid],
}

/// A policy after the rewriting.
pub(super) enum Rewritten {
    /// The scope does not fit.
    Never,
    Policy(Value),
}

/// A membership that is asked for: known, or left to Cedar.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Member {
    Yes,
    No,
    Open,
}

impl Known<'_> {
    fn member(&self, variable: &str, uid: &EntityUid) -> Member {
        match variable {
            "principal" if self.roles.contains(uid) => Member::Yes,
            "principal" if Some(uid.type_name()) == self.role_type => Member::No,
            "resource" if self.resource.contains(uid) => Member::Yes,
            _ => Member::Open,
        }
    }

    /// `policy` is Cedar's JSON of a static policy.
    pub fn rewrite(&self, policy: &Value) -> Rewritten {
        let Value::Object(policy) = policy else {
            return Rewritten::Policy(policy.clone());
        };
        let mut rewritten = policy.clone();
        for variable in ["principal", "resource"] {
            let Some(scope) = rewritten.get_mut(variable) else { continue };
            if !self.scope(variable, scope) {
                return Rewritten::Never;
            }
        }
        if let Some(conditions) = rewritten.get_mut("conditions").and_then(Value::as_array_mut) {
            for condition in conditions {
                if let Some(body) = condition.get_mut("body") {
                    self.expression(body);
                }
            }
        }
        Rewritten::Policy(Value::Object(rewritten))
    }

    /// False if the scope cannot fit.
    fn scope(&self, variable: &str, scope: &mut Value) -> bool {
        let Some(scope) = scope.as_object_mut() else { return true };
        let op = scope.get("op").and_then(Value::as_str).unwrap_or_default().to_owned();
        let entity = match op.as_str() {
            "in" => scope.get("entity"),
            "is" => scope.get("in").and_then(|inner| inner.get("entity")),
            _ => None,
        };
        let Some(uid) = entity.and_then(uid) else { return true };
        match (self.member(variable, &uid), op.as_str()) {
            (Member::No, _) => return false,
            (Member::Yes, "in") => *scope = Map::from_iter([("op".to_owned(), json!("All"))]),
            (Member::Yes, _) => drop(scope.remove("in")),
            (Member::Open, _) => {}
        }
        true
    }

    fn expression(&self, expression: &mut Value) {
        if let Some(value) = self.answered(expression) {
            *expression = json!({ "Value": value });
            return;
        }
        match expression {
            Value::Object(node) => {
                for (operator, operands) in node {
                    match operator.as_str() {
                        // a literal holds no expression
                        "Value" => {}
                        // names of a record's fields are no operators
                        "Record" => operands
                            .as_object_mut()
                            .into_iter()
                            .flat_map(Map::values_mut)
                            .for_each(|field| self.expression(field)),
                        _ => self.expression(operands),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.expression(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// The value of `variable in …`, if it is known. Takes known elements out of a set that stays.
    fn answered(&self, expression: &mut Value) -> Option<bool> {
        if let Some(node) = expression.get_mut("in") {
            let variable = variable(node.get("left")?)?;
            return self.in_any(variable, node.get_mut("right")?);
        }
        let node = expression.get_mut("is")?.as_object_mut()?;
        let variable = variable(node.get("left")?)?;
        match self.in_any(variable, node.get_mut("in")?)? {
            true => {
                node.remove("in");
                None
            }
            false => Some(false),
        }
    }

    fn in_any(&self, variable: &str, right: &mut Value) -> Option<bool> {
        if let Some(uid) = right.get("Value").and_then(uid) {
            return match self.member(variable, &uid) {
                Member::Yes => Some(true),
                Member::No => Some(false),
                Member::Open => None,
            };
        }
        let items = right.get_mut("Set")?.as_array_mut()?;
        let of_item = |item: &Value| {
            let uid = item.get("Value").and_then(uid);
            uid.map_or(Member::Open, |uid| self.member(variable, &uid))
        };
        if items.iter().any(|item| of_item(item) == Member::Yes) && items.iter().all(|item| item.get("Value").is_some()) {
            return Some(true);
        }
        items.retain(|item| of_item(item) != Member::No);
        items.is_empty().then_some(false)
    }
}

fn variable(expression: &Value) -> Option<&'static str> {
    match expression.get("Var")?.as_str()? {
        "principal" => Some("principal"),
        "resource" => Some("resource"),
        _ => None,
    }
}

/// The entity that `{"type": …, "id": …}` names, with or without `__entity` around it.
fn uid(value: &Value) -> Option<EntityUid> {
    let value = value.get("__entity").unwrap_or(value);
    let ty = EntityTypeName::from_str(value.get("type")?.as_str()?).ok()?;
    Some(EntityUid::from_type_name_and_id(
        ty,
        EntityId::new(value.get("id")?.as_str()?),
    ))
}
