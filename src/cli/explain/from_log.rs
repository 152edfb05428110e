//! A recorded decision, explained: its facts are those of the record, and the policies those of the tree.

use std::path::PathBuf;

use cedargate_policy::decision::{Caller, Query};
use serde_json::Value;

use crate::audit::written_files;
use crate::cli::complain;
use crate::cli::logs::{self, complain_about};
use crate::cli::report::text::escaped;
use crate::cli::tree::{TreeArgs, Workbench};
use crate::explained::Explained;
use crate::replay::{FoundRecords, LogRecord};

/// Where a record is looked for.
pub(in crate::cli) struct FromLog<'a> {
    pub id: &'a str,
    pub logs: &'a [PathBuf],
    pub tree: &'a TreeArgs,
}

/// A record with its explanation.
pub(in crate::cli) struct FoundDecision {
    pub explained: Explained,
    /// Differences between the record and the tree, for the user.
    pub notes: Vec<String>,
    /// The record as it stands in the log.
    pub record: Value,
}

impl FromLog<'_> {
    /// Finds the record and explains it. `Err` is a message for the user.
    pub fn explain(&self) -> Result<Explained, String> {
        let found = self.explain_in(&self.tree.open()?, &mut |_, _| {})?;
        for note in &found.notes {
            complain(&escaped(&format!("note: {note}")));
        }
        Ok(found.explained)
    }

    /// The same by a tree that was read before. `see` sees the query, and the caller if there is one.
    pub fn explain_in(
        &self,
        workbench: &Workbench,
        see: &mut dyn FnMut(&Query<'_>, Caller<'_>),
    ) -> Result<FoundDecision, String> {
        let logs = files(self.logs, workbench)?;
        let reading = logs::read(&logs, || FoundRecords::new(self.id))?;
        complain_about(&reading.totals);
        explain_record(reading.visitor.one()?, workbench, see)
    }
}

/// Explains a record that was found before, given as JSON.
pub(in crate::cli) fn explain_record(
    line: &[u8],
    workbench: &Workbench,
    see: &mut dyn FnMut(&Query<'_>, Caller<'_>),
) -> Result<FoundDecision, String> {
    let record = LogRecord::parse(line).ok_or("the record cannot be read again")?;
    let loads = logs::load(workbench)?;
    let explained = logs::portals(&loads)
        .explained_seen(&record, see)
        .map_err(|why| escaped(&why))?;
    Ok(FoundDecision {
        notes: notes(&record, &explained),
        explained,
        record: serde_json::from_slice(line).unwrap_or_default(),
    })
}

/// The named logs, or those that the configuration lets the gate write.
pub(in crate::cli) fn files(named: &[PathBuf], workbench: &Workbench) -> Result<Vec<PathBuf>, String> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let sink = workbench.loaded.as_ref().and_then(|loaded| loaded.config.audit.sink.file());
    let sink = sink.ok_or("name the log with `--log FILE`; the configuration has no file in audit.sink")?;
    written_files(&sink.file).map_err(|error| format!("`{}`: {error}", sink.file.display()))
}

fn notes(record: &LogRecord<'_>, explained: &Explained) -> Vec<String> {
    let mut notes = Vec::new();
    if record.revision.as_deref() != Some(&explained.revision) {
        let recorded = record.revision.as_deref().unwrap_or("none");
        notes.push(format!(
            "revision {recorded} decided; this tree is revision {}",
            explained.revision
        ));
    }
    let denial = explained.explanation.decision.denial();
    let reason = denial.map_or("permitted", |denial| denial.code());
    if reason != record.reason {
        notes.push(format!("the record says {} {}", record.decision, record.reason));
    }
    notes
}
