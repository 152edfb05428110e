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
    let place = finding.file.as_ref().map(|file| {
        let region = finding.line.map(|line| {
            known([
                ("startLine", Some(json!(line))),
                ("startColumn", finding.column.map(|column| json!(column))),
                ("endLine", finding.end_line.map(|line| json!(line))),
                ("endColumn", finding.end_column.map(|column| json!(column))),
            ])
        });
        known([("artifactLocation", Some(json!({"uri": file}))), ("region", region)])
    });
    let properties = known([
        ("portal", finding.portal.as_ref().map(|portal| json!(portal))),
        ("policy", finding.policy.as_ref().map(|policy| json!(policy))),
    ]);
    known([
        ("ruleId", Some(json!(finding.rule))),
        ("level", Some(json!(level))),
        ("message", Some(json!({"text": text}))),
        ("locations", place.map(|place| json!([{"physicalLocation": place}]))),
        ("properties", Some(properties).filter(|properties| *properties != json!({}))),
    ])
}

/// An object of the members that have a value.
fn known<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let known = members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(known.collect())
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
