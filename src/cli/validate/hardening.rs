//! `cedargate validate --hardening`: settings and policies that are valid and weaker than they need be.
//!
//! `rules` names every rule once; `settings` reads the configuration, `files` the rights of the files that it names,
//! `portals` the loaded revisions. A finding never keeps a gate from starting. `--accept RULE` leaves one out, for a
//! reason that the operator knows.

mod files;
mod portals;
pub(crate) mod rules;
mod settings;

use std::fmt::Display;
use std::path::Path;

use serde_json::Value;

use self::rules::Rule;
use crate::cli::report::Finding;
use crate::cli::tree::{PortalLoad, Workbench};
use crate::config::{Loaded, Origin};

/// The findings so far, and the configuration that they are about.
struct Checklist<'a> {
    loaded: &'a Loaded,
    accepted: &'a [String],
    findings: Vec<Finding>,
}

/// Every finding that no `--accept` leaves out: the configuration's in the order of the rules, then each portal's.
pub(crate) fn check(workbench: &Workbench, loads: &[PortalLoad<'_>], accepted: &[String]) -> Result<Vec<Finding>, String> {
    let Some(loaded) = &workbench.loaded else {
        return Err("`--hardening` checks a configuration; name it with `--config`".to_owned());
    };
    let mut checklist = Checklist {
        loaded,
        accepted,
        findings: Vec::new(),
    };
    settings::check(&mut checklist);
    files::check(&mut checklist);
    portals::check(&mut checklist, loads);
    Ok(checklist.findings)
}

impl Checklist<'_> {
    /// A finding about a key of the configuration.
    fn setting(&mut self, rule: Rule, key: &str, message: impl Display) {
        let origin = self.origin(key);
        let file = origin.and_then(Origin::file).map(str::to_owned);
        let line = origin.and_then(Origin::line).and_then(|line| usize::try_from(line).ok());
        self.add(
            rule,
            FindingLocation {
                file,
                line,
                portal: None,
            },
            format!("{key}: {message}"),
        );
    }

    fn add(&mut self, rule: Rule, place: FindingLocation, message: String) {
        if self.accepted.iter().any(|accepted| accepted == rule.id) {
            return;
        }
        self.findings.push(Finding {
            rule: rule.id,
            severity: rule.severity,
            help: Some(rule.help.to_owned()),
            file: place.file,
            line: place.line,
            portal: place.portal,
            ..Finding::configuration(message)
        });
    }

    /// The place of a key, else of the first key below it, else of the first one beside it; `None` for a section of
    /// defaults.
    fn origin(&self, key: &str) -> Option<&Origin> {
        let places = &self.loaded.places;
        let below = |above: &str| {
            let is_below = |place: &str| place.strip_prefix(above).is_some_and(|rest| rest.starts_with(['.', '[']));
            places.iter().find(|(place, _)| is_below(place)).map(|(_, origin)| origin)
        };
        let beside = || key.rsplit_once('.').and_then(|(above, _)| below(above));
        places.get(key).or_else(|| below(key)).or_else(beside)
    }

    /// A value of the effective configuration; null without it.
    fn value(&self, pointer: &str) -> &Value {
        self.loaded.effective.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The folder at which relative paths start.
    fn folder(&self) -> &Path {
        let file = self.loaded.watched.first();
        file.and_then(|file| file.parent()).unwrap_or_else(|| Path::new(""))
    }
}

/// The place of a finding.
#[derive(Default)]
struct FindingLocation {
    file: Option<String>,
    line: Option<usize>,
    portal: Option<String>,
}

/// Visits every scalar of the configuration, with its key.
fn leaves(path: &str, value: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                leaves(&path, below, visit);
            }
        }
        Value::Array(items) => {
            for (n, below) in items.iter().enumerate() {
                leaves(&format!("{path}[{n}]"), below, visit);
            }
        }
        _ => visit(path, value),
    }
}

/// The last name of a key, without an index.
fn last(key: &str) -> &str {
    let name = key.rsplit('.').next().unwrap_or(key);
    name.split('[').next().unwrap_or(name)
}
