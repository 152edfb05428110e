//! The decision of cedargate, without the proxy around it.

pub mod claims;
pub mod denial;
pub mod digest;
pub mod json;
pub mod scope;
pub mod types;
