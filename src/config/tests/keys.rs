//! The JSON Schema and the documentation of every key.

use serde_json::Value;

use super::*;

#[test]
fn the_published_schema_is_the_generated_one() {
    let published = include_str!("../../../schemas/config.schema.json");
    assert!(
        format!("{:#}\n", json_schema()) == published,
        "run `cedargate config schema > schemas/config.schema.json`"
    );
}

#[test]
fn the_schema_carries_the_bounds_of_durations_and_sizes() {
    let schema = json_schema();
    let key = |section: &str, key: &str| schema["$defs"][section]["properties"][key].clone();
    assert_eq!(key("Policies", "poll")["x-minimum"], "100ms");
    assert_eq!(key("Assertion", "ttl")["x-maximum"], "1h");
    assert_eq!(key("Limits", "header_bytes")["x-minimum"], 8192);
    assert_eq!(key("Limits", "drain_delay").get("x-minimum"), None);
}

#[test]
fn every_key_is_documented() {
    let docs = include_str!("../../../docs/configuration.md");
    for key in schema::keys(&json_schema()) {
        assert!(docs.contains(&format!("`{key}`")), "docs/configuration.md lacks `{key}`");
    }
}

#[test]
fn every_key_has_a_description_in_the_schema() {
    fn visit(value: &Value) {
        let properties = value.get("properties").and_then(Value::as_object);
        for (key, schema) in properties.into_iter().flatten() {
            assert!(
                schema.get("description").is_some() || key == "fixed" || key == "file",
                "{key} lacks a description"
            );
        }
        for below in value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, below)| below)
            .filter(|below| below.is_object())
        {
            visit(below);
        }
    }
    visit(&json_schema());
}
