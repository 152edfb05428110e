//! The decision of cedargate, without the proxy around it.

pub mod claims;
pub mod context;
pub mod decision;
pub mod decision_tests;
pub mod denial;
pub mod digest;
pub mod engine;
pub mod fast_path;
pub mod json;
pub mod permit;
pub mod portal;
pub mod principal;
pub mod query_entities;
pub mod reference;
pub mod revision;
pub mod rules;
pub mod schema;
pub mod scope;
pub mod types;
pub mod value;

#[cfg(test)]
mod test_support;
