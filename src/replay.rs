//! Decision records read back: streamed from logs, and decided again.
//!
//! Commands read logs through `read`, which gives each record to a `Visitor` on every core and in bounded memory.
//! `Portals` decides a record by the revisions of a tree, with the decision function of the gate. A record that cannot
//! be decided again is counted with its reason, and no outcome is guessed for it.

mod decided;
mod explain;
mod find;
mod flips;
mod index;
mod read;
mod record;
mod shadows;
mod usage;

pub use self::decided::{NotReplayed, PortalRevision, Portals};
pub use self::find::{FoundRecords, WantedRecords};
pub use self::flips::{Baseline, Comparison, DecisionChange, Example, FlipGroup, FlipKey, Flips};
pub use self::index::{Chosen, LogEvent, LogIndex, RecordPlace, Row, Shadow, Text};
pub use self::read::{LogReader, ReadProgress, Reading, RecordLocation, Totals, Visitor};
use self::record::MatchedId;
pub use self::record::{EventRecord, LogRecord};
pub use self::shadows::{Disagreements, Selection};
pub use self::usage::{NamedUse, Usage, UsedKind};
