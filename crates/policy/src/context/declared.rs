//! The context fields that a schema declares, held against the facts that the gate has.
//!
//! A field that has one of the gate's names and a type that the gate can fill is a fact. Every other field would be absent from
//! every request, and a forbid that reads it behind `has` would never apply. So the loader refuses it, unless `portal.yaml` says
//! that the app supplies it.

use http::HeaderName;

use super::Fact;
use crate::schema::{AttrType, RecordType};
use crate::scope::RemovedHeaders;

/// Headers that never become context: they carry credentials.
const SECRET_HEADERS: [&str; 6] = [
    "authorization",
    "cookie",
    "dpop",
    "proxy-authorization",
    "set-cookie",
    "x-cedargate-assertion",
];

/// The gate's names, and the types that it can fill.
const FACTS: [(&str, &str); 12] = [
    ("method", "`String`"),
    ("path", "`String`"),
    ("host", "`String`"),
    ("scheme", "`String`"),
    ("portal", "`String` or an entity"),
    ("tenant", "`String` or an entity"),
    ("source_ip", "`ipaddr`"),
    ("now", "`datetime`"),
    (
        "auth",
        "a record of `method`, `acr` (`String`), `time` (`datetime` or `Long`), `amr`, `scopes` (`Set<String>`)",
    ),
    ("flags", "a record of `Bool`, `String` and `Long`"),
    ("query", "a record of `String` and `Set<String>`"),
    ("headers", "a record of `String` and `Set<String>`"),
];

/// A declared field that the gate never fills.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Misfit {
    /// Dotted: `auth.level`.
    pub field: String,
    /// The declared type, as Cedar writes it.
    pub ty: String,
    pub reason: Unfilled,
}

/// The reason why the gate never fills a field.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Unfilled {
    /// The field has a name of the gate's, and another type or other members: the types that the gate fills.
    Mistyped(&'static str),
    /// A header that carries credentials.
    Secret,
    /// Text that no header has as its name.
    NoHeader,
    /// A header that the gate removes before the decision.
    Removed,
    /// The gate has no fact of this name.
    Unknown,
}

/// The names of the gate's facts.
pub fn gate_names() -> impl Iterator<Item = &'static str> {
    FACTS.iter().map(|(name, _)| *name)
}

/// The fields of a context that no request fills.
pub fn misfits(declared: &RecordType, removed: &RemovedHeaders) -> Vec<Misfit> {
    let mut found = Vec::new();
    for (name, field) in &declared.fields {
        let Some((_, fills)) = FACTS.iter().find(|(known, _)| known == name) else {
            found.push(Misfit {
                field: name.clone(),
                ty: field.ty.to_string(),
                reason: Unfilled::Unknown,
            });
            continue;
        };
        let members = match &field.ty {
            AttrType::Record(record) => record_misfits(name, record, fills, removed),
            _ => Vec::new(),
        };
        if members.is_empty() && fact(name, &field.ty).is_none() {
            found.push(Misfit {
                field: name.clone(),
                ty: field.ty.to_string(),
                reason: Unfilled::Mistyped(fills),
            });
        }
        found.extend(members);
    }
    found
}

fn record_misfits(name: &str, record: &RecordType, fills: &'static str, removed: &RemovedHeaders) -> Vec<Misfit> {
    let reason = |member: &str, ty: &AttrType| match name {
        "auth" if !auth_field(member, ty) => Some(Unfilled::Mistyped(fills)),
        "flags" if !flag_type(member, ty) => Some(Unfilled::Mistyped(fills)),
        "query" | "headers" if !string_or_set(member, ty) => Some(Unfilled::Mistyped(fills)),
        "headers" if is_secret_header(member) => Some(Unfilled::Secret),
        "headers" if !is_readable_header(member) => Some(Unfilled::NoHeader),
        "headers" if removed.contains(member) => Some(Unfilled::Removed),
        _ => None,
    };
    let members = record.fields.iter();
    let unfit = members.filter_map(|(member, field)| {
        Some(Misfit {
            field: format!("{name}.{member}"),
            ty: field.ty.to_string(),
            reason: reason(member, &field.ty)?,
        })
    });
    unfit.collect()
}

/// The declared flags of a context; `None` if the app fills the field, or no field is declared.
pub fn declared_flags(context: &RecordType) -> Option<&RecordType> {
    let field = context.fields.get("flags")?;
    match &field.ty {
        AttrType::Record(record) if fact("flags", &field.ty).is_some() => Some(record),
        _ => None,
    }
}

/// True if a request can have a header of this declared name, and policies may read it.
fn is_readable_header(name: &str) -> bool {
    HeaderName::from_bytes(name.replace('_', "-").as_bytes()).is_ok() && !is_secret_header(name)
}

/// The fact for a declared field; `None` if the app fills the field.
pub(super) fn fact(name: &str, ty: &AttrType) -> Option<Fact> {
    let (fact, fits) = match name {
        "method" => (Fact::Method, *ty == AttrType::String),
        "path" => (Fact::Path, *ty == AttrType::String),
        "host" => (Fact::Host, *ty == AttrType::String),
        "scheme" => (Fact::Scheme, *ty == AttrType::String),
        "portal" => (Fact::Portal, matches!(ty, AttrType::String | AttrType::Entity(_))),
        "tenant" => (Fact::Tenant, matches!(ty, AttrType::String | AttrType::Entity(_))),
        "source_ip" => (Fact::SourceIp, *ty == AttrType::Ip),
        "now" => (Fact::Now, *ty == AttrType::Datetime),
        "auth" => (Fact::Auth, record_of(ty, auth_field)),
        "flags" => (Fact::Flags, record_of(ty, flag_type)),
        "query" => (Fact::Query, record_of(ty, string_or_set)),
        "headers" => (
            Fact::Headers,
            record_of(ty, |n, t| string_or_set(n, t) && is_readable_header(n)),
        ),
        _ => return None,
    };
    fits.then_some(fact)
}

/// True if a header of this name must never be context.
fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    SECRET_HEADERS.contains(&name.as_str())
}

fn record_of(ty: &AttrType, fits: impl Fn(&str, &AttrType) -> bool) -> bool {
    matches!(ty, AttrType::Record(record) if record.fields.iter().all(|(name, field)| fits(name, &field.ty)))
}

fn flag_type(_: &str, ty: &AttrType) -> bool {
    matches!(ty, AttrType::Bool | AttrType::String | AttrType::Long)
}

fn string_or_set(_: &str, ty: &AttrType) -> bool {
    *ty == AttrType::String || *ty == AttrType::Set(Box::new(AttrType::String))
}

fn auth_field(name: &str, ty: &AttrType) -> bool {
    match name {
        "method" | "acr" => *ty == AttrType::String,
        "time" => matches!(ty, AttrType::Datetime | AttrType::Long),
        "amr" | "scopes" => *ty == AttrType::Set(Box::new(AttrType::String)),
        _ => false,
    }
}
