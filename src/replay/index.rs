//! The decisions of a log in memory, to filter and count them again and again.
//!
//! Each decision becomes a row of small numbers; each text is kept once. Beyond `RECORDS_MAX` rows the index keeps one
//! decision of two, then of four, and so on: those whose number, drawn from id and line, fits. The draw is the same for
//! every worker and every reading, so the kept rows are a fair sample of the whole log. `Row::count` says how many
//! decisions a row stands for.

use std::collections::HashMap;
use std::hash::Hasher;
use std::path::PathBuf;
use std::sync::Arc;

use rustc_hash::FxHasher;
use serde_json::Value;
use uuid::Uuid;

use super::{EventRecord, LogRecord, RecordLocation, Visitor};

/// Rows that are kept.
pub const RECORDS_MAX: usize = 1_000_000;
/// Different texts that are kept; further ones become `OTHERS`.
const TEXTS_MAX: usize = 200_000;
/// Characters of a text; a hostile client may send long paths.
const TEXT_CHARS_MAX: usize = 200;
/// Roles of a caller that are kept.
const ROLES_MAX: usize = 32;
/// Records of other kinds that are kept: the youngest.
const EVENTS_MAX: usize = 500;
/// Kinds of records that are kept beside decisions. Refused connections are only counted: a client may cause any
/// number.
const EVENT_KINDS: [&str; 3] = ["auth_event", "policy_event", "admin_event"];
/// Stands for texts beyond `TEXTS_MAX`.
const OTHERS: &str = "(others)";
/// Decisions that one sampled record may stand for; a hostile record may claim any share.
const WEIGHT_MAX: f64 = 1e6;

/// The place of a text in `Texts`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Text(u32);

/// A visitor that keeps a row for each decision.
pub struct LogIndex {
    rows: Vec<Row>,
    rows_max: usize,
    /// Rows are kept of one in `1 << level` decisions.
    level: u32,
    texts: Texts,
    events: Vec<LogEvent>,
}

/// A login, a revocation, a reload or a command of the operator. Texts are cut; a masked field is a text, too.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LogEvent {
    /// Unix milliseconds; `None`: the record has no time.
    pub at: Option<i64>,
    pub kind: String,
    /// `revocation`; of a reload, `reload`.
    pub event: String,
    pub result: String,
    pub reason: String,
    pub detail: String,
    pub portal: String,
    /// The subject, or the tenant.
    pub about: String,
    pub operator: String,
}

/// One decision.
#[derive(Clone, Debug)]
pub struct Row {
    /// Nil: the record has none.
    pub id: Uuid,
    /// Unix milliseconds; `None`: the record has no time.
    pub at: Option<i64>,
    pub portal: Text,
    /// The JSON list of the roles.
    pub roles: Text,
    pub route: Text,
    pub reason: Text,
    /// The permit that came nearest.
    pub near: Text,
    pub principal: Text,
    pub is_allowed: bool,
    pub shadow: Shadow,
    weight: f32,
    draw: u32,
    file: Text,
    /// Bytes of the file's text before the record.
    offset: u64,
}

/// The place of a record in the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecordPlace {
    pub file: PathBuf,
    /// Bytes of the file's text before the record.
    pub offset: u64,
}

/// The answer of the candidate set, beside that in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shadow {
    /// No candidate was evaluated.
    None,
    Agrees,
    /// The candidate allows what was denied.
    Allows,
    /// The candidate denies what was allowed.
    Denies,
}

/// Texts, each kept once.
#[derive(Default)]
pub struct Texts {
    places: HashMap<Arc<str>, Text>,
    all: Vec<Arc<str>>,
}

impl Default for LogIndex {
    fn default() -> Self {
        Self::bounded(RECORDS_MAX)
    }
}

impl LogIndex {
    /// An index of at most so many rows.
    pub fn bounded(rows_max: usize) -> Self {
        let mut texts = Texts::default();
        texts.place(OTHERS);
        Self {
            rows: Vec::new(),
            rows_max,
            level: 0,
            texts,
            events: Vec::new(),
        }
    }

    /// The youngest records that are no decisions, the youngest first once `sort` has run.
    pub fn events(&self) -> &[LogEvent] {
        &self.events
    }

    /// The rows, the youngest first once `sort` has run.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The place of a decision; `None`: no row has this id.
    pub fn place(&self, id: Uuid) -> Option<RecordPlace> {
        let row = self.rows.iter().find(|row| row.id == id && !id.is_nil())?;
        Some(RecordPlace {
            file: PathBuf::from(self.texts.get(row.file)),
            offset: row.offset,
        })
    }

    /// Rows are kept of one in so many decisions.
    pub fn one_in(&self) -> u64 {
        1u64.checked_shl(self.level).unwrap_or(u64::MAX)
    }

    /// Puts the youngest row first.
    pub fn sort(&mut self) {
        self.rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.at, row.id)));
        self.rows.shrink_to_fit();
        self.keep_youngest_events();
    }

    fn keep_youngest_events(&mut self) {
        self.events.sort_unstable_by(|a, b| b.cmp(a));
        self.events.truncate(EVENTS_MAX);
    }

    /// The decisions that a row stands for.
    pub fn count(&self, row: &Row) -> f64 {
        f64::from(row.weight) * f64::from(self.level).exp2()
    }

    fn keeps(&self, draw: u32) -> bool {
        draw.trailing_zeros() >= self.level
    }

    /// Halves the rows until they fit.
    fn fit(&mut self) {
        while self.rows.len() > self.rows_max && self.level < u32::BITS {
            self.level += 1;
            let level = self.level;
            self.rows.retain(|row| row.draw.trailing_zeros() >= level);
        }
    }

    fn row(&mut self, record: &LogRecord<'_>, location: RecordLocation<'_>, draw: u32) -> Row {
        let texts = &mut self.texts;
        let shadow = record.shadow.get("decision").and_then(Value::as_str);
        Row {
            id: Uuid::try_parse(&record.decision_id).unwrap_or_default(),
            at: record.millis(),
            portal: texts.place(record.portal.as_deref().unwrap_or_default()),
            roles: texts.roles(record),
            route: texts.place(&record.route_or_action()),
            reason: texts.place(&record.reason),
            near: texts.place(record.near.as_str().unwrap_or_default()),
            principal: texts.place(record.principal_id().unwrap_or_default()),
            is_allowed: record.is_allowed(),
            shadow: match (shadow, record.is_allowed()) {
                (None, _) => Shadow::None,
                (Some("allow"), false) => Shadow::Allows,
                (Some("deny"), true) => Shadow::Denies,
                (Some(_), _) => Shadow::Agrees,
            },
            #[expect(clippy::cast_possible_truncation, reason = "at most WEIGHT_MAX")]
            weight: record.weight().min(WEIGHT_MAX) as f32,
            draw,
            file: texts.place_whole(location.file),
            offset: location.offset,
        }
    }
}

impl Visitor for LogIndex {
    fn visit(&mut self, record: &LogRecord<'_>, place: RecordLocation<'_>) {
        let mut hasher = FxHasher::default();
        hasher.write(record.decision_id.as_bytes());
        hasher.write_u64(place.line);
        let draw = (hasher.finish() >> 32) as u32;
        if self.keeps(draw) {
            let row = self.row(record, place, draw);
            self.rows.push(row);
            self.fit();
        }
    }

    fn visit_event(&mut self, text: &[u8]) {
        let Some(record) = EventRecord::parse(text).filter(|record| EVENT_KINDS.contains(&&*record.kind)) else {
            return;
        };
        self.events.push(LogEvent::of(&record));
        if self.events.len() >= 2 * EVENTS_MAX {
            self.keep_youngest_events();
        }
    }

    fn join(&mut self, other: Self) {
        self.events.extend(other.events);
        self.level = self.level.max(other.level);
        let level = self.level;
        self.rows.retain(|row| row.draw.trailing_zeros() >= level);
        let places: Vec<Text> = other.texts.all.iter().map(|text| self.texts.place_whole(text)).collect();
        let here = |Text(at): Text| places.get(at as usize).copied().unwrap_or(Text(0));
        let rows = other.rows.into_iter().filter(|row| row.draw.trailing_zeros() >= level);
        self.rows.extend(rows.map(|row| Row {
            portal: here(row.portal),
            roles: here(row.roles),
            route: here(row.route),
            reason: here(row.reason),
            near: here(row.near),
            principal: here(row.principal),
            file: here(row.file),
            ..row
        }));
        self.fit();
    }
}

impl LogEvent {
    fn of(record: &EventRecord) -> Self {
        let text = |value: &Value| -> String {
            match value {
                Value::Null => String::new(),
                Value::String(text) => text.chars().take(TEXT_CHARS_MAX).collect(),
                other => other.to_string().chars().take(TEXT_CHARS_MAX).collect(),
            }
        };
        let of_reload = if record.kind == "policy_event" { "reload" } else { "" };
        let first = |one: &Value, other: &Value| Some(text(one)).filter(|text| !text.is_empty()).unwrap_or_else(|| text(other));
        Self {
            at: record.millis(),
            kind: record.kind.clone(),
            event: Some(text(&record.event))
                .filter(|event| !event.is_empty())
                .unwrap_or_else(|| of_reload.to_owned()),
            result: text(&record.result),
            reason: text(&record.reason),
            detail: text(&record.detail),
            portal: text(&record.portal),
            about: first(&record.subject, &record.tenant),
            operator: text(&record.operator),
        }
    }
}

impl Texts {
    pub fn get(&self, Text(at): Text) -> &str {
        self.all.get(at as usize).map_or(OTHERS, |text| text)
    }

    /// The texts that are wanted.
    pub fn chosen(&self, is_wanted: impl Fn(&str) -> bool) -> Chosen {
        Chosen(self.all.iter().map(|text| is_wanted(text)).collect())
    }

    /// The beginning of a text.
    fn place(&mut self, text: &str) -> Text {
        let end = text.char_indices().nth(TEXT_CHARS_MAX);
        match end.and_then(|(end, _)| text.get(..end)) {
            None => self.place_whole(text),
            Some(beginning) => self.place_whole(&format!("{beginning}…")),
        }
    }

    fn place_whole(&mut self, text: &str) -> Text {
        if let Some(known) = self.places.get(text) {
            return *known;
        }
        let next = u32::try_from(self.all.len()).ok().filter(|_| self.all.len() < TEXTS_MAX);
        let Some(next) = next.map(Text) else { return Text(0) };
        let text: Arc<str> = Arc::from(text);
        self.all.push(Arc::clone(&text));
        self.places.insert(text, next);
        next
    }

    fn roles(&mut self, record: &LogRecord<'_>) -> Text {
        let brief = |role: &str| -> String { role.chars().take(TEXT_CHARS_MAX).collect() };
        let roles = record.role_names().into_iter().take(ROLES_MAX).map(brief);
        let roles: Vec<String> = roles.collect();
        self.place_whole(&Value::from(roles).to_string())
    }
}

/// Texts that are wanted.
pub struct Chosen(Vec<bool>);

impl Chosen {
    pub fn has(&self, Text(at): Text) -> bool {
        self.0.get(at as usize).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(index: &mut LogIndex, number: u32) {
        let line = serde_json::json!({
            "kind": "decision",
            "decision_id": Uuid::from_u64_pair(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15), u64::from(number)).to_string(),
            "ts": "2026-01-01T00:00:00Z", "portal": format!("portal{}", number % 3), "roles": ["b", "a"],
            "decision": if number.is_multiple_of(4) { "deny" } else { "allow" }, "reason": "permitted",
        })
        .to_string();
        let record = LogRecord::parse(line.as_bytes()).unwrap();
        index.visit(
            &record,
            RecordLocation {
                file: "log",
                line: u64::from(number),
                offset: u64::from(number) * 300,
            },
        );
    }

    #[test]
    fn a_sample_stands_for_the_whole_log_whichever_worker_saw_it() {
        let mut alone = LogIndex::bounded(1000);
        let mut parts = [LogIndex::bounded(1000), LogIndex::bounded(1000), LogIndex::bounded(1000)];
        for number in 0..20_000 {
            visit(&mut alone, number);
            visit(parts.get_mut(number as usize * 7 % 3).unwrap(), number);
        }
        let [mut joined, second, third] = parts;
        joined.join(second);
        joined.join(third);
        let ids = |index: &mut LogIndex| -> Vec<String> {
            index.sort();
            let texts = index.texts();
            let named = |row: &Row| format!("{} {} {}", row.id, texts.get(row.portal), texts.get(row.roles));
            index.rows().iter().map(named).collect()
        };
        assert!(alone.rows.len() <= 1000 && alone.rows.len() > 200, "{}", alone.rows.len());
        assert_eq!(ids(&mut alone), ids(&mut joined));
        let counted: f64 = alone.rows.iter().map(|row| alone.count(row)).sum();
        assert!((counted - 20_000.0).abs() < 3000.0, "{counted}");
        assert_eq!(alone.texts.get(alone.rows.first().unwrap().roles), r#"["a","b"]"#);
    }

    #[test]
    fn the_youngest_events_are_kept_and_refused_connections_are_not() {
        let mut index = LogIndex::default();
        for minute in 0..3 * EVENTS_MAX {
            let ts = format!(
                "2026-01-{:02}T{:02}:{:02}:00Z",
                1 + minute / 1440,
                minute / 60 % 24,
                minute % 60
            );
            let event = serde_json::json!({"kind": "auth_event", "ts": ts, "event": "revocation", "operator": minute, "detail": "x".repeat(1000)});
            index.visit_event(event.to_string().as_bytes());
            index.visit_event(br#"{"kind":"http_rejected","ts":"2027-01-01T00:00:00Z","reason":"r"}"#);
            assert!(index.events().len() < 2 * EVENTS_MAX);
        }
        index.sort();
        assert_eq!(index.events().len(), EVENTS_MAX);
        let operators: Vec<&str> = index.events().iter().map(|event| &*event.operator).collect();
        assert_eq!((operators.first(), operators.last()), (Some(&"1499"), Some(&"1000")));
        assert!(index.events().iter().all(|event| event.detail.len() == TEXT_CHARS_MAX));
    }

    #[test]
    fn hostile_texts_are_cut_and_bounded() {
        let mut texts = Texts::default();
        texts.place(OTHERS);
        let long = texts.place(&"ä".repeat(1_000_000));
        assert_eq!(texts.get(long).chars().count(), TEXT_CHARS_MAX + 1);
        for number in 0..TEXTS_MAX + 10 {
            texts.place(&number.to_string());
        }
        assert_eq!(texts.all.len(), TEXTS_MAX);
        let beyond = texts.place("another");
        assert_eq!(texts.get(beyond), OTHERS);
    }
}
