//! Setup that the benches share: portals in memory, requests to them, tokens, sessions.
//!
//! Every measured step is a call of `cedargate-policy` or `cedargate`; this package makes the arguments beforehand and
//! has no copy of a step. `gate/` measures the parts, `performance/` the whole program, `instructions/` counts. See
//! `README.md`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up must stop and say so")]

pub mod issuer;
pub mod portal;
pub mod reload;
pub mod sessions;
pub mod shop;
pub mod tokens;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// `iss` of every token here.
pub const ISSUER: &str = "https://id.example.test/";
/// `aud` of every token here.
pub const AUDIENCE: &str = "bench";
/// The portal of every bench with one portal.
pub const PORTAL: &str = "bench";

/// The folder of the repository: documents, programs and tools are below it.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Unix milliseconds.
pub fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
