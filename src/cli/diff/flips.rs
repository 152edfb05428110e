//! Decisions that are not the same on both sides, over the decision tests of both.

use std::collections::HashSet;

use cedargate_policy::decision_tests::{CaseResult, DecisionTests, Options, Subject};
use cedargate_policy::denial::Denial;

use super::sides::LoadedPortal;

/// A question that the two sides answer differently.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Flip {
    /// The name of the case.
    pub case: String,
    pub file: String,
    pub line: Option<usize>,
    pub old: SideAnswer,
    pub new: SideAnswer,
}

/// The answer of one side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum SideAnswer {
    Allow {
        policies: Vec<String>,
    },
    Deny {
        reason: &'static str,
        policies: Vec<String>,
    },
    /// The case has no meaning on this side, with the reason: it names what this side does not have.
    Unasked(String),
}

/// The direction of a change; the order is that of a report.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Direction {
    /// DENY → ALLOW.
    Widens,
    /// ALLOW → DENY.
    Narrows,
}

/// The decisions over the tests of both sides.
#[derive(Default)]
pub(super) struct TestFlips {
    pub cases: usize,
    /// Widening first.
    pub flips: Vec<Flip>,
    /// Test files that cannot be read as such.
    pub problems: Vec<String>,
}

impl SideAnswer {
    fn of(result: &CaseResult) -> Self {
        let policies = result.deciding.iter().map(ToString::to_string).collect();
        match &result.answer {
            Ok(None) => Self::Allow { policies },
            Ok(Some(denial)) => Self::Deny {
                reason: Denial::code(*denial),
                policies,
            },
            Err(why) => Self::Unasked(why.clone()),
        }
    }

    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    pub fn word(&self) -> &'static str {
        if self.is_allow() { "ALLOW" } else { "DENY" }
    }

    /// The reason, with the policies that decided.
    pub fn reason(&self) -> String {
        let with = |word: &str, policies: &[String]| match policies {
            [] => word.to_owned(),
            policies => format!("{word}: {}", policies.join(", ")),
        };
        match self {
            Self::Allow { policies } => with("permitted", policies),
            Self::Deny { reason, policies } => with(reason, policies),
            Self::Unasked(why) => format!("cannot be asked: {why}"),
        }
    }
}

impl Flip {
    pub fn direction(&self) -> Direction {
        // the gate denies what has no meaning
        if self.new.is_allow() {
            Direction::Widens
        } else {
            Direction::Narrows
        }
    }
}

/// Asks every case of both sides of both sides; a case that both have counts once.
pub(super) fn of_tests(old: &LoadedPortal, new: &LoadedPortal) -> TestFlips {
    let mut asked = TestFlips::default();
    let before = old.files();
    let after = new.files();
    let mut seen = HashSet::new();
    for files in [&after, &before] {
        let tests = DecisionTests::read(&new.scope.slug, files);
        let run = |portal: &LoadedPortal| {
            let subject = Subject {
                portal: &portal.scope,
                revision: &portal.revision,
            };
            tests.run(0..tests.len(), &subject, &Options::default())
        };
        asked.problems.extend(tests.problems.iter().map(ToString::to_string));
        let old = run(old);
        let new = run(new);
        for (old, new) in old.iter().zip(&new) {
            let flip = Flip {
                case: new.name.clone(),
                file: new.file.clone(),
                line: new.line,
                old: SideAnswer::of(old),
                new: SideAnswer::of(new),
            };
            if !seen.insert((flip.file.clone(), flip.case.clone(), format!("{:?}{:?}", flip.old, flip.new))) {
                continue;
            }
            asked.cases += 1;
            if flip.old.is_allow() != flip.new.is_allow() {
                asked.flips.push(flip);
            }
        }
    }
    asked.problems.sort();
    asked.problems.dedup();
    asked.flips.sort_by_key(Flip::direction);
    asked
}
