//! Proofs about policies: that an edit allows nothing new, and that invariants hold.
//!
//! Cedar's symbolic compiler turns policies into logic and a cvc5 process decides it, for each request environment:
//! each combination of principal type, action and resource type that the schema allows. A proof is about the policies,
//! with any entities; it says nothing about entity data, routes and the mapping of claims. Three answers exist: proved,
//! an example that the engine confirms, and *unknown*. What is not understood, not supported or not answered in time is
//! unknown.
//!
//! Only commands use it: nothing here is on the path of a request.

mod clause;
mod contradiction;
mod difference;
mod example;
mod invariants;
mod facts;
mod groups;
mod question;
mod solver;
mod system;
#[cfg(test)]
mod tests;

use cedar_policy::RequestEnv;
use cedargate_policy::engine::Evaluation;
use cedargate_policy::revision::Revision;

use self::clause::Described;
use self::difference::Search;
pub(crate) use self::difference::SearchResult;
pub(crate) use self::example::Example;
use self::facts::ProofFacts;
pub(crate) use self::invariants::{CheckedStatement, check};
use self::question::Environment;
pub(crate) use self::question::Prover;
pub(crate) use self::solver::NoSolver;
use self::system::{Action, Number, System};

/// One kind of requests, and what was found about it.
#[derive(Debug)]
pub(crate) struct ProofFinding {
    pub kind: RequestKind,
    pub about: ProofSubject,
    pub found: SearchResult,
}

/// A request environment.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct RequestKind {
    pub action: String,
    pub principal: String,
    pub resource: String,
}

/// The part of the policies that a proof is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProofSubject {
    /// Whole decisions.
    Decisions,
    /// The same, about a resource without an entry in the entities.
    Undescribed,
    /// Forbids alone: on public paths and for routed requests they count without permits.
    Forbids,
}

/// The proof that one portal's new revision allows nothing that its old one denies.
pub(crate) struct WideningProof {
    /// The kinds of requests that were looked at.
    pub kinds: usize,
    /// Every kind that is not proved.
    pub findings: Vec<ProofFinding>,
}

impl RequestKind {
    fn of(env: &RequestEnv) -> Self {
        Self {
            action: env.action().to_string(),
            principal: env.principal().to_string(),
            resource: env.resource().to_string(),
        }
    }
}

impl std::fmt::Display for RequestKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            action,
            principal,
            resource,
        } = self;
        write!(f, "{action} by {principal} on {resource}")
    }
}

/// Every request environment of a revision, in an order that does not change.
fn environments(revision: &Revision) -> Vec<RequestEnv> {
    let mut all: Vec<(RequestKind, RequestEnv)> = revision
        .rules
        .schema
        .cedar
        .request_envs()
        .map(|env| (RequestKind::of(&env), env))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, env)| env).collect()
}

fn action_of<'r>(revision: &'r Revision, env: &RequestEnv) -> Action<'r> {
    let model = revision.rules.schema.action(env.action());
    Action {
        uid: env.action().clone(),
        groups: model.map_or(&[], |model| model.ancestors.as_slice()),
    }
}

/// The gate describes its own paths itself; another resource may have no entry in the entities.
fn descriptions(revision: &Revision, env: &RequestEnv) -> &'static [Described] {
    match revision.rules.names.path.as_ref() == Some(env.resource()) {
        true => &[Described::Yes],
        false => &[Described::Yes, Described::No],
    }
}

/// Proves that `new` allows nothing that `old` denies, or says where it does not hold.
pub(crate) fn widening(slug: &str, old: &Revision, new: &Revision, prover: &mut Prover) -> Result<WideningProof, NoSolver> {
    let mut all = WideningProof {
        kinds: 0,
        findings: Vec::new(),
    };
    let Some((before, after)) = System::of(&old.rules.engine).zip(System::of(&new.rules.engine)) else {
        all.findings.extend(environments(new).iter().map(|env| ProofFinding {
            kind: RequestKind::of(env),
            about: ProofSubject::Decisions,
            found: SearchResult::Unknown("the policies do not form one set".to_owned()),
        }));
        return Ok(all);
    };
    let added = after.beyond(&before);
    let removed = before.beyond(&after);
    let facts = ProofFacts::of(slug, new).and_of(old);
    for env in environments(new) {
        all.kinds += 1;
        let schema = &old.rules.schema;
        let compared = Compared {
            new,
            env: &env,
            before: schema
                .applies(env.principal(), env.action(), env.resource())
                .then_some(&before),
            after: &after,
            added: &added,
            removed: &removed,
            facts: &facts,
        };
        all.findings.extend(compared.findings(prover)?);
    }
    Ok(all)
}

/// Both revisions in one environment.
struct Compared<'a> {
    new: &'a Revision,
    env: &'a RequestEnv,
    /// `None`: the old schema does not allow such requests.
    before: Option<&'a System<'a>>,
    after: &'a System<'a>,
    added: &'a [Number],
    removed: &'a [Number],
    facts: &'a ProofFacts<'a>,
}

impl Compared<'_> {
    fn findings(&self, prover: &mut Prover) -> Result<Vec<ProofFinding>, NoSolver> {
        let mut findings = Vec::new();
        let every: Vec<Number>;
        // against a schema without such requests, every permit is new
        let added = match self.before {
            Some(_) => self.added,
            None => {
                every = self.after.all();
                &every
            }
        };
        if self.before.is_some() && added.is_empty() && self.removed.is_empty() {
            return Ok(findings);
        }
        for described in descriptions(self.new, self.env) {
            let (about, found) = match self.search(*described, added, prover)? {
                Searched::Decisions(found) => (ProofSubject::Decisions, found),
                Searched::Forbids(found) => (ProofSubject::Forbids, found),
            };
            let about = match (about, described) {
                (ProofSubject::Decisions, Described::No) => ProofSubject::Undescribed,
                (about, _) => about,
            };
            if !matches!(found, SearchResult::Nothing) {
                findings.push(ProofFinding {
                    kind: RequestKind::of(self.env),
                    about,
                    found,
                });
                // one example for each kind of requests is enough
                break;
            }
        }
        Ok(findings)
    }

    fn search(&self, described: Described, added: &[Number], prover: &mut Prover) -> Result<Searched, NoSolver> {
        let environment = match Environment::new(&self.new.rules.schema.cedar, self.env, described) {
            Ok(environment) => environment,
            Err(reason) => return Ok(Searched::Decisions(SearchResult::Unknown(reason))),
        };
        let search = Search {
            environment: &environment,
            action: action_of(self.new, self.env),
            inner: self.after,
            outer: self.before,
            inner_only: added,
            outer_only: self.removed,
            region: None,
            facts: self.facts,
        };
        let found = search.run(prover)?;
        if !matches!(found, SearchResult::Nothing) || !self.forbids_count_alone() {
            return Ok(Searched::Decisions(found));
        }
        search.run_forbids(prover).map(Searched::Forbids)
    }

    /// True if requests of this kind, or requests that are checked as this kind, are denied by forbids and need no
    /// permit of it: a routed request survives the forbids of its plain path, and a public one those of its path and of
    /// its route.
    fn forbids_count_alone(&self) -> bool {
        let file = &self.new.file;
        let has_public = !file.public.is_empty();
        let has_routes = !file.routes.routes().is_empty();
        if self.facts.is_path(self.env.resource()) {
            return has_routes || has_public;
        }
        let schema = &self.new.rules.schema;
        let mut routes = file.routes.routes().iter();
        has_public
            && routes.any(|route| {
                schema.resolve_action(&route.action).as_ref() == Some(self.env.action())
                    && schema.resolve_type(&route.resource_type).as_ref() == Some(self.env.resource())
            })
    }
}

/// The result of one search, and what it was about.
enum Searched {
    Decisions(SearchResult),
    Forbids(SearchResult),
}

/// The decision as one line: by which policies.
pub(crate) fn reasons(evaluation: &Evaluation) -> String {
    match evaluation.refusal() {
        None => {
            let ids: Vec<&str> = evaluation.policies.iter().map(|policy| &*policy.id).collect();
            match ids.as_slice() {
                [] => "no forbid holds".to_owned(),
                ids => format!("permitted by {}", ids.join(", ")),
            }
        }
        Some(refusal) => refusal.detail.replace("decided by", "forbidden by"),
    }
}
