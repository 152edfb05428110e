//! The published schema of the decision log, which every line of every gate of these tests must fit.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

/// Lines of one log that are checked. Tests that make more write the same few again and again.
const LINES_MAX: usize = 3000;

pub fn record_schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/audit-event.schema.json");
        jsonschema::validator_for(&serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()).unwrap()
    })
}

/// Panics at a line that is not JSON or does not fit the schema. Returns the lines.
pub fn check_lines(text: &str) -> Vec<Value> {
    let schema = record_schema();
    let line = |line: &str| -> Value {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        if !schema.is_valid(&line) {
            let errors: Vec<_> = schema.iter_errors(&line).map(|e| e.to_string()).collect();
            panic!("{errors:?}\n{line:#}");
        }
        line
    };
    text.lines().take(LINES_MAX).map(line).collect()
}
