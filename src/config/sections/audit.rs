//! `audit`: where decision records go, which are written, and what happens when the sink is slow.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::check::Checker;
use crate::config::values::Count;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The destination of records: `stdout`, or `{ file: path }`.
    pub sink: AuditSink,
    /// Recording of allowed decisions; denied ones are always recorded.
    pub allow: AuditAllow,
    /// Dotted paths of the record that are masked.
    pub mask: Vec<String>,
    /// The reaction when the queue is full or the sink cannot write: drop and count, or deny.
    pub on_full: OnFull,
    /// Records that may wait for the sink.
    pub queue: Count<1, 1_000_000>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditAllow {
    All,
    None,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    Drop,
    Deny,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            sink: AuditSink::Stdout,
            allow: AuditAllow::All,
            mask: vec!["context.headers".to_owned()],
            on_full: OnFull::Drop,
            queue: Count::of::<8192>(),
        }
    }
}

impl Checker<'_> {
    pub fn audit(&mut self, mut audit: Audit) -> Audit {
        for (n, path) in audit.mask.iter().enumerate() {
            if path.split('.').any(str::is_empty) {
                let message = format!("`{path}` is not a dotted path such as `context.headers`");
                self.error(&format!("audit.mask[{n}]"), message);
            }
        }
        if let AuditSink::File(file) = &mut audit.sink {
            *file = self.path("audit.sink.file", &*file);
        }
        audit
    }
}
