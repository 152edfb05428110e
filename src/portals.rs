//! The registry of portals: the portal table, each portal's active revision, and the callers verified at each portal.
//!
//! Only `reload` writes it (its thread of that name, and `emergency`), and every request reads it: one atomic load
//! gives a request a snapshot that it uses to its end. A portal's cache of callers outlives its revisions; a cached
//! caller is used only under the revision that made it, and every other revision makes its own of the proof
//! (`gate/caller`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use cedargate_policy::claims::{Binding, ClaimError};
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::permit::CallerHeaders;
use cedargate_policy::portal::path::CanonicalPath;
use cedargate_policy::portal::path::rules::Case;
use cedargate_policy::portal::{PortalError, PortalTable};
use cedargate_policy::principal::Principal;
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::source::{Files, SourceFile, Tree};
use cedargate_policy::scope::PortalScope;
use cedargate_policy::types::{Door, Identity, PortalSlug};
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use crate::audit::CallerRecord;
use crate::authn::certificate::CertificateIssuers;
use crate::authn::{TokenCache, TokenProof};
use crate::base::metrics::Metrics;
use crate::config::{self, UpstreamToken};
use crate::http::credentials::TokenSources;
use crate::http::upstream::{App, HeaderRules};
use crate::session::{Revocable, Session};

/// Every portal, and the table that finds the portal of a request.
pub struct PortalRegistry {
    pub table: PortalTable,
    pub portals: Vec<Arc<Portal>>,
    by_name: FxHashMap<Arc<str>, usize>,
    /// The app of portals without an upstream of their own.
    pub app: Arc<App>,
}

/// The registry in force; replaced as a whole when a portal appears.
pub type SharedRegistry = ArcSwap<PortalRegistry>;

/// One portal: its configuration, its app, and its active revision.
pub struct Portal {
    pub config: config::Portal,
    /// The portal as its policies see it.
    pub scope: PortalScope,
    /// Shared with every portal whose upstream is equal.
    pub upstream: Arc<App>,
    pub header_rules: Arc<HeaderRules>,
    /// The places of tokens besides `Authorization`.
    pub token_sources: TokenSources,
    /// The trusted issuers whose callers prove themselves by a client certificate: indexes into `Config::issuers`.
    pub certificate_issuers: Vec<usize>,
    /// The token that the app gets in `Authorization`.
    pub token: UpstreamToken,
    /// True if it trusts an issuer whose tokens may come with a DPoP proof.
    pub accepts_proofs: bool,
    pub name: Arc<str>,
    pub header: HeaderValue,
    pub active: ArcSwapOption<ActiveRevision>,
    /// The candidate set that is evaluated beside it; written by `reload`.
    pub shadow: ArcSwapOption<ActiveRevision>,
    /// Callers by the hash of their token or the version of their session.
    pub callers: TokenCache<Caller>,
    /// Held by a thread while it replaces `active` by a revision that it made of it.
    pub writer: Mutex<JoinedForbids>,
    pub meters: Meters,
}

/// Emergency forbids that joined the revision in force and that the reloader has not read yet, by file name.
#[derive(Default)]
pub struct JoinedForbids(BTreeMap<String, JoinedForbid>);

/// One file with emergency forbids.
struct JoinedForbid {
    file: SourceFile,
    /// The file was there before this time and after it.
    at: Instant,
}

/// A revision in force.
pub struct ActiveRevision {
    pub revision: Arc<Revision>,
}

/// The proof of a caller; checked again on every use.
#[derive(Clone)]
pub enum Credential {
    Token(TokenProof),
    /// A token that its issuer confirmed; the gate asks the issuer again after `until` (unix seconds).
    Introspected {
        until: i64,
    },
    /// The client certificate of the connection, which is checked for every request.
    Certificate,
    /// A session, looked up in this process's cache or in the store for every request.
    Session(Arc<Session>),
}

/// The user of a session, as pages say it.
pub struct SessionUser {
    pub name: String,
    pub detail: Option<String>,
}

/// The part of a caller that no revision takes part in: verifying a credential reads the configuration alone.
#[derive(Clone)]
pub struct Proven {
    pub identity: Arc<Identity>,
    pub credential: Credential,
    /// The keys that the sender of every request with the credential must hold.
    pub binding: Binding,
    /// The provider's access token of a session, for an app that calls the provider's APIs.
    pub access_token: Option<HeaderValue>,
}

/// A verified caller under one revision: everything that depends on the credential and the revision alone.
pub struct Caller {
    pub proven: Proven,
    /// The id of the revision that made the rest.
    pub revision: Arc<str>,
    pub principal: Principal,
    pub headers: Arc<CallerHeaders>,
    pub record: Arc<CallerRecord>,
    /// The claims that the assertion carries: those that the schema declares as attributes.
    pub asserted: Map<String, Value>,
    pub assertion: ArcSwapOption<FreshAssertion>,
}

/// A signed assertion that further requests of the caller reuse.
pub struct FreshAssertion {
    pub value: HeaderValue,
    /// Generation of the keys it was signed with.
    pub generation: u64,
    /// Unix seconds after which another one is signed.
    pub renew_at: i64,
}

/// One portal's metrics, resolved once.
pub struct Meters {
    metrics: Metrics,
    portal: Arc<str>,
    pub request_duration: Histogram,
    pub gate_duration: Histogram,
    pub decision_duration: [Histogram; Door::ALL.len()],
    decisions: [[OnceLock<IntCounter>; Denial::ALL.len() + 1]; Door::ALL.len()],
}

impl PortalRegistry {
    pub fn new(portals: Vec<Arc<Portal>>, app: Arc<App>) -> Result<Self, PortalError> {
        Ok(Self {
            table: PortalTable::new(portals.iter().map(|portal| &portal.scope))?,
            by_name: portals
                .iter()
                .enumerate()
                .map(|(at, portal)| (Arc::clone(&portal.name), at))
                .collect(),
            portals,
            app,
        })
    }

    /// The portal of a request, if there is one. `Err` if its app could take the path for another portal's.
    pub fn find(&self, host: &str, path: &CanonicalPath) -> Result<Option<&Arc<Portal>>, Refusal> {
        let ignores_case = |index: usize| self.portals.get(index).is_some_and(|portal| portal.ignores_case());
        let found = self.table.choose(host, path, ignores_case)?;
        Ok(found.and_then(|index| self.portals.get(index)))
    }

    pub fn named(&self, slug: &str) -> Option<&Arc<Portal>> {
        self.portals.get(*self.by_name.get(slug)?)
    }
}

impl Portal {
    /// `app` is that of the portal's own upstream, or of the top level's.
    pub fn new(portal: config::Portal, app: Arc<App>, config: &config::Config, metrics: &Metrics) -> Self {
        let scope = config.portal_scope(&portal);
        let upstream = portal.upstream.as_ref().unwrap_or(&config.upstream);
        let issuers = portal
            .issuers
            .iter()
            .filter_map(|index| Some((*index, config.issuers.get(*index)?.token_from.as_slice())));
        let token_sources = TokenSources::of(issuers);
        let is_of_certificates = |index: &usize| config.issuers.get(*index).is_some_and(|issuer| issuer.certificates.is_some());
        let certificate_issuers = portal.issuers.iter().copied().filter(is_of_certificates).collect();
        let token = upstream.token.clone();
        let takes_proofs = |index: &usize| config.issuers.get(*index).is_some_and(|issuer| issuer.dpop.is_some());
        let accepts_proofs = portal.issuers.iter().any(takes_proofs);
        let header_rules = Arc::new(HeaderRules::of(upstream, &config.assertion.header, &scope.removed_headers));
        let name: Arc<str> = Arc::from(portal.slug.as_str());
        // INVARIANT: a slug is lower-case letters, digits and `-`
        let header = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static(""));
        let meters = Meters::new(metrics, &name);
        Self {
            config: portal,
            scope,
            upstream: app,
            header_rules,
            token_sources,
            certificate_issuers,
            token,
            accepts_proofs,
            name,
            header,
            active: ArcSwapOption::empty(),
            shadow: ArcSwapOption::empty(),
            callers: TokenCache::new(config.limits.token_cache.as_usize()),
            writer: Mutex::default(),
            meters,
        }
    }

    /// True if the app ignores the case of paths, by the revision in force; without one it could.
    fn ignores_case(&self) -> bool {
        let active = self.active.load();
        active
            .as_ref()
            .is_none_or(|active| active.revision.file.paths.case == Case::Ignored)
    }

    pub fn slug(&self) -> &PortalSlug {
        &self.config.slug
    }

    /// The trusted issuers whose callers prove themselves by a client certificate.
    pub fn certificate_trust<'a>(&'a self, config: &'a config::Config) -> CertificateIssuers<'a> {
        CertificateIssuers {
            all: &config.issuers,
            trusted: &self.certificate_issuers,
        }
    }

    /// True if a host is one of this portal's.
    pub fn is_at(&self, host: &str) -> bool {
        self.config.is_at(host)
    }
}

impl Proven {
    /// The part of the caller that a revocation can name.
    pub fn revocable(&self) -> Revocable<'_> {
        match &self.credential {
            Credential::Session(session) => Revocable::Session(session),
            Credential::Token(_) | Credential::Introspected { .. } | Credential::Certificate => {
                Revocable::Identity(&self.identity)
            }
        }
    }
}

impl JoinedForbids {
    /// Notes the emergency forbids that `revision` has and `before` did not have.
    pub fn add(&mut self, revision: &Revision, before: &Revision, at: Instant) {
        let known = before.emergency_files();
        for (name, file) in &revision.emergency_files().0 {
            if known.get(name) != Some(file) {
                let file = file.clone();
                self.0.insert(name.clone(), JoinedForbid { file, at });
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tree, read at `read_at`, with the files that joined since then. Forgets the others: that reading saw what
    /// became of them.
    pub fn laid_over<'a>(&mut self, tree: &'a Tree, read_at: Instant) -> Cow<'a, Tree> {
        self.0.retain(|_, joined| joined.at >= read_at);
        if self.0.is_empty() {
            return Cow::Borrowed(tree);
        }
        let mut tree = tree.clone();
        let joined = self.0.iter().map(|(name, joined)| (name.clone(), joined.file.clone()));
        tree.files.0.extend(joined);
        Cow::Owned(tree)
    }
}

impl Portal {
    /// The revision in force: a request takes it once and uses it to its end. A portal without one denies.
    pub fn active_revision(&self) -> Result<Arc<ActiveRevision>, Denial> {
        self.active.load_full().ok_or(Denial::NoPolicyLoaded)
    }

    /// True if each of the files holds in the revision as it is.
    pub fn has_in_force(&self, active: &ActiveRevision, files: &Files) -> bool {
        let known = active.revision.emergency_files();
        files.0.iter().all(|(name, file)| known.get(name) == Some(file))
    }
}

impl Portal {
    /// The groups of a caller; `claim` is its claim of that name. `issuers[].roles` does not bound groups, so the roles
    /// of a bounded issuer take their place.
    pub fn groups<'a>(&self, claim: Option<&'a Value>, identity: &'a Identity) -> Vec<&'a str> {
        let issuer = self.scope.issuer(&identity.issuer);
        let bounded = issuer.is_some_and(|issuer| issuer.roles.is_some());
        let groups = claim.and_then(Value::as_array).filter(|_| !bounded);
        let groups = groups.and_then(|all| all.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        groups.unwrap_or_else(|| identity.roles.iter().map(String::as_str).collect())
    }

    /// The texts by which pages name the user of a session: name and email address, or the subject.
    pub fn user_of(&self, session: &Session) -> SessionUser {
        let data = &session.data;
        let text = |name: &str| {
            let claim = self.claim(&data.claims, name).ok().flatten();
            claim
                .and_then(Value::as_str)
                .filter(|text| !text.trim().is_empty())
                .map(str::to_owned)
        };
        let mut texts = [text("name"), text("email")].into_iter().flatten();
        SessionUser {
            name: texts.next().unwrap_or_else(|| data.subject.clone()),
            detail: texts.next(),
        }
    }

    /// The claim for an attribute: the one that `portal.yaml` maps, else the one of that name.
    pub fn claim<'a>(&self, claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Value>, ClaimError> {
        match self.active.load().as_ref() {
            Some(active) => active.revision.rules.claims.claim(claims, name),
            None => Ok(claims.get(name)),
        }
    }

    /// The title in `portal.yaml`; the slug without one.
    pub fn title(&self) -> String {
        let active = self.active.load();
        let title = active.as_ref().and_then(|active| active.revision.file.title.clone());
        title.unwrap_or_else(|| self.name.to_string())
    }

    /// True if a browser without a session is sent to a login.
    pub fn has_login(&self, config: &config::Config) -> bool {
        let active = self.active.load();
        let named = active.as_ref().is_some_and(|active| active.revision.file.login.is_some());
        active.is_some() && (named || config.login.default_of(&self.config).is_some())
    }
}

impl Meters {
    fn new(metrics: &Metrics, portal: &Arc<str>) -> Self {
        Self {
            request_duration: metrics.http_request_duration.with_label_values(&[portal]),
            gate_duration: metrics.gate_duration.with_label_values(&[portal]),
            decision_duration: Door::ALL.map(|door| metrics.decision_duration.with_label_values(&[&**portal, door.as_str()])),
            decisions: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
            metrics: metrics.clone(),
            portal: Arc::clone(portal),
        }
    }

    /// Policies that failed to evaluate in one decision.
    pub fn errors(&self, count: usize) {
        if count > 0 {
            let counter = self.metrics.policy_evaluation_errors.with_label_values(&[&self.portal]);
            counter.inc_by(count as u64);
        }
    }

    /// Counts one decision; `None` is an allow.
    pub fn count(&self, door: Door, denial: Option<Denial>) {
        let column = denial.map_or(0, |d| d as usize + 1);
        let Some(cell) = self.decisions.get(door as usize).and_then(|row| row.get(column)) else {
            return;
        };
        let counter = cell.get_or_init(|| {
            let (decision, reason) = denial.map_or(("allow", "permitted"), |d| ("deny", d.code()));
            self.metrics
                .decisions
                .with_label_values(&[&*self.portal, door.as_str(), decision, reason])
        });
        counter.inc();
    }
}
