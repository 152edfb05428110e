//! The admin portal's report: the last decisions of one tenant, out of the demo's own decision log.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::{Value, json};

/// The end of the log that a report reads.
const TAIL_BYTES: u64 = 1024 * 1024;

/// The newest decisions of `tenant`, newest first, at most `limit`.
pub(super) fn newest(log: &Path, tenant: &str, limit: usize) -> std::io::Result<Vec<Value>> {
    let text = tail(log)?;
    let records = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_tenant = records.filter(|record| text_of(record, "kind") == "decision" && text_of(record, "tenant") == tenant);
    Ok(of_tenant.take(limit).map(|record| row(&record)).collect())
}

/// The last bytes of the log; its first line may be half a record, which does not parse.
fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn text_of<'a>(record: &'a Value, name: &str) -> &'a str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn row(record: &Value) -> Value {
    let entity = |name: &str| {
        let entity = record.get(name)?;
        let part = |name: &str| entity.get(name).and_then(Value::as_str);
        Some((part("type")?, part("id")?))
    };
    json!({
        "decision_id": text_of(record, "decision_id"),
        "ts": text_of(record, "ts"),
        "portal": text_of(record, "portal"),
        "principal": entity("principal").map(|(_, id)| id),
        "action": text_of(record, "action"),
        "resource": entity("resource").map(|(entity_type, id)| format!("{entity_type}::\"{id}\"")),
        "decision": text_of(record, "decision"),
        "reason": text_of(record, "reason"),
    })
}
