//! The decision log: exactly one record for each decision, on every exit path.
//!
//! The gate fills an `AuditGuard` as a request goes on. The guard sends its record when it drops: after the answer, on
//! a panic, or when the client goes away. The thread that drops it turns the record into its line of JSON and appends
//! the line to a bounded queue; one writer thread writes them (`writer`, through `output`: rotation, chain, sink). A
//! full queue drops the record and counts it; with `on_full: deny` the gate reserves a slot before it decides, and
//! denies without one, or while the sink cannot write. A record never holds a token, cookie or secret.

mod chain;
mod line;
pub mod lines;
mod mask;
mod output;
mod queue;
mod recent;
mod record;
mod rotated;
mod sampling;
mod sink;
pub mod verify;
mod words;
mod writer;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cedargate_policy::denial::{Denial, Refusal};
use prometheus::IntCounter;

use crate::base::metrics::Metrics;
use crate::config::{self, OnFull, Share};
use mask::Mask;
use queue::{Full, Queue, Reservation};
use recent::Recent;
pub use record::{
    AdminEvent, AuditRecord, AuthSubject, CallerRecord, EntityRef, Event, HttpRecord, HttpRejected, NO_PORTAL, PolicyError,
    PolicyEvent, RecordedOutcome, RefusedRecord, Shadow, Supplied,
};
pub use rotated::written_files;
use sampling::Sampling;
pub use words::{AdminAct, AuthAct, AuthFact, LoginCode, PolicyResult};
pub use writer::{AuditError, AuditWriter, check_chain_key, check_file};

/// A line longer than this is written in a buffer of its own, so that the thread does not keep its memory.
const LINE_BYTES_KEPT: usize = 64 * 1024;

/// Decision records are readable by their owner only.
const FILE_MODE: u32 = 0o600;

thread_local! {
    /// The line that this thread is writing.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The sending end of the decision log; cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Shared>);

/// The part that senders and the writer share.
#[derive(Debug)]
struct Shared {
    queue: Arc<Queue>,
    mask: Mask,
    /// `None`: every decision is recorded.
    sampling: Option<Sampling>,
    on_full: OnFull,
    /// Set by the writer with `on_full: deny`, while it holds records that the sink does not take.
    sink_fails: AtomicBool,
    dropped: IntCounter,
    recent: Recent,
}

/// A reserved slot of the queue for one decision record; empty with `on_full: drop`.
#[derive(Debug)]
pub struct Slot(Option<Reservation>);

/// A decision record that is sent when this drops. `record` starts as a denial with reason `cancelled` and keeps it
/// unless the path sets a verdict. A panic turns a record without a verdict into `panicked`.
#[derive(Debug)]
pub struct AuditGuard {
    pub record: Box<AuditRecord>,
    audit: Audit,
    slot: Slot,
}

/// Opens the sink and starts the writer thread.
pub fn start(config: &config::Audit, metrics: &Metrics) -> Result<(Audit, AuditWriter), AuditError> {
    let audit = Audit(Arc::new(Shared {
        queue: Arc::new(Queue::new(config.queue.as_usize())),
        mask: Mask::new(&config.mask),
        sampling: Sampling::new(&config.allow),
        on_full: config.on_full,
        sink_fails: AtomicBool::default(),
        dropped: metrics.audit_dropped.with_label_values(&[writer::label(&config.sink)]),
        recent: Recent::new(config.recent_bytes.as_usize()),
    }));
    let writer = AuditWriter::start(config, metrics, Arc::clone(&audit.0))?;
    Ok((audit, writer))
}

impl Audit {
    /// Reserves a slot with `on_full: deny`; the slot stays reserved until the guard drops. `Err` if the queue is full,
    /// or the sink cannot write.
    pub fn admit(&self) -> Result<Slot, Refusal> {
        let shared = &self.0;
        if shared.on_full == OnFull::Drop {
            return Ok(Slot(None));
        }
        if shared.sink_fails.load(Ordering::Relaxed) {
            shared.dropped.inc();
            return Err(Refusal::new(Denial::StoreUnavailable, "the audit sink cannot write"));
        }
        match shared.queue.reserve() {
            Ok(reservation) => Ok(Slot(Some(reservation))),
            Err(Full) => {
                shared.dropped.inc();
                Err(Refusal::new(Denial::StoreUnavailable, "the audit queue is full"))
            }
        }
    }

    /// Lines of the newest records that hold this text, the newest first (`audit.recent_bytes`).
    pub fn recent_lines(&self, text: &str) -> Vec<Box<[u8]>> {
        self.0.recent.lines_with(text)
    }

    /// A guard that sends `record` when it drops.
    pub fn guard(&self, slot: Slot, record: AuditRecord) -> AuditGuard {
        AuditGuard {
            record: Box::new(record),
            audit: self.clone(),
            slot,
        }
    }

    /// Sends a record; a full queue drops it and counts it. Decisions go through `guard`.
    pub fn send(&self, event: &Event) {
        self.queue_line(Slot(None), |line| line::write_event(event, &self.0.mask, line));
    }

    /// Writes a line and queues it. A record that cannot be written as JSON is dropped and counted; so is one whose
    /// writing panics, because a second panic while a request unwinds would end the process.
    fn queue_line(&self, slot: Slot, write: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>) {
        let shared = &self.0;
        let mut line = LINE.take();
        line.clear();
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut line)));
        let queued = match (written, slot.0) {
            (Ok(Ok(())), Some(reservation)) => {
                reservation.push(&line);
                true
            }
            (Ok(Ok(())), None) => shared.queue.push(&line).is_ok(),
            (Ok(Err(error)), _) => {
                tracing::error!(%error, "an audit record could not be formatted");
                false
            }
            (Err(_panic), _) => {
                tracing::error!("the writing of an audit record panicked");
                false
            }
        };
        if !queued {
            shared.dropped.inc();
        }
        if line.capacity() <= LINE_BYTES_KEPT {
            LINE.set(line);
        }
    }
}

impl AuditGuard {
    /// Sets the verdict to a denial: its code, never its private detail.
    pub fn denied(&mut self, denial: Denial) {
        self.record.verdict = RecordedOutcome::Denied(denial);
    }

    /// Sets the verdict to a denial and shows the credential that was refused, with the private detail.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.denied(refusal.denial);
        // a refusal after the proof of the caller leaves out what the record already has
        let proven = self.record.caller.as_ref().and_then(|caller| caller.token.as_ref());
        let issuer = || proven.map(|token| token.iss.clone());
        let kid = || proven.and_then(|token| token.kid.clone());
        self.record.refused = refusal.credential.as_deref().map(|credential| {
            Box::new(RefusedRecord {
                check: credential.check,
                issuer: credential.issuer.clone().or_else(issuer),
                kid: credential.kid.clone().or_else(kid),
                claim: credential.claim.clone(),
                detail: refusal.detail.to_string(),
            })
        });
    }

    /// Sets the verdict to an allow.
    pub fn permitted(&mut self) {
        self.record.verdict = RecordedOutcome::Permitted;
    }
}

impl Drop for AuditGuard {
    fn drop(&mut self) {
        if self.record.verdict == RecordedOutcome::Permitted
            && let Some(sampling) = &self.audit.0.sampling
        {
            let rate = sampling.rate(&self.record);
            if !sampling::is_sampled(self.record.decision_id, rate) {
                return;
            }
            self.record.sample_rate = (rate != Share::ALL).then_some(rate);
        }
        if self.record.verdict == RecordedOutcome::Cancelled && std::thread::panicking() {
            self.record.verdict = RecordedOutcome::Panicked;
        }
        let slot = Slot(self.slot.0.take());
        let Shared { mask, .. } = &*self.audit.0;
        self.audit
            .queue_line(slot, |line| line::write_decision(&self.record, mask, line));
    }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
