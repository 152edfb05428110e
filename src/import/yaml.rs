//! Writes YAML line by line, each value with the setting that it came from.

use cedargate_policy::json::quoted;

use super::settings::Setting;

/// Column of the comments, if the line is shorter.
const COMMENT_COLUMN: usize = 56;

#[derive(Debug, Default)]
pub(crate) struct Yaml(String);

impl Yaml {
    pub fn with_head(lines: &[&str]) -> Self {
        Self(lines.iter().map(|line| format!("# {line}\n")).collect())
    }

    pub fn line(&mut self, indent: usize, text: &str) {
        self.0.push_str(&format!("{:indent$}{text}\n", ""));
    }

    /// A line that one setting decided.
    pub fn from(&mut self, indent: usize, text: &str, setting: &Setting) {
        self.explained(indent, text, &setting.place());
    }

    /// A line with a comment.
    pub fn explained(&mut self, indent: usize, text: &str, why: &str) {
        let line = format!("{:indent$}{text}", "");
        self.0.push_str(&format!("{line:COMMENT_COLUMN$} # {why}\n"));
    }

    pub fn text(self) -> String {
        self.0
    }
}

pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}
