//! The composition root: loads certificates, binds listeners, builds the gate, starts its threads.
//!
//! `start` binds every listener before it builds anything, so that a port conflict is an error at start and leaves
//! nothing behind. Requests run on worker threads with one runtime each; workers share immutable snapshots and atomic
//! counters. Everything else (policies, keys, sessions, admin, decision records) runs on threads of its own and never
//! on a worker.
//!
//! `build` makes the shared parts, `bind` the sockets, `background` and `workers` the threads, `shutdown` their end.

mod assertion_keys;
mod background;
mod bind;
mod build;
mod files;
mod shared_rates;
mod shutdown;
mod warnings;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cedargate_policy::portal::PortalError;
use tokio::runtime::LocalOptions;

use crate::accounts::AccountsError;
use crate::audit::{AdminAct, AdminEvent, AuditError, Event, HttpRejected};
use crate::authn::{AssertionError, AuthnError};
use crate::base::certificates::warn_without_authorities;
use crate::base::descriptors::{self, Shares};
use crate::config::{Config, Limits};
use crate::gate::Gate;
use crate::http::listener::{ConnectionCount, ListenerContext, PeerAddr, Rejected};
use crate::http::pages::ThemeError;
use crate::http::tls::CertificateError;
use crate::http::upstream::TlsError;
use crate::login::LoginError;
use crate::session::SessionsError;
use background::Background;
pub use bind::Addresses;
use bind::Bound;
use build::{ListenerTls, Parts};
pub(crate) use files::check_files;
pub use shutdown::{Running, ShutdownHandle};
pub(crate) use warnings::warnings_before_start;
use workers::Workers;

/// Stack of every thread: policies are read and evaluated recursively, and `load::nesting` of the policy crate accepts
/// only policies that fit into it. The kernel backs only pages that were touched.
pub(crate) const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Pause between two sweeps of idle connections to the app and of rate-limit counters.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the session store at start. The gate starts without it, too; the wait only saves the first requests
/// of a new replica from 503.
const SESSION_STORE_WAIT: Duration = Duration::from_secs(2);

/// The gate did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be used.
    #[error("cannot listen on {address} (listen.{listener}.address): {source}")]
    Bind {
        /// `proxy`, `decision`, `ext_authz`, `admin` or `control`.
        listener: &'static str,
        /// The configured address.
        address: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The decision log cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// An issuer's keys have no usable source.
    #[error(transparent)]
    Authn(#[from] AuthnError),
    /// There is no key to sign assertions with.
    #[error(transparent)]
    Assertion(#[from] AssertionError),
    /// A listener's certificate, key or authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] CertificateError),
    /// TLS to an app cannot be set up.
    #[error(transparent)]
    UpstreamTls(#[from] TlsError),
    /// Two portals claim the same traffic.
    #[error(transparent)]
    Portals(#[from] PortalError),
    /// The session store or its keys cannot be used.
    #[error(transparent)]
    Sessions(#[from] SessionsError),
    /// A login provider cannot be used.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The policy bundle cannot be followed.
    #[error("policies.bundle: {0}")]
    Bundle(String),
    /// The local accounts cannot be used.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// The pages' logo cannot be used.
    #[error(transparent)]
    Theme(#[from] ThemeError),
    /// Two metrics share a name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The thread that loads policies ended before its first load.
    #[error("the policies could not be loaded; report this as a bug")]
    Loading,
    /// A thread or runtime could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Starts a gate. `watched` are the configuration's files: when they change, `restart_required` reports it.
///
/// # Errors
/// Anything that keeps the gate from starting. A portal that does not load is not an error here; it denies.
pub fn start(config: Config, watched: Vec<PathBuf>) -> Result<Running, StartError> {
    for warning in warnings::warnings(&config) {
        tracing::warn!("{warning}");
    }
    // said at start, not at the first login
    warn_without_authorities();
    let shares = share_descriptors(&config.limits);
    let tls = ListenerTls::load(&config, &shares)?;
    let bound = Bound::bind(&config)?;
    let parts = Parts::build(config, watched)?;
    let background = Background::spawn(parts.background, tls.certificates, bound.operations, &bound.addresses)?;
    background.wait_for_first_load()?;
    wait_for_session_store(&parts.gate);
    parts.session_store.done();
    record_start(&parts.gate);
    let workers = Workers::spawn(&parts.gate, bound.traffic, &tls.options, &shares, &parts.shutdown)?;
    bound.addresses.log();
    Ok(Running {
        addresses: bound.addresses,
        trigger: parts.trigger,
        shutdown: parts.shutdown,
        gate: parts.gate,
        workers: workers.threads,
        background: background.threads,
        reload_requests: parts.reload_requests,
        audit: parts.audit_writer,
        files: bound.files,
    })
}

/// Starts a gate from a configuration's text; relative paths in it start at `folder`. For tests that embed a gate.
///
/// # Errors
/// Every mistake in the text as one message, or the reason why the gate did not start.
pub fn start_from_yaml(text: &str, folder: &Path) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
    let loaded = crate::config::from_str(text, folder, std::iter::empty()).map_err(|e| e.to_string())?;
    Ok(start(loaded.config, loaded.watched)?)
}

/// Raises the limit of open files and divides it; says so if it is too small for the configuration.
fn share_descriptors(limits: &Limits) -> Shares {
    let limit = descriptors::raise();
    let wanted = descriptors::Wanted {
        workers: u64::try_from(limits.workers()).unwrap_or(u64::MAX),
        clients: limits.connections.get().into(),
        decisions: limits.decision_connections.get().into(),
        operations: u64::from(limits.admin_connections.get()) + u64::from(limits.control_connections.get()),
    };
    let shares = descriptors::share(limit, &wanted);
    let connections = shares.connections;
    let text = "the limit of open files (`ulimit -n`) is too small for `limits.connections`, so the proxy listener accepts fewer";
    match connections {
        enough if enough >= wanted.clients => {}
        most if most >= wanted.clients / 2 => tracing::info!(limit, needed = shares.needed, connections, "{text}"),
        _few => tracing::warn!(limit, needed = shares.needed, connections, "{text}"),
    }
    shares
}

fn wait_for_session_store(gate: &Gate) {
    if !gate.sessions.wait_for_store(SESSION_STORE_WAIT) {
        tracing::warn!("the session store does not answer yet; starting without it");
    }
}

fn record_start(gate: &Gate) {
    gate.audit.send(&Event::Admin(AdminEvent {
        event: AdminAct::Started,
        detail: Some(format!("version {}", env!("CARGO_PKG_VERSION"))),
    }));
}

/// The state that all connections of one listener share; rejected bytes get an `http_rejected` record.
fn listener_context(gate: &Arc<Gate>, count: ConnectionCount) -> ListenerContext {
    let audit = gate.audit.clone();
    let on_rejected = move |reason: Rejected, peer: PeerAddr| audit.send(&rejected_event(reason, peer));
    ListenerContext::new(&gate.config.limits, count, &gate.metrics, Box::new(on_rejected))
}

/// The record of bytes that never became a request.
fn rejected_event(reason: Rejected, peer: PeerAddr) -> Event {
    Event::HttpRejected(HttpRejected {
        reason: reason.as_str(),
        limit: reason.limit(),
        peer: Some(peer.ip()),
    })
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)
}

/// Starts a thread whose runtime spawns tasks that stay on it. Returns once the runtime exists, or could not be made.
fn local_thread<F>(name: &str, run: impl FnOnce() -> F + Send + 'static) -> std::io::Result<JoinHandle<()>>
where
    F: Future<Output = ()>,
{
    let (made, is_made) = std::sync::mpsc::sync_channel(1);
    let handle = thread(name, move || {
        let runtime = runtime_builder().build_local(LocalOptions::default());
        let (runtime, result) = match runtime {
            Ok(runtime) => (Some(runtime), Ok(())),
            Err(error) => (None, Err(error)),
        };
        if made.send(result).is_ok()
            && let Some(runtime) = runtime
        {
            runtime.block_on(run());
        }
    })?;
    is_made
        .recv()
        .unwrap_or_else(|_ended| Err(std::io::Error::other("the thread ended before it began")))?;
    Ok(handle)
}

fn runtime_builder() -> tokio::runtime::Builder {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // blocking tasks evaluate policies, too
    builder.enable_all().thread_stack_size(STACK_BYTES);
    builder
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::base::metrics::Metrics;
    use crate::config::{AuditSink, FileSink};

    #[test]
    fn every_rejection_of_bytes_has_a_record_of_the_published_shape() {
        let schema: Value = serde_json::from_str(include_str!("../schemas/audit-event.schema.json")).unwrap();
        let published = &schema["$defs"]["http_rejected"]["properties"]["reason"]["enum"];
        let published: BTreeSet<&str> = published.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let recorded: BTreeSet<&str> = Rejected::recorded().map(Rejected::as_str).collect();
        assert_eq!(published, recorded);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log.jsonl");
        let config = crate::config::Audit {
            sink: AuditSink::File(FileSink::plain(&file)),
            ..crate::config::Audit::default()
        };
        let (audit, writer) = crate::audit::start(&config, &Metrics::new().unwrap()).unwrap();
        for reason in Rejected::recorded() {
            audit.send(&rejected_event(reason, PeerAddr::Tcp("10.0.0.1:1".parse().unwrap())));
        }
        writer.close();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), recorded.len());
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(validator.is_valid(&line), "{line}");
        }
    }
}
