//! The admin listener: health, metrics, status. Read-only: no endpoint on it changes the gate's state.
//!
//! Probes differ by path alone. Readiness waits for named blockers and depends on neither the app nor the session
//! store; `/status` reports both.

mod app_probes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::base::lifecycle::{Readiness, Shutdown};
use crate::bundle_follower::BundleFollower;
use crate::config::UpstreamUrl;
use crate::exposure::Exposure;
use crate::gate::Gate;
use crate::http::answer::json_for_operator;
use crate::http::upstream::{App, Body};
use crate::portals::Portal;
use crate::reload::{Outcomes, ReloadOutcome};
use crate::session::StoreStatus;
pub use app_probes::AppProbes;

/// Longest time that `/drained` waits for a drain to begin. Kubelet runs the hooks of a pod's containers at the same
/// time, so the gate's own hook may be a moment later. The end of an app's container alone, without a drain, takes this
/// much longer.
const DRAIN_BEGINS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that `/status` waits for the app to accept a connection.
const UPSTREAM_PROBE: Duration = Duration::from_millis(200);

/// The parts of the gate that the admin listener shows.
pub struct Admin {
    pub gate: Arc<Gate>,
    pub readiness: Readiness,
    pub shutdown: Shutdown,
    pub outcomes: Outcomes,
    /// Of candidate sets.
    pub shadow_outcomes: Outcomes,
    pub app_probes: AppProbes,
    pub exposure: Exposure,
    /// `None` with folders.
    pub bundle: Option<Arc<BundleFollower>>,
}

impl Admin {
    /// Answers one request; never fails.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this listener is read-only\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" | "/healthz" | "/ping" => text(StatusCode::OK, "ok\n".to_owned()),
            "/startupz" => self.startup(),
            "/readyz" | "/ready" => self.ready(request.uri().query()),
            "/drained" => self.drained().await,
            "/metrics" => self.metrics(),
            "/status" => json_for_operator(StatusCode::OK, &self.status().await),
            path => self.app_probes.answer(path).await.unwrap_or_else(|| {
                let known = "livez readyz startupz healthz drained metrics status app/livez app/readyz app/startupz\n";
                text(StatusCode::NOT_FOUND, known.to_owned())
            }),
        }
    }

    fn startup(&self) -> Response<Body> {
        readiness(&self.readiness.pending(), "")
    }

    fn ready(&self, query: Option<&str>) -> Response<Body> {
        let is_verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
        let mut pending = self.readiness.pending();
        if self.shutdown.is_draining() {
            pending.push("draining".to_owned());
        }
        let mut lines = String::new();
        if is_verbose {
            let registry = self.gate.portals.load();
            for portal in &registry.portals {
                let revision = portal.active.load();
                let state = revision.as_ref().map_or("no revision", |a| &a.revision.id);
                lines.push_str(&format!("portal {}: {state}\n", portal.name));
            }
            for issuer in self.gate.authn.status() {
                let keys = issuer
                    .age
                    .map_or("no keys yet".to_owned(), |age| format!("{} keys, {age} s old", issuer.keys));
                lines.push_str(&format!("issuer {}: {keys}\n", issuer.name));
            }
            if let Some(bundle) = self.bundle.as_ref().map(|follower| follower.status()) {
                let state = bundle
                    .sequence
                    .map_or("none yet".to_owned(), |sequence| format!("sequence {sequence}"));
                lines.push_str(&format!("bundle {}: {state}\n", bundle.source));
            }
            let sessions = self.gate.sessions.status();
            let state = if sessions.reachable { "reachable" } else { "not reachable" };
            lines.push_str(&format!("sessions {}: {state}\n", sessions.store));
            let around = self.exposure.addresses();
            let around = if around.is_empty() {
                "no".to_owned()
            } else {
                around.join(", ")
            };
            lines.push_str(&format!("app reachable around the gate: {around}\n"));
        }
        readiness(&pending, &lines)
    }

    /// Answers once the gate has drained: the app's container asks this before it ends (`preStop`), so that it outlives
    /// the requests that the gate forwards to it. It starts nothing.
    async fn drained(&self) -> Response<Body> {
        let Some(_waiter) = self.shutdown.drain_waiter() else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests wait for the drain\n".to_owned(),
            );
        };
        let mut shutdown = self.shutdown.clone();
        if tokio::time::timeout(DRAIN_BEGINS_TIMEOUT, shutdown.draining()).await.is_err() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the gate does not drain\n".to_owned());
        }
        shutdown.drained().await;
        text(StatusCode::OK, "drained\n".to_owned())
    }

    fn metrics(&self) -> Response<Body> {
        match self.gate.metrics.render() {
            Ok(body) => with_type(StatusCode::OK, "text/plain; version=0.0.4", body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// The state of the gate, for operators.
    pub async fn status(&self) -> Value {
        let registry = self.gate.portals.load_full();
        let outcomes = self.outcomes.all();
        let shadows = self.shadow_outcomes.all();
        let portals: Vec<Value> = registry
            .portals
            .iter()
            .map(|portal| portal_status(portal, &registry.app, outcomes.get(portal.slug()), shadows.get(portal.slug())))
            .collect();
        let issuers: Vec<Value> = self
            .gate
            .authn
            .status()
            .into_iter()
            .map(|i| json!({"issuer": &*i.name, "keys": i.keys, "age_seconds": i.age, "last_error": i.last_error}))
            .collect();
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.readiness.is_ready() && !self.shutdown.is_draining(),
            "draining": self.shutdown.is_draining(),
            "portals": portals,
            "issuers": issuers,
            "sessions": session_status(&self.gate.sessions.status()),
            "upstream": upstream_status(&registry.app).await,
            "app_reachable_around_gate": self.exposure.addresses(),
        });
        if let (Some(follower), Some(status)) = (&self.bundle, status.as_object_mut()) {
            status.insert("bundle".to_owned(), json!(follower.status()));
        }
        status
    }
}

fn session_status(status: &StoreStatus) -> Value {
    json!({
        "store": status.store,
        "reachable": status.reachable,
        "feed_age_ms": status.feed_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        "cached": status.cached,
        "last_error": status.last_error,
        "last_failed_write": status.last_failed_write.as_ref().map(|failed| {
            json!({"error": failed.error, "seconds_ago": failed.ago.as_secs()})
        }),
    })
}

/// One portal. An upstream of its own is shown as well, without a probe.
fn portal_status(portal: &Portal, default_app: &Arc<App>, last: Option<&ReloadOutcome>, shadow: Option<&ReloadOutcome>) -> Value {
    let active = portal.active.load();
    let revision = active.as_ref().map(|a| a.revision.id.to_string());
    let policies = active.as_ref().map(|a| a.revision.rules.engine.policies().len());
    let mut status = json!({"portal": &*portal.name, "revision": revision, "policies": policies, "last_reload": last});
    if let (Some(last), Some(status)) = (shadow, status.as_object_mut()) {
        let revision = portal.shadow.load().as_ref().map(|shadow| shadow.revision.id.to_string());
        status.insert("shadow".to_owned(), json!({"revision": revision, "last_reload": last}));
    }
    let has_own_app = !Arc::ptr_eq(&portal.upstream, default_app);
    if let (true, Some(status)) = (has_own_app, status.as_object_mut()) {
        let own = json!({"url": portal.upstream.url.origin(), "circuit": circuit_status(&portal.upstream)});
        status.insert("upstream".to_owned(), own);
    }
    status
}

async fn upstream_status(app: &App) -> Value {
    let connect = async {
        match &app.url {
            UpstreamUrl::Http(at) | UpstreamUrl::Https(at) => {
                tokio::net::TcpStream::connect((at.dialled(), at.port)).await.map(drop)
            }
            UpstreamUrl::Unix(path) => tokio::net::UnixStream::connect(path).await.map(drop),
        }
    };
    let connected = tokio::time::timeout(UPSTREAM_PROBE, connect).await;
    json!({"url": app.url.origin(), "reachable": matches!(connected, Ok(Ok(()))), "circuit": circuit_status(app)})
}

fn circuit_status(app: &App) -> Value {
    let status = app.circuit.status();
    json!({"state": status.state, "failures": status.failures, "last_error": status.last_error})
}

/// 200 if nothing is pending, else 503; `details` follow the first line.
fn readiness(pending: &[String], details: &str) -> Response<Body> {
    if pending.is_empty() {
        text(StatusCode::OK, format!("ok\n{details}"))
    } else {
        let line = format!("waiting for: {}\n{details}", pending.join(", "));
        text(StatusCode::SERVICE_UNAVAILABLE, line)
    }
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
