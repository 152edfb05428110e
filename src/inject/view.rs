//! A node with its field path and its document: reads of a manifest that name object, field and line when they refuse.

use super::tree::{Entry, Node, Shape, YamlDocument};

/// A manifest, or a part of it, that inject does not edit.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{object}: {}{reason}", colon(field))]
pub struct Refusal {
    /// `Deployment/shop`, or the document by its number.
    pub object: String,
    /// Path of the field; empty for the object itself. Such as `spec.template.spec.hostNetwork`.
    pub field: String,
    /// Counted from 1.
    pub line: usize,
    pub reason: String,
    /// Number of the text, from 0.
    pub text: usize,
}

impl Refusal {
    /// A refusal of a text as a whole.
    pub(super) fn of_text(field: impl Into<String>, line: usize, reason: impl Into<String>) -> Self {
        Self {
            object: "the text".to_owned(),
            field: field.into(),
            line,
            reason: reason.into(),
            text: 0,
        }
    }

    pub(super) fn in_text(self, text: usize) -> Self {
        Self { text, ..self }
    }
}

fn colon(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!("{field}: ")
    }
}

/// A node of one object.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub document: &'a YamlDocument,
    pub node: &'a Node,
    pub path: Path<'a>,
}

/// The field path of a view, kept as a chain so that a view costs nothing to make.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    pub object: &'a str,
    steps: [PathStep<'a>; DEPTH_MAX],
    depth: usize,
}

/// The deepest field that inject reads has 12 steps, in a CronJob of a List.
const DEPTH_MAX: usize = 16;

#[derive(Clone, Copy)]
enum PathStep<'a> {
    Key(&'a str),
    Item(usize),
}

impl<'a> Path<'a> {
    pub fn new(object: &'a str) -> Self {
        Self {
            object,
            steps: [PathStep::Item(0); DEPTH_MAX],
            depth: 0,
        }
    }

    fn with(mut self, step: PathStep<'a>) -> Self {
        if let Some(free) = self.steps.get_mut(self.depth) {
            *free = step;
            self.depth += 1;
        }
        self
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for step in self.steps.iter().take(self.depth) {
            match step {
                PathStep::Key(key) if text.is_empty() => text.push_str(key),
                PathStep::Key(key) => {
                    text.push('.');
                    text.push_str(key);
                }
                PathStep::Item(number) => text.push_str(&format!("[{number}]")),
            }
        }
        text
    }
}

impl<'a> View<'a> {
    pub fn refuse(&self, reason: impl Into<String>) -> Refusal {
        Refusal {
            object: self.path.object.to_owned(),
            field: self.path.text(),
            line: self.node.line,
            reason: reason.into(),
            text: 0,
        }
    }

    /// The refusal of a key that is not there.
    pub fn refuse_key(&self, key: &'a str, reason: impl Into<String>) -> Refusal {
        Refusal {
            field: self.path.with(PathStep::Key(key)).text(),
            ..self.refuse(reason)
        }
    }

    /// The entry of that name. A key that is written twice, or hidden in a merge key, is refused.
    pub fn entry(&self, name: &'a str) -> Result<Option<&'a Entry>, Refusal> {
        match &self.node.shape {
            Shape::Map { entries, .. } => {
                let mut found = entries.iter().filter(|entry| entry.name() == Some(name));
                let first = found.next();
                if found.next().is_some() {
                    return Err(self.refuse(format!("has the key `{name}` twice; keep one")));
                }
                if entries.iter().any(|entry| entry.name() == Some("<<")) {
                    return Err(self.refuse("has a merge key (`<<`), whose keys inject cannot edit; write them out"));
                }
                if let Some(entry) = entries
                    .iter()
                    .find(|entry| entry.name().is_none_or(|name| name.contains("{{")))
                {
                    let at = View {
                        node: &entry.key,
                        ..*self
                    };
                    return Err(at.refuse(TEMPLATED));
                }
                Ok(first)
            }
            _ if self.node.is_null() => Ok(None),
            Shape::Alias(_) => Err(self.refuse("is an alias (`*…`), which inject cannot edit; write it out")),
            _ => Err(self.refuse("is not a mapping")),
        }
    }

    /// The value of that key; an absent or null one is `None`. Aliases are followed: this is for reading only.
    pub fn get(&self, name: &'a str) -> Result<Option<Self>, Refusal> {
        let Some(entry) = self.entry(name)? else { return Ok(None) };
        Ok(Some(self.below(&entry.value, PathStep::Key(name))).filter(|view| !view.node.is_null()))
    }

    /// The value of that key, to be edited. An alias, or an anchor that an alias repeats, is refused.
    pub fn open(&self, name: &'a str) -> Result<Option<Self>, Refusal> {
        let Some(entry) = self.entry(name)? else { return Ok(None) };
        let view = Self {
            node: &entry.value,
            path: self.path.with(PathStep::Key(name)),
            ..*self
        };
        view.check_shared()?;
        Ok(Some(view).filter(|view| !view.node.is_null()))
    }

    /// The items of a list.
    pub fn items(&self) -> Result<Vec<Self>, Refusal> {
        match &self.node.shape {
            Shape::List { items, .. } => Ok(items
                .iter()
                .enumerate()
                .map(|(number, item)| self.below(item, PathStep::Item(number)))
                .collect()),
            _ if self.node.is_null() => Ok(Vec::new()),
            _ => Err(self.refuse("is not a list")),
        }
    }

    /// The node itself, or the one that an alias repeats.
    fn below(&self, node: &'a Node, step: PathStep<'a>) -> Self {
        let target = self.document.resolve(node);
        Self {
            node: target,
            path: self.path.with(step),
            ..*self
        }
    }

    /// A scalar's text. A template's braces are refused.
    pub fn text(&self) -> Result<&'a str, Refusal> {
        match self.node.text() {
            Some(text) if text.contains("{{") => Err(self.refuse(TEMPLATED)),
            Some(text) => Ok(text),
            None => Err(self.refuse(if self.node.is_flow() { TEMPLATED } else { "is not a text" })),
        }
    }

    /// The text of a key; `None` if it is absent.
    pub fn get_text(&self, name: &'a str) -> Result<Option<&'a str>, Refusal> {
        self.get(name)?.map(|view| view.text()).transpose()
    }

    /// A node whose edit would change other places, too, is refused.
    pub fn check_shared(&self) -> Result<(), Refusal> {
        if matches!(self.node.shape, Shape::Alias(_)) {
            return Err(self.refuse("is an alias (`*…`), which inject cannot edit; write it out"));
        }
        match self.document.aliased.get(&self.node.anchor) {
            Some(line) => Err(self.refuse(format!(
                "has an anchor (`&…`) that line {line} repeats, so an edit would change both; write it out there"
            ))),
            None => Ok(()),
        }
    }
}

const TEMPLATED: &str = "is a template (`{{ … }}`); render it first, such as with `helm template … | cedargate inject`";
