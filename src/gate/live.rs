//! Connections that live on after their decision: tunnels, and answers that stream.
//!
//! One registry per worker. An entry keeps what was original, so that it can be original again: when something was revoked, whether
//! its caller still stands; when a revision was swapped, whether that revision still permits it. An entry is what the answer's
//! body holds from its first wait on, and the tunnel from before the app is original. Whoever is cut is cut for one of the two
//! reasons; time that passed, a token that expired or a session whose time is over are none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::decision::{Access, Caller as DecisionCaller};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::path::CanonicalPath;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, Method};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{ActivePortal, Gate};
use crate::audit::{AuthEvent, Event};
use crate::http::request::ClientFacts;
use crate::http::upstream::Cut;
use crate::portals::{Active, Caller, Credential, Portal};

/// Entries looked at before others on the thread have their turn.
const BATCH: usize = 64;

/// What a request original.
#[derive(Clone)]
pub(super) struct OriginalRequest {
    pub method: Method,
    pub path: CanonicalPath,
    pub query: Option<String>,
    pub client: ClientFacts,
    /// Without credentials. `None`: no policy read them.
    pub headers: Option<HeaderMap>,
    pub at_millis: i64,
}

/// A request that was permitted, and under what.
#[derive(Clone)]
pub(super) struct DecisionBasis {
    pub decision_id: Uuid,
    pub portal: Arc<Portal>,
    /// `None`: on a public path.
    pub caller: Option<Arc<Caller>>,
    /// Of the revision.
    pub revision: Arc<str>,
    /// Of the revocations, as of before the caller was looked at.
    pub epoch: u64,
}

/// Why a connection is cut; the label of `live_connections_cut_total{reason}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reason {
    Revoked,
    Reload,
}

struct Entry {
    original: OriginalRequest,
    basis: RefCell<DecisionBasis>,
    cut: Rc<Cut>,
}

/// The live requests of one worker; bounded by `limits.requests` and `limits.connections`.
#[derive(Clone, Default)]
pub struct Live(Rc<Registry>);

#[derive(Default)]
struct Registry {
    entries: RefCell<FxHashMap<u64, Rc<Entry>>>,
    next: Cell<u64>,
    /// Somebody joined who was permitted under what is no longer in force.
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
    /// What is kept of headers: never a credential.
    pub fn kept_headers(headers: &HeaderMap) -> HeaderMap {
        let mut kept = headers.clone();
        kept.remove(AUTHORIZATION);
        kept.remove(COOKIE);
        kept
    }
}

impl OriginalRequest {
    /// Asks another revision the same query, at the time of the first decision: only a difference between the revisions can
    /// change the answer. `None`: still permitted.
    fn decide_again(&self, scope: ActivePortal<'_>, caller: Option<&Caller>) -> Option<Refusal> {
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
        let query = scope.query(http, self.at_millis);
        let open = match query.access() {
            Access::Closed(decision) => return decision.refusal(),
            // policies are not asked, so the principal of the first decision is as good as a new one
            Access::Public(open) => return open.decide(Caller::for_decision(caller)).refusal(),
            Access::Credential(open) => open,
        };
        let Some(caller) = caller else {
            return open.decide(DecisionCaller::Anonymous).refusal();
        };
        let identity = &caller.identity;
        // the principal is made anew: the new revision may map claims in another way
        match scope.active.revision.principal(&scope.portal.scope, identity) {
            Ok(principal) => {
                let principal = &principal;
                open.decide(DecisionCaller::Proven { identity, principal }).refusal()
            }
            Err(refusal) => Some(refusal),
        }
    }
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Reload => "reload",
        }
    }
}

impl Live {
    /// Until what this gives is dropped, `cut` is cut when the request would not be permitted any more.
    pub(super) fn join(
        &self,
        gate: &Gate,
        original: OriginalRequest,
        basis: DecisionBasis,
        cut: Rc<Cut>,
    ) -> Rc<dyn std::any::Any> {
        let registry = &self.0;
        let number = registry.next.get();
        registry.next.set(number.wrapping_add(1));
        if !basis.is_current(gate) {
            registry.stale.notify_one();
        }
        let basis = RefCell::new(basis);
        let entry = Rc::new(Entry { original, basis, cut });
        registry.entries.borrow_mut().insert(number, entry);
        Rc::new(Registration {
            registry: Rc::clone(registry),
            number,
        })
    }

    /// Looks at everybody whenever something was revoked or swapped; never ends by itself.
    pub async fn watch(self, gate: Arc<Gate>) {
        let (mut revocations, mut reloads) = (gate.sessions.revocations(), gate.reloads.subscribe());
        loop {
            let told = tokio::select! {
                told = revocations.changed() => told,
                told = reloads.changed() => told,
                () = self.0.stale.notified() => Ok(()),
            };
            if told.is_err() {
                return;
            }
            self.look(&gate).await;
        }
    }

    async fn look(&self, gate: &Gate) {
        let entries: Vec<Rc<Entry>> = self.0.entries.borrow().values().cloned().collect();
        for (n, entry) in entries.iter().enumerate() {
            if n % BATCH == BATCH - 1 {
                tokio::task::yield_now().await;
            }
            if !entry.cut.is_cut() {
                let mut basis = entry.basis.borrow_mut();
                if let Err((reason, refusal)) = gate.recheck(&entry.original, &mut basis) {
                    entry.cut.cut();
                    gate.tell_cut(&entry.original, &basis, (reason, &refusal));
                }
            }
        }
    }
}

impl DecisionBasis {
    /// Whether nothing happened since that could have changed the answer.
    pub fn is_current(&self, gate: &Gate) -> bool {
        let same = |active: &Arc<Active>| active.revision.id == self.revision;
        self.epoch == gate.epoch() && self.portal.active.load().as_ref().is_none_or(same)
    }
}

impl Gate {
    /// Changes whenever something was revoked.
    pub(super) fn epoch(&self) -> u64 {
        self.sessions.epoch()
    }

    /// Whether a request that was permitted still would be; `basis` is then that of now.
    pub(super) fn recheck(&self, original: &OriginalRequest, basis: &mut DecisionBasis) -> Result<(), (Reason, Refusal)> {
        let epoch = self.epoch();
        if basis.epoch != epoch {
            if let Some(caller) = &basis.caller {
                self.still_stands(caller, &basis.portal).map_err(|r| (Reason::Revoked, r))?;
            }
            basis.epoch = epoch;
        }
        let active = basis.portal.active.load_full();
        let active = active.ok_or_else(|| (Reason::Reload, Denial::NoPolicyLoaded.into()))?;
        if active.revision.id != basis.revision {
            let scope = ActivePortal {
                portal: &basis.portal,
                active: &active,
            };
            let refusal = original.decide_again(scope, basis.caller.as_deref());
            if let Some(refusal) = refusal {
                return Err((Reason::Reload, refusal));
            }
            basis.revision = Arc::clone(&active.revision.id);
        }
        Ok(())
    }

    fn still_stands(&self, caller: &Caller, portal: &Portal) -> Result<(), Refusal> {
        match &caller.credential {
            Credential::Session(session) if self.sessions.is_revoked(session, &portal.name) => Err(Denial::SessionRevoked.into()),
            Credential::Session(_) => Ok(()),
            Credential::Token(_) | Credential::Introspected { .. } => {
                Ok(self.sessions.check_identity(&caller.identity, &portal.name)?)
            }
        }
    }

    pub(super) fn tell_cut(&self, original: &OriginalRequest, basis: &DecisionBasis, (reason, refusal): (Reason, &Refusal)) {
        self.metrics.live_cut.with_label_values(&[reason.as_str()]).inc();
        let identity = basis.caller.as_ref().map(|caller| &caller.identity);
        let session = basis.caller.as_ref().and_then(|caller| match &caller.credential {
            Credential::Session(session) => Some(session.handle.to_hex()),
            Credential::Token(_) | Credential::Introspected { .. } => None,
        });
        self.audit.send(Event::Auth(Box::new(AuthEvent {
            event: "cut",
            result: "success",
            reason: refusal.denial.code(),
            detail: Some(format!("a live connection was closed ({})", reason.as_str())),
            portal: Some(Arc::clone(&basis.portal.name)),
            provider: None,
            issuer: identity.map(|identity| Arc::clone(&identity.issuer)),
            subject: identity.map(|identity| identity.subject.clone()),
            tenant: identity.and_then(|identity| identity.tenant.clone()),
            session,
            client: Some(original.client.source_ip),
            decision_id: Some(basis.decision_id),
        })));
    }
}
