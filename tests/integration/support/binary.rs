//! The built binary, its folder and its process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::processes::free_port;
use super::{Issuer, OPEN_POLICY, OPEN_SCHEMA, PAGE, eventually, put};

pub fn cedargate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cedargate"));
    command
        .args(arguments)
        .env_remove("CEDARGATE_CONFIG")
        .env("CEDARGATE_LOG", "warn");
    command
}

pub fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    run_with(folder, arguments, &[])
}

/// The same with these variables in the environment.
pub fn run_with(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = cedargate(arguments);
    let output: Output = command
        .envs(environment.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A loopback address with a free port.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A folder with the open portal, a test for it, and a configuration.
pub struct GateFolder {
    pub folder: tempfile::TempDir,
    pub issuer: Issuer,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
}

impl GateFolder {
    pub fn new(upstream: &str, more: &str) -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::new("key-1"));
        let (proxy, admin) = (free_address(), free_address());
        let gate_folder = Self {
            folder,
            issuer,
            proxy,
            admin,
        };
        gate_folder.put("schemas/p.cedarschema", OPEN_SCHEMA);
        gate_folder.put("policies/p/main.cedar", OPEN_POLICY);
        gate_folder.put("jwks.json", &gate_folder.issuer.jwks().to_string());
        gate_folder.put(
            "cedargate.yaml",
            &format!(
                "listen: {{ proxy: {{ address: '{proxy}' }}, decision: null, admin: {{ address: '{admin}' }} }}\nupstream: {{ url: '{upstream}' }}\n\
                 issuers: [{{ name: test, issuer: 'https://issuer.test/', audiences: [shop], jwks: {{ file: jwks.json }} }}]\n\
                 audit: {{ sink: {{ file: decisions.jsonl }} }}\n{more}\n"
            ),
        );
        gate_folder
    }

    pub fn put(&self, name: &str, text: &str) {
        put(self.folder.path(), name, text);
    }

    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(self.folder.path(), arguments)
    }

    /// Starts the gate without waiting for it.
    pub fn spawn(&self) -> GateProcess {
        let child = cedargate(&["serve"])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        GateProcess(child)
    }

    pub fn serve(&self) -> GateProcess {
        let gate_process = self.spawn();
        let admin = self.admin.to_string();
        eventually("the gate is ready", || {
            match self.run(&["healthcheck", "--ready", "--address", &admin]) {
                (0, _, _) => Ok(()),
                (code, _, error) => Err(format!("{code}: {error}")),
            }
        });
        gate_process
    }

    pub fn request(&self) -> String {
        format!(
            "GET {PAGE} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
            self.issuer.token("alice", &[])
        )
    }
}

/// A process that does not outlive its test.
pub struct GateProcess(pub Child);

impl GateProcess {
    pub fn signal(&self, name: &str) {
        Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
    }

    pub fn exit_code(&mut self) -> i32 {
        eventually("the process ends", || {
            self.0.try_wait().unwrap().ok_or("still running".to_owned())
        })
        .code()
        .unwrap_or(-1)
    }
}

impl Drop for GateProcess {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
