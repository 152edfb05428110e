//! Foundations that every module may use: one clock, one digest, one reader of small files, and observability.
//!
//! Nothing here imports a step of the path, and nothing here decides.

pub mod clock;
pub mod digest;
pub mod files;
pub mod lifecycle;
pub mod metrics;
pub mod telemetry;
