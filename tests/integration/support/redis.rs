//! A real redis-server in a temporary folder, on a port of its own, ended with the test.
//!
//! `Redis::start()` for the plain one; `Redis::setup()` for passwords, ACLs, TLS and data that outlives a restart.
//! `many` has Sentinel and Cluster, `partition` a network that can be cut.

#![allow(dead_code, reason = "a harness has more handles than each of its users needs")]

mod topologies;
mod partition;
mod redis_harness_tests;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::certificates::Authority;
use crate::support::processes::{Supervised, free_port};
use crate::support::tools::tool;
use crate::support::{eventually, put};
pub use partition::Partition;
pub use topologies::{Cluster, Sentinel};

/// Name and password of `cli` where an ACL file restricts access.
const HARNESS: (&str, &str) = ("harness", "h4rness");
/// Servers tried on other ports before giving up.
const STARTS_MAX: usize = 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientCertificate {
    Ignored,
    Required,
}

/// The options of a server to start.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    password: Option<String>,
    acl: Option<String>,
    tls: Option<ClientCertificate>,
    lines: Vec<String>,
    is_sentinel: bool,
}

impl Setup {
    /// `requirepass`.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Lines of an ACL file (`user gate on >secret ~cedargate:* +@all`); `cli` has a user of its own beside them.
    pub fn acl(mut self, lines: &str) -> Self {
        self.acl = Some(lines.to_owned());
        self
    }

    /// TLS and nothing but TLS; certificates are in the folder: `ca.crt`, `client.crt`, `client.key`.
    pub fn tls(mut self, clients: ClientCertificate) -> Self {
        self.tls = Some(clients);
        self
    }

    /// Data outlives `restart`.
    pub fn appendonly(self) -> Self {
        self.line("appendonly yes").line("appendfsync always")
    }

    /// Any line of redis.conf.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Starts on a free port; tries another port if a different process took it meanwhile.
    pub fn start(self) -> Redis {
        for _ in 0..STARTS_MAX {
            let folder = tempfile::tempdir().unwrap();
            let port = free_port();
            self.write(folder.path(), port);
            let process = launch(folder.path(), &self);
            let mut redis = Redis {
                setup: self.clone(),
                folder,
                port,
                process,
            };
            if redis.comes_up() {
                return redis;
            }
        }
        panic!("redis-server finds no port");
    }

    fn write(&self, folder: &Path, port: u16) {
        let mut conf = format!(
            "bind 127.0.0.1\ndir {}\nsave \"\"\ndaemonize no\nprotected-mode no\n",
            folder.display()
        );
        match self.tls {
            None => writeln!(conf, "port {port}").unwrap(),
            Some(clients) => {
                let authority = Authority::new("redis");
                put(folder, "ca.crt", &authority.pem);
                for name in ["server", "client"] {
                    let pair = authority.issue_for(&["localhost", "127.0.0.1"]);
                    put(folder, &format!("{name}.crt"), &pair.cert);
                    put(folder, &format!("{name}.key"), &pair.key);
                }
                let auth = if clients == ClientCertificate::Required { "yes" } else { "no" };
                writeln!(
                    conf,
                    "port 0\ntls-port {port}\ntls-cert-file server.crt\ntls-key-file server.key\n\
                     tls-ca-cert-file ca.crt\ntls-auth-clients {auth}\ntls-replication yes"
                )
                .unwrap();
            }
        }
        if let Some(password) = &self.password {
            writeln!(conf, "requirepass {password}").unwrap();
        }
        if let Some(acl) = &self.acl {
            let (name, password) = HARNESS;
            put(
                folder,
                "users.acl",
                &format!("{acl}\nuser {name} on >{password} ~* &* +@all\n"),
            );
            writeln!(conf, "aclfile {}", folder.join("users.acl").display()).unwrap();
        }
        for line in &self.lines {
            writeln!(conf, "{line}").unwrap();
        }
        put(folder, "redis.conf", &conf);
    }
}

fn launch(folder: &Path, setup: &Setup) -> Supervised {
    let mut args = vec![folder.join("redis.conf").display().to_string()];
    if setup.is_sentinel {
        args.push("--sentinel".to_owned());
    }
    Supervised::start(&tool(&["redis-server"]), &args, &folder.join("log"))
}

/// One server.
#[derive(Debug)]
pub struct Redis {
    setup: Setup,
    folder: tempfile::TempDir,
    pub port: u16,
    process: Supervised,
}

impl Redis {
    pub fn start() -> Self {
        Self::setup().start()
    }

    pub fn setup() -> Setup {
        Setup::default()
    }

    /// The URL, with the password of the default user if there is one.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls.is_some() { "rediss" } else { "redis" };
        let password = self.setup.password.as_ref().map(|p| format!(":{p}@")).unwrap_or_default();
        format!("{scheme}://{password}127.0.0.1:{}", self.port)
    }

    /// A file of its folder: `ca.crt`, `client.crt`, `client.key`, `redis.conf`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its log since the last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Stops the process: it keeps its connections, accepts new ones and answers none.
    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts again on the same port; without `appendonly` its data is gone.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(self.folder.path(), &self.setup);
        assert!(self.comes_up(), "port {} is taken: {}", self.port, self.log());
    }

    /// The output of redis-cli without the last line feed; an error of Redis is its text.
    pub fn cli(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        said.trim_end().to_owned()
    }

    /// One value of `INFO`.
    pub fn info(&self, name: &str) -> String {
        let all = self.cli(&["info", "everything"]);
        let found = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim().to_owned()
    }

    /// Waits until so many replicas have everything that was written so far.
    pub fn until_replicated(&self, replicas: usize) {
        let written: u64 = self.info("master_repl_offset").parse().unwrap();
        eventually("the replicas have it all", || {
            let said = self.cli(&["info", "replication"]);
            let offset = |line: &str| line.split("offset=").nth(1)?.split(',').next()?.parse::<u64>().ok();
            let online = said.lines().filter(|line| line.contains("state=online"));
            if online.filter_map(offset).filter(|at| *at >= written).count() == replicas {
                Ok(())
            } else {
                Err(said)
            }
        });
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(tool(&["redis-cli"]));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "--no-auth-warning"]);
        if self.setup.acl.is_some() {
            command.args(["--user", HARNESS.0, "--pass", HARNESS.1]);
        } else if let Some(password) = &self.setup.password {
            command.args(["--pass", password]);
        }
        if self.setup.tls.is_some() {
            command.arg("--tls");
            for (flag, file) in [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")] {
                command.arg(flag).arg(self.path(file));
            }
        }
        command.args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// True if this very process answers on the port; false if it ended instead.
    fn comes_up(&mut self) -> bool {
        let own = format!("process_id:{}", self.process.pid);
        eventually("redis-server answers", || {
            if !self.process.is_running() {
                let log = self.log();
                let is_taken = log.contains("Address already in use");
                assert!(is_taken, "redis-server does not start: {log}");
                return Ok(false);
            }
            let said = self.cli(&["info", "server"]);
            let is_own = said.lines().any(|line| line.trim() == own);
            if is_own { Ok(true) } else { Err(said) }
        })
    }
}
