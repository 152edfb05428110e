//! The decisions of a log that turn out otherwise under another tree, in groups.

use std::collections::BTreeMap;

use cedargate_policy::decision::Decision;

use super::{LogRecord, NotReplayed, Portals, RecordLocation, Selection, Visitor};

/// Groups that are kept; flips beyond them are counted.
const GROUPS_MAX: usize = 10_000;
/// Reasons not to replay that are kept; more are counted by their code.
const REASONS_MAX: usize = 200;
/// Records that are named for each group.
const EXAMPLES_MAX: usize = 3;

/// Which decisions are held against each other.
pub struct Comparison<'a> {
    pub before: Baseline<'a>,
    pub after: &'a Portals<'a>,
    pub selection: Selection<'a>,
}

/// The earlier decision.
pub enum Baseline<'a> {
    /// The one that the record holds.
    Recorded,
    /// The one of another tree.
    Tree(&'a Portals<'a>),
}

/// The direction of a flip; newly allowed ones come first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum DecisionChange {
    NewlyAllowed,
    NewlyDenied,
}

/// Flips that have the same cause, portal and roles.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FlipKey {
    pub change: DecisionChange,
    pub portal: String,
    /// The roles of the caller.
    pub roles: Vec<String>,
    /// Newly allowed: the permits. Newly denied: the forbids, or else the permits that held before.
    pub policies: Vec<String>,
    /// The reason of the denial, before or after.
    pub denial: String,
}

/// The number of such flips, and some of them.
#[derive(Clone, Debug, Default)]
pub struct FlipGroup {
    pub records: u64,
    /// The decisions that the records stand for.
    pub decisions: f64,
    /// The first ones in the log.
    pub examples: Vec<Example>,
}

/// A record by its place.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Example {
    pub file: String,
    pub line: u64,
    pub decision_id: String,
    /// `GET /portal/customer/orders`
    pub question: String,
    pub principal: Option<String>,
}

/// A visitor that compares.
pub struct Flips<'a> {
    comparison: &'a Comparison<'a>,
    /// Records that the comparison is about.
    pub records: u64,
    pub replayed: u64,
    /// Replayed with the same outcome, and another reason or other policies.
    pub other_reason: u64,
    pub groups: BTreeMap<FlipKey, FlipGroup>,
    /// Flips beyond the groups that are kept.
    pub ungrouped: u64,
    pub not_replayed: BTreeMap<NotReplayed, u64>,
}

/// One side of a comparison.
struct Side {
    is_allowed: bool,
    reason: String,
    policies: Vec<String>,
}

impl Side {
    fn of_record(record: &LogRecord<'_>) -> Self {
        Self {
            is_allowed: record.is_allowed(),
            reason: record.reason.to_string(),
            policies: record.policy_ids().map(str::to_owned).collect(),
        }
    }

    fn of(decision: &Decision) -> Self {
        let denial = decision.denial();
        Self {
            is_allowed: denial.is_none(),
            reason: denial.map_or("permitted", |denial| denial.code()).to_owned(),
            policies: decision.policies().iter().map(|policy| policy.id.to_string()).collect(),
        }
    }
}

impl DecisionChange {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewlyAllowed => "newly_allowed",
            Self::NewlyDenied => "newly_denied",
        }
    }
}

impl<'a> Flips<'a> {
    pub fn new(comparison: &'a Comparison<'a>) -> Self {
        Self {
            comparison,
            records: 0,
            replayed: 0,
            other_reason: 0,
            groups: BTreeMap::new(),
            ungrouped: 0,
            not_replayed: BTreeMap::new(),
        }
    }

    /// The number of records that flip in this direction.
    pub fn count(&self, change: DecisionChange) -> u64 {
        let groups = self.groups.iter().filter(|(key, _)| key.change == change);
        groups.map(|(_, group)| group.records).sum()
    }

    fn compare(&mut self, record: &LogRecord<'_>, place: RecordLocation<'_>) -> Result<(), NotReplayed> {
        let after = Side::of(&self.comparison.after.decide(record)?);
        let before = match &self.comparison.before {
            Baseline::Recorded => Side::of_record(record),
            Baseline::Tree(tree) => Side::of(&tree.decide(record)?),
        };
        self.replayed += 1;
        match (before.is_allowed, after.is_allowed) {
            (false, true) => self.add(
                key(record, DecisionChange::NewlyAllowed, after.policies, before.reason),
                record,
                place,
            ),
            (true, false) => {
                let policies = if after.policies.is_empty() {
                    before.policies
                } else {
                    after.policies
                };
                self.add(
                    key(record, DecisionChange::NewlyDenied, policies, after.reason),
                    record,
                    place,
                );
            }
            _ if before.reason != after.reason || is_other_set(&before.policies, &after.policies) => self.other_reason += 1,
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, key: FlipKey, record: &LogRecord<'_>, place: RecordLocation<'_>) {
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            self.ungrouped += 1;
            return;
        }
        self.groups.entry(key).or_default().add(record, Example::of(record, place));
    }

    fn add_not_replayed(&mut self, why: NotReplayed, count: u64) {
        let why = if self.not_replayed.len() >= REASONS_MAX && !self.not_replayed.contains_key(&why) {
            NotReplayed::Malformed("many reasons".to_owned())
        } else {
            why
        };
        *self.not_replayed.entry(why).or_default() += count;
    }
}

impl Example {
    pub fn of(record: &LogRecord<'_>, place: RecordLocation<'_>) -> Self {
        Self {
            file: place.file.to_owned(),
            line: place.line,
            decision_id: record.decision_id.to_string(),
            question: record.question(),
            principal: record.principal_id().map(str::to_owned),
        }
    }
}

impl FlipGroup {
    pub fn add(&mut self, record: &LogRecord<'_>, example: Example) {
        self.records += 1;
        self.decisions += record.weight();
        self.add_example(example);
    }

    pub fn join(&mut self, other: Self) {
        self.records += other.records;
        self.decisions += other.decisions;
        other.examples.into_iter().for_each(|example| self.add_example(example));
    }

    fn add_example(&mut self, example: Example) {
        let at = self.examples.partition_point(|known| *known < example);
        self.examples.insert(at, example);
        self.examples.truncate(EXAMPLES_MAX);
    }
}

impl Visitor for Flips<'_> {
    fn visit(&mut self, record: &LogRecord<'_>, place: RecordLocation<'_>) {
        if !self.comparison.selection.has(record) {
            return;
        }
        self.records += 1;
        if let Err(why) = self.compare(record, place) {
            self.add_not_replayed(why, 1);
        }
    }

    fn join(&mut self, other: Self) {
        self.records += other.records;
        self.replayed += other.replayed;
        self.other_reason += other.other_reason;
        self.ungrouped += other.ungrouped;
        for (why, count) in other.not_replayed {
            self.add_not_replayed(why, count);
        }
        for (key, group) in other.groups {
            self.groups.entry(key).or_default().join(group);
        }
    }
}

fn key(record: &LogRecord<'_>, change: DecisionChange, mut policies: Vec<String>, denial: String) -> FlipKey {
    policies.sort();
    FlipKey {
        change,
        portal: record.portal.clone().unwrap_or_default(),
        roles: record.role_names().into_iter().map(str::to_owned).collect(),
        policies,
        denial,
    }
}

fn is_other_set(one: &[String], other: &[String]) -> bool {
    one.len() != other.len() || one.iter().any(|id| !other.contains(id))
}
