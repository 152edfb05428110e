//! A TLS client that trusts one authority, with or without a certificate of its own.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::certificates::{Authority, Pair};

/// A client that trusts this authority.
pub struct Trust<'a> {
    pub authority: &'a Authority,
    pub own: Option<&'a Pair>,
    pub alpn: Vec<&'a str>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

impl<'a> Trust<'a> {
    pub fn in_(authority: &'a Authority) -> Self {
        Self {
            authority,
            own: None,
            alpn: Vec::new(),
            versions: vec![&TLS13, &TLS12],
        }
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A connection to the host `shop.test`, after the handshake.
pub fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from("shop.test").unwrap()).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut tls = StreamOwned::new(connection, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}
