//! Revocations.

pub(super) mod log;
