//! Watches the policy tree: wakes the reloader after changes and names the entries that may have changed.
//!
//! Watches are set on folders, never on files: an editor that renames a new file into place makes another file. The
//! parents of the two roots are watched as well, because a root may be replaced as a whole. Three races matter:
//!
//! - Events arrive while a writer still writes. `wait` returns only after `SETTLE` without events, at most `SETTLE_MAX`
//!   after the first; the reloader then reads twice.
//! - An event arrives during a reading. The reloader takes the changed entries *before* it reads, so the entry is in
//!   the next round's set.
//! - A root is replaced. `renew` compares device, inode and birth of the roots and the watcher's own note that a root
//!   was touched, because a new folder may get the old one's inode. It sets all watches on a new watcher and drops the
//!   old one only then; the parents come first, so that a root that appears meanwhile causes an event. All entries then
//!   count as changed.
//!
//! An event is only a hint. One that names no entry, an overflow of the kernel's queue and a watch error mean that
//! everything may have changed. What the kernel does not report is found by polling; without a watcher, polling is all
//! there is.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;

use crate::base::lifecycle::Shutdown;
use crate::policy_folders::{PolicyFolders, Scope};

/// Time without events after which a writer counts as done.
const SETTLE: Duration = Duration::from_millis(20);
/// Longest wait for a writer that never pauses.
const SETTLE_MAX: Duration = Duration::from_millis(100);
/// Pause between two looks at the shutdown while the reloader waits.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// Changed entries remembered between two rounds. More of them count as everything; reading everything costs no more
/// then.
const CHANGED_MAX: usize = 1000;

/// The reason why `Watch::wait` returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wakeup {
    Event,
    Poll,
    Stopping,
}

/// Wakes the reloader. The watcher and reload requests send; the reloader receives. Unbounded, but each waking empties
/// it.
pub struct WakeChannel {
    pub sender: Sender<()>,
    pub receiver: Receiver<()>,
    /// Wakes the thread `emergency`. One message that waits stands for all.
    pub emergency: SyncSender<()>,
}

pub struct Watch {
    /// `None` if the kernel gives no watches.
    watcher: Option<RecommendedWatcher>,
    wake: WakeChannel,
    /// The roots that `watcher` was made for; `None` for a root that did not exist.
    roots: Vec<Option<FolderIdentity>>,
    changed: ChangedEntries,
    /// True if an event named a root itself. Set by the watcher's thread, cleared by `renew`.
    root_touched: Arc<AtomicBool>,
}

/// The entries that events named since the last round. The watcher's thread adds, the reloader takes all.
#[derive(Clone)]
struct ChangedEntries(Arc<Mutex<Scope>>);

impl Default for WakeChannel {
    fn default() -> Self {
        let (sender, receiver) = channel();
        let (emergency, _no_thread_waits) = sync_channel(1);
        Self {
            sender,
            receiver,
            emergency,
        }
    }
}

impl ChangedEntries {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Scope::Entries(BTreeSet::new()))))
    }

    fn add(&self, event: &notify::Result<notify::Event>, roots: &[PathBuf]) {
        let named = event
            .as_ref()
            .ok()
            .filter(|event| !event.need_rescan() && !event.paths.is_empty());
        let named = named.and_then(|event| {
            let inside = event
                .paths
                .iter()
                .filter(|path| roots.iter().any(|root| path.starts_with(root)));
            inside.map(|path| entry_of(path, roots)).collect::<Option<Vec<_>>>()
        });
        let mut scope = self.0.lock();
        match (&mut *scope, named) {
            (Scope::Entries(entries), Some(names)) if entries.len() + names.len() <= CHANGED_MAX => entries.extend(names),
            _ => *scope = Scope::Everything,
        }
    }

    fn add_everything(&self) {
        *self.0.lock() = Scope::Everything;
    }

    fn take(&self) -> Scope {
        std::mem::replace(&mut *self.0.lock(), Scope::Entries(BTreeSet::new()))
    }
}

/// The entry of a root that holds the path, such as `policies/customer`. `None` for a hidden entry: kubelet's `..data`
/// leads to everything.
fn entry_of(path: &Path, roots: &[PathBuf]) -> Option<String> {
    let mut named = roots.iter().zip(["policies", "schemas"]);
    let (rest, name) = named.find_map(|(root, name)| Some((path.strip_prefix(root).ok()?, name)))?;
    let Some(Component::Normal(entry)) = rest.components().next() else {
        return None;
    };
    let entry = entry.to_str().filter(|entry| !entry.starts_with('.'))?;
    Some(format!("{name}/{entry}"))
}

impl Watch {
    /// Sets the watches; without folders there are none. Any holder of a copy of `wake.sender` can wake the reloader.
    pub fn new(places: Option<&PolicyFolders>, wake: WakeChannel) -> Self {
        let mut watch = Self {
            watcher: None,
            wake,
            roots: Vec::new(),
            changed: ChangedEntries::new(),
            root_touched: Arc::default(),
        };
        watch.renew(places);
        watch
    }

    /// Sets all watches anew if a root was replaced since the last call.
    ///
    /// Makes a new watcher and drops the old one after that. Removing and adding watches on one watcher can lose them
    /// where a folder is reached by two names, as in kubelet's mounts.
    pub fn renew(&mut self, places: Option<&PolicyFolders>) {
        let Some(places) = places else { return };
        let roots = [places.policies.as_path(), places.schemas.as_path()];
        let identities: Vec<_> = roots.iter().map(|root| FolderIdentity::of(root)).collect();
        let root_touched = self.root_touched.swap(false, Ordering::AcqRel);
        if identities == self.roots && !root_touched {
            return;
        }
        self.roots = identities;
        self.changed.add_everything();
        let watcher = self.watcher(absolute_roots(places));
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "no file watches; changes are found by polling"));
        let Ok(mut watcher) = watcher else { return };
        // parents first: a root that appears from here on causes an event
        for root in roots {
            let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if let Err(error) = watcher.watch(parent, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, parent = %parent.display(), "not watched; changes are found by polling");
            }
        }
        for root in roots {
            if let Err(error) = watcher.watch(root, RecursiveMode::Recursive) {
                tracing::debug!(%error, root = %root.display(), "not watched; changes are found by polling");
            }
        }
        self.watcher = Some(watcher);
    }

    fn watcher(&self, roots: Vec<PathBuf>) -> notify::Result<RecommendedWatcher> {
        let sender = self.wake.sender.clone();
        let emergency = self.wake.emergency.clone();
        let changed = self.changed.clone();
        let root_touched = Arc::clone(&self.root_touched);
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // an error counts as an event: the kernel may have lost some
            if event.as_ref().is_ok_and(|event| !concerns(event, &roots)) {
                return;
            }
            changed.add(&event, &roots);
            if event.as_ref().map_or(true, |event| may_be_emergency_forbid(event, &roots)) {
                // fails if a message waits, or after the thread ended
                let _waits_or_ended = emergency.try_send(()).is_err();
            }
            if event.is_ok_and(|event| event.paths.iter().any(|path| roots.contains(path))) {
                root_touched.store(true, Ordering::Release);
            }
            // fails only after the reloader ended
            let _ended = sender.send(()).is_err();
        })
    }

    /// Takes the entries that may have changed since the last call. Call it before reading: a change during the reading
    /// is then in the next set.
    pub fn take_changed(&self) -> Scope {
        self.changed.take()
    }

    /// Returns after `pause`, or sooner once an event came and then `SETTLE` passed without one.
    pub fn wait(&self, pause: Duration, shutdown: &Shutdown) -> Wakeup {
        let deadline = Instant::now() + pause;
        loop {
            if shutdown.is_forced() {
                return Wakeup::Stopping;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Wakeup::Poll;
            }
            match self.wake.receiver.recv_timeout(left.min(STOP_CHECK)) {
                Ok(()) => {
                    self.settle();
                    return Wakeup::Event;
                }
                Err(RecvTimeoutError::Timeout) => {}
                // INVARIANT: `wake` holds a sender, so this arm never runs; it must not spin if it did
                Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(left.min(STOP_CHECK)),
            }
        }
    }

    fn settle(&self) {
        let started = Instant::now();
        while started.elapsed() < SETTLE_MAX && self.wake.receiver.recv_timeout(SETTLE).is_ok() {}
        while self.wake.receiver.try_recv().is_ok() {}
    }
}

/// The roots as `notify` names them in its events.
fn absolute_roots(places: &PolicyFolders) -> Vec<PathBuf> {
    let roots = [&places.policies, &places.schemas];
    roots
        .into_iter()
        .map(|root| std::path::absolute(root).unwrap_or_else(|_| root.clone()))
        .collect()
}

/// True if the event may be about an emergency forbid: it names a folder `_deny/` or something in it, a portal's folder
/// as a whole, or nothing exact.
fn may_be_emergency_forbid(event: &notify::Event, roots: &[PathBuf]) -> bool {
    let is_emergency_forbid = |path: &PathBuf| {
        let below = roots.iter().find_map(|root| path.strip_prefix(root).ok());
        below.is_some_and(|below| {
            // hidden: kubelet's `..data` leads to everything
            let is_telling = |name: &str| name == "_deny" || name.starts_with('.');
            below.components().count() < 2 || below.iter().any(|name| name.to_str().is_none_or(is_telling))
        })
    };
    event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(is_emergency_forbid)
}

/// False for reads and for files beside the roots. The reloader's own reading would otherwise wake it again, and a
/// decision log beside the policies would wake it at every request.
fn concerns(event: &notify::Event, roots: &[PathBuf]) -> bool {
    let only_read = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let inside = |path: &PathBuf| roots.iter().any(|root| path.starts_with(root));
    !only_read && (event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(inside))
}

/// Identity of a folder. `created` is part of it because a folder that is made anew may get the old one's inode.
#[derive(Debug, Eq, PartialEq)]
struct FolderIdentity {
    device: u64,
    inode: u64,
    created: Option<SystemTime>,
}

impl FolderIdentity {
    /// `None` if there is no such folder.
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            created: metadata.created().ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> PolicyFolders {
        let places = PolicyFolders {
            policies: root.join("policies"),
            schemas: root.join("schemas"),
        };
        std::fs::create_dir_all(places.policies.join("a")).unwrap();
        std::fs::create_dir_all(&places.schemas).unwrap();
        std::fs::write(places.policies.join("a/x.cedar"), "").unwrap();
        places
    }

    #[test]
    fn reading_the_tree_and_writing_beside_the_roots_do_not_wake_the_reloader() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let watch = Watch::new(Some(&places), WakeChannel::default());
        std::fs::read(places.policies.join("a/x.cedar")).unwrap();
        std::fs::write(root.path().join("decisions.jsonl"), "{}").unwrap();
        let quiet = watch.wake.receiver.recv_timeout(Duration::from_millis(200));
        assert_eq!(quiet, Err(RecvTimeoutError::Timeout));
        std::fs::write(places.policies.join("a/x.cedar"), "// edited").unwrap();
        watch.wake.receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn event_names_the_changed_entry_and_an_unclear_event_names_everything() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let watch = Watch::new(Some(&places), WakeChannel::default());
        assert_eq!(
            watch.take_changed(),
            Scope::Everything,
            "changes from before the watches were set are unknown"
        );
        let named = |names: &[&str]| Scope::Entries(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(watch.take_changed(), named(&[]));
        let changed = || {
            watch.wake.receiver.recv_timeout(Duration::from_secs(10)).unwrap();
            watch.settle();
            watch.take_changed()
        };
        std::fs::write(places.policies.join("a/x.cedar"), "// edited").unwrap();
        std::fs::write(places.schemas.join("a.cedarschema"), "").unwrap();
        assert_eq!(changed(), named(&["policies/a", "schemas/a.cedarschema"]));
        std::fs::rename(places.policies.join("a"), places.policies.join("b")).unwrap();
        assert_eq!(changed(), named(&["policies/a", "policies/b"]));
        std::fs::write(places.policies.join("..data"), "").unwrap();
        assert_eq!(changed(), Scope::Everything);
        let lost = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        watch.changed.add(&Ok(lost), &absolute_roots(&places));
        assert_eq!(watch.take_changed(), Scope::Everything);
    }

    #[test]
    fn replaced_root_wakes_the_reloader() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let watch = Watch::new(Some(&places), WakeChannel::default());
        std::fs::rename(&places.policies, root.path().join("old")).unwrap();
        watch.wake.receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn recreated_root_is_watched_even_with_the_same_inode() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let mut watch = Watch::new(Some(&places), WakeChannel::default());
        std::fs::remove_dir_all(&places.policies).unwrap();
        std::fs::create_dir_all(places.policies.join("a")).unwrap();
        watch.wake.receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        watch.settle();
        // as if the file system had given out the same inode again
        watch.roots = [&places.policies, &places.schemas].map(|p| FolderIdentity::of(p)).into();
        watch.renew(Some(&places));
        watch.settle();
        std::fs::write(places.policies.join("a/x.cedar"), "// edited").unwrap();
        watch.wake.receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
