//! Exactly one record per decision, on every exit path.
//!
//! Beside the path: `AuditGuard` is filled as the request goes and sends its record when it drops, also on a panic or
//! when the client goes away. The path only moves plain values into a bounded queue; one writer thread formats and
//! writes. A full queue drops the record and counts it, or with `on_full: deny` a place is reserved before deciding.
//! Never a token, cookie or secret.

mod mask;
mod record;
mod writer;

pub use record::{
    AdminEvent, AuditRecord, AuthEvent, EntityRef, Event, HttpFacts, HttpRejected, PolicyError, PolicyEvent, Verdict,
};
pub use writer::{AuditError, AuditWriter};

use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::mpsc::{OwnedPermit, Sender, channel};

use crate::base::metrics::Metrics;
use crate::config::{self, OnFull};
use crate::denial::{Denial, Refusal};
use writer::Message;

/// The sending end; cheap to clone, one per worker.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: Sender<Message>,
    on_full: OnFull,
    dropped: IntCounter,
}

/// The right to record one decision, taken before deciding.
#[derive(Debug)]
pub struct Slot(Option<OwnedPermit<Message>>);

/// A decision record that is sent when this drops. `record` starts as a denial with reason `cancelled` and stays one
/// unless the path says otherwise; unwinding from a panic makes an undecided record `panicked`.
#[derive(Debug)]
pub struct AuditGuard {
    pub record: Box<AuditRecord>,
    audit: Audit,
    slot: Slot,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Record,
    Omit,
}

/// Opens the sink and starts the writer thread.
pub fn start(config: &config::Audit, metrics: &Metrics) -> Result<(Audit, AuditWriter), AuditError> {
    let (queue, receiver) = channel(config.queue.as_usize());
    let dropped = metrics.audit_dropped.with_label_values(&[writer::label(&config.sink)]);
    let audit = Audit {
        queue: queue.clone(),
        on_full: config.on_full,
        dropped,
    };
    Ok((audit, AuditWriter::start(config, metrics, queue, receiver)?))
}

impl Audit {
    /// With `on_full: deny`, refuses when no record could be kept; the place stays reserved until the guard drops.
    pub fn admit(&self) -> Result<Slot, Refusal> {
        if self.on_full == OnFull::Drop {
            return Ok(Slot(None));
        }
        match self.queue.clone().try_reserve_owned() {
            Ok(permit) => Ok(Slot(Some(permit))),
            Err(_full_or_closed) => {
                self.dropped.inc();
                Err(Refusal::new(Denial::StoreUnavailable, "the audit queue is full"))
            }
        }
    }

    pub fn guard(&self, slot: Slot, record: AuditRecord) -> AuditGuard {
        AuditGuard {
            record: Box::new(record),
            audit: self.clone(),
            slot,
            fate: Fate::Record,
        }
    }

    /// Everything that is not a decision; dropped and counted when the queue is full.
    pub fn send(&self, event: Event) {
        if self.queue.try_send(Message::Event(event)).is_err() {
            self.dropped.inc();
        }
    }
}

impl AuditGuard {
    /// `audit.allow: none`: an allowed decision is not recorded. Has no effect on anything but an allow.
    pub fn omit_allowed(&mut self) {
        self.fate = Fate::Omit;
    }

    /// Records a refusal: its code, never its private detail.
    pub fn denied(&mut self, denial: Denial) {
        self.record.verdict = Verdict::Denied(denial);
    }

    pub fn permitted(&mut self) {
        self.record.verdict = Verdict::Permitted;
    }
}

impl Drop for AuditGuard {
    fn drop(&mut self) {
        if self.fate == Fate::Omit && self.record.verdict == Verdict::Permitted {
            return;
        }
        if self.record.verdict == Verdict::Cancelled && std::thread::panicking() {
            self.record.verdict = Verdict::Panicked;
        }
        let empty = Box::new(AuditRecord::new(
            self.record.decision_id,
            Arc::clone(&self.record.portal),
            self.record.door,
        ));
        let event = Event::Decision(std::mem::replace(&mut self.record, empty));
        match self.slot.0.take() {
            Some(permit) => drop(permit.send(Message::Event(event))),
            None => self.audit.send(event),
        }
    }
}

#[cfg(test)]
mod tests;
