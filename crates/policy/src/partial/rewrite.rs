//! A policy's JSON in which what is known is filled in, where Cedar's partial evaluation has no way to take it.
//!
//! Cedar knows an entity's ancestors only together with its id, and the callers of a matrix's row have many ids. So
//! `principal in Role::"viewer"` is replaced by `true` or `false` before; every other part stays for Cedar. The same
//! holds for a path, which is in its portal under every id. Cedar takes a context whole or not at all, so known fields
//! of it are filled in here.
//!
//! SECURITY: Cedar takes every entity for one that fits the schema, and answers `resource has owner` with `true` if the
//! schema requires `owner`. The engine also decides about entities that no file and no query describes, and they have
//! no attributes. With `stand_in` such an answer stays open, except about the variables that it calls described.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use serde_json::{Map, Value, json};

/// Memberships of principal and resource that are known without their ids.
pub(crate) struct KnownMemberships<'a> {
    /// The principal is in these.
    pub roles: &'a BTreeSet<EntityUid>,
    /// The principal is in no other entity of this type.
    pub role_type: Option<&'a EntityTypeName>,
    /// The resource is in these.
    pub resource: &'a [EntityUid],
    /// Fields of the context, as Cedar's JSON of expressions; `None`: the context does not have the field. Fields that
    /// are not here are unknown.
    pub context: &'a BTreeMap<String, Option<Value>>,
    /// If given, entities may lack what the schema requires of them.
    pub stand_in: Option<Placeholder<'a>>,
}

/// An entity that no query is about. A comparison with it keeps an answer open.
#[derive(Clone, Copy)]
pub(crate) struct Placeholder<'a> {
    /// The variable whose id is not known: `principal` or `resource`.
    pub variable: &'static str,
    /// An entity of the variable's type.
    pub uid: &'a EntityUid,
    /// The variables that have everything that the schema requires.
    pub described: &'a [&'static str],
}

/// A policy after the rewriting.
pub(crate) enum Rewritten {
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

impl KnownMemberships<'_> {
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
        if let Some(value) = self.field(expression) {
            *expression = value;
            return;
        }
        self.operands(expression);
        if let Some(folded) = folded(expression) {
            *expression = folded;
        } else if let Some(stand_in) = self.stand_in
            && is_doubtful(expression, stand_in.described)
        {
            let Placeholder { variable, uid, .. } = stand_in;
            let open = json!({"==": {"left": {"Var": variable}, "right": {"Value": {"__entity": {
                "type": uid.type_name().to_string(), "id": uid.id().unescaped()}}}}});
            *expression = json!({"&&": {"left": expression.take(), "right": open}});
        }
    }

    /// The value of `context.field` or `context has field`, if the field is known.
    fn field(&self, expression: &Value) -> Option<Value> {
        let of_context = |node: &Value| {
            let name = node.get("attr")?.as_str()?;
            let is_context = node.get("left")?.get("Var")?.as_str()? == "context";
            is_context.then(|| self.context.get(name)).flatten()
        };
        if let Some(node) = expression.get(".") {
            return of_context(node)?.clone();
        }
        Some(json!({ "Value": of_context(expression.get("has")?)?.is_some() }))
    }

    fn operands(&self, expression: &mut Value) {
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

/// The value of an operation on filled-in constants: Cedar does not take an empty set, for it has no type.
fn folded(expression: &Value) -> Option<Value> {
    if let Some(node) = expression.get(".") {
        let record = node.get("left")?.get("Record")?.as_object()?;
        return match record.values().all(is_constant) {
            true => record.get(node.get("attr")?.as_str()?).cloned(),
            false => None,
        };
    }
    if let Some(node) = expression.get("has") {
        let record = node.get("left")?.get("Record")?.as_object()?;
        let name = node.get("attr")?.as_str()?;
        return record
            .values()
            .all(is_constant)
            .then(|| json!({ "Value": record.contains_key(name) }));
    }
    let is_empty = |set: &Value| set.get("Set").and_then(Value::as_array).is_some_and(Vec::is_empty);
    if let Some(node) = expression.get("isEmpty") {
        return is_empty(node.get("arg")?).then(|| json!({ "Value": true }));
    }
    let node = expression.get("contains").or_else(|| expression.get("containsAny"))?;
    (is_empty(node.get("left")?) && is_constant(node.get("right")?)).then(|| json!({ "Value": false }))
}

/// True for a literal, and for a set or record of literals. An extension's value is none: its text may be malformed.
fn is_constant(expression: &Value) -> bool {
    let Some(node) = expression.as_object() else { return false };
    node.iter().all(|(operator, operand)| match (operator.as_str(), operand) {
        ("Value", _) => true,
        ("Set", Value::Array(items)) => items.iter().all(is_constant),
        ("Record", Value::Object(fields)) => fields.values().all(is_constant),
        _ => false,
    })
}

/// True for `x has y` where `x` may be an entity that lacks required attributes.
fn is_doubtful(expression: &Value, described: &[&str]) -> bool {
    let Some(node) = expression.get("has") else { return false };
    let left = node.get("left").and_then(|left| left.get("Var")).and_then(Value::as_str);
    // a chain (`principal has manager.level`) goes on to other entities
    let is_chain = node.get("attr").is_some_and(Value::is_array);
    is_chain || !left.is_some_and(|left| described.contains(&left))
}

fn variable(expression: &Value) -> Option<&'static str> {
    match expression.get("Var")?.as_str()? {
        "principal" => Some("principal"),
        "resource" => Some("resource"),
        _ => None,
    }
}

/// The entity that `{"type": …, "id": …}` names, with or without `__entity` around it.
pub(super) fn uid(value: &Value) -> Option<EntityUid> {
    let value = value.get("__entity").unwrap_or(value);
    let ty = EntityTypeName::from_str(value.get("type")?.as_str()?).ok()?;
    Some(EntityUid::from_type_name_and_id(
        ty,
        EntityId::new(value.get("id")?.as_str()?),
    ))
}
