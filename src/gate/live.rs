//! Connections that outlive their decision: tunnels, and answers that stream.
//!
//! One registry per worker. An entry keeps the original request, so that the worker can decide it again. A revocation
//! makes the worker check the entry's caller; a new revision makes it decide the same query under that revision. If
//! either denies, the worker cuts the connection. So does another trust in client certificates: the worker verifies
//! that of the connection again. An expired token or certificate, or a session past its time, does not cut: only those
//! three events do.
//!
//! What races: a revocation or a swap may come between the decision and the registration. Each entry therefore carries
//! the epoch of revocations and the revision that it was decided under; the epoch is read *before* the caller is
//! checked. `join` compares both with the present and wakes `watch` if they differ, so an event before the registration
//! is seen there and one after it by `watch` itself. A tunnel is registered before the app is asked; a streamed answer
//! when its body first waits, and `forward` compares the same two values once more before the head goes out.
//!
//! If `watch` ends because its senders are gone (shutdown), connections stay until the drain closes them. If the portal
//! has no revision any more, the connection is cut.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use cedargate_policy::context::SECRET_HEADERS;
use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::denial::Refusal;
use cedargate_policy::portal::path::CanonicalPath;
use http::{HeaderMap, Method};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{ActivePortal, Gate};
use crate::audit::{AuthAct, AuthSubject, Event};
use crate::base::clock::unix_seconds;
use crate::http::client_certificate::ClientCertificate;
use crate::http::request::ClientFacts;
use crate::http::upstream::CutSignal;
use crate::portals::{ActiveRevision, Caller, Credential, Portal};

/// Entries checked before the worker yields to its other tasks.
const BATCH: usize = 64;

/// A permitted request, for as long as its answer or its tunnel takes.
pub(super) struct DecidedRequest {
    pub original: OriginalRequest,
    /// `None` for a preflight: nothing to re-check later.
    pub basis: Option<RefCell<DecisionBasis>>,
}

/// A request as it was decided; enough to decide it again.
pub(super) struct OriginalRequest {
    pub method: Method,
    pub path: CanonicalPath,
    pub query: Option<String>,
    pub client: ClientFacts,
    /// Without credentials. `None`: no policy reads headers, so none were stored.
    pub headers: Option<HeaderMap>,
    pub at_millis: i64,
}

/// The basis of a permit: portal, caller, revision, and the revocations known at the time.
pub(super) struct DecisionBasis {
    pub decision_id: Uuid,
    pub portal: Arc<Portal>,
    /// `None` on a public path without a credential.
    pub caller: Option<Arc<Caller>>,
    /// The client certificate of the connection.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Id of the revision that decided.
    pub revision: Arc<str>,
    /// Epoch of the revocations, read before the caller was checked.
    pub epoch: u64,
}

/// The reason why a connection is cut; the label of `live_connections_cut_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reason {
    Revoked,
    Reload,
    Certificate,
}

struct LiveConnection {
    request: Rc<DecidedRequest>,
    cut: Rc<CutSignal>,
}

/// The live requests of one worker; bounded by `limits.requests` and `limits.connections`.
#[derive(Clone, Default)]
pub struct Live(Rc<Registry>);

#[derive(Default)]
struct Registry {
    entries: RefCell<FxHashMap<u64, Rc<LiveConnection>>>,
    next: Cell<u64>,
    /// Wakes `watch`: an entry joined that was decided under an older revision or epoch.
    stale: Notify,
}

/// Takes the entry out when it drops.
struct Registration {
    registry: Rc<Registry>,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.entries.borrow_mut().remove(&self.number);
    }
}

impl OriginalRequest {
    /// A copy of the headers for an entry, without those that no policy may read.
    pub fn without_credentials(headers: &HeaderMap) -> HeaderMap {
        let mut copy = headers.clone();
        for name in SECRET_HEADERS {
            copy.remove(name);
        }
        copy
    }
}

impl OriginalRequest {
    /// Decides the same query under another revision, as of the time of the first decision: only a difference between
    /// the revisions can change the decision. `None`: still permitted.
    pub(super) fn decide_again(&self, active_portal: ActivePortal<'_>, caller: Option<&Caller>) -> Option<Refusal> {
        let http = HttpQuery {
            method: self.method.as_str(),
            path: &self.path,
            host: &self.client.host,
            scheme: self.client.scheme,
            source_ip: self.client.source_ip,
            query: self.query.as_deref(),
            headers: self.headers.as_ref(),
            context: None,
        };
        let query = active_portal.query(http, self.at_millis);
        query.decide_anew(caller.map(|caller| &*caller.proven.identity)).refusal()
    }
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Reload => "reload",
            Self::Certificate => "certificate",
        }
    }
}

impl Live {
    /// Registers a request. Until the returned value is dropped, `cut` is cut when the request would not be permitted
    /// any more.
    pub(super) fn join(&self, gate: &Gate, request: Rc<DecidedRequest>, cut: Rc<CutSignal>) -> Rc<dyn std::any::Any> {
        let registry = &self.0;
        let number = registry.next.get();
        registry.next.set(number.wrapping_add(1));
        if !request.is_current(gate) {
            registry.stale.notify_one();
        }
        let entry = Rc::new(LiveConnection { request, cut });
        registry.entries.borrow_mut().insert(number, entry);
        Rc::new(Registration {
            registry: Rc::clone(registry),
            number,
        })
    }

    /// Checks every entry after each revocation and each swap; ends when both senders are gone.
    pub async fn watch(self, gate: Arc<Gate>) {
        let mut revocations = gate.sessions.revocations();
        let mut reloads = gate.reloads.subscribe();
        loop {
            let event = tokio::select! {
                changed = revocations.changed() => changed,
                changed = reloads.changed() => changed,
                () = self.0.stale.notified() => Ok(()),
            };
            if event.is_err() {
                return;
            }
            self.check_all(&gate).await;
        }
    }

    async fn check_all(&self, gate: &Gate) {
        let entries: Vec<Rc<LiveConnection>> = self.0.entries.borrow().values().cloned().collect();
        for (n, entry) in entries.iter().enumerate() {
            if n % BATCH == BATCH - 1 {
                tokio::task::yield_now().await;
            }
            if !entry.cut.is_cut()
                && let Err(InvalidPermit { reason, refusal }) = gate.recheck(&entry.request)
            {
                entry.cut.cut();
                gate.record_cut(&entry.request, reason, &refusal);
            }
        }
    }
}

impl DecidedRequest {
    fn is_current(&self, gate: &Gate) -> bool {
        self.basis.as_ref().is_none_or(|basis| basis.borrow().is_current(gate))
    }
}

impl DecisionBasis {
    /// True if neither a revocation nor a swap came since the decision, and no other trust in client certificates. A
    /// portal that lost its revision is a swap, too.
    fn is_current(&self, gate: &Gate) -> bool {
        let same = |active: &Arc<ActiveRevision>| active.revision.id == self.revision;
        let is_trusted = self.certificate.as_ref().is_none_or(|certificate| certificate.is_current());
        is_trusted && self.epoch == gate.epoch() && self.portal.active.load().as_ref().is_some_and(same)
    }
}

/// A permit that does not hold any more.
pub(super) struct InvalidPermit {
    pub reason: Reason,
    pub refusal: Box<Refusal>,
}

impl InvalidPermit {
    fn new(reason: Reason, refusal: Refusal) -> Self {
        Self {
            reason,
            refusal: Box::new(refusal),
        }
    }
}

impl Gate {
    /// The epoch of revocations: each revocation changes it.
    pub(super) fn epoch(&self) -> u64 {
        self.sessions.epoch()
    }

    /// Checks that a permitted request still would be permitted, and moves its basis to the present epoch and revision.
    pub(super) fn recheck(&self, request: &DecidedRequest) -> Result<(), InvalidPermit> {
        match &request.basis {
            Some(basis) if !basis.borrow().is_current(self) => self.decide_anew(&request.original, &mut basis.borrow_mut()),
            Some(_) | None => Ok(()),
        }
    }

    fn decide_anew(&self, original: &OriginalRequest, basis: &mut DecisionBasis) -> Result<(), InvalidPermit> {
        let epoch = self.epoch();
        if basis.epoch != epoch {
            if let Some(caller) = &basis.caller {
                let checked = self.sessions.check_caller(caller.proven.revocable(), &basis.portal.name);
                checked.map_err(|denial| InvalidPermit::new(Reason::Revoked, denial.into()))?;
            }
            basis.epoch = epoch;
        }
        if let Some(certificate) = basis.certificate.as_ref().filter(|certificate| !certificate.is_current()) {
            let checked = self.check_certificate(&basis.portal, basis.caller.as_deref(), certificate);
            checked.map_err(|refusal| InvalidPermit::new(Reason::Certificate, refusal))?;
        }
        let active = basis.portal.active_revision();
        let active = active.map_err(|denial| InvalidPermit::new(Reason::Reload, denial.into()))?;
        if active.revision.id != basis.revision {
            let active_portal = ActivePortal {
                portal: &basis.portal,
                active: &active,
            };
            let refusal = original.decide_again(active_portal, basis.caller.as_deref());
            if let Some(refusal) = refusal {
                return Err(InvalidPermit::new(Reason::Reload, refusal));
            }
            basis.revision = Arc::clone(&active.revision.id);
        }
        Ok(())
    }

    /// Checks that the certificate of a connection is trusted and, where it is the caller's credential, that the same
    /// issuer vouches for it.
    fn check_certificate(
        &self,
        portal: &Portal,
        caller: Option<&Caller>,
        certificate: &ClientCertificate,
    ) -> Result<(), Refusal> {
        match caller.map(|caller| &caller.proven) {
            Some(proven) if matches!(proven.credential, Credential::Certificate) => portal
                .certificate_trust(&self.config)
                .check(certificate, &proven.identity.issuer),
            Some(_) | None => Ok(certificate.check(unix_seconds()).map(drop)?),
        }
    }

    pub(super) fn record_cut(&self, request: &DecidedRequest, reason: Reason, refusal: &Refusal) {
        let Some(basis) = request.basis.as_ref().map(RefCell::borrow) else {
            return;
        };
        self.metrics.live_cut.with_label_values(&[reason.as_str()]).inc();
        let identity = basis.caller.as_ref().map(|caller| &caller.proven.identity);
        let session = basis.caller.as_ref().and_then(|caller| match &caller.proven.credential {
            Credential::Session(session) => Some(session.handle.to_hex()),
            Credential::Token(_) | Credential::Introspected { .. } | Credential::Certificate => None,
        });
        let about = AuthSubject {
            portal: Some(Arc::clone(&basis.portal.name)),
            provider: None,
            issuer: identity.map(|identity| Arc::clone(&identity.issuer)),
            subject: identity.map(|identity| identity.subject.clone()),
            tenant: identity.and_then(|identity| identity.tenant.clone()),
            session,
            client: Some(request.original.client.source_ip),
            operator: None,
            decision_id: Some(basis.decision_id),
        };
        let event = about.succeeded(AuthAct::Cut, refusal.denial);
        let detail = format!("a live connection was closed ({})", reason.as_str());
        self.audit.send(&Event::Auth(Box::new(event.with_detail(Some(detail)))));
    }
}
