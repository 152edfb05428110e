//! portal
pub mod path;
