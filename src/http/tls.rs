//! Certificates of the listeners: read at start, and again when their files change.
//!
//! Beside the path. A listener takes the certificates that `SharedTls` holds when a client connects. Only
//! `CertificateWatcher` replaces them, and only with a complete set: if a file cannot be read or parsed, or key and
//! certificate do not match, the old certificates stay in force, and log, metric and audit say so once per change. The
//! same holds for a certificate that expired or is not valid yet, while the old one is valid: clients would refuse it.
//! One that is not valid yet is taken up when it becomes valid. At start there is no better certificate, so the gate
//! starts and warns.
//!
//! The trust in clients' certificates (`trust.rs`: authorities and revocation lists) is replaced with them. It goes
//! into force before the configuration of new handshakes, and open connections verify their certificates again under
//! it.
//!
//! A deployment replaces the files one after the other. A change therefore counts only if the content is still the same
//! after `CHANGE_QUIET`; a half-replaced set that is older than that is rejected, and the next look finds the rest.
//!
//! TLS sessions are never resumed under other certificates than their own (each configuration has its own ticket keys),
//! and not at all where clients must present certificates: those are checked on every connection.

mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit::{AdminAct, AdminEvent, Audit, Event};
use crate::base::certificates::Validity;
use crate::base::clock::unix_seconds;
use crate::base::digest::sha256_of;
use crate::base::files::{ReadError, read_small};
use crate::base::metrics::Metrics;
use crate::config::{Issuer, Tls};
use crate::http::client_certificate::{ClientTrust, SharedTrust};
use crate::http::listener::{ALPN_HTTP2, SharedTls};

const ALPN_HTTP1: &[u8] = b"http/1.1";
/// A client that offers only this protocol is served like any other.
const ALPN_HTTP1_0: &[u8] = b"http/1.0";
/// Largest file, in bytes; a thousand certificates fit.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A change counts if the content is still the same after this time.
const CHANGE_QUIET: Duration = Duration::from_millis(50);

/// A problem of one certificate file, with its configuration key.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{}` ({key}) {problem}", file.display())]
pub struct CertificateError {
    key: String,
    file: PathBuf,
    problem: String,
}

/// The files of one listener.
#[derive(Clone)]
struct ListenerFiles {
    /// `proxy` or `decision`.
    listener: &'static str,
    tls: Tls,
    issuers: Vec<IssuerFile>,
}

/// The authorities of one entry of `client_certificates`.
#[derive(Clone)]
struct IssuerFile {
    /// Index into `Config::issuers`.
    index: usize,
    /// Index into `client_certificates`.
    entry: usize,
    /// `None`: every authority of the listener.
    ca: Option<PathBuf>,
}

impl CertificateError {
    /// The configuration key that names the file.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The file and its problem, without the key.
    pub fn problem(&self) -> String {
        format!("`{}` {}", self.file.display(), self.problem)
    }
}

/// The label of `tls_reload_total{result}`.
#[derive(Clone, Copy, Debug)]
enum ReloadResult {
    Success,
    Rejected,
}

/// One listener's certificates.
pub struct Certificates {
    files: ListenerFiles,
    shared: SharedTls,
    trust: SharedTrust,
    /// Digest of the files' content at the last look.
    seen: [u8; 32],
    /// Of the certificate in force.
    validity: Option<Validity>,
    /// Unix seconds at which a rejected certificate is looked at again although its files did not change.
    look_again_at: Option<i64>,
}

/// Looks at the files of all listeners periodically, and replaces certificates that changed.
pub struct CertificateWatcher {
    pub certificates: Vec<Certificates>,
    pub poll: Duration,
    pub metrics: Metrics,
    pub audit: Audit,
    /// Written when the trust in clients' certificates changes, so that live connections are checked.
    pub reloads: watch::Sender<u64>,
}

/// The content of the files, or the problem with reading one.
struct Contents {
    cert: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    client_ca: Option<Result<Vec<u8>, String>>,
    client_crl: Option<Result<Vec<u8>, String>>,
    /// The authorities of each entry of `client_certificates`.
    issuers: Vec<Option<Result<Vec<u8>, String>>>,
}

/// One of a listener's files, with the configuration key that names it.
struct CertificateFile<'a> {
    key: String,
    path: &'a Path,
}

impl ListenerFiles {
    /// `name`: the last part of the key.
    fn file<'a>(&self, name: &str, path: &'a Path) -> CertificateFile<'a> {
        CertificateFile {
            key: format!("listen.{}.tls.{name}", self.listener),
            path,
        }
    }
}

impl IssuerFile {
    /// Those of the configuration's issuers that client certificates prove.
    fn all(issuers: &[Issuer]) -> Vec<Self> {
        let rules = issuers.iter().enumerate();
        let rules = rules.filter_map(|(index, issuer)| Some((index, issuer.certificates.as_ref()?)));
        let file = |(entry, (index, rules)): (usize, (usize, &crate::config::CertificateRules))| Self {
            index,
            entry,
            ca: rules.ca.clone(),
        };
        rules.enumerate().map(file).collect()
    }

    fn file<'a>(&self, path: &'a Path) -> CertificateFile<'a> {
        CertificateFile {
            key: format!("client_certificates[{}].ca_file", self.entry),
            path,
        }
    }
}

impl Certificates {
    /// `issuers`: those whose callers prove themselves by a certificate on this listener.
    ///
    /// # Errors
    /// A file is missing, is malformed, or does not match the others; the error names it.
    pub fn load(listener: &'static str, tls: &Tls, issuers: &[Issuer]) -> Result<Self, CertificateError> {
        let files = ListenerFiles {
            listener,
            tls: tls.clone(),
            issuers: IssuerFile::all(issuers),
        };
        let contents = Contents::read(&files);
        let loaded = server_config(&files, &contents)?;
        Ok(Self {
            files,
            trust: Arc::new(ArcSwapOption::new(loaded.trust)),
            shared: Arc::new(ArcSwap::from_pointee(loaded.config)),
            seen: contents.digest(),
            validity: loaded.validity,
            look_again_at: None,
        })
    }

    pub fn shared(&self) -> SharedTls {
        Arc::clone(&self.shared)
    }

    /// The trust in clients' certificates.
    pub fn trust(&self) -> SharedTrust {
        Arc::clone(&self.trust)
    }

    /// Puts changed files in force once they hold still. `None`: there is no finished change.
    async fn reload_if_changed(&mut self) -> Option<Result<(), CertificateError>> {
        let digest = self.read().await?.digest();
        let is_due = self.look_again_at.is_some_and(|at| at <= unix_seconds());
        if digest == self.seen && !is_due {
            return None;
        }
        tokio::time::sleep(CHANGE_QUIET).await;
        let contents = self.read().await?;
        if digest != contents.digest() {
            return None;
        }
        // noted even if it is rejected, so that a bad pair is reported once
        self.seen = digest;
        self.look_again_at = None;
        let loaded = server_config(&self.files, &contents);
        Some(loaded.and_then(|loaded| self.put_in_force(loaded)))
    }

    /// # Errors
    /// The certificate is not valid now, and the one in force is.
    fn put_in_force(&mut self, loaded: LoadedTls) -> Result<(), CertificateError> {
        let now = unix_seconds();
        let in_force = self.validity.filter(|validity| validity.problem_at(now).is_none());
        if let (Some(in_force), Some(new)) = (in_force, loaded.validity)
            && let Some(problem) = new.problem_at(now)
        {
            // after that second the one in force is no better
            self.look_again_at = (new.not_before > now).then(|| new.not_before.min(in_force.not_after.saturating_add(1)));
            return Err(self.files.file("cert", &self.files.tls.cert).error(problem));
        }
        self.validity = loaded.validity;
        self.trust.store(loaded.trust);
        self.shared.store(Arc::new(loaded.config));
        Ok(())
    }

    /// Reads on another thread: this one answers probes.
    async fn read(&self) -> Option<Contents> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || Contents::read(&files)).await.ok()
    }

    fn publish_expiry(&self, metrics: &Metrics) {
        let Some(validity) = self.validity else { return };
        let gauge = &metrics.tls.certificate_expiry;
        gauge.with_label_values(&[self.files.listener]).set(validity.not_after);
        if let Some(problem) = validity.problem_at(unix_seconds()) {
            let file = self.files.tls.cert.display();
            tracing::warn!(listener = self.files.listener, %file, "the certificate {problem}; clients will refuse it");
        }
    }
}

impl CertificateWatcher {
    /// Runs until `stop` is cancelled.
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
                if let Some(outcome) = certificates.reload_if_changed().await {
                    if outcome.is_ok() {
                        self.reloads.send_modify(|count| *count = count.wrapping_add(1));
                    }
                    report(certificates, outcome, &self.metrics, &self.audit);
                }
            }
        }
    }
}

fn report(certificates: &Certificates, outcome: Result<(), CertificateError>, metrics: &Metrics, audit: &Audit) {
    let listener = certificates.files.listener;
    let (result, event, detail) = match outcome {
        Ok(()) => {
            tracing::info!(listener, "new certificates in force");
            certificates.publish_expiry(metrics);
            (ReloadResult::Success, AdminAct::TlsReloaded, format!("listener {listener}"))
        }
        Err(error) => {
            tracing::warn!(listener, %error, "certificates rejected; the old ones stay in force");
            (
                ReloadResult::Rejected,
                AdminAct::TlsRejected,
                format!("listener {listener}: {error}"),
            )
        }
    };
    metrics.tls.reload.with_label_values(&[listener, result.as_str()]).inc();
    audit.send(&Event::Admin(AdminEvent {
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
    fn read(files: &ListenerFiles) -> Self {
        let tls = &files.tls;
        Self {
            cert: read(&tls.cert),
            key: read(&tls.key),
            client_ca: tls.client_ca.as_deref().map(read),
            client_crl: tls.client_crl.as_deref().map(read),
            issuers: files.issuers.iter().map(|issuer| issuer.ca.as_deref().map(read)).collect(),
        }
    }

    /// Identifies the content, so that private keys are compared without being stored.
    fn digest(&self) -> [u8; 32] {
        let own = [
            Some(&self.cert),
            Some(&self.key),
            self.client_ca.as_ref(),
            self.client_crl.as_ref(),
        ];
        let issuers = self.issuers.iter().map(Option::as_ref);
        let contents: Vec<Content<'_>> = own.into_iter().chain(issuers).flatten().map(Content::of).collect();
        let parts: Vec<&[u8]> = contents
            .iter()
            .flat_map(|content| [&content.kind[..], &content.length[..], content.bytes])
            .collect();
        sha256_of(&parts)
    }
}

/// One file's content, or its problem, as the digest takes it.
struct Content<'a> {
    kind: [u8; 1],
    length: [u8; size_of::<usize>()],
    bytes: &'a [u8],
}

impl<'a> Content<'a> {
    fn of(content: &'a Result<Vec<u8>, String>) -> Self {
        let (kind, bytes): (u8, &[u8]) = match content {
            Ok(bytes) => (1, bytes),
            Err(problem) => (0, problem.as_bytes()),
        };
        Self {
            kind: [kind],
            length: bytes.len().to_be_bytes(),
            bytes,
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    read_small(file, FILE_BYTES_MAX).map_err(|error| match error {
        ReadError::Io(error) => format!("cannot be read: {error}"),
        ReadError::NotSmall { max } => format!("is not a regular file of at most {max} bytes"),
    })
}

impl CertificateFile<'_> {
    fn error(&self, problem: impl Into<String>) -> CertificateError {
        CertificateError {
            key: self.key.clone(),
            file: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    fn bytes<'b>(&self, content: &'b Result<Vec<u8>, String>) -> Result<&'b [u8], CertificateError> {
        content.as_deref().map_err(|problem| self.error(problem))
    }

    fn certificates(&self, content: &Result<Vec<u8>, String>) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.bytes(content)?).collect();
        match all {
            Ok(certificates) if certificates.is_empty() => Err(self.error("contains no certificate in PEM")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.error(format!("is not valid PEM: {error}"))),
        }
    }
}

/// A configuration that can be put in force.
struct LoadedTls {
    config: ServerConfig,
    trust: Option<Arc<ClientTrust>>,
    validity: Option<Validity>,
}

fn server_config(files: &ListenerFiles, contents: &Contents) -> Result<LoadedTls, CertificateError> {
    let cert = files.file("cert", &files.tls.cert);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pair = certified_key(&cert, &files.file("key", &files.tls.key), contents, &provider)?;
    let validity = pair.cert.first().and_then(Validity::of);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| cert.error(format!("cannot be used: {error}")))?;
    let trust = trust::client_trust(files, contents, &provider)?.map(Arc::new);
    let builder = match &trust {
        None => builder.with_no_client_auth(),
        Some(trust) => builder.with_client_cert_verifier(Arc::clone(&trust.verifier)),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = [ALPN_HTTP2, ALPN_HTTP1, ALPN_HTTP1_0].map(<[u8]>::to_vec).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if trust.is_none() {
        let tickets = aws_lc_rs::Ticketer::new();
        config.ticketer = tickets.map_err(|error| cert.error(format!("cannot be used: {error}")))?;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(LoadedTls { config, trust, validity })
}

fn certified_key(
    cert: &CertificateFile<'_>,
    key: &CertificateFile<'_>,
    contents: &Contents,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let chain = cert.certificates(&contents.cert)?;
    let private = PrivateKeyDer::from_pem_slice(key.bytes(&contents.key)?);
    // SECURITY: the parser's errors may quote the file
    let private = private.map_err(|_may_quote| key.error("contains no private key in PEM"))?;
    let signer = provider.key_provider.load_private_key(private);
    let signer = signer.map_err(|error| key.error(format!("contains a private key that cannot be used: {error}")))?;
    let pair = CertifiedKey::new(chain, signer);
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let file = cert.path.display();
            Err(key.error(format!("is not the private key of the certificate in `{file}`")))
        }
        Err(error) => Err(cert.error(format!("cannot be used: {error}"))),
    }
}
