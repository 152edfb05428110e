//! `cedargate test --watch`: runs the tests again after each change of the files.
//!
//! Events of the kernel wake it, as they wake the reloader; a look at the files every second finds what no event names,
//! such as an edit of the configuration. The tests run again only if a file differs, so an editor that writes a file
//! twice starts one run. A tree that cannot be read is shown, and the next change tries again. Ctrl-c ends the process.

use std::io::IsTerminal;
use std::time::Duration;

use super::{Args, test};
use crate::base::lifecycle::shutdown;
use crate::cli::tree::Workbench;
use crate::cli::{Exit, complain, print};
use crate::policy_folders::PolicyFolders;
use crate::reload::{WakeChannel, Watch};

/// Pause between two looks at the files without an event.
const POLL: Duration = Duration::from_secs(1);
/// Clears screen and scrollback, and goes to the first line.
const CLEAR: &str = "\x1b[2J\x1b[3J\x1b[H";

/// The files of one run.
#[derive(Eq, PartialEq)]
struct FilesOfRun {
    config: Option<Vec<u8>>,
    files: Result<[u8; 32], String>,
}

pub(super) fn run(args: &Args) -> Exit {
    let (_never_stops, shutdown) = shutdown();
    let mut watch = Watch::new(None, WakeChannel::default());
    let mut last: Option<FilesOfRun> = None;
    loop {
        let opened = args.tree.open();
        let folders: Option<PolicyFolders> = opened.as_ref().ok().and_then(Workbench::folders).cloned();
        watch.renew(folders.as_ref());
        let seen = FilesOfRun {
            config: args.tree.config_bytes(),
            files: opened.as_ref().map(Workbench::hash).map_err(Clone::clone),
        };
        if last.as_ref() != Some(&seen) {
            if std::io::stdout().is_terminal() {
                print(CLEAR);
            }
            if let Err(message) = opened.and_then(|workbench| test(args, &workbench)) {
                complain(&message);
            }
            complain("watching for changes; ctrl-c ends");
            last = Some(seen);
        }
        watch.wait(POLL, &shutdown);
    }
}
