//! The order of bundles: sequence numbers only grow, and one number means one tree.

use crate::config::Rollback;

/// A bundle's place in the order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    pub sequence: u64,
    pub tree: String,
}

/// SECURITY: without this check, a server or an attacker on its disk could bring back any older bundle, whose signature
/// is still good.
pub(super) fn check_order(last: Option<&Mark>, next: &Mark, rollback: Rollback) -> Result<(), String> {
    let Some(last) = last.filter(|_| rollback == Rollback::Refused) else {
        return Ok(());
    };
    if next.sequence < last.sequence {
        return Err(format!(
            "its sequence number {} is lower than {}, the last one taken; publish the older policies under a higher number, or set \
             policies.bundle.danger_allow_rollback",
            next.sequence, last.sequence
        ));
    }
    if next.sequence == last.sequence && next.tree != last.tree {
        return Err(format!(
            "its sequence number {} was taken with other content; publish it under a higher number",
            next.sequence
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_never_falls_and_never_means_two_trees() {
        let mark = |sequence, tree: &str| Mark {
            sequence,
            tree: tree.to_owned(),
        };
        let last = mark(5, "a");
        for (next, is_taken) in [
            (mark(4, "a"), false),
            (mark(5, "b"), false),
            (mark(5, "a"), true),
            (mark(6, "a"), true),
            (mark(6, "b"), true),
        ] {
            assert_eq!(
                check_order(Some(&last), &next, Rollback::Refused).is_ok(),
                is_taken,
                "{next:?}"
            );
            assert_eq!(check_order(Some(&last), &next, Rollback::DangerAllowed), Ok(()));
            assert_eq!(check_order(None, &next, Rollback::Refused), Ok(()));
        }
    }
}
