//! The body of `/authorize`, read strictly: an error names the member that is missing, unknown or of another type.
//!
//! In a batch each item is read by itself: an item that is malformed is refused alone. `quick` reads the usual body in
//! one pass; every body that it leaves is read here.

mod quick;

use cedargate_policy::decision::named::{ContextPrecedence, NamedEntity, NamedQuery, action_name};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::json;
use cedargate_policy::types::Redacted;
use serde_json::{Map, Value};

/// Members of a body; an unknown one is an error, because it would be ignored otherwise.
const MEMBERS: [&str; 7] = ["portal", "token", "principal", "action", "resource", "context", "entities"];

/// One query as the body states it.
#[derive(Clone)]
pub struct Ask {
    /// Position in a batch.
    pub item: Option<usize>,
    pub portal: String,
    pub subject: SubjectSource,
    pub action: String,
    pub resource: NamedEntity,
    pub context: Option<Map<String, Value>>,
    pub entities: Vec<Value>,
}

/// The source of a query's principal.
#[derive(Clone)]
pub enum SubjectSource {
    Token(Redacted<String>),
    Principal(NamedEntity),
    /// The caller of the `Authorization` header or the session cookie.
    Header,
}

impl Ask {
    /// The query for the decision.
    pub fn query(&self) -> NamedQuery<'_> {
        let principal = match &self.subject {
            SubjectSource::Principal(principal) => Some(principal),
            SubjectSource::Token(_) | SubjectSource::Header => None,
        };
        NamedQuery {
            action: &self.action,
            resource: &self.resource,
            principal,
            context: self.context.as_ref(),
            precedence: ContextPrecedence::Gate,
            entities: &self.entities,
        }
    }

    /// The place of this query in errors.
    pub fn place(&self) -> String {
        place(self.item)
    }

    /// Reads the only query of a body.
    pub fn from_body(body: &[u8]) -> Result<Self, Refusal> {
        match quick::one(body) {
            Some(ask) => Ok(ask),
            None => Self::read(parse(body)?, None),
        }
    }

    /// Reads the queries of a batch. An item that cannot be read is an error of its own; `Err` if the batch itself
    /// cannot be read.
    pub fn batch_from_body(body: &[u8], max: usize) -> Result<Vec<Result<Self, Refusal>>, Refusal> {
        match quick::batch(body, max) {
            Some(asks) => Ok(asks.into_iter().map(Ok).collect()),
            None => Self::read_batch(parse(body)?, max),
        }
    }

    pub fn read(mut body: Map<String, Value>, item: Option<usize>) -> Result<Self, Refusal> {
        let place = &place(item);
        check_members(&body, place)?;
        let mut take = |member: &str| body.get_mut(member).map(Value::take);
        let subject = match (take("token"), take("principal")) {
            (Some(_), Some(_)) => return Err(invalid(place, "give `token` or `principal`, not both")),
            (Some(Value::String(token)), None) => SubjectSource::Token(Redacted::new(token)),
            (Some(_), None) => return Err(invalid(place, "`token` is not a string")),
            (None, Some(principal)) => {
                SubjectSource::Principal(NamedEntity::read(principal, "principal").map_err(|r| r.at(place))?)
            }
            (None, None) => SubjectSource::Header,
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
        let resource = required(take("resource"), "resource", place)?;
        Ok(Self {
            item,
            portal: match required(take("portal"), "portal", place)? {
                Value::String(portal) => portal,
                _ => return Err(invalid(place, "`portal` is not a string")),
            },
            subject,
            action: action_name(required(take("action"), "action", place)?).map_err(|r| r.at(place))?,
            resource: NamedEntity::read(resource, "resource").map_err(|r| r.at(place))?,
            context,
            entities,
        })
    }

    /// Shared fields, each overridden as a whole by an item's own; `token` and `principal` are one field.
    pub fn read_batch(mut shared: Map<String, Value>, max: usize) -> Result<Vec<Result<Self, Refusal>>, Refusal> {
        let requests = match shared.remove("requests") {
            Some(Value::Array(requests)) => requests,
            Some(_) => return Err(invalid("", "`requests` is not a list")),
            None => return Err(invalid("", "`requests` is missing")),
        };
        if requests.len() > max {
            let detail = format!(
                "`requests` has {} items, more than limits.batch allows ({max})",
                requests.len()
            );
            return Err(Refusal {
                limit: Some("limits.batch"),
                ..invalid("", &detail)
            });
        }
        check_members(&shared, "")?;
        let items = requests.iter().enumerate();
        Ok(items.map(|(at, item)| Self::read_item(&shared, item, at)).collect())
    }

    fn read_item(shared: &Map<String, Value>, item: &Value, at: usize) -> Result<Self, Refusal> {
        let item = item
            .as_object()
            .ok_or_else(|| invalid(&place(Some(at)), "is not an object"))?;
        let mut merged = shared.clone();
        if item.contains_key("token") || item.contains_key("principal") {
            merged.remove("token");
            merged.remove("principal");
        }
        merged.extend(item.iter().map(|(k, v)| (k.clone(), v.clone())));
        Self::read(merged, Some(at))
    }
}

/// `requests[3]` in a batch, else empty.
fn place(item: Option<usize>) -> String {
    item.map_or_else(String::new, |at| format!("requests[{at}]"))
}

fn parse(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    json::object_from_slice(body).map_err(|error| invalid("", &format!("the body is not strict JSON: {error}")))
}

fn check_members(body: &Map<String, Value>, place: &str) -> Result<(), Refusal> {
    let Some(unknown) = body.keys().find(|k| !MEMBERS.contains(&k.as_str())) else {
        return Ok(());
    };
    let closest = MEMBERS
        .iter()
        .max_by(|a, b| strsim::jaro(a, unknown).total_cmp(&strsim::jaro(b, unknown)));
    Err(invalid(
        place,
        &format!("`{unknown}` is not a member; did you mean `{}`?", closest.unwrap_or(&"")),
    ))
}

fn required(value: Option<Value>, member: &str, place: &str) -> Result<Value, Refusal> {
    value.ok_or_else(|| invalid(place, &format!("`{member}` is missing")))
}

fn invalid(place: &str, detail: &str) -> Refusal {
    let detail = if place.is_empty() {
        detail.to_owned()
    } else {
        format!("{place}: {detail}")
    };
    Refusal::new(Denial::RequestInvalid, detail)
}
