//! Certificates of the listeners: read at start, and again when their files change.
//!
//! Beside the path. A listener takes whatever `SharedTls` holds when a client connects; only `Watcher` swaps it, and only
//! for files that make a whole: what cannot be read, parsed or paired leaves the old certificates in force and says so.
//! Sessions are never resumed under other certificates than those they began with, and not at all where clients must
//! present certificates: those are checked every time.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::aws_lc_rs::digest::{Context, SHA256};
use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::audit::{AdminEvent, Audit, Event};
use crate::base::metrics::Metrics;
use crate::config::Tls;
use crate::http::listener::{ALPN_HTTP2, SharedTls};

const ALPN_HTTP1: &[u8] = b"http/1.1";
/// A client that names only this one is served like any other.
const ALPN_HTTP1_0: &[u8] = b"http/1.0";
/// Largest file that is read; a thousand certificates fit.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A change counts if it is still the same after so long.
const CHANGE_QUIET: Duration = Duration::from_millis(50);

/// Why files cannot be served with.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{}` ({key}) {problem}", file.display())]
pub struct CertificateError {
    key: String,
    file: PathBuf,
    problem: String,
}

/// The label of `tls_reload_total{result}`.
#[derive(Clone, Copy, Debug)]
enum ReloadResult {
    Success,
    Rejected,
}

/// One listener's certificates.
pub struct Certificates {
    /// `proxy` or `decision`.
    listener: &'static str,
    files: Tls,
    shared: SharedTls,
    /// What the files held when they were last looked at.
    seen: [u8; 32],
    /// Unix seconds after which the certificate is no good.
    expiry: Option<i64>,
}

/// Looks at the files now and then, and swaps.
pub struct Watcher {
    pub certificates: Vec<Certificates>,
    pub poll: Duration,
    pub metrics: Metrics,
    pub audit: Audit,
}

/// The files' content, or why there is none.
struct Contents {
    cert: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    client_ca: Option<Result<Vec<u8>, String>>,
}

/// A file with the configuration key that names it.
struct Place<'a> {
    listener: &'static str,
    name: &'static str,
    file: &'a Path,
}

impl Certificates {
    /// # Errors
    /// Names the file that is missing, broken or does not fit the others.
    pub fn load(listener: &'static str, files: &Tls) -> Result<Self, CertificateError> {
        let contents = Contents::read(files);
        let (config, expiry) = server_config(listener, files, &contents)?;
        Ok(Self {
            listener,
            files: files.clone(),
            shared: Arc::new(ArcSwap::from_pointee(config)),
            seen: contents.digest(),
            expiry,
        })
    }

    pub fn shared(&self) -> SharedTls {
        Arc::clone(&self.shared)
    }

    /// Takes the files if they changed and hold still. `None`: nothing to do.
    async fn look(&mut self) -> Option<Result<(), CertificateError>> {
        let digest = self.read().await?.digest();
        if digest == self.seen {
            return None;
        }
        tokio::time::sleep(CHANGE_QUIET).await;
        let contents = self.read().await?;
        if digest != contents.digest() {
            return None;
        }
        // a bad pair is said once, not at every look
        self.seen = digest;
        Some(server_config(self.listener, &self.files, &contents).map(|(config, expiry)| {
            self.expiry = expiry;
            self.shared.store(Arc::new(config));
        }))
    }

    /// Off this thread: it answers probes.
    async fn read(&self) -> Option<Contents> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || Contents::read(&files)).await.ok()
    }

    fn publish_expiry(&self, metrics: &Metrics) {
        let Some(expiry) = self.expiry else { return };
        let gauge = &metrics.tls.certificate_expiry;
        gauge.with_label_values(&[self.listener]).set(expiry);
        if expiry <= unix_seconds() {
            let file = self.files.cert.display();
            tracing::warn!(listener = self.listener, %file, "the certificate has expired; clients will refuse it");
        }
    }
}

impl Watcher {
    /// Until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        for certificates in &self.certificates {
            certificates.publish_expiry(&self.metrics);
        }
        if self.certificates.is_empty() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.poll) => {}
            }
            for certificates in &mut self.certificates {
                if let Some(outcome) = certificates.look().await {
                    report(certificates, outcome, (&self.metrics, &self.audit));
                }
            }
        }
    }
}

fn report(certificates: &Certificates, outcome: Result<(), CertificateError>, (metrics, audit): (&Metrics, &Audit)) {
    let listener = certificates.listener;
    let (result, event, detail) = match outcome {
        Ok(()) => {
            tracing::info!(listener, "new certificates in force");
            certificates.publish_expiry(metrics);
            (ReloadResult::Success, "tls_reloaded", format!("listener {listener}"))
        }
        Err(error) => {
            tracing::warn!(listener, %error, "certificates rejected; the old ones stay in force");
            (
                ReloadResult::Rejected,
                "tls_rejected",
                format!("listener {listener}: {error}"),
            )
        }
    };
    metrics.tls.reload.with_label_values(&[listener, result.as_str()]).inc();
    audit.send(Event::Admin(AdminEvent {
        event,
        detail: Some(detail),
    }));
}

impl ReloadResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejected => "rejected",
        }
    }
}

impl Contents {
    fn read(files: &Tls) -> Self {
        Self {
            cert: read(&files.cert),
            key: read(&files.key),
            client_ca: files.client_ca.as_deref().map(read),
        }
    }

    /// Keys are compared without being kept.
    fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for content in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
        {
            let (kind, bytes): (u8, &[u8]) = match content {
                Ok(bytes) => (1, bytes),
                Err(why) => (0, why.as_bytes()),
            };
            context.update(&[kind]);
            context.update(&bytes.len().to_be_bytes());
            context.update(bytes);
        }
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        digest
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let about = std::fs::metadata(file).map_err(unreadable)?;
    // a pipe would be waited for
    if !about.is_file() {
        return Err("is no file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut content = std::fs::File::open(file).map_err(unreadable)?.take(FILE_BYTES_MAX + 1);
    content.read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

impl Place<'_> {
    fn error(&self, problem: impl Into<String>) -> CertificateError {
        CertificateError {
            key: format!("listen.{}.tls.{}", self.listener, self.name),
            file: self.file.to_owned(),
            problem: problem.into(),
        }
    }

    fn bytes<'b>(&self, content: &'b Result<Vec<u8>, String>) -> Result<&'b [u8], CertificateError> {
        content.as_deref().map_err(|problem| self.error(problem))
    }

    fn certificates(&self, content: &Result<Vec<u8>, String>) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.bytes(content)?).collect();
        match all {
            Ok(certificates) if certificates.is_empty() => Err(self.error("holds no certificate in PEM")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.error(format!("is no PEM: {error}"))),
        }
    }
}

/// With the time after which the certificate is no good.
fn server_config(
    listener: &'static str,
    files: &Tls,
    contents: &Contents,
) -> Result<(ServerConfig, Option<i64>), CertificateError> {
    let place = |name, file| Place { listener, name, file };
    let cert = place("cert", &files.cert);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pair = pair(&cert, &place("key", &files.key), contents, &provider)?;
    let expiry = pair.cert.first().and_then(|leaf| not_after(leaf));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| cert.error(format!("cannot be served with: {error}")))?;
    let authorities = files.client_ca.as_deref().zip(contents.client_ca.as_ref());
    let builder = match &authorities {
        None => builder.with_no_client_auth(),
        Some((file, content)) => {
            let place = place("client_ca", file);
            let mut roots = RootCertStore::empty();
            for certificate in place.certificates(content)? {
                let added = roots.add(certificate);
                added.map_err(|error| place.error(format!("holds a certificate that is no authority: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder
                .with_client_cert_verifier(verifier.map_err(|error| place.error(format!("cannot be checked against: {error}")))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = [ALPN_HTTP2, ALPN_HTTP1, ALPN_HTTP1_0].map(<[u8]>::to_vec).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if authorities.is_none() {
        let tickets = aws_lc_rs::Ticketer::new();
        config.ticketer = tickets.map_err(|error| cert.error(format!("cannot be served with: {error}")))?;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok((config, expiry))
}

fn pair(
    cert: &Place<'_>,
    key: &Place<'_>,
    contents: &Contents,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let chain = cert.certificates(&contents.cert)?;
    let private = PrivateKeyDer::from_pem_slice(key.bytes(&contents.key)?);
    // SECURITY: the parser's errors may quote what they found
    let private = private.map_err(|_may_quote| key.error("holds no private key in PEM"))?;
    let signer = provider.key_provider.load_private_key(private);
    let signer = signer.map_err(|error| key.error(format!("holds a private key that cannot be used: {error}")))?;
    let pair = CertifiedKey::new(chain, signer);
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let file = cert.file.display();
            Err(key.error(format!("is not the private key of the certificate in `{file}`")))
        }
        Err(error) => Err(cert.error(format!("cannot be served with: {error}"))),
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
