//! The sections of `cedargate.yaml`, one file each: the keys, their defaults, and the checks of a key against other
//! keys.
//!
//! A section of plain values is one struct: serde reads it, schemars describes it, and the gate uses it. A section that
//! needs more (addresses to parse, files to read, keys that exclude each other) has a `Raw…` struct as the file says it
//! and a checked one for the gate. Doc comments of keys become the descriptions of the JSON Schema.
//!
//! A required key is an `Option` marked `schemars(required)`: `schema` reports its absence, and the checks still run on
//! the rest, so that all mistakes appear together.

pub mod app_probes;
pub mod assertion;
pub mod audit;
pub mod authzen;
pub mod bundle;
pub mod certificate_rules;
pub mod client_certificates;
pub mod client_credentials;
pub mod egress;
pub mod exposure_check;
pub mod identity;
pub mod issuer_claims;
pub mod issuers;
pub mod limits;
pub mod listen;
pub mod login;
pub mod policies;
pub mod portals;
pub mod public_url;
pub mod sessions;
pub mod strip_headers;
pub mod token_exchange;
pub mod upstream;
pub mod upstream_url;
