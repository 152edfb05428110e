//! A decision with its reasons, as people and scripts read it: offline, and over the control socket of a running gate.

pub(crate) mod json;
pub(crate) mod text;

use std::sync::Arc;

use cedargate_policy::decision::explain::{CallerFact, Explanation, anonymous_facts, caller_facts};
use cedargate_policy::decision::recorded::KnownCaller;
use cedargate_policy::decision::{Query, QueryForm};

/// An explained decision, and what it was about.
pub(crate) struct Explained {
    pub explanation: Explanation,
    pub portal: Arc<str>,
    pub revision: Arc<str>,
    /// `GET /portal/customer/orders`; `None` for a query that names action and resource.
    pub request: Option<String>,
    pub facts: Vec<CallerFact>,
}

impl Explained {
    /// `caller`: the caller whom a credential or claims describe.
    pub fn new(query: &Query<'_>, caller: Option<&KnownCaller>, explanation: Explanation) -> Self {
        let facts = match caller {
            Some(known) => caller_facts(query, &known.identity, &known.principal),
            None => anonymous_facts(query),
        };
        Self {
            explanation,
            portal: Arc::from(query.portal.slug.as_str()),
            revision: Arc::clone(&query.revision.id),
            request: match &query.asked {
                QueryForm::Http(http) => Some(format!("{} {}", http.method, http.path.as_str())),
                QueryForm::Named(_) => None,
            },
            facts,
        }
    }
}
