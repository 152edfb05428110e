//! The machine: which core does what, what a process used of it, and what it is.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::process::Process;

/// What is measured runs alone on the first core; app and load share the second. Without two cores nothing is pinned.
pub const DEVICE: usize = 0;
pub const REST: usize = 1;

/// As many as this process had before it was pinned.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
}

/// `None` where there are not enough cores to give them away.
pub fn pinned(core: usize) -> Option<usize> {
    (cores() > 1).then_some(core)
}

/// The calling thread, and what it starts from now on, run on this core only, or again on all.
pub fn pin_thread(core: Option<usize>) -> Result<(), String> {
    let mut set = CpuSet::new();
    match core {
        Some(core) => set.set(core),
        None => (0..cores()).for_each(|core| set.set(core)),
    }
    sched_setaffinity(None, &set).map_err(|e| e.to_string())
}

/// Waits without using the CPU.
#[expect(clippy::disallowed_methods, reason = "nobody else runs on this thread")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// One busy loop per core that runs only when nobody else wants to. An idle virtual CPU is put to sleep by the host and takes
/// up to a millisecond to wake, which would be measured instead of the gate.
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

/// CPU time of all threads of a process that live.
pub fn cpu_time(pid: u32) -> Duration {
    thread_times(pid).values().sum()
}

/// CPU time of each thread that lives.
pub fn thread_times(pid: u32) -> BTreeMap<u32, Duration> {
    schedule(pid, 0)
}

/// How long its threads could have run and waited for a core.
pub fn waited(pid: u32) -> Duration {
    schedule(pid, 1).values().sum()
}

fn schedule(pid: u32, column: usize) -> BTreeMap<u32, Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let thread = task.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = text.split_whitespace().nth(column)?.parse().ok()?;
        Some((thread, Duration::from_nanos(nanos)))
    });
    times.collect()
}

/// Resident memory in MiB.
pub fn resident(pid: u32) -> f64 {
    memory(pid, "VmRSS:")
}

/// What of it is no file's: the program's text is shared by all that run it.
pub fn anonymous(pid: u32) -> f64 {
    memory(pid, "RssAnon:")
}

fn memory(pid: u32, kind: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix(kind));
    let kib = kib.and_then(|kib| kib.split_whitespace().next()?.parse::<u32>().ok());
    f64::from(kib.unwrap_or_default()) / 1024.0
}

/// Share of the time that the host gave to others since the machine started: take two, and subtract.
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

    /// Per cent stolen since `before`.
    pub fn stolen_since(self, before: Self) -> f64 {
        let all = self.all - before.all;
        if all > 0.0 {
            (self.stolen - before.stolen) / all * 100.0
        } else {
            0.0
        }
    }
}

/// What a reader has to know of the machine, as names and values.
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
