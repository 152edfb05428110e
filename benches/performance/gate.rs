//! A gate as users run it: the program, a configuration file, its own process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::load;
use crate::process::{Process, free_address};

/// The program that cargo built into the folder of this bench's profile, or the one that `BENCH_GATE` names, to compare
/// two builds.
pub fn program() -> Result<PathBuf, String> {
    if let Some(program) = std::env::var_os("BENCH_GATE") {
        return Ok(program.into());
    }
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    // a bench is in `deps` beside it
    let program = own.ancestors().nth(2).map(|folder| folder.join("cedargate"));
    program
        .filter(|program| program.is_file())
        .ok_or_else(|| "the program `cedargate` is not built in the profile of this bench: run `cargo build` first".to_owned())
}

/// A gate of another build, or with another listener.
pub struct Other<'a> {
    pub program: &'a Path,
    /// Name of its files.
    pub name: &'a str,
    /// More keys of `listen.proxy`, from a comma on.
    pub proxy_keys: &'a str,
    /// False for builds that have no listener for Envoy.
    pub serves_envoy: bool,
}

pub struct Gate {
    pub process: Process,
    pub proxy: SocketAddr,
    pub decision: SocketAddr,
    pub ext_authz: SocketAddr,
    pub admin: SocketAddr,
}

impl Gate {
    /// Starts a gate and returns once it is ready. `config` is the configuration without `listen`; paths in it start at
    /// `folder`.
    pub fn start(folder: &Path, name: &str, config: &str, core: Option<usize>) -> Result<Self, String> {
        let program = program()?;
        let other = Other {
            program: &program,
            name,
            proxy_keys: "",
            serves_envoy: true,
        };
        Self::start_other(&other, folder, config, core)
    }

    /// The same for a gate that differs from the others.
    pub fn start_other(other: &Other<'_>, folder: &Path, config: &str, core: Option<usize>) -> Result<Self, String> {
        let Other {
            program,
            name,
            proxy_keys,
            serves_envoy,
        } = other;
        let proxy = free_address();
        let decision = free_address();
        let ext_authz = free_address();
        let admin = free_address();
        let envoy = match serves_envoy {
            true => format!(", ext_authz: {{ address: '{ext_authz}' }}"),
            false => String::new(),
        };
        let listen = format!(
            "listen: {{ proxy: {{ address: '{proxy}'{proxy_keys} }}, decision: {{ address: '{decision}' }}{envoy}, admin: {{ address: '{admin}' }} }}\n"
        );
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, listen + config).map_err(|e| format!("`{}`: {e}", file.display()))?;
        let log = folder.join(format!("{name}.log"));
        let args = ["serve".as_ref(), "--config".as_ref(), file.as_os_str()];
        let mut process = Process::start_logged(core, program, &args, &log)?;
        let probe = load::request("GET", "/readyz", &[], None);
        let ready = || load::ask(admin, &probe).is_ok_and(|(status, _)| status == 200);
        process
            .wait_until(ready)
            .map_err(|e| format!("{e}: {}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(Self {
            process,
            proxy,
            decision,
            ext_authz,
            admin,
        })
    }
}
