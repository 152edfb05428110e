//! The disagreements of enforced and candidate sets that a log holds, in groups.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{DecisionChange, Example, FlipGroup, LogRecord, RecordLocation, Visitor};

/// Groups that are kept; disagreements beyond them are counted.
const GROUPS_MAX: usize = 10_000;

/// Which records count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Only records of this portal.
    pub portal: Option<&'a str>,
    /// Only records from this time on, in Unix milliseconds.
    pub since_millis: Option<i64>,
}

impl Selection<'_> {
    pub fn has(&self, record: &LogRecord<'_>) -> bool {
        let is_portal = self.portal.is_none_or(|portal| record.portal.as_deref() == Some(portal));
        let is_since = |since| record.millis().is_none_or(|at| at >= since);
        is_portal && self.since_millis.is_none_or(is_since)
    }
}

/// Disagreements with the same direction, portal, roles and route.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DisagreementKey {
    pub change: DecisionChange,
    pub portal: String,
    pub roles: Vec<String>,
    /// The route, or the method of a plain path, or the action of a query that names it.
    pub route: String,
}

/// Records by the candidate that was evaluated beside them.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    pub records: u64,
    pub disagreements: u64,
}

/// A visitor that looks at the field `shadow`.
pub struct Disagreements<'a> {
    selection: Selection<'a>,
    /// Records of decisions that a candidate was evaluated for.
    pub evaluated: u64,
    /// Records without one.
    pub without: u64,
    pub groups: BTreeMap<DisagreementKey, FlipGroup>,
    /// Disagreements beyond the groups that are kept.
    pub ungrouped: u64,
    /// By portal and revision of the candidate.
    pub candidates: BTreeMap<CandidateKey, Candidate>,
}

/// One candidate of one portal.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct CandidateKey {
    pub portal: String,
    pub revision: String,
}

impl<'a> Disagreements<'a> {
    pub fn new(selection: Selection<'a>) -> Self {
        Self {
            selection,
            evaluated: 0,
            without: 0,
            groups: BTreeMap::new(),
            ungrouped: 0,
            candidates: BTreeMap::new(),
        }
    }

    /// The number of records that disagree in this direction.
    pub fn count(&self, change: DecisionChange) -> u64 {
        let groups = self.groups.iter().filter(|(key, _)| key.change == change);
        groups.map(|(_, group)| group.records).sum()
    }
}

impl Visitor for Disagreements<'_> {
    fn visit(&mut self, record: &LogRecord<'_>, place: RecordLocation<'_>) {
        if !self.selection.has(record) {
            return;
        }
        let text = |name: &str| record.shadow.get(name).and_then(Value::as_str);
        let (Some(shadow), Some(revision)) = (text("decision"), text("revision")) else {
            self.without += 1;
            return;
        };
        self.evaluated += 1;
        let portal = record.portal.clone().unwrap_or_default();
        let revision = revision.to_owned();
        let candidate = self.candidates.entry(CandidateKey { portal, revision }).or_default();
        candidate.records += 1;
        if shadow == record.decision {
            return;
        }
        candidate.disagreements += 1;
        let key = DisagreementKey {
            change: if record.is_allowed() {
                DecisionChange::NewlyDenied
            } else {
                DecisionChange::NewlyAllowed
            },
            portal: record.portal.clone().unwrap_or_default(),
            roles: record.role_names().into_iter().map(str::to_owned).collect(),
            route: record.route_or_action(),
        };
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            self.ungrouped += 1;
            return;
        }
        self.groups.entry(key).or_default().add(record, Example::of(record, place));
    }

    fn join(&mut self, other: Self) {
        self.evaluated += other.evaluated;
        self.without += other.without;
        self.ungrouped += other.ungrouped;
        for (key, group) in other.groups {
            self.groups.entry(key).or_default().join(group);
        }
        for (key, candidate) in other.candidates {
            let own = self.candidates.entry(key).or_default();
            own.records += candidate.records;
            own.disagreements += candidate.disagreements;
        }
    }
}
