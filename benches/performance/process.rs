//! A server beside this one: started on loopback, pinned, waited for, and ended whatever happens.
//!
//! Dropping ends it. Where this process is killed (Ctrl-C too) the kernel ends it, through `setpriv --pdeathsig`; that holds
//! for the death of the *thread* that started it as well, so start servers from the main thread.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::{anonymous, cpu_time, pause, resident};

/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(30);

pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Output goes nowhere.
    pub fn start<A: AsRef<OsStr>>(core: Option<usize>, program: impl AsRef<OsStr>, args: &[A]) -> Result<Self, String> {
        Self::start_with(core, program.as_ref(), args, |command| {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        })
    }

    /// What it says goes to a file, for when it does not start.
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
        // both become the program: the process id stays the same
        command.arg(program).args(args).stdin(Stdio::null());
        change(&mut command);
        let what = program.to_string_lossy().into_owned();
        let child = command.spawn().map_err(|e| format!("`setpriv` for `{what}`: {e}"))?;
        Ok(Self { child, what })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All its threads so far.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.pid())
    }

    /// MiB.
    pub fn resident(&self) -> f64 {
        resident(self.pid())
    }

    pub fn anonymous(&self) -> f64 {
        anonymous(self.pid())
    }

    /// Until `ready` says so; an error if it ends first, or takes too long.
    pub fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<(), String> {
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            if ready() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("`{}` ended: {status}", self.what));
            }
            pause(Duration::from_millis(5));
        }
        Err(format!("`{}` was not ready in {START_MAX:?}", self.what))
    }

    pub fn wait_for(&mut self, address: SocketAddr) -> Result<(), String> {
        self.wait_until(|| TcpStream::connect(address).is_ok())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // an error here means that it has ended
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port on loopback that nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
