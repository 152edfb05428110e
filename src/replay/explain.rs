//! A recorded decision with its reasons.

use cedargate_policy::decision::recorded::ReplayedCaller;
use cedargate_policy::decision::{Caller, Query};
use serde_json::Value;

use super::{LogRecord, Portals};
use crate::explained::Explained;

impl Portals<'_> {
    /// Explains a record by these portals; `Err` is a message for the user.
    pub(crate) fn explained(&self, record: &LogRecord<'_>) -> Result<Explained, String> {
        self.explained_seen(record, &mut |_, _| {})
    }

    /// The same; `see` sees the query, and the caller if the revision makes one of the record.
    pub(crate) fn explained_seen(
        &self,
        record: &LogRecord<'_>,
        see: &mut dyn FnMut(&Query<'_>, Caller<'_>),
    ) -> Result<Explained, String> {
        let explained = self.explain(record, |query, caller, explanation| {
            if let Ok(caller) = caller.caller() {
                see(query, caller);
            }
            let known = match caller {
                ReplayedCaller::Known(known) => Some(&**known),
                ReplayedCaller::Anonymous | ReplayedCaller::Refused(_) => None,
            };
            Explained::new(query, known, explanation)
        });
        explained.map_err(|why| format!("decision {}: {why}{}", record.decision_id, refused(record)))
    }
}

/// The check that a refused credential failed.
fn refused(record: &LogRecord<'_>) -> String {
    let Value::Object(refused) = &record.refused else {
        return String::new();
    };
    let fields = ["check", "issuer", "kid", "claim", "detail"].into_iter();
    let fields = fields.filter_map(|name| Some(format!("{name} {}", refused.get(name).filter(|value| !value.is_null())?)));
    format!(" ({})", fields.collect::<Vec<_>>().join(", "))
}
