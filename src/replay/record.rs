//! One decision record as it was read.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::base::clock::parse_rfc3339;

/// The reasons of decisions that policies made.
const OF_POLICIES: [&str; 5] = [
    "permitted",
    "not_permitted",
    "forbidden",
    "evaluation_error",
    "step_up_required",
];

/// A line of the decision log. Every field may be missing: older gates wrote fewer, and other kinds of records have
/// others. Fields that `audit.mask` can hide are values of any kind.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct LogRecord<'a> {
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    pub ts: Option<String>,
    /// Empty in records that belong to no decision, which say `null`.
    #[serde(borrow, deserialize_with = "text_or_null")]
    pub decision_id: Cow<'a, str>,
    pub request_id: Option<String>,
    pub portal: Option<String>,
    #[serde(borrow)]
    pub door: Cow<'a, str>,
    pub tenant: Option<String>,
    pub revision: Option<String>,
    pub facts: Option<String>,
    pub principal: Value,
    pub roles: Value,
    pub action: Option<String>,
    pub resource: Value,
    pub context: Value,
    pub supplied: Value,
    #[serde(borrow)]
    pub decision: Cow<'a, str>,
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    pub sample_rate: Option<f64>,
    pub policies: Value,
    pub near: Value,
    pub shadow: Value,
    pub token: Value,
    pub refused: Value,
    pub http: Value,
    pub masked: Vec<String>,
}

/// A record that is no decision: of logins and revocations, of policies, of the operator's commands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventRecord {
    pub kind: String,
    ts: Option<String>,
    pub event: Value,
    pub result: Value,
    pub reason: Value,
    pub detail: Value,
    pub portal: Value,
    pub subject: Value,
    pub tenant: Value,
    /// The id of the user whose process asked for a revocation.
    pub operator: Value,
}

impl EventRecord {
    /// Reads one line; `None`: it is not a record.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Unix milliseconds of the record.
    pub fn millis(&self) -> Option<i64> {
        parse_rfc3339(self.ts.as_deref()?)
    }
}

/// The id by which a record was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MatchedId {
    Decision,
    Request,
}

impl LogRecord<'_> {
    /// Reads one line; `None`: it is not a record.
    pub fn parse(line: &[u8]) -> Option<LogRecord<'_>> {
        serde_json::from_slice(line).ok()
    }

    pub fn is_decision(&self) -> bool {
        self.kind == "decision"
    }

    pub fn is_allowed(&self) -> bool {
        self.decision == "allow"
    }

    /// True if policies decided, and not a check before them.
    pub fn is_of_policies(&self) -> bool {
        OF_POLICIES.contains(&&*self.reason)
    }

    /// The decisions that the record stands for: more than one if `audit.allow` samples them.
    pub fn weight(&self) -> f64 {
        match self.sample_rate {
            Some(rate) if rate > 0.0 && rate <= 1.0 => 1.0 / rate,
            _ => 1.0,
        }
    }

    /// Unix milliseconds of the record.
    pub fn millis(&self) -> Option<i64> {
        parse_rfc3339(self.ts.as_deref()?)
    }

    /// The roles of the caller, in the order of their names.
    pub fn role_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = texts(&self.roles).collect();
        names.sort_unstable();
        names
    }

    /// The policies that decided.
    pub fn policy_ids(&self) -> impl Iterator<Item = &str> {
        texts(&self.policies)
    }

    /// `GET /portal/customer/orders`, or action and resource of a query that names them.
    pub fn question(&self) -> String {
        let text = |name: &str| self.http.get(name).and_then(Value::as_str);
        match (text("method"), text("path")) {
            (Some(method), Some(path)) => format!("{method} {path}"),
            _ => {
                let part = |name: &str| self.resource.get(name).and_then(Value::as_str).unwrap_or_default();
                let action = self.action.as_deref().unwrap_or_default();
                format!("{action} on {}::{:?}", part("type"), part("id"))
            }
        }
    }

    /// The route that matched; the method of a plain path; the action of a query that names it.
    pub fn route_or_action(&self) -> String {
        let text = |name: &str| self.http.get(name).and_then(Value::as_str);
        match (text("route"), text("method"), &self.action) {
            (Some(route), ..) => route.to_owned(),
            (None, Some(method), _) => format!("{method} (no route)"),
            (None, None, action) => action.clone().unwrap_or_default(),
        }
    }

    /// The id of the principal; `None`: the caller was anonymous, or masked.
    pub fn principal_id(&self) -> Option<&str> {
        self.principal.get("id").and_then(Value::as_str)
    }

    /// Tells by which of its ids the record has this id.
    pub fn has_id(&self, id: &str) -> Option<MatchedId> {
        if self.decision_id == id {
            return Some(MatchedId::Decision);
        }
        (self.request_id.as_deref() == Some(id)).then_some(MatchedId::Request)
    }
}

fn text_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, str>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text = Option::<Text<'de>>::deserialize(deserializer)?;
    Ok(text.map(|Text(text)| text).unwrap_or_default())
}

/// The texts of a list; none of a masked one.
fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
