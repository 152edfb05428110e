//! Integration tests: one binary, so that it links once. Each module says what belongs in it.
//!
//! `support` starts the real gate in-process on free ports, with a recording app and a local issuer whose keys are
//! made for the test. Tests that need a process (signals, exit codes) run the built binary.

mod kubelet;
mod path;
mod reload;
mod support;
