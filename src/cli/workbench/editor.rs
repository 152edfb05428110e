//! The files of the tree: their texts, what an unsaved change would do, and saving, renaming and deleting.
//!
//! A change is checked, tested and compared as a tree of its own, in memory. `save`, `rename` and `delete` alone write:
//! one file in the folders of the tree (`places`), and only if it is still as the page opened it. None of them replaces
//! another file.

use std::path::Path;

use cedargate_policy::digest::sha256_of;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call_context::CallContext;
use super::places;
use crate::base::files::{create_file, move_file};
use crate::cli::new_files::make_parent;
use crate::cli::tree::{FileEdit, Workbench};
use crate::cli::{diff, lint, test};
use crate::workbench::CallRefusal;

/// Rights of a new file.
const NEW_MODE: u32 = 0o644;

/// A change that is not saved: another text, another name, or no file any more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    /// `policies/shop/main.cedar`.
    file: String,
    /// `None`: the file is gone, or has the name `to`.
    text: Option<String>,
    to: Option<String>,
    /// Identity of the file when the page opened it; needed to write. `None` for a new file.
    hash: Option<String>,
}

/// The names of all files.
pub(super) fn list(workbench: &Workbench) -> Value {
    let files = workbench.files().0.iter();
    let files: Vec<Value> = files
        .map(|(name, file)| json!({"file": name, "bytes": file.bytes.len()}))
        .collect();
    json!({ "files": files })
}

/// The text of a file, with its identity.
pub(super) fn open(workbench: &Workbench, name: &str) -> Result<Value, String> {
    let text = workbench.text(name).map_err(|problem| problem.to_string())?;
    Ok(json!({"file": name, "hash": hash(&text), "text": text}))
}

/// A change → the findings of `lint` on the tree with it; among them are the errors of loading.
pub(super) fn check(context: &CallContext, workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let edited = Draft::read(body)?.applied(context, workbench)?;
    Ok(json!({ "findings": lint::findings(&edited) }))
}

/// A change → the decision tests by the tree with it, and its difference to the files.
pub(super) fn compare(context: &CallContext, workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let draft = Draft::read(body)?;
    let edited = draft.applied(context, workbench)?;
    let tests = failed(&test::covered(context.tree.clone(), &edited)?);
    let changes = diff::of_edit(Draft::unapplied(context, workbench)?, edited, None)?;
    Ok(json!({"tests": tests, "changes": changes}))
}

/// A change → the difference with a proof, or a request that it newly allows.
pub(super) fn prove(context: &CallContext, workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let draft = Draft::read(body)?;
    let edited = draft.applied(context, workbench)?;
    diff::of_edit(Draft::unapplied(context, workbench)?, edited, Some(diff::PROVE_TIMEOUT))
}

/// `{file, text, hash}` → writes the file, or makes it if there is no `hash`, and answers with the tests of the new
/// tree.
pub(super) fn save(context: &CallContext, workbench: &Workbench, body: &Value) -> Result<Value, CallRefusal> {
    let draft = Draft::read(body)?;
    let given = draft.text.as_ref().filter(|_| draft.to.is_none());
    let text = given.ok_or_else(|| CallRefusal::invalid("give the text to save"))?;
    if draft.hash.is_none() && workbench.files().get(&draft.file).is_none() {
        let path = places::new(workbench, &draft.file)?;
        make_parent(&path)?;
        create_file(&path, text.as_bytes(), NEW_MODE).map_err(|error| cannot("make", &path, &error))?;
    } else {
        draft.check_hash(workbench)?;
        places::known(workbench, &draft.file)?;
        workbench.rewrite(&draft.file, text)?;
    }
    Ok(json!({"hash": hash(text), "tests": tests_now(context)}))
}

/// `{file, hash, to}` → renames the file, and answers with the tests of the new tree.
pub(super) fn rename(context: &CallContext, workbench: &Workbench, body: &Value) -> Result<Value, CallRefusal> {
    let draft = Draft::read(body)?;
    let new_name = draft.to.as_ref().filter(|_| draft.text.is_none());
    let to = new_name.ok_or_else(|| CallRefusal::invalid("give the new name"))?;
    draft.check_hash(workbench)?;
    let old = places::known_file(workbench, &draft.file)?;
    let new = places::new(workbench, to)?;
    workbench.unchanged(&draft.file)?;
    make_parent(&new)?;
    move_file(&old, &new).map_err(|error| cannot("rename", &old, &error))?;
    Ok(json!({"tests": tests_now(context)}))
}

/// `{file, hash}` → deletes the file, and answers with the tests of the new tree.
pub(super) fn delete(context: &CallContext, workbench: &Workbench, body: &Value) -> Result<Value, CallRefusal> {
    let draft = Draft::read(body)?;
    if draft.text.is_some() || draft.to.is_some() {
        return Err(CallRefusal::invalid(
            "a file is deleted without a text and without another name",
        ));
    }
    draft.check_hash(workbench)?;
    let path = places::known_file(workbench, &draft.file)?;
    workbench.unchanged(&draft.file)?;
    std::fs::remove_file(&path).map_err(|error| cannot("delete", &path, &error))?;
    Ok(json!({"tests": tests_now(context)}))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} `{}`: {error}", path.display())
}

/// Reads the tree again, and runs its tests.
fn tests_now(context: &CallContext) -> Value {
    context.read();
    let tests = context
        .snapshot()
        .and_then(|snapshot| Ok(test::covered(context.tree.clone(), &snapshot.workbench)?));
    tests.map_or_else(|refused| json!({"error": refused.message}), |report| failed(&report))
}

/// The cases that fail, and the number of all.
fn failed(report: &Value) -> Value {
    let portals = report.get("portals").and_then(Value::as_array).into_iter().flatten();
    let mut count = 0usize;
    let mut failed = Vec::new();
    for portal in portals {
        for case in portal.get("cases").and_then(Value::as_array).into_iter().flatten() {
            count += 1;
            if case.get("verdict").and_then(Value::as_str) == Some("failed") {
                let mut case = case.clone();
                if let (Some(case), Some(slug)) = (case.as_object_mut(), portal.get("portal")) {
                    case.insert("portal".to_owned(), slug.clone());
                }
                failed.push(case);
            }
        }
    }
    json!({"cases": count, "failed": failed})
}

impl Draft {
    fn read(body: &Value) -> Result<Self, String> {
        Self::deserialize(body).map_err(|error| format!("the draft is malformed: {error}"))
    }

    /// Fails if the file is not the one that the page opened.
    fn check_hash(&self, workbench: &Workbench) -> Result<(), CallRefusal> {
        let known = workbench.text(&self.file).map_err(|problem| problem.to_string())?;
        if self.hash.as_deref() == Some(&hash(&known)) {
            return Ok(());
        }
        Err(CallRefusal {
            status: StatusCode::CONFLICT,
            message: format!(
                "`{}` changed on disk after the page opened it; nothing was written",
                self.file
            ),
        })
    }

    /// The tree with the change.
    fn applied(&self, context: &CallContext, workbench: &Workbench) -> Result<Workbench, String> {
        let name = self.file.as_str();
        let Some(text) = &self.text else {
            let moved = workbench.text(name).map_err(|problem| problem.to_string())?;
            let gone = FileEdit { name, text: None };
            let Some(to) = &self.to else {
                return workbench.edited(&context.config, &[gone]);
            };
            places::new(workbench, to)?;
            let there = FileEdit {
                name: to,
                text: Some(&moved),
            };
            return workbench.edited(&context.config, &[gone, there]);
        };
        if workbench.files().get(name).is_none() {
            places::new(workbench, name)?;
        }
        workbench.edited(&context.config, &[FileEdit { name, text: Some(text) }])
    }

    /// The tree as it was read.
    fn unapplied(context: &CallContext, workbench: &Workbench) -> Result<Workbench, String> {
        workbench.edited(&context.config, &[])
    }
}

fn hash(text: &str) -> String {
    hex::encode(sha256_of([text.as_bytes()]))
}
