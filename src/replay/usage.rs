//! The policies, roles and kinds of requests that a log shows in use, with the time of the last use.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{LogRecord, RecordLocation, Selection, Visitor};

/// Things that are remembered of each kind; a log that has more is cut, which is said.
const REMEMBERED_MAX: usize = 200_000;
/// Segments of a plain path that make two requests alike.
const PATH_SEGMENTS: usize = 3;
/// The type of the gate's own paths, with or without a namespace.
const PATH_TYPE: &str = "Path";

/// A thing of one portal.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NamedUse {
    pub portal: String,
    /// A policy's id, or a role.
    pub name: String,
}

/// The use of one policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsedPolicy {
    pub records: u64,
    /// Unix milliseconds.
    pub last: i64,
}

/// The kind of a request: two requests of the same kind resemble each other.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UsedKind {
    pub portal: String,
    pub action: String,
    pub resource_type: String,
    /// The first segments of a plain path; empty for another resource.
    pub place: String,
}

/// A visitor that notes what is used.
pub struct Usage<'a> {
    selection: Selection<'a>,
    /// Records in which policies decided.
    pub decisions: u64,
    pub allowed: u64,
    /// Records that stand for several decisions.
    pub sampled: u64,
    /// Unix milliseconds of the first and the last record.
    pub first: Option<i64>,
    pub last: Option<i64>,
    pub policies: BTreeMap<NamedUse, UsedPolicy>,
    /// Roles of callers, with the time of the last record.
    pub roles: BTreeMap<NamedUse, i64>,
    /// The sets of roles that asked for each kind, with the time of the last record.
    pub kinds: BTreeMap<UsedKind, BTreeMap<BTreeSet<String>, i64>>,
    kind_entries: usize,
    /// True if the log has more than is remembered.
    pub is_cut: bool,
}

impl UsedKind {
    /// `resource_type` and `id` as records show them.
    pub fn new(portal: &str, action: &str, resource_type: &str, id: &str) -> Self {
        let is_path = resource_type.rsplit("::").next() == Some(PATH_TYPE);
        let place = if is_path {
            id.split('/')
                .filter(|part| !part.is_empty())
                .take(PATH_SEGMENTS)
                .collect::<Vec<_>>()
                .join("/")
        } else {
            String::new()
        };
        Self {
            portal: portal.to_owned(),
            action: action.to_owned(),
            resource_type: resource_type.to_owned(),
            place,
        }
    }
}

impl<'a> Usage<'a> {
    pub fn new(selection: Selection<'a>) -> Self {
        Self {
            selection,
            decisions: 0,
            allowed: 0,
            sampled: 0,
            first: None,
            last: None,
            policies: BTreeMap::new(),
            roles: BTreeMap::new(),
            kinds: BTreeMap::new(),
            kind_entries: 0,
            is_cut: false,
        }
    }

    /// True if a caller with at least these roles asked for this kind from this time on.
    pub fn resembles(&self, kind: &UsedKind, roles: &BTreeSet<String>, since: i64) -> bool {
        let askers = self.kinds.get(kind);
        askers.is_some_and(|askers| askers.iter().any(|(asker, last)| *last >= since && roles.is_subset(asker)))
    }

    fn note_policy(&mut self, named: NamedUse, used: UsedPolicy) {
        if self.policies.len() >= REMEMBERED_MAX && !self.policies.contains_key(&named) {
            self.is_cut = true;
            return;
        }
        let policy = self.policies.entry(named).or_default();
        policy.records += used.records;
        policy.last = policy.last.max(used.last);
    }

    fn note_role(&mut self, named: NamedUse, at: i64) {
        if self.roles.len() >= REMEMBERED_MAX && !self.roles.contains_key(&named) {
            self.is_cut = true;
            return;
        }
        let last = self.roles.entry(named).or_insert(at);
        *last = at.max(*last);
    }

    fn note_kind(&mut self, kind: UsedKind, roles: BTreeSet<String>, at: i64) {
        let known = self.kinds.get_mut(&kind).and_then(|askers| askers.get_mut(&roles));
        if let Some(last) = known {
            *last = at.max(*last);
            return;
        }
        if self.kind_entries >= REMEMBERED_MAX {
            self.is_cut = true;
            return;
        }
        self.kind_entries += 1;
        self.kinds.entry(kind).or_default().insert(roles, at);
    }
}

impl Visitor for Usage<'_> {
    fn visit(&mut self, record: &LogRecord<'_>, _: RecordLocation<'_>) {
        if !self.selection.has(record) || !record.is_of_policies() {
            return;
        }
        let (Some(portal), Some(at)) = (record.portal.as_deref(), record.millis()) else {
            return;
        };
        self.decisions += 1;
        self.allowed += u64::from(record.is_allowed());
        self.sampled += u64::from(record.sample_rate.is_some());
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        let named = |name: &str| NamedUse {
            portal: portal.to_owned(),
            name: name.to_owned(),
        };
        for id in record.policy_ids() {
            self.note_policy(named(id), UsedPolicy { records: 1, last: at });
        }
        let roles = record.role_names();
        for role in &roles {
            self.note_role(named(role), at);
        }
        let part = |name: &str| record.resource.get(name).and_then(Value::as_str);
        if let (Some(action), Some(ty), Some(id)) = (record.action.as_deref(), part("type"), part("id")) {
            let roles = roles.into_iter().map(str::to_owned).collect();
            self.note_kind(UsedKind::new(portal, action, ty, id), roles, at);
        }
    }

    fn join(&mut self, other: Self) {
        self.decisions += other.decisions;
        self.allowed += other.allowed;
        self.sampled += other.sampled;
        self.is_cut |= other.is_cut;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
        other
            .policies
            .into_iter()
            .for_each(|(named, used)| self.note_policy(named, used));
        other.roles.into_iter().for_each(|(named, at)| self.note_role(named, at));
        for (kind, askers) in other.kinds {
            askers
                .into_iter()
                .for_each(|(roles, at)| self.note_kind(kind.clone(), roles, at));
        }
    }
}
