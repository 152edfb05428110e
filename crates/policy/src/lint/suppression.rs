//! Suppressions: `// lint: allow(<rule>) <reason>` in a policy file, `# lint: allow(<rule>) <reason>` in YAML.
//!
//! A suppression holds for the line that it ends, or for the policy, entry or case that follows the comment. In
//! `portal.yaml` a suppression of a finding without a line may stand anywhere. A suppression without a reason, or of a
//! rule that does not exist, is an error, and silences nothing.

use super::{LintFinding, Linted, RULES, Rule, SUPPRESSION, UNUSED_SUPPRESSION};
use crate::revision::problem::Problem;

const MARK: &str = "lint: allow(";

/// One suppression of a file.
struct Suppression {
    file: String,
    /// From 1.
    line: usize,
    rule: String,
    reason: String,
    /// The lines that it covers: its own, and those of what follows it.
    first: usize,
    last: usize,
    is_used: bool,
}

/// Leaves out what is suppressed, and reports suppressions that are wrong or silence nothing. `not_asked`: rules that
/// this call left out; their suppressions may silence nothing.
pub(super) fn apply(linted: &Linted<'_>, findings: Vec<LintFinding>, not_asked: &[&Rule]) -> Vec<LintFinding> {
    let mut suppressions: Vec<Suppression> = Vec::new();
    for (name, file) in &linted.revision.candidate.files.0 {
        if let Ok(text) = file.text(name) {
            suppressions.extend(suppressions_of(name, text));
        }
    }
    let mut kept = Vec::new();
    for finding in findings {
        let silenced = suppressions
            .iter_mut()
            .find(|suppression| suppression.is_valid() && suppression.silences(&finding));
        match silenced {
            Some(suppression) => suppression.is_used = true,
            None => kept.push(finding),
        }
    }
    let finding = |suppression: &Suppression| {
        let is_asked = !not_asked.iter().any(|rule| rule.id == suppression.rule);
        suppression
            .finding()
            .filter(|finding| is_asked || finding.rule.id != UNUSED_SUPPRESSION.id)
    };
    kept.extend(suppressions.iter().filter_map(finding));
    kept.sort_by(|a, b| {
        let key = |finding: &LintFinding| (finding.problem.file.clone(), finding.problem.line, finding.problem.column);
        key(a).cmp(&key(b))
    });
    kept
}

fn suppressions_of(name: &str, text: &str) -> Vec<Suppression> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once(MARK) else {
            continue;
        };
        let is_comment = before.contains("//") || before.contains('#');
        let Some((rule, reason)) = after.split_once(')').filter(|_| is_comment) else {
            continue;
        };
        let is_alone = before.trim_start().trim_start_matches(['/', '#']).trim().is_empty();
        let last = if is_alone { end_of_next(&lines, at, name) } else { at };
        found.push(Suppression {
            file: name.to_owned(),
            line: at + 1,
            rule: rule.trim().to_owned(),
            reason: reason.trim().to_owned(),
            first: at + 1,
            last: last + 1,
            is_used: false,
        });
    }
    found
}

/// The last line of what follows a comment: a policy ends with `;`, anything else is one line.
fn end_of_next(lines: &[&str], comment: usize, name: &str) -> usize {
    let is_comment =
        |line: &str| line.trim().is_empty() || line.trim_start().starts_with("//") || line.trim_start().starts_with('#');
    let rest = lines.iter().enumerate().skip(comment + 1);
    let Some((start, _)) = rest.clone().find(|(_, line)| !is_comment(line)) else {
        return comment;
    };
    if !name.ends_with(".cedar") {
        return start;
    }
    let mut statement = lines.iter().enumerate().skip(start);
    statement
        .find(|(_, line)| line.split("//").next().unwrap_or_default().trim_end().ends_with(';'))
        .map_or(start, |(at, _)| at)
}

impl Suppression {
    fn is_known(&self) -> bool {
        RULES.iter().any(|rule| rule.id == self.rule)
    }

    fn is_valid(&self) -> bool {
        self.is_known() && !self.reason.is_empty()
    }

    fn silences(&self, finding: &LintFinding) -> bool {
        let problem = &finding.problem;
        let is_near = problem.line.is_none_or(|line| (self.first..=self.last).contains(&line));
        finding.rule.id == self.rule && problem.file == self.file && is_near
    }

    fn finding(&self) -> Option<LintFinding> {
        let problem = |message: String| Problem::new(&self.file, message).at_line(Some(self.line));
        if !self.is_known() {
            let closest = RULES
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a.id, &self.rule).total_cmp(&strsim::jaro_winkler(b.id, &self.rule)));
            let problem = problem(format!("there is no rule `{}`", self.rule));
            let help = format!("did you mean `{}`?", closest.map_or("", |rule| rule.id));
            return Some(LintFinding::new(&SUPPRESSION, problem.with_help(help)));
        }
        if self.reason.is_empty() {
            let problem = problem(format!("allows `{}` without a reason", self.rule));
            return Some(LintFinding::new(&SUPPRESSION, problem.with_help("say why after the bracket")));
        }
        (!self.is_used).then(|| LintFinding::new(&UNUSED_SUPPRESSION, problem(format!("nothing here breaks `{}`", self.rule))))
    }
}
