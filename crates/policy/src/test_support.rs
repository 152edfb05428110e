//! Revisions for unit tests, loaded from texts.

use std::sync::Arc;

use crate::load::Loader;
use crate::revision::Revision;
use crate::revision::source::{SourceFile, Tree};
use crate::scope::{IssuerScope, PortalScope};
use crate::types::PortalSlug;

/// Slug of the portal that `revision` loads.
pub const PORTAL: &str = "bench";

/// The portal at `/` that trusts one issuer.
pub fn portal() -> PortalScope {
    let issuer = IssuerScope::new("corp", "https://id.example.test/", vec!["bench".to_owned()]);
    PortalScope {
        issuers: vec![Arc::new(issuer)],
        ..PortalScope::at(PortalSlug::parse(PORTAL).unwrap(), "/")
    }
}

/// Files by name, as if just read.
pub fn tree<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Tree {
    let mut tree = Tree::default();
    for (name, text) in files {
        tree.files.0.insert(name.to_owned(), SourceFile::new(text.as_bytes()));
    }
    tree.slugs.extend(PortalSlug::parse(PORTAL));
    tree
}

/// The revision of the portal's files; panics with every problem if they are rejected.
pub fn revision<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Arc<Revision> {
    let loaded = Loader::new(None).load(&portal(), &tree(files), None);
    match (loaded.revision, loaded.rejected) {
        (Some(revision), None) => revision,
        (_, rejected) => panic!("{rejected:?}"),
    }
}
