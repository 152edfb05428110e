//! A recorded decision with its reasons.

use cedargate_policy::decision::recorded::ReplayedCaller;
use serde_json::Value;

use super::{LogRecord, Portals};
use crate::explained::Explained;

impl Portals<'_> {
    /// Explains a record by these portals; `Err` is a message for the user.
    pub(crate) fn explained(&self, record: &LogRecord<'_>) -> Result<Explained, String> {
        let explained = self.explain(record, |query, caller, explanation| {
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
