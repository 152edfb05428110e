//! The decision log: exactly one record for each decision, on every exit path.
//!
//! The gate fills an `AuditGuard` as a request goes on. The guard sends its record when it drops: after the answer, on a panic,
//! or when the client goes away. The path only moves plain values into a bounded queue; one writer thread formats and writes
//! them. A full queue drops the record and counts it; with `on_full: deny` the gate reserves a slot before it decides, and
//! denies without one, or while the sink cannot write. A record never holds a token, cookie or secret.

mod mask;
mod record;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cedargate_policy::denial::{Denial, Refusal};
use prometheus::IntCounter;
use tokio::sync::mpsc::{OwnedPermit, Sender, channel};

use crate::base::metrics::Metrics;
use crate::config::{self, OnFull};
pub use record::{
    AdminEvent, AuditRecord, AuthEvent, EntityRef, Event, HttpFacts, HttpRejected, PolicyError, PolicyEvent, RefusedRecord,
    Verdict,
};
use writer::Message;
pub use writer::{AuditError, AuditWriter, check_file};

/// The sending end of the queue; cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: Sender<Message>,
    on_full: OnFull,
    /// Set by the writer with `on_full: deny`, while it holds records that the sink does not take.
    sink_fails: Arc<AtomicBool>,
    dropped: IntCounter,
}

/// A reserved slot of the queue for one decision record; empty with `on_full: drop`.
#[derive(Debug)]
pub struct Slot(Option<OwnedPermit<Message>>);

/// A decision record that is sent when this drops. `record` starts as a denial with reason `cancelled` and keeps it unless the
/// path sets a verdict. A panic turns a record without a verdict into `panicked`.
#[derive(Debug)]
pub struct AuditGuard {
    pub record: Box<AuditRecord>,
    audit: Audit,
    slot: Slot,
    on_allow: OnAllow,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum OnAllow {
    Record,
    Omit,
}

/// Opens the sink and starts the writer thread.
pub fn start(config: &config::Audit, metrics: &Metrics) -> Result<(Audit, AuditWriter), AuditError> {
    let (queue, receiver) = channel(config.queue.as_usize());
    let dropped = metrics.audit_dropped.with_label_values(&[writer::label(&config.sink)]);
    let audit = Audit {
        queue,
        on_full: config.on_full,
        sink_fails: Arc::default(),
        dropped,
    };
    let writer = AuditWriter::start(config, metrics, &audit, receiver)?;
    Ok((audit, writer))
}

impl Audit {
    /// Reserves a slot with `on_full: deny`; the slot stays reserved until the guard drops. `Err` if the queue is full, or
    /// the sink cannot write.
    pub fn admit(&self) -> Result<Slot, Refusal> {
        if self.on_full == OnFull::Drop {
            return Ok(Slot(None));
        }
        if self.sink_fails.load(Ordering::Relaxed) {
            self.dropped.inc();
            return Err(Refusal::new(Denial::StoreUnavailable, "the audit sink cannot write"));
        }
        match self.queue.clone().try_reserve_owned() {
            Ok(permit) => Ok(Slot(Some(permit))),
            Err(_full_or_closed) => {
                self.dropped.inc();
                Err(Refusal::new(Denial::StoreUnavailable, "the audit queue is full"))
            }
        }
    }

    /// A guard that sends `record` when it drops.
    pub fn guard(&self, slot: Slot, record: AuditRecord) -> AuditGuard {
        AuditGuard {
            record: Box::new(record),
            audit: self.clone(),
            slot,
            on_allow: OnAllow::Record,
        }
    }

    /// Sends a record; a full queue drops it and counts it. Decisions go through `guard`.
    pub fn send(&self, event: Event) {
        if self.queue.try_send(Message::Event(event)).is_err() {
            self.dropped.inc();
        }
    }
}

impl AuditGuard {
    /// Omits the record if the decision is an allow (`audit.allow: none`).
    pub fn omit_allowed(&mut self) {
        self.on_allow = OnAllow::Omit;
    }

    /// Sets the verdict to a denial: its code, never its private detail.
    pub fn denied(&mut self, denial: Denial) {
        self.record.verdict = Verdict::Denied(denial);
    }

    /// Sets the verdict to a denial and shows the credential that was refused, with the private detail.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.denied(refusal.denial);
        self.record.refused = refusal.credential.as_deref().map(|credential| {
            Box::new(RefusedRecord {
                check: credential.check,
                issuer: credential.issuer.clone(),
                kid: credential.kid.clone(),
                claim: credential.claim.clone(),
                detail: refusal.detail.to_string(),
            })
        });
    }

    /// Sets the verdict to an allow.
    pub fn permitted(&mut self) {
        self.record.verdict = Verdict::Permitted;
    }
}

impl Drop for AuditGuard {
    fn drop(&mut self) {
        if self.on_allow == OnAllow::Omit && self.record.verdict == Verdict::Permitted {
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
