//! The facts that decision records of a revision can hold, as a short identity.
//!
//! A record holds the context fields and the principal's attributes that the schema declares. A fact that a record
//! lacks was absent only if the revision that wrote it declared the fact. Two revisions with the same identity declare
//! the same facts.

use std::sync::Arc;

use crate::claim_path::{ClaimMapping, ClaimPath};
use crate::digest::sha256_of;
use crate::schema::{AttrType, RecordType, SchemaModel};

/// Bytes of the hash that the identity shows.
const ID_BYTES: usize = 4;

pub(crate) fn facts_id(schema: &SchemaModel, claims: &ClaimMapping) -> Arc<str> {
    let mut lines = Vec::new();
    for ty in schema.principal_types() {
        let Some(model) = schema.entity(ty) else { continue };
        for name in model.attrs.fields.keys() {
            let path = claims.get(name).map_or(name.as_str(), ClaimPath::as_str);
            lines.push(format!("{ty} {name:?} {path:?}"));
        }
    }
    for (action, model) in schema.actions() {
        push_fields(&format!("{action}"), &model.context, &mut lines);
    }
    lines.sort_unstable();
    let hash = sha256_of(lines.iter().flat_map(|line| [line.as_bytes(), b"\n".as_slice()]));
    let text: String = hash.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
    Arc::from(text)
}

fn push_fields(above: &str, record: &RecordType, lines: &mut Vec<String>) {
    for (name, field) in &record.fields {
        let line = format!("{above} {name:?}");
        if let AttrType::Record(inner) = &field.ty {
            push_fields(&line, inner, lines);
        }
        lines.push(line);
    }
}
