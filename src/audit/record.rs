//! The records of the decision log, as plain values. `line` turns each into one line of JSON.
//!
//! The shape is published as `schemas/audit-event.schema.json`; a test validates a record of every kind against it.

use std::sync::Arc;
use std::time::SystemTime;

use cedar_policy::EntityId;
use cedargate_policy::decision::DecisionContext;
use cedargate_policy::denial::Denial;
use cedargate_policy::flags::FlagChange;
use cedargate_policy::types::{Door, Identity, TokenFacts};
use http::HeaderValue;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use serde_json::Value;
use smallvec::SmallVec;
use uuid::Uuid;

use super::words::{AdminAct, AuthAct, AuthReason, AuthResult, PolicyResult};
use crate::base::clock;
use crate::config::Share;

pub const SCHEMA_VERSION: u32 = 1;
/// The portal of a record, and of a metric, for a request that no portal matched.
pub const NO_PORTAL: &str = "none";

/// A line of the log that is not a decision.
#[derive(Debug)]
pub enum Event {
    Auth(Box<AuthEvent>),
    Policy(PolicyEvent),
    Admin(AdminEvent),
    HttpRejected(HttpRejected),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecordedOutcome {
    Permitted,
    Denied(Denial),
    /// The client went away before the decision; the gate forwarded nothing.
    Cancelled,
    /// The gate panicked before the decision and forwarded nothing.
    Panicked,
}

/// A decision with its principal, action, resource, context and reason.
#[derive(Debug)]
pub struct AuditRecord {
    pub ts: SystemTime,
    pub decision_id: Uuid,
    pub request_id: Option<HeaderValue>,
    pub trace_id: Option<[u8; 16]>,
    /// `None`: no portal matched.
    pub portal: Option<Arc<str>>,
    pub door: Door,
    /// The tenant without such a caller.
    pub tenant: Option<Arc<str>>,
    pub revision: Option<Arc<str>>,
    /// Identity of the facts that the revision declares.
    pub facts: Option<Arc<str>>,
    /// The caller whom a credential proved.
    pub caller: Option<Arc<CallerRecord>>,
    /// The principal without such a caller.
    pub principal: Option<EntityRef>,
    pub action: Option<Arc<str>>,
    pub resource: Option<EntityRef>,
    pub context: Option<DecisionContext>,
    /// What the app described beside a query of its own; `None`: a request.
    pub supplied: Option<Supplied>,
    pub verdict: RecordedOutcome,
    /// Part of such decisions that is recorded; `None`: all.
    pub sample_rate: Option<Share>,
    /// Ids of the determining policies.
    pub policies: SmallVec<[Arc<str>; 2]>,
    /// Id of the permit that came nearest, if no policy permitted.
    pub near: Option<Arc<str>>,
    pub errors: Vec<PolicyError>,
    pub shadow: Option<Shadow>,
    /// The credential that was refused.
    pub refused: Option<Box<RefusedRecord>>,
    pub http: Option<HttpRecord>,
    /// Key of the limit that refused the request, or that the app exceeded.
    pub limit: Option<&'static str>,
    pub latency_us: Latency,
}

/// The entities that an app described in its query, as JSON. Replay needs them.
#[derive(Clone, Debug)]
pub struct Supplied(Box<[u8]>);

impl Supplied {
    /// `json` is an object with the members `principal` (absent: a credential proved it), `resource` (absent: only
    /// named) and `entities`, or a text that says why they are not there.
    pub fn new(json: Vec<u8>) -> Self {
        Self(json.into())
    }

    pub(super) fn json(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Supplied {
    /// Only a line with more than the context masked comes here.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let value: Value = serde_json::from_slice(&self.0).unwrap_or_default();
        value.serialize(to)
    }
}

/// A refused credential: the check that failed, and what the credential claims of itself, unverified.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedRecord {
    pub check: &'static str,
    pub issuer: Option<String>,
    pub kid: Option<String>,
    pub claim: Option<String>,
    pub detail: String,
}

/// A caller as records show it: the same value in all of the caller's records.
#[derive(Debug)]
pub struct CallerRecord {
    pub(super) tenant: Option<Arc<str>>,
    pub(super) principal: EntityRef,
    pub(super) roles: Vec<String>,
    /// `None`: no token, but a session.
    pub(super) token: Option<TokenFacts>,
    /// The members `principal` and `roles` as JSON, not masked.
    pub(super) who: Box<[u8]>,
    /// The member `token` likewise.
    pub(super) by: Box<[u8]>,
}

#[derive(Clone, Debug, Serialize)]
pub struct EntityRef {
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    #[serde(serialize_with = "entity_id")]
    pub id: EntityId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attrs: Option<Arc<Value>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct PolicyError {
    pub policy: Arc<str>,
    pub message: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Shadow {
    pub revision: Arc<str>,
    pub decision: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct HttpRecord {
    #[serde(serialize_with = "method")]
    pub method: http::Method,
    pub path: String,
    pub route: Option<Arc<str>>,
    /// The client's address, as trusted proxies state it if there are some; `None`: unknown.
    pub client: Option<std::net::IpAddr>,
    /// `None`: the client got no response head.
    pub status: Option<u16>,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub total: u64,
    pub authn: Option<u64>,
    pub decision: Option<u64>,
    pub upstream: Option<u64>,
}

/// A login, its failure, a refresh, a logout, a revocation, an introspection. Never a token, password or cookie.
#[derive(Clone, Debug, Serialize)]
pub struct AuthEvent {
    pub event: AuthAct,
    pub result: AuthResult,
    pub reason: AuthReason,
    /// The reason in a sentence for people.
    pub detail: Option<String>,
    /// Key of the limit that was exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<&'static str>,
    #[serde(flatten)]
    pub about: AuthSubject,
}

/// What an `AuthEvent` is about, as far as the gate knows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuthSubject {
    pub portal: Option<Arc<str>>,
    pub provider: Option<Arc<str>>,
    pub issuer: Option<Arc<str>>,
    pub subject: Option<String>,
    pub tenant: Option<String>,
    /// Hex of the session's handle, which cannot be used as a cookie.
    pub session: Option<String>,
    /// The client's address; `None`: the gate or the operator caused the event.
    pub client: Option<std::net::IpAddr>,
    /// The id of the operator's user, as the kernel knows it of the control socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<u32>,
    #[serde(serialize_with = "optional_text")]
    pub decision_id: Option<Uuid>,
}

impl AuthSubject {
    pub fn succeeded(self, event: AuthAct, reason: impl Into<AuthReason>) -> AuthEvent {
        self.ended(event, AuthResult::Success, reason.into())
    }

    pub fn failed(self, event: AuthAct, reason: impl Into<AuthReason>) -> AuthEvent {
        self.ended(event, AuthResult::Failure, reason.into())
    }

    fn ended(self, event: AuthAct, result: AuthResult, reason: AuthReason) -> AuthEvent {
        AuthEvent {
            event,
            result,
            reason,
            detail: None,
            limit: None,
            about: self,
        }
    }
}

impl AuthEvent {
    pub fn with_detail(mut self, detail: Option<String>) -> Self {
        self.detail = detail;
        self
    }
}

/// The outcome of a candidate revision.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyEvent {
    pub portal: Arc<str>,
    pub revision: Option<Arc<str>>,
    pub result: PolicyResult,
    pub detail: Option<String>,
    /// The flags that the revision changes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagChange>,
}

#[derive(Clone, Debug, Serialize)]
pub struct AdminEvent {
    pub event: AdminAct,
    pub detail: Option<String>,
}

/// Bytes that were not an HTTP request. Such a record has no identity.
#[derive(Clone, Debug, Serialize)]
pub struct HttpRejected {
    pub reason: &'static str,
    /// Key of the limit that was exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<&'static str>,
    pub peer: Option<std::net::IpAddr>,
}

impl AuditRecord {
    /// A record without a decision yet; it says `cancelled` until the path sets its verdict.
    pub fn new(decision_id: Uuid, door: Door) -> Self {
        Self {
            ts: clock::now(),
            decision_id,
            request_id: None,
            trace_id: None,
            portal: None,
            door,
            tenant: None,
            revision: None,
            facts: None,
            caller: None,
            principal: None,
            action: None,
            resource: None,
            context: None,
            supplied: None,
            verdict: RecordedOutcome::Cancelled,
            sample_rate: None,
            policies: SmallVec::new(),
            near: None,
            errors: Vec::new(),
            shadow: None,
            refused: None,
            http: None,
            limit: None,
            latency_us: Latency::default(),
        }
    }
}

impl CallerRecord {
    /// The caller of a token, or of a session, which shows no token.
    pub fn new(principal: EntityRef, identity: &Identity, token: Option<&TokenFacts>) -> Self {
        Self::of(principal, identity.tenant.as_deref(), &identity.roles, token)
    }

    pub(super) fn of(principal: EntityRef, tenant: Option<&str>, roles: &[String], token: Option<&TokenFacts>) -> Self {
        let mut caller = Self {
            tenant: tenant.map(Arc::from),
            principal,
            roles: roles.to_vec(),
            token: token.cloned(),
            who: Box::default(),
            by: Box::default(),
        };
        caller.who = members(&PrincipalMembers {
            principal: &caller.principal,
            roles: &caller.roles,
        });
        caller.by = members(&TokenMember {
            token: caller.token.as_ref().map(TokenRecord::of),
        });
        caller
    }
}

#[derive(Serialize)]
struct PrincipalMembers<'a> {
    principal: &'a EntityRef,
    roles: &'a [String],
}

#[derive(Serialize)]
struct TokenMember<'a> {
    token: Option<TokenRecord<'a>>,
}

/// The members of an object as JSON, without its braces.
fn members(object: &impl Serialize) -> Box<[u8]> {
    // INVARIANT: texts, lists and objects with text keys alone, which JSON can always express
    let text = serde_json::to_string(object).unwrap_or_default();
    let inside = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    inside.unwrap_or_default().as_bytes().into()
}

impl Event {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Auth(_) => "auth_event",
            Self::Policy(_) => "policy_event",
            Self::Admin(_) => "admin_event",
            Self::HttpRejected(_) => "http_rejected",
        }
    }
}

fn optional_text<T: std::fmt::Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

fn entity_id<S: Serializer>(value: &EntityId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.unescaped())
}

fn method<S: Serializer>(value: &http::Method, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.as_str())
}

/// RFC 3339 with microseconds.
pub(super) struct Timestamp(pub SystemTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_micros(self.0))
    }
}

impl RecordedOutcome {
    /// The fields `decision` and `reason`.
    pub(super) const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Permitted => ("allow", "permitted"),
            Self::Denied(denial) => ("deny", denial.code()),
            Self::Cancelled => ("deny", "cancelled"),
            Self::Panicked => ("deny", "panicked"),
        }
    }
}

impl AuditRecord {
    pub(super) fn portal(&self) -> &str {
        self.portal.as_deref().unwrap_or(NO_PORTAL)
    }

    /// The tenant of the caller, or of the assertion that the app handed back.
    pub(super) fn tenant(&self) -> Option<&str> {
        let tenant = self.caller.as_ref().map_or(&self.tenant, |caller| &caller.tenant);
        tenant.as_deref()
    }

    /// Writes the fields one by one into the object of the line.
    pub(super) fn write_fields<S: SerializeStruct>(&self, fields: &mut S) -> Result<(), S::Error> {
        let (decision, reason) = self.verdict.words();
        let mut id = Uuid::encode_buffer();
        let mut trace = Uuid::encode_buffer();
        fields.serialize_field("ts", &Timestamp(self.ts))?;
        fields.serialize_field("decision_id", self.decision_id.hyphenated().encode_lower(&mut id))?;
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        fields.serialize_field("request_id", &request_id)?;
        let trace_id = self.trace_id.map(|id| Uuid::from_bytes(id).simple());
        fields.serialize_field("trace_id", &trace_id.as_ref().map(|id| &*id.encode_lower(&mut trace)))?;
        fields.serialize_field("portal", self.portal())?;
        fields.serialize_field("door", self.door.as_str())?;
        fields.serialize_field("tenant", &self.tenant())?;
        fields.serialize_field("revision", &self.revision)?;
        fields.serialize_field("facts", &self.facts)?;
        let caller = self.caller.as_deref();
        let principal = caller.map(|caller| &caller.principal).or(self.principal.as_ref());
        fields.serialize_field("principal", &principal)?;
        fields.serialize_field("roles", caller.map_or(&[][..], |caller| &caller.roles))?;
        fields.serialize_field("action", &self.action)?;
        fields.serialize_field("resource", &self.resource)?;
        fields.serialize_field("context", &self.context)?;
        match &self.supplied {
            Some(supplied) => fields.serialize_field("supplied", supplied)?,
            None => fields.skip_field("supplied")?,
        }
        fields.serialize_field("decision", decision)?;
        fields.serialize_field("reason", reason)?;
        match &self.sample_rate {
            Some(rate) => fields.serialize_field("sample_rate", rate)?,
            None => fields.skip_field("sample_rate")?,
        }
        fields.serialize_field("policies", self.policies.as_slice())?;
        match &self.near {
            Some(near) => fields.serialize_field("near", near)?,
            None => fields.skip_field("near")?,
        }
        fields.serialize_field("errors", &self.errors)?;
        match &self.shadow {
            Some(shadow) => fields.serialize_field("shadow", shadow)?,
            None => fields.skip_field("shadow")?,
        }
        fields.serialize_field("token", &caller.and_then(|caller| caller.token.as_ref()).map(TokenRecord::of))?;
        match &self.refused {
            Some(refused) => fields.serialize_field("refused", refused)?,
            None => fields.skip_field("refused")?,
        }
        fields.serialize_field("http", &self.http)?;
        match self.limit {
            Some(limit) => fields.serialize_field("limit", limit)?,
            None => fields.skip_field("limit")?,
        }
        fields.serialize_field("latency_us", &self.latency_us)
    }
}

#[derive(Serialize)]
struct TokenRecord<'a> {
    iss: &'a str,
    aud: &'a [String],
    kid: Option<&'a str>,
    alg: &'static str,
    jti_hash: Option<&'a str>,
}

impl<'a> TokenRecord<'a> {
    fn of(token: &'a TokenFacts) -> Self {
        Self {
            iss: &token.iss,
            aud: &token.aud,
            kid: token.kid.as_deref(),
            alg: token.alg,
            jti_hash: token.jti_hash.as_deref(),
        }
    }
}
