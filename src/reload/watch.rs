//! Waits for something to happen to the policy tree.
//!
//! Watches folders, never files: a file that is replaced is another file. The roots' parents are watched too, for a
//! root that is replaced as a whole. Whatever the kernel does not tell is found by polling; an event is only a hint.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::base::lifecycle::Shutdown;
use crate::policy_folders::{PolicyFolders, Scope};

/// After an event, quiet for so long means the writer is done.
const SETTLE: Duration = Duration::from_millis(20);
/// Somebody who never stops writing is not waited for.
const SETTLE_MAX: Duration = Duration::from_millis(250);
/// How often a sleeping watcher looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// Entries remembered between two looks; past it everything is read, which costs no more.
const TOUCHED_MAX: usize = 1000;

/// Why `wait` returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    Event,
    Poll,
    Stopping,
}

pub struct Watch {
    /// `None` where the kernel gives no watches: polling alone remains.
    watcher: Option<RecommendedWatcher>,
    sender: Sender<()>,
    events: Receiver<()>,
    identity: Vec<Option<Identity>>,
    touched: Touched,
    /// A root itself was touched; a new folder may well get the old one's inode. Set by the watcher, cleared by `follow`.
    root_touched: Arc<AtomicBool>,
}

/// What events named since the last look. Written by the watcher, emptied by `Watch::touched`.
#[derive(Clone)]
struct Touched(Arc<Mutex<Scope>>);

impl Touched {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Scope::Entries(BTreeSet::new()))))
    }

    // Every state of it is a whole one.
    fn scope(&self) -> MutexGuard<'_, Scope> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event that names no entry may mean any.
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
        let mut scope = self.scope();
        match (&mut *scope, named) {
            (Scope::Entries(touched), Some(names)) if touched.len() + names.len() <= TOUCHED_MAX => touched.extend(names),
            _ => *scope = Scope::Everything,
        }
    }

    fn take(&self) -> Scope {
        std::mem::replace(&mut *self.scope(), Scope::Entries(BTreeSet::new()))
    }
}

/// `policies/customer` for whatever is in that folder. A hidden entry of a root is kubelet's: behind it is everything.
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
    /// Whoever has a copy of the sender can wake it, too.
    pub fn new(places: &PolicyFolders, (sender, events): (Sender<()>, Receiver<()>)) -> Self {
        let mut watch = Self {
            watcher: None,
            sender,
            events,
            identity: Vec::new(),
            touched: Touched::new(),
            root_touched: Arc::default(),
        };
        watch.follow(places);
        watch
    }

    /// Watches the folders as they are now: a replaced folder is another one.
    ///
    /// With a watcher made anew, and the old one dropped only then: taking watches back and setting them again on one
    /// watcher can lose them where a folder is reached by two names, as in kubelet's mounts.
    pub fn follow(&mut self, places: &PolicyFolders) {
        let roots = [places.policies.as_path(), places.schemas.as_path()];
        let identity: Vec<_> = roots.iter().map(|root| inode(root)).collect();
        let touched = self.root_touched.swap(false, Ordering::AcqRel);
        if identity == self.identity && !touched {
            return;
        }
        self.identity = identity;
        *self.touched.scope() = Scope::Everything;
        let made = self.watcher(absolute_roots(places));
        let made = made.inspect_err(|error| tracing::warn!(%error, "no file watches; polling alone"));
        let Ok(mut watcher) = made else { return };
        // parents first: a root that appears from here on is announced
        for root in roots {
            let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if let Err(error) = watcher.watch(parent, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, parent = %parent.display(), "not watched; polling");
            }
        }
        for root in roots {
            if let Err(error) = watcher.watch(root, RecursiveMode::Recursive) {
                tracing::debug!(%error, root = %root.display(), "not watched; polling");
            }
        }
        self.watcher = Some(watcher);
    }

    fn watcher(&self, roots: Vec<PathBuf>) -> notify::Result<RecommendedWatcher> {
        let (sender, touched) = (self.sender.clone(), self.touched.clone());
        let root_touched = Arc::clone(&self.root_touched);
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // an error is a hint, too: something was missed
            if event.as_ref().is_ok_and(|event| !concerns(event, &roots)) {
                return;
            }
            touched.add(&event, &roots);
            if event.is_ok_and(|event| event.paths.iter().any(|path| roots.contains(path))) {
                root_touched.store(true, Ordering::Release);
            }
            // the receiver is gone only while stopping
            let _stopping = sender.send(()).is_err();
        })
    }

    /// What may have changed since this was asked before. Ask before looking: what is touched meanwhile counts next time.
    pub fn touched(&self) -> Scope {
        self.touched.take()
    }

    /// Returns after `pause`, or sooner once something happened and then stayed quiet.
    pub fn wait(&self, pause: Duration, shutdown: &Shutdown) -> Woken {
        let deadline = Instant::now() + pause;
        loop {
            if shutdown.is_draining() {
                return Woken::Stopping;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Poll;
            }
            match self.events.recv_timeout(left.min(STOP_CHECK)) {
                Ok(()) => {
                    self.settle();
                    return Woken::Event;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(left.min(STOP_CHECK)),
            }
        }
    }

    fn settle(&self) {
        let started = Instant::now();
        while started.elapsed() < SETTLE_MAX && self.events.recv_timeout(SETTLE).is_ok() {}
        while self.events.try_recv().is_ok() {}
    }
}

/// As `notify` names them in its events.
fn absolute_roots(places: &PolicyFolders) -> Vec<PathBuf> {
    let roots = [&places.policies, &places.schemas];
    roots
        .into_iter()
        .map(|root| std::path::absolute(root).unwrap_or_else(|_| root.clone()))
        .collect()
}

/// Neither our own reading of the tree nor a neighbour of the roots may wake us: a look would cause the next one, and
/// a decision log beside the policies would make every request a look.
fn concerns(event: &notify::Event, roots: &[PathBuf]) -> bool {
    let only_read = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let inside = |path: &PathBuf| roots.iter().any(|root| path.starts_with(root));
    !only_read && (event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(inside))
}

/// Device, inode and birth: a folder that is made anew may get the old one's inode.
type Identity = (u64, u64, Option<SystemTime>);

fn inode(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.created().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

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
    fn our_own_reading_and_the_files_beside_the_roots_wake_nobody() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let watch = Watch::new(&places, channel());
        std::fs::read(places.policies.join("a/x.cedar")).unwrap();
        std::fs::write(root.path().join("decisions.jsonl"), "{}").unwrap();
        let quiet = watch.events.recv_timeout(Duration::from_millis(200));
        assert_eq!(quiet, Err(RecvTimeoutError::Timeout));
        std::fs::write(places.policies.join("a/x.cedar"), "// edited").unwrap();
        watch.events.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn events_name_the_entry_that_may_have_changed_and_a_doubtful_one_names_all() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let watch = Watch::new(&places, channel());
        assert_eq!(
            watch.touched(),
            Scope::Everything,
            "nobody knows what was before the watches stood"
        );
        let named = |names: &[&str]| Scope::Entries(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(watch.touched(), named(&[]));
        let told = || {
            watch.events.recv_timeout(Duration::from_secs(10)).unwrap();
            watch.settle();
            watch.touched()
        };
        std::fs::write(places.policies.join("a/x.cedar"), "// edited").unwrap();
        std::fs::write(places.schemas.join("a.cedarschema"), "").unwrap();
        assert_eq!(told(), named(&["policies/a", "schemas/a.cedarschema"]));
        std::fs::rename(places.policies.join("a"), places.policies.join("b")).unwrap();
        assert_eq!(told(), named(&["policies/a", "policies/b"]));
        std::fs::write(places.policies.join("..data"), "").unwrap();
        assert_eq!(told(), Scope::Everything);
        let lost = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        watch.touched.add(&Ok(lost), &absolute_roots(&places));
        assert_eq!(watch.touched(), Scope::Everything);
    }

    #[test]
    fn a_root_that_is_replaced_wakes_us() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let watch = Watch::new(&places, channel());
        std::fs::rename(&places.policies, root.path().join("old")).unwrap();
        watch.events.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_root_that_is_made_anew_is_watched_even_with_the_same_inode() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let mut watch = Watch::new(&places, channel());
        std::fs::remove_dir_all(&places.policies).unwrap();
        std::fs::create_dir_all(places.policies.join("a")).unwrap();
        watch.events.recv_timeout(Duration::from_secs(10)).unwrap();
        watch.settle();
        // as if the file system had given out the same inode again
        watch.identity = [&places.policies, &places.schemas].map(|p| inode(p)).to_vec();
        watch.follow(&places);
        watch.settle();
        std::fs::write(places.policies.join("a/x.cedar"), "// edited").unwrap();
        watch.events.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
