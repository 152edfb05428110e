//! Findings as annotations of GitHub Actions (workflow commands on stdout).

use super::{Finding, Severity};

/// One annotation for each finding.
pub(crate) fn findings(findings: &[Finding]) -> String {
    findings.iter().map(annotation).collect()
}

fn annotation(finding: &Finding) -> String {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let file = finding.file.as_ref().map(|file| format!(" file={file}")).unwrap_or_default();
    let line = finding.line.map(|line| format!(",line={line}")).unwrap_or_default();
    format!("::{level}{file}{line}::{}\n", escaped(&finding.message))
}

/// A raw line break would end the annotation, and a raw `%` would start an escape.
fn escaped(message: &str) -> String {
    message.replace('%', "%25").replace('\n', "%0A").replace('\r', "%0D")
}

#[cfg(test)]
mod tests {
    use super::super::tests::finding;
    use super::*;

    #[test]
    fn annotations_carry_level_place_and_one_line_of_text() {
        let found = [finding(), Finding::configuration("a.b: odd".to_owned())];
        assert_eq!(
            findings(&found),
            "::error file=policies/p/a.cedar,line=3::50%25 is%0Anot a policy\n::warning::a.b: odd\n"
        );
    }
}
