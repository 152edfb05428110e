//! One busy loop of the lowest class per core, which keeps virtual CPUs awake while anything is measured.

use crate::machine::{cores, pinned};
use crate::process::Process;

/// The running loops; dropping ends them.
///
/// A loop runs only while no other thread needs its core. The host puts an idle virtual CPU to sleep and takes up to a
/// millisecond to wake it; without the loops a bench would measure these wake-ups.
pub struct Spinners {
    _processes: Vec<Process>,
}

impl Spinners {
    pub fn start() -> Self {
        let all = (0..cores()).filter_map(|core| {
            let core = pinned(core);
            Process::start(core, "chrt", &["-i", "0", "sh", "-c", "while :; do :; done"]).ok()
        });
        Self {
            _processes: all.collect(),
        }
    }
}
