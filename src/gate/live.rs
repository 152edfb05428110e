//! Connections that live on after their decision: tunnels, and answers that stream.
//!
//! One registry per worker. An entry keeps what was asked, so that it can be asked again: when something was revoked, whether
//! its caller still stands; when a revision was swapped, whether that revision still permits it. An entry is what the answer's
//! body holds from its first wait on, and the tunnel from before the app is asked. Whoever is cut is cut for one of the two
//! reasons; time that passed, a token that expired or a session whose time is over are none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, Method};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Gate, check_tenant, request_tenant};
use crate::audit::{AuthEvent, Event};
use crate::authz::context::{Facts, HttpFacts};
use crate::denial::{Denial, Refusal};
use crate::http::request::{ClientFacts, query_pairs};
use crate::http::upstream::CutSignal;
use crate::portal::path::CanonicalPath;
use crate::portals::{Active, Caller, Credential, Portal};
use crate::revision::cases::subject_prefix;

/// Entries looked at before others on the thread have their turn.
const BATCH: usize = 64;

/// What a request asked.
#[derive(Clone)]
pub(super) struct Asked {
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
pub(super) struct Standing {
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
    asked: Asked,
    standing: RefCell<Standing>,
    cut: Rc<CutSignal>,
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

impl Asked {
    /// What is kept of headers: never a credential.
    pub fn kept(headers: &HeaderMap) -> HeaderMap {
        let mut kept = headers.clone();
        kept.remove(AUTHORIZATION);
        kept.remove(COOKIE);
        kept
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
    pub(super) fn join(&self, gate: &Gate, asked: Asked, standing: Standing, cut: Rc<CutSignal>) -> Rc<dyn std::any::Any> {
        let registry = &self.0;
        let number = registry.next.get();
        registry.next.set(number.wrapping_add(1));
        if !standing.is_current(gate) {
            registry.stale.notify_one();
        }
        let standing = RefCell::new(standing);
        let entry = Rc::new(Entry { asked, standing, cut });
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
                let mut standing = entry.standing.borrow_mut();
                if let Err((reason, refusal)) = gate.recheck(&entry.asked, &mut standing) {
                    entry.cut.cut();
                    gate.tell_cut(&entry.asked, &standing, (reason, &refusal));
                }
            }
        }
    }
}

impl Standing {
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

    /// Whether a request that was permitted still would be; `standing` is then that of now.
    pub(super) fn recheck(&self, asked: &Asked, standing: &mut Standing) -> Result<(), (Reason, Refusal)> {
        let epoch = self.epoch();
        if standing.epoch != epoch {
            if let Some(caller) = &standing.caller {
                self.still_stands(caller, &standing.portal)
                    .map_err(|r| (Reason::Revoked, r))?;
            }
            standing.epoch = epoch;
        }
        let active = standing.portal.active.load_full();
        let active = active.ok_or_else(|| (Reason::Reload, Denial::NoPolicyLoaded.into()))?;
        if active.revision.id != standing.revision {
            permits((&standing.portal, &active), asked, standing.caller.as_deref()).map_err(|r| (Reason::Reload, r))?;
            standing.revision = Arc::clone(&active.revision.id);
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

    pub(super) fn tell_cut(&self, asked: &Asked, standing: &Standing, (reason, refusal): (Reason, &Refusal)) {
        self.metrics.live_cut.with_label_values(&[reason.as_str()]).inc();
        let identity = standing.caller.as_ref().map(|caller| &caller.identity);
        let session = standing.caller.as_ref().and_then(|caller| match &caller.credential {
            Credential::Session(session) => Some(session.handle.to_hex()),
            Credential::Token(_) | Credential::Introspected { .. } => None,
        });
        self.audit.send(Event::Auth(Box::new(AuthEvent {
            event: "cut",
            result: "success",
            reason: refusal.denial.code(),
            detail: Some(format!("a live connection was closed ({})", reason.as_str())),
            portal: Some(Arc::clone(&standing.portal.name)),
            provider: None,
            issuer: identity.map(|identity| Arc::clone(&identity.issuer)),
            subject: identity.map(|identity| identity.subject.clone()),
            tenant: identity.and_then(|identity| identity.tenant.clone()),
            session,
            client: Some(asked.client.source_ip),
            decision_id: Some(standing.decision_id),
        })));
    }
}

/// The question of `Worker::decide`, asked again of another revision at the time it was asked first: only what the revision
/// changed can change the answer.
fn permits((portal, active): (&Portal, &Active), asked: &Asked, caller: Option<&Caller>) -> Result<(), Refusal> {
    let (revision, method) = (&active.revision, asked.method.as_str());
    let is_public = revision.file.public.matches(method, &asked.path);
    if is_public && revision.braked(method, &asked.path).is_some() {
        return Err(Denial::Forbidden.into());
    }
    let tenant = request_tenant(&portal.config.tenant, &asked.client);
    check_tenant(tenant, caller.map(|c| &c.identity))?;
    if is_public {
        return Ok(());
    }
    let caller = caller.ok_or(Denial::TokenMissing)?;
    let plans = &revision.rules.plans;
    if plans.reads_headers() && asked.headers.is_none() {
        let detail = "the new policies read headers, which the old ones did not, so that they were not kept";
        return Err(Refusal::new(Denial::EvaluationError, detail));
    }
    let prefix = subject_prefix(portal.frame(), &caller.identity.issuer);
    let principal = revision.rules.principal(&caller.identity, &prefix)?;
    let target = revision.target(method, &asked.path)?;
    let query = asked.query.as_deref().filter(|_| plans.reads_query()).unwrap_or_default();
    let query: Vec<_> = query_pairs(query).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
    let none = HeaderMap::new();
    let facts = Facts {
        portal: &portal.name,
        tenant: tenant.or(caller.identity.tenant.as_deref()),
        now_millis: asked.at_millis,
        auth: Some(&caller.identity.auth),
        flags: &revision.flags,
        http: Some(HttpFacts {
            method,
            path: asked.path.id(),
            host: &asked.client.host,
            scheme: asked.client.scheme.as_str(),
            source_ip: asked.client.source_ip,
            query: &query,
            headers: asked.headers.as_ref().unwrap_or(&none),
        }),
    };
    match revision.rules.ask(&principal, &target, &facts)?.denial() {
        Some(denial) => Err(denial.into()),
        None => Ok(()),
    }
}
