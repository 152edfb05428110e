//! Files that lost their whole text a moment ago.
//!
//! SECURITY: `cp`, an editor or a deployment truncates a file and writes it in a second step. On a busy machine that
//! step can come long after `CHANGE_QUIET`. The empty file parses, and without its forbids more would be allowed. So an
//! emptied file counts as still being written until it stayed empty for `EMPTIED_QUIET`, and the portal keeps its
//! revision.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cedargate_policy::revision::source::Tree;

/// Time for which a file must stay empty before it counts. Fewer rounds fit into it than `UNSETTLED_MAX`, so that a
/// file that was emptied on purpose is not reported as changing.
const EMPTIED_QUIET: Duration = Duration::from_millis(900);

/// The files that are empty now and were not before, by name, and when that was seen first.
#[derive(Default)]
pub(super) struct Emptied(BTreeMap<String, Instant>);

impl Emptied {
    /// Notes which files of `tree` were emptied since `last`, and makes those that may still be filled differ from
    /// `before`.
    pub fn hold(&mut self, last: Option<&Tree>, before: &mut Tree, tree: &Tree, now: Instant) {
        let is_empty = |tree: &Tree, name: &str| tree.files.get(name).is_some_and(|file| file.bytes.is_empty());
        let had_text = |name: &str| last.is_some_and(|last| last.files.get(name).is_some_and(|file| !file.bytes.is_empty()));
        for name in tree.files.0.keys().filter(|name| is_empty(tree, name) && had_text(name)) {
            self.0.entry(name.clone()).or_insert(now);
        }
        self.0
            .retain(|name, since| is_empty(tree, name) && now.saturating_duration_since(*since) < EMPTIED_QUIET);
        for name in self.0.keys() {
            before.files.0.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use cedargate_policy::revision::source::SourceFile;

    use super::*;

    fn tree(text: &str) -> Tree {
        let mut tree = Tree::default();
        let name = "policies/p/main.cedar".to_owned();
        tree.files.0.insert(name, SourceFile::new(text.as_bytes()));
        tree
    }

    #[test]
    fn an_emptied_file_is_held_until_it_has_text_or_stayed_empty() {
        let (full, empty) = (tree("permit (principal, action, resource);"), tree(""));
        let start = Instant::now();
        let is_held = |emptied: &mut Emptied, last: Option<&Tree>, now: &Tree, after: Duration| {
            let mut before = now.clone();
            emptied.hold(last, &mut before, now, start + after);
            before != *now
        };
        let mut emptied = Emptied::default();
        assert!(is_held(&mut emptied, Some(&full), &empty, Duration::ZERO));
        // the next rounds know the empty file as the last reading
        assert!(is_held(&mut emptied, Some(&empty), &empty, EMPTIED_QUIET / 2));
        assert!(!is_held(&mut emptied, Some(&empty), &full, EMPTIED_QUIET / 2));
        assert!(is_held(&mut emptied, Some(&full), &empty, EMPTIED_QUIET));
        assert!(!is_held(&mut emptied, Some(&empty), &empty, EMPTIED_QUIET * 2));
        // a file that was empty at the start was not emptied
        assert!(!is_held(&mut Emptied::default(), None, &empty, Duration::ZERO));
        assert!(!is_held(&mut Emptied::default(), Some(&empty), &empty, Duration::ZERO));
    }
}
