//! TLS to the app: what is trusted, who the gate says it is, and which HTTP it offers.
//!
//! Read once at start; a file that does not hold is a start error that names file and key. The provider is named
//! here and never the process's default, so that no other library can change what the gate trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::config::{Protocol, Upstream, UpstreamTls, UpstreamUrl};

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Why TLS to an app cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the configuration cannot be used.
    #[error("`upstream.tls.{key}`, `{}`: {reason}", file.display())]
    File {
        /// Below `upstream.tls`.
        key: &'static str,
        /// As configured.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no name to check the app's certificate for.
    #[error("`upstream.tls.server_name`: `{0}` is neither a host name nor an address")]
    ServerName(String),
    /// The system's authorities, or the library, do not work.
    #[error("TLS to the app at `{origin}` cannot be set up: {source}; name its authority in `upstream.tls.ca`")]
    Library {
        /// Which app.
        origin: String,
        /// What the library said.
        source: rustls::Error,
    },
}

/// Everything a handshake needs.
#[derive(Debug)]
pub(super) struct Tls {
    /// Offers what `upstream.protocol` allows.
    pub any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone: for upgrades.
    pub http1: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl Tls {
    /// `None` for an app without TLS.
    pub fn load(upstream: &Upstream) -> Result<Option<Self>, TlsError> {
        let UpstreamUrl::Https(authority) = &upstream.url else {
            return Ok(None);
        };
        let name = upstream.tls.server_name.as_deref().unwrap_or(authority.dialled());
        let name = ServerName::try_from(name.to_owned()).map_err(|_invalid| TlsError::ServerName(name.to_owned()))?;
        let mut config = client(&upstream.tls, &upstream.url.origin())?;
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        let http1 = Arc::new(config.clone());
        config.alpn_protocols = match upstream.protocol {
            Protocol::Auto => vec![H2.to_vec(), HTTP_1_1.to_vec()],
            Protocol::Http1 => vec![HTTP_1_1.to_vec()],
            Protocol::Http2 => vec![H2.to_vec()],
        };
        Ok(Some(Self {
            any: Arc::new(config),
            http1,
            name,
        }))
    }
}

/// Whether the handshake chose HTTP/2.
pub(super) fn chose_http2(alpn: Option<&[u8]>) -> bool {
    alpn == Some(H2)
}

fn client(tls: &UpstreamTls, origin: &str) -> Result<ClientConfig, TlsError> {
    let library = |source| TlsError::Library {
        origin: origin.to_owned(),
        source,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(library)?;
    let builder = match &tls.ca {
        Some(file) => trusting(builder, file)?,
        None => builder.with_platform_verifier().map_err(library)?,
    };
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let chain = certificates("cert", cert)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("key", key, &error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| unusable("key", key, &error))
        }
    }
}

type Trusting = ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn trusting(builder: ConfigBuilder<ClientConfig, WantsVerifier>, file: &Path) -> Result<Trusting, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("ca", file)? {
        roots.add(authority).map_err(|error| unusable("ca", file, &error))?;
    }
    Ok(builder.with_root_certificates(roots))
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unusable(key, file, &error))?;
    if certificates.is_empty() {
        return Err(unusable(key, file, &"holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn unusable(key: &'static str, file: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        key,
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}
