//! The outcome of the last load of each portal; written by the reloader, read by `/status` and by reload requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedargate_policy::revision::problem::Problem;
use cedargate_policy::types::PortalSlug;
use parking_lot::Mutex;
use serde::Serialize;

/// Outcomes by portal; cheap to clone.
#[derive(Clone, Default)]
pub struct Outcomes(Arc<Mutex<BTreeMap<PortalSlug, ReloadOutcome>>>);

/// One load, as `/status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ReloadOutcome {
    pub result: ReloadResult,
    /// Unix seconds.
    pub at: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
}

/// The label of `reload_total{result}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    Success,
    Rejected,
}

impl Outcomes {
    pub fn all(&self) -> BTreeMap<PortalSlug, ReloadOutcome> {
        self.0.lock().clone()
    }

    pub(super) fn remove(&self, slug: &PortalSlug) {
        self.0.lock().remove(slug);
    }

    pub(super) fn set(&self, slug: &PortalSlug, outcome: ReloadOutcome) {
        self.0.lock().insert(slug.clone(), outcome);
    }
}

impl ReloadResult {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejected => "rejected",
        }
    }
}
