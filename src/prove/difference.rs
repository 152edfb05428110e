//! Searches a request that one system allows and another denies, in one request environment.
//!
//! Two sets of ten thousand policies are too much for a solver, and most of them are the same on both sides. So the
//! search asks about few policies at a time, and adds others only when an example shows that they matter
//! (docs/decisions/0060). Let *inner* be the system that must not allow more, *outer* the other one. A request that
//! inner allows and outer denies satisfies no forbid of inner, so no forbid that both have; therefore
//!
//! 1. either no permit of outer is satisfied. Then the satisfied permit of inner is one that outer lacks: a question
//!    for each of these;
//! 2. or a forbid that inner lacks denies in outer: a question for each of these.
//!
//! A question leaves out conditions, so *no such request* holds for the whole systems, too. An example is decided by
//! the whole systems: if they contradict it, the policies that did join the question. Only what the whole systems
//! confirm is reported.

use std::collections::BTreeSet;

use cedar_policy::Effect;
use cedar_policy_symcc::Env;
use cedargate_policy::engine::{Effects, Evaluation, EvaluationOutcome};

use super::clause::Expression;
use super::contradiction::{Fact, World};
use super::example::{Example, Region};
use super::facts::ProofFacts;
use super::groups::{Group, groups};
use super::question::{Environment, Prover, SolverAnswer, SolverQuestion};
use super::solver::NoSolver;
use super::system::{Action, Number, System};

/// Examples that may be contradicted before the search gives up on one policy.
const ROUNDS_MAX: usize = 100;
/// Permits that join a question at once, of those that an example satisfies.
const JOIN_MAX: usize = 8;
/// Permits of which one must be satisfied, in the first questions: nearly any permit gives an example, if there is one.
const CHUNK_FIRST: usize = 1;
/// The same in later questions. The solver's time grows with the square.
const CHUNK_MAX: usize = 8;

/// Permits that are asked before groups are made: nearly any permit gives an example, if there is one.
const FIRST: usize = 15;
/// Permits that a common condition must have: fewer are asked themselves.
const GROUP_MIN: usize = 2 * CHUNK_MAX;
/// Groups in a row that excluded nothing before the rest of the permits is asked.
const GROUPS_IN_VAIN_MAX: usize = 24;

/// The result of a search.
#[derive(Debug)]
pub(crate) enum SearchResult {
    /// There is no such request.
    Nothing,
    Example(Box<Example>),
    /// With the reason.
    Unknown(String),
}

/// One search.
pub(super) struct Search<'a> {
    pub environment: &'a Environment<'a>,
    pub action: Action<'a>,
    pub inner: &'a System<'a>,
    /// `None`: it denies every request of the environment.
    pub outer: Option<&'a System<'a>>,
    /// The policies of inner that outer lacks, and the other way round.
    pub inner_only: &'a [Number],
    pub outer_only: &'a [Number],
    /// The requests that are looked at; `None`: all.
    pub region: Option<&'a Region>,
    pub facts: &'a ProofFacts<'a>,
}

/// The policies that a question knows.
#[derive(Default)]
struct PolicySelection {
    /// Forbids of inner, which do not hold.
    forbids: BTreeSet<Number>,
    /// Permits of outer, which are not satisfied.
    permits: BTreeSet<Number>,
}

/// The part of a question that its slice does not change.
#[derive(Clone, Copy)]
struct Core<'c> {
    /// Permits of inner of which one is satisfied.
    permits: &'c [Number],
    /// Permits of inner whose common condition is true.
    group: Option<&'c Group>,
    /// A forbid of outer that denies; `None`: no permit of outer is satisfied.
    forbid: Option<Number>,
    /// The part of the policies that decides.
    effects: Effects,
}

impl Default for Core<'_> {
    fn default() -> Self {
        Self {
            permits: &[],
            group: None,
            forbid: None,
            effects: Effects::Both,
        }
    }
}

/// The permits that are left to ask about, unless an example came up.
enum Remaining {
    Permits(Vec<Number>),
    Example(Box<Example>),
}

/// The results of several searches of which none found an example.
#[derive(Default)]
struct Gathered {
    unknown: Option<String>,
}

/// The outcome of one example.
enum ExampleOutcome {
    Confirmed(Box<Example>),
    /// Policies joined the slice.
    Contradicted,
    /// No permit of inner is satisfied, and the question demanded none.
    Unpermitted,
    /// No policy that could join contradicts it.
    Stuck,
}

impl Search<'_> {
    /// A request that inner allows and outer denies.
    pub fn run(&self, prover: &mut Prover) -> Result<SearchResult, NoSolver> {
        let mut gathered = Gathered::default();
        let permits: Vec<Number> = self.changed(self.inner, self.inner_only, Effect::Permit).collect();
        let permits = self.not_excluded(&self.facts_of_region(), permits);
        let Some(outer) = self.outer else {
            let core = Core::default();
            return self.effective(&core, &mut PolicySelection::default(), &permits, prover);
        };
        // one policy at a time says which policy does it
        for permit in permits.chunks(1) {
            if let Some(found) = gathered.keep(self.new_permits(permit, prover)?) {
                return Ok(found);
            }
        }
        for forbid in self.changed(outer, self.outer_only, Effect::Forbid) {
            if let Some(found) = gathered.keep(self.lost_forbid(forbid, prover)?) {
                return Ok(found);
            }
        }
        Ok(gathered.result())
    }

    /// A request that outer forbids and inner does not; permits make no difference.
    pub fn run_forbids(&self, prover: &mut Prover) -> Result<SearchResult, NoSolver> {
        let mut gathered = Gathered::default();
        let Some(outer) = self.outer else {
            return Ok(SearchResult::Nothing);
        };
        for forbid in self.changed(outer, self.outer_only, Effect::Forbid) {
            let core = Core {
                forbid: Some(forbid),
                effects: Effects::Forbids,
                ..Core::default()
            };
            let found = match self.refine(&core, &mut PolicySelection::default(), prover)? {
                Refined::Unpermitted => SearchResult::Nothing,
                Refined::Found(found) => found,
            };
            if let Some(found) = gathered.keep(found) {
                return Ok(found);
            }
        }
        Ok(gathered.result())
    }

    fn changed<'s>(&'s self, system: &'s System<'_>, numbers: &'s [Number], effect: Effect) -> impl Iterator<Item = Number> + 's {
        let is_covered = move |number: &Number| {
            let entry = system.entry(*number);
            entry.is_some_and(|entry| entry.info.effect == effect) && system.covers(*number, &self.action)
        };
        numbers.iter().copied().filter(is_covered)
    }

    fn new_permits(&self, permits: &[Number], prover: &mut Prover) -> Result<SearchResult, NoSolver> {
        let mut slice = PolicySelection::default();
        // the former text of a changed policy is the one that matters most
        let former = self.outer.iter().flat_map(|outer| {
            let numbers = permits.iter().filter_map(|permit| outer.number(self.inner.id(*permit)));
            numbers.filter(|number| outer.entry(*number).is_some_and(|entry| entry.info.effect == Effect::Permit))
        });
        slice.permits.extend(former);
        let core = Core {
            permits,
            ..Core::default()
        };
        self.refine(&core, &mut slice, prover).map(Refined::of_permitted)
    }

    /// Without permits first: that is enough if another forbid took over. Else some permits at a time.
    fn lost_forbid(&self, forbid: Number, prover: &mut Prover) -> Result<SearchResult, NoSolver> {
        let mut slice = PolicySelection::default();
        let core = Core {
            forbid: Some(forbid),
            ..Core::default()
        };
        match self.refine(&core, &mut slice, prover)? {
            Refined::Found(found @ (SearchResult::Nothing | SearchResult::Example(_))) => return Ok(found),
            Refined::Found(SearchResult::Unknown(_)) | Refined::Unpermitted => {}
        }
        let mut facts = self.facts_of_region();
        facts.extend(
            self.outer
                .iter()
                .flat_map(|outer| outer.clause(forbid).map_or_else(|_| Vec::new(), Fact::of_denying)),
        );
        let permits = self.not_excluded(&facts, self.inner.covering(Effect::Permit, &self.action));
        self.effective(&core, &mut slice, &permits, prover)
    }

    /// A request of the question that one of the permits allows.
    fn effective(
        &self,
        core: &Core<'_>,
        slice: &mut PolicySelection,
        permits: &[Number],
        prover: &mut Prover,
    ) -> Result<SearchResult, NoSolver> {
        let mut gathered = Gathered::default();
        let (first, others) = permits.split_at(FIRST.min(permits.len()));
        if let Some(found) = self.effective_of(core, slice, first, &mut gathered, prover)? {
            return Ok(found);
        }
        let others = match self.without_excluded_groups(core, slice, others, prover)? {
            Remaining::Example(example) => return Ok(SearchResult::Example(example)),
            Remaining::Permits(others) => others,
        };
        let found = self.effective_of(core, slice, &others, &mut gathered, prover)?;
        Ok(found.unwrap_or_else(|| gathered.result()))
    }

    /// Some permits at a time.
    fn effective_of(
        &self,
        core: &Core<'_>,
        slice: &mut PolicySelection,
        permits: &[Number],
        gathered: &mut Gathered,
        prover: &mut Prover,
    ) -> Result<Option<SearchResult>, NoSolver> {
        for permits in chunks(permits) {
            let core = Core { permits, ..*core };
            let found = self.refine(&core, slice, prover)?.of_permitted();
            if let Some(found) = gathered.keep(found) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Many permits share a condition: if no request of the question has it, one answer is enough for all of them.
    fn without_excluded_groups(
        &self,
        core: &Core<'_>,
        slice: &mut PolicySelection,
        permits: &[Number],
        prover: &mut Prover,
    ) -> Result<Remaining, NoSolver> {
        let mut remaining: BTreeSet<Number> = permits.iter().copied().collect();
        let mut in_vain = 0;
        for group in groups(self.inner, permits) {
            let members = group.members.iter().filter(|member| remaining.contains(member));
            if in_vain == GROUPS_IN_VAIN_MAX || members.count() < GROUP_MIN {
                continue;
            }
            let core = Core {
                group: Some(&group),
                ..*core
            };
            match self.refine(&core, slice, prover)? {
                Refined::Found(SearchResult::Nothing) => {
                    remaining.retain(|number| !group.members.contains(number));
                    in_vain = 0;
                }
                Refined::Found(SearchResult::Example(example)) => return Ok(Remaining::Example(example)),
                Refined::Found(SearchResult::Unknown(_)) | Refined::Unpermitted => in_vain += 1,
            }
        }
        Ok(Remaining::Permits(remaining.into_iter().collect()))
    }

    fn facts_of_region(&self) -> Vec<Fact> {
        self.region
            .map_or_else(Vec::new, |region| Fact::of_satisfied(&region.expression))
    }

    /// The permits that a request with these facts may satisfy, as far as their texts say.
    fn not_excluded(&self, facts: &[Fact], permits: impl IntoIterator<Item = Number>) -> Vec<Number> {
        let world = World {
            env: self.environment.env,
            facts: self.facts,
        };
        let may_hold = |number: &Number| {
            let clause = self.inner.clause(*number);
            clause.map_or(true, |clause| world.may_hold(facts, &Fact::of_satisfied(&clause.when)))
        };
        permits.into_iter().filter(may_hold).collect()
    }

    /// Asks, and lets policies join, until there is no example, or one that the whole systems confirm.
    fn refine(&self, core: &Core<'_>, slice: &mut PolicySelection, prover: &mut Prover) -> Result<Refined, NoSolver> {
        let unknown = |reason: String| Ok(Refined::Found(SearchResult::Unknown(reason)));
        for _ in 0..ROUNDS_MAX {
            let question = match self.question(core, slice) {
                Ok(question) => question,
                Err(reason) => return unknown(reason),
            };
            match prover.ask(self.environment, &question)? {
                SolverAnswer::No => return Ok(Refined::Found(SearchResult::Nothing)),
                SolverAnswer::Unknown(reason) => return unknown(reason),
                SolverAnswer::Example(env) => match self.judge(core, slice, &env) {
                    ExampleOutcome::Confirmed(example) => return Ok(Refined::Found(SearchResult::Example(example))),
                    ExampleOutcome::Contradicted => {}
                    ExampleOutcome::Unpermitted => return Ok(Refined::Unpermitted),
                    ExampleOutcome::Stuck => return unknown(UNCONFIRMED.to_owned()),
                },
            }
        }
        unknown(format!("{ROUNDS_MAX} examples in a row were none"))
    }

    fn question(&self, core: &Core<'_>, slice: &PolicySelection) -> Result<SolverQuestion, String> {
        let mut question = SolverQuestion::default();
        let mut literals = BTreeSet::new();
        question.all.extend(self.region.map(|region| region.expression.clone()));
        literals.extend(self.region.into_iter().flat_map(|region| region.literals.iter().cloned()));
        if let Some(group) = core.group {
            question.all.push(group.condition.clone());
            literals.extend(group.literals.iter().cloned());
        }
        for number in core.permits {
            let clause = self.inner.clause(*number)?;
            question.any.push(clause.when.clone());
            literals.extend(clause.literals.iter().cloned());
        }
        for number in &slice.forbids {
            let clause = self.inner.clause(*number)?;
            literals.extend(clause.literals.iter().cloned());
            question.forbid_passes(clause);
        }
        if let Some(outer) = self.outer {
            for number in &slice.permits {
                let clause = outer.clause(*number)?;
                literals.extend(clause.literals.iter().cloned());
                question.none.push(clause.when.clone());
            }
            if let Some(forbid) = core.forbid {
                let clause = outer.clause(forbid)?;
                literals.extend(clause.literals.iter().cloned());
                question.forbid_denies(clause);
            }
        }
        let mut facts: Vec<Expression> = self.facts.of_context(&self.action.uid).into_iter().collect();
        if self.facts.is_path(self.environment.env.resource()) {
            facts.extend(self.facts.of_path(&literals));
        }
        question.all.splice(0..0, facts);
        Ok(question)
    }

    /// Decides the example by the whole systems: as the gate can meet it, then as the solver gave it. An impossible one
    /// confirms nothing; it only tells which policies matter.
    fn judge(&self, core: &Core<'_>, slice: &mut PolicySelection, env: &Env) -> ExampleOutcome {
        let raw = Example::new(&env.request, &env.entities);
        let real = raw.as_ref().and_then(|raw| raw.realistic(self.environment, self.facts));
        let mut outcome = ExampleOutcome::Stuck;
        for (is_possible, example) in real
            .map(|example| (true, example))
            .into_iter()
            .chain(raw.map(|raw| (false, raw)))
        {
            let inner = example.decide(self.inner, core.effects);
            let outer = self.outer.map(|outer| example.decide(outer, core.effects));
            let is_allowed = !denies(&inner, core.effects);
            let is_denied = outer.as_ref().is_none_or(|outer| denies(outer, core.effects));
            let is_in_region = self.region.is_none_or(|region| region.contains(&example));
            if is_possible && is_in_region && is_allowed && is_denied {
                return ExampleOutcome::Confirmed(Box::new(example.decided(inner, outer)));
            }
            if self.join(core, slice, &inner, outer.as_ref()) {
                return ExampleOutcome::Contradicted;
            }
            if inner.outcome == EvaluationOutcome::NotPermitted && core.permits.is_empty() {
                outcome = ExampleOutcome::Unpermitted;
            }
        }
        outcome
    }

    /// Adds what contradicts the example; false if nothing new does.
    fn join(&self, core: &Core<'_>, slice: &mut PolicySelection, inner: &Evaluation, outer: Option<&Evaluation>) -> bool {
        let before = slice.forbids.len() + slice.permits.len();
        if inner.outcome == EvaluationOutcome::Forbidden {
            let forbids = inner.policies.iter().filter_map(|info| self.inner.number(&info.id));
            slice.forbids.extend(forbids);
        }
        if inner.outcome == EvaluationOutcome::EvaluationError {
            let failed = inner.errors.iter().filter_map(|error| self.inner.number(&error.policy));
            let is_forbid = |number: &Number| {
                self.inner
                    .entry(*number)
                    .is_some_and(|entry| entry.info.effect == Effect::Forbid)
            };
            slice.forbids.extend(failed.filter(is_forbid));
        }
        if let Some((outer, system)) = outer.zip(self.outer).filter(|_| core.forbid.is_none())
            && outer.outcome == EvaluationOutcome::Allow
        {
            let permits = outer.policies.iter().filter_map(|info| system.number(&info.id));
            let new: Vec<Number> = permits.filter(|number| !slice.permits.contains(number)).collect();
            slice.permits.extend(new.into_iter().take(JOIN_MAX));
        }
        slice.forbids.len() + slice.permits.len() > before
    }
}

const UNCONFIRMED: &str = "the solver's example is no request that the policies decide so";

/// Small chunks first.
fn chunks(numbers: &[Number]) -> Vec<&[Number]> {
    let mut rest = numbers;
    let mut chunks = Vec::new();
    let mut size = CHUNK_FIRST;
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at(size.min(rest.len()));
        chunks.push(chunk);
        rest = more;
        size = (size * 2).min(CHUNK_MAX);
    }
    chunks
}

/// The result of asking until policies agree.
enum Refined {
    Found(SearchResult),
    Unpermitted,
}

impl Refined {
    /// The result of a question that demands a permit.
    fn of_permitted(self) -> SearchResult {
        match self {
            Self::Found(found) => found,
            Self::Unpermitted => SearchResult::Unknown(UNCONFIRMED.to_owned()),
        }
    }
}

impl Gathered {
    /// Returns an example, which ends the search, and keeps the first reason why something is not known.
    fn keep(&mut self, found: SearchResult) -> Option<SearchResult> {
        match found {
            SearchResult::Unknown(reason) => {
                self.unknown.get_or_insert(reason);
                None
            }
            SearchResult::Nothing => None,
            found @ SearchResult::Example(_) => Some(found),
        }
    }

    fn result(self) -> SearchResult {
        self.unknown.map_or(SearchResult::Nothing, SearchResult::Unknown)
    }
}

/// Without permits, only a forbid denies.
fn denies(evaluation: &Evaluation, effects: Effects) -> bool {
    match effects {
        Effects::Both => evaluation.outcome != EvaluationOutcome::Allow,
        Effects::Forbids => evaluation.is_forbidden(),
    }
}
