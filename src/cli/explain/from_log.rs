//! A recorded decision, explained: its facts are those of the record, and the policies those of the tree.

use std::path::PathBuf;

use crate::audit::written_files;
use crate::cli::complain;
use crate::cli::logs::{self, complain_about};
use crate::cli::report::text::escaped;
use crate::cli::tree::{TreeArgs, Workbench};
use crate::explained::Explained;
use crate::replay::{FoundRecords, LogRecord};

/// Where a record is looked for.
pub(super) struct FromLog<'a> {
    pub id: &'a str,
    pub logs: &'a [PathBuf],
    pub tree: &'a TreeArgs,
}

impl FromLog<'_> {
    /// Finds the record and explains it. `Err` is a message for the user.
    pub fn explain(&self) -> Result<Explained, String> {
        let workbench = self.tree.open()?;
        let logs = self.files(&workbench)?;
        let reading = logs::read(&logs, || FoundRecords::new(self.id))?;
        complain_about(&reading.totals);
        let line = reading.visitor.one()?;
        let record = LogRecord::parse(line).ok_or("the record cannot be read again")?;
        explain_record(&record, &workbench)
    }

    fn files(&self, workbench: &Workbench) -> Result<Vec<PathBuf>, String> {
        if !self.logs.is_empty() {
            return Ok(self.logs.to_vec());
        }
        let sink = workbench.loaded.as_ref().and_then(|loaded| loaded.config.audit.sink.file());
        let sink = sink.ok_or("name the log with `--log FILE`; the configuration has no file in audit.sink")?;
        written_files(&sink.file).map_err(|error| format!("`{}`: {error}", sink.file.display()))
    }
}

fn explain_record(record: &LogRecord<'_>, workbench: &Workbench) -> Result<Explained, String> {
    let loads = logs::load(workbench)?;
    let portals = logs::portals(&loads);
    let explained = portals.explained(record).map_err(|why| escaped(&why))?;
    if record.revision.as_deref() != Some(&explained.revision) {
        let recorded = record.revision.as_deref().unwrap_or("none");
        complain(&format!(
            "note: revision {recorded} decided; this tree is revision {}",
            explained.revision
        ));
    }
    let denial = explained.explanation.decision.denial();
    let reason = denial.map_or("permitted", |denial| denial.code());
    if reason != record.reason {
        let recorded = format!("note: the record says {} {}", record.decision, record.reason);
        complain(&escaped(&recorded));
    }
    Ok(explained)
}
