//! Integration tests: one binary, so that it links once. Each module says what belongs in it.
//!
//! `support` starts the real gate in-process on free ports, with a recording app and a local issuer whose keys are
//! made for the test. Tests that need a process (signals, exit codes) run the built binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::result_large_err,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "a test that cannot go on must stop and say where"
)]

mod cli;
mod http;
mod login;
mod operations;
mod policy;
mod sessions;
mod support;
mod tokens;
