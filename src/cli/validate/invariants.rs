//! `validate --prove`: each statement of `invariants.yaml`, proved or broken by a request.

use cedargate_policy::load::invariants::{self, Claim, Invariant};
use cedargate_policy::revision::problem::Problem;
use serde_json::{Value, json};

use crate::cli::Paint;
use crate::cli::report::{Finding, Severity, cedar};
use crate::cli::tree::PortalLoad;
use crate::prove::{self, Example, NoSolver, ProofSubject, Prover, SearchResult, check, reasons};

/// Rule of every finding of a proof.
const RULE: &str = "invariant";

/// The proofs of one portal.
pub(super) struct Proofs {
    portal: String,
    /// False if the portal does not load: then nothing was looked at.
    is_loaded: bool,
    results: Vec<Proved>,
}

struct Proved {
    name: String,
    outcome: InvariantOutcome,
    finding: Option<Finding>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum InvariantOutcome {
    Holds,
    Broken,
    Unknown,
}

impl Proofs {
    /// Proves every invariant of a portal; none of a portal that does not load.
    pub fn of(load: &PortalLoad<'_>, prover: &mut Prover) -> Result<Self, NoSolver> {
        let portal = load.portal.slug.as_str();
        let mut results = Vec::new();
        if let Some(revision) = &load.revision {
            for invariant in invariants::of(&load.portal.slug, revision) {
                let checked = check(portal, revision, &invariant, prover)?;
                results.push(Proved::of(&invariant, &checked, portal));
            }
        }
        Ok(Self {
            portal: portal.to_owned(),
            is_loaded: load.revision.is_some(),
            results,
        })
    }

    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.results.iter().filter_map(|proved| proved.finding.as_ref())
    }

    /// True if each statement is proved.
    pub fn hold(&self) -> bool {
        self.results.iter().all(|proved| proved.outcome == InvariantOutcome::Holds)
    }

    pub fn headline(&self, paint: Paint) -> String {
        let count = |outcome| self.results.iter().filter(|proved| proved.outcome == outcome).count();
        let portal = &self.portal;
        let noun = |count: usize| if count == 1 { "invariant" } else { "invariants" };
        if !self.is_loaded {
            return format!(
                "{} {portal}: its invariants, because it does not load\n",
                paint.red("not proved")
            );
        }
        match (
            self.results.len(),
            count(InvariantOutcome::Broken),
            count(InvariantOutcome::Unknown),
        ) {
            (0, ..) => format!("{} {portal}: no invariants\n", paint.dim("-")),
            (all, 0, 0) => format!("{} {portal}: {all} {}\n", paint.green("proved"), noun(all)),
            (all, broken, unknown) => format!(
                "{} {portal}: of {all} {}, {broken} broken and {unknown} unknown\n",
                paint.red("not proved"),
                noun(all)
            ),
        }
    }

    pub fn as_json(&self) -> impl Iterator<Item = Value> {
        self.results.iter().map(|proved| {
            let result = match proved.outcome {
                InvariantOutcome::Holds => "proved",
                InvariantOutcome::Broken => "broken",
                InvariantOutcome::Unknown => "unknown",
            };
            json!({"portal": self.portal, "name": proved.name, "result": result})
        })
    }
}

impl Proved {
    fn of(invariant: &Invariant, checked: &prove::CheckedStatement, portal: &str) -> Self {
        let name = &invariant.name;
        let example = checked.findings.iter().find_map(|finding| match &finding.found {
            SearchResult::Example(example) => Some((finding, example)),
            SearchResult::Nothing | SearchResult::Unknown(_) => None,
        });
        let unknown = checked.findings.iter().find_map(|finding| match &finding.found {
            SearchResult::Unknown(reason) => Some((finding, reason)),
            SearchResult::Nothing | SearchResult::Example(_) => None,
        });
        let why = invariant
            .why
            .as_deref()
            .map(|why| format!("; why it must hold: {}", why.trim()));
        let (outcome, severity, message, help) = match (example, unknown) {
            (Some((finding, example)), _) => {
                let more = match checked.findings.len() - 1 {
                    0 => String::new(),
                    1 => "; one more kind of requests is not proved".to_owned(),
                    more => format!("; {more} more kinds of requests are not proved"),
                };
                let message = format!("invariant `{name}` is broken: {}{more}", broken(invariant.claim, example));
                let about = match finding.about {
                    ProofSubject::Undescribed => ", about a resource without an entry in the entities",
                    ProofSubject::Decisions | ProofSubject::Forbids => "",
                };
                let help = format!("the request{about}: {}", request(example));
                (InvariantOutcome::Broken, Severity::Error, message, help)
            }
            (None, Some((finding, reason))) => {
                let message = format!("invariant `{name}` is unknown: {}: {reason}", finding.kind);
                let help =
                    "what is unknown is not safe: make the policies or the statement simpler, or give --prove-timeout more"
                        .to_owned();
                (InvariantOutcome::Unknown, Severity::Error, message, help)
            }
            (None, None) if checked.is_empty => {
                let message = format!("invariant `{name}` says nothing: no request is in its scope");
                (
                    InvariantOutcome::Holds,
                    Severity::Warning,
                    message,
                    "correct the scope, or remove it".to_owned(),
                )
            }
            (None, None) => {
                return Self {
                    name: name.clone(),
                    outcome: InvariantOutcome::Holds,
                    finding: None,
                };
            }
        };
        let problem = Problem {
            message,
            ..invariant.place.clone()
        };
        let problem = problem.with_help(format!("{help}{}", why.unwrap_or_default()));
        Self {
            name: name.clone(),
            outcome,
            finding: Some(Finding {
                rule: RULE,
                ..Finding::from_problem(&problem, severity, portal)
            }),
        }
    }
}

/// The request that breaks the claim, as a sentence.
fn broken(claim: Claim, example: &Example) -> String {
    let Example {
        principal,
        action,
        resource,
        inner,
        outer,
        ..
    } = example;
    let said = |evaluation: &Option<_>| evaluation.as_ref().map(reasons).unwrap_or_default();
    match claim {
        Claim::NeverErrors => {
            let error = inner.as_ref().and_then(|evaluation| evaluation.errors.first());
            let error = error.map(|error| error.message.clone()).unwrap_or_default();
            format!("`{action}` by `{principal}` on `{resource}`: {error}")
        }
        Claim::AlwaysDenies => format!("`{action}` by `{principal}` on `{resource}` is {}", said(inner)),
        Claim::AlwaysAllows => format!("`{action}` by `{principal}` on `{resource}` is denied: {}", said(outer)),
        Claim::Equivalent if example.is_of_policies => {
            format!(
                "`{action}` by `{principal}` on `{resource}` is {}, and the statement does not allow it",
                said(inner)
            )
        }
        Claim::Equivalent => {
            format!(
                "`{action}` by `{principal}` on `{resource}` is denied, and the statement allows it: {}",
                said(outer)
            )
        }
    }
}

/// The rest of the request.
fn request(example: &Example) -> String {
    let entities: Vec<String> = example.described().iter().map(cedar::entity).collect();
    let context = cedar::value(&example.context);
    match entities.as_slice() {
        [] => format!("context {context}"),
        entities => format!("context {context}, entities {}", entities.join(", ")),
    }
}
