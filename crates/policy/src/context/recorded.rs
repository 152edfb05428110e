//! The context of a decision, for its record: stored as facts until the record is written, then turned into text.
//!
//! There are two writers of the same text: `append` for nearly every record, and the serializer for a record whose
//! context is masked. A property test compares them.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::{AttrType, ContextFacts, ContextPlan};
use crate::denial::Refusal;
use crate::json::append;
use crate::types::AuthFacts;
use crate::value::{append_datetime, datetime_text};

/// One fact as a record shows it, and as Cedar's JSON has it.
pub(super) enum Shown<'a> {
    Text(&'a str),
    Ip(IpAddr),
    /// Unix milliseconds.
    Now(i64),
    Auth(&'a Arc<AuthFacts>, &'a AttrType),
    Flags(&'a Arc<Map<String, Value>>),
    Json(Cow<'a, Value>),
}

/// The gate's fields of one query.
#[derive(Debug)]
pub struct RecordedContext {
    plan: Arc<ContextPlan>,
    /// One value for each of the plan's fields, in their order.
    values: SmallVec<[Stored; 12]>,
    /// The texts of `values`, one after the other in one allocation, because every request stores them.
    texts: String,
    /// Fields that an app gave.
    app_fields: Map<String, Value>,
}

/// A fact without its query.
#[derive(Debug)]
enum Stored {
    Absent,
    /// The end of its text in `texts`; it begins where the one before it ends.
    Text(usize),
    Ip(IpAddr),
    Now(i64),
    Auth(Arc<AuthFacts>),
    Flags(Arc<Map<String, Value>>),
    /// On the heap, because few requests have one.
    Json(Box<Value>),
}

impl RecordedContext {
    /// # Errors
    /// A header or parameter that is given more than once.
    pub fn new(plan: &Arc<ContextPlan>, facts: &ContextFacts<'_>) -> Result<Self, Refusal> {
        // one pass, and room for every text: each request stores a context
        let mut texts = String::with_capacity(facts.text_bytes());
        let mut values = SmallVec::with_capacity(plan.owned.len());
        for field in &plan.owned {
            values.push(match field.shown(facts) {
                Ok(Some(shown)) => shown.store(&mut texts),
                Err(refusal) if field.fact.is_given() => return Err(refusal),
                Ok(None) | Err(_) => Stored::Absent,
            });
        }
        Ok(Self {
            plan: Arc::clone(plan),
            values,
            texts,
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

impl RecordedContext {
    /// True if the record has, or could have, a field of which `is_wanted` is true of the name.
    pub fn has_field(&self, is_wanted: impl Fn(&str) -> bool) -> bool {
        let own = self.plan.owned.iter().any(|field| is_wanted(&field.name));
        own || self.app_fields.keys().any(|name| is_wanted(name))
    }

    /// Appends the JSON that the serializer would write.
    pub fn append(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let mut separator = b'{';
        self.for_each_field(|name, shown| {
            out.push(separator);
            separator = b',';
            append::text(out, name);
            out.push(b':');
            shown.append(out)
        })?;
        if separator == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
        Ok(())
    }

    fn for_each_field<E>(&self, mut each: impl FnMut(&str, &Shown<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut start = 0;
        for (field, value) in self.plan.owned.iter().zip(&self.values) {
            let shown = match value {
                Stored::Absent => continue,
                Stored::Text(end) => {
                    // INVARIANT: the ends are those of the texts
                    let text = self.texts.get(start..*end).unwrap_or_default();
                    start = *end;
                    Shown::Text(text)
                }
                Stored::Ip(address) => Shown::Ip(*address),
                Stored::Now(millis) => Shown::Now(*millis),
                Stored::Auth(auth) => Shown::Auth(auth, &field.ty),
                Stored::Flags(flags) => Shown::Flags(flags),
                Stored::Json(value) => Shown::Json(Cow::Borrowed(value)),
            };
            each(&field.name, &shown)?;
        }
        let mut app_fields = self.app_fields.iter();
        app_fields.try_for_each(|(name, value)| each(name, &Shown::Json(Cow::Borrowed(value))))
    }
}

impl Serialize for RecordedContext {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        self.for_each_field(|name, shown| map.serialize_entry(name, shown))?;
        map.end()
    }
}

impl Shown<'_> {
    fn store(self, texts: &mut String) -> Stored {
        match self {
            Self::Text(text) => {
                texts.push_str(text);
                Stored::Text(texts.len())
            }
            Self::Ip(address) => Stored::Ip(address),
            Self::Now(millis) => Stored::Now(millis),
            Self::Auth(auth, _) => Stored::Auth(Arc::clone(auth)),
            Self::Flags(flags) => Stored::Flags(Arc::clone(flags)),
            Self::Json(value) => Stored::Json(Box::new(value.into_owned())),
        }
    }

    fn append(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Text(text) => append::text(out, text),
            Self::Ip(address) => append::ip(out, *address),
            Self::Now(millis) => {
                out.push(b'"');
                append_datetime(out, *millis);
                out.push(b'"');
            }
            Self::Auth(auth, ty) => append_auth(auth, ty, out),
            Self::Flags(_) | Self::Json(_) => return serde_json::to_writer(out, self),
        }
        Ok(())
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

/// Appends what `auth_fields` would write.
fn append_auth(auth: &AuthFacts, ty: &AttrType, out: &mut Vec<u8>) {
    let AttrType::Record(record) = ty else {
        out.extend_from_slice(b"null");
        return;
    };
    let mut separator = b'{';
    for name in record.fields.keys() {
        let start = out.len();
        out.push(separator);
        append::text(out, name);
        out.push(b':');
        match (name.as_str(), auth.time, &auth.acr) {
            ("method", ..) => append::text(out, auth.method),
            ("time", Some(time), _) => append::number(out, time),
            ("acr", _, Some(acr)) => append::text(out, acr),
            ("amr", ..) => append::list(out, &auth.amr, |out, text| append::text(out, text)),
            ("scopes", ..) => append::list(out, &auth.scopes, |out, text| append::text(out, text)),
            _ => {
                out.truncate(start);
                continue;
            }
        }
        separator = b',';
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::context::HttpFacts;
    use crate::schema::{Field, RecordType};

    fn plan() -> Arc<ContextPlan> {
        let strings = AttrType::Set(Box::new(AttrType::String));
        let record = |fields: &[(&str, AttrType)]| RecordType {
            fields: fields
                .iter()
                .map(|(name, ty)| {
                    let field = Field {
                        ty: ty.clone(),
                        required: false,
                    };
                    ((*name).to_owned(), field)
                })
                .collect(),
        };
        let auth = record(&[
            ("method", AttrType::String),
            ("acr", AttrType::String),
            ("time", AttrType::Long),
            ("amr", strings.clone()),
            ("scopes", strings.clone()),
        ]);
        Arc::new(ContextPlan::new(&record(&[
            ("portal", AttrType::String),
            ("tenant", AttrType::String),
            ("method", AttrType::String),
            ("path", AttrType::String),
            ("host", AttrType::String),
            ("source_ip", AttrType::Ip),
            ("now", AttrType::Datetime),
            ("auth", AttrType::Record(auth)),
            ("flags", AttrType::Record(record(&[("on", AttrType::Bool)]))),
            ("headers", AttrType::Record(record(&[("x", AttrType::String)]))),
        ])))
    }

    proptest! {
        #[test]
        fn context_is_appended_as_the_serializer_writes_it(
            texts in any::<[String; 4]>(), auth in any::<Option<(Option<i64>, Option<String>, Vec<String>)>>(), flag in any::<Option<bool>>(),
            http in any::<Option<(IpAddr, bool)>>(), now_millis in -62_167_219_200_000..253_402_300_800_000_i64, is_tenant in any::<bool>(),
        ) {
            let [text, path, tenant, given] = &texts;
            let flags = flag.map_or_else(Map::new, |on| Map::from_iter([("on".to_owned(), json!(on))]));
            let flags = Arc::new(flags);
            let auth = auth.map(|(time, acr, amr)| Arc::new(AuthFacts { method: "bearer", time, acr, amr, ..AuthFacts::default() }));
            let (mut headers, no_headers) = (HeaderMap::new(), HeaderMap::new());
            headers.insert("x", http::HeaderValue::from_static("a\"b"));
            let facts = ContextFacts {
                portal: "p",
                tenant: is_tenant.then_some(tenant),
                now_millis,
                auth: auth.as_ref(),
                flags: &flags,
                http: http.map(|(source_ip, has_headers)| HttpFacts {
                    method: "GET",
                    path,
                    host: text,
                    scheme: "https",
                    source_ip,
                    query: &[],
                    beside_semicolons: &[],
                    headers: if has_headers { &headers } else { &no_headers },
                }),
            };
            let app_fields = Map::from_iter([(given.clone(), json!({"a": given}))]);
            let plain = RecordedContext::new(&plan(), &facts).unwrap();
            let with_fields = RecordedContext::new(&plan(), &facts).unwrap().with(app_fields);
            let empty = RecordedContext::new(&Arc::default(), &facts).unwrap();
            for recorded in [plain, with_fields, empty] {
                let mut out = Vec::new();
                recorded.append(&mut out).unwrap();
                prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&recorded).unwrap());
            }
        }
    }
}
