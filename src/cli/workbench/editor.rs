//! The files of the tree: their texts, what an unsaved text would change, and saving.
//!
//! An unsaved text is checked, tested and compared as a tree of its own, in memory. `save` alone writes: one file that the tree
//! has, in the folders of the tree, and only if it is still as the page opened it.

use cedargate_policy::digest::sha256_of;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::Desk;
use crate::cli::tree::Workbench;
use crate::cli::{diff, lint, test};
use crate::workbench::Refused;

/// A text that is not saved.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    /// `policies/shop/main.cedar`.
    file: String,
    text: String,
    /// Identity of the file when the page opened it; needed to save.
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

/// `{file, text}` → the findings of `lint` on the whole tree with this text; among them are the errors of loading.
pub(super) fn check(desk: &Desk, workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let edited = Draft::read(body)?.applied(desk, workbench)?;
    Ok(json!({ "findings": lint::findings(&edited) }))
}

/// `{file, text}` → the decision tests by the tree with this text, and its difference to the files.
pub(super) fn compare(desk: &Desk, workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let draft = Draft::read(body)?;
    let edited = draft.applied(desk, workbench)?;
    let tests = failed(&test::covered(desk.tree.clone(), &edited)?);
    let changes = diff::of_edit(draft.unapplied(desk, workbench)?, edited, None)?;
    Ok(json!({"tests": tests, "changes": changes}))
}

/// `{file, text}` → the difference with a proof, or a request that the text newly allows.
pub(super) fn prove(desk: &Desk, workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let draft = Draft::read(body)?;
    let edited = draft.applied(desk, workbench)?;
    diff::of_edit(draft.unapplied(desk, workbench)?, edited, Some(diff::PROVE_TIMEOUT))
}

/// `{file, text, hash}` → writes the file, and answers with the tests of the new tree.
pub(super) fn save(desk: &Desk, workbench: &Workbench, body: &Value) -> Result<Value, Refused> {
    let draft = Draft::read(body)?;
    let known = workbench.text(&draft.file).map_err(|problem| problem.to_string())?;
    if draft.hash.as_deref() != Some(&hash(&known)) {
        return Err(Refused {
            status: StatusCode::CONFLICT,
            message: format!(
                "`{}` changed on disk after the page opened it; nothing was written",
                draft.file
            ),
        });
    }
    check_place(workbench, &draft.file)?;
    workbench.rewrite(&draft.file, &draft.text)?;
    desk.read();
    let tests = desk
        .snapshot()
        .and_then(|snapshot| Ok(test::covered(desk.tree.clone(), &snapshot.workbench)?));
    Ok(json!({
        "hash": hash(&draft.text),
        "tests": tests.map_or_else(|refused| json!({"error": refused.message}), |report| failed(&report)),
    }))
}

/// SECURITY: a link in the tree may lead anywhere. Fails if the file is not below the tree's own folders.
fn check_place(workbench: &Workbench, name: &str) -> Result<(), String> {
    let path = workbench.path(name)?;
    let fail = |error: std::io::Error| format!("`{}`: {error}", path.display());
    let file = path.canonicalize().map_err(fail)?;
    let folders = workbench
        .folders()
        .into_iter()
        .flat_map(|folders| [&folders.policies, &folders.schemas]);
    let is_inside = folders
        .filter_map(|folder| folder.canonicalize().ok())
        .any(|folder| file.starts_with(folder));
    if is_inside {
        return Ok(());
    }
    Err(format!(
        "`{name}` is a link to `{}`, outside of the policy tree; edit it there",
        file.display()
    ))
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

    /// The tree with the text.
    fn applied(&self, desk: &Desk, workbench: &Workbench) -> Result<Workbench, String> {
        workbench.edited(&desk.config, &self.file, &self.text)
    }

    /// The tree as it was read.
    fn unapplied(&self, desk: &Desk, workbench: &Workbench) -> Result<Workbench, String> {
        let text = workbench.text(&self.file).map_err(|problem| problem.to_string())?;
        workbench.edited(&desk.config, &self.file, &text)
    }
}

fn hash(text: &str) -> String {
    hex::encode(sha256_of([text.as_bytes()]))
}
