//! Waits for something to happen to the policy tree.
//!
//! Watches folders, never files: a file that is replaced is another file. The roots' parents are watched too, for a
//! root that is replaced as a whole. Whatever the kernel does not tell is found by polling; an event is only a hint.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::lifecycle::Shutdown;
use crate::revision::files::Places;

/// After an event, quiet for so long means the writer is done.
const SETTLE: Duration = Duration::from_millis(20);
/// Somebody who never stops writing is not waited for.
const SETTLE_MAX: Duration = Duration::from_millis(250);
/// How often a sleeping watcher looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(100);

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
    /// A root itself was touched; a new folder may well get the old one's inode. Set by the watcher, cleared by `follow`.
    root_touched: Arc<AtomicBool>,
}

impl Watch {
    /// Whoever has a copy of the sender can wake it, too.
    pub fn new(places: &Places, (sender, events): (Sender<()>, Receiver<()>)) -> Self {
        let mut watch = Self {
            watcher: None,
            sender,
            events,
            identity: Vec::new(),
            root_touched: Arc::default(),
        };
        watch.follow(places);
        watch
    }

    /// Watches the folders as they are now: a replaced folder is another one.
    ///
    /// With a watcher made anew, and the old one dropped only then: taking watches back and setting them again on one
    /// watcher can lose them where a folder is reached by two names, as in kubelet's mounts.
    pub fn follow(&mut self, places: &Places) {
        let roots = [places.policies.as_path(), places.schemas.as_path()];
        let identity: Vec<_> = roots.iter().map(|root| inode(root)).collect();
        let touched = self.root_touched.swap(false, Ordering::AcqRel);
        if identity == self.identity && !touched {
            return;
        }
        self.identity = identity;
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
        let (sender, touched) = (self.sender.clone(), Arc::clone(&self.root_touched));
        notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // an error is a hint, too: something was missed
            if event.as_ref().is_ok_and(|event| !concerns(event, &roots)) {
                return;
            }
            if event.is_ok_and(|event| event.paths.iter().any(|path| roots.contains(path))) {
                touched.store(true, Ordering::Release);
            }
            // the receiver is gone only while stopping
            let _stopping = sender.send(()).is_err();
        })
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
fn absolute_roots(places: &Places) -> Vec<PathBuf> {
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

    fn places(root: &Path) -> Places {
        let places = Places {
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
