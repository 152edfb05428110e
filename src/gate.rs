//! THE path: one request from its head to the app's answer, or to a refusal.
//!
//! `handle` wraps: ids, the audit guard, metrics, and turning a refusal into a response. `gate` is the straight line:
//! check → path → portal → caller → target → decision → permit → upstream, each step either giving what the next one
//! needs or ending the request. There is no way to `upstream::forward` around the permit.

mod browser;
mod caller;
mod cors;
mod credential;
mod endpoints;
mod live;
mod onward;
mod progress;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use uuid::Uuid;

use self::cors::Preflight;
use self::credential::Cookie;
pub use self::live::Live;
use self::live::{Asked, Standing};
use self::onward::Onward;
use self::progress::{Progress, micros};
pub use self::progress::{entity_ref, policy_errors, record_answer};
use crate::audit::{Audit, AuditRecord, HttpFacts as HttpRecord};
use crate::authn::{AssertionKeys, Authn, bearer};
use crate::authz::context::{Facts, HttpFacts};
use crate::authz::{Passport, Permit};
use crate::base::metrics::Metrics;
use crate::config::{AuditAllow, Config};
use crate::denial::{Denial, Refusal};
use crate::doors::login::IdentityDoor;
use crate::http::answer::{self, Answer, Style};
use crate::http::listener::Link;
use crate::http::pages::Theme;
use crate::http::request::{self, ClientFacts, correlation, is_upgrade, query_pairs};
use crate::http::upstream::{Body, Pool, UpstreamError, cleanse};
use crate::limits::{Place, PrincipalKey, RequestLimits};
use crate::login::Login;
use crate::portal::path::CanonicalPath;
use crate::portals::{Active, Caller, Portal, SharedServing};
use crate::session::Sessions;
use crate::types::{Door, Identity};

/// The label and record value for requests that no portal matched.
pub const NO_PORTAL: &str = "none";

/// What all workers share.
pub struct Gate {
    pub config: Arc<Config>,
    pub serving: SharedServing,
    pub authn: Arc<Authn>,
    pub assertions: Arc<AssertionKeys>,
    pub sessions: Arc<Sessions>,
    pub login: Arc<Login>,
    /// Changes whenever a revision is swapped; written by `reload`.
    pub reloads: watch::Sender<u64>,
    /// What is under `identity.prefix`.
    pub identity: IdentityDoor,
    pub theme: Arc<Theme>,
    pub audit: Audit,
    pub metrics: Metrics,
    pub limits: RequestLimits,
}

/// One thread's gate: the shared part, and what no other thread touches.
pub struct Worker {
    pub gate: Arc<Gate>,
    pub pool: Pool,
    pub live: Live,
}

/// How a request ends without the app's answer.
enum Stop {
    Refused(Refusal),
    Upstream(UpstreamError),
}

/// What may become of a request.
enum Allowed {
    /// The gate's own answer.
    Answer(Box<Response<Body>>),
    /// It goes on; `None`: resting on nobody.
    Pass(Permit, Option<Standing>),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Worker {
    /// Answers one request; never fails.
    pub async fn handle(&self, request: Request<Incoming>, link: Rc<Link>) -> Response<Body> {
        let place = self.gate.limits.place();
        let style = Style::of(request.method(), request.headers());
        let decision_id = Uuid::now_v7();
        let (request_id, trace) = correlation(request.headers(), decision_id);
        let answer = Answer {
            style,
            decision_id,
            request_id: request_id.clone(),
            theme: Arc::clone(&self.gate.theme),
        };
        let slot = match self.gate.audit.admit() {
            Ok(slot) => slot,
            Err(refusal) => {
                self.gate.count_unrecorded(request.method(), refusal.denial);
                return answer::refused(&refusal, &answer);
            }
        };
        let mut record = AuditRecord::new(decision_id, Arc::from(NO_PORTAL), Door::Proxy);
        record.request_id = Some(request_id.clone());
        record.trace_id = Some(trace.trace_id);
        let path = request.uri().path().to_owned();
        record.http = Some(HttpRecord {
            method: request.method().clone(),
            path,
            route: None,
            client: None,
            status: None,
        });
        let mut progress = Progress {
            started: Instant::now(),
            decision_id,
            request_id,
            trace,
            record: self.gate.audit.guard(slot, record),
            portal: None,
            active: None,
            origin: None,
            upstream_started: None,
            gate_ended: None,
            asked_at: now_millis(),
            navigation: (style == Style::Page).then(|| request.uri().clone()),
            cookie: Cookie::Absent,
            is_own: false,
        };
        let outcome = self.gate(request, (&link, place.as_ref()), &mut progress).await;
        let response = match outcome {
            Ok(mut response) => {
                if progress.is_own {
                    answer::identify(&mut response, &answer);
                }
                response
            }
            Err(stop) => {
                let mut response = self.stopped(stop, &answer, &mut progress);
                if let Some(active) = &progress.active {
                    cors::expose(&active.revision.file.cors, progress.origin.as_ref(), response.headers_mut());
                }
                response
            }
        };
        self.finish(response, progress).map(|body| body.holding(place))
    }

    async fn gate(
        &self,
        request: Request<Incoming>,
        (link, place): (&Rc<Link>, Option<&Place>),
        progress: &mut Progress,
    ) -> Result<Response<Body>, Stop> {
        let (mut head, body) = request.into_parts();
        request::as_http1(&mut head, self.gate.config.limits.header_bytes.as_usize())?;
        progress.asked_with(&head.method);
        progress.origin = cors::origin(&head.headers);
        let target = request::check(&head)?;
        let path = CanonicalPath::parse(target.path).map_err(|e| Refusal::new(Denial::RequestInvalid, e.to_string()))?;
        progress.canonical(&path);
        let client = request::client_facts(
            &head.headers,
            (link.peer.ip(), link.scheme),
            target,
            &self.gate.config.trusted_proxies,
        )?;
        progress.from(client.source_ip);
        // refused below, where it is known which scripts may read that
        let turn = match place {
            Some(_) => self.gate.limits.check_address(client.source_ip),
            None => Err(Denial::Overloaded.into()),
        };
        if let Some(own) = self.own_endpoint(&path) {
            turn?;
            // boxed: logins are rare, and every request's future has room for its largest branch
            let answer = Box::pin(self.answer_own(own, (&head, &client), body, progress));
            return answer.await.map_err(Stop::from);
        }
        let portal = self.gate.serving.load().find(&client.host, &path).cloned();
        let portal = portal.ok_or_else(|| Refusal::new(Denial::PortalUnknown, "no portal matches host and path"))?;
        progress.in_portal(&portal);
        let active = portal.active.load_full().ok_or(Refusal::from(Denial::NoPolicyLoaded))?;
        progress.under(&active);
        turn?;
        let cleansed = cleanse(&mut head.headers, &portal.header_rules);
        let allowed = self.allow((&mut head, &path), (&portal, &active), &client, progress).await?;
        let (permit, standing) = match allowed {
            Allowed::Answer(answer) => return Ok(*answer),
            Allowed::Pass(permit, standing) => (permit, standing),
        };
        self.gate.sessions.cookies.strip(&mut head.headers);
        let reads_headers = active.revision.rules.plans.reads_headers();
        let keeps_headers = reads_headers || is_upgrade(&head.headers, &head.extensions);
        let onward = Onward {
            link,
            portal: &portal,
            asked: Asked {
                method: head.method.clone(),
                path,
                query: head.uri.query().map(str::to_owned),
                client,
                headers: keeps_headers.then(|| Asked::kept(&head.headers)),
                at_millis: progress.asked_at,
            },
            standing,
            cleansed,
        };
        self.pass_on(permit, Request::from_parts(head, body), onward, progress).await
    }

    /// A preflight is answered or passed on without anybody's credentials; everything else is decided.
    async fn allow(
        &self,
        (head, path): (&mut Parts, &CanonicalPath),
        (portal, active): (&Arc<Portal>, &Active),
        client: &ClientFacts,
        progress: &mut Progress,
    ) -> Result<Allowed, Refusal> {
        let epoch = self.gate.epoch();
        match cors::preflight(&active.revision.file.cors, head).transpose()? {
            Some(Preflight::Answer(answer)) => {
                progress.record.permitted();
                Ok(Allowed::Answer(answer))
            }
            Some(Preflight::Pass) => {
                check_brake(active, head, path, progress)?;
                cors::strip_credentials(&mut head.headers);
                progress.record.permitted();
                let passport = self.passport(portal, active, None, progress.decision_id)?;
                Ok(Allowed::Pass(Permit::public(passport), None))
            }
            None => {
                let (permit, caller) = self.decide((head, path), (portal, active), client, progress).await?;
                let standing = Standing {
                    decision_id: progress.decision_id,
                    portal: Arc::clone(portal),
                    caller,
                    revision: Arc::clone(&active.revision.id),
                    epoch,
                };
                Ok(Allowed::Pass(permit, Some(standing)))
            }
        }
    }

    /// Who, what, whether: everything between a portal and a permit.
    async fn decide(
        &self,
        (head, path): (&Parts, &CanonicalPath),
        (portal, active): (&Arc<Portal>, &Active),
        client: &ClientFacts,
        progress: &mut Progress,
    ) -> Result<(Permit, Option<Arc<Caller>>), Refusal> {
        let is_public = active.revision.file.public.matches(head.method.as_str(), path);
        if is_public {
            check_brake(active, head, path, progress)?;
        }
        let caller = match bearer(&head.headers)? {
            Some(token) => Some(self.gate.caller(portal, active, token).await?),
            None => match self.gate.by_cookie(head, (portal, active), &mut progress.cookie).await {
                // a session that cannot be used is nobody, where nobody may come in
                Err(_) if is_public => None,
                caller => caller?,
            },
        };
        if caller.is_none() && !is_public {
            return Err(Denial::TokenMissing.into());
        }
        progress.authenticated(caller.as_deref());
        if let Some(caller) = caller.as_deref() {
            self.gate.limits.check_principal(|| principal_key(portal, caller))?;
        }
        let tenant = portal.scope.tenant.of_request(Some(&client.host));
        check_tenant(tenant, caller.as_deref().map(|c| &c.identity))?;
        let passport = self.passport(portal, active, caller.as_ref(), progress.decision_id)?;
        let Some(caller) = caller.as_ref().filter(|_| !is_public) else {
            progress.record.permitted();
            return Ok((Permit::public(passport), caller));
        };
        let target = active.revision.target(head.method.as_str(), path)?;
        progress.asks(&target, active);
        let query = pairs(active, head);
        let facts = Facts {
            portal: &portal.name,
            tenant: tenant.or(caller.identity.tenant.as_deref()),
            now_millis: progress.asked_at,
            auth: Some(&caller.identity.auth),
            flags: &active.revision.flags,
            http: Some(HttpFacts {
                method: head.method.as_str(),
                path: path.id(),
                host: &client.host,
                scheme: client.scheme.as_str(),
                source_ip: client.source_ip,
                query: &query,
                headers: &head.headers,
            }),
        };
        let started = Instant::now();
        let answer = active.revision.rules.ask(&caller.principal, &target, &facts);
        progress.decided(portal, started, answer.as_ref().ok());
        progress.in_context(active, &target, &facts);
        Ok((answer?.permit(passport)?, Some(Arc::clone(caller))))
    }

    fn passport(
        &self,
        portal: &Portal,
        active: &Active,
        caller: Option<&Arc<Caller>>,
        decision_id: Uuid,
    ) -> Result<Passport, Refusal> {
        let assertion = match caller {
            Some(caller) => self.gate.assertion(portal, active, caller)?,
            None => HeaderValue::from_static(""),
        };
        Ok(Passport {
            decision_id,
            portal: portal.header.clone(),
            revision: active.revision.header.clone(),
            caller: caller.map(|c| Arc::clone(&c.headers)),
            assertion,
        })
    }

    /// A refusal, or an app that gave no answer, as a response.
    fn stopped(&self, stop: Stop, answer: &Answer, progress: &mut Progress) -> Response<Body> {
        match stop {
            Stop::Refused(refusal) => {
                tracing::debug!(decision_id = %progress.decision_id, code = refusal.denial.code(), detail = %refusal.detail, "refused");
                progress.record.denied(refusal.denial);
                self.refused(&refusal, answer, progress)
            }
            Stop::Upstream(error) => {
                // what clients can bring about at will must not fill the log
                if error.is_news() {
                    tracing::warn!(decision_id = %progress.decision_id, error = %error, cause = error.cause(), "no answer from the app");
                } else {
                    tracing::debug!(decision_id = %progress.decision_id, error = %error, "not forwarded");
                }
                match error {
                    UpstreamError::BodyTooLarge => progress.record.denied(Denial::RequestTooLarge),
                    UpstreamError::ClientBody => progress.record.denied(Denial::RequestInvalid),
                    UpstreamError::Unavailable { .. } | UpstreamError::Timeout => progress.record.permitted(),
                }
                self.gate.metrics.upstream_errors.with_label_values(&[error.reason()]).inc();
                answer::upstream_failed(&error, answer)
            }
        }
    }

    /// Counts, completes the record and sends both on their way.
    fn finish(&self, mut response: Response<Body>, mut progress: Progress) -> Response<Body> {
        if let Some(active) = &progress.active {
            cors::share(&active.revision.file.cors, progress.origin.as_ref(), response.headers_mut());
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
        let denial = match record.verdict {
            crate::audit::Verdict::Denied(denial) => Some(denial),
            _ => None,
        };
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
            None => {
                let (decision, reason) = denial.map_or(("allow", "permitted"), |d| ("deny", d.code()));
                self.gate
                    .metrics
                    .decisions
                    .with_label_values(&[NO_PORTAL, "proxy", decision, reason])
                    .inc();
            }
        }
        if self.gate.config.audit.allow == AuditAllow::None {
            progress.record.omit_allowed();
        }
        response
    }
}

impl Gate {
    /// A request that could not even be recorded still counts.
    fn count_unrecorded(&self, method: &http::Method, denial: Denial) {
        let class = status_class(denial.status());
        self.metrics
            .http_requests
            .with_label_values(&[NO_PORTAL, method_label(method), class])
            .inc();
        self.metrics
            .decisions
            .with_label_values(&[NO_PORTAL, "proxy", "deny", denial.code()])
            .inc();
    }
}

fn principal_key(portal: &Portal, caller: &Caller) -> PrincipalKey {
    PrincipalKey {
        portal: Arc::clone(&portal.name),
        issuer: Arc::clone(&caller.identity.issuer),
        principal: caller.principal.party.uid.clone(),
    }
}

/// What needs no identity is asked of no policy, but an emergency forbid for everybody closes it all the same.
fn check_brake(active: &Active, head: &Parts, path: &CanonicalPath, progress: &mut Progress) -> Result<(), Refusal> {
    let Some(brake) = active.revision.braked(head.method.as_str(), path) else {
        return Ok(());
    };
    progress.record.record.policies = vec![Arc::clone(&brake.id)];
    Err(Refusal::new(Denial::Forbidden, format!("closed by {}", brake.id)))
}

/// A caller of another tenant than the request's has no business here.
pub fn check_tenant(request: Option<&str>, caller: Option<&Identity>) -> Result<(), Refusal> {
    match (request, caller.and_then(|c| c.tenant.as_deref())) {
        (Some(request), Some(own)) if request != own => Err(Refusal::new(
            Denial::TenantMismatch,
            format!("the request is for tenant `{request}`, the caller of `{own}`"),
        )),
        _ => Ok(()),
    }
}

fn pairs(active: &Active, head: &Parts) -> Vec<(String, String)> {
    if !active.revision.rules.plans.reads_query() {
        return Vec::new();
    }
    let query = head.uri.query().unwrap_or_default();
    query_pairs(query).map(|(k, v)| (k.into_owned(), v.into_owned())).collect()
}

/// Unix milliseconds; a clock before 1970 reads as 1970.
pub fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Methods as a bounded label.
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
