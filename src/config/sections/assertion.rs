//! `assertion`: the signed identity that the app receives with every request.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::check::Checker;
use crate::config::values::TimeSpan;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Assertion {
    /// Header that carries the assertion.
    // in lower case once the section is checked
    pub header: String,
    /// Lifetime of an assertion, from 1s to 1h.
    pub ttl: TimeSpan<1_000, 3_600_000>,
    /// PKCS#8 PEM of P-256 keys: the first signs, all are published and verify; watched. Null: an ephemeral key.
    pub key_file: Option<PathBuf>,
}

impl Default for Assertion {
    fn default() -> Self {
        Self {
            header: "x-cedargate-assertion".to_owned(),
            ttl: TimeSpan::seconds::<60>(),
            key_file: None,
        }
    }
}

impl Checker<'_> {
    pub fn assertion(&mut self, mut assertion: Assertion) -> Assertion {
        assertion.header = self.header_name("assertion.header", &assertion.header);
        assertion.key_file = self.optional_path("assertion.key_file", assertion.key_file.as_deref());
        assertion
    }
}
