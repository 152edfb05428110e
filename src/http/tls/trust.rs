//! Builds the trust in clients' certificates from a listener's files.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{CertificateError, CertificateFile, Contents, ListenerFiles};
use crate::base::clock::unix_seconds;
use crate::config::ClientCertificates;
use crate::http::client_certificate::{ClientTrust, IssuerTrust};

/// Revocation lists, and the first Unix second at which one is out of date.
struct RevocationLists {
    lists: Vec<CertificateRevocationListDer<'static>>,
    until: Option<i64>,
}

/// `None`: the listener asks for no certificates.
pub(super) fn client_trust(
    files: &ListenerFiles,
    contents: &Contents,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ClientTrust>, CertificateError> {
    let Some((path, content)) = files.tls.client_ca.as_deref().zip(contents.client_ca.as_ref()) else {
        return Ok(None);
    };
    let lists = revocation_lists(files, contents)?;
    let verifier = |file: &CertificateFile<'_>, content| {
        let roots = Arc::new(roots(file, content)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
        if files.tls.client_auth == ClientCertificates::Optional {
            builder = builder.allow_unauthenticated();
        }
        if !lists.lists.is_empty() {
            builder = builder.with_crls(lists.lists.iter().cloned()).enforce_revocation_expiration();
        }
        let built = builder
            .build()
            .map_err(|error| file.error(format!("cannot be used: {error}")))?;
        Ok::<Arc<dyn ClientCertVerifier>, CertificateError>(built)
    };
    let mut issuers = Vec::new();
    for (issuer, content) in files.issuers.iter().zip(&contents.issuers) {
        let own = issuer.ca.as_deref().zip(content.as_ref());
        let own = own.map(|(path, content)| verifier(&issuer.file(path), content));
        issuers.push(IssuerTrust {
            index: issuer.index,
            verifier: own.transpose()?,
        });
    }
    Ok(Some(ClientTrust {
        verifier: verifier(&files.file("client_ca", path), content)?,
        issuers,
        lists_until: lists.until,
    }))
}

fn roots(file: &CertificateFile<'_>, content: &Result<Vec<u8>, String>) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in file.certificates(content)? {
        let added = roots.add(certificate);
        added.map_err(|error| file.error(format!("contains a certificate that is not an authority: {error}")))?;
    }
    Ok(roots)
}

/// The lists of `client_crl`; none without the key. A list that is out of date would refuse every client, so it is
/// refused itself: at a reload the old lists stay.
fn revocation_lists(files: &ListenerFiles, contents: &Contents) -> Result<RevocationLists, CertificateError> {
    let mut found = RevocationLists {
        lists: Vec::new(),
        until: None,
    };
    let Some((path, content)) = files.tls.client_crl.as_deref().zip(contents.client_crl.as_ref()) else {
        return Ok(found);
    };
    let file = files.file("client_crl", path);
    for list in CertificateRevocationListDer::pem_slice_iter(file.bytes(content)?) {
        let list = list.map_err(|error| file.error(format!("is not valid PEM: {error}")))?;
        let (_, parsed) = x509_parser::parse_x509_crl(&list)
            .map_err(|_malformed| file.error("contains a revocation list that cannot be read"))?;
        // RFC 5280, 5.1.2.5: every list says when the next one comes
        let next = parsed.next_update().map(|next| next.timestamp());
        let next = next.ok_or_else(|| file.error("contains a revocation list without `nextUpdate`"))?;
        if next <= unix_seconds() {
            return Err(file.error("contains a revocation list that is out of date"));
        }
        found.until = Some(found.until.map_or(next, |until| until.min(next)));
        found.lists.push(list);
    }
    if found.lists.is_empty() {
        return Err(file.error("contains no revocation list in PEM"));
    }
    Ok(found)
}
