//! Proofs of `invariants.yaml`: each claim is a search for a request that breaks it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{Effect, RequestEnv};
use cedargate_policy::engine::{Effects, Engine, ErroredForbids};
use cedargate_policy::load::invariants::{Claim, Invariant};
use cedargate_policy::revision::Revision;

use super::clause::{Described, Expression};
use super::difference::{Search, SearchResult};
use super::example::{Example, Region};
use super::facts::ProofFacts;
use super::question::{Environment, Prover, SolverAnswer, SolverQuestion};
use super::solver::NoSolver;
use super::system::{Number, System};
use super::{ProofFinding, ProofSubject, RequestKind, action_of, descriptions, environments};

/// The result of one invariant.
#[derive(Debug)]
pub(crate) struct CheckedStatement {
    /// Every kind of requests that breaks it, or for which it is not known.
    pub findings: Vec<ProofFinding>,
    /// True if no request is in its scope: then it says nothing.
    pub is_empty: bool,
}

/// Everything that the searches of one invariant share.
struct Statement<'a> {
    revision: &'a Revision,
    invariant: &'a Invariant,
    system: &'a System<'a>,
    /// The policies of the scope.
    own: &'a System<'a>,
    region: &'a Region,
    facts: ProofFacts<'a>,
}

/// Proves one invariant of a revision, or finds a request that breaks it.
pub(crate) fn check(
    slug: &str,
    revision: &Revision,
    invariant: &Invariant,
    prover: &mut Prover,
) -> Result<CheckedStatement, NoSolver> {
    let own = Engine::new(invariant.policies.clone(), [], Arc::default(), ErroredForbids::Deny);
    let systems = System::of(&revision.rules.engine).zip(System::of(&own));
    let Some(((system, own), region)) = systems.zip(region(invariant)) else {
        return Ok(unknown(revision, "the policies do not form one set"));
    };
    let statement = Statement {
        revision,
        invariant,
        system: &system,
        own: &own,
        region: &region,
        facts: ProofFacts::of(slug, revision),
    };
    let mut checked = CheckedStatement {
        findings: Vec::new(),
        is_empty: true,
    };
    for env in environments(revision) {
        for described in descriptions(revision, &env) {
            let environment = match Environment::new(&revision.rules.schema.cedar, &env, *described) {
                Ok(environment) => environment,
                Err(reason) => return Ok(unknown(revision, &reason)),
            };
            if checked.is_empty {
                checked.is_empty = !statement.may_be_asked(&environment, prover)?;
            }
            let found = statement.search(&environment, prover)?;
            if !matches!(found, SearchResult::Nothing) {
                let about = match described {
                    Described::Yes => ProofSubject::Decisions,
                    Described::No => ProofSubject::Undescribed,
                };
                checked.findings.push(ProofFinding {
                    kind: RequestKind::of(&env),
                    about,
                    found,
                });
                break;
            }
        }
    }
    Ok(checked)
}

fn unknown(revision: &Revision, reason: &str) -> CheckedStatement {
    let finding = |env: &RequestEnv| ProofFinding {
        kind: RequestKind::of(env),
        about: ProofSubject::Decisions,
        found: SearchResult::Unknown(reason.to_owned()),
    };
    CheckedStatement {
        findings: environments(revision).iter().map(finding).collect(),
        is_empty: false,
    }
}

/// The requests that an invariant is about. `equivalent` is about all requests of its policies' heads.
fn region(invariant: &Invariant) -> Option<Region> {
    let mut parts = Vec::new();
    let mut literals = BTreeSet::new();
    for entry in &invariant.policies {
        let policy = entry.policy();
        literals.extend(policy.entity_literals());
        parts.push(match invariant.claim {
            Claim::Equivalent => Expression::of_scope(policy)?,
            Claim::NeverErrors | Claim::AlwaysAllows | Claim::AlwaysDenies => Expression::of_policy(policy)?,
        });
    }
    Region::new(Expression::any(parts), literals)
}

impl Statement<'_> {
    /// The requests of the scope, as far as the gate has them.
    fn asked(&self, environment: &Environment<'_>) -> Vec<Expression> {
        let mut all: Vec<Expression> = self.facts.of_context(environment.env.action()).into_iter().collect();
        if self.facts.is_path(environment.env.resource()) {
            all.extend(self.facts.of_path(&self.region.literals));
        }
        all.push(self.region.expression.clone());
        all
    }

    /// True if a request of this kind may be in the scope.
    fn may_be_asked(&self, environment: &Environment<'_>, prover: &mut Prover) -> Result<bool, NoSolver> {
        let question = SolverQuestion {
            all: self.asked(environment),
            ..SolverQuestion::default()
        };
        Ok(!matches!(prover.ask(environment, &question)?, SolverAnswer::No))
    }

    fn search(&self, environment: &Environment<'_>, prover: &mut Prover) -> Result<SearchResult, NoSolver> {
        let all = self.system.all();
        let own = self.own.all();
        let search = |inner, outer, inner_only, outer_only| Search {
            environment,
            action: action_of(self.revision, environment.env),
            inner,
            outer,
            inner_only,
            outer_only,
            region: Some(self.region),
            facts: &self.facts,
        };
        match self.invariant.claim {
            Claim::AlwaysDenies => search(self.system, None, &all, &[]).run(prover),
            Claim::AlwaysAllows => search(self.own, Some(self.system), &own, &all).run(prover),
            Claim::Equivalent => {
                let more = search(self.system, Some(self.own), &all, &own).run(prover)?;
                let less = match search(self.own, Some(self.system), &own, &all).run(prover)? {
                    SearchResult::Example(example) => SearchResult::Example(Box::new(example.of_statement())),
                    less => less,
                };
                Ok(match (more, less) {
                    (SearchResult::Nothing, less) => less,
                    (SearchResult::Unknown(_), less @ SearchResult::Example(_)) => less,
                    (more, _) => more,
                })
            }
            Claim::NeverErrors => self.error(environment, prover),
        }
    }

    /// A request of the scope for which a policy cannot be evaluated.
    fn error(&self, environment: &Environment<'_>, prover: &mut Prover) -> Result<SearchResult, NoSolver> {
        let action = action_of(self.revision, environment.env);
        let mut unknown = None;
        for effect in [Effect::Forbid, Effect::Permit] {
            for number in self.system.covering(effect, &action).collect::<Vec<_>>() {
                match self.error_of(number, environment, prover)? {
                    SearchResult::Nothing => {}
                    SearchResult::Unknown(reason) => drop(unknown.get_or_insert(reason)),
                    found @ SearchResult::Example(_) => return Ok(found),
                }
            }
        }
        Ok(unknown.map_or(SearchResult::Nothing, SearchResult::Unknown))
    }

    fn error_of(&self, number: Number, environment: &Environment<'_>, prover: &mut Prover) -> Result<SearchResult, NoSolver> {
        let clause = match self.system.clause(number) {
            Ok(clause) => clause,
            Err(reason) => return Ok(SearchResult::Unknown(reason)),
        };
        // what is neither true nor false is an error
        let question = SolverQuestion {
            all: self.asked(environment),
            any: Vec::new(),
            none: vec![clause.when.clone(), clause.when.clone().not()],
        };
        let env = match prover.ask(environment, &question)? {
            SolverAnswer::No => return Ok(SearchResult::Nothing),
            SolverAnswer::Unknown(reason) => return Ok(SearchResult::Unknown(reason)),
            SolverAnswer::Example(env) => env,
        };
        let raw = Example::new(&env.request, &env.entities);
        let real = raw.and_then(|raw| raw.realistic(environment, &self.facts));
        let Some(example) = real.filter(|example| self.region.contains(example)) else {
            return Ok(SearchResult::Unknown(
                "the solver's example is no request of the scope".to_owned(),
            ));
        };
        let evaluation = example.decide(self.system, Effects::Both);
        let id = self.system.id(number);
        match evaluation.errors.iter().any(|error| &*error.policy == id) {
            true => Ok(SearchResult::Example(Box::new(example.decided(evaluation, None)))),
            false => Ok(SearchResult::Unknown(format!(
                "the solver's example does not make `{id}` fail"
            ))),
        }
    }
}
