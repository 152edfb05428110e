//! The composition root: builds the parts, binds every listener, and hands back addresses and a shutdown handle.
//!
//! Everything is bound before anything is served, so a port conflict is an error at start. Traffic runs on worker
//! threads, one runtime each, sharing nothing but snapshots; everything else (reload, keys, admin, records) runs on
//! threads of its own and never on a request's.

mod files;
mod operation;
mod priority;
mod running;
mod shared_rates;

pub(crate) use files::check_files;
pub use running::{Ending, Running};

use operation::Operation;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::accounts::{Accounts, AccountsError};
use crate::audit::{self, AdminEvent, Audit, AuditError, Event, HttpRejected};
use crate::authn::{AssertionError, AssertionKeys, Authn, AuthnError, Introspection};
use crate::base::lifecycle::{Blocker, Readiness, Shutdown, shutdown};
use crate::base::metrics::Metrics;
use crate::config::{Address, Config, ProxyProtocol};
use crate::doors::admin::Admin;
use crate::doors::authorize;
use crate::doors::control::Control;
use crate::doors::login::LoginDoor;
use crate::gate::{Gate, Live, Worker};
use crate::http::listener::{
    AddressCount, ConnectionCount, Entrance, Front, PeerAddr, Rejected, Socket, SocketFile, bind, bind_private, bind_unix, serve,
};
use crate::http::pages::{Theme, ThemeError};
use crate::http::tls::{CertificateError, Certificates, Watcher};
use crate::http::upstream::{Apps, Pool, TlsError, Tunnels};
use crate::limits::{Reach, RequestLimits};
use crate::login::{LoginError, RelyingParty};
use crate::portals::{Portal, Serving};
use crate::reload::Reloader;
use crate::session::{Sessions, SessionsError};
use cedargate_policy::engine::MatchSet;
use cedargate_policy::load::{Loader, Warnings};
use cedargate_policy::portal::PortalError;

/// New slices waiting for their twins; past it they go on with the original policies, which decide the same.
const TWIN_QUEUE: usize = 1024;
/// Stack of every thread: policies are read and evaluated recursively, and `revision::nesting` lets through what fits.
/// Only pages that are touched cost memory.
pub(crate) const STACK_BYTES: usize = 64 * 1024 * 1024;
/// How often idle connections to the app are looked through, and who asked how often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a start waits for the session store, so that the first requests of a new replica find it. It needs none.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Where the gate listens; ports that were 0 in the configuration are the ones it got.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Clients.
    pub proxy: SocketAddr,
    /// The app's own questions, if configured.
    pub(crate) decision: Option<Address>,
    /// Health, metrics and status, if configured.
    pub admin: Option<SocketAddr>,
}

/// Why the gate did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be used.
    #[error("cannot listen on {address} (listen.{listener}.address): {source}")]
    Bind {
        /// `proxy`, `decision`, `admin` or `control`.
        listener: &'static str,
        /// As configured.
        address: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The decision log has nowhere to go.
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
    /// A way to log in cannot be used.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The local accounts cannot be used.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// The pages' logo cannot be used.
    #[error(transparent)]
    Theme(#[from] ThemeError),
    /// Two metrics share a name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The thread that loads policies ended.
    #[error("the policies could not be loaded; report this as a bug")]
    Loading,
    /// A thread or runtime could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Everything bound and nothing served yet.
struct Bound {
    proxy: Vec<std::net::TcpListener>,
    decision: Vec<std::net::TcpListener>,
    decision_unix: Option<std::os::unix::net::UnixListener>,
    admin: Option<std::net::TcpListener>,
    control: Option<std::os::unix::net::UnixListener>,
    files: Vec<SocketFile>,
    addresses: Addresses,
}

/// Starts a gate. `watched` are the configuration's files: when they change, `restart_required` says so.
///
/// # Errors
/// Whatever keeps it from starting; a portal that does not load does not, it denies.
pub fn start(config: Config, watched: Vec<PathBuf>) -> Result<Running, StartError> {
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let metrics = Metrics::new()?;
    let (certificates, entrances) = entrances(&config)?;
    let bound = bind_all(&config)?;
    let (audit, writer) = audit::start(&config.audit, &metrics)?;
    let gate = assemble(config, metrics, audit)?;
    let (trigger, shutdown) = shutdown();
    let (trigger, readiness) = (Arc::new(trigger), Readiness::default());
    let (loading, reading) = (readiness.block("policies"), readiness.block("sessions"));
    let (twins, waiting) = sync_channel(TWIN_QUEUE);
    let mut reloader = Reloader::new(
        Arc::clone(&gate),
        Loader::new(Warnings::Show, Some(twins)),
        &readiness,
        watched,
    );
    let operation = Operation {
        admin: Admin {
            gate: Arc::clone(&gate),
            readiness: readiness.clone(),
            shutdown: shutdown.clone(),
            outcomes: reloader.outcomes(),
        },
        control: Control {
            gate: Arc::clone(&gate),
            trigger: Arc::clone(&trigger),
            shutdown: shutdown.clone(),
            asks: reloader.asks(),
        },
        certificates: Watcher {
            certificates,
            poll: gate.config.policies.poll.get(),
            metrics: gate.metrics.clone(),
            audit: gate.audit.clone(),
        },
    };
    let asks = reloader.asks();
    let mut background = vec![thread("twins", move || make_twins(&waiting))?];
    background.extend(operation.start((bound.admin, bound.control), shutdown.clone())?);
    let (told, (loaded, first)) = (shutdown.clone(), sync_channel(1));
    background.push(thread("reload", move || {
        reloader.first_look();
        loading.done();
        // nobody waits any more only if starting failed
        let _nobody_waits = loaded.send(()).is_err();
        // not before: until now there was no traffic to step back for
        priority::step_back();
        reloader.run(&told);
    })?);
    first.recv().map_err(|_ended| StartError::Loading)?;
    begin(&gate, reading);
    let traffic = Traffic {
        gate: Arc::clone(&gate),
        entrances,
    };
    let workers = traffic.start(bound.proxy, (bound.decision, bound.decision_unix), &shutdown)?;
    Ok(Running {
        addresses: bound.addresses,
        trigger,
        shutdown,
        gate,
        workers,
        background,
        reloader: asks,
        audit: writer,
        files: bound.files,
    })
}

/// The last step before traffic: waits for the session store, but not for long, and says that the gate has started.
fn begin(gate: &Gate, reading: Blocker) {
    if !gate.sessions.wait_for_store(STORE_PATIENCE) {
        tracing::warn!("the session store is not there yet; starting without it");
    }
    reading.done();
    gate.audit.send(Event::Admin(AdminEvent {
        event: "started",
        detail: Some(format!("version {}", env!("CARGO_PKG_VERSION"))),
    }));
}

/// What all workers share.
fn assemble(config: Config, metrics: Metrics, audit: Audit) -> Result<Arc<Gate>, StartError> {
    let config = Arc::new(config);
    let authn = Authn::new(&config.issuers, config.limits.token_bytes.as_usize(), metrics.clone())?;
    let issuer = config.public_url.as_deref().unwrap_or("cedargate");
    let assertions = Arc::new(AssertionKeys::load(&config.assertion, issuer)?);
    let serving = ArcSwap::from_pointee(serving(&config, &metrics)?);
    let limits = RequestLimits::new(&config.limits, Reach::of(&config.sessions.store));
    let sessions = Sessions::new(&config, &metrics, &audit)?;
    let login = RelyingParty::new(&config, &authn, &sessions, &audit)?;
    let theme = Theme::load(&config.identity)?;
    let identity = LoginDoor {
        config: Arc::clone(&config),
        sessions: Arc::clone(&sessions),
        login: Arc::clone(&login),
        accounts: Accounts::new(&config, &sessions, &audit, &metrics)?,
        theme: Arc::clone(&theme),
        authn: Arc::clone(&authn),
        introspection: Introspection::new(&config, &sessions, &audit, &metrics).map_err(AuthnError::Client)?,
        assertions: Arc::clone(&assertions),
        audit: audit.clone(),
        metrics: metrics.clone(),
        renewing: Arc::default(),
    };
    Ok(Arc::new(Gate {
        config,
        serving,
        authn,
        assertions,
        sessions,
        login,
        reloads: watch::Sender::new(0),
        identity,
        theme,
        audit,
        metrics,
        limits,
    }))
}

/// The configured portals, with nothing loaded yet; equal upstreams are one app.
fn serving(config: &Config, metrics: &Metrics) -> Result<Serving, StartError> {
    let mut apps = Apps::default();
    let app = apps.load(&config.upstream)?;
    let mut portals = Vec::new();
    for portal in config.portals.iter().flatten() {
        let own = portal.upstream.as_ref().map(|upstream| apps.load(upstream)).transpose()?;
        let app = own.unwrap_or_else(|| Arc::clone(&app));
        portals.push(Arc::new(Portal::new(portal.clone(), app, config, metrics)));
    }
    Ok(Serving::new(portals, app)?)
}

/// Starts a gate from a configuration's text; relative paths in it start at `folder`. For tests that embed a gate.
///
/// # Errors
/// Every mistake in the text as one message, or what keeps the gate from starting.
pub fn start_from_yaml(text: &str, folder: &std::path::Path) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
    let loaded = crate::config::from_str(text, folder, std::iter::empty()).map_err(|e| e.to_string())?;
    Ok(start(loaded.config, loaded.watched)?)
}

impl Addresses {
    /// The decision listener's TCP address.
    pub fn decision_tcp(&self) -> Option<SocketAddr> {
        match self.decision {
            Some(Address::Tcp(address)) => Some(address),
            _ => None,
        }
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn bind_all(config: &Config) -> Result<Bound, StartError> {
    let listen = &config.listen;
    let fail = |listener, address: &dyn std::fmt::Display| {
        let address = address.to_string();
        move |source| StartError::Bind {
            listener,
            address,
            source,
        }
    };
    let workers = config.limits.workers().max(1);
    let proxy = bind(listen.proxy.address, workers).map_err(fail("proxy", &listen.proxy.address))?;
    let (mut decision, mut decision_unix, mut files) = (Vec::new(), None, Vec::new());
    match listen.decision.as_ref().map(|d| &d.address) {
        Some(Address::Tcp(address)) => decision = bind(*address, workers).map_err(fail("decision", address))?,
        Some(Address::Unix(path)) => {
            decision_unix = Some(bind_unix(path).map_err(fail("decision", &path.display()))?);
            files.push(SocketFile::of(path)?);
        }
        None => {}
    }
    let admin = match listen.admin {
        Some(address) => bind(address, 1).map_err(fail("admin", &address))?.pop(),
        None => None,
    };
    let mut control = None;
    if let Some(path) = &listen.control {
        control = Some(bind_private(path).map_err(fail("control", &path.display()))?);
        files.push(SocketFile::of(path)?);
    }
    let local = |listener: &std::net::TcpListener| listener.local_addr();
    let addresses = Addresses {
        proxy: proxy.first().map_or(Ok(listen.proxy.address), local)?,
        decision: match decision.first() {
            Some(listener) => Some(Address::Tcp(local(listener)?)),
            None => listen.decision.as_ref().map(|d| d.address.clone()),
        },
        admin: admin.as_ref().map(local).transpose()?,
    };
    Ok(Bound {
        proxy,
        decision,
        decision_unix,
        admin,
        control,
        files,
        addresses,
    })
}

fn make_twins(waiting: &Receiver<Weak<MatchSet>>) {
    priority::step_back();
    // ends when the last revision that could ask is gone
    while let Ok(match_set) = waiting.recv() {
        if let Some(match_set) = match_set.upgrade() {
            match_set.make_condition_only();
        }
    }
}

/// What every connection of one listener shares.
fn front(gate: &Arc<Gate>, count: ConnectionCount) -> Front {
    let told = Arc::clone(gate);
    let on_rejected = move |reason: Rejected, peer: PeerAddr| {
        let peer = Some(peer.ip());
        told.audit.send(Event::HttpRejected(HttpRejected {
            reason: reason.as_str(),
            peer,
        }));
    };
    Front::new(&gate.config.limits, count, &gate.metrics, Box::new(on_rejected))
}

/// What is special about the listeners for traffic.
#[derive(Clone)]
struct Entrances {
    proxy: Entrance,
    decision: Entrance,
}

fn entrances(config: &Config) -> Result<(Vec<Certificates>, Entrances), CertificateError> {
    let (proxy, decision) = (&config.listen.proxy, config.listen.decision.as_ref());
    let load = |listener, tls: Option<&_>| tls.map(|tls| Certificates::load(listener, tls)).transpose();
    let certificates = (
        load("proxy", proxy.tls.as_ref())?,
        load("decision", decision.and_then(|d| d.tls.as_ref()))?,
    );
    let entrances = Entrances {
        proxy: Entrance {
            tls: certificates.0.as_ref().map(Certificates::shared),
            proxies: match proxy.proxy_protocol {
                ProxyProtocol::Required => config.trusted_proxies.clone(),
                ProxyProtocol::Off => Vec::new(),
            },
            addresses: AddressCount::new(&config.limits, &config.trusted_proxies),
        },
        // the app's own, so one address may have as many as there are
        decision: Entrance {
            tls: certificates.1.as_ref().map(Certificates::shared),
            ..Entrance::default()
        },
    };
    Ok((certificates.0.into_iter().chain(certificates.1).collect(), entrances))
}

/// The worker threads.
struct Traffic {
    gate: Arc<Gate>,
    entrances: Entrances,
}

impl Traffic {
    fn start(
        self,
        proxy: Vec<std::net::TcpListener>,
        (decision, decision_unix): (Vec<std::net::TcpListener>, Option<std::os::unix::net::UnixListener>),
        shutdown: &Shutdown,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let count = ConnectionCount::new(&self.gate.config.limits, &self.gate.metrics);
        let (mut decision, mut unix) = (decision.into_iter(), decision_unix);
        let mut threads = Vec::with_capacity(proxy.len());
        for (number, proxy) in proxy.into_iter().enumerate() {
            let runtime = runtime()?;
            let (gate, shutdown, count) = (Arc::clone(&self.gate), shutdown.clone(), count.clone());
            let (decision, unix) = (decision.next(), unix.take());
            let entrances = self.entrances.clone();
            threads.push(thread(&format!("worker-{number}"), move || {
                let sockets = Sockets {
                    proxy,
                    decision,
                    unix,
                    entrances,
                };
                LocalSet::new().block_on(&runtime, work(gate, (sockets, count), shutdown));
            })?);
        }
        Ok(threads)
    }
}

/// What one worker listens on.
struct Sockets {
    proxy: std::net::TcpListener,
    decision: Option<std::net::TcpListener>,
    unix: Option<std::os::unix::net::UnixListener>,
    entrances: Entrances,
}

/// One worker's life: serve until draining and everything in flight ended.
async fn work(gate: Arc<Gate>, (sockets, count): (Sockets, ConnectionCount), shutdown: Shutdown) {
    let traffic = Rc::new(front(&gate, count.clone()).with(sockets.entrances.proxy));
    let questions = Rc::new(front(&gate, count).with(sockets.entrances.decision));
    let tunnels = Tunnels::new(shutdown.clone(), gate.config.limits.tunnel_idle_timeout.get());
    let worker = Rc::new(Worker {
        gate: Arc::clone(&gate),
        pool: Pool::new(tunnels.clone()),
        live: Live::default(),
    });
    let watching = tokio::task::spawn_local(worker.live.clone().watch(Arc::clone(&gate)));
    let pool = worker.pool.clone();
    let sweeping = tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            pool.sweep();
        }
    });
    let proxy = sockets.proxy;
    let told = shutdown.clone();
    let proxying = tokio::task::spawn_local(async move {
        let handler = move |request, peer| {
            let worker = Rc::clone(&worker);
            async move { worker.handle(request, peer).await }
        };
        match Socket::tcp(proxy) {
            Ok(socket) => serve(socket, traffic, told, handler).await,
            Err(error) => tracing::error!(%error, "a worker cannot listen"),
        }
    });
    let asking = sockets
        .decision
        .and_then(|l| Socket::tcp(l).ok())
        .or_else(|| sockets.unix.and_then(|l| Socket::unix(l).ok()));
    if let Some(socket) = asking {
        let handler = move |request, _| {
            let gate = Arc::clone(&gate);
            async move {
                let tokens = gate
                    .config
                    .listen
                    .decision
                    .as_ref()
                    .map(|d| d.tokens.as_slice())
                    .unwrap_or_default();
                authorize::handle(&gate, tokens, request).await
            }
        };
        serve(socket, questions, shutdown, handler).await;
    }
    let _ended = proxying.await.is_err();
    tunnels.wait().await;
    sweeping.abort();
    watching.abort();
}
