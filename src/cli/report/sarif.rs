//! Findings as SARIF 2.1.0 (OASIS), which code scanning of GitHub, GitLab and Azure reads.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Finding, Severity};

/// The log with one run.
pub(crate) fn findings(findings: &[Finding]) -> Value {
    let rules: BTreeSet<&str> = findings.iter().map(|finding| finding.rule).collect();
    let rules: Vec<Value> = rules.iter().map(|rule| json!({"id": rule})).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "cedargate", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let text = match &finding.help {
        Some(help) => format!("{}\nhelp: {help}", finding.message),
        None => finding.message.clone(),
    };
    let mut result = json!({"ruleId": finding.rule, "level": level, "message": {"text": text}});
    if let Some(file) = &finding.file {
        let mut place = json!({"artifactLocation": {"uri": file}});
        if let Some(line) = finding.line {
            let region = [
                ("startLine", Some(line)),
                ("startColumn", finding.column),
                ("endLine", finding.end_line),
                ("endColumn", finding.end_column),
            ];
            let known = region
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), json!(value?))));
            place["region"] = Value::Object(known.collect());
        }
        result["locations"] = json!([{"physicalLocation": place}]);
    }
    let properties = [("portal", &finding.portal), ("policy", &finding.policy)];
    let known: serde_json::Map<String, Value> = properties
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), json!(value.as_ref()?))))
        .collect();
    if !known.is_empty() {
        result["properties"] = Value::Object(known);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::tests::finding;
    use super::*;

    #[test]
    fn results_carry_rule_level_place_and_help() {
        let log = findings(&[finding(), Finding::configuration("a.b: odd".to_owned())]);
        let run = &log["runs"][0];
        assert_eq!(
            run["tool"]["driver"]["rules"],
            json!([{"id": "configuration"}, {"id": "validation"}])
        );
        assert_eq!(
            run["results"][0],
            json!({"ruleId": "validation", "level": "error", "message": {"text": "50% is\nnot a policy\nhelp: add `;`"},
                "locations": [{"physicalLocation": {"artifactLocation": {"uri": "policies/p/a.cedar"}, "region": {"startLine": 3}}}],
                "properties": {"portal": "p"}})
        );
        assert_eq!(run["results"][1]["locations"], Value::Null);
    }
}
