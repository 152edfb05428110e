//! A server as a process of its own: started on loopback, pinned, awaited, measured through `/proc`, ended in every
//! case.
//!
//! Dropping a `Process` kills it. If this program is killed (Ctrl-C too), the kernel kills the server, because it was
//! started through `setpriv --pdeathsig`. The kernel does so when the *thread* that started the server ends, so start
//! servers from the main thread.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::pause;

/// Longest time for a server to start.
const START_MAX: Duration = Duration::from_secs(30);

/// Longest time for a server to end.
const END_MAX: Duration = Duration::from_secs(30);

pub struct Process {
    child: Child,
    program: String,
}

impl Process {
    /// Starts a program and discards its output.
    pub fn start<A: AsRef<OsStr>>(core: Option<usize>, program: impl AsRef<OsStr>, args: &[A]) -> Result<Self, String> {
        Self::start_with(core, program.as_ref(), args, |command| {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        })
    }

    /// Starts a program and writes its output to `log`, to be read when it does not start.
    pub fn start_logged<A: AsRef<OsStr>>(
        core: Option<usize>,
        program: impl AsRef<OsStr>,
        args: &[A],
        log: &Path,
    ) -> Result<Self, String> {
        let file = File::create(log).map_err(|e| format!("`{}`: {e}", log.display()))?;
        let copy = file.try_clone().map_err(|e| e.to_string())?;
        Self::start_with(core, program.as_ref(), args, |command| {
            command.stdout(file).stderr(copy);
        })
    }

    fn start_with<A: AsRef<OsStr>>(
        core: Option<usize>,
        program: &OsStr,
        args: &[A],
        change: impl FnOnce(&mut Command),
    ) -> Result<Self, String> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(core) = core {
            command.args(["taskset", "-c", &core.to_string()]);
        }
        // setpriv and taskset replace themselves by the program: the process id stays the same
        command.arg(program).args(args).stdin(Stdio::null());
        change(&mut command);
        let program = program.to_string_lossy().into_owned();
        let child = command.spawn().map_err(|e| format!("`setpriv` for `{program}`: {e}"))?;
        Ok(Self { child, program })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all threads that live.
    pub fn cpu_time(&self) -> Duration {
        self.thread_times().values().sum()
    }

    /// CPU time of each thread that lives.
    pub fn thread_times(&self) -> BTreeMap<u32, Duration> {
        self.schedule(0)
    }

    /// The time in which its threads could have run and waited for a core.
    pub fn waited(&self) -> Duration {
        self.schedule(1).values().sum()
    }

    /// Resident memory in MiB.
    pub fn resident(&self) -> f64 {
        self.memory("VmRSS:")
    }

    /// Resident memory that no file backs, in MiB. The text of the program is not in it: all its processes share that.
    pub fn anonymous(&self) -> f64 {
        self.memory("RssAnon:")
    }

    /// One column of `schedstat` for each thread, in nanoseconds there.
    fn schedule(&self, column: usize) -> BTreeMap<u32, Duration> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()))
            .into_iter()
            .flatten()
            .flatten();
        let times = tasks.filter_map(|task| {
            let thread = task.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let nanos = text.split_whitespace().nth(column)?.parse().ok()?;
            Some((thread, Duration::from_nanos(nanos)))
        });
        times.collect()
    }

    fn memory(&self, kind: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix(kind));
        let kib = kib.and_then(|kib| kib.split_whitespace().next()?.parse::<u32>().ok());
        f64::from(kib.unwrap_or_default()) / 1024.0
    }

    /// Waits until `ready` returns true. Fails if the process ends first or takes longer than `START_MAX`.
    pub fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<(), String> {
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            if ready() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("`{}` ended: {status}", self.program));
            }
            pause(Duration::from_millis(5));
        }
        Err(format!("`{}` was not ready in {START_MAX:?}", self.program))
    }

    /// Asks the process to end, as an operator does, and waits until it has ended without a failure.
    pub fn end(mut self) {
        let id = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let until = Instant::now() + END_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "`{}` did not end in {END_MAX:?}", self.program);
            pause(Duration::from_millis(5));
        };
        assert!(status.success(), "`{}` ended: {status}", self.program);
    }

    /// Waits until the address accepts connections.
    pub fn wait_for(&mut self, address: SocketAddr) -> Result<(), String> {
        self.wait_until(|| TcpStream::connect(address).is_ok())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // an error here means that the process has ended
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A free port on loopback.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
