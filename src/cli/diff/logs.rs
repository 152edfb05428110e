//! Recorded decisions, decided by both trees.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::sides::LoadedPortal;
use crate::cli::Paint;
use crate::cli::logs;
use crate::cli::replay::output::Report;
use crate::cli::tree::PortalLoad;
use crate::replay::{Baseline, Comparison, DecisionChange, Flips, Portals, Selection};

/// The flips of recorded decisions, in every form of a report.
pub(super) struct LogFlips {
    pub text: String,
    pub markdown: String,
    pub json: Value,
    /// Newly allowed.
    pub widening: u64,
    pub narrowing: u64,
}

impl LogFlips {
    /// Decides every record by both trees; no log, no report.
    pub fn of(files: &[PathBuf], only: Option<&str>, old: &[LoadedPortal], new: &[LoadedPortal]) -> Result<Option<Self>, String> {
        if files.is_empty() {
            return Ok(None);
        }
        let before = loads(old);
        let after = loads(new);
        let (before, replayed): (Portals<'_>, Portals<'_>) = (logs::portals(&before), logs::portals(&after));
        let comparison = Comparison {
            before: Baseline::Tree(&before),
            after: &replayed,
            selection: Selection {
                portal: only,
                since_millis: None,
            },
        };
        let reading = logs::read(files, || Flips::new(&comparison))?;
        logs::complain_about(&reading.totals);
        let flips = &reading.visitor;
        let report = Report {
            flips,
            totals: &reading.totals,
            loads: &after,
        };
        Ok(Some(Self {
            text: report.text(Paint::stdout()),
            markdown: report.markdown(),
            json: report.json(),
            widening: flips.count(DecisionChange::NewlyAllowed) + flips.ungrouped,
            narrowing: flips.count(DecisionChange::NewlyDenied),
        }))
    }
}

fn loads(portals: &[LoadedPortal]) -> Vec<PortalLoad<'_>> {
    portals
        .iter()
        .map(|LoadedPortal { scope, revision }| PortalLoad {
            portal: scope,
            revision: Some(Arc::clone(revision)),
            problems: Vec::new(),
        })
        .collect()
}
