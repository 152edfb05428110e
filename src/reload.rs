//! From an edit to the revision in force, while traffic flows.
//!
//! One thread watches the folders and polls their content; either way it reads everything, loads what changed and swaps.
//! It is the only writer of what is served. A candidate that is rejected leaves everything as it is, says so in log,
//! `/status`, metric and record, and never makes the gate unready. Old revisions die here, not on a request's thread.

mod asks;
mod state;
mod watch;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

pub use self::asks::{AskError, Asks};
use self::state::StateDir;
use self::watch::{Watch, Woken};
use crate::audit::{Event, PolicyEvent};
use crate::base::lifecycle::{Blocker, Readiness, Shutdown};
use crate::config;
use crate::gate::Gate;
use crate::policy_folders::{PolicyFolders, Readings, Scope};
use crate::portals::{Active, Portal, Serving};
use crate::types::PortalSlug;
use cedargate_policy::load::{Loaded, Loader};
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::problem::Problem;
use cedargate_policy::revision::source::Tree;

/// Readings in a row before a tree that keeps changing is left for the next look.
const READ_ATTEMPTS: usize = 8;
/// Looks in a row after which a portal whose files never hold still is reported as rejected.
const BUSY_LOOKS_MAX: u32 = 20;
/// A change counts if it is still the same after so long.
const CHANGE_QUIET: Duration = Duration::from_millis(20);
/// How soon to look again after an event.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// When somebody keeps writing, how soon to look again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How the last load of each portal went; written by the reloader, read by `/status`.
#[derive(Clone, Default)]
pub struct Outcomes(Arc<Mutex<BTreeMap<PortalSlug, Outcome>>>);

/// One load, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub result: ReloadResult,
    /// Unix seconds.
    pub at: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
}

/// The label of `reload_total{result}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    Success,
    Rejected,
}

/// Watches, loads, swaps.
pub struct Reloader {
    gate: Arc<Gate>,
    loader: Loader,
    places: PolicyFolders,
    outcomes: Outcomes,
    asks: Asks,
    /// What the watcher and `asks` wake with.
    woken: (Sender<()>, Receiver<()>),
    state: Option<StateDir>,
    last: Option<Tree>,
    /// Portals somebody was still writing to, and for how many looks: `last` does not count for them.
    behind: BTreeMap<PortalSlug, u32>,
    required: BTreeMap<PortalSlug, Blocker>,
    /// Replaced revisions that requests may still hold.
    retired: Vec<Arc<Active>>,
    config_files: Vec<(PathBuf, Option<Vec<u8>>)>,
}

impl Outcomes {
    pub fn all(&self) -> BTreeMap<PortalSlug, Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, slug: &PortalSlug, outcome: Outcome) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(slug.clone(), outcome);
    }
}

impl ReloadResult {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejected => "rejected",
        }
    }
}

impl Reloader {
    /// `config_files` are the files whose change only a restart takes up.
    pub fn new(gate: Arc<Gate>, loader: Loader, readiness: &Readiness, config_files: Vec<PathBuf>) -> Self {
        let policies = &gate.config.policies;
        let required = policies
            .required()
            .map(|slug| (slug.clone(), readiness.block(format!("portal {slug}"))))
            .collect();
        let (outcomes, woken) = (Outcomes::default(), channel());
        Self {
            places: PolicyFolders {
                policies: policies.dir.clone(),
                schemas: policies.schemas.clone(),
            },
            state: policies.state_dir.clone().map(StateDir::new),
            config_files: config_files
                .into_iter()
                .map(|path| (path.clone(), std::fs::read(path).ok()))
                .collect(),
            loader,
            asks: Asks::new(woken.0.clone(), outcomes.clone()),
            outcomes,
            woken,
            last: None,
            behind: BTreeMap::new(),
            required,
            retired: Vec::new(),
            gate,
        }
    }

    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.clone()
    }

    pub fn asks(&self) -> Asks {
        self.asks.clone()
    }

    /// The first load, before anything is served: last good revisions from before, then the tree as it is.
    pub fn first_look(&mut self) {
        let Readings { before, last: tree } = self.places.read_twice(&Tree::default(), &Scope::Everything, READ_ATTEMPTS);
        self.add_portals(&tree);
        if self.gate.serving.load().portals.is_empty() {
            let policies = self.places.policies.display();
            tracing::warn!(
                "there is no portal folder in `{policies}` (policies.dir); until there is one, every request is denied"
            );
        }
        for portal in &self.gate.serving.load_full().portals {
            match self.state.as_ref().map(|state| state.load(portal.slug())) {
                Some(Ok(Some(saved))) => self.restore(portal, &saved),
                None | Some(Ok(None)) => {}
                Some(Err(error)) => tracing::warn!(portal = %portal.slug(), %error, "no last good revision could be read"),
            }
        }
        self.take(&before, tree);
    }

    /// Watches until the end: the brake works while the gate drains, too.
    pub fn run(mut self, shutdown: &Shutdown) {
        let shutdown = &shutdown.after_draining();
        let mut watch = Watch::new(&self.places, std::mem::replace(&mut self.woken, channel()));
        let poll = self.gate.config.policies.poll.get();
        // the first look is at once: it takes what was edited before the watches stood
        let mut pause = Duration::ZERO;
        while !shutdown.is_draining() {
            let woken = watch.wait(pause, shutdown);
            if woken == Woken::Stopping || shutdown.is_draining() {
                break;
            }
            // before looking: what is written into a new root from here on wakes us again
            watch.follow(&self.places);
            // a panic over one tree must not end the brake's way in
            let asked = self.asks.take();
            let touched = watch.touched();
            let scope = match woken {
                Woken::Event if asked.is_empty() && self.behind.is_empty() => touched,
                // whatever events missed is found now
                _ => Scope::Everything,
            };
            let looked = catch_unwind(AssertUnwindSafe(|| self.look(&scope)));
            match looked {
                Ok(true) => asked.into_iter().for_each(asks::answer),
                Ok(false) => self.asks.put_back(asked),
                Err(_) => drop(asked),
            }
            if looked.is_err() {
                self.gate.metrics.panics.inc();
                tracing::error!("loading ended in a panic; what is served stays, the next change is looked at again");
            }
            pause = match (looked.unwrap_or(true), woken) {
                (false, _) => BUSY_PAUSE.min(poll),
                // once more soon: what was written while watches were set anew may have told nobody
                (true, Woken::Event) => SECOND_LOOK.min(poll),
                (true, Woken::Poll | Woken::Stopping) => poll,
            };
            self.bury();
            self.check_config();
        }
    }

    /// Reads and, if anything changed, loads. False where somebody is still writing.
    fn look(&mut self, scope: &Scope) -> bool {
        let none = Tree::default();
        let (known, scope) = self.last.as_ref().map_or((&none, &Scope::Everything), |last| (last, scope));
        let Readings {
            mut before,
            last: mut tree,
        } = self.places.read_twice(known, scope, READ_ATTEMPTS);
        if self.last.as_ref() != Some(&tree) {
            // SECURITY: a forbid's file that was truncated and is about to be filled parses, and looks settled in between
            let since = Instant::now();
            self.prepare(&before, &tree);
            quiet(since);
            let now = self.places.read_again(&tree, scope);
            before = std::mem::replace(&mut tree, now);
        }
        if !self.behind.is_empty() || self.last.as_ref() != Some(&tree) {
            self.add_portals(&tree);
            self.take(&before, tree);
        }
        self.behind.is_empty()
    }

    /// Reads policies while waiting whether they stay as they are: most often they do, and then little is left to do.
    fn prepare(&mut self, before: &Tree, tree: &Tree) {
        let serving = self.gate.serving.load_full();
        for portal in &serving.portals {
            let slug = portal.slug();
            let is_known = self.last.as_ref().is_some_and(|last| last.is_same_for(tree, slug));
            if !is_known && before.is_same_for(tree, slug) {
                self.loader.prepare(&portal.scope, tree);
            }
        }
    }

    /// Loads each portal that changed and holds still: one that never does must not hold up the others.
    fn take(&mut self, before: &Tree, tree: Tree) {
        let serving = self.gate.serving.load_full();
        for portal in &serving.portals {
            let slug = portal.slug();
            if !before.is_same_for(&tree, slug) {
                let looks = self.behind.entry(slug.clone()).or_default();
                *looks = looks.saturating_add(1);
                if looks.is_multiple_of(BUSY_LOOKS_MAX) {
                    self.load_busy(portal, before, &tree);
                }
                continue;
            }
            let was_behind = self.behind.remove(slug).is_some();
            if was_behind || !self.last.as_ref().is_some_and(|last| last.is_same_for(&tree, slug)) {
                self.load(portal, &tree);
            }
        }
        self.last = Some(tree);
    }

    /// A portal whose files never hold still is rejected, so that its emergency forbids join all the same.
    fn load_busy(&mut self, portal: &Arc<Portal>, before: &Tree, tree: &Tree) {
        let slug = portal.slug();
        if before.emergency_files(slug) == tree.emergency_files(slug) {
            let mut tree = tree.clone();
            let folder = format!("policies/{slug}/");
            tree.problems.push(Problem::new(&folder, "keeps changing while it is read"));
            self.load(portal, &tree);
        }
    }

    fn load(&mut self, portal: &Arc<Portal>, tree: &Tree) {
        let started = Instant::now();
        let active = portal.active.load_full();
        let previous = active.as_ref().map(|a| &*a.revision);
        let Loaded { revision, rejected } = self.loader.load(&portal.scope, tree, previous);
        let warnings = revision.as_ref().map(|r| r.warnings.clone()).unwrap_or_default();
        if let Some(revision) = revision {
            self.swap(portal, &revision, started);
        }
        let result = if rejected.is_some() {
            ReloadResult::Rejected
        } else {
            ReloadResult::Success
        };
        let problems = rejected.map(|e| e.problems).unwrap_or_default();
        for problem in &problems {
            tracing::error!(portal = %portal.slug(), file = problem.file, line = problem.line, "candidate rejected: {problem}");
        }
        for warning in &warnings {
            tracing::warn!(portal = %portal.slug(), file = warning.file, line = warning.line, "{warning}");
        }
        self.report(
            portal,
            Outcome {
                result,
                at: unix_seconds(),
                problems,
                warnings,
            },
        );
    }

    fn swap(&mut self, portal: &Arc<Portal>, revision: &Arc<Revision>, started: Instant) {
        let policies = revision.rules.engine.policies().len();
        tracing::info!(portal = %portal.slug(), revision = %revision.id, policies, took = ?started.elapsed(), "revision active");
        self.activate(portal, Arc::clone(revision));
        // not before: a disk may take its time
        if let Some(Err(error)) = self.state.as_ref().map(|state| state.save(portal.slug(), revision)) {
            tracing::warn!(portal = %portal.slug(), %error, "the revision could not be kept for a restart");
        }
    }

    fn activate(&mut self, portal: &Arc<Portal>, revision: Arc<Revision>) {
        let info = &self.gate.metrics.revision_info;
        if let Some(old) = portal.active.load_full() {
            let _unknown = info.remove_label_values(&[&*portal.name, &*old.revision.id]).is_err();
            self.retired.push(old);
        }
        info.with_label_values(&[&*portal.name, &*revision.id]).set(1);
        let active = Active::new(revision, self.gate.config.limits.token_cache.as_usize());
        portal.active.store(Some(Arc::new(active)));
        self.gate.reloads.send_modify(|count| *count = count.wrapping_add(1));
        if let Some(blocker) = self.required.remove(portal.slug()) {
            blocker.done();
        }
    }

    fn restore(&mut self, portal: &Arc<Portal>, saved: &Tree) {
        let Loaded { revision, rejected } = self.loader.load(&portal.scope, saved, None);
        match revision {
            Some(revision) => {
                tracing::info!(portal = %portal.slug(), revision = %revision.id, "last good revision restored");
                self.activate(portal, revision);
            }
            None => {
                let why = rejected.map(|e| e.to_string()).unwrap_or_default();
                tracing::warn!(portal = %portal.slug(), why, "the last good revision does not load any more");
            }
        }
    }

    fn report(&self, portal: &Portal, outcome: Outcome) {
        let metrics = &self.gate.metrics;
        metrics
            .reload
            .with_label_values(&[&*portal.name, outcome.result.as_str()])
            .inc();
        if outcome.result == ReloadResult::Success {
            metrics.reload_last_success.with_label_values(&[&portal.name]).set(outcome.at);
        }
        let detail = outcome.problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
        self.gate.audit.send(Event::Policy(PolicyEvent {
            portal: Arc::clone(&portal.name),
            revision: portal.active.load().as_ref().map(|a| Arc::clone(&a.revision.id)),
            result: outcome.result.as_str(),
            detail: (!detail.is_empty()).then_some(detail),
        }));
        self.outcomes.set(portal.slug(), outcome);
    }

    /// Without `portals` in the configuration, every folder is a portal. One that vanishes keeps its traffic.
    fn add_portals(&self, tree: &Tree) {
        if self.gate.config.portals.is_some() {
            return;
        }
        let serving = self.gate.serving.load_full();
        let known = |slug: &PortalSlug| serving.portals.iter().any(|p| p.slug() == slug);
        let fresh: Vec<PortalSlug> = tree.slugs.iter().filter(|slug| !known(slug)).cloned().collect();
        if fresh.is_empty() {
            return;
        }
        let config = &self.gate.config;
        let made = |slug| {
            let portal = config::Portal::discovered(slug, config.issuers.len());
            Arc::new(Portal::new(portal, Arc::clone(&serving.app), config, &self.gate.metrics))
        };
        let added = fresh.iter().map(made);
        let portals = serving.portals.iter().cloned().chain(added).collect();
        match Serving::new(portals, Arc::clone(&serving.app)) {
            Ok(serving) => self.gate.serving.store(Arc::new(serving)),
            Err(error) => tracing::error!(%error, "a new portal folder cannot be served"),
        }
    }

    /// Drops replaced revisions that no request holds any more.
    fn bury(&mut self) {
        self.retired.retain(|old| Arc::strong_count(old) > 1);
    }

    fn check_config(&self) {
        let changed = self
            .config_files
            .iter()
            .any(|(path, content)| std::fs::read(path).ok() != *content);
        let gauge = &self.gate.metrics.restart_required;
        if changed && gauge.get() == 0 {
            tracing::warn!("the configuration changed since start; restart to take it up");
        }
        gauge.set(i64::from(changed));
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Waits until a change is old enough. Nothing but the reloader waits here.
#[expect(
    clippy::disallowed_methods,
    reason = "this thread serves no traffic, and an early wake would defeat the wait"
)]
fn quiet(since: Instant) {
    std::thread::sleep(CHANGE_QUIET.saturating_sub(since.elapsed()));
}
