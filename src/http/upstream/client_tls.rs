//! TLS to the app: the trusted authorities, the gate's client certificate, and the HTTP versions that the gate offers.
//!
//! Start-up reads the files once; an unusable file is a start error that names file and key. The code names the crypto
//! provider here and never uses the process's default, so that no other library can change which certificates the gate
//! trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::base::certificates::{Validity, has_system_authorities};
use crate::base::clock::unix_seconds;
use crate::base::files::read_small;
use crate::config::{Protocol, Upstream, UpstreamTls, UpstreamUrl};

/// Bytes of a certificate or key file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// An error of setting up TLS to an app.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the configuration cannot be used.
    #[error("`upstream.tls.{key}`, `{}`: {reason}", file.display())]
    File {
        /// The key below `upstream.tls`.
        key: &'static str,
        /// The path as configured.
        file: PathBuf,
        /// The problem of the file.
        reason: String,
    },
    /// The name for the check of the app's certificate is not usable.
    #[error("`upstream.tls.server_name`: `{0}` is neither a host name nor an address")]
    ServerName(String),
    /// The system's authorities or the TLS library failed.
    #[error("TLS to the app at `{origin}` cannot be set up: {source}; name its authority in `upstream.tls.ca`")]
    Library {
        /// The app's origin.
        origin: String,
        /// The library's error.
        source: rustls::Error,
    },
}

/// The settings of a TLS handshake with one app.
#[derive(Debug)]
pub(super) struct ClientTls {
    /// Offers the HTTP versions that `upstream.protocol` allows.
    pub all_versions: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only; for upgrades.
    pub http1_only: Arc<ClientConfig>,
    pub server_name: ServerName<'static>,
}

impl ClientTls {
    /// Reads the files and builds the settings; `None` for an app without TLS.
    pub fn load(upstream: &Upstream) -> Result<Option<Self>, TlsError> {
        let UpstreamUrl::Https(authority) = &upstream.url else {
            return Ok(None);
        };
        let name = upstream.tls.server_name.as_deref().unwrap_or(authority.dialled());
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_invalid| TlsError::ServerName(name.to_owned()))?;
        let mut config = client_config(&upstream.tls, &upstream.url.origin())?;
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        let http1_only = Arc::new(config.clone());
        config.alpn_protocols = match upstream.protocol {
            Protocol::Auto => vec![H2.to_vec(), HTTP_1_1.to_vec()],
            Protocol::Http1 => vec![HTTP_1_1.to_vec()],
            Protocol::Http2 => vec![H2.to_vec()],
        };
        Ok(Some(Self {
            all_versions: Arc::new(config),
            http1_only,
            server_name,
        }))
    }
}

/// True if the handshake chose HTTP/2.
pub(super) fn chose_http2(alpn: Option<&[u8]>) -> bool {
    alpn == Some(H2)
}

fn client_config(tls: &UpstreamTls, origin: &str) -> Result<ClientConfig, TlsError> {
    let library = |source| TlsError::Library {
        origin: origin.to_owned(),
        source,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(library)?;
    let builder = match &tls.ca {
        Some(file) => with_authorities(builder, file)?,
        None if has_system_authorities() => builder.with_platform_verifier().map_err(library)?,
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let chain = read_certificates("cert", cert)?;
            warn_outside_validity(cert, &chain);
            let pem = read_file("key", key)?;
            let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable_file("key", key, &error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| unusable_file("key", key, &error))
        }
    }
}

/// The gate starts all the same: an app may not check the time, and requests to other apps must work.
fn warn_outside_validity(file: &Path, chain: &[CertificateDer<'_>]) {
    let validity = chain.first().and_then(Validity::of);
    if let Some(problem) = validity.and_then(|validity| validity.problem_at(unix_seconds())) {
        let file = file.display();
        tracing::warn!(%file, "the gate's certificate for the app {problem}; the app will refuse it (`upstream.tls.cert`)");
    }
}

type WithAuthorities = ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn with_authorities(builder: ConfigBuilder<ClientConfig, WantsVerifier>, file: &Path) -> Result<WithAuthorities, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in read_certificates("ca", file)? {
        roots.add(authority).map_err(|error| unusable_file("ca", file, &error))?;
    }
    Ok(builder.with_root_certificates(roots))
}

fn read_certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_file(key, file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = read.map_err(|error| unusable_file(key, file, &error))?;
    if certificates.is_empty() {
        return Err(unusable_file(key, file, &"holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn read_file(key: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    read_small(file, FILE_BYTES_MAX).map_err(|error| unusable_file(key, file, &error))
}

fn unusable_file(key: &'static str, file: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        key,
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}
