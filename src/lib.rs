//! cedargate: a small front proxy that validates tokens, asks Cedar policies, and forwards only what is permitted.
//!
//! # The path of a request
//!
//! `http::listener` accepts connections and reads requests → `gate` is THE path, straight steps with `?`:
//! `http::request` refuses ambiguous requests → the portal table (`portals`) finds the portal → `authn` or `session`
//! finds the caller → `cedargate_policy::decision` decides and, alone, makes a `Permit` → `http::upstream` consumes the
//! permit and forwards. Every step returns either the input of the next step or a `Denial`; `http::answer` turns that
//! into a response and `audit` into exactly one record.
//!
//! # The layer rule
//!
//! Imports point one way. The steps (`authn`, the decision, `http::upstream`) never use each other; `gate` and `doors`
//! bring them together; foundations use nothing above them. `tests/tidy/layers.rs` holds the table and proves it.
//!
//! Modules are declared in reading order.

#![cfg_attr(
    test,
    expect(
        clippy::disallowed_methods,
        clippy::needless_pass_by_value,
        clippy::string_slice,
        clippy::too_many_lines,
        reason = "unit tests are tables and stop where they fail"
    )
)]

// composition
pub mod cli;
pub mod app;

// the path of a request
mod http;
mod gate;
#[doc(hidden)] // `measured` re-exports some of it
mod authn;
mod audit;
mod traces;

// the other doors to the same decision
mod doors;

// beside the path
mod replay;
mod explained;
mod reload;
mod policy_folders;
mod bundle;
mod bundle_follower;
mod portals;
mod permissions;
mod searches;
mod session;
mod login;
mod accounts;
mod limits;
mod exposure;
mod import;
mod inject;
mod prove;
mod workbench;

// foundations; `measured` re-exports some of them
#[doc(hidden)]
mod config;
#[doc(hidden)]
mod base;

/// The parts that `benches/` measures one by one; not a public interface.
#[doc(hidden)]
pub mod measured {
    pub use crate::authn::{Authn, PresentedToken, TokenCache, Verified, token_hash};
    pub use crate::base::metrics::Metrics;
    pub use crate::config::{Algorithm, Issuer, KeySource};
    pub use crate::session::SessionData;
}

#[cfg(test)]
mod fuzz_tests;
