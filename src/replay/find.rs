//! Finds decisions by their ids.

use std::collections::{BTreeMap, BTreeSet};

use super::{LogRecord, MatchedId, RecordLocation, RecordPlace, Visitor};
use crate::audit::lines::Lines;

/// Records of one request that are named in a message.
const NAMED_MAX: usize = 10;
/// Records of one request that are kept.
const KEPT_MAX: usize = 1000;

/// The decision of an id, or the decisions of a request.
pub struct FoundRecords<'a> {
    id: &'a str,
    by_decision: Option<Vec<u8>>,
    by_request: Vec<FoundRecord>,
}

/// The decisions of several ids, in one reading.
pub struct WantedRecords<'a> {
    ids: &'a BTreeSet<String>,
    /// Records as JSON, by decision id.
    pub found: BTreeMap<String, Vec<u8>>,
}

struct FoundRecord {
    decision_id: String,
    line: Vec<u8>,
}

impl RecordPlace {
    /// The record of this decision id, as JSON; `None`: the file has another line there by now, or cannot be read.
    pub fn read(&self, id: &str) -> Option<Vec<u8>> {
        let mut lines = Lines::open_at(&self.file, self.offset).ok()?;
        let record = LogRecord::parse(lines.next().ok()??.bytes)?;
        let is_wanted = record.is_decision() && record.has_id(id) == Some(MatchedId::Decision);
        is_wanted.then(|| serde_json::to_vec(&record).ok()).flatten()
    }
}

impl<'a> FoundRecords<'a> {
    pub fn new(id: &'a str) -> Self {
        Self {
            id,
            by_decision: None,
            by_request: Vec::new(),
        }
    }

    /// The only record, as JSON; `Err` is a message for the user.
    pub fn one(&self) -> Result<&[u8], String> {
        let id = self.id;
        match (&self.by_decision, self.by_request.as_slice()) {
            (Some(line), _) => Ok(line),
            (None, [found]) => Ok(&found.line),
            (None, []) => Err(format!("no record has the decision id or request id `{id}`")),
            (None, several) => {
                let named: Vec<&str> = several.iter().take(NAMED_MAX).map(|found| &*found.decision_id).collect();
                let count = several.len();
                Err(format!(
                    "{count} records have the request id `{id}`; name a decision: {}",
                    named.join(", ")
                ))
            }
        }
    }
}

impl<'a> WantedRecords<'a> {
    pub fn new(ids: &'a BTreeSet<String>) -> Self {
        Self {
            ids,
            found: BTreeMap::new(),
        }
    }
}

impl Visitor for WantedRecords<'_> {
    fn visit(&mut self, record: &LogRecord<'_>, _: RecordLocation<'_>) {
        if let Some(id) = self.ids.get(&*record.decision_id)
            && let Ok(line) = serde_json::to_vec(record)
        {
            self.found.insert(id.clone(), line);
        }
    }

    fn join(&mut self, other: Self) {
        self.found.extend(other.found);
    }
}

impl Visitor for FoundRecords<'_> {
    fn visit(&mut self, record: &LogRecord<'_>, _: RecordLocation<'_>) {
        let Some(matched) = record.has_id(self.id) else { return };
        let Ok(line) = serde_json::to_vec(record) else { return };
        match matched {
            MatchedId::Decision => self.by_decision = Some(line),
            MatchedId::Request if self.by_request.len() < KEPT_MAX => self.by_request.push(FoundRecord {
                decision_id: record.decision_id.to_string(),
                line,
            }),
            MatchedId::Request => {}
        }
    }

    fn join(&mut self, other: Self) {
        self.by_decision = self.by_decision.take().or(other.by_decision);
        self.by_request.extend(other.by_request);
        self.by_request.sort_by(|one, other| one.decision_id.cmp(&other.decision_id));
    }
}
