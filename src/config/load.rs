//! Loads the configuration: from file and environment to checked values, with the origin of each value.
//!
//! This file and `secret` are the only parts of the configuration that read files. All mistakes come back together;
//! nothing is half-loaded.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::check::{Checker, SecretFiles};
use super::document::Document;
use super::error::ConfigErrors;
use super::schema::{SchemaCheck, json_schema};
use super::tree::{Node, Origin, Shape, join};
use super::{Config, env};

/// Bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A usable configuration, with its values as text and their origins.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Every key with its value, defaults included, secrets redacted.
    pub effective: Value,
    /// The origin of each value of `effective`: `cedargate.yaml:12`, `environment CEDARGATE_X`, `default`.
    pub origins: BTreeMap<String, String>,
    /// The same as values, for errors that are reported at a key later; defaults have none.
    pub places: BTreeMap<String, Origin>,
    /// Files whose change means the configuration changed: the file itself and the secrets'.
    pub watched: Vec<PathBuf>,
}

/// Reads `path` and the environment over it.
///
/// # Errors
/// Every mistake in both, or that the file cannot be read.
pub fn load(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigErrors> {
    load_file(path, env, SecretFiles::Needed)
}

/// The same for a command that serves nothing: files of secrets may be missing.
///
/// # Errors
/// Every other mistake.
pub fn load_without_secrets(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigErrors> {
    load_file(path, env, SecretFiles::Unread)
}

fn load_file(path: &Path, env: impl Iterator<Item = (String, String)>, secrets: SecretFiles) -> Result<Loaded, ConfigErrors> {
    let text = read(path).map_err(|message| ConfigErrors::one("", None, message))?;
    let source = Source {
        text: &text,
        name: &path.display().to_string(),
        folder: path.parent().unwrap_or_else(|| Path::new("")),
        secrets,
    };
    let mut loaded = source.load(env)?;
    loaded.watched.insert(0, path.to_owned());
    Ok(loaded)
}

/// The same from a text; relative paths start at `folder`.
///
/// # Errors
/// Every mistake in the text and the environment.
pub fn from_str(text: &str, folder: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigErrors> {
    let source = Source {
        text,
        name: "cedargate.yaml",
        folder,
        secrets: SecretFiles::Needed,
    };
    source.load(env)
}

/// A text and how it is read.
struct Source<'a> {
    text: &'a str,
    name: &'a str,
    /// Where relative paths start.
    folder: &'a Path,
    secrets: SecretFiles,
}

/// The effective configuration with the origins of its values; secrets are redacted.
pub fn effective_json(loaded: &Loaded) -> Value {
    json!({ "effective": loaded.effective, "origins": loaded.origins })
}

/// The same for people: one value a line, with its origin.
pub fn effective_lines(loaded: &Loaded) -> String {
    let mut lines = String::new();
    leaves("", &loaded.effective, &mut |path, value| {
        let origin = loaded.origins.get(path).map_or("default", String::as_str);
        lines.push_str(&format!("{path} = {value}  # {origin}\n"));
    });
    lines
}

fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let fail = |error: std::io::Error| format!("cannot read the configuration file `{shown}`: {error}");
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "`{shown}` is larger than {FILE_BYTES_MAX} bytes; is it the right file?"
        ));
    }
    Ok(text)
}

impl Source<'_> {
    fn load(&self, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigErrors> {
        let file: Arc<str> = Arc::from(self.name);
        let place = |line| Origin::File {
            file: Arc::clone(&file),
            line,
        };
        let mut tree = Node::parse(self.text, &place).map_err(|error| {
            let key = error.key.unwrap_or_default();
            ConfigErrors::one(&key, Some(place(error.line)), error.message)
        })?;
        if matches!(tree.shape, Shape::Null) {
            tree.shape = Shape::Map(Vec::new());
        }
        let mut errors = ConfigErrors::default();
        if !matches!(tree.shape, Shape::Map(_)) {
            return Err(ConfigErrors::one(
                "",
                Some(place(1)),
                format!("expected a mapping of keys, got {}", tree.type_name()),
            ));
        }
        let schema = json_schema();
        env::apply(&mut tree, &schema, env, &mut errors);
        let value = SchemaCheck::new(&schema, &mut errors)
            .value("", &tree, &schema)
            .unwrap_or_else(|| json!({}));
        self.checked(&tree, value, errors)
    }

    fn checked(&self, tree: &Node, value: Value, mut errors: ConfigErrors) -> Result<Loaded, ConfigErrors> {
        // `schema` accepts only values that can be read; if a value still cannot be read, the configuration is refused
        let document: Document = match serde_json::from_value(value) {
            Ok(document) => document,
            Err(error) => {
                if errors.is_empty() {
                    errors.add("", None, format!("the configuration cannot be read: {error}"));
                }
                return Err(errors);
            }
        };
        let mut checker = Checker {
            errors: &mut errors,
            tree,
            folder: self.folder,
            secrets: self.secrets,
            secret_files: Vec::new(),
        };
        let config = checker.config(&document);
        let watched = checker.secret_files;
        errors.sort();
        match config {
            Some(config) if errors.is_empty() => {
                let effective = effective(&document, &config);
                let places = places(&effective, tree);
                let origins = origins(&effective, &places);
                Ok(Loaded {
                    config,
                    effective,
                    origins,
                    places,
                    watched,
                })
            }
            _ => {
                if errors.is_empty() {
                    errors.add("", None, "the configuration is incomplete");
                }
                Err(errors)
            }
        }
    }
}

fn effective(document: &Document, config: &Config) -> Value {
    let mut effective = serde_json::to_value(document).unwrap_or(Value::Null);
    if let Some(workers) = effective.pointer_mut("/limits/workers") {
        *workers = json!(config.limits.workers());
    }
    effective
}

fn places(effective: &Value, tree: &Node) -> BTreeMap<String, Origin> {
    let mut places = BTreeMap::new();
    leaves("", effective, &mut |path, _| {
        let origin = tree.at(path).map(|node| node.origin.clone());
        places.extend(origin.map(|origin| (path.to_owned(), origin)));
    });
    places
}

fn origins(effective: &Value, places: &BTreeMap<String, Origin>) -> BTreeMap<String, String> {
    let mut origins = BTreeMap::new();
    leaves("", effective, &mut |path, _| {
        let origin = places.get(path).map_or_else(|| "default".to_owned(), ToString::to_string);
        origins.insert(path.to_owned(), origin);
    });
    origins
}

/// Visits every scalar, and every list or mapping that is empty.
fn leaves(path: &str, value: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, below) in map {
                leaves(&join(path, key), below, visit);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (n, below) in items.iter().enumerate() {
                leaves(&format!("{path}[{n}]"), below, visit);
            }
        }
        _ => visit(path, value),
    }
}
