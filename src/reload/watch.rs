//! Waits for something to happen to the policy tree.
//!
//! Watches folders, never files: a file that is replaced is another file. The roots' parents are watched too, for a
//! root that is replaced as a whole. Whatever the kernel does not tell is found by polling; an event is only a hint.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

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
    events: Receiver<()>,
    identity: Vec<Option<(u64, u64)>>,
}

impl Watch {
    pub fn new(places: &Places) -> Self {
        let (sender, events) = channel();
        let watcher = notify::recommended_watcher(move |_event| {
            // the receiver is gone only while stopping
            let _stopping = sender.send(()).is_err();
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "no file watches; polling alone"))
            .ok();
        let mut watch = Self {
            watcher,
            events,
            identity: Vec::new(),
        };
        watch.follow(places);
        watch
    }

    /// Watches the folders as they are now: a replaced folder is another one.
    pub fn follow(&mut self, places: &Places) {
        let roots = [places.policies.as_path(), places.schemas.as_path()];
        let identity: Vec<_> = roots.iter().map(|root| inode(root)).collect();
        if identity == self.identity {
            return;
        }
        self.identity = identity;
        let Some(watcher) = &mut self.watcher else { return };
        for root in roots {
            // not watched before, or gone: both are fine
            let _was_not_watched = watcher.unwatch(root).is_err();
            if let Err(error) = watcher.watch(root, RecursiveMode::Recursive) {
                tracing::debug!(%error, root = %root.display(), "not watched; polling");
            }
            let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if let Err(error) = watcher.watch(parent, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, parent = %parent.display(), "not watched; polling");
            }
        }
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

fn inode(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
