//! Foundations that every module may use: clock, digest, reader of small files, file descriptors, client of the gate's
//! own requests, shutdown, metrics, the gate's own log, text for terminals.
//!
//! No file in here imports a step of the path or takes part in a decision.

pub mod address;
pub mod answer_thread;
pub mod certificates;
pub mod clock;
pub mod deadline;
pub mod descriptors;
pub mod digest;
pub mod files;
pub mod lifecycle;
pub mod metrics;
pub mod ed25519;
pub mod outbound;
pub mod priority;
pub mod telemetry;
pub mod terminal;
