//! What `benches/` measures, opened up: a portal in memory, questions to it, tokens, reloads.
//!
//! Not the crate's interface (`#[doc(hidden)]`) and nothing of the gate uses it. It calls what the path calls, with
//! everything made beforehand that the path has beforehand; it never measures and never decides by itself.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cedar_policy::{Authorizer, Entities, PolicySet, Request};
use http::HeaderMap;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::authn::{Authn, SigningKey, TokenCache, Verified, identity_from_claims, token_hash};
use crate::authz::Target;
use crate::authz::context::{Facts, HttpFacts, ProxyContext};
use crate::authz::engine::{Ancestors, ContextSource, Outcome, Slice};
use crate::authz::principal::Principal;
use crate::authz::reads::ContextReads;
use crate::base::metrics::Metrics;
use crate::config::{Algorithm, ClaimPaths, Issuer, KeySource, Portal, PortalMatch, TenantSource};
use crate::gate::now_millis;
use crate::portal::PortalTable;
use crate::portal::path::CanonicalPath;
use crate::revision::files::{SourceFile, Tree};
use crate::revision::{Frame, Loader, Revision, Warnings};
use crate::session::SessionData;
use crate::types::{Identity, PortalSlug};

/// The portal that every tree here describes.
pub const PORTAL: &str = "bench";
/// `iss` of every token here.
pub const ISSUER: &str = "https://id.example.test/";
pub const AUDIENCE: &str = "bench";
const HOST: &str = "shop.example.test";
/// Room for slices that wait for their twins.
const TWIN_QUEUE: usize = 64;
/// Longest key file and token that a bench needs.
const TOKEN_BYTES: usize = 16 * 1024;
const TOKEN_CACHE: usize = 1024;

/// Many loaded portals and the table that finds one of them.
pub struct Portals {
    table: PortalTable,
    worlds: Vec<World>,
}

/// A loaded portal.
pub struct World {
    revision: Arc<Revision>,
    issuer: Issuer,
    waiting: Receiver<Weak<Slice>>,
}

/// One caller asking for one path, taken as far as the gate has it before deciding.
pub struct Question {
    identity: Identity,
    principal: Principal,
    target: Target,
    method: String,
    path: CanonicalPath,
    headers: HeaderMap,
}

/// The same question to Cedar's own authorizer over the whole policy set.
pub struct Plain {
    policies: PolicySet,
    entities: Entities,
    request: Request,
}

/// One issuer's keys and the tokens remembered under them.
pub struct Tokens {
    authn: Arc<Authn>,
    remembered: TokenCache<Verified>,
}

/// A loader and what it loaded last.
pub struct Reload {
    loader: Loader,
    portal: Portal,
    current: Option<Arc<Revision>>,
}

/// Files by name, as if just read.
#[derive(Clone)]
pub struct Folder(Tree);

impl Folder {
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::of(PORTAL, files)
    }

    pub fn of<'a>(portal: &str, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut tree = Tree::default();
        for (name, text) in files {
            let file = SourceFile::new(text.as_bytes());
            tree.files.0.insert(name.to_owned(), file);
        }
        tree.slugs.extend(PortalSlug::parse(portal));
        Self(tree)
    }
}

impl World {
    pub fn load(folder: &Folder) -> Result<Self, String> {
        Self::load_as(portal(PORTAL, "/")?, folder)
    }

    fn load_as(portal: Portal, folder: &Folder) -> Result<Self, String> {
        let (queue, waiting) = sync_channel(TWIN_QUEUE);
        let mut reload = Reload::with(Loader::new(Warnings::Show, Some(queue)), portal);
        reload.load(folder)?;
        let revision = reload.current.ok_or("nothing was loaded")?;
        let issuer = issuer(KeySource::Discovery);
        Ok(Self {
            revision,
            issuer,
            waiting,
        })
    }

    #[cfg(test)]
    pub(crate) fn revision(&self) -> &Revision {
        &self.revision
    }

    pub fn question(&self, claims: &Map<String, Value>, method: &str, path: &str) -> Result<Question, String> {
        let identity = identity_from_claims(&self.issuer, claims.clone()).map_err(|e| e.to_string())?;
        let principal = self
            .revision
            .rules
            .principal(&identity, "")
            .map_err(|r| r.detail.into_owned())?;
        let path = CanonicalPath::parse(path).map_err(|e| e.to_string())?;
        let target = self.revision.target(method, &path).map_err(|r| r.detail.into_owned())?;
        Ok(Question {
            identity,
            principal,
            target,
            method: method.to_owned(),
            path,
            headers: HeaderMap::new(),
        })
    }

    /// Makes the twins of every slice that was asked for so far; without it originals decide.
    pub fn make_twins(&self) {
        self.waiting
            .try_iter()
            .filter_map(|slice| slice.upgrade())
            .for_each(|s| s.make_twins());
    }

    /// The decision alone: principal and target are known, the context is built as far as it is read.
    pub fn decide(&self, question: &Question) -> bool {
        self.allows(question, &question.target)
    }

    fn allows(&self, question: &Question, target: &Target) -> bool {
        let facts = self.facts(question);
        let answer = self.revision.rules.ask(&question.principal, target, &facts);
        answer.is_ok_and(|answer| answer.outcome == Outcome::Allow)
    }

    /// From method and path to action, resource and path queries.
    pub fn target(&self, question: &Question) -> Option<Target> {
        self.revision.target(&question.method, &question.path).ok()
    }

    /// From an identity to the Cedar principal, once per token and revision.
    pub fn principal(&self, question: &Question) -> Option<Principal> {
        self.revision.rules.principal(&question.identity, "").ok()
    }

    /// Every field of the context as Cedar takes it.
    pub fn context(&self, question: &Question) -> Result<cedar_policy::Context, String> {
        let facts = self.facts(question);
        let plan = self
            .revision
            .rules
            .plans
            .get(&question.target.action)
            .ok_or("no such action")?;
        ProxyContext { plan, facts: &facts }.context(&ContextReads::Everything)
    }

    /// Every field of the context as the record shows it.
    pub fn recorded_context(&self, question: &Question) -> Option<Map<String, Value>> {
        let plan = self.revision.rules.plans.get(&question.target.action)?;
        plan.to_json(&self.facts(question)).ok()
    }

    pub fn plain(&self, question: &Question) -> Result<Plain, String> {
        let mut policies = PolicySet::new();
        for entry in self.revision.rules.engine.policies() {
            policies.add(entry.policy().clone()).map_err(|e| e.to_string())?;
        }
        let (principal, target) = (&question.principal.party, &question.target);
        let parties = [principal, &target.resource]
            .into_iter()
            .filter_map(|party| party.entity(Ancestors::Read));
        let known = parties.map(|known| known.entity());
        let schema = &self.revision.rules.schema.cedar;
        let entities = Entities::from_entities(known, Some(schema)).map_err(|e| e.to_string())?;
        let context = self.context(question)?;
        let (who, what) = (principal.uid.clone(), target.resource.uid.clone());
        let request = Request::new(who, target.action.clone(), what, context, Some(schema)).map_err(|e| e.to_string())?;
        Ok(Plain {
            policies,
            entities,
            request,
        })
    }

    fn facts<'a>(&'a self, question: &'a Question) -> Facts<'a> {
        Facts {
            portal: PORTAL,
            tenant: question.identity.tenant.as_deref(),
            now_millis: now_millis(),
            auth: Some(&question.identity.auth),
            flags: &self.revision.flags,
            http: Some(HttpFacts {
                method: &question.method,
                path: question.path.id(),
                host: HOST,
                scheme: "https",
                source_ip: [10, 1, 2, 3].into(),
                query: &[],
                headers: &question.headers,
            }),
        }
    }
}

impl Portals {
    /// Each at `/portal/<name>`.
    pub fn load<'a>(folders: impl IntoIterator<Item = (&'a str, &'a Folder)>) -> Result<Self, String> {
        let (mut portals, mut worlds) = (Vec::new(), Vec::new());
        for (name, folder) in folders {
            let portal = portal(name, &format!("/portal/{name}"))?;
            worlds.push(World::load_as(portal.clone(), folder)?);
            portals.push(portal);
        }
        let table = PortalTable::new(&portals).map_err(|e| e.to_string())?;
        Ok(Self { table, worlds })
    }

    pub fn worlds(&self) -> &[World] {
        &self.worlds
    }

    /// Portal, target and decision of a question that one of these worlds made.
    pub fn decide(&self, question: &Question) -> bool {
        let found = self.table.find(HOST, &question.path);
        let Some(world) = found.and_then(|index| self.worlds.get(index)) else {
            return false;
        };
        world.target(question).is_some_and(|target| world.allows(question, &target))
    }
}

impl Plain {
    pub fn decide(&self) -> bool {
        let response = Authorizer::new().is_authorized(&self.request, &self.policies, &self.entities);
        response.decision() == cedar_policy::Decision::Allow
    }
}

impl Tokens {
    /// `jwks` is a file; returns once it was read.
    pub fn new(jwks: &Path) -> Result<Self, String> {
        Self::with_room(jwks, TOKEN_CACHE)
    }

    /// Remembers at most `room` tokens.
    pub fn with_room(jwks: &Path, room: usize) -> Result<Self, String> {
        let metrics = Metrics::new().map_err(|e| e.to_string())?;
        let authn = Authn::new(&[issuer(KeySource::File(jwks.to_owned()))], TOKEN_BYTES, metrics).map_err(|e| e.to_string())?;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let run = Arc::clone(&authn).run(CancellationToken::new());
            let read = async {
                while authn.status().iter().any(|issuer| issuer.keys == 0) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                () = run => {}
                () = read => {}
                () = tokio::time::sleep(Duration::from_secs(10)) => {}
            }
        });
        if authn.status().iter().any(|issuer| issuer.keys == 0) {
            return Err(format!("no key was read from `{}`", jwks.display()));
        }
        Ok(Self {
            authn,
            remembered: TokenCache::new(room),
        })
    }

    /// First sight of a token: taken apart, signature, claims.
    pub fn verify(&self, token: &str) -> Option<Verified> {
        self.authn.try_verify(token, &[0], now_millis() / 1000)?.ok()
    }

    /// Lets `seen_before` find this token.
    pub fn remember(&self, token: &str) -> Option<()> {
        let verified = self.verify(token)?;
        self.remembered.insert(token_hash(token), Arc::new(verified));
        Some(())
    }

    /// Every later sight: hash, look-up, time and key checked again.
    pub fn seen_before(&self, token: &str) -> bool {
        let known = self.remembered.get(&token_hash(token));
        known.is_some_and(|known| self.authn.recheck(&known.proof, now_millis() / 1000).is_ok())
    }
}

impl Reload {
    pub fn new() -> Result<Self, String> {
        Ok(Self::with(Loader::new(Warnings::Show, None), portal(PORTAL, "/")?))
    }

    fn with(loader: Loader, portal: Portal) -> Self {
        Self {
            loader,
            portal,
            current: None,
        }
    }

    /// What happens between reading the files and swapping: parse, validate, index. Gives back what was replaced, so
    /// that dropping it need not be measured.
    pub fn load(&mut self, folder: &Folder) -> Result<Option<Arc<Revision>>, String> {
        let issuers = [issuer(KeySource::Discovery)];
        let frame = Frame {
            portal: &self.portal,
            issuers: &issuers,
            providers: None,
        };
        let loaded = self.loader.load(frame, &folder.0, self.current.as_deref());
        if let Some(rejected) = loaded.rejected {
            return Err(rejected.to_string());
        }
        let revision = loaded.revision.ok_or("the files did not change")?;
        Ok(self.current.replace(revision))
    }
}

fn portal(name: &str, path_prefix: &str) -> Result<Portal, String> {
    Ok(Portal {
        slug: PortalSlug::parse(name).ok_or("the portal's name is no slug")?,
        matches: PortalMatch {
            hosts: Vec::new(),
            path_prefix: path_prefix.to_owned(),
        },
        issuers: vec![0],
        tenant: TenantSource::Claim,
        upstream: None,
    })
}

/// A key set, and a token of that issuer that lives for an hour.
pub fn token(roles: &[&str]) -> Result<(String, String), String> {
    let key = SigningKey::generate().map_err(|e| e.to_string())?;
    let now = now_millis() / 1000;
    let claims =
        json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "tenant": "acme", "roles": roles, "iat": now, "exp": now + 3600});
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": key.kid()});
    let token = key.sign(&header, &claims).map_err(|e| e.to_string())?;
    Ok((key.jwks().to_string(), token))
}

/// Sessions of a running gate, as a login would make them: what their cookies carry.
pub fn create_sessions(running: &crate::app::Running, count: usize, roles: &[&str]) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let sessions = &running.gate.sessions;
        let mut ids = Vec::with_capacity(count);
        for n in 0..count {
            let subject = format!("user-{n}");
            let claims = json!({"iss": ISSUER, "sub": subject, "tenant": "acme", "roles": roles, "email": format!("{subject}@acme.example")});
            let data = SessionData {
                provider: "corp".to_owned(),
                issuer: "corp".to_owned(),
                subject,
                portal: PORTAL.to_owned(),
                claims: Arc::new(claims.as_object().cloned().unwrap_or_default()),
                created_at: now_millis(),
                idp_session: None,
                grant: None,
                portals: None,
                rotation_due: false,
            };
            let created = sessions.create(data).await.map_err(|e| e.to_string())?;
            let cookie = sessions.cookies.set_session(&created.id);
            let cookie = cookie.to_str().map_err(|e| e.to_string())?;
            let value = cookie.split(['=', ';']).nth(1).unwrap_or_default();
            ids.push(value.to_owned());
        }
        Ok(ids)
    })
}

fn issuer(keys: KeySource) -> Issuer {
    Issuer {
        name: Arc::from("corp"),
        issuer: ISSUER.to_owned(),
        audiences: vec![AUDIENCE.to_owned()],
        keys,
        key_transport: crate::config::KeyTransport::Tls,
        jwks_max_age: Duration::from_hours(24),
        algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
        leeway: Duration::from_secs(30),
        claims: ClaimPaths {
            subject: "sub".to_owned(),
            tenant: "tenant".to_owned(),
            roles: "roles".to_owned(),
        },
        principal: Arc::from("User"),
        subject_prefix: None,
        tenants: None,
        roles: None,
        introspection: None,
    }
}
