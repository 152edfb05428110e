//! The reloader: takes edited policy files into force while traffic flows.
//!
//! The thread `reload` watches the folders, reads the files, loads the portals that changed and swaps their revisions.
//! It is the only writer of revisions. Editors, kubelet and deployments write the files meanwhile, so a reading can see
//! a state that no owner meant:
//!
//! - An editor truncates a file and writes it again. The truncated file parses; a forbid in it would be missing
//!   (`emptied`).
//! - Kubelet swaps one symlink: every file of a mount changes in one moment, and no event names the files.
//! - Files that belong together are written one after the other.
//!
//! Each round prevents it in this order: wait until events stop (`watch`); take the set of changed entries; read until
//! two readings in a row are equal; if they differ from the last tree, wait `CHANGE_QUIET` and read again. A candidate
//! loads only if all its files are equal in the last two readings; an emergency forbid joins if its own file is
//! (`settled`). A change during the reading is in the next round's set. A change without an event is found by the
//! rounds that read everything: after each poll, for each reload request, while a portal is unsettled, and
//! `SECOND_ROUND` after an event. The first load reads without the wait; the first round checks it.
//!
//! On failure: a portal whose files keep changing keeps its revision, and the next round tries again; every
//! `UNSETTLED_MAX` rounds it is reported as rejected. Its settled emergency forbids join in the first round. A rejected
//! candidate leaves the last good revision in force and is reported in log, `/status`, metric and record; it never
//! makes the gate unready. A panic is counted, its reload requests get an error, and the next round tries again.
//! Without kernel watches, polling remains.
//!
//! Replaced revisions are dropped on this thread, so that no request pays for it.

mod emergency;
mod emptied;
mod config_files;
mod outcome;
mod requests;
mod settled;
mod shadows;
mod source;
mod state;
mod swaps;
mod watch;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use cedargate_policy::flags::FlagChange;
use cedargate_policy::load::{Loaded, Loader};
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::problem::Problem;
use cedargate_policy::revision::source::Tree;
use cedargate_policy::types::PortalSlug;
use parking_lot::MutexGuard;

use self::config_files::ConfigFiles;
pub use self::emergency::EmergencyReload;
use self::emptied::Emptied;
pub use self::outcome::{Outcomes, ReloadOutcome, ReloadResult};
use self::requests::ReloadRequest;
pub use self::requests::{ReloadRequestError, ReloadRequests};
use self::settled::{ChangingPortal, PortalReading};
use self::shadows::Shadows;
use self::source::Source;
use self::state::StateDir;
use self::swaps::Swaps;
use self::watch::Wakeup;
pub use self::watch::{WakeChannel, Watch};
use crate::audit::{Event, PolicyEvent, PolicyResult};
use crate::base::clock;
use crate::base::lifecycle::{Blocker, Readiness, Shutdown};
use crate::bundle_follower::BundleFollower;
use crate::config;
use crate::gate::Gate;
use crate::policy_folders::{PolicyFolders, Readings, Scope};
use crate::portals::{JoinedForbids, Portal, PortalRegistry};

/// Readings in a row before the first load takes a tree that keeps changing as far as it is settled.
const FIRST_READ_ATTEMPTS: usize = 8;
/// The same for every later round; an emergency forbid that is settled waits for no other file.
const READ_ATTEMPTS: usize = 3;
/// Rounds in a row after which a portal whose files keep changing is reported as rejected.
const UNSETTLED_MAX: u32 = 20;
/// A change counts if the files are still the same after this time.
const CHANGE_QUIET: Duration = Duration::from_millis(20);
/// Pause after a round that an event started. The next round reads everything: a file that was written while watches
/// were set anew may have caused no event.
const SECOND_ROUND: Duration = Duration::from_millis(500);
/// Pause after a round that found files still being written.
const UNSETTLED_PAUSE: Duration = Duration::from_millis(50);

/// Watches, loads, swaps.
pub struct Reloader {
    gate: Arc<Gate>,
    loader: Loader,
    source: Source,
    outcomes: Outcomes,
    requests: ReloadRequests,
    /// Wakes the reloader; the senders belong to the watcher and to `requests`.
    wake: WakeChannel,
    /// The part of the thread `emergency`, until it starts.
    emergency_wake: Option<Receiver<()>>,
    state: Option<StateDir>,
    /// The last reading. Does not count for the portals in `unsettled`.
    last: Option<Tree>,
    /// Portals whose files were still being written.
    unsettled: BTreeMap<PortalSlug, ChangingPortal>,
    emptied: Emptied,
    /// Blocks readiness until the first bundle is loaded; `None` with folders.
    first_bundle: Option<Blocker>,
    /// Blocks readiness until the first revision of each portal in `policies.require`.
    required: BTreeMap<PortalSlug, Blocker>,
    swaps: Swaps,
    /// Begin of the last reading.
    read_at: Instant,
    /// The revision that each portal's state file holds.
    saved: BTreeMap<PortalSlug, Arc<str>>,
    config_files: ConfigFiles,
    shadows: Shadows,
    /// Folders and schemas of no portal; each is logged when it is new.
    of_no_portal: Vec<Problem>,
}

/// The result of one load.
struct Swapped {
    /// True if a new revision is in force.
    is_swapped: bool,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Flags that the new revision changes; empty for the first one.
    flags: Vec<FlagChange>,
}

impl Reloader {
    /// `shadow_loader` loads candidate sets and must run no decision tests. `bundle` takes the place of the folders.
    /// `config_files` are the files whose change only a restart takes up. Blocks readiness for each required portal.
    pub fn new(
        gate: Arc<Gate>,
        loader: Loader,
        shadow_loader: Loader,
        readiness: &Readiness,
        bundle: Option<Arc<BundleFollower>>,
        config_files: Vec<PathBuf>,
    ) -> Self {
        let policies = &gate.config.policies;
        let required = policies
            .required()
            .map(|slug| (slug.clone(), readiness.block(format!("portal {slug}"))))
            .collect();
        let outcomes = Outcomes::default();
        let (emergency, emergency_wake) = sync_channel(1);
        let wake = WakeChannel {
            emergency,
            ..WakeChannel::default()
        };
        if let Some(follower) = &bundle {
            follower.set_wakers(wake.sender.clone(), wake.emergency.clone());
        }
        Self {
            // a kept bundle is signed; the files of `StateDir` are not
            state: policies.state_dir.clone().filter(|_| bundle.is_none()).map(StateDir::new),
            first_bundle: bundle.as_ref().map(|_| readiness.block("the first policy bundle")),
            config_files: ConfigFiles::read(config_files),
            of_no_portal: Vec::new(),
            loader,
            requests: ReloadRequests::new(wake.sender.clone(), outcomes.clone(), bundle.clone()),
            source: match bundle {
                Some(follower) => Source::Bundle(follower),
                None => Source::Folders(PolicyFolders {
                    policies: policies.dir.clone(),
                    schemas: policies.schemas.clone(),
                }),
            },
            outcomes,
            wake,
            emergency_wake: Some(emergency_wake),
            last: None,
            unsettled: BTreeMap::new(),
            emptied: Emptied::default(),
            required,
            swaps: Swaps::new(Arc::clone(&gate)),
            read_at: Instant::now(),
            saved: BTreeMap::new(),
            shadows: Shadows::new(shadow_loader, &gate),
            gate,
        }
    }

    /// The thread `emergency` before it starts; `None` when it was taken before. Its loader must not be the reloader's,
    /// which may be busy for long.
    pub fn emergency(&mut self, loader: Loader) -> Option<EmergencyReload> {
        Some(EmergencyReload {
            gate: Arc::clone(&self.gate),
            loader,
            source: self.source.clone(),
            swaps: self.swaps.clone(),
            wake: self.emergency_wake.take()?,
            last: BTreeMap::new(),
        })
    }

    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.clone()
    }

    /// The outcomes of candidate sets.
    pub fn shadow_outcomes(&self) -> Outcomes {
        self.shadows.outcomes()
    }

    pub fn requests(&self) -> ReloadRequests {
        self.requests.clone()
    }

    /// The first load, before traffic: restores each portal's last good revision, then loads the files as they are.
    pub fn first_load(&mut self) {
        self.first_load_of_revisions();
        self.update_shadows();
    }

    fn first_load_of_revisions(&mut self) {
        if let Some(follower) = self.source.bundle().cloned() {
            return self.first_load_of_bundle(&follower);
        }
        let Readings { before, last: tree } = self
            .source
            .read_twice(&Tree::default(), &Scope::Everything, FIRST_READ_ATTEMPTS);
        self.add_portals(&tree);
        if self.gate.portals.load().portals.is_empty() {
            let policies = self.gate.config.policies.dir.display();
            tracing::warn!(
                "there is no portal folder in `{policies}` (policies.dir); until there is one, every request is denied"
            );
        }
        for portal in &self.gate.portals.load_full().portals {
            match self.state.as_ref().map(|state| state.load(portal.slug())) {
                Some(Ok(Some(saved))) => self.restore(portal, &saved),
                None | Some(Ok(None)) => {}
                Some(Err(error)) => tracing::warn!(portal = %portal.slug(), %error, "no last good revision could be read"),
            }
        }
        self.load_settled(&before, tree);
    }

    /// The same from the kept bundles; without one, the first load is the first bundle's.
    fn first_load_of_bundle(&mut self, follower: &BundleFollower) {
        if let Some(good) = follower.take_good() {
            self.add_portals(&good);
            for portal in &self.gate.portals.load_full().portals {
                self.restore(portal, &good);
            }
        }
        if let Some(tree) = follower.tree() {
            self.add_portals(&tree);
            self.load_settled(&tree, Tree::clone(&tree));
        }
    }

    /// Reloads until the shutdown is forced: an emergency forbid must also reach a gate that drains.
    pub fn run(mut self, shutdown: &Shutdown) {
        let mut watch = Watch::new(self.source.folders(), std::mem::take(&mut self.wake));
        let poll = self.gate.config.policies.poll.get();
        // the first round begins at once: it finds edits from before the watches were set
        let mut pause = Duration::ZERO;
        while !shutdown.is_forced() {
            let wakeup = watch.wait(pause, shutdown);
            if wakeup == Wakeup::Stopping || shutdown.is_forced() {
                break;
            }
            let all_settled = self.round(&mut watch, wakeup);
            pause = match wakeup {
                _ if !all_settled => UNSETTLED_PAUSE.min(poll),
                Wakeup::Event => SECOND_ROUND.min(poll),
                Wakeup::Poll | Wakeup::Stopping => poll,
            };
            self.swaps.drop_retired();
            self.check_config();
        }
    }

    /// One round: reads, loads, answers reload requests. False if a portal's files are still being written.
    fn round(&mut self, watch: &mut Watch, wakeup: Wakeup) -> bool {
        // Watches, requests and changed entries come before the reading: what changes from here on wakes the next
        // round.
        watch.renew(self.source.folders());
        let requests = self.requests.take();
        let changed = watch.take_changed();
        let scope = match wakeup {
            Wakeup::Event if requests.is_empty() && self.unsettled.is_empty() && !self.has_joined_forbids() => changed,
            // read everything: events may have missed a change
            _ => Scope::Everything,
        };
        // a panic over one tree must not end this thread: emergency forbids arrive through it
        let loaded = catch_unwind(AssertUnwindSafe(|| self.read_and_load(&scope)));
        match loaded {
            Ok(true) => requests.into_iter().for_each(ReloadRequest::answer),
            Ok(false) => self.requests.put_back(requests),
            Err(_) => {
                drop(requests);
                self.gate.metrics.panics.inc();
                tracing::error!("loading ended in a panic; the revisions in force stay, and the next round tries again");
            }
        }
        loaded.unwrap_or(true)
    }

    /// Reads and, if the tree changed, loads. False if a portal's files are still being written.
    fn read_and_load(&mut self, scope: &Scope) -> bool {
        self.read_at = Instant::now();
        if !self.source.is_there() {
            return true;
        }
        let none = Tree::default();
        let known = self.last.as_ref().unwrap_or(&none);
        let scope = if self.last.is_some() { scope } else { &Scope::Everything };
        let Readings {
            mut before,
            last: mut tree,
        } = self.source.read_twice(known, scope, READ_ATTEMPTS);
        if self.last.as_ref() != Some(&tree) {
            // SECURITY: a policy file that an editor truncated and has not filled yet parses and looks settled; a
            // forbid in it would be missing
            let since = Instant::now();
            self.prepare(&before, &tree);
            wait_until_quiet(since);
            self.read_at = Instant::now();
            let now = self.source.read_again(&tree, scope);
            before = std::mem::replace(&mut tree, now);
        }
        self.emptied.hold(self.last.as_ref(), &mut before, &tree, self.read_at);
        if !self.unsettled.is_empty() || self.has_joined_forbids() || self.last.as_ref() != Some(&tree) {
            self.add_portals(&tree);
            self.load_settled(&before, tree);
        }
        self.update_shadows();
        self.unsettled.is_empty()
    }

    /// After the revisions in force: a candidate must not delay them.
    fn update_shadows(&mut self) {
        if let Some(tree) = &self.last {
            self.shadows.update(&self.gate, tree);
        }
    }

    /// True if emergency forbids joined a revision since a reading that would have seen their files.
    fn has_joined_forbids(&self) -> bool {
        let registry = self.gate.portals.load();
        registry.portals.iter().any(|portal| !portal.writer.lock().is_empty())
    }

    /// Parses changed policies during the quiet time. Most often the files stay the same, and the load finds them
    /// parsed.
    fn prepare(&mut self, before: &Tree, tree: &Tree) {
        let registry = self.gate.portals.load_full();
        for portal in &registry.portals {
            let slug = portal.slug();
            let is_known = self.last.as_ref().is_some_and(|last| last.is_same_for(tree, slug));
            if !is_known && before.is_same_for(tree, slug) {
                self.loader.prepare(&portal.scope, tree);
            }
        }
    }

    /// Loads each portal that changed, as far as its files are equal in both readings. A portal that keeps changing
    /// does not hold up the other portals.
    fn load_settled(&mut self, before: &Tree, tree: Tree) {
        let registry = self.gate.portals.load_full();
        for portal in &registry.portals {
            let slug = portal.slug();
            let settled = PortalReading::of(before, &tree, slug);
            if !settled.is_complete() {
                self.load_unsettled(portal, settled, &tree);
                continue;
            }
            let was_unsettled = self.unsettled.remove(slug).is_some();
            let is_behind = !portal.writer.lock().is_empty();
            if was_unsettled || is_behind || !self.last.as_ref().is_some_and(|last| last.is_same_for(&tree, slug)) {
                let swapped = self.load(portal, &tree);
                self.report(portal, swapped);
            }
        }
        if let Some(follower) = self.source.bundle().cloned() {
            if let Some(blocker) = self.first_bundle.take() {
                blocker.done();
            }
            let outcomes = self.outcomes.all();
            if outcomes.values().all(|outcome| outcome.result == ReloadResult::Success) {
                follower.confirm(&tree);
            }
        }
        self.report_files_of_no_portal(&tree);
        self.last = Some(tree);
    }

    fn report_files_of_no_portal(&mut self, tree: &Tree) {
        let registry = self.gate.portals.load();
        let found = tree.of_no_portal(registry.portals.iter().map(|portal| portal.slug()));
        for problem in found.iter().filter(|problem| !self.of_no_portal.contains(problem)) {
            tracing::warn!(file = problem.file, "{problem}");
        }
        self.of_no_portal = found;
    }

    /// Loads the settled part of a portal that is still being written: its candidate, if all of that is settled, and
    /// every emergency forbid that is. Reports what it changed, and every `UNSETTLED_MAX` rounds what keeps changing.
    fn load_unsettled(&mut self, portal: &Arc<Portal>, settled: PortalReading, tree: &Tree) {
        let slug = portal.slug();
        let state = self.unsettled.entry(slug.clone()).or_default();
        state.rounds = state.rounds.saturating_add(1);
        let is_due = state.rounds.is_multiple_of(UNSETTLED_MAX);
        // SECURITY: without a revision in force, an emergency forbid that is being written has no last good content to
        // hold
        let is_open = settled.candidate && portal.active.load().is_some();
        let keeps_changing = |name: &str| Problem::new(name, "keeps changing while it is read");
        let changing: Vec<Problem> = settled.unsettled.iter().map(|name| keeps_changing(name)).collect();
        let mut part = tree.without_unsettled(settled.unsettled);
        if !is_open {
            // no name above `_deny/`: a removed emergency forbid would count as out of sight, and stay
            part.problems.push(keeps_changing(&format!("policies/{slug}/*")));
        }
        let is_new = !state.tried.as_ref().is_some_and(|tried| tried.is_same_for(&part, slug));
        // a forbid that the thread `emergency` joined meanwhile may be gone from the files again
        let is_behind = !portal.writer.lock().is_empty();
        if !is_due && !is_new && !is_behind {
            return;
        }
        state.tried = Some(part.clone());
        let mut swapped = self.load(portal, &part);
        if is_due {
            swapped.problems.extend(changing);
        }
        if is_due || swapped.is_swapped || (is_open && is_new) {
            self.report(portal, swapped);
        }
    }

    /// Loads one portal and swaps its revision, if there is a new one.
    fn load(&mut self, portal: &Arc<Portal>, tree: &Tree) -> Swapped {
        let started = Instant::now();
        let active = portal.active.load_full();
        let built = self.loader.build(&portal.scope, tree, active.as_ref().map(|a| &*a.revision));
        let mut writer = portal.writer.lock();
        // the thread `emergency` may have joined emergency forbids since the files were read
        let tree = writer.laid_over(tree, self.read_at);
        let active = portal.active.load_full();
        let previous = active.as_ref().map(|a| &*a.revision);
        let Loaded { revision, rejected } = self.loader.join(&portal.scope, built, &tree, previous);
        if let Some(revision) = &revision {
            self.swap(portal, revision, started, &writer);
        }
        drop(writer);
        // after the swap: a slow disk must not delay the revision
        self.save(portal);
        let flags = revision.as_ref().zip(previous);
        let flags = flags.map(|(new, old)| new.rules.flags.changes_since(&old.rules.flags));
        Swapped {
            flags: flags.unwrap_or_default(),
            is_swapped: revision.is_some(),
            problems: rejected.map(|e| e.problems).unwrap_or_default(),
            warnings: revision.map(|r| r.warnings.clone()).unwrap_or_default(),
        }
    }

    fn swap(&mut self, portal: &Arc<Portal>, revision: &Arc<Revision>, started: Instant, writer: &MutexGuard<'_, JoinedForbids>) {
        let policies = revision.rules.engine.policies().len();
        tracing::info!(portal = %portal.slug(), revision = %revision.id, policies, took = ?started.elapsed(), "revision active");
        self.activate(portal, Arc::clone(revision), writer);
    }

    /// Saves the revision in force, if it is not the saved one.
    fn save(&mut self, portal: &Portal) {
        let (Some(state), Some(active)) = (&self.state, portal.active.load_full()) else {
            return;
        };
        let revision = &active.revision;
        if self.saved.get(portal.slug()) == Some(&revision.id) {
            return;
        }
        match state.save(portal.slug(), revision) {
            Ok(()) => drop(self.saved.insert(portal.slug().clone(), Arc::clone(&revision.id))),
            Err(error) => {
                tracing::warn!(portal = %portal.slug(), %error, "the revision could not be saved for a restart");
            }
        }
    }

    fn activate(&mut self, portal: &Arc<Portal>, revision: Arc<Revision>, writer: &MutexGuard<'_, JoinedForbids>) {
        self.swaps.activate(portal, revision, writer);
        if let Some(blocker) = self.required.remove(portal.slug()) {
            blocker.done();
        }
    }

    fn restore(&mut self, portal: &Arc<Portal>, saved: &Tree) {
        let Loaded { revision, rejected } = self.loader.load(&portal.scope, saved, None);
        match revision {
            Some(revision) => {
                tracing::info!(portal = %portal.slug(), revision = %revision.id, "last good revision restored");
                self.saved.insert(portal.slug().clone(), Arc::clone(&revision.id));
                self.activate(portal, revision, &portal.writer.lock());
            }
            None => {
                let why = rejected.map(|e| e.to_string()).unwrap_or_default();
                tracing::warn!(portal = %portal.slug(), why, "the last good revision does not load any more");
            }
        }
    }

    fn report(&self, portal: &Portal, swapped: Swapped) {
        let Swapped {
            problems,
            warnings,
            flags,
            ..
        } = swapped;
        for problem in &problems {
            tracing::error!(portal = %portal.slug(), file = problem.file, line = problem.line, "candidate rejected: {problem}");
        }
        for warning in &warnings {
            tracing::warn!(portal = %portal.slug(), file = warning.file, line = warning.line, "{warning}");
        }
        let outcome = ReloadOutcome {
            result: if problems.is_empty() {
                ReloadResult::Success
            } else {
                ReloadResult::Rejected
            },
            at: clock::unix_seconds_f64(),
            problems,
            warnings,
        };
        let metrics = &self.gate.metrics;
        metrics
            .reload
            .with_label_values(&[&*portal.name, outcome.result.as_str()])
            .inc();
        let is_success = outcome.result == ReloadResult::Success;
        metrics
            .reload_last_successful
            .with_label_values(&[&portal.name])
            .set(i64::from(is_success));
        if is_success {
            metrics.reload_last_success.with_label_values(&[&portal.name]).set(outcome.at);
        }
        let detail = outcome.problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
        self.gate.audit.send(&Event::Policy(PolicyEvent {
            portal: Arc::clone(&portal.name),
            revision: portal.active.load().as_ref().map(|a| Arc::clone(&a.revision.id)),
            result: match outcome.result {
                ReloadResult::Success => PolicyResult::Success,
                ReloadResult::Rejected => PolicyResult::Rejected,
            },
            detail: (!detail.is_empty()).then_some(detail),
            flags,
        }));
        self.outcomes.set(portal.slug(), outcome);
    }

    /// Without `portals` in the configuration, every folder is a portal. A portal whose folder vanishes keeps its
    /// traffic.
    fn add_portals(&self, tree: &Tree) {
        if self.gate.config.portals.is_some() {
            return;
        }
        let registry = self.gate.portals.load_full();
        let known = |slug: &PortalSlug| registry.portals.iter().any(|p| p.slug() == slug);
        let fresh: Vec<PortalSlug> = tree.slugs.iter().filter(|slug| !known(slug)).cloned().collect();
        if fresh.is_empty() {
            return;
        }
        let config = &self.gate.config;
        let made = |slug| {
            let portal = config::Portal::discovered(slug, config.issuers.len());
            Arc::new(Portal::new(portal, Arc::clone(&registry.app), config, &self.gate.metrics))
        };
        let added = fresh.iter().map(made);
        let portals = registry.portals.iter().cloned().chain(added).collect();
        match PortalRegistry::new(portals, Arc::clone(&registry.app)) {
            Ok(registry) => self.gate.portals.store(Arc::new(registry)),
            Err(error) => tracing::error!(%error, "a new portal folder cannot be served"),
        }
    }

    fn check_config(&self) {
        let changed = self.config_files.have_changed();
        let gauge = &self.gate.metrics.restart_required;
        if changed && gauge.get() == 0 {
            tracing::warn!("the configuration changed since start; restart to take it up");
        }
        gauge.set(i64::from(changed));
    }
}

/// Sleeps until `since` is `CHANGE_QUIET` ago. Only the threads `reload` and `emergency` sleep here.
#[expect(
    clippy::disallowed_methods,
    reason = "these threads serve no traffic, and an early wake would defeat the wait"
)]
fn wait_until_quiet(since: Instant) {
    std::thread::sleep(CHANGE_QUIET.saturating_sub(since.elapsed()));
}
