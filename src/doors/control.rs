//! The control socket: the actions that an operator on the same machine may take on a running gate.
//!
//! SECURITY: a Unix socket that only the gate's own user can open; the door itself asks for no further proof. `drain`
//! starts the same shutdown as SIGTERM, `reload` makes the reloader read the policy files now, `sessions` lists and
//! revokes sessions, `log-level` changes the log for a time, `explain` says why a recent decision was made. Request
//! bodies are never read. Every action is in the decision log.

mod explain;
mod log_level;
mod sessions;

use std::sync::Arc;

use http::header::ALLOW;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::audit::{AdminAct, AdminEvent, Event};
use crate::base::lifecycle::{Shutdown, ShutdownTrigger};
use crate::doors::admin::Admin;
use crate::gate::Gate;
use crate::http::answer::json_for_operator;
use crate::http::upstream::Body;
use crate::reload::{ReloadRequestError, ReloadRequests, ReloadResult};

const ENDPOINTS: [&str; 9] = [
    "GET /",
    "GET /status",
    "POST /drain",
    "POST /reload",
    "GET /explain",
    "GET /log-level",
    "POST /log-level",
    "GET /sessions",
    "POST /sessions/revoke",
];

/// The parts of the gate that the control socket acts on.
pub struct Control {
    /// Shows the same state on the admin listener.
    pub admin: Arc<Admin>,
    pub gate: Arc<Gate>,
    pub trigger: Arc<ShutdownTrigger>,
    pub shutdown: Shutdown,
    pub reload_requests: ReloadRequests,
}

impl Control {
    /// Answers one request of the user with the id `operator`; never fails.
    pub async fn handle<B>(&self, request: Request<B>, operator: Option<u32>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        match (request.uri().path(), request.method()) {
            ("/", &Method::GET) => json_for_operator(StatusCode::OK, &self.index()),
            ("/status", &Method::GET) => json_for_operator(StatusCode::OK, &self.admin.status().await),
            ("/drain", &Method::POST) => json_for_operator(StatusCode::ACCEPTED, &self.drain()),
            ("/reload", &Method::POST) => self.reload().await.into_response(),
            ("/log-level", &Method::GET) => log_level::show().into_response(),
            ("/log-level", &Method::POST) => self.set_log_level(query).into_response(),
            ("/explain", &Method::GET) => self.explain(query).await.into_response(),
            ("/sessions", &Method::GET) => self.list_sessions(query).await.into_response(),
            ("/sessions/revoke", &Method::POST) => self.revoke(query, operator).await.into_response(),
            ("/log-level", _) => not_allowed("GET, POST"),
            ("/" | "/status" | "/explain" | "/sessions", _) => not_allowed("GET"),
            ("/drain" | "/reload" | "/sessions/revoke", _) => not_allowed("POST"),
            _ => error(StatusCode::NOT_FOUND, &format!("there is {}", ENDPOINTS.join(", "))).into_response(),
        }
    }

    /// `cedargate drain --wait` reads `pid` to know which process it waits for.
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
        self.record(AdminAct::DrainRequested, already.then(|| "draining already".to_owned()));
        self.gate.metrics.draining.set(1);
        self.trigger.drain();
        json!({"draining": true, "already": already, "pid": std::process::id()})
    }

    async fn reload(&self) -> JsonAnswer {
        let outcomes = match self.reload_requests.reload().await {
            Ok(outcomes) => outcomes,
            Err(reason) => {
                self.record(AdminAct::ReloadRequested, Some(reason.to_string()));
                let status = match reason {
                    ReloadRequestError::TooMany | ReloadRequestError::Ended => StatusCode::SERVICE_UNAVAILABLE,
                    ReloadRequestError::Busy => StatusCode::GATEWAY_TIMEOUT,
                };
                return error(status, &reason.to_string());
            }
        };
        let registry = self.gate.portals.load_full();
        let mut all_succeeded = true;
        let mut portals = Vec::new();
        let mut detail = Vec::new();
        for portal in &registry.portals {
            let outcome = outcomes.get(portal.slug());
            let revision = portal.active.load().as_ref().map(|active| active.revision.id.to_string());
            let result = outcome.map(|outcome| outcome.result);
            all_succeeded &= result == Some(ReloadResult::Success);
            let result_text = result.map_or("not loaded", ReloadResult::as_str);
            detail.push(format!("{}: {result_text}", portal.name));
            portals.push(json!({"portal": &*portal.name, "revision": revision, "last_reload": outcome}));
        }
        let bundle = self.reload_requests.bundle();
        if let Some(error) = bundle.as_ref().and_then(|bundle| bundle.last_error.as_ref()) {
            all_succeeded = false;
            detail.push(format!("bundle: {error}"));
        }
        self.record(AdminAct::ReloadRequested, Some(detail.join(", ")));
        let status = if all_succeeded {
            StatusCode::OK
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        JsonAnswer {
            status,
            body: match bundle {
                Some(bundle) => json!({"portals": portals, "bundle": bundle}),
                None => json!({"portals": portals}),
            },
        }
    }

    fn record(&self, event: AdminAct, detail: Option<String>) {
        self.gate.audit.send(&Event::Admin(AdminEvent { event, detail }));
    }
}

/// A status and a JSON body, not yet a response.
struct JsonAnswer {
    status: StatusCode,
    body: Value,
}

impl JsonAnswer {
    fn into_response(self) -> Response<Body> {
        json_for_operator(self.status, &self.body)
    }
}

fn error(status: StatusCode, message: &str) -> JsonAnswer {
    JsonAnswer {
        status,
        body: json!({ "error": message }),
    }
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let body = json!({"error": format!("this takes {allowed}")});
    let mut response = json_for_operator(StatusCode::METHOD_NOT_ALLOWED, &body);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
