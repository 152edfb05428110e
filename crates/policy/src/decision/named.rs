//! The query that names action and resource itself: a query of the app, or a decision test that skips HTTP.
//!
//! At a running door a query cannot override the gate's facts (portal, time, the credential's tenant). The fast path
//! reads entities and context if all of them are plain values of the declared types; else Cedar's own readers do. Both
//! give the same decisions; a property test checks this. The fast path exists because Cedar's JSON readers take tens of
//! microseconds for a few values.

use cedar_policy::{Context, EntityId, EntityTypeName, EntityUid};
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use super::{Caller, DecisionContext, Details, Query, Target};
use crate::context::{ContextFacts, ContextPlan, NamedContext, ReadyContext, RecordedContext};
use crate::denial::{Denial, Refusal};
use crate::engine::entities::SuppliedEntities;
use crate::engine::{ContextSource, Evaluation, QueryEntity};
use crate::error_chain::json_error;
use crate::fast_path::{DescribedEntity, fast_text};
use crate::json::{NumberError, check_integers_in};
use crate::portal::path::CanonicalPath;
use crate::portal::path::rules::PathRules;
use crate::query_entities::{check_distinct, entity_item};
use crate::rules::Rules;
use crate::schema::SchemaModel;

/// Action, resource, and the facts that the query adds.
pub struct NamedQuery<'a> {
    /// `viewOrder` or `NS::Action::"viewOrder"`.
    pub action: &'a str,
    /// The resource.
    pub resource: &'a NamedEntity,
    /// The principal, used if no credential proves one.
    pub principal: Option<&'a NamedEntity>,
    /// Context fields in addition to the gate's own.
    pub context: Option<&'a Map<String, Value>>,
    /// The value that counts if a context field is also the gate's own.
    pub precedence: ContextPrecedence,
    /// Further entities, as Cedar's entity JSON.
    pub entities: &'a [Value],
}

/// The value that counts if a given context field is also the gate's own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContextPrecedence {
    /// The gate's own: for every running door.
    Gate,
    /// The given one: for decision tests.
    Given,
    /// The given fields are the whole context: for the tests of the Cedar CLI.
    GivenAlone,
}

/// An entity by name, with attributes and parents if the query describes them.
#[derive(Clone, Debug)]
pub enum NamedEntity {
    /// `Type::"id"`
    Text(String),
    /// An object with the members `type`, `id`, `attrs`, `parents`.
    Parts {
        /// Name of the type, with or without the namespace.
        ty: String,
        /// The id.
        id: String,
        /// Cedar's JSON of the attributes.
        attrs: Option<Value>,
        /// List of entities, as Cedar's JSON or as text.
        parents: Option<Value>,
    },
}

/// The reader of entities and context; the two differ in cost alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reader {
    FastPathFirst,
    #[cfg(test)]
    CedarAlone,
}

pub(super) fn evaluate(
    query: &Query<'_>,
    named: &NamedQuery<'_>,
    caller: Caller<'_>,
    tenant: Option<&str>,
    details: &mut Details<'_>,
) -> Result<Evaluation, Refusal> {
    evaluate_by(Reader::FastPathFirst, query, named, caller, tenant, details)
}

pub(super) fn evaluate_by(
    reader: Reader,
    query: &Query<'_>,
    named: &NamedQuery<'_>,
    caller: Caller<'_>,
    tenant: Option<&str>,
    details: &mut Details<'_>,
) -> Result<Evaluation, Refusal> {
    let rules = &query.revision.rules;
    let schema = &rules.schema;
    let action = schema
        .resolve_action(named.action)
        .ok_or_else(|| invalid(format!("`action`: the schema has no action `{}`", named.action)))?;
    let paths = &query.revision.file.paths;
    let NamedResource { uid: resource, others } = NamedResource::of(rules, paths, named.resource.uid(schema, "resource")?)?;
    let query_principal = QueryPrincipal::of(schema, named, caller)?;
    let proven = match caller {
        Caller::Proven { principal, .. } => Some(&principal.entity),
        Caller::Anonymous => None,
    };
    let supplied = supplied(
        reader,
        rules,
        named,
        &resource,
        query_principal.as_ref(),
        proven.map(|entity| &entity.uid),
    )?;
    let named_entity = |principal: &QueryPrincipal<'_>| rules.named_principal(principal.uid.clone(), &supplied);
    let described = query_principal.as_ref().map(named_entity);
    let Some(principal) = proven.or(described.as_ref()) else {
        return Err(Denial::TokenMissing.into());
    };
    let principal_type = principal.uid.type_name();
    if !schema.applies(principal_type, &action, resource.type_name()) {
        let resource_type = resource.type_name();
        return Err(invalid(format!(
            "the schema does not let a `{principal_type}` do `{action}` on a `{resource_type}`"
        )));
    }
    let identity = caller.identity();
    let facts = ContextFacts::of_named(query.portal, tenant, identity, caller.flags(query.revision), query.now_millis);
    let resource = rules.named_resource(resource, &supplied);
    let observer = details.observer;
    let evaluate_with = |context: &dyn ContextSource| {
        for other in others {
            let forbids = rules.evaluate_forbids(principal, &action, &rules.resource(other), context, observer);
            if forbids.is_forbidden() {
                return Ok(forbids);
            }
        }
        rules.evaluate(principal, &action, &resource, &supplied, context, observer)
    };
    let InContext { evaluation, shown } = in_context(reader, rules, &facts, &action, named, evaluate_with)?;
    details.context = shown;
    details.named_principal = described;
    details.target = Some(Target {
        action,
        resource,
        route: None,
    });
    Ok(evaluation)
}

/// The parts of a named query, as the decision reads them.
pub(crate) struct NamedParts {
    pub principal: QueryEntity,
    pub action: EntityUid,
    pub resource: QueryEntity,
    pub context: Context,
}

/// The parts of a query of an app that names its principal, for a search: nothing is decided.
pub(crate) fn parts(query: &Query<'_>, named: &NamedQuery<'_>) -> Result<NamedParts, Refusal> {
    let rules = &query.revision.rules;
    let schema = &rules.schema;
    let unknown = || invalid(format!("`action`: the schema has no action `{}`", named.action));
    let action = schema.resolve_action(named.action).ok_or_else(unknown)?;
    let resource = NamedResource::of(rules, &query.revision.file.paths, named.resource.uid(schema, "resource")?)?.uid;
    let principal = QueryPrincipal::of(schema, named, Caller::Anonymous)?.ok_or(Denial::TokenMissing)?;
    let supplied = supplied(Reader::FastPathFirst, rules, named, &resource, Some(&principal), None)?;
    let flags = Caller::Anonymous.flags(query.revision);
    let facts = ContextFacts::of_named(query.portal, query.tenant(), None, flags, query.now_millis);
    Ok(NamedParts {
        principal: rules.named_principal(principal.uid.clone(), &supplied),
        context: read_by_cedar(rules, &facts, &action, named)?.context.0,
        action,
        resource: rules.named_resource(resource, &supplied),
    })
}

/// The resource of a query. A path has the spelling that the proxy decides on.
struct NamedResource {
    uid: EntityUid,
    /// The other spellings and readings of the path: a forbid on one of them holds, too.
    others: Vec<EntityUid>,
}

impl NamedResource {
    /// SECURITY: `Path::"/open/../secret"` is below `/open` by its text and at `/secret` for the app. The query's path
    /// obeys the rules of a request's path.
    fn of(rules: &Rules, paths: &PathRules, uid: EntityUid) -> Result<Self, Refusal> {
        if !rules.is_path(&uid) {
            return Ok(Self { uid, others: Vec::new() });
        }
        let id = uid.id().unescaped();
        let no_path = |why: &str| invalid(format!("`resource`: `{id}` is not a valid path: {why}"));
        let path = CanonicalPath::parse_request(id).map_err(|error| no_path(&error.to_string()))?;
        let reading = paths.read(&path).map_err(|refusal| no_path(&refusal.detail))?;
        let named = |id: &str| EntityUid::from_type_name_and_id(uid.type_name().clone(), EntityId::new(id));
        Ok(Self {
            others: reading.further_ids().map(named).collect(),
            uid: if id == reading.id() { uid } else { named(reading.id()) },
        })
    }
}

/// An evaluation, and the context that it saw, for the record.
struct InContext {
    evaluation: Evaluation,
    shown: Option<DecisionContext>,
}

fn in_context(
    reader: Reader,
    rules: &Rules,
    facts: &ContextFacts<'_>,
    action: &EntityUid,
    named: &NamedQuery<'_>,
    evaluate_with: impl FnOnce(&dyn ContextSource) -> Result<Evaluation, Refusal>,
) -> Result<InContext, Refusal> {
    if let Some(FastContext { plan, context }) = fast_context(reader, rules, facts, action, named) {
        let shown = match context.is_empty() {
            true => None,
            false => Some(RecordedContext::new(plan, facts)?.with(context.given())),
        };
        return Ok(InContext {
            evaluation: evaluate_with(&context)?,
            shown: shown.map(|shown| DecisionContext::Facts(Box::new(shown))),
        });
    }
    let CedarContext { context, json } = read_by_cedar(rules, facts, action, named)?;
    let is_shown = json.as_object().is_some_and(|fields| !fields.is_empty());
    Ok(InContext {
        evaluation: evaluate_with(&context)?,
        shown: is_shown.then_some(DecisionContext::Json(json)),
    })
}

/// The principal that a query names itself.
struct QueryPrincipal<'a> {
    uid: EntityUid,
    entity: &'a NamedEntity,
}

impl<'a> QueryPrincipal<'a> {
    /// `None` if a credential proves the principal: it takes precedence.
    fn of(schema: &SchemaModel, named: &NamedQuery<'a>, caller: Caller<'_>) -> Result<Option<Self>, Refusal> {
        match (caller, named.principal) {
            (Caller::Proven { .. }, _) => Ok(None),
            (Caller::Anonymous, Some(entity)) => Ok(Some(Self {
                uid: entity.uid(schema, "principal")?,
                entity,
            })),
            (Caller::Anonymous, None) => Err(Refusal::new(Denial::TokenMissing, "the query names no principal")),
        }
    }
}

/// An entity that a member of the query describes.
struct NamedMember<'a> {
    name: &'static str,
    described: DescribedEntity<'a>,
}

impl<'a> NamedMember<'a> {
    fn new(name: &'static str, described: DescribedEntity<'a>) -> Self {
        Self { name, described }
    }
}

/// The entities that come with a query, by the fast path if all of them are plain. `reserved` is a principal that a
/// credential proved: the query may not describe it.
fn supplied(
    reader: Reader,
    rules: &Rules,
    named: &NamedQuery<'_>,
    resource: &EntityUid,
    query_principal: Option<&QueryPrincipal<'_>>,
    reserved: Option<&EntityUid>,
) -> Result<SuppliedEntities, Refusal> {
    let mut members: SmallVec<[NamedMember<'_>; 2]> = SmallVec::new();
    members.push(NamedMember::new("resource", named.resource.described(resource)));
    members.extend(query_principal.map(|principal| NamedMember::new("principal", principal.entity.described(&principal.uid))));
    if reader == Reader::FastPathFirst && named.entities.is_empty() {
        let all: SmallVec<[DescribedEntity<'_>; 2]> = members.iter().map(|member| member.described).collect();
        if let Some(fast) = rules.fast_entities(&all, reserved) {
            return Ok(fast);
        }
    }
    check_distinct(named.entities).map_err(|error| invalid(format!("`entities`: {error}")))?;
    let mut items = Vec::new();
    for member in &members {
        items.extend(item(&rules.schema, member)?);
    }
    items.extend(named.entities.iter().cloned());
    rules
        .supplied_entities(&Value::Array(items), reserved)
        .map_err(|error| match number_error(&members, named.entities) {
            Some(number) => invalid(number.to_string()),
            None => invalid(format!("`entities`: {error}")),
        })
}

/// The number that Cedar does not take, if there is one: its own message does not say where it is.
fn number_error(members: &[NamedMember<'_>], entities: &[Value]) -> Option<NumberError> {
    let attrs = members
        .iter()
        .filter_map(|member| check_integers_in(member.described.attrs?, &format!("{}.attrs", member.name)).err());
    let entities = entities.iter().enumerate();
    let supplied = entities.filter_map(|(at, entity)| check_integers_in(entity, &format!("entities.{at}")).err());
    attrs.chain(supplied).next()
}

/// A context that the fast path read.
struct FastContext<'a> {
    plan: &'a std::sync::Arc<ContextPlan>,
    context: NamedContext<'a>,
}

fn fast_context<'a>(
    reader: Reader,
    rules: &'a Rules,
    facts: &'a ContextFacts<'a>,
    action: &EntityUid,
    named: &'a NamedQuery<'_>,
) -> Option<FastContext<'a>> {
    if reader != Reader::FastPathFirst || named.precedence != ContextPrecedence::Gate {
        return None;
    }
    let plan = rules.plans.get(action)?;
    let declared = &rules.schema.action(action)?.context;
    let context = plan.fast(facts, declared, named.context)?;
    Some(FastContext { plan, context })
}

/// A context that Cedar read, and its JSON for the record.
struct CedarContext {
    context: ReadyContext,
    json: Value,
}

fn read_by_cedar(
    rules: &Rules,
    facts: &ContextFacts<'_>,
    action: &EntityUid,
    named: &NamedQuery<'_>,
) -> Result<CedarContext, Refusal> {
    let json = Value::Object(filled(rules, facts, action, named)?);
    let schema = &rules.schema.cedar;
    let context = read_context(json.clone(), rules, action)?;
    // parsing alone lets values of another type through
    context
        .validate(schema, action)
        .map_err(|error| invalid(format!("`context`: {}", json_error(&error))))?;
    Ok(CedarContext {
        context: ReadyContext(context),
        json,
    })
}

/// Has Cedar read a context; a refusal names the place of a number that Cedar does not take.
pub(super) fn read_context(json: Value, rules: &Rules, action: &EntityUid) -> Result<Context, Refusal> {
    let numbers = check_integers_in(&json, "context");
    Context::from_json_value(json, Some((&rules.schema.cedar, action))).map_err(|error| match numbers {
        Err(number) => invalid(number.to_string()),
        Ok(()) => invalid(format!("`context`: {}", json_error(&error))),
    })
}

/// The given fields and the gate's own.
fn filled(
    rules: &Rules,
    facts: &ContextFacts<'_>,
    action: &EntityUid,
    named: &NamedQuery<'_>,
) -> Result<Map<String, Value>, Refusal> {
    let mut all = named.context.cloned().unwrap_or_default();
    let Some(plan) = rules.plans.get(action) else {
        return Ok(all);
    };
    match named.precedence {
        ContextPrecedence::Gate => {
            all.retain(|name, _| !plan.owns(name, facts));
            all.extend(plan.to_json(facts)?);
        }
        ContextPrecedence::Given => {
            for (name, value) in plan.to_json(facts)? {
                all.entry(name).or_insert(value);
            }
        }
        ContextPrecedence::GivenAlone => {}
    }
    Ok(all)
}

/// Reads the name of an action: `viewOrder`, `NS::Action::"viewOrder"`, or an object with the members `type` and `id`.
pub fn action_name(value: Value) -> Result<String, Refusal> {
    let mut parts = match value {
        Value::String(text) => return Ok(text),
        Value::Object(parts) => parts,
        _ => return Err(invalid("`action` is neither a string nor an object".to_owned())),
    };
    if let Some(unknown) = parts.keys().find(|key| !["type", "id"].contains(&key.as_str())) {
        return Err(invalid(format!("`action.{unknown}` is not a member; use type, id")));
    }
    let mut part = |name: &str| match parts.get_mut(name).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(invalid(format!("`action.{name}` is not a string"))),
    };
    let ty = part("type")?;
    let id = part("id")?;
    let ty: EntityTypeName = ty
        .parse()
        .map_err(|_why| invalid(format!("`action.type`: `{ty}` is not the name of a type")))?;
    Ok(EntityUid::from_type_name_and_id(ty, EntityId::new(id)).to_string())
}

impl NamedEntity {
    /// Reads `Type::"id"` or an object; `member` names the place in errors.
    pub fn read(value: Value, member: &str) -> Result<Self, Refusal> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Object(mut parts) => {
                if let Some(unknown) = parts
                    .keys()
                    .find(|key| !["type", "id", "attrs", "parents"].contains(&key.as_str()))
                {
                    return Err(invalid(format!(
                        "`{member}.{unknown}` is not a member; use type, id, attrs, parents"
                    )));
                }
                let mut take = |name: &str| parts.get_mut(name).map(Value::take);
                let mut part = |name: &str| match take(name) {
                    Some(Value::String(text)) => Ok(text),
                    _ => Err(invalid(format!("`{member}.{name}` is not a string"))),
                };
                Ok(Self::Parts {
                    ty: part("type")?,
                    id: part("id")?,
                    attrs: take("attrs"),
                    parents: take("parents"),
                })
            }
            _ => Err(invalid(format!("`{member}` is neither `Type::\"id\"` nor an object"))),
        }
    }

    /// The entity's name, its type resolved in the schema.
    pub fn uid(&self, schema: &SchemaModel, member: &str) -> Result<EntityUid, Refusal> {
        match self {
            Self::Text(text) => {
                if let Some(uid) = fast_text(schema, text) {
                    return Ok(uid);
                }
                let uid: EntityUid = text
                    .parse()
                    .map_err(|_why| invalid(format!("`{member}`: `{text}` is not `Type::\"id\"`")))?;
                let ty = schema.declared_type(uid.type_name());
                let ty = ty.ok_or_else(|| unknown_type(member, &uid.type_name().to_string()))?;
                Ok(EntityUid::from_type_name_and_id(ty, uid.id().clone()))
            }
            Self::Parts { ty, id, .. } => {
                let ty = schema.resolve_type(ty).ok_or_else(|| unknown_type(member, ty))?;
                Ok(EntityUid::from_type_name_and_id(ty, EntityId::new(id)))
            }
        }
    }

    /// The attributes and parents that the query gives to the entity `uid`.
    fn described<'a>(&'a self, uid: &'a EntityUid) -> DescribedEntity<'a> {
        let (attrs, parents) = match self {
            Self::Text(_) => (None, None),
            Self::Parts { attrs, parents, .. } => (attrs.as_ref(), parents.as_ref()),
        };
        DescribedEntity { uid, attrs, parents }
    }
}

/// A description as an item of Cedar's entity JSON; `None` without attributes and parents.
fn item(schema: &SchemaModel, member: &NamedMember<'_>) -> Result<Option<Value>, Refusal> {
    let NamedMember { name, described } = member;
    if described.attrs.is_none() && described.parents.is_none() {
        return Ok(None);
    }
    let parents = match described.parents {
        Some(Value::Array(list)) => list.iter().map(|p| parent(schema, p, name)).collect::<Result<_, _>>()?,
        Some(_) => return Err(invalid(format!("`{name}.parents` is not a list"))),
        None => Vec::new(),
    };
    let attrs = described.attrs.cloned().unwrap_or_else(|| json!({}));
    Ok(Some(entity_item(described.uid, &attrs, &Value::Array(parents))))
}

/// A parent as Cedar's JSON wants it; the text form is understood too.
fn parent(schema: &SchemaModel, value: &Value, member: &str) -> Result<Value, Refusal> {
    let uid = match value {
        Value::String(text) => text.parse().ok(),
        other => EntityUid::from_json(other.clone()).ok(),
    };
    let uid = uid.ok_or_else(|| invalid(format!("`{member}.parents`: `{value}` is not an entity")))?;
    let ty = schema.declared_type(uid.type_name());
    let ty = ty.ok_or_else(|| unknown_type(&format!("{member}.parents"), &uid.type_name().to_string()))?;
    Ok(json!({"type": ty.to_string(), "id": uid.id().unescaped()}))
}

fn unknown_type(member: &str, ty: &str) -> Refusal {
    invalid(format!("`{member}`: the schema has no entity type `{ty}`"))
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}

#[cfg(test)]
#[path = "named_tests.rs"]
mod tests;
