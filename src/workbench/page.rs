//! The files of the page, in the binary; and the page with its data in one file.
//!
//! The scripts are modules that a person reads one by one. `linked` joins them into one script: a browser loads no
//! module from `file:`, and one file is one request. A module's imports stand at its beginning, one a line; its exports
//! are functions, classes and constants.
//!
//! SECURITY: data enters the exported page in blocks of JSON, which no browser runs, and in which `<` is written as an
//! escape. The page's own policy names the hashes of its script and style, and allows nothing else.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use crate::base::digest::sha256;
use crate::http::pages::Html;

const SHELL: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/workbench.css");
const ICON: &str = include_str!("page/icon.svg");
/// Every module after those that it imports.
const MODULES: &[(&str, &str)] = &[
    ("dom", include_str!("page/dom.js")),
    ("data", include_str!("page/data.js")),
    ("save", include_str!("page/save.js")),
    ("parts", include_str!("page/parts.js")),
    ("overview", include_str!("page/overview.js")),
    ("matrix", include_str!("page/matrix.js")),
    ("explain", include_str!("page/explain.js")),
    ("tests", include_str!("page/tests.js")),
    ("changes", include_str!("page/changes.js")),
    ("pane", include_str!("page/pane.js")),
    ("proof", include_str!("page/proof.js")),
    ("files", include_str!("page/files.js")),
    ("viewer", include_str!("page/viewer.js")),
    ("editor", include_str!("page/editor.js")),
    ("log", include_str!("page/log.js")),
    ("sessions", include_str!("page/sessions.js")),
    ("app", include_str!("page/app.js")),
];
const ASSETS_MARK: &str = "<!--assets-->";
const DATA_MARK: &str = "<!--data-->";

static SCRIPT: LazyLock<String> = LazyLock::new(linked);

/// A file of the page.
pub(super) struct Asset {
    pub kind: &'static str,
    pub bytes: Bytes,
}

/// The answer of a call, for the exported page.
pub(crate) struct Datum {
    /// `matrix?portal=customer`.
    pub call: String,
    /// JSON.
    pub json: Bytes,
}

impl Datum {
    pub fn of(name: &str, parameters: &[(&str, &str)], answer: &Value) -> Self {
        Self::new(name, parameters, answer.to_string().into())
    }

    pub fn new(name: &str, parameters: &[(&str, &str)], json: Bytes) -> Self {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let call = match query.as_str() {
            "" => name.to_owned(),
            query => format!("{name}?{query}"),
        };
        Self { call, json }
    }
}

pub(super) fn asset(path: &str) -> Option<Asset> {
    let fixed = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (kind, bytes) = match path {
        "/" => ("text/html; charset=utf-8", Bytes::from(served())),
        "/workbench.js" => ("text/javascript; charset=utf-8", fixed(SCRIPT.as_str())),
        "/workbench.css" => ("text/css; charset=utf-8", fixed(STYLE)),
        "/icon.svg" | "/favicon.ico" => ("image/svg+xml", fixed(ICON)),
        _ => return None,
    };
    Some(Asset { kind, bytes })
}

fn served() -> String {
    let assets = "<link rel=\"icon\" href=\"/icon.svg\"><link rel=\"stylesheet\" href=\"/workbench.css\">\
                  <script src=\"/workbench.js\" defer></script>";
    SHELL.replace(ASSETS_MARK, assets).replace(DATA_MARK, "")
}

/// The page with its data: one file that needs no server. `first` is where it opens: `#/matrix`.
pub(crate) fn standalone(first: &str, data: &[Datum]) -> String {
    let hash = |text: &str| STANDARD.encode(sha256(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(&SCRIPT),
        hash(STYLE)
    );
    let (head, rest) = SHELL.split_once(ASSETS_MARK).unwrap_or((SHELL, ""));
    let (middle, end) = rest.split_once(DATA_MARK).unwrap_or((rest, ""));
    let mut html = Html::new()
        .raw(head)
        .raw("<meta http-equiv=\"Content-Security-Policy\"")
        .attribute("content", &policy)
        .raw("><style>")
        .raw(STYLE)
        .raw("</style>")
        .raw(middle)
        .raw("<div id=\"data\" hidden")
        .attribute("data-first", first)
        .raw(">")
        .into_string();
    for Datum { call, json } in data {
        let block = Html::new()
            .raw("<script type=\"application/json\"")
            .attribute("data-call", call)
            .raw(">");
        html.push_str(&block.into_string());
        // within JSON, `<` stands in strings alone
        html.push_str(&String::from_utf8_lossy(json).replace('<', "\\u003c"));
        html.push_str("</script>\n");
    }
    let tail = Html::new()
        .raw("</div><script>")
        .raw(SCRIPT.as_str())
        .raw("</script>")
        .raw(end);
    html.push_str(&tail.into_string());
    html
}

/// Each module becomes a constant with its exports.
fn linked() -> String {
    let mut script = String::from("\"use strict\";\n");
    for (name, text) in MODULES {
        let mut exports: Vec<&str> = Vec::new();
        script.push_str(&format!("const ${name} = (() => {{\n"));
        for line in text.lines() {
            if let Some((names, from)) = import(line) {
                script.push_str(&format!("const {names} = ${from};\n"));
                continue;
            }
            let plain = line.strip_prefix("export ");
            exports.extend(plain.and_then(exported));
            script.push_str(plain.unwrap_or(line));
            script.push('\n');
        }
        script.push_str(&format!("return {{ {} }};\n}})();\n", exports.join(", ")));
    }
    script
}

/// `import { a, b } from "./dom.js";` → `{ a, b }` and `dom`.
fn import(line: &str) -> Option<(&str, &str)> {
    let (names, from) = line.strip_prefix("import ")?.split_once(" from \"./")?;
    Some((names, from.strip_suffix(".js\";")?))
}

/// The name that `function a(`, `async function a(`, `class A` or `const A =` gives.
fn exported(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = ["function ", "class ", "const "]
        .iter()
        .find_map(|word| line.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_import_names_an_export_of_a_module_before() {
        let mut known: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, text) in MODULES {
            for line in text.lines().filter(|line| line.starts_with("import")) {
                let (names, from) = import(line).unwrap_or_else(|| panic!("{name}.js: `{line}`"));
                let exports = known
                    .get(from)
                    .unwrap_or_else(|| panic!("{name}.js imports `{from}` before it is there"));
                for import in names.trim_matches(['{', '}', ' ']).split(", ") {
                    assert!(exports.contains(&import), "{name}.js: {from}.js exports no `{import}`");
                }
            }
            let exports = text.lines().filter_map(|line| line.strip_prefix("export "));
            let exports = exports.map(|line| exported(line).unwrap_or_else(|| panic!("{name}.js: `{line}`")));
            known.insert(name, exports.collect());
        }
    }

    #[test]
    fn no_module_makes_markup_of_text() {
        for (name, text) in MODULES {
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "DOMParser",
                "createContextualFragment",
                "javascript:",
                "srcdoc",
                "setTimeout(\"",
            ] {
                assert!(!text.contains(sink), "{name}.js has `{sink}`");
            }
            assert!(!text.contains("</script"), "{name}.js would end its own block");
        }
    }

    #[test]
    fn data_cannot_end_its_block() {
        let hostile = "</script><script>alert(1)</script><!--";
        let data = Datum {
            call: format!("matrix?portal={hostile}\""),
            json: Bytes::from(serde_json::json!({ "a": hostile }).to_string()),
        };
        let html = standalone("#/matrix", &[data]);
        assert_eq!(html.matches("alert(1)").count(), 2);
        assert!(!html.contains("<script>alert"), "{html}");
        assert_eq!(html.matches("<script").count(), 2, "the data and the page's own script");
    }
}
