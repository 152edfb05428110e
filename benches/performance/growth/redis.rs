//! A Redis server of this bench, which can be paused: it then keeps its connections and does not answer.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use crate::machine::{REST, pinned};
use crate::process::{Process, free_address};

pub struct Redis {
    process: Process,
    pub address: SocketAddr,
    _folder: TempDir,
}

impl Redis {
    /// `None` if `redis-server` is not installed.
    pub fn start() -> Option<Self> {
        Command::new("redis-server").arg("--version").output().ok()?;
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let port = address.port().to_string();
        let home = folder.path().to_string_lossy();
        let args = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", &home];
        let mut process = Process::start(pinned(REST), "redis-server", &args).unwrap();
        process.wait_for(address).unwrap();
        Some(Self {
            process,
            address,
            _folder: folder,
        })
    }

    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.pid().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}
