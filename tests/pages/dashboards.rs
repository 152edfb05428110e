//! Grafana dashboards: they import into any Grafana, and every query is one that Prometheus parses.
//!
//! The rules are those that a shared dashboard needs: no data source, namespace or deployment written into it, a unit
//! and a description for every panel, no panel over another, rates over the interval that Grafana computes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::promql::mistakes;
use crate::{files, read, report};

const FOLDER: &str = "charts/cedargate/dashboards";
/// Columns of Grafana's grid.
const GRID: u64 = 24;
/// The kinds of panels that need no plugin.
const KINDS: &[&str] = &["row", "stat", "table", "timeseries"];
/// The variable that names the data source.
const SOURCE: &str = "${datasource}";
/// Units of Grafana that the panels use; an unknown name would show as text.
const UNITS: &[&str] = &["bool", "cps", "ops", "percentunit", "reqps", "s", "short", "wps"];

fn dashboards() -> Vec<(String, Value)> {
    let found: Vec<(String, Value)> = files(FOLDER, ".json")
        .into_iter()
        .map(|name| {
            let json = serde_json::from_str(&read(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, json)
        })
        .collect();
    assert!(found.len() >= 3, "{} dashboards", found.len());
    found
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A query as Prometheus gets it: variables of Grafana replaced.
fn filled(query: &str) -> String {
    query
        .replace("$__rate_interval", "5m")
        .replace("$namespace", ".*")
        .replace("$job", ".*")
        .replace("$portal", ".*")
}

#[test]
fn dashboards_have_ids_titles_and_variables_that_are_used() {
    let mut findings = Vec::new();
    let mut uids = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        let uid = text(&dashboard, "uid");
        if !name.ends_with(&format!("/{uid}.json")) || !uids.insert(uid.to_owned()) {
            findings.push(format!("{name}: the uid `{uid}` must be the file's name"));
        }
        for key in ["title", "description"] {
            if text(&dashboard, key).is_empty() {
                findings.push(format!("{name}: has no {key}"));
            }
        }
        if dashboard.get("id").is_some() || dashboard.get("__inputs").is_some() {
            findings.push(format!("{name}: an `id` or `__inputs` of one Grafana; export it without"));
        }
        let queries: String = panels(&dashboard)
            .iter()
            .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
            .map(|target| text(target, "expr"))
            .collect();
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        for variable in variables.iter().map(|variable| text(variable, "name")) {
            if variable != "datasource" && !queries.contains(&format!("${variable}")) {
                findings.push(format!("{name}: no query uses the variable `{variable}`"));
            }
        }
        for variable in ["datasource", "namespace", "job"] {
            if !variables.iter().any(|one| text(one, "name") == variable) {
                findings.push(format!("{name}: has no variable `{variable}`"));
            }
        }
    }
    report(&findings);
}

#[test]
fn every_panel_has_a_title_a_description_a_unit_and_a_place_of_its_own() {
    let mut findings = Vec::new();
    for (name, dashboard) in dashboards() {
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            let place = format!("{name}: panel `{}`", text(panel, "title"));
            let kind = text(panel, "type");
            if !KINDS.contains(&kind) || text(panel, "title").is_empty() || !ids.insert(panel["id"].as_u64()) {
                findings.push(format!("{place}: kind `{kind}`, title or id"));
            }
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    if x >= GRID || !taken.insert((x, y)) {
                        findings.push(format!("{place}: lies over another or over the edge at {x}, {y}"));
                    }
                }
            }
            if kind == "row" {
                continue;
            }
            if text(panel, "description").len() < 10 {
                findings.push(format!("{place}: has no description"));
            }
            if !UNITS.contains(&text(&panel["fieldConfig"]["defaults"], "unit")) {
                findings.push(format!("{place}: its unit is none of {UNITS:?}"));
            }
        }
    }
    findings.dedup();
    report(&findings);
}

#[test]
fn every_query_selects_by_the_variables_and_prometheus_parses_it() {
    let mut findings = Vec::new();
    let mut queries = Vec::new();
    for (name, dashboard) in dashboards() {
        let annotations = dashboard["annotations"]["list"].as_array().unwrap();
        queries.extend(annotations.iter().map(|one| (name.clone(), filled(text(one, "expr")))));
        for panel in panels(&dashboard).iter().filter(|panel| text(panel, "type") != "row") {
            let place = format!("{name}: panel `{}`", text(panel, "title"));
            let targets = panel["targets"].as_array().unwrap();
            if targets.is_empty() {
                findings.push(format!("{place}: has no query"));
            }
            for target in targets {
                let query = text(target, "expr");
                let selectors = query.matches('{').count();
                if query.matches("namespace=~\"$namespace\",job=~\"$job\"").count() != selectors {
                    findings.push(format!("{place}: a selector of `{query}` is not of $namespace and $job"));
                }
                if query.contains("rate(") && query.contains("[5m]") {
                    findings.push(format!("{place}: a rate over a fixed time; write $__rate_interval"));
                }
                queries.push((place.clone(), filled(query)));
            }
        }
    }
    findings.extend(mistakes(&queries));
    assert!(queries.len() > 30, "only {} queries", queries.len());
    report(&findings);
}

#[test]
fn no_data_source_is_written_into_a_dashboard() {
    let mut findings = Vec::new();
    for (name, dashboard) in dashboards() {
        let mut open = vec![&dashboard];
        while let Some(value) = open.pop() {
            match value {
                Value::Array(items) => open.extend(items),
                Value::Object(members) => {
                    if let Some(source) = members.get("datasource")
                        && (source["uid"] != SOURCE || source["type"] != "prometheus")
                    {
                        findings.push(format!("{name}: the data source {source} is not {SOURCE}"));
                    }
                    open.extend(members.values());
                }
                _ => {}
            }
        }
    }
    report(&findings);
}
