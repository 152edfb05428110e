//! Foundations that every module may use: clock, digest, reader of small files, shutdown, metrics, the gate's own log.
//!
//! No file in here imports a step of the path or takes part in a decision.

pub mod clock;
pub mod digest;
pub mod files;
pub mod lifecycle;
pub mod metrics;
pub mod telemetry;
