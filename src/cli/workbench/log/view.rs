//! One view of an indexed log: the decisions that its filters leave, over time, in groups, and the youngest of them.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::replay::{Chosen, LogEvent, LogIndex, Row, Shadow, Text};
use crate::workbench::{Call, CallRefusal};

/// Bars of the plot.
const BARS_MAX: i64 = 60;
/// Lengths of a bar, in milliseconds: a second to a year.
const LENGTHS: [i64; 17] = [
    1000,
    5000,
    15_000,
    60_000,
    300_000,
    900_000,
    1_800_000,
    3_600_000,
    10_800_000,
    21_600_000,
    43_200_000,
    86_400_000,
    172_800_000,
    604_800_000,
    1_209_600_000,
    2_592_000_000,
    31_536_000_000,
];
/// Colours of the plot; the last stands for all others.
const SERIES_MAX: usize = 8;
/// Groups of denials, or of disagreements, that are shown.
const GROUPS_SHOWN: usize = 100;
/// Groups that are counted; decisions beyond them are in none.
const GROUPS_MAX: usize = 50_000;
/// Callers of a group that are counted.
const CALLERS_MAX: usize = 10_000;
/// Records of a view, and the most that a call may ask for.
const RECORDS: usize = 200;
const RECORDS_MAX: usize = 5000;
/// Records of other kinds that a view shows.
const EVENTS_SHOWN: usize = 200;
/// Choices of a filter.
const CHOICES_MAX: usize = 200;

/// The decisions that the filters of a call leave.
pub(super) struct View<'a> {
    index: &'a LogIndex,
    rows: Vec<&'a Row>,
    by: PlotColour,
    records: usize,
    roles: Roles,
    events: Vec<&'a LogEvent>,
}

/// What a colour of the plot stands for.
#[derive(Clone, Copy)]
enum PlotColour {
    Outcome,
    Portal,
    Roles,
    Reason,
}

/// The filters; `None` matches every row.
struct Filter {
    portal: Option<Chosen>,
    reason: Option<Chosen>,
    roles: Option<Chosen>,
    is_allowed: Option<bool>,
    words: Option<TextFilter>,
    is_shadow: bool,
    from: Option<i64>,
    to: Option<i64>,
}

/// A text that route, principal or permit contain, or a decision id.
struct TextFilter {
    texts: Chosen,
    id: Option<Uuid>,
}

/// The names of each set of roles.
struct Roles(HashMap<Text, Vec<String>>);

/// Decisions of the same kind.
#[derive(Default)]
struct PlotGroup<'a> {
    count: f64,
    callers: HashSet<Text>,
    /// The first row of the group is the youngest.
    last: Option<&'a Row>,
}

#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct GroupKey {
    portal: Text,
    roles: Text,
    route: Text,
    reason: Text,
    near: Text,
    shadow: bool,
}

impl<'a> View<'a> {
    pub fn of(index: &'a LogIndex, call: &Call) -> Result<Self, CallRefusal> {
        let roles = Roles::of(index);
        let filter = Filter::of(index, &roles, call)?;
        let portal = call.parameter("portal").filter(|portal| !portal.is_empty());
        let events = index.events().iter();
        let events = events.filter(|event| {
            portal.is_none_or(|portal| event.portal == portal || event.portal.is_empty()) && filter.has_time(event.at)
        });
        let records = call.parameter("records").map(str::parse).transpose();
        let records = records.map_err(|_unfit| CallRefusal::invalid("`records` is not a number"))?;
        Ok(Self {
            index,
            rows: index.rows().iter().filter(|row| filter.has(row)).collect(),
            by: match call.parameter("by") {
                Some("portal") => PlotColour::Portal,
                Some("roles") => PlotColour::Roles,
                Some("reason") => PlotColour::Reason,
                _ => PlotColour::Outcome,
            },
            records: records.unwrap_or(RECORDS).min(RECORDS_MAX),
            events: events.take(EVENTS_SHOWN).collect(),
            roles,
        })
    }

    pub fn answer(&self) -> Value {
        let sum = |is_counted: &dyn Fn(&Row) -> bool| {
            let rows = self.rows.iter().filter(|row| is_counted(row));
            whole(rows.map(|row| self.index.count(row)).sum())
        };
        let count = |shadow| sum(&move |row: &Row| row.shadow == shadow);
        json!({
            "allowed": sum(&|row| row.is_allowed),
            "denied": sum(&|row| !row.is_allowed),
            "undated": sum(&|row| row.at.is_none()),
            "over_time": self.over_time(),
            "denials": self.groups(|row| !row.is_allowed),
            "shadow": {
                "agree": count(Shadow::Agrees),
                "newly_allowed": count(Shadow::Allows),
                "newly_denied": count(Shadow::Denies),
                "groups": self.groups(|row| matches!(row.shadow, Shadow::Allows | Shadow::Denies)),
            },
            "records": self.rows.iter().take(self.records).map(|row| self.record(row)).collect::<Vec<_>>(),
            "events": self.events.iter().map(|event| event_json(event)).collect::<Vec<_>>(),
            "choices": {
                "portals": self.choices(|row| row.portal),
                "reasons": self.choices(|row| row.reason),
                "roles": self.role_choices(),
            },
        })
    }

    fn text(&self, text: Text) -> &'a str {
        self.index.texts().get(text)
    }

    fn record(&self, row: &Row) -> Value {
        json!({
            "id": (!row.id.is_nil()).then(|| row.id.to_string()),
            "at": row.at,
            "portal": self.text(row.portal),
            "roles": self.roles.names(row.roles),
            "route": self.text(row.route),
            "principal": self.text(row.principal),
            "decision": decision(row),
            "reason": self.text(row.reason),
            "near": self.text(row.near),
            "shadow": match row.shadow {
                Shadow::None => None,
                Shadow::Agrees => Some("agrees"),
                Shadow::Allows => Some("allow"),
                Shadow::Denies => Some("deny"),
            },
        })
    }

    /// The bars of the plot, each with a count for each series.
    fn over_time(&self) -> Value {
        let times = || self.rows.iter().filter_map(|row| row.at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return Value::Null;
        };
        let length = length(last.saturating_sub(first));
        let start = first.div_euclid(length).saturating_mul(length);
        let bar = |at: i64| usize::try_from(at.saturating_sub(start) / length).unwrap_or_default();
        let bars = bar(last) + 1;
        let mut series: HashMap<String, Vec<f64>> = HashMap::new();
        for row in &self.rows {
            let Some(at) = row.at else { continue };
            let counts = series.entry(self.series(row)).or_insert_with(|| vec![0.0; bars]);
            if let Some(count) = counts.get_mut(bar(at)) {
                *count += self.index.count(row);
            }
        }
        let mut series: Vec<(String, Vec<f64>)> = series.into_iter().collect();
        let total = |counts: &[f64]| counts.iter().sum::<f64>();
        series.sort_by(|(one, a), (other, b)| total(b).total_cmp(&total(a)).then_with(|| one.cmp(other)));
        let mut shown = Vec::new();
        let mut others = vec![0.0; bars];
        let has_others = series.len() > SERIES_MAX;
        for (at, (name, counts)) in series.into_iter().enumerate() {
            if has_others && at >= SERIES_MAX - 1 {
                others.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            } else {
                shown.push(json!({"name": name, "counts": counts.into_iter().map(whole).collect::<Vec<_>>()}));
            }
        }
        if has_others {
            shown.push(json!({"name": "others", "counts": others.into_iter().map(whole).collect::<Vec<_>>()}));
        }
        json!({"start": start, "length": length, "bars": bars, "series": shown})
    }

    fn series(&self, row: &Row) -> String {
        match self.by {
            PlotColour::Outcome => decision(row).to_owned(),
            PlotColour::Portal => self.text(row.portal).to_owned(),
            PlotColour::Reason => self.text(row.reason).to_owned(),
            PlotColour::Roles => match self.roles.names(row.roles) {
                [] => "(no role)".to_owned(),
                names => names.join(", "),
            },
        }
    }

    /// The largest groups of some rows.
    fn groups(&self, is_counted: impl Fn(&Row) -> bool) -> Value {
        let mut groups: HashMap<GroupKey, PlotGroup<'_>> = HashMap::new();
        for &row in self.rows.iter().filter(|row| is_counted(row)) {
            let key = GroupKey {
                portal: row.portal,
                roles: row.roles,
                route: row.route,
                reason: row.reason,
                near: row.near,
                shadow: row.is_allowed,
            };
            if groups.len() >= GROUPS_MAX && !groups.contains_key(&key) {
                continue;
            }
            let group = groups.entry(key).or_default();
            group.count += self.index.count(row);
            group.last.get_or_insert(row);
            if group.callers.len() < CALLERS_MAX {
                group.callers.insert(row.principal);
            }
        }
        let mut groups: Vec<PlotGroup<'_>> = groups.into_values().collect();
        let last = |group: &PlotGroup<'_>| group.last.map(|row| (row.at, row.id));
        groups.sort_by(|a, b| b.count.total_cmp(&a.count).then_with(|| last(b).cmp(&last(a))));
        let shown = groups.iter().take(GROUPS_SHOWN).filter_map(|group| {
            let mut shown = self.record(group.last?);
            let fields = shown.as_object_mut()?;
            fields.insert("count".to_owned(), json!(whole(group.count)));
            fields.insert("callers".to_owned(), json!(group.callers.len()));
            Some(shown)
        });
        shown.collect()
    }

    /// The texts of a column of the whole log, the most frequent first.
    fn choices(&self, column: impl Fn(&Row) -> Text) -> Vec<&'a str> {
        let mut counts: HashMap<Text, usize> = HashMap::new();
        for row in self.index.rows() {
            *counts.entry(column(row)).or_default() += 1;
        }
        let mut counts: Vec<(usize, &str)> = counts.into_iter().map(|(text, count)| (count, self.text(text))).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let names = counts.into_iter().map(|(_, name)| name).filter(|name| !name.is_empty());
        names.take(CHOICES_MAX).collect()
    }

    fn role_choices(&self) -> Vec<&str> {
        let names: HashSet<&str> = self.roles.0.values().flatten().map(String::as_str).collect();
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        names.truncate(CHOICES_MAX);
        names
    }
}

impl Filter {
    fn of(index: &LogIndex, roles: &Roles, call: &Call) -> Result<Self, CallRefusal> {
        let texts = index.texts();
        let given = |name: &str| call.parameter(name).filter(|value| !value.is_empty());
        let only = |name: &str| given(name).map(|wanted| texts.chosen(|text| text == wanted));
        let time = |name: &'static str| {
            let time = given(name).map(str::parse).transpose();
            time.map_err(|_unfit| CallRefusal::invalid(format!("`{name}` is not a time in milliseconds")))
        };
        let sets = |wanted: &str| -> HashSet<&str> {
            let sets = roles.0.iter().filter(|(_, names)| names.iter().any(|name| name == wanted));
            sets.map(|(set, _)| texts.get(*set)).collect()
        };
        Ok(Self {
            portal: only("portal"),
            reason: only("reason"),
            roles: given("role").map(|wanted| {
                let sets = sets(wanted);
                texts.chosen(|text| sets.contains(text))
            }),
            is_allowed: match given("decision") {
                Some("allow") => Some(true),
                Some("deny") => Some(false),
                _ => None,
            },
            words: given("find").map(|wanted| {
                let lower = wanted.to_lowercase();
                TextFilter {
                    texts: texts.chosen(|text| text.to_lowercase().contains(&lower)),
                    id: Uuid::try_parse(wanted.trim()).ok(),
                }
            }),
            is_shadow: given("shadow").is_some(),
            from: time("from")?,
            to: time("to")?,
        })
    }

    fn has(&self, row: &Row) -> bool {
        let is_chosen = |chosen: &Option<Chosen>, text| chosen.as_ref().is_none_or(|chosen| chosen.has(text));
        let has_words = |words: &TextFilter| {
            words.texts.has(row.route) || words.texts.has(row.principal) || words.texts.has(row.near) || words.id == Some(row.id)
        };
        is_chosen(&self.portal, row.portal)
            && is_chosen(&self.reason, row.reason)
            && is_chosen(&self.roles, row.roles)
            && self.is_allowed.is_none_or(|allowed| allowed == row.is_allowed)
            && self.words.as_ref().is_none_or(has_words)
            && (!self.is_shadow || matches!(row.shadow, Shadow::Allows | Shadow::Denies))
            && self.has_time(row.at)
    }

    fn has_time(&self, at: Option<i64>) -> bool {
        self.from.is_none_or(|from| at.is_some_and(|at| at >= from)) && self.to.is_none_or(|to| at.is_some_and(|at| at < to))
    }
}

impl Roles {
    fn of(index: &LogIndex) -> Self {
        let sets: HashSet<Text> = index.rows().iter().map(|row| row.roles).collect();
        // the set of texts beyond the bound is no list
        let names = |set: &Text| serde_json::from_str(index.texts().get(*set)).unwrap_or_default();
        Self(sets.iter().map(|set| (*set, names(set))).collect())
    }

    fn names(&self, set: Text) -> &[String] {
        self.0.get(&set).map(Vec::as_slice).unwrap_or_default()
    }
}

fn event_json(event: &LogEvent) -> Value {
    json!({"at": event.at, "kind": event.kind, "event": event.event, "result": event.result, "reason": event.reason,
        "detail": event.detail, "portal": event.portal, "about": event.about, "operator": event.operator})
}

fn decision(row: &Row) -> &'static str {
    if row.is_allowed { "allow" } else { "deny" }
}

/// The shortest length with which a span takes few bars.
fn length(span: i64) -> i64 {
    let fits = |length: &&i64| span / **length < BARS_MAX;
    LENGTHS.iter().find(fits).copied().unwrap_or(span / (BARS_MAX - 1))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sum of positive counts; `as` saturates"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}
