//! The decision of cedargate, without the proxy around it: a *query* in, a *decision* out.
//!
//! ```text
//! path → bytes ─ revision::source ─▶ load::Loader ─▶ Revision (schema, policies, entities, portal.yaml)
//! claims ─ claims ─▶ Identity ─ Revision::principal ─▶ Principal ┐
//! request or named query ─────────────────▶ decision::Query ─────┴─▶ decision::decide ─▶ Decision ─▶ Permit
//! ```
//!
//! The gate, the commands and the benches build on this crate. It has no runtime, socket, file, clock or random number:
//! its callers pass in files, time and identity. `tests/tidy` holds that over its dependencies and its text. Only this
//! crate can make a `Permit`, so nothing is forwarded without a decision of it.
//!
//! Modules are declared in reading order.

#![expect(
    missing_docs,
    reason = "its only users are the packages of this workspace; an item whose name says it all has no comment"
)]
#![cfg_attr(
    test,
    expect(
        clippy::needless_pass_by_value,
        clippy::too_many_lines,
        reason = "unit tests are tables and stop where they fail"
    )
)]

// the decision
pub mod decision;
pub mod permit;
pub mod decision_tests;
pub mod lint;
pub mod matrix;
pub mod permissions;
pub mod search;
mod partial;

// which portal and which path
pub mod portal;
pub mod openapi;

// the caller: claims become an identity, an identity becomes a principal
pub mod claims;
pub mod principal;

// one portal's files become one revision
pub mod load;
pub mod revision;
mod rules;
pub mod schema;

// the evaluation
pub mod engine;
pub mod context;
mod query_entities;
mod hierarchy;
mod fast_path;
mod value;
pub mod reference;

// types that every part uses
pub mod denial;
pub mod flags;
pub mod scope;
pub mod claim_path;
pub mod types;
pub mod digest;
pub mod json;
pub mod text;
mod error_chain;

#[cfg(test)]
mod test_support;
