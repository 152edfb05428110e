//! The tree as the page sees it.
//!
//! A snapshot is one reading of the tree, loaded once; it keeps each answer that takes long (`calls` computes it on its
//! first call). A changed file makes a new snapshot; a call under way finishes with its own. A tree that cannot be read
//! leaves a message in its place, and the next change tries again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::log::SharedLog;
use crate::cli::config_file::ConfigFile;
use crate::cli::tree::{TreeArgs, Workbench};
use crate::policy_folders::PolicyFolders;
use crate::workbench::CallRefusal;

/// Everything that the calls of a page are answered from.
pub(super) struct CallContext {
    pub tree: TreeArgs,
    pub config: ConfigFile,
    /// Empty: those of the configuration.
    pub logs: Vec<PathBuf>,
    pub gate: Option<PathBuf>,
    pub log: SharedLog,
    /// Written by `read`, read by every call.
    pub current: RwLock<Result<Arc<Snapshot>, String>>,
    /// Hears the identity of each new reading.
    pub changed: watch::Sender<String>,
}

/// One reading of the tree.
pub(super) struct Snapshot {
    pub workbench: Workbench,
    pub hash: String,
    config: Option<Vec<u8>>,
    pub findings: OnceLock<Bytes>,
    pub tests: OnceLock<Result<Bytes, String>>,
    /// Compared with the last commit.
    pub changes: OnceLock<Bytes>,
    /// By portal and tree.
    matrices: Mutex<Vec<ComputedMatrix>>,
    /// By portal.
    pub facts: Mutex<BTreeMap<String, Bytes>>,
}

/// A computed matrix. The lock around `answer` lets a second call wait for the first.
struct ComputedMatrix {
    portal: String,
    tree: String,
    answer: Arc<OnceLock<Result<Bytes, String>>>,
}

/// Matrices that are kept: one for each portal, and those of trees that were compared.
const MATRICES_MAX: usize = 64;

impl CallContext {
    /// Reads the tree, and announces it if anything differs.
    pub fn read(&self) {
        let config = self.tree.config_bytes();
        let opened = self.tree.open();
        let is_known = match (&*self.current.read(), &opened) {
            (Ok(known), Ok(opened)) => known.config == config && known.hash == hex::encode(opened.hash()),
            (Err(known), Err(message)) => known == message,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        if is_known {
            return;
        }
        let next = opened.map(|workbench| {
            workbench.keep();
            Arc::new(Snapshot {
                hash: hex::encode(workbench.hash()),
                workbench,
                config,
                findings: OnceLock::new(),
                tests: OnceLock::new(),
                changes: OnceLock::new(),
                matrices: Mutex::new(Vec::new()),
                facts: Mutex::default(),
            })
        });
        let identity = match &next {
            Ok(snapshot) => snapshot.hash.clone(),
            Err(_) => "unreadable".to_owned(),
        };
        *self.current.write() = next;
        // no page may be open
        self.changed.send_replace(identity);
    }

    /// The last reading; an error says why there is none.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, CallRefusal> {
        self.current.read().clone().map_err(|message| CallRefusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message,
        })
    }

    pub fn folders(&self) -> Option<PolicyFolders> {
        let snapshot = self.current.read().clone().ok()?;
        snapshot.workbench.folders().cloned()
    }
}

impl Snapshot {
    /// The place of a matrix; empty until a call computes it.
    pub fn kept(&self, portal: &str, tree: &str) -> Arc<OnceLock<Result<Bytes, String>>> {
        let mut matrices = self.matrices.lock();
        if let Some(kept) = matrices.iter().find(|kept| kept.portal == portal && kept.tree == tree) {
            return Arc::clone(&kept.answer);
        }
        if matrices.len() >= MATRICES_MAX {
            matrices.clear();
        }
        let answer = Arc::default();
        matrices.push(ComputedMatrix {
            portal: portal.to_owned(),
            tree: tree.to_owned(),
            answer: Arc::clone(&answer),
        });
        answer
    }
}
