//! Whether the files that a connection needs can be used, asked before there is one.

use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::config::{self, Secret};

/// Bytes of a password or PEM file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Every file that cannot be used: its key below `sessions.redis`, and why.
pub fn check_files(config: &config::Redis) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    if let Some(Secret::File(path)) = &config.password {
        wrong.extend(check_password(path).err().map(|why| ("password_file", why)));
    }
    if let Some(ca) = &config.tls.ca {
        wrong.extend(check_authorities(ca).err().map(|why| ("tls.ca", why)));
    }
    if let Some((cert, key)) = &config.tls.identity {
        let chain = certificates(cert).map_err(|why| ("tls.cert", why));
        let private = private_key(key).map_err(|why| ("tls.key", why));
        match (chain, private) {
            (Ok(chain), Ok(private)) => {
                let pair = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider());
                wrong.extend(pair.err().map(|error| ("tls.key", format!("`{}`: {error}", key.display()))));
            }
            (chain, private) => wrong.extend(chain.err().into_iter().chain(private.err())),
        }
    }
    wrong
}

fn check_password(path: &Path) -> Result<(), String> {
    let text = String::from_utf8(read(path)?).map_err(|_may_quote| format!("`{}` is no text", path.display()))?;
    if text.trim().is_empty() {
        return Err(format!("`{}` is empty", path.display()));
    }
    Ok(())
}

fn check_authorities(path: &Path) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for authority in certificates(path)? {
        store
            .add(authority)
            .map_err(|error| format!("`{}`: {error}", path.display()))?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let all = read.map_err(|error| format!("`{}`: {error}", path.display()))?;
    if all.is_empty() {
        return Err(format!("there is no PEM certificate in `{}`", path.display()));
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map_err(|_may_quote| format!("there is no PEM private key in `{}`", path.display()))
}

/// A small file; a pipe would be waited for, so it is none.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("cannot read `{shown}`: {error}");
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return Err(format!("`{shown}` is no file of at most {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read(path).map_err(failed)
}
