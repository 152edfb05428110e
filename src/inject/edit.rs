//! Edits of a text at bytes that the parser named: appended items and entries, replaced scalars, and the way back.
//!
//! Additions to block YAML are whole lines. Their removal takes whole lines, so that the text is again what it was,
//! byte for byte. Additions to flow YAML and JSON stand directly after what was there last, and their removal reaches
//! back to it.

use super::tree::{Entry, Node, Shape};
use super::value::{Layout, Value};

/// One change of the text.
#[derive(Debug)]
pub(super) struct Edit {
    start: usize,
    end: usize,
    text: String,
    /// Of additions at the same byte the deeper one comes first.
    column: usize,
}

/// Edits of one text.
pub(super) struct Editor<'a> {
    text: &'a str,
    line_end: &'static str,
    edits: Vec<Edit>,
}

/// The reason why a place cannot be edited.
pub(super) type EditError = &'static str;

const NOT_A_LIST: EditError = "is not a list; write it as one";
const NOT_A_MAP: EditError = "is not a mapping; write it as one";
const DASH_ALONE: EditError = "cannot be edited; write `- ` directly before the first key of each item";
const MOVED: EditError = "is not laid out as inject wrote it; take the sidecar out by hand";

impl<'a> Editor<'a> {
    pub fn new(text: &'a str) -> Self {
        let first = text.find('\n').and_then(|at| text.get(..at));
        Self {
            text,
            line_end: if first.is_some_and(|line| line.ends_with('\r')) {
                "\r\n"
            } else {
                "\n"
            },
            edits: Vec::new(),
        }
    }

    /// The text with every edit made.
    pub fn finish(mut self) -> String {
        self.edits.sort_by(|a, b| a.start.cmp(&b.start).then(b.column.cmp(&a.column)));
        let mut out = String::with_capacity(self.text.len() + self.edits.iter().map(|edit| edit.text.len()).sum::<usize>());
        let mut at = 0;
        for edit in &self.edits {
            out.push_str(self.slice(at, edit.start));
            out.push_str(&edit.text);
            at = at.max(edit.end);
        }
        out.push_str(self.slice(at, self.text.len()));
        out
    }

    /// The bytes of the text; empty if `start` is not before `end`.
    fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    pub fn source(&self, node: &Node) -> &'a str {
        self.slice(node.start, node.end)
    }

    pub fn replace(&mut self, node: &Node, text: impl Into<String>) {
        self.edits.push(Edit {
            start: node.start,
            end: node.end,
            text: text.into(),
            column: 0,
        });
    }

    /// Adds items at the end of the list that is the value of `entry`.
    pub fn append_items(&mut self, entry: &Entry, values: &[Value]) -> Result<(), EditError> {
        let list = &entry.value;
        match &list.shape {
            Shape::List { is_flow: true, items } => {
                let texts: Vec<String> = values
                    .iter()
                    .map(|value| self.flow_text(list, items.first(), value))
                    .collect();
                self.append_flow(list, items.last().map(|item| item.end), items.first(), &texts);
            }
            Shape::List { items, .. } => {
                let first = items.first().ok_or(NOT_A_LIST)?;
                let column = self.dash_column(first).ok_or(DASH_ALONE)?;
                self.append_lines(list.end, column, column + 1, &Value::List(values.to_vec()));
            }
            _ if list.is_absent() => {
                let column = self.column(entry.key.start);
                self.append_lines(entry.end(), column + 2, column + 1, &Value::List(values.to_vec()));
            }
            _ if list.is_null() => self.replace(list, Value::List(values.to_vec()).flow()),
            _ => return Err(NOT_A_LIST),
        }
        Ok(())
    }

    /// Adds entries at the end of the mapping that is the value of `entry`.
    pub fn append_entries(&mut self, entry: &Entry, added: Vec<(String, Value)>) -> Result<(), EditError> {
        if entry.value.is_absent() {
            let column = self.column(entry.key.start);
            self.append_lines(entry.end(), column + 2, column + 1, &Value::Map(added));
            return Ok(());
        }
        if entry.value.is_null() {
            self.replace(&entry.value, Value::Map(added).flow());
            return Ok(());
        }
        self.append_to_map(&entry.value, added)
    }

    /// Adds entries at the end of a mapping.
    pub fn append_to_map(&mut self, map: &Node, added: Vec<(String, Value)>) -> Result<(), EditError> {
        match &map.shape {
            Shape::Map { is_flow: true, entries } => {
                let first = entries.first().map(|entry| &entry.key);
                let texts: Vec<String> = added
                    .iter()
                    .map(|(key, value)| {
                        let key = Value::text(key.clone()).flow();
                        format!("{key}: {}", self.flow_text(map, first, value))
                    })
                    .collect();
                self.append_flow(map, entries.last().map(Entry::end), first, &texts);
                Ok(())
            }
            Shape::Map { entries, .. } => {
                let first = entries.first().ok_or(NOT_A_MAP)?;
                let column = self.column(first.key.start);
                self.append_lines(map.end, column, column, &Value::Map(added));
                Ok(())
            }
            _ => Err(NOT_A_MAP),
        }
    }

    /// Puts an entry before the first one of a mapping. `value` is a scalar of flow YAML.
    pub fn prepend_entry(&mut self, map: &Node, key: &str, value: &str) -> Result<(), EditError> {
        let first = map.entries().first().ok_or(NOT_A_MAP)?;
        let start = first.key.start;
        let text = if !map.is_flow() {
            let column = self.column(start);
            format!("{key}: {value}{}{}", self.line_end, " ".repeat(column))
        } else if self.source(&first.key).starts_with('"') {
            format!("\"{key}\": {value}, ")
        } else {
            format!("{key}: {value}, ")
        };
        self.edits.push(Edit {
            start,
            end: start,
            text,
            column: 0,
        });
        Ok(())
    }

    /// Takes the first entry of a mapping out, which `prepend_entry` put there.
    pub fn remove_first_entry(&mut self, map: &Node, name: &str) -> Result<(), EditError> {
        let [first, second, ..] = map.entries() else {
            return Err(MOVED);
        };
        if first.name() != Some(name) {
            return Err(MOVED);
        }
        self.remove(first.key.start, second.key.start);
        Ok(())
    }

    /// Takes items out of a list. Those of a flow list must be next to each other.
    pub fn remove_items(&mut self, list: &Node, is_ours: &dyn Fn(&Node) -> bool) -> Result<(), EditError> {
        let items = list.items();
        let nodes: Vec<CollectionPart<'_>> = items.iter().map(CollectionPart::Item).collect();
        self.remove_parts(
            list,
            &nodes,
            &|part| matches!(part, CollectionPart::Item(item) if is_ours(item)),
        )
    }

    /// Takes an entry out of a mapping.
    pub fn remove_entry(&mut self, map: &Node, name: &str) -> Result<(), EditError> {
        let nodes: Vec<CollectionPart<'_>> = map.entries().iter().map(CollectionPart::Entry).collect();
        self.remove_parts(
            map,
            &nodes,
            &|part| matches!(part, CollectionPart::Entry(entry) if entry.name() == Some(name)),
        )
    }

    fn remove_parts(
        &mut self,
        whole: &Node,
        parts: &[CollectionPart<'_>],
        is_ours: &dyn Fn(&CollectionPart<'_>) -> bool,
    ) -> Result<(), EditError> {
        if !whole.is_flow() {
            for part in parts.iter().filter(|part| is_ours(part)) {
                self.remove_lines(part)?;
            }
            return Ok(());
        }
        // the end of the last part that stays, and of the part before
        let mut stays = None;
        let mut previous = whole.start + 1;
        for (n, part) in parts.iter().enumerate() {
            let between = self.slice(previous, part.start()).trim();
            if n > 0 && between != "," && is_ours(part) {
                return Err(MOVED);
            }
            previous = part.end();
            match (is_ours(part), stays) {
                (false, _) => stays = Some(part.end()),
                (true, Some(stays)) => self.remove(stays, part.end()),
                // our parts come first: up to the next one that stays, or all of them
                (true, None) => match parts.iter().skip(n).find(|next| !is_ours(next)) {
                    Some(next) => self.remove(part.start(), next.start()),
                    None => self.remove(whole.start + 1, part.end()),
                },
            }
        }
        Ok(())
    }

    /// Takes the lines of a part out. At the end of a text without a last line break, the break before them goes, too.
    fn remove_lines(&mut self, part: &CollectionPart<'_>) -> Result<(), EditError> {
        let start = self.line_start(part.start());
        let before = self.slice(start, part.start());
        let is_own_line = match part {
            CollectionPart::Item(_) => {
                before.trim_start_matches(' ').starts_with('-') && before.trim_matches([' ', '-']).is_empty()
            }
            CollectionPart::Entry(_) => before.trim_start_matches(' ').is_empty(),
        };
        if !is_own_line {
            return Err(MOVED);
        }
        let end = self.next_line(part.end());
        self.remove(start, end);
        Ok(())
    }

    fn remove(&mut self, start: usize, end: usize) {
        self.edits.push(Edit {
            start,
            end,
            text: String::new(),
            column: 0,
        });
    }

    /// After all removals: lines at the end of a text without a last line break leave none behind.
    pub fn join_end(&mut self) {
        if self.text.ends_with('\n') {
            return;
        }
        let mut start = self.text.len();
        while let Some(edit) = self
            .edits
            .iter()
            .find(|edit| edit.end == start && edit.text.is_empty() && edit.start < start)
        {
            start = edit.start;
        }
        let before = self.slice(0, start);
        if start < self.text.len() && self.line_start(start) == start && start > 0 {
            let line_break = if before.ends_with("\r\n") { 2 } else { 1 };
            self.remove(start - line_break, start);
        }
    }

    /// Adds the lines of a value after the line of byte `end`, and after the comments below it that are indented by
    /// `comments_from` or more: they belong to what stands before.
    fn append_lines(&mut self, end: usize, column: usize, comments_from: usize, value: &Value) {
        let mut at = self.next_line(end);
        let mut candidate = at;
        while let Some(line) = self.line_at(candidate) {
            let indent = line.len() - line.trim_start_matches(' ').len();
            let words = line.trim();
            if words.starts_with('#') && indent >= comments_from {
                candidate += line.len();
                at = candidate;
            } else if words.is_empty() && !line.is_empty() {
                candidate += line.len();
            } else {
                break;
            }
        }
        let mut text = String::new();
        let layout = Layout {
            column,
            line_end: self.line_end,
        };
        value.block(&layout, &mut text);
        if !self.slice(0, at).ends_with('\n') {
            text = format!("{}{}", self.line_end, text.trim_end_matches(['\r', '\n']));
        }
        self.edits.push(Edit {
            start: at,
            end: at,
            text,
            column,
        });
    }

    fn append_flow(&mut self, whole: &Node, last: Option<usize>, first: Option<&Node>, texts: &[String]) {
        let separator = format!(",{}", self.flow_space(whole, first));
        let joined = texts.join(&separator);
        let (at, text) = match last {
            Some(last) => (last, format!("{separator}{joined}")),
            None => (whole.start + 1, joined),
        };
        self.edits.push(Edit {
            start: at,
            end: at,
            text,
            column: 0,
        });
    }

    /// The white space between the parts of a flow collection: as before its first part, if that begins a line.
    fn flow_space(&self, whole: &Node, first: Option<&Node>) -> String {
        let before = first.map_or("", |first| self.slice(whole.start + 1, first.start));
        let space = before.rfind(|c: char| !c.is_whitespace()).map_or(before, |_| "");
        match space.rfind('\n') {
            Some(at) => format!("{}{}", self.line_end, space.get(at + 1..).unwrap_or_default()),
            None => " ".to_owned(),
        }
    }

    /// A value of a flow collection: over several lines if its neighbours stand on lines of their own.
    fn flow_text(&self, whole: &Node, first: Option<&Node>, value: &Value) -> String {
        let space = self.flow_space(whole, first);
        let Some(indent) = space.strip_prefix(self.line_end) else {
            return value.flow();
        };
        let outer = self.slice(self.line_start(whole.start), whole.start);
        let outer = outer.get(..outer.len() - outer.trim_start().len()).unwrap_or_default();
        let unit = indent.strip_prefix(outer).filter(|unit| !unit.is_empty()).unwrap_or("  ");
        value.pretty(indent, unit, self.line_end)
    }

    fn line_start(&self, at: usize) -> usize {
        self.slice(0, at).rfind('\n').map_or(0, |line_break| line_break + 1)
    }

    /// The byte after the line break that ends the line of `at`; a content that ends with a line break is at its line's
    /// end.
    fn next_line(&self, at: usize) -> usize {
        if at > 0 && self.slice(at - 1, at) == "\n" {
            return at;
        }
        let rest = self.slice(at, self.text.len());
        rest.find('\n').map_or(self.text.len(), |line_break| at + line_break + 1)
    }

    /// The line that begins at `at`, with its line break; `None` at the end.
    fn line_at(&self, at: usize) -> Option<&'a str> {
        let rest = self.slice(at, self.text.len());
        rest.split_inclusive('\n').next()
    }

    /// Characters before `at` on its line.
    pub fn column(&self, at: usize) -> usize {
        let line = self.slice(self.line_start(at), at);
        // a byte order mark is no column
        line.trim_start_matches('\u{feff}').chars().count()
    }

    /// The column of the dash before an item; `None` if something else stands before it on its line.
    fn dash_column(&self, item: &Node) -> Option<usize> {
        let mut at = item.start;
        loop {
            let start = self.line_start(at);
            let line = self.slice(start, at);
            if let Some(dash) = line.find('-') {
                let is_dash = line.get(..dash).is_some_and(|before| before.trim_matches(' ').is_empty());
                return is_dash.then_some(dash);
            }
            // the dash stands on a line of its own, above
            if start == 0 || !line.trim().is_empty() {
                return None;
            }
            at = start - 1;
        }
    }
}

/// A part of a collection.
enum CollectionPart<'a> {
    Item(&'a Node),
    Entry(&'a Entry),
}

impl CollectionPart<'_> {
    fn start(&self) -> usize {
        match self {
            Self::Item(item) => item.start,
            Self::Entry(entry) => entry.key.start,
        }
    }

    fn end(&self) -> usize {
        match self {
            Self::Item(item) => item.end,
            Self::Entry(entry) => entry.end(),
        }
    }
}
