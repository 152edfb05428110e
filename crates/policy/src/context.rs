//! The context of a query: the gate's facts, as far as the schema declares them and conditions read them.
//!
//! The gate fills a field that has one of the gate's names *and* a type that the gate can fill; no other source may
//! fill that field. The app fills every other field, and only in a named query.

mod client_names;
mod declared;
mod facts;
mod recorded;

use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy::{Context, EntityUid};
use http::HeaderMap;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use self::client_names::{header_values, parameter_values};
pub use self::declared::{UnfillableField, Unfilled, declared_flags, gate_names, misfits};
pub use self::facts::SECRET_HEADERS;
use self::facts::{Fact, ValueSource, fact};
pub use self::recorded::RecordedContext;
use self::recorded::Shown;
use crate::denial::{Denial, Refusal, RefusedCredential};
use crate::engine::ContextSource;
use crate::engine::dependencies::ContextDependencies;
use crate::schema::{AttrType, Field, RecordType, SchemaModel};
use crate::scope::PortalScope;
use crate::types::{AuthFacts, HeaderNames, Identity, UnreadableFact};
use crate::value::is_plain;
use crate::value::{Value as CedarValue, context_of, datetime_of, expression, ip_of, value};

/// Facts that the gate knows of one query; a named query has no `http`.
#[derive(Clone, Copy)]
pub struct ContextFacts<'a> {
    pub portal: &'a str,
    /// The request's tenant, else the caller's.
    pub tenant: Option<&'a str>,
    pub now_millis: i64,
    pub auth: Option<&'a Arc<AuthFacts>>,
    pub flags: &'a Arc<Map<String, Value>>,
    pub http: Option<HttpFacts<'a>>,
}

#[derive(Clone, Copy)]
pub struct HttpFacts<'a> {
    pub method: &'a str,
    /// The canonical path id.
    pub path: &'a str,
    pub host: &'a str,
    pub scheme: &'static str,
    pub source_ip: IpAddr,
    /// Decoded pairs of the query string, in order; empty if the schema declares no field for them.
    pub query: &'a [(String, String)],
    /// Names of the parameters that an app reads otherwise if it splits the query string at `;`, too.
    pub beside_semicolons: &'a [String],
    pub headers: &'a HeaderMap,
}

/// The context fields that the gate fills, by action.
#[derive(Debug, Default)]
pub struct ContextPlans {
    by_action: FxHashMap<EntityUid, Arc<ContextPlan>>,
    headers: HeaderNames,
}

#[derive(Debug, Default)]
pub struct ContextPlan {
    owned: Vec<OwnedField>,
    /// Fields that only the app can fill, in a named query.
    supplied: Vec<String>,
    /// Those of them that are required.
    pub app_required: Vec<String>,
    /// True if any field comes from the query string.
    pub reads_query: bool,
    /// True if any field is an entity. No field is a record or set that holds entities.
    names_entities: bool,
}

#[derive(Debug)]
struct OwnedField {
    name: String,
    fact: &'static Fact,
    ty: AttrType,
    required: bool,
}

/// A context field that is unknown without the request.
pub struct RequestField<'a> {
    pub name: &'a str,
    pub required: bool,
}

/// The name of a context field, and its value, as Cedar's JSON of an expression, if the context has it.
pub type LastingField = (String, Option<Value>);

/// The context of one HTTP query: built when conditions read it.
#[derive(Clone, Copy)]
pub struct ProxyContext<'a> {
    pub plan: &'a ContextPlan,
    pub facts: &'a ContextFacts<'a>,
}

/// A context that Cedar has read already.
pub struct ReadyContext(pub Context);

/// The gate's fields and plain fields that the app gave: built when conditions read them.
pub struct NamedContext<'a> {
    own: ProxyContext<'a>,
    given: SmallVec<[GivenField<'a>; 8]>,
}

type GivenField<'a> = (&'a str, &'a AttrType, &'a Value);

impl<'a> ContextFacts<'a> {
    /// Room to reserve for the texts of these facts.
    fn text_bytes(&self) -> usize {
        let http = self.http.as_ref();
        let of_request = http.map_or(0, |http| {
            http.method.len() + http.path.len() + http.host.len() + http.scheme.len()
        });
        self.portal.len() + self.tenant.map_or(0, str::len) + of_request
    }

    /// The facts of a query that names action and resource: those of the portal and of the caller.
    pub fn of_named(
        portal: &'a PortalScope,
        request_tenant: Option<&'a str>,
        identity: Option<&'a Identity>,
        flags: &'a Arc<Map<String, Value>>,
        now_millis: i64,
    ) -> Self {
        Self {
            portal: portal.slug.as_str(),
            tenant: request_tenant.or_else(|| identity?.tenant.as_deref()),
            now_millis,
            auth: identity.map(|identity| &identity.auth),
            flags,
            http: None,
        }
    }
}

impl ContextPlans {
    pub fn new(schema: &SchemaModel) -> Self {
        let plans = schema.actions();
        let by_action: FxHashMap<_, _> = plans
            .map(|(uid, model)| (uid.clone(), Arc::new(ContextPlan::new(&model.context))))
            .collect();
        let fields = by_action.values().flat_map(|plan| &plan.owned);
        let headers = fields
            .filter(|field| field.fact.source == ValueSource::Headers)
            .flat_map(|field| match &field.ty {
                AttrType::Record(record) => record.fields.keys().cloned().collect(),
                _ => Vec::new(),
            });
        Self {
            headers: headers.collect(),
            by_action,
        }
    }

    pub fn get(&self, action: &EntityUid) -> Option<&Arc<ContextPlan>> {
        self.by_action.get(action)
    }

    /// The headers that policies read.
    pub fn headers(&self) -> &HeaderNames {
        &self.headers
    }

    pub fn reads_headers(&self) -> bool {
        self.by_action
            .values()
            .any(|plan| plan.owned.iter().any(|field| field.fact.source == ValueSource::Headers))
    }

    pub fn reads_query(&self) -> bool {
        self.by_action.values().any(|plan| plan.reads_query)
    }
}

impl ContextPlan {
    fn new(declared: &RecordType) -> Self {
        let mut plan = Self::default();
        for (name, field) in &declared.fields {
            match fact(name, &field.ty) {
                Some(fact) => {
                    plan.reads_query |= fact.source == ValueSource::Query;
                    plan.names_entities |= matches!(field.ty, AttrType::Entity(_));
                    plan.owned.push(OwnedField {
                        name: name.clone(),
                        fact,
                        ty: field.ty.clone(),
                        required: field.required,
                    });
                }
                None => {
                    plan.supplied.push(name.clone());
                    plan.app_required.extend(field.required.then(|| name.clone()));
                }
            }
        }
        plan
    }

    /// The context of a named query; `None` unless a quick check shows that every field is present and of its declared
    /// type.
    pub fn fast<'a>(
        &'a self,
        facts: &'a ContextFacts<'a>,
        declared: &'a RecordType,
        given: Option<&'a Map<String, Value>>,
    ) -> Option<NamedContext<'a>> {
        let mut taken = SmallVec::new();
        let mut left = given.map_or(0, Map::len);
        for (name, field) in &declared.fields {
            let value = given.and_then(|given| given.get(name));
            left -= usize::from(value.is_some());
            match (self.filled(facts).find(|own| own.name == *name), value) {
                (Some(own), _) if own.is_text() && own.is_certain(facts) => {}
                (None, Some(value)) if is_plain(&field.ty, value) => taken.push((name.as_str(), &field.ty, value)),
                (None, None) if !field.required => {}
                _ => return None,
            }
        }
        let own = ProxyContext { plan: self, facts };
        // every given field was declared
        (left == 0).then_some(NamedContext { own, given: taken })
    }

    /// Fields that no request fills: only the app knows them.
    pub fn supplied(&self) -> &[String] {
        &self.supplied
    }

    /// True if only the gate may fill this field.
    pub fn owns(&self, name: &str, facts: &ContextFacts<'_>) -> bool {
        self.owned
            .iter()
            .any(|f| f.name == name && (facts.http.is_some() || !f.fact.needs_http()))
    }

    /// Refuses repeated values and missing required facts: policies could not be evaluated with them.
    pub fn check(&self, facts: &ContextFacts<'_>) -> Result<(), Refusal> {
        if let Some(name) = self.app_required.first() {
            let detail = format!("context `{name}` is required, and only a named query of the app can give it");
            return Err(Refusal::new(Denial::NotPermitted, detail));
        }
        let mut doubtful = self.owned.iter().filter(|f| !f.is_certain(facts));
        doubtful.try_for_each(|field| {
            let filled = field.json(facts)?;
            match filled {
                Some(filled) => value(&field.ty, &filled, &field.name)
                    .map(drop)
                    .map_err(|e| field.refusal(e.to_string())),
                None if field.required => Err(field.refusal(format!("context `{}` is required and not known", field.name))),
                None => Ok(()),
            }
        })
    }

    /// The fields of a named query that do not change with time: those of the portal and of the caller. `None`: the
    /// field is absent. `Err`: every such query is refused.
    pub fn lasting(&self, facts: &ContextFacts<'_>) -> Result<Vec<LastingField>, Refusal> {
        let lasting = self.filled(facts).filter(|field| field.fact.source != ValueSource::Time);
        let field = |field: &OwnedField| match field.value(facts) {
            Ok(None) if field.required => Err(field.refusal(format!("context `{}` is required and not known", field.name))),
            Ok(None) => Ok(Some((field.name.clone(), None))),
            // a value that cannot be written stays unknown
            Ok(Some(value)) => Ok(expression(&value).map(|written| (field.name.clone(), Some(written)))),
            Err(why) => Err(field.refusal(why)),
        };
        lasting.filter_map(|one| field(one).transpose()).collect()
    }

    /// The fields that no fact of the portal or of the caller fills: those of a request, and those of the app.
    pub fn of_request(&self) -> impl Iterator<Item = RequestField<'_>> {
        let owned = self.owned.iter().filter(|field| field.fact.needs_http());
        let owned = owned.map(|field| RequestField {
            name: &field.name,
            required: field.required,
        });
        let supplied = self.supplied.iter().map(|name| RequestField {
            name,
            required: self.app_required.contains(name),
        });
        owned.chain(supplied)
    }

    /// The gate's fields as JSON in Cedar's entity format.
    pub fn to_json(&self, facts: &ContextFacts<'_>) -> Result<Map<String, Value>, Refusal> {
        let mut all = Map::new();
        for field in self.filled(facts) {
            if let Some(value) = field.json(facts)? {
                all.insert(field.name.clone(), value);
            }
        }
        Ok(all)
    }

    fn filled<'f>(&'f self, facts: &ContextFacts<'_>) -> impl Iterator<Item = &'f OwnedField> {
        let is_http = facts.http.is_some();
        self.owned.iter().filter(move |f| is_http || !f.fact.needs_http())
    }
}

impl OwnedField {
    fn is_certain(&self, facts: &ContextFacts<'_>) -> bool {
        (self.fact.is_certain)(self, facts)
    }

    /// The fields of a declared record.
    fn members(&self) -> impl Iterator<Item = (&String, &Field)> {
        let record = match &self.ty {
            AttrType::Record(record) => Some(&record.fields),
            _ => None,
        };
        record.into_iter().flatten()
    }

    /// True unless the field is an entity: only a credential may give an entity as a string.
    fn is_text(&self) -> bool {
        !matches!(self.ty, AttrType::Entity(_))
    }

    fn json(&self, facts: &ContextFacts<'_>) -> Result<Option<Value>, Refusal> {
        let shown = self.shown(facts)?;
        Ok(shown.map(|shown| serde_json::to_value(shown).unwrap_or_default()))
    }

    fn shown<'f>(&'f self, facts: &'f ContextFacts<'f>) -> Result<Option<Shown<'f>>, Refusal> {
        (self.fact.show)(self, facts)
    }

    /// The headers of the declared names.
    fn headers(&self, http: &HttpFacts<'_>) -> Result<Value, Refusal> {
        self.multi(|name| header_values(http.headers, name))
    }

    /// The parameters of the query string of the declared names.
    fn parameters(&self, http: &HttpFacts<'_>) -> Result<Value, Refusal> {
        self.multi(|name| parameter_values(http, name))
    }

    /// A record of strings (given once) and sets of strings (all of them).
    fn multi(&self, values: impl Fn(&str) -> Result<Vec<String>, Refusal>) -> Result<Value, Refusal> {
        let mut all = Map::new();
        for (name, field) in self.members() {
            let mut found = values(name)?;
            match (&field.ty, found.len()) {
                (AttrType::Set(_), _) => {
                    all.insert(name.clone(), json!(found));
                }
                (_, 0) => {}
                (_, 1) => {
                    all.insert(name.clone(), json!(found.pop()));
                }
                (_, _) => return Err(self.refusal(format!("`{}.{name}` is given more than once", self.name))),
            }
        }
        Ok(Value::Object(all))
    }

    fn value(&self, facts: &ContextFacts<'_>) -> Result<Option<CedarValue>, String> {
        let unfit = || format!("`{}` cannot be expressed", self.name);
        match (self.shown(facts).map_err(|r| r.detail.into_owned())?, &self.ty) {
            (None, _) => Ok(None),
            (Some(Shown::Now(millis)), _) => datetime_of(millis).map(Some).ok_or_else(unfit),
            (Some(Shown::Ip(address)), _) => ip_of(address).map(Some).ok_or_else(unfit),
            (Some(Shown::Text(text)), AttrType::String) => Ok(Some(text.into())),
            (Some(shown), ty) => {
                let json = serde_json::to_value(shown).unwrap_or_default();
                value(ty, &json, &self.name).map(Some).map_err(|e| e.to_string())
            }
        }
    }

    fn refusal(&self, detail: String) -> Refusal {
        Refusal::new(self.fact.denial(), detail)
    }

    /// The refusal of a caller whose claim gives this field no value.
    fn claim_refusal(&self, fact: &UnreadableFact) -> Refusal {
        self.refusal(fact.detail.clone()).of_credential(RefusedCredential {
            check: "context",
            claim: Some(fact.claim.clone()),
            ..RefusedCredential::default()
        })
    }
}

impl ProxyContext<'_> {
    fn add(&self, reads: &ContextDependencies, pairs: &mut Vec<(String, CedarValue)>) -> Result<(), String> {
        for field in self.plan.filled(self.facts).filter(|f| reads.includes(&f.name)) {
            if let Some(value) = field.value(self.facts)? {
                pairs.push((field.name.clone(), value));
            }
        }
        Ok(())
    }
}

impl ContextSource for ProxyContext<'_> {
    fn context(&self, reads: &ContextDependencies) -> Result<Context, String> {
        let mut pairs = Vec::with_capacity(self.plan.owned.len());
        self.add(reads, &mut pairs)?;
        Ok(context_of(pairs))
    }

    fn names_entities(&self) -> bool {
        self.plan.names_entities
    }

    fn unknown(&self) -> &[String] {
        match self.facts.http {
            Some(_) => &self.plan.supplied,
            None => &[],
        }
    }
}

impl NamedContext<'_> {
    /// The fields that the app gave.
    pub fn given(&self) -> Map<String, Value> {
        let given = self.given.iter();
        given
            .map(|(name, _, value)| ((*name).to_owned(), Value::clone(value)))
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.own.plan.filled(self.own.facts).next().is_none()
    }
}

impl ContextSource for NamedContext<'_> {
    fn context(&self, reads: &ContextDependencies) -> Result<Context, String> {
        let mut pairs = Vec::with_capacity(self.own.plan.owned.len() + self.given.len());
        self.own.add(reads, &mut pairs)?;
        for (name, ty, json) in self.given.iter().filter(|(name, ..)| reads.includes(name)) {
            pairs.push(((*name).to_owned(), value(ty, json, name).map_err(|e| e.to_string())?));
        }
        Ok(context_of(pairs))
    }

    fn names_entities(&self) -> bool {
        false
    }
}

impl ContextSource for ReadyContext {
    fn context(&self, _: &ContextDependencies) -> Result<Context, String> {
        Ok(self.0.clone())
    }

    fn names_entities(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::value::SET_ITEMS_MAX;

    fn declared() -> impl Strategy<Value = (String, AttrType, bool)> {
        let strings = AttrType::Set(Box::new(AttrType::String));
        let auth = prop_oneof![
            Just(("method", AttrType::String)),
            Just(("acr", AttrType::String)),
            Just(("time", AttrType::Long)),
            Just(("time", AttrType::Datetime)),
            Just(("amr", strings.clone())),
            Just(("scopes", strings)),
        ];
        let auth = prop::collection::vec((auth, any::<bool>()), 0..4).prop_map(|fields| ("auth", record(fields)));
        let flags = prop::collection::vec(
            (
                prop_oneof![
                    Just(("on", AttrType::Bool)),
                    Just(("gone", AttrType::Bool)),
                    Just(("on", AttrType::Long)),
                    Just(("seats", AttrType::Long)),
                    Just(("seats", AttrType::String)),
                    Just(("theme", AttrType::String)),
                ],
                any::<bool>(),
            ),
            0..3,
        );
        let field = prop_oneof![
            auth,
            flags.prop_map(|fields| ("flags", record(fields))),
            Just(("tenant", AttrType::String)),
            Just(("tenant", AttrType::Entity("Tenant".parse().unwrap()))),
        ];
        (field, any::<bool>()).prop_map(|((name, ty), required)| (name.to_owned(), ty, required))
    }

    fn record(fields: Vec<((&str, AttrType), bool)>) -> AttrType {
        let fields = fields
            .into_iter()
            .map(|((name, ty), required)| (name.to_owned(), Field { ty, required }));
        AttrType::Record(RecordType {
            fields: fields.collect::<BTreeMap<_, _>>(),
        })
    }

    fn auth_facts() -> impl Strategy<Value = Option<Arc<AuthFacts>>> {
        let time = prop_oneof![Just(0), Just(1_800_000_000), Just(i64::MAX)];
        let many = prop_oneof![Just(0), Just(2), Just(SET_ITEMS_MAX), Just(SET_ITEMS_MAX + 1)];
        let facts = (prop::option::of(time), prop::option::of(Just("2".to_owned())), many);
        let facts = facts.prop_map(|(time, acr, many)| AuthFacts {
            method: "bearer",
            time,
            acr,
            amr: vec!["pwd".to_owned(); many],
            scopes: Vec::new(),
            unreadable: Vec::new(),
        });
        prop::option::of(facts.prop_map(Arc::new))
    }

    proptest! {
        #[test]
        fn a_fact_that_passes_the_quick_check_is_never_refused((name, ty, required) in declared(), auth in auth_facts(), tenant in any::<bool>()) {
            let Some(fact) = fact(&name, &ty) else { return Ok(()) };
            let flags = Arc::new(json!({"on": true, "seats": 3, "theme": "dark"}).as_object().unwrap().clone());
            let facts = ContextFacts {
                portal: "p", tenant: tenant.then_some("acme"), now_millis: 0, auth: auth.as_ref(), flags: &flags, http: None,
            };
            let field = OwnedField { name, fact, ty, required };
            if field.is_certain(&facts) {
                match field.json(&facts).unwrap() {
                    Some(json) => prop_assert!(value(&field.ty, &json, &field.name).is_ok()),
                    None => prop_assert!(!field.required),
                }
            }
        }
    }

    #[test]
    fn the_usual_login_needs_no_second_look() {
        let auth = Arc::new(AuthFacts {
            method: "bearer",
            amr: vec!["pwd".to_owned()],
            ..AuthFacts::default()
        });
        let ty = record(vec![(("method", AttrType::String), true), (("acr", AttrType::String), false)]);
        let mut field = OwnedField {
            name: "auth".to_owned(),
            fact: fact("auth", &ty).unwrap(),
            ty,
            required: true,
        };
        let flags = Arc::default();
        let facts = ContextFacts {
            portal: "p",
            tenant: None,
            now_millis: 0,
            auth: Some(&auth),
            flags: &flags,
            http: None,
        };
        assert!(field.is_certain(&facts));
        field.ty = record(vec![(("acr", AttrType::String), true)]);
        assert!(!field.is_certain(&facts), "a required `acr` that the token lacks");
    }
}
