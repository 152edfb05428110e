//! One question to the solver: is there a request for which these conditions are true, and those are not?
//!
//! A question is two sets of Cedar policies: the first allows exactly the requests that are sought, as far as they must
//! satisfy something, the second those that are not sought. Cedar's own symbolic compiler asks whether the first allows
//! more.

use std::time::{Duration, Instant};

use cedar_policy::{Effect, Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::err::{Error, SolverError};
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet, Env, SymEnv};
use cedargate_policy::engine::ErroredForbids;
use tokio::runtime::Runtime;

use super::clause::{Clause, Described, Expression};
use super::solver::{Cvc5, NoSolver};

/// The time of one question.
const QUESTION_TIME: Duration = Duration::from_secs(20);

/// Asks questions, one after the other.
pub(crate) struct Prover {
    runtime: Runtime,
    /// `None` before the first question, and after one that failed: its answer might come later.
    compiler: Option<CedarSymCompiler<Cvc5>>,
    deadline: Instant,
    /// Questions that were asked.
    pub asked: usize,
}

/// The requests that a question is about.
pub(super) struct Environment<'a> {
    pub schema: &'a Schema,
    pub env: &'a RequestEnv,
    symbols: SymEnv,
    pub described: Described,
}

/// A question.
#[derive(Clone, Debug, Default)]
pub(super) struct SolverQuestion {
    /// All are true.
    pub all: Vec<Expression>,
    /// At least one is true; empty: no matter.
    pub any: Vec<Expression>,
    /// None is true. Errors count as not true, here as everywhere.
    pub none: Vec<Expression>,
}

impl SolverQuestion {
    /// Asks for requests that this forbid does not deny. `all` holds only what is true without an error, `none` also
    /// what fails: whether an error of the forbid denies decides which of them is right.
    pub fn forbid_passes(&mut self, forbid: &Clause) {
        match forbid.errored {
            ErroredForbids::Deny => self.all.push(forbid.when.clone().not()),
            ErroredForbids::Skip => self.none.push(forbid.when.clone()),
        }
    }

    /// Asks for requests that this forbid denies.
    pub fn forbid_denies(&mut self, forbid: &Clause) {
        match forbid.errored {
            ErroredForbids::Deny => self.none.push(forbid.when.clone().not()),
            ErroredForbids::Skip => self.all.push(forbid.when.clone()),
        }
    }
}

pub(super) enum SolverAnswer {
    /// There is no such request.
    No,
    Example(Box<Env>),
    /// With the reason.
    Unknown(String),
}

impl<'a> Environment<'a> {
    pub fn new(schema: &'a Schema, env: &'a RequestEnv, described: Described) -> Result<Self, String> {
        Ok(Self {
            schema,
            env,
            symbols: SymEnv::new(schema, env).map_err(|error| said(&error))?,
            described,
        })
    }

    fn compiled(&self, policies: impl IntoIterator<Item = Expression>) -> Result<CompiledPolicySet, String> {
        let policies = policies.into_iter().enumerate();
        let policies: Option<Vec<Policy>> = policies
            .map(|(number, expression)| expression.policy(number, Effect::Permit, self.described))
            .collect();
        let policies = policies.ok_or("a condition has no form that Cedar reads back")?;
        let set = PolicySet::from_policies(policies).map_err(|error| error.to_string())?;
        let symbols = self.symbols.clone();
        CompiledPolicySet::compile_with_custom_symenv(&set, self.env, self.schema, symbols).map_err(|error| said(&error))
    }
}

impl Prover {
    /// All questions together take no longer than `time`.
    pub(crate) fn new(time: Duration) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            runtime: runtime.map_err(|error| format!("cannot start a runtime: {error}"))?,
            compiler: None,
            deadline: Instant::now() + time,
            asked: 0,
        })
    }

    pub(super) fn ask(&mut self, environment: &Environment<'_>, question: &SolverQuestion) -> Result<SolverAnswer, NoSolver> {
        let compiled = compiled(environment, question);
        let (sought, unsought) = match compiled {
            Ok(compiled) => compiled,
            Err(reason) => return Ok(SolverAnswer::Unknown(reason)),
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(SolverAnswer::Unknown("the time for proofs is over".to_owned()));
        }
        let _in_runtime = self.runtime.enter();
        let mut compiler = match self.compiler.take() {
            Some(compiler) => compiler,
            None => match CedarSymCompiler::new(Cvc5::start()?) {
                Ok(compiler) => compiler,
                Err(error) => return Ok(SolverAnswer::Unknown(said(&error))),
            },
        };
        self.asked += 1;
        let answer = compiler.check_implies_with_counterexample_opt(&sought, &unsought);
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(left.min(QUESTION_TIME), Box::pin(answer)).await });
        Ok(match answer {
            Ok(Ok(None)) => {
                self.compiler = Some(compiler);
                SolverAnswer::No
            }
            Ok(Ok(Some(example))) => {
                self.compiler = Some(compiler);
                SolverAnswer::Example(Box::new(example))
            }
            Ok(Err(Error::SolverUnknown)) => SolverAnswer::Unknown("the solver gave up".to_owned()),
            Ok(Err(error)) => SolverAnswer::Unknown(said(&error)),
            Err(_elapsed) => SolverAnswer::Unknown("the solver took too long".to_owned()),
        })
    }
}

fn compiled(environment: &Environment<'_>, question: &SolverQuestion) -> Result<(CompiledPolicySet, CompiledPolicySet), String> {
    let sought = |one: Option<&Expression>| Expression::all(question.all.iter().chain(one).cloned().collect());
    let alternatives = match question.any.as_slice() {
        [] => vec![sought(None)],
        any => any.iter().map(|one| sought(Some(one))).collect(),
    };
    let sought = environment.compiled(alternatives)?;
    let unsought = environment.compiled(question.none.iter().cloned())?;
    Ok((sought, unsought))
}

/// The error with its causes, for people.
fn said(error: &Error) -> String {
    match error {
        Error::SolverError(SolverError::Io(error)) => format!("the solver cannot be reached: {error}"),
        Error::SolverError(SolverError::UnrecognizedSolverOutput(output)) => {
            format!("the solver answered something else: {output:?}")
        }
        Error::EncodeError(error) => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            format!("the solver cannot be asked: {}", cause.unwrap_or_else(|| error.to_string()))
        }
        Error::PolicyNotWellTyped { errs } => {
            let first = errs.first().map(ToString::to_string).unwrap_or_default();
            format!("a policy does not fit the schema: {first}")
        }
        error => error.to_string(),
    }
}
