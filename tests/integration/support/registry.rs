//! A real OCI registry (the distribution project's) and a real client for it (oras).

use std::path::Path;
use std::process::Command;

use super::processes::{Supervised, free_port};
use super::tools::tool;
use super::{eventually, put};

/// The only user, with the password as `htpasswd -B` hashes it.
pub const USER: (&str, &str) = ("gate", "open sesame");
const HASH: &str = "gate:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";

/// A registry at a loopback address, without TLS, with basic authentication.
pub struct Registry {
    folder: tempfile::TempDir,
    port: u16,
    _process: Supervised,
}

impl Registry {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display().to_string();
        let port = free_port();
        put(folder.path(), "htpasswd", HASH);
        put(
            folder.path(),
            "config.yml",
            &format!(
                "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {root}/data }} }}\nhttp: {{ addr: '127.0.0.1:{port}' }}\n\
                 auth: {{ htpasswd: {{ realm: test, path: {root}/htpasswd }} }}\n"
            ),
        );
        let config = format!("{root}/config.yml");
        let process = Supervised::start(&tool(&["registry"]), &["serve", &config], &folder.path().join("log"));
        eventually("the registry answers", || {
            std::net::TcpStream::connect(("127.0.0.1", port))
                .map(drop)
                .map_err(|_not_yet| process.log())
        });
        Self {
            folder,
            port,
            _process: process,
        }
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes a file as the documentation says.
    pub fn push(&self, file: &Path, name: &str, media_type: &str) {
        let output = Command::new(tool(&["oras"]))
            .args([
                "push",
                "--plain-http",
                "--username",
                USER.0,
                "--password",
                USER.1,
                "--disable-path-validation",
            ])
            .arg(format!("{}/{name}", self.host()))
            .arg(format!("{}:{media_type}", file.display()))
            .env("HOME", self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
