//! The page with its data in one file: what the calls of a visit would have answered.

use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use super::desk::Desk;
use crate::base::files::replace_file;
use crate::workbench::{Call, Datum, Refused, standalone};

/// Policies and cases of a portal whose texts and explanations are in the file; a page about more says so.
const EXPLAINED_MAX: usize = 500;
const NEW_MODE: u32 = 0o644;

/// Writes `index.html` into the folder; returns a text for the user.
pub(super) fn write(desk: &Desk, folder: &Path) -> Result<String, String> {
    let data = data(desk).map_err(|refused| refused.message)?;
    let html = standalone("#/overview", &data);
    let path = folder.join("index.html");
    let fail = |error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
    std::fs::create_dir_all(folder).map_err(fail)?;
    replace_file(&path, html.as_bytes(), NEW_MODE).map_err(fail)?;
    Ok(format!("{}\n", path.display()))
}

fn data(desk: &Desk) -> Result<Vec<Datum>, Refused> {
    let mut data = Vec::new();
    let mut add = |name: &str, parameters: &[(&str, &str)]| -> Result<Bytes, Refused> {
        let json = desk.answer(&Call::reading(name, parameters))?;
        data.push(Datum::new(name, parameters, json.clone()));
        Ok(json)
    };
    let tree = read(&add("tree", &[])?);
    for name in ["findings", "tests", "changes"] {
        add(name, &[])?;
    }
    for portal in list(&tree, "portals") {
        // a portal that does not load has no more than its errors
        let Some(slug) = portal
            .get("portal")
            .and_then(Value::as_str)
            .filter(|_| !portal["revision"].is_null())
        else {
            continue;
        };
        add("matrix", &[("portal", slug)])?;
        add("facts", &[("portal", slug)])?;
        let policies = read(&add("policies", &[("portal", slug)])?);
        for policy in list(&policies, "policies").iter().take(EXPLAINED_MAX) {
            if let Some(id) = policy.get("id").and_then(Value::as_str) {
                add("policy", &[("portal", slug), ("id", id)])?;
            }
        }
        let cases = read(&add("cases", &[("portal", slug)])?);
        for number in 0..list(&cases, "cases").len().min(EXPLAINED_MAX) {
            add("case", &[("portal", slug), ("number", &number.to_string())])?;
        }
    }
    Ok(data)
}

fn read(json: &Bytes) -> Value {
    serde_json::from_slice(json).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}
