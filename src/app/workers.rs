//! The worker threads: each one serves its own copy of the proxy listener, of the decision listener and of the one for
//! Envoy.
//!
//! A worker has a runtime, a connection pool and a set of live connections of its own; no other thread touches them. It
//! ends when its listeners closed and every connection and tunnel ended, or at once when the shutdown is forced.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use http::{Request, Response};
use hyper::body::Incoming;

use super::bind::{DecisionListeners, TrafficListeners};
use super::build::TrafficOptions;
use super::{SWEEP_INTERVAL, StartError, listener_context, local_thread};
use crate::base::descriptors::{Ceiling, Shares};
use crate::base::lifecycle::Shutdown;
use crate::doors::forward_auth::{self, ProxyDoor};
use crate::doors::{decision_listener, ext_authz};
use crate::gate::{Gate, Live, Worker};
use crate::http::listener::{ClientConnection, ConnectionCount, ListenerContext, ListenerOptions, Socket, serve};
use crate::http::upstream::{Body, Pool, Tunnels};

pub(super) struct Workers {
    pub threads: Vec<JoinHandle<()>>,
}

/// One worker before it starts.
struct WorkerParts {
    gate: Arc<Gate>,
    proxy: TcpListener,
    decision: Option<DecisionListener>,
    ext_authz: Option<DecisionListener>,
    options: TrafficOptions,
    counts: ConnectionCounts,
    /// The descriptors that connections to apps may use.
    descriptors: Ceiling,
    shutdown: Shutdown,
}

/// Connections of all workers together, for each listener.
#[derive(Clone)]
struct ConnectionCounts {
    proxy: ConnectionCount,
    decision: ConnectionCount,
}

enum DecisionListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Workers {
    /// Starts one worker for each copy of the proxy listener.
    pub fn spawn(
        gate: &Arc<Gate>,
        listeners: TrafficListeners,
        options: &TrafficOptions,
        shares: &Shares,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let limits = &gate.config.limits;
        let proxies = usize::try_from(shares.connections).unwrap_or(usize::MAX);
        let decisions = limits.decision_connections.as_usize();
        let counts = ConnectionCounts {
            proxy: ConnectionCount::new("limits.connections", proxies).published(&gate.metrics.connections),
            decision: ConnectionCount::new("limits.decision_connections", decisions).published(&gate.metrics.connections),
        };
        let mut decision = listeners.decision.into_listeners().into_iter();
        let mut ext_authz = listeners.ext_authz.into_listeners().into_iter();
        let mut threads = Vec::with_capacity(listeners.proxy.len());
        for (number, proxy) in listeners.proxy.into_iter().enumerate() {
            let worker = WorkerParts {
                gate: Arc::clone(gate),
                proxy,
                decision: decision.next(),
                ext_authz: ext_authz.next(),
                options: options.clone(),
                counts: counts.clone(),
                descriptors: shares.clients,
                shutdown: shutdown.clone(),
            };
            threads.push(local_thread(&format!("worker-{number}"), move || worker.run())?);
        }
        Ok(Self { threads })
    }
}

impl DecisionListeners {
    /// One listener for each worker, as long as there are some.
    fn into_listeners(self) -> Vec<DecisionListener> {
        match self {
            Self::Off => Vec::new(),
            Self::Tcp(listeners) => listeners.into_iter().map(DecisionListener::Tcp).collect(),
            Self::Unix(listener) => vec![DecisionListener::Unix(listener)],
        }
    }
}

impl DecisionListener {
    fn into_socket(self) -> std::io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Socket::tcp(listener),
            Self::Unix(listener) => Socket::unix(listener),
        }
    }
}

impl WorkerParts {
    /// Serves until closing, then until every connection and tunnel ended.
    async fn run(self) {
        let gate = self.gate;
        let tunnels = Tunnels::new(self.shutdown.clone(), gate.config.limits.tunnel_idle_timeout.get());
        let worker = Rc::new(Worker {
            gate: Arc::clone(&gate),
            pool: Pool::new(tunnels.clone()).with_descriptors(self.descriptors),
            live: Live::default(),
        });
        let rechecking = tokio::task::spawn_local(worker.live.clone().watch(Arc::clone(&gate)));
        let sweeping = tokio::task::spawn_local(sweep(worker.pool.clone()));
        let proxying = tokio::task::spawn_local(serve_proxy(
            worker,
            self.proxy,
            Rc::new(listener_context(&gate, self.counts.proxy).with_options(self.options.proxy)),
            self.shutdown.clone(),
        ));
        let asked = self.ext_authz.map(|listener| {
            let options = ListenerOptions {
                tls: None,
                ..self.options.decision.clone()
            };
            let context = Rc::new(listener_context(&gate, self.counts.decision.clone()).with_options(options));
            tokio::task::spawn_local(serve_ext_authz(Arc::clone(&gate), listener, context, self.shutdown.clone()))
        });
        if let Some(listener) = self.decision {
            let context = Rc::new(listener_context(&gate, self.counts.decision).with_options(self.options.decision));
            serve_decisions(gate, listener, context, self.shutdown).await;
        }
        if let Some(asked) = asked {
            let _panicked = asked.await.is_err();
        }
        let _panicked = proxying.await.is_err();
        tunnels.wait().await;
        sweeping.abort();
        rechecking.abort();
    }
}

async fn sweep(pool: Pool) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        pool.sweep();
    }
}

async fn serve_proxy(worker: Rc<Worker>, listener: TcpListener, context: Rc<ListenerContext>, shutdown: Shutdown) {
    let handler = move |request, connection| answer_client(Rc::clone(&worker), request, connection);
    match Socket::tcp(listener) {
        Ok(socket) => serve(socket, context, shutdown, handler).await,
        Err(error) => tracing::error!(%error, "a worker cannot listen"),
    }
}

/// The answer of a worker; of the door of proxies, if the path is its.
async fn answer_client(worker: Rc<Worker>, request: Request<Incoming>, connection: Rc<ClientConnection>) -> Response<Body> {
    match ProxyDoor::at_proxy_listener(&worker.gate.config.identity, request.uri().path()) {
        None => worker.handle(request, connection).await,
        Some(door) => {
            let (head, _) = request.into_parts();
            let peer = connection.peer.ip();
            // boxed: the future of every request has room for its largest branch
            Box::pin(forward_auth::handle_at_proxy_listener(&worker.gate, door, head, peer)).await
        }
    }
}

async fn serve_ext_authz(gate: Arc<Gate>, listener: DecisionListener, context: Rc<ListenerContext>, shutdown: Shutdown) {
    let handler = move |request, _| {
        let gate = Arc::clone(&gate);
        async move { ext_authz::handle(&gate, request).await }
    };
    match listener.into_socket() {
        Ok(socket) => serve(socket, context, shutdown, handler).await,
        Err(error) => tracing::error!(%error, "a worker cannot listen for Envoy"),
    }
}

async fn serve_decisions(gate: Arc<Gate>, listener: DecisionListener, context: Rc<ListenerContext>, shutdown: Shutdown) {
    let handler = move |request, connection: Rc<ClientConnection>| {
        let gate = Arc::clone(&gate);
        async move { decision_listener::handle(&gate, request, connection.peer.ip()).await }
    };
    match listener.into_socket() {
        Ok(socket) => serve(socket, context, shutdown, handler).await,
        Err(error) => tracing::error!(%error, "a worker cannot listen for decisions"),
    }
}
