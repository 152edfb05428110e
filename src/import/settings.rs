//! Reads oauth2-proxy's settings: TOML, command-line flags, or environment variables; `alpha` reads YAML.
//!
//! Names become those of the TOML file. Flags and variables are found line by line, so that a manifest, a Compose file,
//! a unit file or a shell script can be read as it is.

use std::collections::BTreeMap;

use toml_edit::{Document, Item, Value};

use super::options::{self, SettingShape};
use super::{Remarks, Weight};

/// The start of a variable's name.
const VARIABLE: &str = "OAUTH2_PROXY_";

/// One setting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    /// Its name as the text has it.
    pub written: String,
    pub values: Vec<String>,
    /// From 1.
    pub line: Option<usize>,
}

impl Setting {
    pub fn text(&self) -> &str {
        self.values.first().map_or("", |value| value.trim())
    }

    /// The setting's name and line, for comments.
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{} (line {line})", self.written),
            None => self.written.clone(),
        }
    }
}

/// All settings, by the names of the TOML file.
#[derive(Debug, Default)]
pub(crate) struct Settings(pub BTreeMap<String, Setting>);

impl Settings {
    pub fn read(text: &str, remarks: &mut Remarks) -> Result<Self, String> {
        match Document::parse(text) {
            Ok(document) => Ok(Self::from_toml(&document, text, remarks)),
            // SECURITY: the parser's own text quotes the line, which may hold a secret
            Err(error) => match Self::from_lines(text) {
                settings if !settings.is_empty() => Ok(settings),
                _ => {
                    let line = error.span().map_or(1, |span| line_of(text, span.start));
                    Err(format!(
                        "line {line}: neither TOML nor flags nor variables: {}",
                        error.message()
                    ))
                }
            },
        }
    }

    fn from_toml(document: &Document<&str>, text: &str, remarks: &mut Remarks) -> Self {
        let mut settings = Self::default();
        for (key, item) in document.as_table() {
            let span = document.as_table().key(key).and_then(toml_edit::Key::span);
            let line = span.map(|span| line_of(text, span.start));
            let values = match item {
                Item::Value(Value::Array(array)) => array.iter().map(plain).collect(),
                Item::Value(value) => vec![plain(value)],
                Item::None | Item::Table(_) | Item::ArrayOfTables(_) => {
                    let setting = Setting {
                        written: key.to_owned(),
                        line,
                        values: Vec::new(),
                    };
                    remarks.of(Weight::Differs, &setting, "is a table, which oauth2-proxy does not read");
                    continue;
                }
            };
            settings.add(key, values, line);
        }
        settings
    }

    /// Reads flags and variables, line by line.
    pub fn from_lines(text: &str) -> Self {
        let mut settings = Self::default();
        let mut variable: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            let number = Some(number + 1);
            let bare = line.trim();
            if bare.starts_with('#') || bare.starts_with("//") {
                continue;
            }
            // Kubernetes: `- name: OAUTH2_PROXY_X`, then `value: …`
            if let Some(name) = variable.take()
                && let Some(value) = bare.strip_prefix("value:")
            {
                settings.add_variable(&name, unquoted(value), number);
                continue;
            }
            let item = bare.strip_prefix("- ").unwrap_or(bare);
            let name = item.strip_prefix("name:").map(unquoted);
            if let Some(name) = name.as_deref().and_then(|name| name.strip_prefix(VARIABLE)) {
                variable = Some(name.to_owned());
                continue;
            }
            settings.add_words(&words(item), number);
        }
        // flags in front of oauth2-proxy's own are those of the program that starts it
        let is_known = |name: &str| options::shape(name).is_some();
        let first = settings
            .0
            .iter()
            .filter(|(name, _)| is_known(name))
            .filter_map(|(_, setting)| setting.line)
            .min();
        settings
            .0
            .retain(|name, setting| is_known(name) || first.is_some_and(|first| setting.line >= Some(first)));
        settings
    }

    /// The flags and variables among the words of one line.
    fn add_words(&mut self, words: &[String], line: Option<usize>) {
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            if let Some(assigned) = word.strip_prefix(VARIABLE) {
                match assigned.split_once(['=', ':']) {
                    Some((name, "")) if assigned.ends_with(':') => {
                        let value = words.next().cloned().unwrap_or_default();
                        self.add_variable(name, value, line);
                    }
                    Some((name, value)) => self.add_variable(name, value.to_owned(), line),
                    None => {}
                }
                continue;
            }
            let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let Some(flag) = flag.filter(|flag| flag.starts_with(|c: char| c.is_ascii_lowercase())) else {
                continue;
            };
            let name = flag.split('=').next().unwrap_or(flag).replace('-', "_");
            // one dash: an old form of oauth2-proxy's own flags; else a flag of another program
            if !word.starts_with("--") && options::shape(&name).is_none() {
                continue;
            }
            let is_value = |next: &&String| !next.starts_with('-') && !next.starts_with(VARIABLE);
            let value = match flag.split_once('=') {
                Some((_, value)) => value.to_owned(),
                None if options::is_switch(flag) => "true".to_owned(),
                None => words.next_if(is_value).cloned().unwrap_or_default(),
            };
            self.add(&name, vec![value], line);
        }
    }

    fn add_variable(&mut self, name: &str, value: String, line: Option<usize>) {
        let key = self.add(&name.to_ascii_lowercase(), vec![value], line);
        if let Some(setting) = self.0.get_mut(&key) {
            setting.written = format!("{VARIABLE}{name}");
        }
    }

    /// Adds values under the name of the TOML file; returns that name.
    pub fn add(&mut self, written: &str, values: Vec<String>, line: Option<usize>) -> String {
        let (name, shape) = options::canonical(written);
        let is_single = values.len() == 1;
        let values: Vec<String> = match shape {
            // a list as one text: flags and variables separate by commas
            Some(SettingShape::List) if is_single => {
                let items = values.iter().flat_map(|value| value.split(','));
                items
                    .map(|item| item.trim().to_owned())
                    .filter(|item| !item.is_empty())
                    .collect()
            }
            _ => values,
        };
        let setting = self.0.entry(name.clone()).or_insert_with(|| Setting {
            written: written.to_owned(),
            line,
            values: Vec::new(),
        });
        match shape {
            Some(SettingShape::List) => setting.values.extend(values),
            _ => setting.values = values,
        }
        name
    }

    /// Takes the settings of a source that goes before this one.
    pub fn overlay(&mut self, before: Self) {
        self.0.extend(before.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A setting that is not empty.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.0.get(name).filter(|setting| !setting.text().is_empty())
    }

    pub fn list(&self, name: &str) -> &[String] {
        self.get(name).map_or(&[], |setting| &setting.values)
    }

    /// A switch that is on.
    pub fn switch(&self, name: &str) -> Option<&Setting> {
        self.get(name)
            .filter(|setting| ["true", "1", "t"].contains(&setting.text().to_ascii_lowercase().as_str()))
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.value().clone(),
        Value::Integer(number) => number.value().to_string(),
        Value::Float(number) => number.value().to_string(),
        Value::Boolean(on) => on.value().to_string(),
        Value::Datetime(time) => time.value().to_string(),
        Value::Array(_) | Value::InlineTable(_) => String::new(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn unquoted(text: &str) -> String {
    let text = text.trim();
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(text).to_owned()
}

/// Splits a line as a shell does, or a list of quoted items.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut was_quoted = false;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                was_quoted = true;
            }
            (None, c)
                if c.is_whitespace() || (c == ',' && was_quoted) || (c == '[' && word.is_empty()) || (c == ']' && was_quoted) =>
            {
                words.extend((!word.is_empty() || was_quoted).then(|| std::mem::take(&mut word)));
                was_quoted = false;
            }
            (None, c) => word.push(c),
        }
    }
    words.extend((!word.is_empty() || was_quoted).then_some(word));
    words.retain(|word| word != "\\");
    words
}
