//! A query made of a decision record, decided again by any revision.
//!
//! The record's facts become the facts of a query, and the query takes the same way through the decision as a request
//! does. A fact that the record does not hold (masked, or not declared when it was written) never counts as absent: if
//! a policy of the query reads it, the record cannot be replayed. Flags come from the revision, because `portal.yaml`
//! holds them.

mod asked;
mod unknown;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::asked::{AskedFacts, identity};
use super::explain::{Explanation, explain};
use super::named::NamedEntity;
use super::{Access, Caller, Decision, Query, QueryForm};
use crate::denial::{Denial, Refusal};
use crate::engine::{Engine, EntityQuery, Evaluation, UnknownRead};
use crate::principal::Principal;
use crate::revision::Revision;
use crate::rules::Observer;
use crate::scope::PortalScope;
use crate::types::Identity;

/// A decision record, as far as the decision depends on it.
pub struct RecordedQuery<'a> {
    pub caller: RecordedCaller<'a>,
    pub asked: RecordedAsked<'a>,
    /// Unix milliseconds.
    pub now_millis: i64,
    /// The action that was decided on.
    pub action: Option<&'a str>,
    /// `None`: the record has none, or it is masked.
    pub context: Option<&'a Map<String, Value>>,
    /// JSON pointers of masked values.
    pub masked: &'a [String],
    /// The id of the revision that decided.
    pub revision: Option<&'a str>,
    /// The identity of the facts that it declared; `None`: the record is of an older gate.
    pub facts: Option<&'a str>,
}

/// The caller of a record.
pub enum RecordedCaller<'a> {
    Anonymous,
    /// A credential proved it.
    Proven(ProvenCaller<'a>),
    /// The app named it.
    Named(NamedEntity),
}

/// A caller whom a credential proved, as records show it.
pub struct ProvenCaller<'a> {
    /// Cedar type of the principal.
    pub ty: &'a str,
    /// The principal's id, prefix included.
    pub id: &'a str,
    pub tenant: Option<&'a str>,
    pub roles: Vec<String>,
    /// The claims that became attributes, at the places where the credential had them.
    pub claims: Map<String, Value>,
    /// The token's issuer; `None`: a session.
    pub issuer: Option<&'a str>,
}

/// The question of a record.
pub enum RecordedAsked<'a> {
    Http {
        method: &'a str,
        path: &'a str,
        /// `None`: not recorded.
        client: Option<IpAddr>,
    },
    Named {
        resource: NamedEntity,
        entities: &'a [Value],
    },
}

/// The reason why a record cannot be decided again.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotReplayable {
    /// A policy reads a fact that the record does not hold.
    #[error("policy `{policy}` reads `{name}`, which the record does not hold")]
    Unread {
        /// The fact's name.
        name: String,
        /// The policy.
        policy: Arc<str>,
    },
    /// The schema requires a fact that the record does not hold.
    #[error("the schema requires `{0}`, which the record does not hold")]
    Required(String),
    /// A value of the record is not what a gate writes.
    #[error("{0}")]
    Malformed(String),
    /// The answer to a preflight depends on headers that no record holds.
    #[error("a CORS preflight carries no caller")]
    Preflight,
}

/// One portal's revision, ready to decide records.
pub struct Replay<'a> {
    portal: &'a PortalScope,
    revision: &'a Revision,
    /// Every context field that the schema declares, and the fields inside of it.
    context: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

/// The caller of a replayed query.
pub enum ReplayedCaller {
    /// No credential: the app may name the principal.
    Anonymous,
    Known(Box<KnownCaller>),
    /// This revision makes no principal of the caller.
    Refused(Refusal),
}

/// An identity and its principal.
pub struct KnownCaller {
    pub identity: Identity,
    pub principal: Principal,
}

impl ReplayedCaller {
    /// The caller for the decision; `Err` if the revision refuses it.
    pub fn caller(&self) -> Result<Caller<'_>, &Refusal> {
        match self {
            Self::Anonymous => Ok(Caller::Anonymous),
            Self::Known(known) => Ok(Caller::Proven {
                identity: &known.identity,
                principal: &known.principal,
            }),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

impl<'a> Replay<'a> {
    pub fn new(portal: &'a PortalScope, revision: &'a Revision) -> Self {
        Self {
            portal,
            revision,
            context: unknown::declared_context(revision),
        }
    }

    /// The portal that it decides for.
    pub fn portal(&self) -> &'a PortalScope {
        self.portal
    }

    /// The revision that decides.
    pub fn revision(&self) -> &'a Revision {
        self.revision
    }

    /// The decision of this revision on the recorded query.
    pub fn decide(&self, recorded: &RecordedQuery<'_>) -> Result<Decision, NotReplayable> {
        self.ask(recorded, decide_knowing)?
    }

    /// The same with its reasons. `show` sees the query and the caller as well.
    pub fn explain<T>(
        &self,
        recorded: &RecordedQuery<'_>,
        show: impl FnOnce(&Query<'_>, &ReplayedCaller, Explanation) -> T,
    ) -> Result<T, NotReplayable> {
        self.ask(recorded, |query, caller, unknown| {
            let decision = decide_knowing(query, caller, unknown)?;
            let explanation = match caller.caller() {
                Ok(caller) => explain(query, caller),
                Err(_refused) => decision.into(),
            };
            Ok(show(query, caller, explanation))
        })?
    }

    fn ask<T>(
        &self,
        recorded: &RecordedQuery<'_>,
        answer: impl FnOnce(&Query<'_>, &ReplayedCaller, &BTreeSet<String>) -> T,
    ) -> Result<T, NotReplayable> {
        let unknown = self.unknown(recorded)?;
        let caller = self.caller(recorded)?;
        let facts = AskedFacts::of(self, recorded)?;
        let query = Query {
            portal: self.portal,
            revision: self.revision,
            now_millis: recorded.now_millis,
            asked: facts.asked(recorded),
        };
        if is_preflight(recorded) && matches!(query.access(), Access::Credential(_)) {
            return Err(NotReplayable::Preflight);
        }
        Ok(answer(&query, &caller, &unknown))
    }

    fn caller(&self, recorded: &RecordedQuery<'_>) -> Result<ReplayedCaller, NotReplayable> {
        let RecordedCaller::Proven(proven) = &recorded.caller else {
            return Ok(ReplayedCaller::Anonymous);
        };
        let identity = identity(self.portal, proven, recorded)?;
        Ok(match self.revision.rules.principal(&identity, proven.id) {
            Ok(principal) => ReplayedCaller::Known(Box::new(KnownCaller { identity, principal })),
            Err(refusal) => ReplayedCaller::Refused(refusal),
        })
    }
}

/// A preflight that was answered or passed on: the only request without a caller that no public path explains.
fn is_preflight(recorded: &RecordedQuery<'_>) -> bool {
    let RecordedAsked::Http { method, .. } = recorded.asked else {
        return false;
    };
    method == "OPTIONS" && matches!(recorded.caller, RecordedCaller::Anonymous)
}

/// `Err` if the decision depends on one of the unknown names.
fn decide_knowing(query: &Query<'_>, caller: &ReplayedCaller, unknown: &BTreeSet<String>) -> Result<Decision, NotReplayable> {
    let caller = match caller.caller() {
        Ok(caller) => caller,
        Err(refusal) => return Ok(Decision::refused(refusal.clone())),
    };
    let readers = Readers {
        unknown,
        found: RefCell::new(None),
    };
    let observer: Option<&dyn Observer> = if unknown.is_empty() { None } else { Some(&readers) };
    let decision = match query.access() {
        Access::Closed(decision) => *decision,
        Access::Public(open) | Access::Credential(open) => open.decide_observed(caller, observer),
    };
    if let Some(UnknownRead { policy, name }) = readers.found.into_inner() {
        return Err(NotReplayable::Unread { name, policy });
    }
    match decision.unevaluated() {
        Some(refusal) if is_about_facts(refusal) && !unknown.is_empty() => Err(NotReplayable::Required(shown(unknown))),
        _ => Ok(decision),
    }
}

/// True for the refusal of a query whose facts do not suffice.
fn is_about_facts(refusal: &Refusal) -> bool {
    matches!(refusal.denial, Denial::RequestInvalid | Denial::ClaimInvalid)
}

fn shown(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join("`, `")
}

/// Notes the first policy that reads an unknown name.
struct Readers<'a> {
    unknown: &'a BTreeSet<String>,
    found: RefCell<Option<UnknownRead>>,
}

impl Observer for Readers<'_> {
    fn evaluated(&self, engine: &Engine, query: &EntityQuery<'_>, _: &Evaluation) {
        let mut found = self.found.borrow_mut();
        if found.is_none() {
            *found = engine.reader_of(query, self.unknown);
        }
    }
}

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod tests;
