//! Compares a decision with what a case expects, and reports every difference.

use super::TestOutcome;
use super::file::{Case, Expect};
use crate::decision::Decision;
use crate::denial::Denial;

pub(super) fn judge(case: &Case, decision: &Decision) -> TestOutcome {
    let denial = decision.denial();
    // a forgotten principal must not pass as an expected deny
    if denial == Some(Denial::TokenMissing) && case.reason.as_deref() != Some(Denial::TokenMissing.code()) {
        let message = "needs either `principal` or `claims`; a case without a credential says `reason: token_missing`";
        return TestOutcome::Failed(message.to_owned());
    }
    let reason = denial.map_or("permitted", Denial::code);
    let decided = if denial.is_none() { Expect::Allow } else { Expect::Deny };
    let mut wrong = Vec::new();
    if Some(decided) != case.expect {
        let refusal = decision.unevaluated();
        let detail = refusal.map(|refusal| format!(": {}", refusal.detail)).unwrap_or_default();
        wrong.push(
            format!(
                "decided {decided:?} ({reason}{detail}), expected {:?}",
                case.expect.unwrap_or(Expect::Deny)
            )
            .to_lowercase(),
        );
    }
    let deciding = sorted(decision.policies().iter().map(|policy| &*policy.id));
    let errors = decision.errors().len();
    if let Some(because) = case.because.as_ref().map(|b| sorted(b.iter().map(String::as_str)))
        && because != deciding
    {
        wrong.push(format!(
            "decided by [{}], expected [{}]",
            deciding.join(", "),
            because.join(", ")
        ));
    }
    if case.errors.is_some_and(|expected| expected != errors) {
        wrong.push(format!(
            "{errors} policies failed to evaluate, expected {}",
            case.errors.unwrap_or_default()
        ));
    }
    if let Some(expected) = case.reason.as_ref().filter(|expected| *expected != reason) {
        wrong.push(format!("reason is `{reason}`, expected `{expected}`"));
    }
    if wrong.is_empty() {
        TestOutcome::Passed
    } else {
        TestOutcome::Failed(wrong.join("; "))
    }
}

fn sorted<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<_> = ids.collect();
    all.sort_unstable();
    all
}

/// A misspelled method, action or attribute must not pass as an expected deny: `Err` if the gate answers the case with
/// `denial` before it evaluates a policy, and the case does not say so.
pub(super) fn fail_unasked(case: &Case, decision: &Decision, denial: Denial) -> Result<(), String> {
    match decision.unevaluated() {
        Some(refusal) if refusal.denial == denial && case.reason.as_deref() != Some(denial.code()) => {
            Err(refusal.detail.to_string())
        }
        _ => Ok(()),
    }
}
