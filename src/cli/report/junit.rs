//! Decision tests as JUnit XML, for CI servers.

use super::{CaseOutcome, Suite};

/// The XML document. A finding becomes a test case `load` with an error.
pub(crate) fn suites(suites: &[Suite]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for suite in suites {
        let name = escaped(&suite.portal);
        let tests = suite.cases.len();
        let failures = suite.cases.iter().filter(|case| case.has_failed()).count();
        let skipped = suite
            .cases
            .iter()
            .filter(|case| matches!(case.outcome, CaseOutcome::Skipped(_)))
            .count();
        let errors = suite.findings.len();
        let seconds = suite.duration.as_secs_f64();
        xml.push_str(&format!(
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" \
             time=\"{seconds:.3}\">\n"
        ));
        for finding in &suite.findings {
            let message = escaped(&finding.to_string());
            xml.push_str(&format!(
                "    <testcase name=\"load\"><error message=\"{message}\"/></testcase>\n"
            ));
        }
        for case in &suite.cases {
            let outcome = match &case.outcome {
                CaseOutcome::Passed => String::new(),
                CaseOutcome::Failed(difference) => format!("<failure message=\"{}\"/>", escaped(difference)),
                CaseOutcome::Skipped(reason) => format!("<skipped message=\"{}\"/>", escaped(reason)),
            };
            let name = escaped(&case.name);
            let file = escaped(&case.file);
            xml.push_str(&format!(
                "    <testcase name=\"{name}\" classname=\"{file}\">{outcome}</testcase>\n"
            ));
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// The text as an XML attribute; control characters, which XML 1.0 forbids, are left out.
fn escaped(text: &str) -> String {
    let plain: String = text.chars().filter(|c| *c >= ' ').collect();
    plain
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{finding, suite};
    use super::*;

    #[test]
    fn document_holds_findings_cases_and_escaped_text() {
        let suite = Suite {
            findings: vec![finding()],
            ..suite()
        };
        let xml = suites(&[suite]);
        for part in [
            "<testsuite name=\"p\" tests=\"3\" failures=\"1\" errors=\"1\" skipped=\"1\" time=\"1.500\">",
            "<testcase name=\"load\"><error message=\"policies/p/a.cedar:3: 50% isnot a policy (help: add `;`)\"/></testcase>",
            "<testcase name=\"reads\" classname=\"policies/p/tests/t.yaml\"></testcase>",
            "<testcase name=\"writes &lt;x&gt;\" classname=\"policies/p/tests/t.yaml\"><failure message=\"expected deny\"/></testcase>",
            "<skipped message=\"not yet\"/>",
        ] {
            assert!(xml.contains(part), "{part} is not in {xml}");
        }
    }
}
