//! The gate's facts: one row for each, with everything that the gate knows of it.
//!
//! A new fact is a row of `FACTS` and its line in `docs/policies.md`. The loader, the context of conditions, the quick
//! check and the record read the row. A row takes its value from `ContextFacts`; a value that no query holds yet is a
//! field there, too.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use super::recorded::Shown;
use super::{ContextFacts, HttpFacts, OwnedField};
use crate::denial::{Denial, Refusal};
use crate::schema::{AttrType, Field};
use crate::types::AuthFacts;
use crate::value::SET_ITEMS_MAX;

/// The value of a fact for one declared field; `None`: the query does not have it.
type Show = for<'f> fn(&'f OwnedField, &'f ContextFacts<'f>) -> Result<Option<Shown<'f>>, Refusal>;

/// A fact that the gate fills into the context.
#[derive(Debug)]
pub(super) struct Fact {
    pub name: &'static str,
    /// The types that the gate fills, as messages say them.
    pub fills: &'static str,
    pub types: FieldTypes,
    pub source: ValueSource,
    pub show: Show,
    /// True if a quick check shows, without building the value, that the fact is present and of its type. Nearly every
    /// request passes.
    pub is_certain: fn(&OwnedField, &ContextFacts<'_>) -> bool,
}

/// The types of a declared field that a fact can fill.
#[derive(Clone, Copy, Debug)]
pub(super) enum FieldTypes {
    One(fn(&AttrType) -> bool),
    /// A record with members of these names and types.
    Record(fn(&str, &AttrType) -> bool),
}

/// The part of a query that a fact comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ValueSource {
    Portal,
    /// The caller's credential.
    Caller,
    Time,
    Request,
    /// The query string, whose names the client chooses.
    Query,
    /// The headers, whose names the client chooses.
    Headers,
}

static FACTS: &[Fact] = &[
    Fact {
        source: ValueSource::Request,
        ..text("method", |_, facts| of_request(facts, |http| Shown::Text(http.method)))
    },
    Fact {
        source: ValueSource::Request,
        ..text("path", |_, facts| of_request(facts, |http| Shown::Text(http.path)))
    },
    Fact {
        source: ValueSource::Request,
        ..text("host", |_, facts| of_request(facts, |http| Shown::Text(http.host)))
    },
    Fact {
        source: ValueSource::Request,
        ..text("scheme", |_, facts| of_request(facts, |http| Shown::Text(http.scheme)))
    },
    Fact {
        fills: "`String` or an entity",
        types: FieldTypes::One(is_string_or_entity),
        ..text("portal", |_, facts| Ok(Some(Shown::Text(facts.portal))))
    },
    Fact {
        fills: "`String` or an entity",
        types: FieldTypes::One(is_string_or_entity),
        source: ValueSource::Caller,
        is_certain: |field, facts| match field.ty {
            AttrType::String => facts.tenant.is_some() || !field.required,
            _ => facts.tenant.is_none() && !field.required,
        },
        ..text("tenant", |_, facts| Ok(facts.tenant.map(Shown::Text)))
    },
    Fact {
        name: "source_ip",
        fills: "`ipaddr`",
        types: FieldTypes::One(|ty| *ty == AttrType::Ip),
        source: ValueSource::Request,
        show: |_, facts| of_request(facts, |http| Shown::Ip(http.source_ip)),
        is_certain: |_, _| true,
    },
    Fact {
        name: "now",
        fills: "`datetime`",
        types: FieldTypes::One(|ty| *ty == AttrType::Datetime),
        source: ValueSource::Time,
        show: |_, facts| Ok(Some(Shown::Now(facts.now_millis))),
        is_certain: |_, _| true,
    },
    Fact {
        name: "auth",
        fills: "a record of `method`, `acr` (`String`), `time` (`datetime` or `Long`), `amr`, `scopes` (`Set<String>`)",
        types: FieldTypes::Record(is_auth_member),
        source: ValueSource::Caller,
        show: |field, facts| match facts.auth {
            Some(auth) => Ok(Some(Shown::Auth(readable(field, auth)?, &field.ty))),
            None => Ok(None),
        },
        is_certain: |field, facts| match (&field.ty, facts.auth) {
            (AttrType::Record(record), Some(auth)) => record.fields.iter().all(|(name, field)| is_plain_auth(auth, name, field)),
            (_, auth) => auth.is_none() && !field.required,
        },
    },
    Fact {
        name: "flags",
        fills: "a record of `Bool`, `String` and `Long`",
        types: FieldTypes::Record(|_, ty| matches!(ty, AttrType::Bool | AttrType::String | AttrType::Long)),
        source: ValueSource::Portal,
        show: |_, facts| Ok(Some(Shown::Flags(facts.flags))),
        is_certain: |field, facts| {
            field.members().all(|(name, member)| {
                let value = facts.flags.get(name);
                value.map_or(!member.required, |value| is_of_type(value, &member.ty))
            })
        },
    },
    Fact {
        name: "query",
        fills: "a record of `String` and `Set<String>`",
        types: FieldTypes::Record(|_, ty| is_string_or_strings(ty)),
        source: ValueSource::Query,
        show: |field, facts| given(facts, |http| field.parameters(http)),
        is_certain: |_, _| false,
    },
    Fact {
        name: "headers",
        fills: "a record of `String` and `Set<String>`",
        types: FieldTypes::Record(|name, ty| is_string_or_strings(ty) && is_readable_header(name)),
        source: ValueSource::Headers,
        show: |field, facts| given(facts, |http| field.headers(http)),
        is_certain: |_, _| false,
    },
];

/// Headers that never become context: they carry credentials.
pub const SECRET_HEADERS: [&str; 6] = [
    "authorization",
    "cookie",
    "dpop",
    "proxy-authorization",
    "set-cookie",
    "x-cedargate-assertion",
];

/// The gate's facts, in the order in which messages name them.
pub(super) fn all() -> impl Iterator<Item = &'static Fact> {
    FACTS.iter()
}

/// The fact of this name.
pub(super) fn named(name: &str) -> Option<&'static Fact> {
    FACTS.iter().find(|fact| fact.name == name)
}

/// The fact for a declared field; `None` if the app fills the field.
pub(super) fn fact(name: &str, ty: &AttrType) -> Option<&'static Fact> {
    named(name).filter(|fact| fact.types.include(ty))
}

/// A string of the portal, always present; a row changes what is different.
const fn text(name: &'static str, show: Show) -> Fact {
    Fact {
        name,
        fills: "`String`",
        types: FieldTypes::One(|ty| *ty == AttrType::String),
        source: ValueSource::Portal,
        show,
        is_certain: |_, _| true,
    }
}

impl Fact {
    pub fn needs_http(&self) -> bool {
        matches!(self.source, ValueSource::Request | ValueSource::Query | ValueSource::Headers)
    }

    /// True for facts whose names the client chooses.
    pub fn is_given(&self) -> bool {
        matches!(self.source, ValueSource::Query | ValueSource::Headers)
    }

    /// A fact of the request is a bad request; a fact of the credential is a bad claim.
    pub fn denial(&self) -> Denial {
        match self.source {
            ValueSource::Query | ValueSource::Headers => Denial::RequestInvalid,
            ValueSource::Caller => Denial::ClaimInvalid,
            ValueSource::Portal | ValueSource::Time | ValueSource::Request => Denial::NotPermitted,
        }
    }
}

impl FieldTypes {
    fn include(self, ty: &AttrType) -> bool {
        match (self, ty) {
            (Self::One(is_filled), ty) => is_filled(ty),
            (Self::Record(is_filled), AttrType::Record(record)) => {
                record.fields.iter().all(|(name, member)| is_filled(name, &member.ty))
            }
            (Self::Record(_), _) => false,
        }
    }
}

/// True if a header of this name must never be context.
pub(super) fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    SECRET_HEADERS.contains(&name.as_str())
}

/// True if a request can have a header of this declared name, and policies may read it.
pub(super) fn is_readable_header(name: &str) -> bool {
    HeaderName::from_bytes(name.replace('_', "-").as_bytes()).is_ok() && !is_secret_header(name)
}

pub(super) fn is_string_or_strings(ty: &AttrType) -> bool {
    *ty == AttrType::String || is_strings(ty)
}

fn is_strings(ty: &AttrType) -> bool {
    matches!(ty, AttrType::Set(of) if **of == AttrType::String)
}

fn is_string_or_entity(ty: &AttrType) -> bool {
    matches!(ty, AttrType::String | AttrType::Entity(_))
}

fn is_auth_member(name: &str, ty: &AttrType) -> bool {
    match name {
        "method" | "acr" => *ty == AttrType::String,
        "time" => matches!(ty, AttrType::Datetime | AttrType::Long),
        "amr" | "scopes" => is_strings(ty),
        _ => false,
    }
}

/// True if a flag's value is of the declared type.
fn is_of_type(value: &Value, ty: &AttrType) -> bool {
    match ty {
        AttrType::Bool => value.is_boolean(),
        AttrType::Long => value.is_i64(),
        AttrType::String => value.is_string(),
        _ => false,
    }
}

fn is_plain_auth(auth: &AuthFacts, name: &str, field: &Field) -> bool {
    let is_readable = auth.unreadable.iter().all(|fact| fact.field != name);
    match (name, &field.ty) {
        _ if !is_readable => false,
        ("method", AttrType::String) => true,
        ("acr", AttrType::String) => auth.acr.is_some() || !field.required,
        ("time", AttrType::Long) => auth.time.is_some() || !field.required,
        ("time", _) => auth.time.is_none() && !field.required,
        ("amr", _) => auth.amr.len() <= SET_ITEMS_MAX,
        ("scopes", _) => auth.scopes.len() <= SET_ITEMS_MAX,
        _ => false,
    }
}

fn of_request<'f>(
    facts: &'f ContextFacts<'_>,
    show: impl Fn(&'f HttpFacts<'_>) -> Shown<'f>,
) -> Result<Option<Shown<'f>>, Refusal> {
    Ok(facts.http.as_ref().map(show))
}

fn given<'f>(
    facts: &'f ContextFacts<'_>,
    values: impl Fn(&HttpFacts<'_>) -> Result<Value, Refusal>,
) -> Result<Option<Shown<'f>>, Refusal> {
    facts
        .http
        .as_ref()
        .map(|http| values(http).map(|value| Shown::Json(Cow::Owned(value))))
        .transpose()
}

/// The facts about the login. Fails if a declared one comes from a malformed claim: it must not count as absent.
fn readable<'f>(field: &OwnedField, auth: &'f Arc<AuthFacts>) -> Result<&'f Arc<AuthFacts>, Refusal> {
    let is_declared = |name: &str| field.members().any(|(member, _)| member == name);
    match auth.unreadable.iter().find(|fact| is_declared(fact.field)) {
        Some(fact) => Err(field.claim_refusal(fact)),
        None => Ok(auth),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_a_line_for_every_fact() {
        let page = include_str!("../../../../docs/policies.md");
        let told = |name: &str, end: char| page.contains(&format!("\n| `{name}{end}"));
        let missing = |fact: &&Fact| !told(fact.name, '`') && !told(fact.name, '.');
        let missing: Vec<&str> = all().filter(missing).map(|fact| fact.name).collect();
        assert!(missing.is_empty(), "docs/policies.md does not tell {missing:?}");
    }
}
