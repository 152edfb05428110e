//! Sessions over the control socket: lists them and revokes them.
//!
//! The query string names the sessions to list or the target to revoke; bodies are never read. A revocation names
//! exactly one target. A query that names no target, two targets or an unknown key revokes nothing.

use std::num::NonZeroUsize;

use cedargate_policy::decision::http::query_pairs;
use cedargate_policy::denial::Denial;
use cedargate_policy::types::PortalSlug;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Control, JsonAnswer, error};
use crate::audit::{AuthAct, AuthFact, AuthSubject, Event};
use crate::session::{Handle, Revocation, SessionSummary, StoreError};

/// Sessions that the store reads for one listing.
const READ_MAX: usize = 100_000;
/// Sessions in a listing without `limit`.
const LIMIT_DEFAULT: usize = 1000;

/// Warning of a revocation that the store did not take yet.
const NOT_EVERYWHERE: &str = "the session store does not take the revocation yet; it holds at this gate, which keeps trying";

/// The sessions to list; `None` matches every session.
#[derive(Default)]
struct Filter {
    issuer: Option<String>,
    subject: Option<String>,
    tenant: Option<String>,
    portal: Option<String>,
    limit: Option<usize>,
}

impl Control {
    pub(super) async fn list_sessions(&self, query: &str) -> JsonAnswer {
        let filter = match Filter::parse(query) {
            Ok(filter) => filter,
            Err(message) => return error(StatusCode::BAD_REQUEST, &message),
        };
        if let Some(Err(message)) = filter.portal.as_deref().map(|portal| self.known_portal(portal)) {
            return error(StatusCode::BAD_REQUEST, &message);
        }
        let limit = filter.limit.unwrap_or(LIMIT_DEFAULT);
        match self.gate.sessions.list(READ_MAX).await {
            Ok(listing) => {
                let unreadable = listing.unreadable;
                let mut matching: Vec<SessionSummary> =
                    listing.summaries.into_iter().filter(|card| filter.matches(card)).collect();
                matching.sort_by_key(|card| std::cmp::Reverse(card.created_at));
                let more = !listing.all || matching.len() > limit;
                let complete = !more && unreadable == 0;
                matching.truncate(limit);
                ok(json!({"sessions": matching, "complete": complete, "more": more, "unreadable": unreadable}))
            }
            Err(error) => unavailable(&error),
        }
    }

    pub(super) async fn revoke(&self, query: &str, operator: Option<u32>) -> JsonAnswer {
        let target = match self.target(query) {
            Ok(target) => target,
            Err(message) => return error(StatusCode::BAD_REQUEST, &message),
        };
        let outcome = self.gate.sessions.revoke(target.clone()).await;
        let about = AuthSubject {
            operator,
            ..revoked_subject(&target)
        };
        let event = match &outcome {
            Ok(revoked) => about
                .succeeded(AuthAct::Revocation, AuthFact::Operator)
                .with_detail((!revoked.everywhere).then(|| NOT_EVERYWHERE.to_owned())),
            Err(error) => about
                .failed(AuthAct::Revocation, Denial::StoreUnavailable)
                .with_detail(Some(error.to_string())),
        };
        self.gate.audit.send(&Event::Auth(Box::new(event)));
        match outcome {
            Ok(revoked) => {
                let mut body = json!({"revoked": true, "replicated": revoked.replicated, "everywhere": revoked.everywhere});
                if let (false, Some(body)) = (revoked.everywhere, body.as_object_mut()) {
                    body.insert("warning".to_owned(), NOT_EVERYWHERE.into());
                }
                ok(body)
            }
            Err(error) => unavailable(&error),
        }
    }

    /// The one target that the query names.
    fn target(&self, query: &str) -> Result<Revocation, String> {
        let mut pairs = query_pairs(query);
        let mut take = |name: &str| {
            let at = pairs.iter().position(|(key, _)| key == name)?;
            Some(pairs.swap_remove(at).1)
        };
        let issuer = take("issuer");
        let subject = take("subject");
        let named = ["session", "tenant", "portal"].map(|key| (key, take(key)));
        if let Some((key, _)) = pairs.first() {
            return Err(format!("`{key}` is unknown or given twice"));
        }
        let targets: Vec<_> = named.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        match (targets.as_slice(), subject, issuer) {
            ([], Some(subject), issuer) if !subject.is_empty() => Ok(Revocation::Subject {
                issuer: self.issuer(issuer)?,
                subject,
            }),
            ([(key, value)], None, None) if !value.is_empty() => self.single_target(key, value),
            _ => Err("name exactly one of `session`, `subject` (with `issuer`), `tenant` and `portal`".to_owned()),
        }
    }

    fn single_target(&self, key: &str, value: &str) -> Result<Revocation, String> {
        match key {
            "session" => Handle::from_hex(value)
                .map(Revocation::Session)
                .ok_or_else(|| format!("`{value}` is not a session; take its id from the listing")),
            "tenant" => Ok(Revocation::Tenant(value.to_owned())),
            _ => self.known_portal(value).map(Revocation::Portal),
        }
    }

    fn known_portal(&self, name: &str) -> Result<PortalSlug, String> {
        let portals = &self.gate.portals.load().portals;
        let known = portals.iter().any(|portal| &*portal.name == name);
        let slug = PortalSlug::parse(name).filter(|_| known);
        slug.ok_or_else(|| format!("there is no portal `{name}`"))
    }

    /// The named issuer, or the only one.
    fn issuer(&self, named: Option<String>) -> Result<String, String> {
        let known: Vec<&str> = self.gate.config.issuers.iter().map(|issuer| &*issuer.scope.name).collect();
        match (named, known.as_slice()) {
            (Some(name), _) if known.contains(&name.as_str()) => Ok(name),
            (Some(name), _) => Err(format!(
                "there is no issuer `{name}`; an issuer is named as in the configuration: {}",
                known.join(", ")
            )),
            (None, [only]) => Ok((*only).to_owned()),
            (None, _) => Err(format!("say whose subject it is with `issuer`: {}", known.join(", "))),
        }
    }
}

impl Filter {
    fn parse(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in query_pairs(query) {
            match &*key {
                "issuer" => filter.issuer = Some(value),
                "subject" => filter.subject = Some(value),
                "tenant" => filter.tenant = Some(value),
                "portal" => filter.portal = Some(value),
                "limit" => {
                    let limit = value.parse::<NonZeroUsize>();
                    filter.limit = Some(limit.map_err(|_no| format!("`{value}` is not a number from 1 on"))?.get());
                }
                other => {
                    return Err(format!(
                        "`{other}` is unknown; there are issuer, subject, tenant, portal and limit"
                    ));
                }
            }
        }
        Ok(filter)
    }

    fn matches(&self, card: &SessionSummary) -> bool {
        let matches = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
        matches(&self.issuer, &card.issuer)
            && matches(&self.subject, &card.subject)
            && matches(&self.tenant, card.tenant.as_deref().unwrap_or_default())
            && matches(&self.portal, &card.portal)
    }
}

/// What a revocation is about, for its record.
fn revoked_subject(target: &Revocation) -> AuthSubject {
    let mut about = AuthSubject::default();
    match target {
        Revocation::Session(handle) => about.session = Some(handle.to_hex()),
        Revocation::Subject { issuer, subject } => {
            about.issuer = Some(issuer.as_str().into());
            about.subject = Some(subject.clone());
        }
        Revocation::Tenant(tenant) => about.tenant = Some(tenant.clone()),
        Revocation::Portal(portal) => about.portal = Some(portal.as_str().into()),
        Revocation::IdpSession { issuer, .. } | Revocation::Unnamed { issuer, .. } => about.issuer = Some(issuer.as_str().into()),
    }
    about
}

fn ok(body: Value) -> JsonAnswer {
    JsonAnswer {
        status: StatusCode::OK,
        body,
    }
}

fn unavailable(reason: &StoreError) -> JsonAnswer {
    error(StatusCode::SERVICE_UNAVAILABLE, &reason.to_string())
}
