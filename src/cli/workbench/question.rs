//! A request as the page shows and edits it, and its way to the decision and back.
//!
//! The page speaks of subject, tenant and roles; the issuer's mapping says in which claims they are. Context fields and
//! the time count as in a decision test, so that a question can become one.

use std::net::IpAddr;

use cedargate_policy::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use cedargate_policy::decision::{Caller, Query, QueryForm};
use cedargate_policy::matrix::roles;
use cedargate_policy::scope::{IssuerScope, PortalScope};
use cedargate_policy::types::{Identity, Scheme};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::overview::problems;
use crate::base::clock::{parse_rfc3339, unix_millis};
use crate::cli::offline::{ClaimedCredential, OfflineCaller, RequestLine, answered};
use crate::cli::tree::Workbench;

/// A request, with everything that a decision depends on.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkbenchQuestion {
    pub portal: String,
    /// `None`: no credential.
    pub caller: Option<CallerFacts>,
    pub http: Option<RequestFacts>,
    pub named: Option<NamedFacts>,
    pub context: Option<Map<String, Value>>,
    /// RFC 3339; `None`: now.
    pub now: Option<String>,
}

/// A caller as its credential describes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallerFacts {
    pub subject: String,
    pub tenant: Option<String>,
    #[serde(default)]
    pub roles: Vec<String>,
    /// All claims; those above count before them.
    #[serde(default)]
    pub claims: Map<String, Value>,
}

/// A request to the app.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestFacts {
    pub method: String,
    /// Path and query.
    pub url: String,
    pub host: Option<String>,
    pub scheme: Option<String>,
    pub source_ip: Option<IpAddr>,
}

/// Action and resource by name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedFacts {
    pub action: String,
    pub resource: Value,
    #[serde(default)]
    pub entities: Vec<Value>,
    /// The principal, if no credential names one.
    pub principal: Option<Value>,
}

impl WorkbenchQuestion {
    /// Reads the question of a call.
    pub fn read(value: &Value) -> Result<Self, String> {
        Self::deserialize(value).map_err(|error| format!("the question is malformed: {error}"))
    }

    /// Asks the tree, and passes the query to `answer`. `Err` is a message for the user.
    pub fn ask<T>(&self, workbench: &Workbench, answer: impl FnOnce(&Query<'_>, &OfflineCaller) -> T) -> Result<T, String> {
        let portal = workbench.named(&self.portal)?;
        let credential = match &self.caller {
            None => ClaimedCredential::None,
            Some(caller) => ClaimedCredential::Claims(caller.as_claims(portal)),
        };
        let now = self.now_millis()?;
        match (&self.http, &self.named) {
            (Some(http), None) => {
                let line = RequestLine {
                    portal: Some(&self.portal),
                    method: &http.method,
                    url: &http.url,
                    host: http.host.as_deref(),
                    scheme: match http.scheme.as_deref() {
                        Some("http") => Scheme::Http,
                        _ => Scheme::Https,
                    },
                    source_ip: http.source_ip.unwrap_or(IpAddr::from([127, 0, 0, 1])),
                    context: self.context.as_ref(),
                };
                line.ask(workbench, &credential, now, answer)
            }
            (None, Some(named)) => {
                let load = workbench.load_untested_one(portal);
                let read = |value: &Value, member| NamedEntity::read(value.clone(), member).map_err(|r| r.detail.into_owned());
                let resource = read(&named.resource, "resource")?;
                let principal = named
                    .principal
                    .as_ref()
                    .map(|principal| read(principal, "principal"))
                    .transpose()?;
                let query = NamedQuery {
                    action: &named.action,
                    resource: &resource,
                    principal: principal.as_ref(),
                    context: self.context.as_ref(),
                    precedence: ContextPrecedence::Given,
                    entities: &named.entities,
                };
                answered(&load, &credential, now, |_| QueryForm::Named(query), answer)
            }
            _ => Err("a question has either a request to the app, or an action and a resource".to_owned()),
        }
    }

    fn now_millis(&self) -> Result<i64, String> {
        let Some(text) = &self.now else {
            return Ok(unix_millis());
        };
        let fail = || format!("`{text}` is not a time such as 2026-01-01T00:00:00Z");
        parse_rfc3339(text).ok_or_else(fail)
    }

    /// The question that a query asks, at its time.
    pub fn of(query: &Query<'_>, caller: Caller<'_>) -> Self {
        let (http, named, context) = match &query.asked {
            QueryForm::Http(http) => {
                let facts = RequestFacts {
                    method: http.method.to_owned(),
                    url: match http.query {
                        Some(query) => format!("{}?{query}", http.path.as_str()),
                        None => http.path.as_str().to_owned(),
                    },
                    host: Some(http.host.to_owned()),
                    scheme: (http.scheme == Scheme::Http).then(|| "http".to_owned()),
                    source_ip: Some(http.source_ip),
                };
                (Some(facts), None, http.context)
            }
            QueryForm::Named(named) => {
                let facts = NamedFacts {
                    action: named.action.to_owned(),
                    resource: entity_json(named.resource),
                    entities: named.entities.to_vec(),
                    principal: named.principal.map(entity_json),
                };
                (None, Some(facts), named.context)
            }
        };
        Self {
            portal: query.portal.slug.to_string(),
            caller: match caller {
                Caller::Anonymous => None,
                Caller::Proven { identity, .. } => Some(CallerFacts::of(identity)),
            },
            http,
            named,
            context: context.cloned(),
            now: time(query.now_millis),
        }
    }
}

impl CallerFacts {
    pub fn of(identity: &Identity) -> Self {
        Self {
            subject: identity.subject.clone(),
            tenant: identity.tenant.clone(),
            roles: identity.roles.clone(),
            claims: (*identity.claims).clone(),
        }
    }

    /// The claims of a credential with these facts, by the mapping of the portal's issuer.
    pub fn as_claims(&self, portal: &PortalScope) -> Map<String, Value> {
        let mut claims = self.claims.clone();
        let named = claims.get("iss").and_then(Value::as_str);
        let found = portal.issuers.iter().find(|issuer| Some(issuer.issuer.as_str()) == named);
        let unconfigured = IssuerScope::unconfigured();
        let paths = &found.or(portal.issuers.first()).map_or(&unconfigured, |issuer| issuer).claims;
        paths.subject.insert(&mut claims, json!(self.subject));
        match &self.tenant {
            Some(tenant) => paths.tenant.insert(&mut claims, json!(tenant)),
            None => drop(claims.remove(paths.tenant.as_str())),
        }
        match paths.roles.first() {
            Some(roles) if !self.roles.is_empty() => roles.path.insert(&mut claims, json!(self.roles)),
            Some(roles) => drop(claims.remove(roles.path.as_str())),
            None => {}
        }
        claims
    }
}

/// Cedar's JSON of an entity, as it was given.
fn entity_json(entity: &NamedEntity) -> Value {
    match entity {
        NamedEntity::Text(text) => json!(text),
        NamedEntity::Parts { ty, id, attrs, parents } => {
            let mut parts = Map::from_iter([("type".to_owned(), json!(ty)), ("id".to_owned(), json!(id))]);
            parts.extend(attrs.clone().map(|attrs| ("attrs".to_owned(), attrs)));
            parts.extend(parents.clone().map(|parents| ("parents".to_owned(), parents)));
            Value::Object(parts)
        }
    }
}

/// What a question of this portal can name: roles, actions with resource types, routes.
pub(super) fn facts(workbench: &Workbench, portal: &str) -> Result<Value, String> {
    let load = workbench.load_untested_one(workbench.named(portal)?);
    let revision = load.revision.as_ref().ok_or_else(|| problems(&load))?;
    let roles = roles(load.portal, revision);
    let roles: Vec<&str> = roles.iter().map(|role| role.id().unescaped()).collect();
    let actions = revision.rules.schema.actions().map(|(action, model)| {
        let types = |types: &std::collections::BTreeSet<_>| types.iter().map(ToString::to_string).collect::<Vec<String>>();
        json!({"action": action.id().unescaped(), "resources": types(&model.resources), "principals": types(&model.principals)})
    });
    let routes = revision.file.routes.routes().iter().map(
        |route| json!({"method": route.method, "path": &*route.text, "action": route.action, "resource": route.resource_type}),
    );
    Ok(json!({
        "roles": roles,
        "actions": actions.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "prefix": load.portal.matches.path_prefix,
        "hosts": load.portal.matches.hosts,
        "issuers": load.portal.issuers.iter().map(|issuer| &*issuer.name).collect::<Vec<_>>(),
    }))
}

/// A time as questions and cases write it.
pub(super) fn time(millis: i64) -> Option<String> {
    let since = std::time::Duration::from_millis(u64::try_from(millis).ok()?);
    let time = std::time::UNIX_EPOCH.checked_add(since)?;
    Some(humantime::format_rfc3339_seconds(time).to_string())
}
