//! The archive of a bundle: a tar of regular files in one gzip member.
//!
//! The writer sets nothing that depends on time, user or machine. The reader accepts exactly the members that the
//! manifest describes, in its order, and never more than the limits of the bundle; it interprets no extension of tar,
//! so that a member has one name and one size.

use std::io::{self, Read, Write};

use cedargate_policy::revision::source::{Files, SourceFile};
use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use tar::{Archive, Entries, EntryType, Header};

use super::manifest::Manifest;
use super::{
    Bundle, BundleError, MANIFEST_BYTES_MAX, RATIO_FREE_BYTES, RATIO_MAX, SIGNATURES_BYTES_MAX, UNPACKED_BYTES_MAX, signatures,
};

const MANIFEST: &str = "manifest.json";
const SIGNATURES: &str = "signatures.txt";
const FILE_MODE: u32 = 0o644;
/// Memory that is reserved before a member's bytes arrive.
const RESERVED_BYTES_MAX: u64 = 64 * 1024;
/// Text of the error of `Limited`.
const TOO_LARGE: &str = "unpacks to too many bytes";

/// The first two members, as bytes.
pub(super) struct Head {
    pub manifest: Vec<u8>,
    pub signatures: Vec<u8>,
}

/// Decompresses, at most `left` bytes.
struct Limited<'a> {
    decoder: GzDecoder<&'a [u8]>,
    limit: u64,
    left: u64,
}

/// Everything that was read.
pub(super) struct Contents {
    pub head: Head,
    pub manifest: Manifest,
    pub files: Files,
}

pub(super) fn write(bundle: &Bundle) -> Result<Vec<u8>, BundleError> {
    let failed = |error: io::Error| BundleError::Archive(error.to_string());
    let compressed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut archive = tar::Builder::new(compressed);
    let signatures = signatures::render(&bundle.signatures);
    append(&mut archive, MANIFEST, &bundle.manifest_bytes).map_err(failed)?;
    append(&mut archive, SIGNATURES, signatures.as_bytes()).map_err(failed)?;
    for (name, file) in &bundle.files.0 {
        append(&mut archive, name, &file.bytes).map_err(failed)?;
    }
    let bytes = archive
        .into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .map_err(failed)?;
    // a bundle that no gate would read must not be published
    Bundle::read(&bytes, super::Trust::DangerUnsigned)?;
    Ok(bytes)
}

fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(FILE_MODE);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    archive.append(&header, bytes)
}

/// Reads an archive. `check` verifies the head and parses its manifest; no later member is read before.
pub(super) fn read(bytes: &[u8], check: impl FnOnce(&Head) -> Result<Manifest, BundleError>) -> Result<Contents, BundleError> {
    let limited = Limited::new(bytes);
    let limit = limited.limit;
    let failed = |error: io::Error| failure(&error, limit);
    let mut archive = Archive::new(limited);
    let mut members = archive.entries().map_err(failed)?.raw(true);
    let head = Head {
        manifest: member(&mut members, MANIFEST, MANIFEST_BYTES_MAX, limit)?,
        signatures: member(&mut members, SIGNATURES, SIGNATURES_BYTES_MAX, limit)?,
    };
    let manifest = check(&head)?;
    let mut files = Files::default();
    for file in &manifest.files {
        let content = SourceFile::new(&member(&mut members, &file.name, file.size, limit)?);
        let refuse = |why| BundleError::Content {
            name: file.name.clone(),
            why,
        };
        if content.bytes.len() as u64 != file.size {
            return Err(refuse("it has another size"));
        }
        if hex::encode(content.hash) != file.sha256 {
            return Err(refuse("it has another SHA-256"));
        }
        files.0.insert(file.name.clone(), content);
    }
    if members.next().is_some() {
        return Err(BundleError::Trailing);
    }
    archive.into_inner().finish().map_err(failed)??;
    if hex::encode(files.hash()) != manifest.tree {
        return Err(BundleError::Manifest("`tree` is not the hash of its files".to_owned()));
    }
    Ok(Contents { head, manifest, files })
}

/// Reads the next member, which must have this name and at most `max` bytes.
fn member(members: &mut Entries<'_, Limited<'_>>, expected: &str, max: u64, limit: u64) -> Result<Vec<u8>, BundleError> {
    let failed = |error: io::Error| failure(&error, limit);
    let mut entry = match members.next() {
        None => return Err(BundleError::Missing(expected.to_owned())),
        Some(entry) => entry.map_err(failed)?,
    };
    let found = entry.path_bytes();
    if *found != *expected.as_bytes() {
        return Err(BundleError::Member {
            expected: expected.to_owned(),
            found: String::from_utf8_lossy(&found).escape_debug().to_string(),
        });
    }
    drop(found);
    if entry.header().entry_type() != EntryType::Regular {
        return Err(BundleError::Kind {
            name: expected.to_owned(),
        });
    }
    let size = entry.header().entry_size().map_err(failed)?;
    if size > max {
        return Err(BundleError::Content {
            name: expected.to_owned(),
            why: "it is larger",
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(RESERVED_BYTES_MAX)).unwrap_or_default());
    entry.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 != size {
        return Err(BundleError::Archive("it is cut off".to_owned()));
    }
    Ok(bytes)
}

fn failure(error: &io::Error, limit: u64) -> BundleError {
    let text = error.to_string();
    if text.contains(TOO_LARGE) {
        return BundleError::TooLarge(limit);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => BundleError::Archive("it is cut off".to_owned()),
        _ => BundleError::Archive(text),
    }
}

impl<'a> Limited<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let by_ratio = (bytes.len() as u64).saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        let limit = by_ratio.min(UNPACKED_BYTES_MAX + RATIO_FREE_BYTES);
        Self {
            decoder: GzDecoder::new(bytes),
            limit,
            left: limit,
        }
    }

    /// Reads to the end, where only the zeros of a tar may follow, and nothing after the gzip member.
    fn finish(mut self) -> io::Result<Result<(), BundleError>> {
        let mut buffer = [0; 4096];
        loop {
            let read = self.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            if buffer.iter().take(read).any(|byte| *byte != 0) {
                return Ok(Err(BundleError::Trailing));
            }
        }
        let rest = self.decoder.into_inner();
        Ok(if rest.is_empty() { Ok(()) } else { Err(BundleError::Trailing) })
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(TOO_LARGE))?;
        Ok(read)
    }
}
