//! The mistakes of a configuration: all at once, each with its key, its origin and the remedy.
//!
//! Messages never repeat a secret: an error at the key of a secret names the value's type only.

use std::fmt;

use serde_json::{Value, json};

use super::tree::Origin;

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}{}{message}", prefix(.origin), key_prefix(.key))]
pub struct ConfigError {
    /// `issuers[0].audiences`; empty: the file as a whole.
    pub key: String,
    pub origin: Option<Origin>,
    pub message: String,
}

/// Every mistake found, in the order of the file where known. Never empty when returned as an error.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConfigErrors(Vec<ConfigError>);

fn prefix(origin: &Option<Origin>) -> String {
    origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default()
}

fn key_prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

impl ConfigErrors {
    pub fn one(key: &str, origin: Option<Origin>, message: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.add(key, origin, message);
        errors
    }

    pub fn add(&mut self, key: &str, origin: Option<Origin>, message: impl Into<String>) {
        let error = ConfigError {
            key: key.to_owned(),
            origin,
            message: message.into(),
        };
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    pub fn sort(&mut self) {
        self.0.sort_by_key(|error| error.origin.as_ref().map(Origin::order));
    }

    /// The errors as a list of `{key, origin, file, line, message}`.
    pub fn to_json(&self) -> Value {
        let one = |error: &ConfigError| {
            let origin = error.origin.as_ref();
            json!({
                "key": error.key,
                "origin": origin.map(ToString::to_string),
                "file": origin.and_then(Origin::file),
                "line": origin.and_then(Origin::line),
                "message": error.message,
            })
        };
        self.0.iter().map(one).collect()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
