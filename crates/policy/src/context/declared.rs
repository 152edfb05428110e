//! The context fields that a schema declares, held against the facts that the gate has.
//!
//! A field that has one of the gate's names and a type that the gate can fill is a fact. Every other field would be
//! absent from every request, and a forbid that reads it behind `has` would never apply. So the loader refuses it,
//! unless `portal.yaml` says that the app supplies it.

use super::facts::{self, Fact, FieldTypes, ValueSource, fact, is_readable_header, is_secret_header, is_string_or_strings};
use crate::schema::{AttrType, RecordType};
use crate::scope::RemovedHeaders;

/// A declared field that the gate never fills.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UnfillableField {
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
    facts::all().map(|fact| fact.name)
}

/// The fields of a context that no request fills.
pub fn misfits(declared: &RecordType, removed: &RemovedHeaders) -> Vec<UnfillableField> {
    let mut found = Vec::new();
    for (name, field) in &declared.fields {
        let Some(known) = facts::named(name) else {
            found.push(UnfillableField {
                field: name.clone(),
                ty: field.ty.to_string(),
                reason: Unfilled::Unknown,
            });
            continue;
        };
        let members = match &field.ty {
            AttrType::Record(record) => record_misfits(known, record, removed),
            _ => Vec::new(),
        };
        if members.is_empty() && fact(name, &field.ty).is_none() {
            found.push(UnfillableField {
                field: name.clone(),
                ty: field.ty.to_string(),
                reason: Unfilled::Mistyped(known.fills),
            });
        }
        found.extend(members);
    }
    found
}

fn record_misfits(fact: &Fact, record: &RecordType, removed: &RemovedHeaders) -> Vec<UnfillableField> {
    let FieldTypes::Record(is_filled) = fact.types else {
        return Vec::new();
    };
    let reason = |member: &str, ty: &AttrType| match fact.source {
        ValueSource::Headers if !is_string_or_strings(ty) => Some(Unfilled::Mistyped(fact.fills)),
        ValueSource::Headers if is_secret_header(member) => Some(Unfilled::Secret),
        ValueSource::Headers if !is_readable_header(member) => Some(Unfilled::NoHeader),
        ValueSource::Headers if removed.contains(member) => Some(Unfilled::Removed),
        _ => (!is_filled(member, ty)).then_some(Unfilled::Mistyped(fact.fills)),
    };
    let members = record.fields.iter();
    let unfit = members.filter_map(|(member, field)| {
        Some(UnfillableField {
            field: format!("{}.{member}", fact.name),
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
