//! The manifest: the facts of a bundle, and the name, size and hash of each of its files.

use std::collections::BTreeMap;

use cedargate_policy::json;
use cedargate_policy::revision::source::{Files, SourceFile};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BundleError, FILES_MAX, MANIFEST_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::policy_folders::{DEPTH_MAX, is_policy_file, is_temporary};

/// The version of the format.
const FORMAT: &str = "cedargate.bundle/1";
/// Largest sequence number: JSON tools that read numbers as doubles still read it exactly.
const SEQUENCE_MAX: u64 = (1 << 53) - 1;
const LABELS_MAX: usize = 64;
/// Characters of a bundle's name and of a label's key.
const NAME_CHARS_MAX: usize = 63;
const LABEL_BYTES_MAX: usize = 1024;
/// Bytes of a file's name, and of its last part: what a tar header holds without extensions.
const FILE_NAME_BYTES_MAX: usize = 250;
const LAST_PART_BYTES_MAX: usize = 100;

/// What the builder of a bundle says about it.
#[derive(Clone, Debug, Default)]
pub struct BundleFacts {
    pub name: Option<String>,
    pub sequence: u64,
    pub created: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// The parsed manifest.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    /// Tells bundles of different gates apart that one key signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Grows with each published bundle.
    pub sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// SHA-256 of the tree: for each file in order the length of its name (8 bytes, big-endian), its name and its
    /// SHA-256.
    pub tree: String,
    pub files: Vec<File>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: String,
    pub size: u64,
    pub sha256: String,
}

impl Manifest {
    pub(super) fn of(files: &Files, facts: BundleFacts) -> Result<Self, BundleError> {
        let entry = |(name, file): (&String, &SourceFile)| File {
            name: name.clone(),
            size: file.bytes.len() as u64,
            sha256: hex::encode(file.hash),
        };
        let manifest = Self {
            format: FORMAT.to_owned(),
            name: facts.name,
            sequence: facts.sequence,
            created: facts.created,
            labels: facts.labels,
            tree: hex::encode(files.hash()),
            files: files.0.iter().map(entry).collect(),
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes that are signed.
    pub(super) fn render(&self) -> Result<Vec<u8>, BundleError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| BundleError::Manifest(error.to_string()))?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(BundleError::Manifest(format!("it has more than {MANIFEST_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    }

    /// Parses strictly: no key twice, no unknown key, names in order.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let document = json::object_from_slice(bytes).map_err(|error| BundleError::Manifest(error.to_string()))?;
        let format = document.get("format").and_then(Value::as_str);
        if format != Some(FORMAT) {
            let found = format.unwrap_or("absent");
            return Err(BundleError::Manifest(format!(
                "its `format` is `{found}`, and this version reads `{FORMAT}`"
            )));
        }
        let manifest: Self =
            serde_json::from_value(Value::Object(document)).map_err(|error| BundleError::Manifest(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), BundleError> {
        let refuse = |why: &str| Err(BundleError::Manifest(why.to_owned()));
        if self.sequence == 0 || self.sequence > SEQUENCE_MAX {
            return refuse("`sequence` is not between 1 and 2^53-1");
        }
        if self.name.as_deref().is_some_and(|name| !is_word(name)) || !self.labels.keys().all(|key| is_word(key)) {
            return refuse("a name or the key of a label is not 1 to 63 of `a-z`, `A-Z`, `0-9`, `.`, `_`, `-` and `/`");
        }
        let texts = self.labels.values().chain(&self.created);
        if self.labels.len() > LABELS_MAX || !texts.into_iter().all(|text| is_short_line(text)) {
            return refuse("there are more than 64 labels, or a text is longer than 1024 bytes or has control characters");
        }
        if self.files.len() > FILES_MAX {
            return refuse("there are more than 50000 files");
        }
        let bytes = self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size));
        if bytes.is_none_or(|bytes| bytes > UNPACKED_BYTES_MAX) {
            return Err(BundleError::TooLarge(UNPACKED_BYTES_MAX));
        }
        let mut before = "";
        for file in &self.files {
            check_name(&file.name).map_err(|why| BundleError::Name {
                name: file.name.escape_debug().to_string(),
                why,
            })?;
            if file.name.as_str() <= before {
                return refuse("its files are not in the order of their names, each once");
            }
            before = &file.name;
        }
        Ok(())
    }
}

fn is_word(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    (1..=NAME_CHARS_MAX).contains(&text.len()) && text.bytes().all(fits)
}

fn is_short_line(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Accepts the names that the reader of the folders gives, and no other.
fn check_name(name: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = name.split('/').collect();
    let depth = match parts.first() {
        Some(&"policies") => DEPTH_MAX + 2,
        Some(&"schemas") => 3,
        _ => return Err("it is neither below `policies/` nor below `schemas/`"),
    };
    if parts.len() < 2 || parts.len() > depth {
        return Err("it lies deeper than the gate reads");
    }
    if parts.iter().any(|part| part.is_empty() || is_temporary(part)) {
        return Err("a part of its name is empty, hidden or that of a temporary file");
    }
    if name.contains('\\') || name.chars().any(char::is_control) {
        return Err("its name has a backslash or a control character");
    }
    if !is_policy_file(name) {
        return Err("its name does not end in `.cedar`, `.cedarschema`, `.yaml`, `.yml` or `.json`");
    }
    if name.len() > FILE_NAME_BYTES_MAX || parts.last().is_some_and(|last| last.len() > LAST_PART_BYTES_MAX) {
        return Err("its name is too long: 100 bytes after the last `/`, and 250 in all");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_folder_could_not_give_are_refused() {
        for good in [
            "policies/p/x.cedar",
            "policies/_shared/x.cedar",
            "policies/p/_deny/x.cedar",
            "policies/p/tests/ALLOW/x.json",
            "schemas/p.cedarschema",
            "policies/stray.cedar",
        ] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in [
            "policies",
            "policies/",
            "/policies/p/x.cedar",
            "etc/passwd.json",
            "policies/../x.cedar",
            "policies/p/../x.cedar",
            "policies//x.cedar",
            "policies/./x.cedar",
            "policies/p/.x.cedar",
            "policies/p/x.cedar~",
            "policies/p/x.sh",
            "policies/p\\x.cedar",
            "policies/p/x\n.cedar",
            "policies/a/b/c/d/e/x.cedar",
            "schemas/a/b/x.cedarschema",
            &format!("policies/p/{}.cedar", "x".repeat(100)),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
