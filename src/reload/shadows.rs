//! Loads the portals' candidate sets: `policies/<portal>/candidate/`, or the folder of `policies.candidate`.
//!
//! A candidate takes the place of the portal's own policies; schema, entities, routes, shared policies and emergency
//! forbids are those of the tree. It is loaded after the revision in force, without the decision tests, because it may
//! be meant to fail them. A candidate that does not load turns its shadow off and nothing else; log, `/status`, metric
//! and record say so.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedargate_policy::load::{Loaded, Loader};
use cedargate_policy::revision::problem::Problem;
use cedargate_policy::revision::source::{Files, Tree};
use cedargate_policy::types::PortalSlug;

use super::outcome::{Outcomes, ReloadOutcome, ReloadResult};
use crate::audit::{Event, PolicyEvent, PolicyResult};
use crate::base::clock;
use crate::gate::Gate;
use crate::policy_folders::{PolicyFolders, at_candidate};
use crate::portals::{ActiveRevision, Portal};

pub(super) struct Shadows {
    loader: Loader,
    /// The folder of `policies.candidate`.
    folder: Option<PolicyFolders>,
    /// The files of each candidate that was tried last.
    tried: BTreeMap<PortalSlug, Files>,
    outcomes: Outcomes,
}

impl Shadows {
    /// `loader` must run no decision tests.
    pub fn new(loader: Loader, gate: &Gate) -> Self {
        let policies = &gate.config.policies;
        let folder = policies.candidate.clone().map(|candidate| PolicyFolders {
            policies: candidate,
            schemas: policies.schemas.clone(),
        });
        Self {
            loader,
            folder,
            tried: BTreeMap::new(),
            outcomes: Outcomes::default(),
        }
    }

    /// The outcomes of the last loads, for `/status`.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.clone()
    }

    /// Loads each candidate whose files changed, and turns off those that are gone.
    pub fn update(&mut self, gate: &Gate, tree: &Tree) {
        let elsewhere = self.folder.as_ref().map(PolicyFolders::read);
        for portal in &gate.portals.load_full().portals {
            let slug = portal.slug();
            let candidate = match &elsewhere {
                Some(elsewhere) => tree.with_candidate_of(elsewhere, slug),
                None => tree.with_candidate(slug),
            };
            match candidate {
                Some(candidate) if self.tried.get(slug) != Some(&candidate.files) => self.load(gate, portal, candidate),
                Some(_unchanged) => {}
                None => self.turn_off(gate, portal),
            }
        }
    }

    fn turn_off(&mut self, gate: &Gate, portal: &Portal) {
        if self.tried.remove(portal.slug()).is_none() {
            return;
        }
        portal.shadow.store(None);
        self.outcomes.remove(portal.slug());
        let _was_not_set = gate.metrics.shadow.active.remove_label_values(&[&portal.name]).is_err();
        tracing::info!(portal = %portal.slug(), "there is no candidate any more");
    }

    fn load(&mut self, gate: &Gate, portal: &Portal, candidate: Tree) {
        let slug = portal.slug();
        let elsewhere = self.folder.as_ref().map(|folder| folder.policies.as_path());
        let Loaded { revision, rejected } = self.loader.load(&portal.scope, &candidate, None);
        let problems: Vec<Problem> = rejected.map(|error| error.problems).unwrap_or_default();
        let problems: Vec<Problem> = problems
            .into_iter()
            .map(|problem| at_candidate(problem, slug, elsewhere))
            .collect();
        let revision = revision.filter(|_| problems.is_empty());
        for problem in &problems {
            tracing::warn!(portal = %slug, file = problem.file, line = problem.line, "shadow off, candidate set rejected: {problem}");
        }
        if let Some(revision) = &revision {
            tracing::info!(portal = %slug, revision = %revision.id, "shadow on: the candidate set is evaluated beside the revision in force");
        }
        let result = if revision.is_some() {
            ReloadResult::Success
        } else {
            ReloadResult::Rejected
        };
        gate.metrics
            .shadow
            .active
            .with_label_values(&[&portal.name])
            .set(i64::from(revision.is_some()));
        let detail = problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
        gate.audit.send(&Event::Policy(PolicyEvent {
            portal: Arc::clone(&portal.name),
            revision: revision.as_ref().map(|revision| Arc::clone(&revision.id)),
            result: match result {
                ReloadResult::Success => PolicyResult::ShadowSuccess,
                ReloadResult::Rejected => PolicyResult::ShadowRejected,
            },
            detail: (!detail.is_empty()).then_some(detail),
            flags: Vec::new(),
        }));
        let outcome = ReloadOutcome {
            result,
            at: clock::unix_seconds_f64(),
            problems,
            warnings: Vec::new(),
        };
        self.outcomes.set(slug, outcome);
        portal
            .shadow
            .store(revision.map(|revision| Arc::new(ActiveRevision { revision })));
        self.tried.insert(slug.clone(), candidate.files);
    }
}
