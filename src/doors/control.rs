//! The control socket: what the operator beside the process may change while it runs.
//!
//! A Unix socket that only its owner can open; the door itself asks for nothing more. `drain` begins the same end as
//! SIGTERM, `reload` makes the reloader look now, `sessions` lists and ends sessions. Bodies are never read. Whatever is done here is in the decision log.

mod sessions;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::audit::{AdminEvent, Event};
use crate::base::lifecycle::{Shutdown, ShutdownTrigger};
use crate::gate::Gate;
use crate::http::upstream::Body;
use crate::reload::{AskError, Asks, ReloadResult};

const ENDPOINTS: [&str; 5] = [
    "GET /",
    "POST /drain",
    "POST /reload",
    "GET /sessions",
    "POST /sessions/revoke",
];

/// What the control socket can do.
pub struct Control {
    pub gate: Arc<Gate>,
    pub trigger: Arc<ShutdownTrigger>,
    pub shutdown: Shutdown,
    pub asks: Asks,
}

impl Control {
    /// Answers one request; never fails.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body> {
        let (method, query) = (request.method(), request.uri().query().unwrap_or_default());
        match request.uri().path() {
            "/" if *method == Method::GET => answer(StatusCode::OK, &self.index()),
            "/drain" if *method == Method::POST => answer(StatusCode::ACCEPTED, &self.drain()),
            "/reload" if *method == Method::POST => {
                let (status, body) = self.reload().await;
                answer(status, &body)
            }
            "/sessions" if *method == Method::GET => {
                let (status, body) = self.list_sessions(query).await;
                answer(status, &body)
            }
            "/sessions/revoke" if *method == Method::POST => {
                let (status, body) = self.revoke(query).await;
                answer(status, &body)
            }
            "/" | "/sessions" => not_allowed("GET"),
            "/drain" | "/reload" | "/sessions/revoke" => not_allowed("POST"),
            _ => answer(
                StatusCode::NOT_FOUND,
                &json!({"error": format!("there is {}", ENDPOINTS.join(", "))}),
            ),
        }
    }

    /// Also how `cedargate drain --wait` knows which process it waits for.
    fn index(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "draining": self.shutdown.is_draining(),
            "endpoints": ENDPOINTS,
        })
    }

    fn drain(&self) -> Value {
        let already = self.shutdown.is_draining();
        self.record("drain_requested", already.then(|| "draining already".to_owned()));
        self.gate.metrics.draining.set(1);
        self.trigger.drain();
        json!({"draining": true, "already": already, "pid": std::process::id()})
    }

    async fn reload(&self) -> (StatusCode, Value) {
        let outcomes = match self.asks.look().await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.record("reload_requested", Some(error.to_string()));
                let status = match error {
                    AskError::TooMany | AskError::Ended => StatusCode::SERVICE_UNAVAILABLE,
                    AskError::Busy => StatusCode::GATEWAY_TIMEOUT,
                };
                return (status, json!({"error": error.to_string()}));
            }
        };
        let serving = self.gate.serving.load_full();
        let (mut fine, mut portals, mut detail) = (true, Vec::new(), Vec::new());
        for portal in &serving.portals {
            let outcome = outcomes.get(portal.slug());
            let revision = portal.active.load().as_ref().map(|active| active.revision.id.to_string());
            let result = outcome.map(|outcome| outcome.result);
            fine &= result == Some(ReloadResult::Success);
            detail.push(format!(
                "{}: {}",
                portal.name,
                result.map_or("not loaded", ReloadResult::as_str)
            ));
            portals.push(json!({"portal": &*portal.name, "revision": revision, "last_reload": outcome}));
        }
        self.record("reload_requested", Some(detail.join(", ")));
        let status = if fine {
            StatusCode::OK
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        (status, json!({"portals": portals}))
    }

    fn record(&self, event: &'static str, detail: Option<String>) {
        self.gate.audit.send(Event::Admin(AdminEvent { event, detail }));
    }
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let body = json!({"error": format!("this takes {allowed}")});
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, &body);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from(format!("{body:#}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
