//! Findings about files that every portal reads: a policy of `_shared/` may be of use to one portal alone.
//!
//! Lint reads one portal at a time. A finding like "nothing defines this role" is true of a shared policy only if it is
//! true in every portal: a rule for one portal's administrators is no mistake because another portal has none.

use std::collections::{BTreeMap, BTreeSet};

use super::{COVERED, LintFinding, NEVER_APPLIES, Rule, UNKNOWN_NAME, UNUSED_SUPPRESSION};
use crate::revision::problem::Problem;

/// Rules that say "of no use here".
const OF_NO_USE: [&Rule; 4] = [&UNKNOWN_NAME, &NEVER_APPLIES, &COVERED, &UNUSED_SUPPRESSION];

/// Leaves out the findings about shared files that do not hold in every portal; each item is one portal. One that does
/// not load has none, so that nothing is said of files that it may need.
pub fn settle(portals: &mut [Vec<LintFinding>]) {
    keep_common(
        portals,
        |finding| OF_NO_USE.contains(&finding.rule),
        |finding| (finding.rule.id, &finding.problem),
    );
}

/// The same for the warnings of loading.
pub fn settle_warnings(portals: &mut [Vec<Problem>]) {
    keep_common(portals, is_impossible, |problem| ("", problem));
}

/// True of Cedar's warning that no request can satisfy a policy.
pub(super) fn is_impossible(warning: &Problem) -> bool {
    warning.message.contains("impossible")
}

fn keep_common<T>(portals: &mut [Vec<T>], is_of_no_use: impl Fn(&T) -> bool, at: impl Fn(&T) -> (&'static str, &Problem)) {
    let is_shared = |item: &T| at(item).1.file.starts_with("policies/_shared/") && is_of_no_use(item);
    let place = |item: &T| {
        let (rule, problem) = at(item);
        (rule, problem.file.clone(), problem.line, problem.column)
    };
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for portal in portals.iter() {
        let places: BTreeSet<_> = portal.iter().filter(|item| is_shared(item)).map(place).collect();
        for place in places {
            *counts.entry(place).or_default() += 1;
        }
    }
    let all = portals.len();
    for portal in portals {
        portal.retain(|item| !is_shared(item) || counts.get(&place(item)) == Some(&all));
    }
}
