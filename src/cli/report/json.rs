//! Reports for scripts.

use serde_json::{Value, json};

use super::{CaseOutcome, Finding, Suite, TestCase};

/// The place and text of a finding, for a list that already names severity and portal.
pub(crate) fn place_and_text(finding: &Finding) -> Value {
    let fields = [
        ("file", finding.file.clone().map(Value::from)),
        ("line", finding.line.map(Value::from)),
        ("column", finding.column.map(Value::from)),
        ("message", Some(Value::from(finding.message.clone()))),
        ("help", finding.help.clone().map(Value::from)),
    ];
    let known = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(known.collect())
}

/// The cases of all suites by portal.
pub(crate) fn suites(suites: &[Suite]) -> Value {
    let portals: Vec<Value> = suites.iter().map(suite).collect();
    json!({ "portals": portals })
}

fn suite(suite: &Suite) -> Value {
    let cases: Vec<Value> = suite.cases.iter().map(case).collect();
    let errors: Vec<String> = suite.findings.iter().map(Finding::to_string).collect();
    json!({"portal": suite.portal, "cases": cases, "uncovered": suite.uncovered, "errors": errors})
}

fn case(case: &TestCase) -> Value {
    let (verdict, detail) = match &case.outcome {
        CaseOutcome::Passed => ("passed", None),
        CaseOutcome::Failed(difference) => ("failed", Some(difference)),
        CaseOutcome::Skipped(reason) => ("skipped", Some(reason)),
    };
    json!({"name": case.name, "file": case.file, "line": case.line, "verdict": verdict, "detail": detail,
        "deciding": case.deciding})
}

/// The text of a JSON report.
pub(crate) fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{finding, suite};
    use super::*;

    #[test]
    fn place_and_text_leaves_out_what_is_unknown() {
        assert_eq!(
            place_and_text(&finding()),
            json!({"file": "policies/p/a.cedar", "line": 3, "message": "50% is\nnot a policy", "help": "add `;`"})
        );
    }

    #[test]
    fn suites_carry_every_case_with_its_verdict() {
        let suite = Suite {
            findings: vec![finding()],
            ..suite()
        };
        let report = suites(&[suite]);
        let portal = &report["portals"][0];
        assert_eq!(
            portal["cases"][1],
            json!({"name": "writes <x>", "file": "policies/p/tests/t.yaml", "line": 7, "verdict": "failed",
                "detail": "expected deny", "deciding": ["all"]})
        );
        assert_eq!(portal["errors"], json!([finding().to_string()]));
        assert_eq!(portal["uncovered"], json!(["never"]));
    }
}
