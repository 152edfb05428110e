//! A second look at what clients send, beside hyper and never instead of it.
//!
//! `http1` follows the framing of every message byte by byte and refuses what could be read in two ways; `http2` counts
//! frames that cost us more than they cost the sender. Both only ever say no: what they let pass is still parsed,
//! bounded and refused by hyper, and they change nothing of what passes.

pub mod http1;
pub mod http2;
