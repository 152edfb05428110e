//! From a checked head to a permit: finds the caller, then has the portal's policies decide.
//!
//! The decision itself is `cedargate_policy::decision`; this file finds the caller for it and fills the record. The
//! order of the steps is fixed: an emergency forbid on a public path → the credential → the rate of the principal → the
//! decision.

use std::sync::Arc;
use std::time::Instant;

use cedargate_policy::claims::Possession;
use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::decision::{Access, Caller as DecisionCaller, Query, QueryForm};
use cedargate_policy::denial::{Denial, DpopChallenge, Refusal};
use cedargate_policy::permit::{ForwardedIdentity, Permit};
use http::header::COOKIE;
use http::{HeaderValue, Response};
use uuid::Uuid;

use super::authenticate::Cookie;
use super::cors::{self, Preflight};
use super::live::{DecisionBasis, OriginalRequest};
use super::record::{Progress, note_nearest_permit};
use super::{ActivePortal, Gate, RequestHead, ShadowQuery, Worker};
use crate::authn::PresentedToken;
use crate::authn::certificate::possession;
use crate::http::credentials::{Authorization, FoundToken, OriginEvidence, foreign_scheme};
use crate::http::upstream::Body;
use crate::limits::PrincipalKey;
use crate::portals::{Caller, Portal};
use crate::traces::SpanStep;

/// The outcome for a request that was not refused.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a box would cost every request an allocation"
)]
pub(super) enum Allowed {
    /// The gate's own answer.
    Answer(Box<Response<Body>>),
    /// The request is forwarded.
    Pass(Passed),
}

/// A permit, and the basis on which it is re-checked later.
pub(super) struct Passed {
    pub permit: Permit,
    /// `None` for a preflight: nothing to re-check later.
    pub basis: Option<DecisionBasis>,
}

/// A permit, and the caller that it was given to; no caller on a public path without a credential.
pub(super) struct Permitted {
    pub permit: Permit,
    pub caller: Option<Arc<Caller>>,
}

impl RequestHead {
    /// A token of this request, with the keys that its sender proved to hold.
    pub(super) fn presented<'a>(&self, token: &'a str) -> PresentedToken<'a> {
        PresentedToken {
            token,
            possession: self.possession(),
        }
    }

    pub(super) fn possession(&self) -> Possession {
        possession(self.certificate.as_ref())
    }

    fn query(&self) -> HttpQuery<'_> {
        HttpQuery {
            method: self.parts.method.as_str(),
            path: &self.path,
            host: &self.client.host,
            scheme: self.client.scheme,
            source_ip: self.client.source_ip,
            query: self.parts.uri.query(),
            headers: Some(&self.parts.headers),
            context: None,
        }
    }
}

impl<'a> ActivePortal<'a> {
    /// An HTTP query to this portal's revision, as of `now_millis`.
    pub fn query(self, http: HttpQuery<'a>, now_millis: i64) -> Query<'a> {
        Query {
            portal: &self.portal.scope,
            revision: &self.active.revision,
            now_millis,
            asked: QueryForm::Http(http),
        }
    }
}

impl Caller {
    /// The caller as the decision sees it.
    pub fn for_decision(caller: Option<&Self>) -> DecisionCaller<'_> {
        match caller {
            None => DecisionCaller::Anonymous,
            Some(caller) => DecisionCaller::Proven {
                identity: &caller.proven.identity,
                principal: &caller.principal,
            },
        }
    }
}

impl Worker {
    /// Answers a preflight or passes it on, both without credentials; every other request is decided.
    pub(super) async fn allow(
        &self,
        head: &mut RequestHead,
        token: Option<&FoundToken>,
        active_portal: ActivePortal<'_>,
        progress: &mut Progress,
    ) -> Result<Allowed, Refusal> {
        let epoch = self.gate.epoch();
        match cors::preflight(&active_portal.active.revision.file.cors, &head.parts).transpose()? {
            Some(Preflight::Answer(answer)) => {
                progress.record.permitted();
                Ok(Allowed::Answer(answer))
            }
            Some(Preflight::Pass) => {
                let decision = active_portal.query(head.query(), progress.decided_at).decide_preflight();
                progress.set_decision(active_portal, &decision);
                let decision_id = progress.decision_id;
                let permit = decision.permit(|| self.gate.forwarded_identity(active_portal, None, None, decision_id))?;
                cors::strip_for_app(&mut head.parts.headers);
                progress.record.permitted();
                Ok(Allowed::Pass(Passed { permit, basis: None }))
            }
            None => {
                let Permitted { permit, caller } = self.gate.decide(head, token, active_portal, progress).await?;
                let basis = DecisionBasis {
                    decision_id: progress.decision_id,
                    portal: Arc::clone(active_portal.portal),
                    caller,
                    certificate: head.certificate.clone(),
                    revision: Arc::clone(&active_portal.active.revision.id),
                    epoch,
                };
                Ok(Allowed::Pass(Passed {
                    permit,
                    basis: Some(basis),
                }))
            }
        }
    }
}

impl Gate {
    /// Finds the caller and decides. Every request that HTTP asks about comes here: the proxy's own, and those that
    /// another proxy holds back.
    pub(super) async fn decide(
        &self,
        head: &RequestHead,
        token: Option<&FoundToken>,
        active_portal: ActivePortal<'_>,
        progress: &mut Progress,
    ) -> Result<Permitted, Refusal> {
        let query = active_portal.query(head.query(), progress.decided_at);
        let (open, is_public) = match query.access() {
            Access::Closed(decision) => {
                progress.set_decision(active_portal, &decision);
                return Err(decision.refusal().unwrap_or(Denial::Forbidden.into()));
            }
            Access::Public(open) => (open, true),
            Access::Credential(open) => (open, false),
        };
        let authorization = Authorization::of(&head.parts.headers)?;
        match (&authorization, token) {
            (Authorization::Bearer(_) | Authorization::Dpop(_), _) | (_, Some(_)) => progress.begin_step(SpanStep::Verify),
            _ if progress.span.is_some() && head.parts.headers.contains_key(COOKIE) => progress.begin_step(SpanStep::Session),
            _ => {}
        }
        let caller = match (authorization, token) {
            (Authorization::Bearer(token), _) => Some(self.caller(active_portal, head.presented(token)).await?),
            // boxed: few requests have a proof
            (Authorization::Dpop(token), _) => Some(Box::pin(self.caller_by_proof(head, active_portal, token, progress)).await?),
            // on a public path an unusable cookie or certificate counts as anonymous
            (_, Some(found)) => match self.by_found_token(head, active_portal, found).await {
                Err(_) if is_public && found.origin == OriginEvidence::AsForCookies => None,
                caller => Some(caller?),
            },
            (_, None) => match self.by_itself(head, active_portal, &mut progress.cookie).await {
                Err(_) if is_public => None,
                caller => caller?,
            },
        };
        progress.end_step();
        if caller.is_none() && !is_public {
            return Err(without_credential(authorization, active_portal.portal));
        }
        progress.set_caller(caller.as_deref());
        if let Some(caller) = caller.as_deref() {
            self.limits.check_principal(|| principal_key(active_portal, caller))?;
        }
        let started = Instant::now();
        let mut decision = open.decide(Caller::for_decision(caller.as_deref()));
        progress.set_duration(active_portal.portal, started, &decision);
        progress.set_decision(active_portal, &decision);
        progress.set_context(&mut decision);
        progress.afterwards.shadow = self.shadow(head, active_portal, caller.as_ref(), decision.denial(), progress.decided_at);
        if let Some(caller) = caller.as_deref() {
            let record = &mut progress.record.record;
            progress.afterwards.nearest_permit =
                note_nearest_permit(record, &decision, &caller.principal.entity, active_portal.active);
        }
        let decision_id = progress.decision_id;
        let exchanged = match decision.denial() {
            None => {
                let presented = presented_text(authorization, token);
                self.exchanged_token(active_portal, caller.as_ref(), presented).await?
            }
            Some(_) => None,
        };
        let permit = decision.permit(|| self.forwarded_identity(active_portal, caller.as_ref(), exchanged, decision_id))?;
        progress.record.permitted();
        if let (Some(visit), Cookie::Session(_), false) = (&mut progress.visit, &progress.cookie, is_public) {
            visit.is_let_in = true;
        }
        Ok(Permitted { permit, caller })
    }

    /// The decision for the portal's candidate set. `enforced` is the denial of the revision in force.
    fn shadow(
        &self,
        head: &RequestHead,
        active_portal: ActivePortal<'_>,
        caller: Option<&Arc<Caller>>,
        enforced: Option<Denial>,
        at_millis: i64,
    ) -> Option<Box<ShadowQuery>> {
        let candidate = self.shadows.candidate(active_portal.portal)?;
        let reads_headers = candidate.revision.rules.plans.reads_headers();
        let original = OriginalRequest {
            method: head.parts.method.clone(),
            path: head.path.clone(),
            query: head.parts.uri.query().map(str::to_owned),
            client: head.client.clone(),
            headers: reads_headers.then(|| OriginalRequest::without_credentials(&head.parts.headers)),
            at_millis,
        };
        let caller = caller.cloned();
        let decide = move |active_portal: ActivePortal<'_>| {
            let refusal = original.decide_again(active_portal, caller.as_deref());
            refusal.map(|refusal| refusal.denial)
        };
        Some(ShadowQuery::new(active_portal.portal, candidate, enforced, decide))
    }

    fn forwarded_identity(
        &self,
        active_portal: ActivePortal<'_>,
        caller: Option<&Arc<Caller>>,
        exchanged: Option<HeaderValue>,
        decision_id: Uuid,
    ) -> Result<ForwardedIdentity, Refusal> {
        let assertion = match caller {
            Some(caller) => self.assertion(active_portal, caller)?,
            None => HeaderValue::from_static(""),
        };
        Ok(ForwardedIdentity {
            decision_id,
            portal: active_portal.portal.header.clone(),
            revision: active_portal.active.revision.header.clone(),
            caller: caller.map(|c| Arc::clone(&c.headers)),
            authorization: Self::authorization_for_app(active_portal, exchanged, &assertion),
            assertion,
        })
    }
}

/// The refusal of a request without a credential of the gate's.
fn without_credential(authorization: Authorization<'_>, portal: &Portal) -> Refusal {
    let refusal = match authorization {
        Authorization::Foreign => foreign_scheme(),
        Authorization::Absent | Authorization::Bearer(_) | Authorization::Dpop(_) => Denial::TokenMissing.into(),
    };
    match portal.accepts_proofs {
        true => refusal.challenged(DpopChallenge::default()),
        false => refusal,
    }
}

/// The token of a request; `None`: it has none.
fn presented_text<'a>(authorization: Authorization<'a>, found: Option<&'a FoundToken>) -> Option<&'a str> {
    match authorization {
        Authorization::Bearer(token) | Authorization::Dpop(token) => Some(token),
        Authorization::Absent | Authorization::Foreign => found.map(|found| found.token.expose().as_str()),
    }
}

fn principal_key(active_portal: ActivePortal<'_>, caller: &Caller) -> PrincipalKey {
    PrincipalKey {
        portal: Arc::clone(&active_portal.portal.name),
        issuer: Arc::clone(&caller.proven.identity.issuer),
        principal: caller.principal.entity.uid.clone(),
    }
}
