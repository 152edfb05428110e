//! Reference pages name what the code has, policies have tests, and controls name theirs.

use std::fs;
use std::path::Path;

use crate::scan::{display, files, quoted, read, report, snake};

#[test]
fn reference_pages_name_every_denial_metric_and_config_key() {
    let mut findings = Vec::new();
    let denials = between(&read("crates/policy/src/denial.rs"), "const fn row(", "pub const fn code");
    let codes: Vec<String> = quoted(&denials).filter(|text| snake(text)).collect();
    assert!(
        codes.len() > 15,
        "the scan of crates/policy/src/denial.rs found only {codes:?}"
    );
    missing("docs/denials.md", &codes, &mut findings);
    let names: Vec<String> = quoted(&between(&read("src/base/metrics.rs"), "pub fn new()", "pub fn render"))
        .filter(|text| snake(text) && text.contains('_') || matches!(text.as_str(), "connections" | "draining"))
        .filter(|text| text != "status_class")
        .map(|name| format!("cedargate_{name}"))
        .collect();
    assert!(names.len() > 15, "the scan of src/base/metrics.rs found only {names:?}");
    missing("docs/metrics.md", &names, &mut findings);
    if Path::new("schemas/config.schema.json").exists() {
        missing(
            "docs/configuration.md",
            &schema_keys(&read("schemas/config.schema.json")),
            &mut findings,
        );
    }
    report(&findings);
}

/// Columns of prose; code, tables and addresses may be longer.
const PROSE_MAX: usize = 120;
/// Two that programs make, and the table of contents, whose links have one line each.
const UNWRAPPED: [&str; 3] = ["docs/cli.md", "docs/performance.md", "docs/SUMMARY.md"];

#[test]
fn prose_wraps_at_120_columns() {
    let mut findings = Vec::new();
    let pages = ["docs", "README.md", "CONTRIBUTING.md", "SECURITY.md"].map(Path::new);
    for file in pages
        .into_iter()
        .flat_map(|page| if page.is_dir() { files(page) } else { vec![page.to_owned()] })
    {
        let name = display(&file);
        if !name.ends_with(".md") || UNWRAPPED.contains(&name.as_str()) {
            continue;
        }
        let mut is_code = false;
        for (number, line) in read(&name).lines().enumerate() {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            let is_prose = !is_code && !is_fence && !line.trim_start().starts_with('|');
            // one long word, an address for example, has no place to break
            if is_prose && line.chars().count() > PROSE_MAX && line.split_whitespace().count() > 2 {
                findings.push(format!("{name}:{}: is longer than {PROSE_MAX} columns", number + 1));
            }
        }
    }
    report(&findings);
}

#[test]
fn every_shipped_policy_is_named_by_a_decision_test() {
    let mut tests = String::new();
    let mut ids = Vec::new();
    for file in files(Path::new("policies")) {
        let (name, text) = (display(&file), fs::read_to_string(&file).unwrap());
        if name.contains("/tests/") || name.ends_with("links.json") {
            tests.push_str(&text);
        } else if name.ends_with(".cedar") {
            let policies = text.matches("permit (").count() + text.matches("forbid (").count();
            let found: Vec<_> = text
                .split("@id(\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .collect();
            assert_eq!(found.len(), policies, "{name}: give every policy an @id");
            ids.extend(found.iter().map(|id| (name.clone(), (*id).to_owned())));
        }
    }
    assert!(ids.len() > 5, "the scan of policies/ found only {ids:?}");
    let words: Vec<&str> = tests
        .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .collect();
    let findings: Vec<String> = ids
        .into_iter()
        .filter(|(_, id)| !words.contains(&id.as_str()))
        .map(|(file, id)| format!("{file}: no decision test names `{id}`; add a case with `because: [{id}]`"))
        .collect();
    report(&findings);
}

/// Every property name of a JSON Schema: a key whose value is an object inside `properties`.
fn schema_keys(schema: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for (at, name) in schema.match_indices("\"properties\":") {
        let block = schema.split_at(at + name.len()).1;
        let mut depth = 0_usize;
        for line in block.lines() {
            let key = line.trim().split_once("\": ").and_then(|(key, _)| key.strip_prefix('"'));
            if let (1, Some(key)) = (depth, key) {
                keys.push(key.to_owned());
            }
            depth = (depth + line.matches('{').count()).saturating_sub(line.matches('}').count());
            if depth == 0 {
                break;
            }
        }
    }
    keys
}

fn missing(page: &str, names: &[String], findings: &mut Vec<String>) {
    let text = read(page);
    let known: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).collect();
    for name in names {
        if !known.contains(&name.as_str()) {
            findings.push(format!("{page}: says nothing of `{name}`; add a row"));
        }
    }
}

fn between(text: &str, start: &str, end: &str) -> String {
    let after = text.split_once(start).unwrap_or_else(|| panic!("no `{start}` to scan")).1;
    after
        .split_once(end)
        .unwrap_or_else(|| panic!("no `{end}` to stop at"))
        .0
        .to_owned()
}

/// The section whose tests are those of the packages, named once above its controls.
const TESTED_AS_A_WHOLE: &str = "Gate → page";

/// Each item of a list is a control or a promise; prose says what is out of scope.
#[test]
fn every_control_of_the_threat_model_names_a_test() {
    let text = fs::read_to_string("docs/threat-model.md").unwrap();
    let sections = text.split("\n## ").filter(|section| !section.starts_with(TESTED_AS_A_WHOLE));
    let items = sections.flat_map(|section| section.split("\n- ").skip(1));
    let items: Vec<&str> = items.map(|item| item.split("\n\n").next().unwrap_or(item)).collect();
    assert!(items.len() > 100, "the threat model has {} controls", items.len());
    let is_test = |word: &str| (word.matches('_').count() > 2 && !word.contains(['.', ' '])) || word.contains("/tests/");
    let untested = items.iter().filter(|item| !item.split('`').skip(1).step_by(2).any(is_test));
    report(
        &untested
            .map(|item| {
                format!(
                    "docs/threat-model.md: names no test: {}",
                    item.lines().next().unwrap_or_default()
                )
            })
            .collect::<Vec<_>>(),
    );
}

/// A control is only as good as the test that the threat model names for it.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = fs::read_to_string("docs/threat-model.md").unwrap();
    let code: String = files(Path::new("tests"))
        .into_iter()
        .chain(files(Path::new("src")))
        .chain(files(Path::new("crates")))
        .filter(|file| file.extension().is_some_and(|e| e == "rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let named = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() > 2 && !word.contains(['.', ' ']));
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 20, "the threat model names {} tests", named.len());
    let missing = named.into_iter().filter(|name| !code.contains(&format!("fn {name}(")));
    report(
        &missing
            .map(|name| format!("docs/threat-model.md: there is no test `{name}`"))
            .collect::<Vec<_>>(),
    );
}
