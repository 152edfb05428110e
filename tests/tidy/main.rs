//! House rules as tests: which module may use which, sizes, headers, and docs that name everything they must.
//!
//! Plain std, part of the ordinary test run. Every finding says file, line and what to do about it. `layers` holds the
//! table of which module may use which; an edge outside it is a design question, not a formality.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a tidy test that cannot read the tree must stop and say so"
)]

mod docs;
mod layers;
mod names;
mod purity;
mod scan;
mod shape;
mod words;
