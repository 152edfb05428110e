//! A gate as users run it: the program, a configuration file, its own process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use crate::load;
use crate::process::{Process, free_address};

/// The program built with this bench, or the one named by `BENCH_GATE`, to compare two builds.
fn program() -> OsString {
    std::env::var_os("BENCH_GATE").unwrap_or_else(|| env!("CARGO_BIN_EXE_cedargate").into())
}

pub struct Gate {
    pub process: Process,
    pub proxy: SocketAddr,
    pub decision: SocketAddr,
    pub admin: SocketAddr,
}

impl Gate {
    /// `config` is the configuration without `listen`; paths in it start at `folder`. Returns once it is ready.
    pub fn start(folder: &Path, name: &str, config: &str, core: Option<usize>) -> Result<Self, String> {
        let (proxy, decision, admin) = (free_address(), free_address(), free_address());
        let listen = format!(
            "listen: {{ proxy: {{ address: '{proxy}' }}, decision: {{ address: '{decision}' }}, admin: {{ address: '{admin}' }} }}\n"
        );
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, listen + config).map_err(|e| format!("`{}`: {e}", file.display()))?;
        let log = folder.join(format!("{name}.log"));
        let args = ["serve".as_ref(), "--config".as_ref(), file.as_os_str()];
        let mut process = Process::start_logged(core, program(), &args, &log)?;
        let question = load::request("GET", "/readyz", &[], None);
        let ready = || load::ask(admin, &question).is_ok_and(|(status, _)| status == 200);
        process
            .wait_until(ready)
            .map_err(|e| format!("{e}: {}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(Self {
            process,
            proxy,
            decision,
            admin,
        })
    }
}
