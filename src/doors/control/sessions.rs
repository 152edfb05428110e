//! Sessions over the control socket: what there are, and ending them.
//!
//! What to list or revoke is in the query: bodies are never read. A revocation names exactly one thing; one that names
//! none, or that is misspelt, ends nothing.

use std::num::NonZeroUsize;

use http::StatusCode;
use serde_json::{Value, json};

use super::Control;
use crate::audit::{AuthEvent, Event};
use crate::session::{Card, Handle, Revocation, StoreError};
use crate::types::PortalSlug;
use cedargate_policy::decision::http::query_pairs;

/// Sessions that are looked through for a listing.
const LOOKED_AT_MAX: usize = 100_000;
/// Sessions in a listing, if nobody says how many.
const LISTED: usize = 1000;

/// Of a revocation that only this gate knows.
const NOT_EVERYWHERE: &str = "the session store does not take it yet; it holds at this gate, which goes on trying";

type Answer = (StatusCode, Value);

/// Which sessions to list.
#[derive(Default)]
struct Filter {
    issuer: Option<String>,
    subject: Option<String>,
    tenant: Option<String>,
    portal: Option<String>,
    limit: Option<usize>,
}

impl Control {
    pub(super) async fn list_sessions(&self, query: &str) -> Answer {
        let filter = match Filter::parse(query) {
            Ok(filter) => filter,
            Err(message) => return (StatusCode::BAD_REQUEST, json!({"error": message})),
        };
        if let Some(Err(message)) = filter.portal.as_deref().map(|portal| self.known_portal(portal)) {
            return (StatusCode::BAD_REQUEST, json!({"error": message}));
        }
        let limit = filter.limit.unwrap_or(LISTED);
        match self.gate.sessions.list(LOOKED_AT_MAX).await {
            Ok(listing) => {
                let unreadable = listing.unreadable;
                let mut fitting: Vec<Card> = listing.cards.into_iter().filter(|card| filter.fits(card)).collect();
                fitting.sort_by_key(|card| std::cmp::Reverse(card.created_at));
                let more = !listing.all || fitting.len() > limit;
                let complete = !more && unreadable == 0;
                fitting.truncate(limit);
                (
                    StatusCode::OK,
                    json!({"sessions": fitting, "complete": complete, "more": more, "unreadable": unreadable}),
                )
            }
            Err(error) => unavailable(&error),
        }
    }

    pub(super) async fn revoke(&self, query: &str) -> Answer {
        let what = match self.target(query) {
            Ok(what) => what,
            Err(message) => return (StatusCode::BAD_REQUEST, json!({"error": message})),
        };
        let outcome = self.gate.sessions.revoke(what.clone()).await;
        let mut event = described(&what);
        event.event = "revocation";
        (event.result, event.reason) = match &outcome {
            Ok(_) => ("success", "operator"),
            Err(_) => ("failure", "store_unavailable"),
        };
        event.detail = match &outcome {
            Ok(revoked) => (!revoked.everywhere).then(|| NOT_EVERYWHERE.to_owned()),
            Err(error) => Some(error.to_string()),
        };
        self.gate.audit.send(Event::Auth(Box::new(event)));
        match outcome {
            Ok(revoked) => {
                let mut body = json!({"revoked": true, "replicated": revoked.replicated, "everywhere": revoked.everywhere});
                if let (false, Some(body)) = (revoked.everywhere, body.as_object_mut()) {
                    body.insert("warning".to_owned(), NOT_EVERYWHERE.into());
                }
                (StatusCode::OK, body)
            }
            Err(error) => unavailable(&error),
        }
    }

    /// What the query names: exactly one thing.
    fn target(&self, query: &str) -> Result<Revocation, String> {
        let mut pairs = query_pairs(query);
        let mut take = |name: &str| {
            let at = pairs.iter().position(|(key, _)| key == name)?;
            Some(pairs.swap_remove(at).1)
        };
        let (issuer, subject) = (take("issuer"), take("subject"));
        let named = [
            ("session", take("session")),
            ("tenant", take("tenant")),
            ("portal", take("portal")),
        ];
        if let Some((key, _)) = pairs.first() {
            return Err(format!("`{key}` is unknown or given twice"));
        }
        let mut named = named.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let (first, second) = (named.next(), named.next());
        match (first, second, subject, issuer) {
            (None, None, Some(subject), issuer) if !subject.is_empty() => Ok(Revocation::Subject {
                issuer: self.issuer(issuer)?,
                subject,
            }),
            (Some((key, value)), None, None, None) if !value.is_empty() => self.single(key, value),
            _ => Err("name exactly one of `session`, `subject` (with `issuer`), `tenant` and `portal`".to_owned()),
        }
    }

    fn single(&self, key: &str, value: String) -> Result<Revocation, String> {
        match key {
            "session" => Handle::from_hex(&value)
                .map(Revocation::Session)
                .ok_or_else(|| format!("`{value}` is no session; take it from the listing")),
            "tenant" => Ok(Revocation::Tenant(value)),
            _ => self.known_portal(&value).map(Revocation::Portal),
        }
    }

    fn known_portal(&self, name: &str) -> Result<PortalSlug, String> {
        let portals = &self.gate.serving.load().portals;
        let known = portals.iter().any(|portal| &*portal.name == name);
        let slug = PortalSlug::parse(name).filter(|_| known);
        slug.ok_or_else(|| format!("there is no portal `{name}`"))
    }

    /// Where there is one issuer only, it need not be named.
    fn issuer(&self, named: Option<String>) -> Result<String, String> {
        let known: Vec<&str> = self.gate.config.issuers.iter().map(|issuer| &*issuer.scope.name).collect();
        match (named, known.as_slice()) {
            (Some(name), _) if known.contains(&name.as_str()) => Ok(name),
            (Some(name), _) => Err(format!("there is no issuer `{name}`; known are: {}", known.join(", "))),
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
                    filter.limit = Some(limit.map_err(|_no| format!("`{value}` is no number from 1 on"))?.get());
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

    fn fits(&self, card: &Card) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        fits(&self.issuer, &card.issuer)
            && fits(&self.subject, &card.subject)
            && fits(&self.tenant, card.tenant.as_deref().unwrap_or_default())
            && fits(&self.portal, &card.portal)
    }
}

/// A revocation, as its record names it.
fn described(what: &Revocation) -> AuthEvent {
    let mut event = AuthEvent::default();
    match what {
        Revocation::Session(handle) => event.session = Some(handle.to_hex()),
        Revocation::Subject { issuer, subject } => {
            (event.issuer, event.subject) = (Some(issuer.as_str().into()), Some(subject.clone()));
        }
        Revocation::Tenant(tenant) => event.tenant = Some(tenant.clone()),
        Revocation::Portal(portal) => event.portal = Some(portal.as_str().into()),
        Revocation::IdpSession { issuer, .. } => event.issuer = Some(issuer.as_str().into()),
    }
    event
}

fn unavailable(error: &StoreError) -> Answer {
    (StatusCode::SERVICE_UNAVAILABLE, json!({"error": error.to_string()}))
}
