//! Checks the files that a connection to Redis needs, at start-up, before there is a connection.

use std::path::Path;

use cedargate_policy::types::Redacted;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::base::files::{ReadError, read_secret, read_small};
use crate::config::{self, Secret};

/// Maximum size of a password or PEM file in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Returns every file that cannot be used: its config key below `sessions.redis`, and the error.
pub fn check_files(config: &config::Redis) -> Vec<(&'static str, String)> {
    let mut unusable = Vec::new();
    if let Some(Secret::File(path)) = &config.password {
        unusable.extend(read_password(path).err().map(|error| ("password_file", error)));
    }
    if let Some(ca) = &config.tls.ca {
        unusable.extend(check_authorities(ca).err().map(|error| ("tls.ca", error)));
    }
    if let Some((cert, key)) = &config.tls.identity {
        let chain = certificates(cert).map_err(|error| ("tls.cert", error));
        let private = private_key(key).map_err(|error| ("tls.key", error));
        match (chain, private) {
            (Ok(chain), Ok(private)) => {
                let pair = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider());
                unusable.extend(pair.err().map(|error| ("tls.key", format!("`{}`: {error}", key.display()))));
            }
            (chain, private) => unusable.extend(chain.err().into_iter().chain(private.err())),
        }
    }
    unusable
}

/// Reads the password; the error names the file.
pub(super) fn read_password(path: &Path) -> Result<Redacted<String>, String> {
    read_secret(path, FILE_BYTES_MAX).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
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

/// Reads a small regular file; the error names the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    read_small(path, FILE_BYTES_MAX).map_err(|error| match error {
        ReadError::Io(error) => format!("cannot read `{shown}`: {error}"),
        ReadError::NotSmall { max } => format!("`{shown}` is not a regular file of at most {max} bytes"),
    })
}
