//! Which policies of a query read a fact that is not known.
//!
//! For queries that are made of records: a fact that a record does not hold must not count as absent. Over-estimates: a
//! name counts on whichever value a condition looks it up. Never used on the path of a request.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ContextDependencies, Engine, EntityQuery};

/// A policy whose scope fits, and the unknown name that its conditions read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct UnknownRead {
    pub policy: Arc<str>,
    pub name: String,
}

impl Engine {
    /// The first policy of the query that reads one of these names; `None`: the names cannot change the evaluation.
    pub(crate) fn reader_of(&self, query: &EntityQuery<'_>, names: &BTreeSet<String>) -> Option<UnknownRead> {
        let match_set = self.match_set(query);
        match_set.conditional.iter().find_map(|policy| {
            let reads_all = policy.reads().context == ContextDependencies::Everything;
            let mut read = names.iter().filter(|name| reads_all || policy.mentions().contains(*name));
            let name = read.next()?.clone();
            Some(UnknownRead {
                policy: Arc::clone(&policy.info.id),
                name,
            })
        })
    }
}
