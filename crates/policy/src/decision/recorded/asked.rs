//! The facts of a record as the decision takes them: the reverse of what `context/recorded` writes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::unknown::masks_claim;
use super::{NotReplayable, ProvenCaller, QueryForm, RecordedAsked, RecordedCaller, RecordedQuery, Replay};
use crate::context::ContextFacts;
use crate::decision::http::HttpQuery;
use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::portal::normal_host;
use crate::portal::path::CanonicalPath;
use crate::scope::{PortalScope, TenantSource};
use crate::types::{AuthFacts, Identity, Scheme, TokenFacts};

/// The owned values that a query borrows.
pub(super) enum AskedFacts {
    Http {
        path: CanonicalPath,
        host: String,
        scheme: Scheme,
        source_ip: IpAddr,
        query: String,
        headers: HeaderMap,
    },
    /// The context fields that the app gave.
    Named(Map<String, Value>),
}

impl AskedFacts {
    pub fn of(replay: &Replay<'_>, recorded: &RecordedQuery<'_>) -> Result<Self, NotReplayable> {
        let RecordedAsked::Http { path, client, .. } = recorded.asked else {
            return Ok(Self::Named(app_fields(replay, recorded)));
        };
        let path = CanonicalPath::parse_request(path)
            .map_err(|error| NotReplayable::Malformed(format!("`{path}` is not a path: {error}")))?;
        let text = |name: &str| recorded.context.and_then(|context| context.get(name)).and_then(Value::as_str);
        let host = text("host").and_then(normal_host);
        let source_ip = client.or_else(|| text("source_ip").and_then(|ip| ip.parse().ok()));
        Ok(Self::Http {
            path,
            host: host.unwrap_or_else(|| replay.portal.default_host(tenant_of(replay.portal, recorded))),
            scheme: match text("scheme") {
                Some("http") => Scheme::Http,
                _ => Scheme::Https,
            },
            source_ip: source_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            query: query_text(recorded.context),
            headers: headers(recorded.context)?,
        })
    }

    pub fn asked<'q>(&'q self, recorded: &'q RecordedQuery<'q>) -> QueryForm<'q> {
        match (self, &recorded.asked) {
            (
                Self::Http {
                    path,
                    host,
                    scheme,
                    source_ip,
                    query,
                    headers,
                },
                RecordedAsked::Http { method, .. },
            ) => QueryForm::Http(HttpQuery {
                method,
                path,
                host,
                scheme: *scheme,
                source_ip: *source_ip,
                query: Some(query),
                headers: Some(headers),
                context: None,
            }),
            (Self::Named(context), RecordedAsked::Named { resource, entities }) => {
                named(recorded, resource, entities, Some(context))
            }
            // INVARIANT: both forms come from the same record
            (_, RecordedAsked::Named { resource, entities }) => named(recorded, resource, entities, None),
            (Self::Named(_), RecordedAsked::Http { .. }) => named(recorded, &NOTHING, &[], None),
        }
    }
}

/// A name that no schema declares.
static NOTHING: NamedEntity = NamedEntity::Text(String::new());

fn named<'q>(
    recorded: &'q RecordedQuery<'q>,
    resource: &'q NamedEntity,
    entities: &'q [Value],
    context: Option<&'q Map<String, Value>>,
) -> QueryForm<'q> {
    QueryForm::Named(NamedQuery {
        action: recorded.action.unwrap_or_default(),
        resource,
        principal: match &recorded.caller {
            RecordedCaller::Named(principal) => Some(principal),
            RecordedCaller::Anonymous | RecordedCaller::Proven(_) => None,
        },
        context,
        precedence: ContextPrecedence::Gate,
        entities,
    })
}

/// The recorded context without the fields that the gate fills itself.
fn app_fields(replay: &Replay<'_>, recorded: &RecordedQuery<'_>) -> Map<String, Value> {
    let rules = &replay.revision.rules;
    let action = recorded.action.and_then(|action| rules.schema.resolve_action(action));
    let plan = action.and_then(|action| rules.plans.get(&action));
    let facts = ContextFacts::of_named(replay.portal, None, None, &rules.flags.anonymous, recorded.now_millis);
    let mut fields = recorded.context.cloned().unwrap_or_default();
    fields.retain(|name, _| !plan.is_some_and(|plan| plan.owns(name, &facts)));
    fields
}

/// The tenant that the host named, as far as the record tells.
fn tenant_of<'r>(portal: &PortalScope, recorded: &'r RecordedQuery<'_>) -> Option<&'r str> {
    let of_context = recorded
        .context
        .and_then(|context| context.get("tenant"))
        .and_then(Value::as_str);
    let of_caller = match &recorded.caller {
        RecordedCaller::Proven(proven) => proven.tenant,
        RecordedCaller::Anonymous | RecordedCaller::Named(_) => None,
    };
    match portal.tenant {
        TenantSource::HostLabel => of_context.or(of_caller),
        TenantSource::Claim | TenantSource::Fixed(_) => of_caller,
    }
}

/// The parameters of the query string that the record holds.
fn query_text(context: Option<&Map<String, Value>>) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in given(context, "query") {
        text.append_pair(name, value);
    }
    text.finish()
}

fn headers(context: Option<&Map<String, Value>>) -> Result<HeaderMap, NotReplayable> {
    let mut headers = HeaderMap::new();
    for (name, value) in given(context, "headers") {
        let unfit = || NotReplayable::Malformed(format!("`context.headers.{name}` is not a header"));
        let value = HeaderValue::from_str(value).map_err(|_unfit| unfit())?;
        let name = HeaderName::try_from(name.replace('_', "-")).map_err(|_unfit| unfit())?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Name and value of all that the client gave in one part of the request.
fn given<'c>(context: Option<&'c Map<String, Value>>, part: &str) -> Vec<(&'c str, &'c str)> {
    let Some(Value::Object(fields)) = context.and_then(|context| context.get(part)) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (name, value) in fields {
        match value {
            Value::String(text) => all.push((name.as_str(), text.as_str())),
            Value::Array(texts) => all.extend(texts.iter().filter_map(|text| Some((name.as_str(), text.as_str()?)))),
            _ => {}
        }
    }
    all
}

/// The identity behind a recorded principal.
pub(super) fn identity(
    portal: &PortalScope,
    proven: &ProvenCaller<'_>,
    recorded: &RecordedQuery<'_>,
) -> Result<Identity, NotReplayable> {
    let mut claims = proven.claims.clone();
    claims.retain(|name, _| !masks_claim(recorded.masked, name));
    let issuer = portal
        .issuers
        .iter()
        .find(|issuer| Some(issuer.issuer.as_str()) == proven.issuer);
    Ok(Identity {
        issuer: issuer.map_or_else(|| Arc::from(""), |issuer| Arc::clone(&issuer.name)),
        subject: proven.id.to_owned(),
        principal_type: Arc::from(proven.ty),
        tenant: proven.tenant.map(str::to_owned),
        roles: proven.roles.clone(),
        claims: Arc::new(claims),
        expires_at: i64::MAX,
        auth: Arc::new(auth_facts(recorded.context)?),
        token: TokenFacts::default(),
    })
}

fn auth_facts(context: Option<&Map<String, Value>>) -> Result<AuthFacts, NotReplayable> {
    let fields = context.and_then(|context| context.get("auth")).and_then(Value::as_object);
    let texts = |name: &str| {
        let list = fields.and_then(|fields| fields.get(name)).and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let method = match fields.and_then(|fields| fields.get("method")) {
        None => "bearer",
        Some(name) => name
            .as_str()
            .and_then(AuthFacts::method_named)
            .ok_or_else(|| NotReplayable::Malformed("`context.auth.method` is none of the gate's".to_owned()))?,
    };
    Ok(AuthFacts {
        method,
        time: fields.and_then(|fields| fields.get("time")).and_then(Value::as_i64),
        acr: fields
            .and_then(|fields| fields.get("acr"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        amr: texts("amr"),
        scopes: texts("scopes"),
        unreadable: Vec::new(),
    })
}
