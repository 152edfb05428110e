//! The outcome of evaluating policies, and the denial that it amounts to.

use std::sync::Arc;

use super::{Evaluation, EvaluationOutcome, PolicyError};
use crate::denial::{Denial, Refusal};

impl Evaluation {
    /// The denial that this evaluation amounts to; `None` if it allows.
    pub fn denial(&self) -> Option<Denial> {
        match self.outcome {
            EvaluationOutcome::Allow => None,
            EvaluationOutcome::NotPermitted if self.step_up().is_some() => Some(Denial::StepUpRequired),
            EvaluationOutcome::NotPermitted => Some(Denial::NotPermitted),
            EvaluationOutcome::Forbidden if self.step_up().is_some() => Some(Denial::StepUpRequired),
            EvaluationOutcome::Forbidden => Some(Denial::Forbidden),
            EvaluationOutcome::EvaluationError => Some(Denial::EvaluationError),
            EvaluationOutcome::NothingLoaded => Some(Denial::NoPolicyLoaded),
        }
    }

    /// True if a forbid denied, or counts as denying because it could not be evaluated. The one answer of an evaluation
    /// in which only the forbids count.
    pub fn is_forbidden(&self) -> bool {
        match self.outcome {
            EvaluationOutcome::Forbidden | EvaluationOutcome::EvaluationError => true,
            EvaluationOutcome::Allow | EvaluationOutcome::NotPermitted | EvaluationOutcome::NothingLoaded => false,
        }
    }

    /// The `acr` that would change the decision: only if every deciding forbid, or the advising permit, names one.
    fn step_up(&self) -> Option<&str> {
        match self.outcome {
            EvaluationOutcome::Forbidden => {
                let all = self.policies.iter().all(|p| p.annotation("step_up").is_some());
                self.policies.first().filter(|_| all)?.annotation("step_up")
            }
            EvaluationOutcome::NotPermitted => self.advising_permit.as_ref()?.annotation("step_up"),
            EvaluationOutcome::Allow | EvaluationOutcome::EvaluationError | EvaluationOutcome::NothingLoaded => None,
        }
    }

    fn advice(&self) -> Option<String> {
        let policies = self.policies.iter().chain(&self.advising_permit);
        policies.filter_map(|p| p.annotation("advice")).next().map(str::to_owned)
    }

    /// The refusal for the caller and the log; `None` if the evaluation allows.
    pub fn refusal(&self) -> Option<Refusal> {
        let denial = self.denial()?;
        let deciding: Vec<&str> = self.policies.iter().map(|p| &*p.id).collect();
        let errors: Vec<&str> = self.errors.iter().map(|e| e.message.as_str()).collect();
        let detail = match (deciding.as_slice(), errors.as_slice()) {
            ([], []) => "no permit matched".to_owned(),
            ([], errors) => errors.join("; "),
            (ids, _) => format!("decided by {}", ids.join(", ")),
        };
        let mut refusal = Refusal::new(denial, detail);
        refusal.advice = self.advice();
        refusal.step_up = self.step_up().map(Box::from);
        Some(refusal)
    }
}

impl Evaluation {
    /// No revision was ever loaded.
    pub fn unloaded() -> Self {
        Self {
            outcome: EvaluationOutcome::NothingLoaded,
            policies: Vec::new(),
            errors: Vec::new(),
            advising_permit: None,
        }
    }

    /// Cedar could not evaluate the query.
    pub fn failed(message: String) -> Self {
        Self::failed_by(PolicyError {
            policy: Arc::from(""),
            message,
        })
    }

    pub(super) fn failed_by(error: PolicyError) -> Self {
        Self {
            outcome: EvaluationOutcome::EvaluationError,
            policies: Vec::new(),
            errors: vec![error],
            advising_permit: None,
        }
    }
}
