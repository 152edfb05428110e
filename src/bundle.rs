//! Bundles: the policy tree as one signed file.
//!
//! A bundle is a gzip-compressed tar archive: the manifest, its signatures, then every file of the tree in the order of
//! the manifest (docs/bundles.md). This module reads and writes that format; it does no I/O and knows no configuration.
//!
//! SECURITY: a bundle comes over a network from a server that may be hostile. Reading happens in this order: bound the
//! sizes, take the manifest as bytes, verify a signature over these bytes, and only then parse the manifest. Every
//! later member must be the manifest's next file, with its name, size and hash, so no name of the archive ever becomes
//! a path. Nothing is unpacked to a disk: the files become a `Tree` in memory, which passes through the same loading as
//! folders.

mod archive;
mod keys;
mod manifest;
mod signatures;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use cedargate_policy::revision::source::{Files, Tree};
use cedargate_policy::revision::unread::Unread;
use cedargate_policy::types::PortalSlug;

pub use crate::config::BUNDLE_BYTES_MAX as BYTES_MAX;

pub use self::keys::{BundleSigningKey, PublicKey, public_keys};
pub use self::manifest::{BundleFacts, Manifest};
pub use self::signatures::Signature;

/// Most files of a bundle.
pub const FILES_MAX: usize = 50_000;
/// Bytes of everything that a bundle unpacks to.
const UNPACKED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How often larger than the file the unpacked content may be, beyond `RATIO_FREE_BYTES`. Policies compress to a tenth.
const RATIO_MAX: u64 = 100;
const RATIO_FREE_BYTES: u64 = 16 * 1024 * 1024;
const MANIFEST_BYTES_MAX: u64 = 8 * 1024 * 1024;
const SIGNATURES_BYTES_MAX: u64 = 16 * 1024;
const SIGNATURES_MAX: usize = 16;

/// A bundle is not usable.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("it is not a bundle: {0}")]
    Archive(String),
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(u64),
    #[error("its member `{found}` is not `{expected}`, which comes next")]
    Member { expected: String, found: String },
    #[error("its member `{name}` is not a regular file")]
    Kind { name: String },
    #[error("its member `{name}` is not the one that the manifest describes: {why}")]
    Content { name: String, why: &'static str },
    #[error("it ends before `{0}`")]
    Missing(String),
    #[error("it has members or bytes after the last file of the manifest")]
    Trailing,
    #[error("its signatures are not usable: {0}")]
    Signatures(String),
    #[error("it has no signature; sign it with `cedargate bundle sign`")]
    Unsigned,
    #[error("no trusted key signed it; it is signed by {0}")]
    Untrusted(String),
    #[error("a signature of the trusted key {0} does not fit the manifest: the bundle was changed after signing")]
    Forged(String),
    #[error("its manifest is not usable: {0}")]
    Manifest(String),
    #[error("`{name}` cannot be in a bundle: {why}")]
    Name { name: String, why: &'static str },
}

/// The signatures that a reader accepts.
#[derive(Clone, Copy)]
pub enum Trust<'a> {
    /// One of these keys must have signed.
    Keys(&'a [PublicKey]),
    /// Reads the bundle whether or not any key signed it.
    DangerUnsigned,
}

/// A bundle whose manifest and files fit each other.
#[derive(Debug)]
pub struct Bundle {
    pub manifest: Manifest,
    /// The manifest as it is signed.
    manifest_bytes: Vec<u8>,
    pub signatures: Vec<Signature>,
    pub files: Files,
    /// Id of the trusted key that signed; `None` if no signature was asked for.
    pub signed_by: Option<String>,
}

impl Bundle {
    /// Makes a bundle without a signature.
    ///
    /// # Errors
    /// A file whose name cannot be in a bundle, or more than the limits of this module.
    pub fn build(files: Files, facts: BundleFacts) -> Result<Self, BundleError> {
        let manifest = Manifest::of(&files, facts)?;
        let manifest_bytes = manifest.render()?;
        Ok(Self {
            manifest,
            manifest_bytes,
            signatures: Vec::new(),
            files,
            signed_by: None,
        })
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// The first reason why it is not usable.
    pub fn read(bytes: &[u8], trust: Trust<'_>) -> Result<Self, BundleError> {
        let mut signatures = Vec::new();
        let mut signed_by = None;
        let contents = archive::read(bytes, |head| {
            signatures = signatures::parse(&head.signatures)?;
            if let Trust::Keys(keys) = trust {
                signed_by = Some(signatures::verify(&head.manifest, &signatures, keys)?);
            }
            Manifest::parse(&head.manifest)
        })?;
        Ok(Self {
            manifest: contents.manifest,
            manifest_bytes: contents.head.manifest,
            signatures,
            files: contents.files,
            signed_by,
        })
    }

    /// Adds a signature; one by the same key is replaced.
    ///
    /// # Errors
    /// The library fails, or there are `SIGNATURES_MAX` signatures by other keys.
    pub fn sign(&mut self, key: &BundleSigningKey) -> Result<(), BundleError> {
        let signature = Signature::new(key, &self.manifest_bytes)?;
        self.signatures.retain(|known| known.key != signature.key);
        self.signatures.push(signature);
        self.signatures.sort_by(|a, b| a.key.cmp(&b.key));
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(BundleError::Signatures(format!("there are more than {SIGNATURES_MAX}")));
        }
        Ok(())
    }

    /// The file. Equal bundles have equal bytes.
    ///
    /// # Errors
    /// The content is larger than a reader accepts.
    pub fn write(&self) -> Result<Vec<u8>, BundleError> {
        archive::write(self)
    }

    /// The policy tree that the bundle holds.
    pub fn tree(&self) -> Tree {
        let names = || self.files.0.keys();
        let folders: BTreeSet<PortalSlug> = names()
            .filter_map(|name| PortalSlug::parse(name.strip_prefix("policies/")?.split_once('/')?.0))
            .collect();
        Tree {
            slugs: folders,
            unread: names().filter_map(|name| Unread::of(name)).collect(),
            files: self.files.clone(),
            ..Tree::default()
        }
    }
}
