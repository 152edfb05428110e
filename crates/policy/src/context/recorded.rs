//! The context of a decision, for its record: stored as facts on the request's thread, turned into text by the audit writer.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::{AttrType, ContextPlan, Fact, Facts, HttpFacts};
use crate::denial::Refusal;
use crate::types::AuthFacts;
use crate::value::datetime_text;

/// One fact as a record shows it, and as Cedar's JSON has it.
pub(super) enum Shown<'a> {
    Text(&'a str),
    Ip(IpAddr),
    /// Unix milliseconds.
    Now(i64),
    Auth(&'a AuthFacts, &'a AttrType),
    Flags(&'a Map<String, Value>),
    Json(Value),
}

/// The gate's fields of one query.
#[derive(Debug)]
pub struct RecordedContext {
    plan: Arc<ContextPlan>,
    texts: Texts,
    has_tenant: bool,
    now_millis: i64,
    auth: Option<Arc<AuthFacts>>,
    flags: Arc<Map<String, Value>>,
    http: Option<(&'static str, IpAddr)>,
    /// Values that the client gave in headers and the query string, by field.
    given: Vec<(Fact, Value)>,
    /// Fields that an app gave.
    app_fields: Map<String, Value>,
}

/// Portal, tenant, method, path and host, one after the other in one allocation, because every request stores them.
#[derive(Debug)]
struct Texts {
    all: Box<str>,
    ends: [usize; 5],
}

impl Texts {
    fn of(texts: [&str; 5]) -> Self {
        let mut end = 0;
        let ends = texts.map(|text| {
            end += text.len();
            end
        });
        let all = texts.concat().into_boxed_str();
        Self { all, ends }
    }

    fn split(&self) -> [&str; 5] {
        let mut start = 0;
        self.ends.map(|end| {
            // INVARIANT: the ends are those of the texts
            let text = self.all.get(start..end).unwrap_or_default();
            start = end;
            text
        })
    }
}

impl RecordedContext {
    /// # Errors
    /// A header or parameter that is given more than once.
    pub fn new(plan: &Arc<ContextPlan>, facts: &Facts<'_>) -> Result<Self, Refusal> {
        let mut given = Vec::new();
        if let Some(http) = &facts.http {
            for field in plan.owned.iter().filter(|f| f.fact.is_given()) {
                given.push((field.fact, field.given(http)?));
            }
        }
        let (method, path, host) = facts.http.as_ref().map_or(("", "", ""), |h| (h.method, h.path, h.host));
        Ok(Self {
            plan: Arc::clone(plan),
            texts: Texts::of([facts.portal, facts.tenant.unwrap_or_default(), method, path, host]),
            has_tenant: facts.tenant.is_some(),
            now_millis: facts.now_millis,
            auth: facts.auth.cloned(),
            flags: Arc::clone(facts.flags),
            http: facts.http.as_ref().map(|http| (http.scheme, http.source_ip)),
            given,
            app_fields: Map::new(),
        })
    }

    /// Adds the fields that the app gave.
    #[must_use]
    pub fn with(mut self, app_fields: Map<String, Value>) -> Self {
        self.app_fields = app_fields;
        self
    }
}

impl Serialize for RecordedContext {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let headers = HeaderMap::new();
        let [portal, tenant, method, path, host] = self.texts.split();
        let facts = Facts {
            portal,
            tenant: self.has_tenant.then_some(tenant),
            now_millis: self.now_millis,
            auth: self.auth.as_ref(),
            flags: &self.flags,
            http: self.http.map(|(scheme, source_ip)| HttpFacts {
                method,
                path,
                host,
                scheme,
                source_ip,
                query: &[],
                beside_semicolons: &[],
                headers: &headers,
            }),
        };
        let mut map = to.serialize_map(None)?;
        for field in self.plan.filled(&facts) {
            if let Some((_, value)) = self.given.iter().find(|(fact, _)| *fact == field.fact) {
                map.serialize_entry(&field.name, value)?;
            } else if let Ok(Some(shown)) = field.shown(&facts) {
                map.serialize_entry(&field.name, &shown)?;
            }
        }
        for (name, value) in &self.app_fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => to.serialize_str(text),
            Self::Ip(ip) => to.collect_str(ip),
            // INVARIANT: the clock stays within the years 0-9999, which the text can express
            Self::Now(millis) => to.serialize_str(&datetime_text(*millis).unwrap_or_default()),
            Self::Auth(auth, ty) => auth_fields(auth, ty, to),
            Self::Flags(flags) => flags.serialize(to),
            Self::Json(value) => value.serialize(to),
        }
    }
}

fn auth_fields<S: Serializer>(auth: &AuthFacts, ty: &AttrType, to: S) -> Result<S::Ok, S::Error> {
    let AttrType::Record(record) = ty else {
        return to.serialize_none();
    };
    let mut map = to.serialize_map(None)?;
    for name in record.fields.keys() {
        match (name.as_str(), auth.time, &auth.acr) {
            ("method", ..) => map.serialize_entry(name, auth.method)?,
            ("time", Some(time), _) => map.serialize_entry(name, &time)?,
            ("acr", _, Some(acr)) => map.serialize_entry(name, acr)?,
            ("amr", ..) => map.serialize_entry(name, &auth.amr)?,
            ("scopes", ..) => map.serialize_entry(name, &auth.scopes)?,
            _ => {}
        }
    }
    map.end()
}
