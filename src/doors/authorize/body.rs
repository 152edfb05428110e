//! The body of a question, read strictly: what is missing, of another type or unknown is named with its place.

use cedar_policy::{EntityId, EntityUid};
use serde_json::{Map, Value, json};

use crate::authz::schema::SchemaModel;
use crate::authz::supplied::entity_item;
use crate::authz::usual::{Described, usual_text};
use crate::denial::{Denial, Refusal};
use crate::types::Redacted;

/// Members of a question; anything else is a slip that would change its meaning.
const MEMBERS: [&str; 7] = ["portal", "token", "principal", "action", "resource", "context", "entities"];

/// One question, as asked.
pub struct Ask {
    /// `requests[3]` in a batch.
    pub place: String,
    pub portal: String,
    pub who: Who,
    pub action: String,
    pub resource: Named,
    pub context: Option<Map<String, Value>>,
    pub entities: Vec<Value>,
}

pub enum Who {
    Token(Redacted<String>),
    Principal(Named),
    /// Whoever the `Authorization` header proves.
    Header,
}

/// An entity by name, described or not.
pub enum Named {
    /// `Type::"id"`
    Text(String),
    Parts {
        ty: String,
        id: String,
        attrs: Option<Value>,
        parents: Option<Value>,
    },
}

impl Ask {
    pub fn read(mut body: Map<String, Value>, place: &str) -> Result<Self, Refusal> {
        if let Some(unknown) = body.keys().find(|k| !MEMBERS.contains(&k.as_str())) {
            let near = MEMBERS
                .iter()
                .max_by(|a, b| strsim::jaro(a, unknown).total_cmp(&strsim::jaro(b, unknown)));
            return Err(invalid(
                place,
                &format!("`{unknown}` is not a member; did you mean `{}`?", near.unwrap_or(&"")),
            ));
        }
        let mut take = |member: &str| body.get_mut(member).map(Value::take);
        let who = match (take("token"), take("principal")) {
            (Some(_), Some(_)) => return Err(invalid(place, "give `token` or `principal`, not both")),
            (Some(Value::String(token)), None) => Who::Token(Redacted::new(token)),
            (Some(_), None) => return Err(invalid(place, "`token` is not a string")),
            (None, Some(principal)) => Who::Principal(Named::read(principal, "principal", place)?),
            (None, None) => Who::Header,
        };
        let context = match take("context") {
            None => None,
            Some(Value::Object(context)) => Some(context),
            Some(_) => return Err(invalid(place, "`context` is not an object")),
        };
        let entities = match take("entities") {
            None => Vec::new(),
            Some(Value::Array(entities)) => entities,
            Some(_) => return Err(invalid(place, "`entities` is not a list")),
        };
        let resource = take("resource").ok_or_else(|| invalid(place, "`resource` is missing"))?;
        Ok(Self {
            place: place.to_owned(),
            portal: text(take("portal"), "portal", place)?,
            who,
            action: text(take("action"), "action", place)?,
            resource: Named::read(resource, "resource", place)?,
            context,
            entities,
        })
    }

    /// Shared fields, each overridden as a whole by an item's own; `token` and `principal` are one field.
    pub fn read_batch(mut shared: Map<String, Value>, max: usize) -> Result<Vec<Self>, Refusal> {
        let requests = match shared.remove("requests") {
            Some(Value::Array(requests)) => requests,
            Some(_) => return Err(invalid("", "`requests` is not a list")),
            None => return Err(invalid("", "`requests` is missing")),
        };
        if requests.len() > max {
            return Err(invalid(
                "",
                &format!(
                    "`requests` has {} items, more than limits.batch allows ({max})",
                    requests.len()
                ),
            ));
        }
        let read = |(n, item): (usize, &Value)| {
            let place = format!("requests[{n}]");
            let item = item.as_object().ok_or_else(|| invalid(&place, "is not an object"))?;
            let mut merged = shared.clone();
            if item.contains_key("token") || item.contains_key("principal") {
                merged.remove("token");
                merged.remove("principal");
            }
            merged.extend(item.iter().map(|(k, v)| (k.clone(), v.clone())));
            Self::read(merged, &place)
        };
        requests.iter().enumerate().map(read).collect()
    }
}

impl Named {
    fn read(value: Value, member: &str, place: &str) -> Result<Self, Refusal> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Object(mut parts) => {
                if let Some(unknown) = parts
                    .keys()
                    .find(|k| !["type", "id", "attrs", "parents"].contains(&k.as_str()))
                {
                    return Err(invalid(
                        place,
                        &format!("`{member}.{unknown}` is not a member; use type, id, attrs, parents"),
                    ));
                }
                let mut take = |name: &str| parts.get_mut(name).map(Value::take);
                let mut part = |name: &str| match take(name) {
                    Some(Value::String(text)) => Ok(text),
                    _ => Err(invalid(place, &format!("`{member}.{name}` is not a string"))),
                };
                Ok(Self::Parts {
                    ty: part("type")?,
                    id: part("id")?,
                    attrs: take("attrs"),
                    parents: take("parents"),
                })
            }
            _ => Err(invalid(place, &format!("`{member}` is neither `Type::\"id\"` nor an object"))),
        }
    }

    /// The name alone.
    pub fn uid(&self, schema: &SchemaModel, member: &str) -> Result<EntityUid, Refusal> {
        match self {
            Self::Text(text) => {
                if let Some(uid) = usual_text(schema, text) {
                    return Ok(uid);
                }
                let uid: EntityUid = text
                    .parse()
                    .map_err(|_why| invalid("", &format!("`{member}`: `{text}` is not `Type::\"id\"`")))?;
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

    /// What is said of the entity of this name.
    pub fn described<'a>(&'a self, uid: &'a EntityUid) -> Described<'a> {
        let (attrs, parents) = match self {
            Self::Text(_) => (None, None),
            Self::Parts { attrs, parents, .. } => (attrs.as_ref(), parents.as_ref()),
        };
        Described { uid, attrs, parents }
    }
}

/// A description as an item of Cedar's entity JSON; `None` where nothing is said.
pub fn item(schema: &SchemaModel, described: &Described<'_>, member: &str) -> Result<Option<Value>, Refusal> {
    if described.attrs.is_none() && described.parents.is_none() {
        return Ok(None);
    }
    let parents = match described.parents {
        Some(Value::Array(list)) => list.iter().map(|p| parent(schema, p, member)).collect::<Result<_, _>>()?,
        Some(_) => return Err(invalid("", &format!("`{member}.parents` is not a list"))),
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
    let uid = uid.ok_or_else(|| invalid("", &format!("`{member}.parents`: `{value}` is not an entity")))?;
    let ty = schema.declared_type(uid.type_name());
    let ty = ty.ok_or_else(|| unknown_type(&format!("{member}.parents"), &uid.type_name().to_string()))?;
    Ok(json!({"type": ty.to_string(), "id": uid.id().unescaped()}))
}

fn unknown_type(member: &str, ty: &str) -> Refusal {
    invalid("", &format!("`{member}`: the schema has no entity type `{ty}`"))
}

fn text(value: Option<Value>, member: &str, place: &str) -> Result<String, Refusal> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid(place, &format!("`{member}` is not a string"))),
        None => Err(invalid(place, &format!("`{member}` is missing"))),
    }
}

fn invalid(place: &str, detail: &str) -> Refusal {
    let detail = if place.is_empty() {
        detail.to_owned()
    } else {
        format!("{place}: {detail}")
    };
    Refusal::new(Denial::RequestInvalid, detail)
}
