//! A record as one line of JSON.
//!
//! The usual decision is appended piece by piece: what depends on the caller alone was turned into JSON with the
//! caller. If `audit.mask` names a field outside of the context, the line is written by serde through the mask instead.
//! A property test compares the two. Nothing here may panic: a record is also written while a panic ends its request.

use std::time::UNIX_EPOCH;

use cedargate_policy::decision::DecisionContext;
use cedargate_policy::json::append;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use uuid::Uuid;

use super::mask::{Mask, Masked, MaskedPaths, MasksMore};
use super::record::{AuditRecord, EntityRef, Event, HttpRecord, Latency, SCHEMA_VERSION, Timestamp};
use crate::base::clock;

/// The line of any record that is not a decision.
#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    schema_version: u32,
    kind: &'static str,
    ts: Timestamp,
    #[serde(flatten)]
    event: Masked<'a, 'a, T>,
    /// The last field, because it is known only when all others are written.
    masked: &'a MaskedPaths<'a>,
}

/// The line of a decision. Written as one struct: `#[serde(flatten)]` costs a sixth of the line.
struct DecisionLine<'a> {
    record: &'a AuditRecord,
    mask: &'a Mask,
}

impl Serialize for DecisionLine<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let found = MaskedPaths::default();
        let mut fields = self.mask.over(to, &found).serialize_struct("decision", 29)?;
        // not masked: every line has these fields, and a reader needs them
        fields.unmasked().serialize_field("schema_version", &SCHEMA_VERSION)?;
        fields.unmasked().serialize_field("kind", "decision")?;
        self.record.write_fields(&mut fields)?;
        fields.unmasked().serialize_field("masked", &found)?;
        fields.end()
    }
}

/// Appends the line of a decision; its time is the one at which the request began.
pub(super) fn write_decision(record: &AuditRecord, mask: &Mask, out: &mut Vec<u8>) -> serde_json::Result<()> {
    match mask.inside_only("context") {
        Ok(of_context) => append_decision(record, of_context, out)?,
        Err(MasksMore) => serde_json::to_writer(&mut *out, &DecisionLine { record, mask })?,
    }
    out.push(b'\n');
    Ok(())
}

fn append_decision(record: &AuditRecord, of_context: Option<&Mask>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.extend_from_slice(b"{\"schema_version\":");
    append::number(out, SCHEMA_VERSION);
    append_request(record, out);
    append_caller(record, out)?;
    out.extend_from_slice(b",\"action\":");
    append::optional_text(out, record.action.as_deref());
    out.extend_from_slice(b",\"resource\":");
    append_entity(out, record.resource.as_ref())?;
    out.extend_from_slice(b",\"context\":");
    let masked = MaskedPaths::default();
    match (&record.context, of_context) {
        (None, _) => out.extend_from_slice(b"null"),
        (Some(DecisionContext::Facts(facts)), mask) if !mask.is_some_and(|mask| facts.has_field(|name| mask.touches(name))) => {
            facts.append(out)?;
        }
        (Some(context), None) => serde_json::to_writer(&mut *out, context)?,
        (Some(context), Some(mask)) => serde_json::to_writer(&mut *out, &Masked::new(context, mask, &masked))?,
    }
    if let Some(supplied) = &record.supplied {
        out.extend_from_slice(b",\"supplied\":");
        out.extend_from_slice(supplied.json());
    }
    append_outcome(record, out)?;
    out.extend_from_slice(b",\"masked\":");
    serde_json::to_writer(&mut *out, &masked)?;
    out.push(b'}');
    Ok(())
}

fn append_request(record: &AuditRecord, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"kind\":\"decision\",\"ts\":\"");
    let since = record.ts.duration_since(UNIX_EPOCH).unwrap_or_default();
    append::time::<6>(out, i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_micros());
    out.extend_from_slice(b"\",\"decision_id\":");
    append::text(out, record.decision_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    out.extend_from_slice(b",\"request_id\":");
    append::optional_text(out, record.request_id.as_ref().and_then(|id| id.to_str().ok()));
    out.extend_from_slice(b",\"trace_id\":");
    match record.trace_id {
        Some(id) => append::text(out, Uuid::from_bytes(id).simple().encode_lower(&mut Uuid::encode_buffer())),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"portal\":");
    append::text(out, record.portal());
    out.extend_from_slice(b",\"door\":");
    append::text(out, record.door.as_str());
    out.extend_from_slice(b",\"tenant\":");
    append::optional_text(out, record.tenant());
    out.extend_from_slice(b",\"revision\":");
    append::optional_text(out, record.revision.as_deref());
    out.extend_from_slice(b",\"facts\":");
    append::optional_text(out, record.facts.as_deref());
}

fn append_caller(record: &AuditRecord, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.push(b',');
    match &record.caller {
        Some(caller) => out.extend_from_slice(&caller.who),
        None => {
            out.extend_from_slice(b"\"principal\":");
            append_entity(out, record.principal.as_ref())?;
            out.extend_from_slice(b",\"roles\":[]");
        }
    }
    Ok(())
}

fn append_outcome(record: &AuditRecord, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let (decision, reason) = record.verdict.words();
    out.extend_from_slice(b",\"decision\":");
    append::text(out, decision);
    out.extend_from_slice(b",\"reason\":");
    append::text(out, reason);
    if let Some(rate) = &record.sample_rate {
        out.extend_from_slice(b",\"sample_rate\":");
        serde_json::to_writer(&mut *out, rate)?;
    }
    out.extend_from_slice(b",\"policies\":");
    append::list(out, &record.policies, |out, id| append::text(out, id));
    if let Some(near) = &record.near {
        out.extend_from_slice(b",\"near\":");
        append::text(out, near);
    }
    out.extend_from_slice(b",\"errors\":");
    serde_json::to_writer(&mut *out, &record.errors)?;
    if let Some(shadow) = &record.shadow {
        out.extend_from_slice(b",\"shadow\":");
        serde_json::to_writer(&mut *out, shadow)?;
    }
    match &record.caller {
        Some(caller) => {
            out.push(b',');
            out.extend_from_slice(&caller.by);
        }
        None => out.extend_from_slice(b",\"token\":null"),
    }
    if let Some(refused) = &record.refused {
        out.extend_from_slice(b",\"refused\":");
        serde_json::to_writer(&mut *out, refused)?;
    }
    out.extend_from_slice(b",\"http\":");
    match &record.http {
        Some(http) => append_http(http, out),
        None => out.extend_from_slice(b"null"),
    }
    if let Some(limit) = record.limit {
        out.extend_from_slice(b",\"limit\":");
        append::text(out, limit);
    }
    append_latency(record.latency_us, out);
    Ok(())
}

fn append_http(http: &HttpRecord, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"method\":");
    append::text(out, http.method.as_str());
    out.extend_from_slice(b",\"path\":");
    append::text(out, &http.path);
    out.extend_from_slice(b",\"route\":");
    append::optional_text(out, http.route.as_deref());
    out.extend_from_slice(b",\"client\":");
    match http.client {
        Some(address) => append::ip(out, address),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"status\":");
    append_number(out, http.status.map(u64::from));
    out.push(b'}');
}

fn append_latency(latency: Latency, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"latency_us\":{\"total\":");
    append::number(out, latency.total);
    out.extend_from_slice(b",\"authn\":");
    append_number(out, latency.authn);
    out.extend_from_slice(b",\"decision\":");
    append_number(out, latency.decision);
    out.extend_from_slice(b",\"upstream\":");
    append_number(out, latency.upstream);
    out.push(b'}');
}

fn append_number(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => append::number(out, number),
        None => out.extend_from_slice(b"null"),
    }
}

fn append_entity(out: &mut Vec<u8>, entity: Option<&EntityRef>) -> serde_json::Result<()> {
    match entity {
        Some(EntityRef {
            kind,
            id,
            attrs: None,
            parents,
        }) if parents.is_empty() => {
            out.extend_from_slice(b"{\"type\":");
            append::text(out, kind);
            out.extend_from_slice(b",\"id\":");
            append::text(out, id.unescaped());
            out.push(b'}');
            Ok(())
        }
        other => serde_json::to_writer(out, &other),
    }
}

/// Appends the line of any other record, with the current time.
pub(super) fn write_event(event: &Event, mask: &Mask, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let kind = event.kind();
    match event {
        Event::Auth(fields) => write_fields(kind, fields, mask, out)?,
        Event::Policy(fields) => write_fields(kind, fields, mask, out)?,
        Event::Admin(fields) => write_fields(kind, fields, mask, out)?,
        Event::HttpRejected(fields) => write_fields(kind, fields, mask, out)?,
    }
    out.push(b'\n');
    Ok(())
}

fn write_fields<T: Serialize>(kind: &'static str, fields: &T, mask: &Mask, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let found = MaskedPaths::default();
    let line = Line {
        schema_version: SCHEMA_VERSION,
        kind,
        ts: Timestamp(clock::now()),
        event: Masked::new(fields, mask, &found),
        masked: &found,
    };
    serde_json::to_writer(out, &line)
}

/// The line of a decision as serde writes it with every mask.
#[cfg(test)]
pub(super) fn by_serde(record: &AuditRecord, mask: &Mask) -> serde_json::Result<String> {
    serde_json::to_string(&DecisionLine { record, mask })
}
