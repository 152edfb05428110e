//! One question of AuthZEN: subject, action, resource and context, and what they are in Cedar.
//!
//! Properties and context are free in AuthZEN and typed in Cedar. A member that the schema declares is passed on, in
//! Cedar's JSON; a member that it does not declare is left out, because no policy can read it. A declared member of
//! another type leaves the question undecided. Cedar's actions have no attributes, so an action's properties are the
//! field `action` of the context.

use cedargate_policy::decision::named::NamedEntity;
use cedargate_policy::denial::{Denial, Refusal};
use serde_json::{Map, Value};

use super::invalid;
use crate::doors::authorize::body::{Ask, SubjectSource};
use crate::portals::{ActiveRevision, Portal};

/// The field of the context that holds the properties of the action.
const CONTEXT_OF_ACTION: &str = "action";

/// A subject or a resource.
#[derive(Clone, Debug)]
pub(super) struct Entity {
    pub ty: String,
    /// `None` only where a search looks for it.
    pub id: Option<String>,
    pub properties: Option<Map<String, Value>>,
}

/// What the subject would do; a search for actions has none.
#[derive(Clone, Debug, Default)]
pub(super) struct Action {
    pub name: String,
    properties: Option<Map<String, Value>>,
}

/// A question with its parts.
#[derive(Debug)]
pub(super) struct Evaluation {
    pub subject: Entity,
    pub action: Action,
    pub resource: Entity,
    pub context: Option<Map<String, Value>>,
}

/// The portal's schema, by which names and members are translated.
pub(super) struct Translation<'a> {
    pub portal: &'a Portal,
    pub active: Option<std::sync::Arc<ActiveRevision>>,
}

/// The questions of a batch that are decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Semantics {
    All,
    UntilDeny,
    UntilPermit,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ItemDecision {
    Permit,
    Deny,
}

impl ItemDecision {
    pub fn of(denial: Option<Denial>) -> Self {
        match denial {
            None => Self::Permit,
            Some(_) => Self::Deny,
        }
    }
}

impl Semantics {
    pub fn read(body: &Map<String, Value>) -> Result<Self, Refusal> {
        let options = match body.get("options") {
            None | Some(Value::Null) => return Ok(Self::All),
            Some(Value::Object(options)) => options,
            Some(_) => return Err(invalid("`options` is not an object")),
        };
        match options.get("evaluations_semantic") {
            None => Ok(Self::All),
            Some(Value::String(name)) => match name.as_str() {
                "execute_all" => Ok(Self::All),
                "deny_on_first_deny" => Ok(Self::UntilDeny),
                "permit_on_first_permit" => Ok(Self::UntilPermit),
                other => Err(invalid(&format!(
                    "`options.evaluations_semantic`: `{other}` is not one of execute_all, deny_on_first_deny, permit_on_first_permit"
                ))),
            },
            Some(_) => Err(invalid("`options.evaluations_semantic` is not a string")),
        }
    }

    /// True if no further question is decided after this verdict.
    pub fn ends_at(self, verdict: ItemDecision) -> bool {
        matches!(
            (self, verdict),
            (Self::UntilDeny, ItemDecision::Deny) | (Self::UntilPermit, ItemDecision::Permit)
        )
    }
}

impl Evaluation {
    pub fn read(body: &Map<String, Value>) -> Result<Self, Refusal> {
        Ok(Self {
            subject: Entity::read(body, "subject")?.with_id("subject")?,
            action: Action::read(body)?,
            resource: Entity::read(body, "resource")?.with_id("resource")?,
            context: context(body)?,
        })
    }

    /// Each item's own members replace the shared ones as a whole. An item that cannot be read is an error of its own.
    pub fn read_all(body: &Map<String, Value>, max: usize) -> Result<Vec<Result<Self, Refusal>>, Refusal> {
        let Some(Value::Array(items)) = body.get("evaluations") else {
            return Err(invalid("`evaluations` is not a list"));
        };
        if items.len() > max {
            return Err(Refusal {
                limit: Some("limits.batch"),
                ..invalid(&format!(
                    "`evaluations` has {} items, more than limits.batch allows ({max})",
                    items.len()
                ))
            });
        }
        let shared = ["subject", "action", "resource", "context"];
        let read = |(at, item): (usize, &Value)| {
            let Value::Object(item) = item else {
                return Err(invalid(&format!("`evaluations[{at}]` is not an object")));
            };
            let mut merged = Map::new();
            for name in shared {
                if let Some(value) = item.get(name).or_else(|| body.get(name)) {
                    merged.insert(name.to_owned(), value.clone());
                }
            }
            Self::read(&merged).map_err(|refusal| refusal.at(&format!("evaluations[{at}]")))
        };
        Ok(items.iter().enumerate().map(read).collect())
    }
}

impl Entity {
    pub fn read(body: &Map<String, Value>, name: &str) -> Result<Self, Refusal> {
        let Some(Value::Object(parts)) = body.get(name) else {
            return Err(match body.get(name) {
                None => invalid(&format!("`{name}` is missing")),
                Some(_) => invalid(&format!("`{name}` is not an object")),
            });
        };
        let text = |member: &str| match parts.get(member) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(invalid(&format!("`{name}.{member}` is not a string"))),
        };
        let properties = properties(parts, name)?;
        Ok(Self {
            ty: text("type")?.ok_or_else(|| invalid(&format!("`{name}.type` is missing")))?,
            id: text("id")?,
            properties,
        })
    }

    pub fn with_id(self, name: &str) -> Result<Self, Refusal> {
        match self.id {
            Some(_) => Ok(self),
            None => Err(invalid(&format!("`{name}.id` is missing"))),
        }
    }
}

impl Action {
    pub fn read(body: &Map<String, Value>) -> Result<Self, Refusal> {
        let parts = match body.get("action") {
            None => return Err(invalid("`action` is missing")),
            Some(Value::Object(parts)) => parts,
            Some(_) => return Err(invalid("`action` is not an object")),
        };
        let name = match parts.get("name") {
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err(invalid("`action.name` is not a string")),
            None => return Err(invalid("`action.name` is missing")),
        };
        let properties = properties(parts, "action")?;
        Ok(Self { name, properties })
    }
}

fn properties(parts: &Map<String, Value>, name: &str) -> Result<Option<Map<String, Value>>, Refusal> {
    match parts.get("properties") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(properties)) => Ok(Some(properties.clone())),
        Some(_) => Err(invalid(&format!("`{name}.properties` is not an object"))),
    }
}

pub(super) fn context(body: &Map<String, Value>) -> Result<Option<Map<String, Value>>, Refusal> {
    match body.get("context") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(context)) => Ok(Some(context.clone())),
        Some(_) => Err(invalid("`context` is not an object")),
    }
}

impl<'a> Translation<'a> {
    /// By the revision in force.
    pub fn of(portal: &'a Portal) -> Self {
        Self {
            portal,
            active: portal.active.load_full(),
        }
    }

    /// The query of a question.
    pub fn ask(&self, asked: &Evaluation) -> Ask {
        Ask {
            item: None,
            portal: self.portal.name.to_string(),
            subject: SubjectSource::Principal(self.entity(&asked.subject)),
            action: asked.action.name.clone(),
            resource: self.entity(&asked.resource),
            context: self.context(&asked.action, asked.context.as_ref()),
            entities: Vec::new(),
        }
    }

    fn entity(&self, entity: &Entity) -> NamedEntity {
        NamedEntity::Parts {
            ty: entity.ty.clone(),
            id: entity.id.clone().unwrap_or_default(),
            attrs: self.attributes(entity),
            parents: None,
        }
    }

    /// The properties that the schema declares as attributes of the type.
    pub fn attributes(&self, entity: &Entity) -> Option<Value> {
        let schema = &self.active.as_ref()?.revision.rules.schema;
        schema
            .attribute_members(&entity.ty, entity.properties.as_ref()?)
            .map(Value::Object)
    }

    /// The context of a question; the properties of the action are its record `action`, as far as the schema declares
    /// it.
    pub fn given_context(&self, action: &Action, context: Option<&Map<String, Value>>) -> Option<Map<String, Value>> {
        let mut context = context.cloned();
        let schema = self.active.as_ref().map(|active| &active.revision.rules.schema);
        let record = schema
            .zip(action.properties.as_ref())
            .and_then(|(schema, given)| schema.context_record(&action.name, CONTEXT_OF_ACTION, given));
        if let Some(record) = record {
            let context = context.get_or_insert_default();
            context.insert(CONTEXT_OF_ACTION.to_owned(), Value::Object(record));
        }
        context
    }

    /// The members of the context that the schema declares for the action.
    fn context(&self, action: &Action, context: Option<&Map<String, Value>>) -> Option<Map<String, Value>> {
        let given = self.given_context(action, context)?;
        let schema = &self.active.as_ref()?.revision.rules.schema;
        schema.context_members(&action.name, &given)
    }
}
