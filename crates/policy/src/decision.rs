//! THE decision: a query against one portal's revision → a decision. Every door calls it, and none has a copy of a
//! step.
//!
//! The proxy, the re-check of live connections, `/authorize`, decision tests and `cedargate authorize` are this
//! function plus a translation. The steps, in order: emergency forbids on public paths → the request's tenant → public
//! paths → the caller's credential → action and resource → context → policies. Pure: the time, the caller and the files
//! are given.
//!
//! A door that must know whether a credential is needed at all calls `Query::access` first and continues with its
//! result; the others call `decide`.

pub mod coverage;
pub mod explain;
#[cfg(test)]
mod explain_tests;
pub mod http;
pub mod named;
pub mod recorded;
mod public;

use std::sync::Arc;

use cedar_policy::EntityUid;
use serde::Serialize;
use serde_json::{Map, Value};

use self::http::HttpQuery;
use self::named::NamedQuery;
use crate::context::RecordedContext;
use crate::denial::{Denial, Refusal};
use crate::engine::{Evaluation, PolicyError, PolicyInfo, QueryEntity};
use crate::permit::{ForwardedIdentity, Permit};
use crate::portal::path::rules::PathReading;
use crate::principal::Principal;
use crate::revision::Revision;
use crate::rules::Observer;
use crate::scope::PortalScope;
use crate::types::Identity;

/// Everything that one decision depends on besides the caller.
pub struct Query<'a> {
    /// The portal that the query belongs to.
    pub portal: &'a PortalScope,
    /// The portal's policies as they are in force.
    pub revision: &'a Revision,
    /// Unix milliseconds.
    pub now_millis: i64,
    /// The request, or the named action and resource.
    pub asked: QueryForm<'a>,
}

/// The two forms of a query.
pub enum QueryForm<'a> {
    /// A request to the app; portal file and path say which action and resource it is.
    Http(HttpQuery<'a>),
    /// Action and resource by name.
    Named(NamedQuery<'a>),
}

/// The caller whom the decision is about.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// No credential was presented.
    Anonymous,
    /// A credential proved this identity; `principal` is the principal that the same revision makes of it.
    Proven {
        /// Subject, tenant, roles and claims.
        identity: &'a Identity,
        /// The Cedar principal.
        principal: &'a Principal,
    },
}

/// The result of `Query::access`.
pub enum Access<'q> {
    /// An emergency forbid closes this public path for every caller, or the portal's rules do not allow the path.
    Closed(Box<Decision>),
    /// The path is public: a caller without a credential is allowed.
    Public(Open<'q>),
    /// Only a caller with a credential can be permitted.
    Credential(Open<'q>),
}

/// A query that no emergency forbid has closed; the caller is not known yet.
pub struct Open<'q> {
    query: &'q Query<'q>,
    /// The path of a request as the portal reads it.
    path: Option<PathReading<'q>>,
    /// The method of the entry of `public` that the path matches.
    public_by: Option<&'q str>,
}

/// A decision, its reasons, and what it was about.
pub struct Decision {
    /// Action and resource; `None` if the query ended before they were known.
    pub target: Option<Target>,
    /// The principal that a named query names itself; `None` if the caller is the principal.
    pub named_principal: Option<QueryEntity>,
    /// The context that policies saw, for the record.
    pub context: Option<DecisionContext>,
    basis: Basis,
}

/// Action and resource of a query, as Cedar entities.
pub struct Target {
    /// The action.
    pub action: EntityUid,
    /// The resource, with its ancestors.
    pub resource: QueryEntity,
    /// Template of the route that matched, for the record.
    pub route: Option<Arc<str>>,
}

/// The context of a decision, as records show it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum DecisionContext {
    /// Facts that the gate filled in; turned into text by the writer of the record.
    Facts(Box<RecordedContext>),
    /// A context that Cedar's own reader made.
    Json(Value),
}

/// The step that determined a decision.
enum Basis {
    /// `portal.yaml` declares the path public, and no forbid holds for the caller.
    Public,
    /// An emergency forbid closes a public path.
    ClosedBy(Arc<PolicyInfo>),
    /// Policies were evaluated.
    Evaluated(Evaluation),
    /// The query ended before policies were evaluated.
    Refused(Refusal),
}

/// The parts of a decision that are known before it is made.
#[derive(Default)]
struct Details<'o> {
    target: Option<Target>,
    named_principal: Option<QueryEntity>,
    context: Option<DecisionContext>,
    observer: Option<&'o dyn Observer>,
}

/// Decides one query for one caller. Never fails: a query that cannot be evaluated is denied.
pub fn decide(query: &Query<'_>, caller: Caller<'_>) -> Decision {
    match query.access() {
        Access::Closed(decision) => *decision,
        Access::Public(open) | Access::Credential(open) => open.decide(caller),
    }
}

impl Query<'_> {
    /// Tells whether the query needs a credential, and applies emergency forbids to public paths.
    ///
    /// The caller of a public path is not known yet, so an emergency forbid for all principals closes it here.
    pub fn access(&self) -> Access<'_> {
        let QueryForm::Http(http) = &self.asked else {
            return Access::Credential(Open {
                query: self,
                path: None,
                public_by: None,
            });
        };
        let path = match self.revision.file.paths.read(http.path) {
            Ok(path) => path,
            Err(refusal) => return Access::Closed(Box::new(Decision::refused(refusal))),
        };
        let public_by = self.revision.file.public.find(http.method, &path);
        let closed = public_by.and_then(|_| public::closed_by(self.revision, http.method, &path, public_by));
        let open = Open {
            query: self,
            path: Some(path),
            public_by,
        };
        match (closed, public_by) {
            (Some(forbid), _) => Access::Closed(Box::new(Decision::on(Basis::ClosedBy(forbid)))),
            (None, Some(_)) => Access::Public(open),
            (None, None) => Access::Credential(open),
        }
    }

    /// Decides for an identity that was proved under another revision. This one may map its claims in another way, and
    /// forbids read the principal on public paths, too: the principal is made anew. `None`: no credential.
    pub fn decide_anew(&self, identity: Option<&Identity>) -> Decision {
        let open = match self.access() {
            Access::Closed(decision) => return *decision,
            Access::Public(open) | Access::Credential(open) => open,
        };
        let Some(identity) = identity else {
            return open.decide(Caller::Anonymous);
        };
        match self.revision.principal(self.portal, identity) {
            Ok(principal) => open.decide(Caller::Proven {
                identity,
                principal: &principal,
            }),
            Err(refusal) => Decision::refused(refusal),
        }
    }

    /// Decides a CORS preflight that the app answers: without credentials, so only an emergency forbid can deny it.
    pub fn decide_preflight(&self) -> Decision {
        let QueryForm::Http(http) = &self.asked else {
            let refusal = Refusal::new(Denial::RequestInvalid, "a preflight is an HTTP request");
            return Decision::on(Basis::Refused(refusal));
        };
        match self.revision.file.paths.read(http.path) {
            Ok(path) => {
                let forbid = public::closed_by(self.revision, http.method, &path, None);
                Decision::on(forbid.map_or(Basis::Public, Basis::ClosedBy))
            }
            Err(refusal) => Decision::refused(refusal),
        }
    }

    /// The tenant that the request belongs to; it does not depend on the caller.
    fn tenant(&self) -> Option<&str> {
        let host = match &self.asked {
            QueryForm::Http(http) => Some(http.host),
            QueryForm::Named(_) => None,
        };
        self.portal.tenant.of_request(host)
    }
}

impl Open<'_> {
    /// Decides for this caller.
    pub fn decide(&self, caller: Caller<'_>) -> Decision {
        self.decide_observed(caller, None)
    }

    fn decide_observed(&self, caller: Caller<'_>, observer: Option<&dyn Observer>) -> Decision {
        let mut details = Details {
            observer,
            ..Details::default()
        };
        let basis = self.basis(caller, &mut details).unwrap_or_else(Basis::Refused);
        Decision {
            target: details.target,
            named_principal: details.named_principal,
            context: details.context,
            basis,
        }
    }

    fn basis(&self, caller: Caller<'_>, details: &mut Details<'_>) -> Result<Basis, Refusal> {
        let query = self.query;
        let tenant = query.tenant();
        let caller_tenant = caller.identity().and_then(|identity| identity.tenant.as_deref());
        check_tenant(tenant, caller_tenant)?;
        let evaluation = match (&query.asked, &self.path, self.public_by) {
            (QueryForm::Http(http), Some(path), Some(entry_method)) => {
                let request = public::PublicRequest {
                    query,
                    http,
                    path,
                    entry_method,
                };
                let forbids = public::evaluate(&request, caller, tenant, details)?;
                return Ok(forbids.map_or(Basis::Public, Basis::Evaluated));
            }
            (QueryForm::Http(http), Some(path), None) => http::evaluate(query, http, path, caller, tenant, details)?,
            (QueryForm::Named(named), ..) => named::evaluate(query, named, caller, tenant, details)?,
            (QueryForm::Http(_), None, _) => return Err(Refusal::new(Denial::RequestInvalid, "the path was not read")),
        };
        Ok(Basis::Evaluated(evaluation))
    }
}

impl<'a> Caller<'a> {
    /// The portal's flags for this caller.
    fn flags(self, revision: &'a Revision) -> &'a Arc<Map<String, Value>> {
        match self {
            Self::Anonymous => &revision.rules.flags.anonymous,
            Self::Proven { principal, .. } => &principal.flags,
        }
    }

    /// The identity that a credential proved.
    pub fn identity(self) -> Option<&'a Identity> {
        match self {
            Self::Anonymous => None,
            Self::Proven { identity, .. } => Some(identity),
        }
    }
}

impl Decision {
    /// The denial of a query to a portal without a revision.
    pub fn unloaded() -> Self {
        Self::on(Basis::Refused(Denial::NoPolicyLoaded.into()))
    }

    /// A decision that a door makes before there is a query: the caller could not be authenticated.
    pub fn refused(refusal: Refusal) -> Self {
        Self::on(Basis::Refused(refusal))
    }

    fn on(basis: Basis) -> Self {
        Self {
            target: None,
            named_principal: None,
            context: None,
            basis,
        }
    }

    /// The denial; `None` if the decision allows.
    pub fn denial(&self) -> Option<Denial> {
        match &self.basis {
            Basis::Public => None,
            Basis::ClosedBy(_) => Some(Denial::Forbidden),
            Basis::Evaluated(evaluation) => evaluation.denial(),
            Basis::Refused(refusal) => Some(refusal.denial),
        }
    }

    /// The refusal for the caller and the log; `None` if the decision allows.
    pub fn refusal(&self) -> Option<Refusal> {
        match &self.basis {
            Basis::Public => None,
            Basis::ClosedBy(forbid) => Some(Refusal::new(Denial::Forbidden, format!("closed by {}", forbid.id))),
            Basis::Evaluated(evaluation) => evaluation.refusal(),
            Basis::Refused(refusal) => Some(refusal.clone()),
        }
    }

    /// The determining policies: the satisfied forbids, or else the satisfied permits.
    pub fn policies(&self) -> &[Arc<PolicyInfo>] {
        match &self.basis {
            Basis::Public | Basis::Refused(_) => &[],
            Basis::ClosedBy(forbid) => std::slice::from_ref(forbid),
            Basis::Evaluated(evaluation) => &evaluation.policies,
        }
    }

    /// The policies that failed to evaluate.
    pub fn errors(&self) -> &[PolicyError] {
        match &self.basis {
            Basis::Evaluated(evaluation) => &evaluation.errors,
            Basis::Public | Basis::ClosedBy(_) | Basis::Refused(_) => &[],
        }
    }

    /// True if policies were evaluated.
    pub fn is_evaluated(&self) -> bool {
        matches!(self.basis, Basis::Evaluated(_))
    }

    /// The refusal of a query that ended before policies were evaluated.
    pub fn unevaluated(&self) -> Option<&Refusal> {
        match &self.basis {
            Basis::Refused(refusal) => Some(refusal),
            Basis::Public | Basis::ClosedBy(_) | Basis::Evaluated(_) => None,
        }
    }

    /// Turns an allowing decision into a permit, and a denying one into its refusal. `identity` is called only if the
    /// decision allows.
    pub fn permit(&self, identity: impl FnOnce() -> Result<ForwardedIdentity, Refusal>) -> Result<Permit, Refusal> {
        match self.refusal() {
            Some(refusal) => Err(refusal),
            None => Ok(Permit::new(identity()?)),
        }
    }
}

/// Denies a caller whose tenant is not the request's.
pub fn check_tenant(request: Option<&str>, caller: Option<&str>) -> Result<(), Refusal> {
    match (request, caller) {
        (Some(request), Some(caller)) if request != caller => Err(Refusal::new(
            Denial::TenantMismatch,
            format!("the request is for tenant `{request}`, the caller of `{caller}`"),
        )),
        _ => Ok(()),
    }
}
