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
        Severity::Note => "notice",
    };
    let number = |value: Option<usize>| value.map(|value| value.to_string());
    let properties = [
        ("file", finding.file.clone()),
        ("line", number(finding.line)),
        ("col", number(finding.column)),
        ("endLine", number(finding.end_line)),
        ("endColumn", number(finding.end_column)),
        ("title", Some(finding.rule.to_owned())),
    ];
    let known = properties
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", property(&value?))));
    let help = finding
        .help
        .as_ref()
        .map(|help| format!("\nhelp: {help}"))
        .unwrap_or_default();
    format!(
        "::{level} {}::{}\n",
        known.collect::<Vec<_>>().join(","),
        escaped(&format!("{}{help}", finding.message))
    )
}

/// A raw line break would end the annotation, and a raw `%` would start an escape.
fn escaped(message: &str) -> String {
    message.replace('%', "%25").replace('\n', "%0A").replace('\r', "%0D")
}

/// In a property `:` and `,` end something, too.
fn property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
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
            "::error file=policies/p/a.cedar,line=3,title=validation::50%25 is%0Anot a policy%0Ahelp: add `;`\n\
             ::warning title=configuration::a.b: odd\n"
        );
    }
}
