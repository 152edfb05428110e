//! THE path: one request from its head to the app's answer, or to a refusal.
//!
//! `handle` wraps: ids, the audit guard, metrics, and turning a refusal into a response. `gate` is the straight line:
//! check → path → portal → `allow` (caller → decision → permit) → upstream. Each step gives the next one what it needs,
//! or ends the request. `upstream::forward` takes a permit, so no request reaches it without a decision.

mod asked;
mod authenticate;
mod browser;
mod caller;
mod cors;
mod decide;
mod endpoints;
mod forward;
mod live;
mod proof;
mod record;
mod shadow;
mod token_for_app;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::portal::path::rules::path_refused;
use cedargate_policy::types::Door;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;

pub use self::asked::{AllowedCallers, AskedRequest, Checked, Forwardable, Removal};
pub use self::caller::asserted_entity;
use self::decide::{Allowed, Passed};
pub use self::endpoints::JWKS_PATH;
use self::forward::Forwarding;
pub use self::live::Live;
use self::live::{DecidedRequest, DecisionBasis, OriginalRequest};
use self::record::Progress;
pub use self::record::note_nearest_permit;
pub use self::shadow::{DeferredWork, NearestPermitQuery, ShadowParts, ShadowQuery, ShadowThread, Shadows};

pub use self::record::{entity_ref, micros, record_decision};
use crate::audit::{Audit, AuditRecord, HttpRecord, NO_PORTAL};
use crate::authn::{AssertionKeys, Authn, ExchangeClient, Proofs};
use crate::base::clock::{unix_millis, unix_seconds};
use crate::base::metrics::Metrics;
use crate::config::Config;
use crate::doors::login::LoginDoor;
use crate::http::answer::{self, AnswerContext, DPOP_NONCE, Style};
use crate::http::client_certificate::ClientCertificate;
use crate::http::credentials::FoundToken;
use crate::http::listener::ClientConnection;
use crate::http::pages::Theme;
use crate::http::request::{self, ClientFacts, Correlation, Target, Trace, correlation, is_upgrade, new_id};
use crate::http::upstream::{Body, Pool, Sender, UpstreamError, sanitize};
use crate::limits::{RequestLimits, RequestSlot};
use crate::login::RelyingParty;
use crate::portals::{ActiveRevision, Portal, SharedRegistry};
use crate::searches::Searches;
use crate::session::Sessions;
use crate::traces::{RequestSpan, Tracer};

/// The parts that all workers share.
pub struct Gate {
    pub config: Arc<Config>,
    pub portals: SharedRegistry,
    pub authn: Arc<Authn>,
    /// Gets tokens for apps.
    pub exchange: ExchangeClient,
    /// The DPoP proofs that counted.
    pub proofs: Arc<Proofs>,
    pub assertions: Arc<AssertionKeys>,
    pub sessions: Arc<Sessions>,
    pub login: Arc<RelyingParty>,
    /// Changes whenever a revision is swapped, or the trust in client certificates; written by `reload` and
    /// `http::tls`.
    pub reloads: watch::Sender<u64>,
    /// Answers requests under `identity.prefix`.
    pub identity: LoginDoor,
    pub theme: Arc<Theme>,
    pub audit: Audit,
    /// `None`: traces are off.
    pub tracer: Option<Arc<Tracer>>,
    pub metrics: Metrics,
    pub limits: RequestLimits,
    /// Evaluates candidate sets beside the decisions.
    pub shadows: Shadows,
    /// Answers searches of AuthZEN.
    pub searches: Searches,
}

/// One thread's gate: the shared part, and what no other thread touches.
pub struct Worker {
    pub gate: Arc<Gate>,
    pub pool: Pool,
    pub live: Live,
}

/// The reason why a request ends without the app's answer.
enum Stop {
    Refused(Refusal),
    Upstream(UpstreamError),
}

/// A request's head after the checks that make it unambiguous.
pub(crate) struct RequestHead {
    pub parts: Box<Parts>,
    /// The path that is decided on and forwarded.
    pub path: CanonicalPath,
    pub client: ClientFacts,
    /// The certificate of the client's own connection. `None` for requests that another proxy holds back.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The revision that a request to a portal uses, and its token outside `Authorization`.
struct EnteredPortal {
    active: Arc<ActiveRevision>,
    token: Option<FoundToken>,
}

/// A portal and the revision that a request uses from its start to its end.
#[derive(Clone, Copy)]
pub(crate) struct ActivePortal<'a> {
    pub portal: &'a Arc<Portal>,
    pub active: &'a Arc<ActiveRevision>,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl RequestHead {
    /// Checks that the head has one meaning. `client` finds the client's facts.
    fn read(
        parts: Box<Parts>,
        client: impl FnOnce(&HeaderMap, Target<'_>) -> Result<ClientFacts, Refusal>,
        progress: &mut Progress,
    ) -> Result<Self, Refusal> {
        progress.set_method(&parts.method);
        let target = request::check(&parts)?;
        let path = CanonicalPath::parse_request(target.path).map_err(|error| path_refused(error.to_string()))?;
        progress.set_path(&path);
        let client = client(&parts.headers, target)?;
        progress.set_client(&client);
        Ok(Self {
            parts,
            path,
            client,
            certificate: None,
        })
    }
}

impl Worker {
    /// Answers one request; never fails.
    pub async fn handle(self: Rc<Self>, request: Request<Incoming>, connection: Rc<ClientConnection>) -> Response<Body> {
        let request_slot = self.gate.limits.acquire_slot();
        let style = Style::for_request(request.method(), request.headers());
        let decided_at = unix_millis();
        let decision_id = new_id(decided_at);
        let Correlation { request_id, mut trace } = correlation(request.headers(), decision_id);
        let mut answer = AnswerContext::new(style, decision_id, request_id.clone(), &self.gate.theme);
        let slot = match self.gate.audit.admit() {
            Ok(slot) => slot,
            Err(refusal) => {
                self.gate.count_unrecorded(request.method(), refusal.denial);
                return answer::refusal_response(&refusal, &answer);
            }
        };
        let span = self.gate.begin_span(request.headers(), &mut trace);
        let mut record = AuditRecord::new(decision_id, Door::Proxy);
        record.request_id = Some(request_id.clone());
        record.trace_id = Some(trace.trace_id);
        record.http = Some(HttpRecord {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            route: None,
            client: None,
            status: None,
        });
        let ids = Correlation { request_id, trace };
        let mut progress = Progress::begin(Door::Proxy, decision_id, ids, decided_at, self.gate.audit.guard(slot, record));
        progress.span = span;
        progress.visit = (style == Style::Page).then(|| self.gate.visit(request.method(), request.uri(), request.headers()));
        let response = match self.gate(request, &connection, request_slot.as_ref(), &mut progress).await {
            Ok(mut response) => {
                if progress.is_gate_endpoint {
                    answer::set_common_headers(&mut response, &answer);
                }
                self.gate.forget_logins(&mut response, &progress);
                response
            }
            Err(stop) => {
                answer.page_links = self.gate.page_links(&progress);
                let mut response = self.render_stop(stop, &answer, &mut progress);
                if let Some(active) = &progress.active {
                    cors::expose(&active.revision.file.cors, progress.origin.as_ref(), response.headers_mut());
                }
                response
            }
        };
        self.finish(response, progress)
            .map(|body| body.with_request_slot(request_slot))
    }

    async fn gate(
        &self,
        request: Request<Incoming>,
        connection: &Rc<ClientConnection>,
        request_slot: Option<&RequestSlot>,
        progress: &mut Progress,
    ) -> Result<Response<Body>, Stop> {
        let (parts, body) = request.into_parts();
        let mut head = self.check_head(Box::new(parts), connection, progress)?;
        // returned later: the 429 needs the portal's CORS headers
        let rate = match request_slot {
            Some(_) => self.gate.limits.check_address(head.client.source_ip),
            None => Err(Refusal::over_limit(Denial::Overloaded, "limits.requests")),
        };
        if let Some(endpoint) = self.gate.gate_endpoint(&head.path)? {
            rate?;
            // boxed: logins are rare, and every request's future has room for its largest branch
            let answer = Box::pin(self.answer_endpoint(endpoint, &head, body, progress));
            return answer.await.map_err(Stop::from);
        }
        // the portal, and the revision that this request uses to its end
        let portal = self.gate.portals.load().find(&head.client.host, &head.path)?.cloned();
        let Some(portal) = portal else {
            let endpoint = self
                .endpoint_without_portal(&head, progress)
                .ok_or_else(|| unmatched(&head.path))?;
            rate?;
            let answer = Box::pin(self.answer_endpoint(endpoint, &head, body, progress));
            return answer.await.map_err(Stop::from);
        };
        let EnteredPortal { active, token } = progress.enter(&portal, &mut head, rate)?;
        let sanitized = sanitize(&mut head.parts.headers, &portal.header_rules, self.sender(connection));
        let active_portal = ActivePortal {
            portal: &portal,
            active: &active,
        };
        // the decision; from here on there is a permit
        let Passed { permit, basis } = match self.allow(&mut head, token.as_ref(), active_portal, progress).await? {
            Allowed::Answer(answer) => return Ok(*answer),
            Allowed::Pass(passed) => passed,
        };
        self.gate.sessions.cookies.strip(&mut head.parts.headers);
        let (parts, request) = decided(head, active_portal, basis, progress.decided_at);
        let forwarding = Forwarding {
            connection,
            portal: &portal,
            policy_headers: active.revision.rules.plans.headers(),
            request: Rc::new(request),
            sanitized,
        };
        self.forward(permit, parts, body, forwarding, progress).await
    }

    fn sender(&self, connection: &ClientConnection) -> Sender {
        match request::is_trusted(connection.peer.ip(), &self.gate.config.trusted_proxies) {
            true => Sender::TrustedProxy,
            false => Sender::Client,
        }
    }

    /// Checks that the head has one meaning, and reads the path and the client from it.
    fn check_head(
        &self,
        mut parts: Box<Parts>,
        connection: &ClientConnection,
        progress: &mut Progress,
    ) -> Result<RequestHead, Refusal> {
        request::check_head_size(&parts, &self.gate.config.limits)?;
        request::as_http1(&mut parts)?;
        progress.origin = cors::origin(&parts.headers);
        let trusted = &self.gate.config.trusted_proxies;
        let client = |headers: &HeaderMap, target: Target<'_>| {
            request::client_facts(headers, connection.peer.ip(), connection.scheme, target, trusted)
        };
        let mut head = RequestHead::read(parts, client, progress)?;
        if let Some(certificate) = &connection.certificate {
            certificate.check(unix_seconds())?;
            head.certificate = Some(Arc::clone(certificate));
        }
        Ok(head)
    }

    /// Turns a refusal, or a failure of the app, into a response.
    fn render_stop(&self, stop: Stop, answer: &AnswerContext, progress: &mut Progress) -> Response<Body> {
        match stop {
            Stop::Refused(refusal) => {
                tracing::debug!(decision_id = %progress.decision_id, code = refusal.denial.code(), detail = %refusal.detail, "refused");
                progress.record.refused(&refusal);
                progress.record.record.limit = refusal.limit;
                self.gate.refused(&refusal, answer, progress)
            }
            Stop::Upstream(error) => {
                // failures that a client can cause at will must not fill the log
                if error.is_worth_logging() {
                    tracing::warn!(decision_id = %progress.decision_id, error = %error, cause = error.cause(), "no answer from the app");
                } else {
                    tracing::debug!(decision_id = %progress.decision_id, error = %error, "not forwarded");
                }
                progress.record.record.limit = error.limit();
                match error {
                    UpstreamError::BodyTooLarge => progress.record.denied(Denial::RequestTooLarge),
                    UpstreamError::ClientBody => progress.record.denied(Denial::RequestInvalid),
                    UpstreamError::Unavailable { .. } | UpstreamError::Timeout => progress.record.permitted(),
                }
                self.gate.metrics.upstream_errors.with_label_values(&[error.reason()]).inc();
                answer::upstream_error_response(&error, answer)
            }
        }
    }

    /// Counts the request, completes its record, and returns the response.
    fn finish(&self, mut response: Response<Body>, mut progress: Progress) -> Response<Body> {
        if let Some(active) = &progress.active {
            cors::share(&active.revision.file.cors, progress.origin.as_ref(), response.headers_mut());
        }
        if let Some(nonce) = progress.next_nonce.take() {
            response.headers_mut().insert(DPOP_NONCE, nonce);
            if let Some(active) = &progress.active {
                cors::expose_nonce(&active.revision.file.cors, progress.origin.as_ref(), response.headers_mut());
            }
        }
        let ended = Instant::now();
        let total = ended - progress.started;
        let record = &mut progress.record.record;
        record.latency_us.total = micros(total);
        record.latency_us.upstream = progress.upstream_started.map(|at| micros(ended - at));
        let method = record.http.as_ref().map_or("OTHER", |http| method_label(&http.method));
        if let Some(http) = &mut record.http {
            http.status = Some(response.status().as_u16());
        }
        let denial = denied_by(record);
        if let Some(span) = progress.span.take() {
            progress.finish_span(span, response.status(), denial, ended);
        }
        let portal = progress.portal.as_ref().map_or(NO_PORTAL, |p| &p.name);
        let class = status_class(response.status());
        self.gate
            .metrics
            .http_requests
            .with_label_values(&[portal, method, class])
            .inc();
        match &progress.portal {
            Some(portal) => {
                portal.meters.count(Door::Proxy, denial);
                portal.meters.request_duration.observe(total.as_secs_f64());
                let gate = progress.gate_ended.unwrap_or(ended) - progress.started;
                portal.meters.gate_duration.observe(gate.as_secs_f64());
            }
            None => self.gate.count_without_portal(Door::Proxy, denial),
        }
        self.gate.shadows.finish(progress.afterwards, progress.record);
        response
    }
}

impl Gate {
    /// `None`: traces are off, or this one is not sampled.
    pub fn begin_span(&self, headers: &HeaderMap, trace: &mut Trace) -> Option<Box<RequestSpan>> {
        self.tracer.as_ref()?.begin(headers, trace)
    }

    /// Counts a request that got no slot for its record.
    fn count_unrecorded(&self, method: &http::Method, denial: Denial) {
        let class = status_class(denial.status());
        self.metrics
            .http_requests
            .with_label_values(&[NO_PORTAL, method_label(method), class])
            .inc();
        self.count_without_portal(Door::Proxy, Some(denial));
    }

    /// Counts a decision that belongs to no portal; `None` is an allow.
    pub fn count_without_portal(&self, door: Door, denial: Option<Denial>) {
        let (decision, reason) = denial.map_or(("allow", "permitted"), |denial| ("deny", denial.code()));
        let labels = [NO_PORTAL, door.as_str(), decision, reason];
        self.metrics.decisions.with_label_values(&labels).inc();
    }
}

/// Keeps of a permitted request what deciding it again needs. Headers only if a policy reads them, or if a tunnel may
/// follow: a later revision may read them.
fn decided(
    head: RequestHead,
    active_portal: ActivePortal<'_>,
    basis: Option<DecisionBasis>,
    at_millis: i64,
) -> (Box<Parts>, DecidedRequest) {
    let RequestHead { parts, path, client, .. } = head;
    let reads_headers = active_portal.active.revision.rules.plans.reads_headers();
    let keeps_headers = reads_headers || is_upgrade(&parts.headers, &parts.extensions);
    let original = OriginalRequest {
        method: parts.method.clone(),
        path,
        query: parts.uri.query().map(str::to_owned),
        client,
        headers: keeps_headers.then(|| OriginalRequest::without_credentials(&parts.headers)),
        at_millis,
    };
    let basis = basis.map(RefCell::new);
    (parts, DecidedRequest { original, basis })
}

/// The refusal of a request that no portal matches.
fn unmatched(path: &CanonicalPath) -> Refusal {
    match path.opaque() {
        Some(_) => path.not_opaque(),
        None => Refusal::new(Denial::PortalUnknown, "no portal matches host and path"),
    }
}

/// The denial that a record shows.
fn denied_by(record: &AuditRecord) -> Option<Denial> {
    match record.verdict {
        crate::audit::RecordedOutcome::Denied(denial) => Some(denial),
        _ => None,
    }
}

/// The method as a metric label with a bounded set of values.
fn method_label(method: &http::Method) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("OTHER")
}

fn status_class(status: http::StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
