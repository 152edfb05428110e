//! What inject did to an object, kept in an annotation of it, so that `--uninject` can undo exactly that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tree::{Entry, Node};

/// On the pod's template, and on a Service.
pub(super) const ANNOTATION: &str = "cedargate.io/injected";
/// The form of the record that this version writes and reads.
const FORM: u32 = 1;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Form of the record.
    form: u32,
    /// The version that wrote it.
    by: String,
    /// Keys that were not there before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub created: Vec<String>,
    /// The words for null that stood for keys which got a value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nulls: BTreeMap<String, String>,
    /// Names of the added volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The app's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The key that its hook was added with: `lifecycle` or `preStop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The text of a grace period that was too short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeRecord>,
    /// Ports of a Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRecord>,
}

/// The texts of a probe before the change, as they stood in the manifest.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbeRecord {
    /// `livenessProbe` and so on.
    pub probe: String,
    /// The key of a `tcpSocket` or `grpc` with its quotes; `None` for `httpGet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler_key: Option<String>,
    /// The key in whose place `path` stands, with its quotes: `service` of a `grpc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_key: Option<String>,
    /// `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub port: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortRecord {
    /// Place in the list.
    pub at: usize,
    /// The text of `targetPort` before; `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Record {
    pub fn new() -> Self {
        Self {
            form: FORM,
            by: env!("CARGO_PKG_VERSION").to_owned(),
            ..Self::default()
        }
    }

    pub fn has_created(&self, key: &str) -> bool {
        self.created.iter().any(|one| one == key)
    }

    /// Remembers the word of an entry that is null in so many words.
    pub fn note_null(&mut self, entry: &Entry) {
        if entry.value.is_null() && !entry.value.is_absent() {
            let word = entry.value.text().unwrap_or_default();
            self.nulls
                .insert(entry.name().unwrap_or_default().to_owned(), word.to_owned());
        }
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the annotation of what has this `metadata`; `None` if it has none.
    pub fn of(metadata: Option<&Node>) -> Option<Result<Self, String>> {
        let entry = annotation(metadata)?;
        let text = entry.value.text().unwrap_or_default();
        let record = serde_json::from_str::<Self>(text).map_err(|error| format!("cannot be read: {error}"));
        Some(record.and_then(|record| match record.form {
            FORM => Ok(record),
            other => Err(format!(
                "has form {other}, written by cedargate {}; this version reads form {FORM}",
                record.by
            )),
        }))
    }
}

fn annotation(metadata: Option<&Node>) -> Option<&Entry> {
    metadata?.value("annotations")?.entry(ANNOTATION)
}
