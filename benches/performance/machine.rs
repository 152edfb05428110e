//! The machine: which core runs which program, and the facts that the report states about it.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

/// The core of the measured program, which runs alone there. On a machine with one core nothing is pinned.
pub const DEVICE: usize = 0;
/// The core of the app and the load generator.
pub const REST: usize = 1;

/// The number of cores that this process had before it was pinned.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
}

/// The core to pin to; `None` on a machine with one core.
pub fn pinned(core: usize) -> Option<usize> {
    (cores() > 1).then_some(core)
}

/// Pins the calling thread, and the threads and processes that it starts from now on, to this core, or to all cores.
pub fn pin_thread(core: Option<usize>) -> Result<(), String> {
    let mut set = CpuSet::new();
    match core {
        Some(core) => set.set(core),
        None => (0..cores()).for_each(|core| set.set(core)),
    }
    sched_setaffinity(None, &set).map_err(|e| e.to_string())
}

/// Waits without using the CPU.
#[expect(clippy::disallowed_methods, reason = "no runtime uses this thread")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// CPU ticks since the machine started, and of them those that the host gave to other machines. The difference of two
/// readings tells the share that was stolen in between.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    stolen: f64,
    all: f64,
}

impl Ticks {
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        Self {
            stolen: ticks.get(7).copied().unwrap_or_default(),
            all: ticks.iter().take(8).sum(),
        }
    }

    /// Returns the per cent of CPU time that the host gave to other machines since `before`.
    pub fn stolen_since(self, before: Self) -> f64 {
        let all = self.all - before.all;
        if all > 0.0 {
            (self.stolen - before.stolen) / all * 100.0
        } else {
            0.0
        }
    }
}

/// Names and values of the machine for the report.
pub fn facts() -> Vec<(String, String)> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let memory = memory.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default();
    let model = model.map_or("unknown", |(_, model)| model);
    let virtual_machine = if cpus.contains(" hypervisor") { ", virtual" } else { "" };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        ("CPU".to_owned(), format!("{model}, {} cores{virtual_machine}", cores())),
        ("memory".to_owned(), format!("{} GiB", memory / 1024 / 1024)),
        ("kernel".to_owned(), kernel.trim().to_owned()),
    ]
}
