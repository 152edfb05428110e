//! The proof of one portal, in the terms of a report.

use cedargate_policy::revision::Revision;
use serde_json::Value;

use crate::prove::{NoSolver, ProofFinding, ProofSubject, Prover, SearchResult, reasons, widening};

/// What a proof covers, for every report.
pub(super) const COVERS: &str =
    "A proof covers the policies, with any entities. It does not cover changes of entities, routes, public paths and claims.";

/// The proof of one portal.
pub(super) struct Proof {
    /// Combinations of principal, action and resource that the schema allows.
    pub kinds: usize,
    pub questions: usize,
    /// Every combination that is not proved.
    pub unproved: Vec<Unproved>,
}

/// A combination that is not proved.
pub(super) struct Unproved {
    pub kind: String,
    /// The part of decisions that it is about; empty: whole decisions.
    pub about: &'static str,
    pub outcome: ProofOutcome,
}

pub(super) enum ProofOutcome {
    /// A request that NEW allows and OLD denies.
    Widened(Box<Request>),
    /// With the reason.
    Unknown(String),
}

/// A request that shows a difference.
pub(super) struct Request {
    pub principal: String,
    pub action: String,
    pub resource: String,
    pub context: Value,
    /// The entities that say something: Cedar's JSON.
    pub entities: Vec<Value>,
    pub old: String,
    pub new: String,
}

/// Combinations that one cause leaves unproved.
pub(super) struct UnprovedGroup<'p> {
    pub first: &'p Unproved,
    pub others: Vec<&'p Unproved>,
}

impl Proof {
    /// The unproved combinations by their cause: the widened ones first.
    pub fn groups(&self) -> Vec<UnprovedGroup<'_>> {
        let mut groups: Vec<UnprovedGroup<'_>> = Vec::new();
        let is_widened = |unproved: &&Unproved| matches!(unproved.outcome, ProofOutcome::Widened(_));
        let (widened, unknown): (Vec<_>, Vec<_>) = self.unproved.iter().partition(is_widened);
        for unproved in widened.into_iter().chain(unknown) {
            match groups.iter_mut().find(|group| group.first.cause() == unproved.cause()) {
                Some(group) => group.others.push(unproved),
                None => groups.push(UnprovedGroup {
                    first: unproved,
                    others: Vec::new(),
                }),
            }
        }
        groups
    }

    pub fn of(slug: &str, old: &Revision, new: &Revision, prover: &mut Prover) -> Result<Self, NoSolver> {
        let before = prover.asked;
        let widening = widening(slug, old, new, prover)?;
        Ok(Self {
            kinds: widening.kinds,
            questions: prover.asked - before,
            unproved: widening.findings.iter().filter_map(Unproved::of).collect(),
        })
    }

    pub fn is_proved(&self) -> bool {
        self.unproved.is_empty()
    }
}

impl Unproved {
    /// What combinations of one cause have in common.
    fn cause(&self) -> [&str; 3] {
        match &self.outcome {
            ProofOutcome::Widened(request) => [self.about, &request.old, &request.new],
            ProofOutcome::Unknown(reason) => [self.about, reason, ""],
        }
    }

    fn of(finding: &ProofFinding) -> Option<Self> {
        Some(Self {
            kind: finding.kind.to_string(),
            about: about(finding.about),
            outcome: match &finding.found {
                SearchResult::Nothing => return None,
                SearchResult::Unknown(reason) => ProofOutcome::Unknown(reason.clone()),
                SearchResult::Example(example) => ProofOutcome::Widened(Box::new(Request {
                    principal: example.principal.to_string(),
                    action: example.action.to_string(),
                    resource: example.resource.to_string(),
                    context: example.context.clone(),
                    entities: example.described(),
                    old: example
                        .outer
                        .as_ref()
                        .map_or_else(|| "the schema does not allow such a request".to_owned(), reasons),
                    new: example.inner.as_ref().map(reasons).unwrap_or_default(),
                })),
            },
        })
    }
}

fn about(about: ProofSubject) -> &'static str {
    match about {
        ProofSubject::Decisions => "",
        ProofSubject::Undescribed => "the resource has no entry in the entities",
        ProofSubject::Forbids => "forbids alone: they decide for public paths, and for the plain path of a routed request",
    }
}
