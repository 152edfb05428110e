//! A real nginx that serves a folder over HTTPS, with its own log of requests.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::certificates::Authority;
use super::processes::{Supervised, free_port};
use super::tools::tool;
use super::{eventually, put};

const STARTS_MAX: usize = 10;

/// nginx in a temporary folder. Dropping it ends the server.
pub struct FileServer {
    folder: tempfile::TempDir,
    address: SocketAddr,
    /// The authority of its certificate.
    pub authority: PathBuf,
    process: Option<Supervised>,
}

impl FileServer {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("files");
        let pair = authority.issue_for(&["localhost", "127.0.0.1"]);
        for (name, text) in [("ca.pem", &authority.pem), ("cert.pem", &pair.cert), ("key.pem", &pair.key)] {
            put(folder.path(), name, text);
        }
        std::fs::create_dir_all(folder.path().join("files")).unwrap();
        let mut server = Self {
            authority: folder.path().join("ca.pem"),
            folder,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            process: None,
        };
        for _ in 0..STARTS_MAX {
            server.address.set_port(free_port());
            server.resume();
            let is_up = super::holds_eventually(|| {
                std::net::TcpStream::connect(server.address).is_ok() || !server.process.as_ref().unwrap().is_running()
            });
            if is_up && server.process.as_ref().unwrap().is_running() {
                return server;
            }
        }
        panic!("nginx does not start: {}", server.process.unwrap().log())
    }

    /// Starts nginx again at the same address.
    pub fn resume(&mut self) {
        let root = self.folder.path().display().to_string();
        let address = self.address;
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{}}\nhttp {{\n  log_format short '$status $request_method $uri $body_bytes_sent'; access_log {root}/access.log short;\n\
             client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
             server {{ listen {address} ssl; ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem; root {root}/files; keepalive_requests 100000; }}\n}}\n"
        );
        put(self.folder.path(), "nginx.conf", &config);
        let nginx = tool(&["nginx"]);
        let conf = format!("{root}/nginx.conf");
        let process = Supervised::start(&nginx, &["-p", &root, "-c", &conf], &self.folder.path().join("log"));
        self.process = Some(process);
        eventually("nginx answers or ends", || {
            let is_over = !self.process.as_ref().unwrap().is_running() || std::net::TcpStream::connect(address).is_ok();
            if is_over { Ok(()) } else { Err(String::new()) }
        });
    }

    /// Ends nginx; its address refuses connections.
    pub fn stop(&mut self) {
        drop(self.process.take());
    }

    pub fn url(&self, file: &str) -> String {
        format!("https://localhost:{}/{file}", self.address.port())
    }

    /// The path of a served file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    /// The requests of this status in the access log so far.
    pub fn answered(&self, status: u16) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        log.lines().filter(|line| line.starts_with(&status.to_string())).count()
    }
}
