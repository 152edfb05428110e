//! The page with its data in one file: what the calls of a visit would have answered.
//!
//! The log is in the file only if the user names one; sessions never are.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};

use super::call_context::CallContext;
use super::explain;
use crate::base::files::replace_file;
use crate::cli::logs;
use crate::replay::WantedRecords;
use crate::workbench::{Call, CallRefusal, Datum, standalone};

/// Policies and cases of a portal whose texts and explanations are in the file; a page about more says so.
const EXPLAINED_MAX: usize = 500;
/// Records of the log that are explained.
const RECORDS_EXPLAINED_MAX: usize = 100;
/// Portals whose log is counted by itself.
const LOG_PORTALS_MAX: usize = 20;
/// Records of a view, as the page asks for them.
const RECORDS: &str = "200";
/// Colours of the log's plot; the page asks for the first without naming it.
const COLOURS: [&str; 4] = ["", "portal", "roles", "reason"];
/// Bytes of a file whose text is in the page, and of all texts.
const TEXT_BYTES_MAX: usize = 512 * 1024;
const TEXTS_BYTES_MAX: usize = 8 * 1024 * 1024;
const NEW_MODE: u32 = 0o644;

/// The answers of a visit, as they are collected.
struct Visit<'a> {
    context: &'a CallContext,
    data: Vec<Datum>,
}

/// Writes `index.html` into the folder; returns a text for the user. `compared`: a git revision or a folder; default:
/// the last commit.
pub(super) fn write(context: &CallContext, folder: &Path, compared: Option<&str>) -> Result<String, String> {
    let mut visit = Visit {
        context,
        data: Vec::new(),
    };
    visit.all(compared).map_err(|refused| refused.message)?;
    let html = standalone("#/overview", &visit.data);
    let path = folder.join("index.html");
    let fail = |error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
    std::fs::create_dir_all(folder).map_err(fail)?;
    replace_file(&path, html.as_bytes(), NEW_MODE).map_err(fail)?;
    Ok(format!("{}\n", path.display()))
}

impl Visit<'_> {
    fn add(&mut self, name: &str, parameters: &[(&str, &str)]) -> Result<Value, CallRefusal> {
        let json = self.context.answer(&Call::reading(name, parameters))?;
        let answer = read(&json);
        self.data.push(Datum::new(name, parameters, json));
        Ok(answer)
    }

    fn all(&mut self, compared: Option<&str>) -> Result<(), CallRefusal> {
        let mut tree = read(&self.context.answer(&Call::reading("tree", &[]))?);
        for name in ["findings", "tests"] {
            self.add(name, &[])?;
        }
        for portal in list(&tree, "portals") {
            // a portal that does not load has no more than its errors
            if let Some(slug) = text(portal, "portal").filter(|_| !portal["revision"].is_null()) {
                self.portal(slug)?;
            }
        }
        let old = self.changes(compared)?;
        let is_folder = tree.get("is_folder").and_then(Value::as_bool) == Some(true);
        if is_folder {
            self.files()?;
        }
        if !self.context.logs.is_empty() {
            self.log(&tree)?;
        }
        let pages = list(&tree, "pages").iter().filter_map(Value::as_str);
        let pages: Vec<&str> = pages
            .filter(|page| *page != "sessions" && (*page != "log" || !self.context.logs.is_empty()))
            .collect();
        let pages = json!(pages);
        if let Some(members) = tree.as_object_mut() {
            members.insert("pages".to_owned(), pages);
            members.insert("compared".to_owned(), json!(old));
        }
        self.data.push(Datum::of("tree", &[], &tree));
        Ok(())
    }

    fn portal(&mut self, slug: &str) -> Result<(), CallRefusal> {
        self.add("matrix", &[("portal", slug)])?;
        self.add("facts", &[("portal", slug)])?;
        let policies = self.add("policies", &[("portal", slug)])?;
        for policy in list(&policies, "policies").iter().take(EXPLAINED_MAX) {
            if let Some(id) = text(policy, "id") {
                self.add("policy", &[("portal", slug), ("id", id)])?;
            }
        }
        let cases = self.add("cases", &[("portal", slug)])?;
        for number in 0..list(&cases, "cases").len().min(EXPLAINED_MAX) {
            self.add("case", &[("portal", slug), ("number", &number.to_string())])?;
        }
        Ok(())
    }

    /// The comparison, and the other matrix of each portal that differs. Returns the name of the other tree.
    fn changes(&mut self, compared: Option<&str>) -> Result<Option<String>, CallRefusal> {
        let since: Vec<(&str, &str)> = compared.iter().map(|compared| ("since", *compared)).collect();
        let json = self.context.answer(&Call::reading("changes", &since))?;
        let report = read(&json);
        self.data.push(Datum::new("changes", &[], json));
        let old = text(&report, "old").map(str::to_owned);
        for portal in list(&report, "portals") {
            let differs = ["policies", "files"].iter().any(|part| !list(portal, part).is_empty());
            if let (Some(slug), Some(old), true) = (text(portal, "portal"), &old, differs) {
                // the other tree may not have the portal, or may not load; the page then offers no comparison
                drop(self.add("matrix", &[("portal", slug), ("tree", old)]));
            }
        }
        Ok(old)
    }

    fn files(&mut self) -> Result<(), CallRefusal> {
        let files = self.add("files", &[])?;
        let mut bytes = 0;
        for file in list(&files, "files") {
            let size = file.get("bytes").and_then(Value::as_u64).unwrap_or_default();
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if let (Some(name), true) = (text(file, "file"), size <= TEXT_BYTES_MAX && bytes + size <= TEXTS_BYTES_MAX) {
                bytes += size;
                // a file that is no text is listed alone
                drop(self.add("file", &[("file", name)]));
            }
        }
        Ok(())
    }

    /// The log as a whole and by portal, and the decisions behind the lines of the tables.
    fn log(&mut self, tree: &Value) -> Result<(), CallRefusal> {
        self.context.log.read_now(&self.context.logs)?;
        let portals = list(tree, "portals").iter().filter_map(|portal| text(portal, "portal"));
        let mut ids: Vec<String> = Vec::new();
        for portal in std::iter::once("").chain(portals.take(LOG_PORTALS_MAX)) {
            for by in COLOURS {
                let given = [("portal", portal), ("by", by), ("records", RECORDS)];
                let given: Vec<(&str, &str)> = given.into_iter().filter(|(_, value)| !value.is_empty()).collect();
                let view = self.add("log", &given)?;
                // those of the whole log first
                let new = shown_ids(&view).filter(|id| !ids.contains(id)).take(RECORDS_EXPLAINED_MAX);
                ids.extend(new.collect::<Vec<_>>());
            }
        }
        let ids: BTreeSet<String> = ids.into_iter().take(RECORDS_EXPLAINED_MAX).collect();
        let records = logs::read(&self.context.logs, || WantedRecords::new(&ids))?.visitor.found;
        let snapshot = self.context.snapshot()?;
        for (id, line) in records {
            // a record that this tree cannot ask again has no explanation
            if let Ok(explained) = explain::record(&line, &snapshot.workbench) {
                self.data.push(Datum::of("decision", &[("id", &id)], &explained));
            }
        }
        Ok(())
    }
}

/// The decisions that a view of the log names.
fn shown_ids(view: &Value) -> impl Iterator<Item = String> {
    let groups = view.get("shadow").map(|shadow| list(shadow, "groups")).unwrap_or_default();
    let rows = list(view, "denials").iter().chain(groups).chain(list(view, "records"));
    rows.filter_map(|row| text(row, "id")).map(str::to_owned)
}

fn read(json: &Bytes) -> Value {
    serde_json::from_slice(json).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}
