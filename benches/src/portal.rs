//! A portal in memory, and requests to it: the caller is known, as it is when a request reaches the decision.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};

use cedargate_policy::claims::unsigned_identity;
use cedargate_policy::context::{ContextFacts, HttpFacts, ProxyContext};
use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::decision::{Caller, Decision, Query, QueryForm, Target, decide};
use cedargate_policy::engine::dependencies::ContextDependencies;
use cedargate_policy::engine::entities::SuppliedEntities;
use cedargate_policy::engine::{ContextSource, Effects, EntityQuery, EvaluationOutcome, MatchSet};
use cedargate_policy::load::Loader;
use cedargate_policy::portal::PortalTable;
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::principal::Principal;
use cedargate_policy::reference::Reference;
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::source::{SourceFile, Tree};
use cedargate_policy::scope::{IssuerScope, PortalScope};
use cedargate_policy::types::{Identity, PortalSlug, Scheme};
use http::HeaderMap;
use serde_json::{Map, Value};

use crate::{AUDIENCE, ISSUER, PORTAL, unix_millis};

const HOST: &str = "shop.example.test";
/// Match sets that may wait for their condition-only policies.
const PREPARATION_QUEUE: usize = 64;

/// One file of the policy tree.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Relative to the tree: `policies/bench/main.cedar`.
    pub name: String,
    /// Content.
    pub text: String,
}

/// The files of one portal, as if just read.
#[derive(Clone)]
pub struct PolicyFiles {
    pub(crate) tree: Tree,
    slug: PortalSlug,
}

/// A loaded portal.
pub struct LoadedPortal {
    scope: PortalScope,
    revision: Arc<Revision>,
    waiting: Receiver<Weak<MatchSet>>,
}

/// Many loaded portals and the table that finds one of them.
pub struct LoadedPortals {
    table: PortalTable,
    portals: Vec<LoadedPortal>,
}

/// One caller's request for one path.
pub struct CallerRequest {
    identity: Identity,
    principal: Principal,
    target: Option<Target>,
    method: String,
    path: CanonicalPath,
    headers: HeaderMap,
}

impl PolicyFile {
    /// A file of this name and text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

impl PolicyFiles {
    /// The files of the portal `bench`.
    pub fn new(files: &[PolicyFile]) -> Self {
        Self::of(PORTAL, files)
    }

    /// The files of the portal `slug`.
    pub fn of(slug: &str, files: &[PolicyFile]) -> Self {
        let slug = PortalSlug::parse(slug).unwrap();
        let mut tree = Tree::default();
        for file in files {
            tree.files.0.insert(file.name.clone(), SourceFile::new(file.text.as_bytes()));
        }
        tree.slugs.insert(slug.clone());
        Self { tree, slug }
    }

    pub(crate) fn scope(&self, path_prefix: &str) -> PortalScope {
        PortalScope {
            issuers: vec![Arc::new(issuer_scope())],
            ..PortalScope::at(self.slug.clone(), path_prefix)
        }
    }
}

impl LoadedPortal {
    /// Loads a portal that has every path. Fails if the files are rejected.
    pub fn load(files: &PolicyFiles) -> Result<Self, String> {
        Self::load_below("/", files)
    }

    fn load_below(path_prefix: &str, files: &PolicyFiles) -> Result<Self, String> {
        let scope = files.scope(path_prefix);
        let (queue, waiting) = sync_channel(PREPARATION_QUEUE);
        let loaded = Loader::new(Some(queue)).load(&scope, &files.tree, None);
        match (loaded.revision, loaded.rejected) {
            (Some(revision), None) => Ok(Self {
                scope,
                revision,
                waiting,
            }),
            (_, Some(rejected)) => Err(rejected.to_string()),
            (None, None) => Err("nothing was loaded".to_owned()),
        }
    }

    /// Prepares a request. Decides it once: the engine then has its match sets, which wait for their condition-only
    /// policies.
    pub fn request(&self, claims: &Map<String, Value>, method: &str, path: &str) -> Result<CallerRequest, String> {
        let issuer = self.scope.issuers.first().ok_or("the portal trusts no issuer")?;
        let identity = unsigned_identity(issuer, claims.clone()).map_err(|error| error.to_string())?;
        let principal = self.revision.principal(&self.scope, &identity);
        let mut request = CallerRequest {
            principal: principal.map_err(|refusal| refusal.detail.into_owned())?,
            identity,
            target: None,
            method: method.to_owned(),
            path: CanonicalPath::parse(path).map_err(|error| error.to_string())?,
            headers: HeaderMap::new(),
        };
        request.target = self.decision(&request).target;
        match request.target {
            Some(_) => Ok(request),
            None => Err(format!("`{method} {path}` was not evaluated")),
        }
    }

    /// Makes the condition-only policies of every match set that waits for them; until then the engine evaluates the
    /// original policies.
    pub fn make_condition_only(&self) {
        let waiting = self.waiting.try_iter().filter_map(|set| set.upgrade());
        waiting.for_each(|set| set.make_condition_only());
    }

    /// Calls the decision function of every door; true if it allows.
    pub fn decide(&self, request: &CallerRequest) -> bool {
        self.decision(request).denial().is_none()
    }

    /// Evaluates the policies alone: action and resource are known, and the context is built as far as conditions read
    /// it. The plain path query of a routed request is not in it.
    pub fn evaluate(&self, request: &CallerRequest) -> bool {
        let Some(target) = &request.target else { return false };
        let rules = &self.revision.rules;
        let Some(plan) = rules.plans.get(&target.action) else {
            return false;
        };
        let facts = self.facts(request);
        let evaluation = rules.engine.decide(&EntityQuery {
            principal: &request.principal.entity,
            action: &target.action,
            resource: &target.resource,
            context: &ProxyContext { plan, facts: &facts },
            supplied: &SuppliedEntities::default(),
            effects: Effects::Both,
        });
        evaluation.outcome == EvaluationOutcome::Allow
    }

    /// Makes the Cedar principal of the caller, as the gate does once per token and revision.
    pub fn principal(&self, request: &CallerRequest) -> Option<Principal> {
        self.revision.principal(&self.scope, &request.identity).ok()
    }

    /// Builds every field of the context for Cedar.
    pub fn context(&self, request: &CallerRequest) -> Option<impl Sized + use<>> {
        let target = request.target.as_ref()?;
        let facts = self.facts(request);
        let plan = self.revision.rules.plans.get(&target.action)?;
        let context = ProxyContext { plan, facts: &facts };
        context.context(&ContextDependencies::Everything).ok()
    }

    /// Builds every field of the context for the record.
    pub fn recorded_context(&self, request: &CallerRequest) -> Option<Map<String, Value>> {
        let target = request.target.as_ref()?;
        let plan = self.revision.rules.plans.get(&target.action)?;
        plan.to_json(&self.facts(request)).ok()
    }

    /// The same request for Cedar's own authorizer over the whole policy set.
    pub fn reference(&self, request: &CallerRequest) -> Result<Reference, String> {
        let query = self.query(request);
        let decision = decide(&query, request.caller());
        Reference::new(&query, request.caller(), &decision)
    }

    fn decision(&self, request: &CallerRequest) -> Decision {
        decide(&self.query(request), request.caller())
    }

    fn query<'a>(&'a self, request: &'a CallerRequest) -> Query<'a> {
        Query {
            portal: &self.scope,
            revision: &self.revision,
            now_millis: unix_millis(),
            asked: QueryForm::Http(HttpQuery {
                method: &request.method,
                path: &request.path,
                host: HOST,
                scheme: Scheme::Https,
                source_ip: [10, 1, 2, 3].into(),
                query: None,
                headers: Some(&request.headers),
                context: None,
            }),
        }
    }

    fn facts<'a>(&'a self, request: &'a CallerRequest) -> ContextFacts<'a> {
        ContextFacts {
            portal: self.scope.slug.as_str(),
            tenant: request.identity.tenant.as_deref(),
            now_millis: unix_millis(),
            auth: Some(&request.identity.auth),
            flags: &self.revision.rules.flags.anonymous,
            http: Some(HttpFacts {
                method: &request.method,
                path: request.path.id(),
                host: HOST,
                scheme: Scheme::Https.as_str(),
                source_ip: [10, 1, 2, 3].into(),
                query: &[],
                beside_semicolons: &[],
                headers: &request.headers,
            }),
        }
    }
}

impl LoadedPortals {
    /// Loads each portal at `/portal/<slug>`.
    pub fn load<'a>(all: impl IntoIterator<Item = &'a PolicyFiles>) -> Result<Self, String> {
        let portals = all
            .into_iter()
            .map(|files| LoadedPortal::load_below(&format!("/portal/{}", files.slug), files));
        let portals = portals.collect::<Result<Vec<_>, _>>()?;
        let scopes = portals.iter().map(|portal| &portal.scope);
        let table = PortalTable::new(scopes).map_err(|error| error.to_string())?;
        Ok(Self { table, portals })
    }

    /// The portals in the order of loading.
    pub fn portals(&self) -> &[LoadedPortal] {
        &self.portals
    }

    /// Finds the portal of a request that one of these portals made, and decides there.
    pub fn decide(&self, request: &CallerRequest) -> bool {
        let found = self.table.find(HOST, &request.path);
        let portal = found.and_then(|index| self.portals.get(index));
        portal.is_some_and(|portal| portal.decide(request))
    }
}

impl CallerRequest {
    fn caller(&self) -> Caller<'_> {
        Caller::Proven {
            identity: &self.identity,
            principal: &self.principal,
        }
    }
}

/// The issuer of every caller.
pub(crate) fn issuer_scope() -> IssuerScope {
    IssuerScope::new("corp", ISSUER, vec![AUDIENCE.to_owned()])
}
