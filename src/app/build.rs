//! Builds the parts that all threads share: the gate with its portals, sessions and logins, and the end of the process.
//!
//! Nothing here accepts a connection or starts a thread, except the audit writer, which must be there before the first
//! record.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, sync_channel};

use arc_swap::ArcSwap;
use cedargate_policy::engine::MatchSet;
use cedargate_policy::load::Loader;
use tokio::sync::watch;

use super::StartError;
use crate::accounts::Accounts;
use crate::audit::{self, Audit, AuditWriter};
use crate::authn::{AssertionKeys, Authn, ExchangeClient, IntrospectionClient, Proofs};
use crate::base::descriptors::Shares;
use crate::base::lifecycle::{Blocker, Readiness, Shutdown, ShutdownTrigger, shutdown};
use crate::base::metrics::Metrics;
use crate::bundle_follower::BundleFollower;
use crate::config::{Config, Issuer, ProxyProtocol};
use crate::doors::admin::{Admin, AppProbes};
use crate::doors::control::Control;
use crate::doors::login::{LoginDoor, PermissionStreams};
use crate::exposure::Exposure;
use crate::gate::{Gate, ShadowParts, ShadowThread, Shadows};
use crate::http::listener::{AddressCount, ListenerOptions};
use crate::http::pages::Theme;
use crate::http::tls::{CertificateError, Certificates};
use crate::http::upstream::Apps;
use crate::limits::{CountScope, RequestLimits};
use crate::login::RelyingParty;
use crate::permissions::PermissionSnapshots;
use crate::portals::{Portal, PortalRegistry};
use crate::reload::{EmergencyReload, ReloadRequests, Reloader};
use crate::searches::Searches;
use crate::session::Sessions;
use crate::traces::Tracer;

/// New match sets whose condition-only policies are not made yet. The engine drops a set that does not fit and goes on
/// with the original policies, which decide the same, only slower.
const CONDITION_QUEUE: usize = 1024;

/// The listeners' certificates, and the options that they and the configuration give each listener.
pub(super) struct ListenerTls {
    pub certificates: Vec<Certificates>,
    pub options: TrafficOptions,
}

/// Options of the two listeners for traffic.
#[derive(Clone)]
pub(super) struct TrafficOptions {
    pub proxy: ListenerOptions,
    pub decision: ListenerOptions,
}

/// The parts that `start` needs in addition to sockets.
pub(super) struct Parts {
    pub gate: Arc<Gate>,
    pub trigger: Arc<ShutdownTrigger>,
    pub shutdown: Shutdown,
    /// Blocks readiness until the session store answered or its wait is over.
    pub session_store: Blocker,
    pub reload_requests: ReloadRequests,
    pub audit_writer: AuditWriter,
    pub background: BackgroundParts,
}

/// The parts that background threads take over.
pub(super) struct BackgroundParts {
    pub gate: Arc<Gate>,
    pub shutdown: Shutdown,
    pub admin: Arc<Admin>,
    pub control: Control,
    pub reloader: Reloader,
    pub emergency: Option<EmergencyReload>,
    pub bundle: Option<Arc<BundleFollower>>,
    /// Blocks readiness until the first load of the policies.
    pub first_load: Blocker,
    /// Match sets whose condition-only policies are wanted; written by the engine, read by the `conditions` thread.
    pub match_sets: Receiver<Weak<MatchSet>>,
    pub shadow: ShadowThread,
}

impl ListenerTls {
    pub fn load(config: &Config, shares: &Shares) -> Result<Self, CertificateError> {
        let load = |listener, tls: Option<&_>, issuers: &[Issuer]| {
            let loaded = tls.map(|tls| Certificates::load(listener, tls, issuers));
            loaded.transpose()
        };
        let listen = &config.listen;
        let proxy = load("proxy", listen.proxy.tls.as_ref(), &config.issuers)?;
        let decision = load(
            "decision",
            listen.decision.as_ref().and_then(|decision| decision.tls.as_ref()),
            &[],
        )?;
        let options = TrafficOptions {
            proxy: ListenerOptions {
                tls: proxy.as_ref().map(Certificates::shared),
                client_trust: proxy.as_ref().map(Certificates::trust),
                proxies: match listen.proxy.proxy_protocol {
                    ProxyProtocol::Required => config.trusted_proxies.clone(),
                    ProxyProtocol::Off => Vec::new(),
                },
                addresses: AddressCount::new(&config.limits, &config.trusted_proxies),
                descriptors: shares.clients,
                lingering: shares.lingering,
            },
            // no count per address: all connections come from the app's address
            decision: ListenerOptions {
                tls: decision.as_ref().map(Certificates::shared),
                descriptors: shares.decisions,
                lingering: shares.lingering,
                ..ListenerOptions::default()
            },
        };
        Ok(Self {
            certificates: proxy.into_iter().chain(decision).collect(),
            options,
        })
    }
}

impl Parts {
    pub fn build(config: Config, watched: Vec<PathBuf>) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let (audit, audit_writer) = audit::start(&config.audit, &metrics)?;
        let per_second = config.policies.shadow_budget.as_non_zero();
        let ShadowParts { shadows, thread: shadow } = Shadows::with_thread(per_second, &metrics);
        let (trigger, shutdown) = shutdown();
        let gate = build_gate(config, metrics, audit, shadows, shutdown.clone())?;
        let trigger = Arc::new(trigger);
        let readiness = Readiness::default();
        let first_load = readiness.block("policies");
        let session_store = readiness.block("sessions");
        let (condition_queue, match_sets) = sync_channel(CONDITION_QUEUE);
        let follower = gate.config.bundle.as_ref();
        let bundle = follower.map(|config| BundleFollower::open(config, gate.metrics.bundle.clone()));
        let bundle = bundle.transpose().map_err(StartError::Bundle)?;
        let loader = Loader::new(Some(condition_queue.clone()));
        let shadow_loader = Loader::new(Some(condition_queue.clone())).untested();
        let mut reloader = Reloader::new(Arc::clone(&gate), loader, shadow_loader, &readiness, bundle.clone(), watched);
        let emergency = reloader.emergency(Loader::new(Some(condition_queue)));
        let reload_requests = reloader.requests();
        let admin = Arc::new(Admin {
            gate: Arc::clone(&gate),
            readiness,
            shutdown: shutdown.clone(),
            outcomes: reloader.outcomes(),
            shadow_outcomes: reloader.shadow_outcomes(),
            app_probes: AppProbes::new(&gate.config)?,
            exposure: Exposure::default(),
            bundle: bundle.clone(),
        });
        let control = Control {
            admin: Arc::clone(&admin),
            gate: Arc::clone(&gate),
            trigger: Arc::clone(&trigger),
            shutdown: shutdown.clone(),
            reload_requests: reload_requests.clone(),
        };
        let background = BackgroundParts {
            gate: Arc::clone(&gate),
            shutdown: shutdown.clone(),
            admin,
            control,
            reloader,
            emergency,
            bundle,
            first_load,
            match_sets,
            shadow,
        };
        Ok(Self {
            gate,
            trigger,
            shutdown,
            session_store,
            reload_requests,
            audit_writer,
            background,
        })
    }
}

fn build_gate(
    config: Config,
    metrics: Metrics,
    audit: Audit,
    shadows: Shadows,
    shutdown: Shutdown,
) -> Result<Arc<Gate>, StartError> {
    let config = Arc::new(config);
    let authn = Authn::new(&config.issuers, config.limits.token_bytes.as_usize(), metrics.clone())?;
    let issuer = config.public_url.as_deref().unwrap_or("cedargate");
    let assertions = Arc::new(AssertionKeys::load(&config.assertion, issuer)?);
    let portals = ArcSwap::from_pointee(build_portals(&config, &metrics)?);
    let limits = RequestLimits::new(&config.limits, CountScope::of(&config.sessions.store));
    let sessions = Sessions::new(&config, &metrics)?;
    let login = RelyingParty::new(&config, &authn, &sessions, &audit)?;
    let theme = Theme::load(&config.identity)?;
    let reloads = watch::Sender::new(0);
    let proofs = Proofs::new(&config, &sessions)?;
    let identity = LoginDoor {
        config: Arc::clone(&config),
        sessions: Arc::clone(&sessions),
        login: Arc::clone(&login),
        accounts: Accounts::new(&config, &sessions, &audit, &metrics)?,
        theme: Arc::clone(&theme),
        authn: Arc::clone(&authn),
        introspection: IntrospectionClient::new(&config, &sessions, &audit, &metrics)?,
        assertions: Arc::clone(&assertions),
        proofs: Arc::clone(&proofs),
        audit: audit.clone(),
        metrics: metrics.clone(),
        permissions: PermissionSnapshots::start(&metrics).map_err(StartError::Thread)?,
        permission_streams: PermissionStreams::new(metrics.permissions.streams.clone()),
        reloads: reloads.clone(),
        shutdown,
    };
    let exchange = ExchangeClient::new(&config, &audit, &metrics)?;
    Ok(Arc::new(Gate {
        config,
        portals,
        authn,
        exchange,
        proofs,
        assertions,
        sessions,
        login,
        reloads,
        identity,
        theme,
        audit,
        tracer: Tracer::from_environment(),
        searches: Searches::start(&metrics).map_err(StartError::Thread)?,
        metrics,
        limits,
        shadows,
    }))
}

/// The configured portals, with nothing loaded yet; portals with equal upstreams share one app.
fn build_portals(config: &Config, metrics: &Metrics) -> Result<PortalRegistry, StartError> {
    let mut apps = Apps::default();
    let default_app = apps.load(&config.upstream)?;
    let mut portals = Vec::new();
    for portal in config.portals.iter().flatten() {
        let app = match &portal.upstream {
            Some(upstream) => apps.load(upstream)?,
            None => Arc::clone(&default_app),
        };
        portals.push(Arc::new(Portal::new(portal.clone(), app, config, metrics)));
    }
    Ok(PortalRegistry::new(portals, default_app)?)
}
