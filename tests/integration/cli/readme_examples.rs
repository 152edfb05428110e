//! The README's examples: its configuration loads, its requests are the demo's, its commands put a gate in front of an
//! app.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::processes::{Supervised, free_port};
use crate::support::session_client::set_cookie;
use crate::support::{App, eventually, raw};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    text.split(opening.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

#[test]
fn the_configuration_in_the_readme_loads() {
    let readme = readme();
    let configurations = blocks(&readme, "yaml");
    assert!(!configurations.is_empty());
    for text in configurations {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cedargate.yaml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("client-secret"), "of the provider").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_cedargate"))
            .args(["config", "print", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .count();
        assert!(lines <= 10, "ten lines are promised, the README has {lines}");
    }
}

/// A running demo, and what it printed first.
pub(super) struct Demo {
    process: std::process::Child,
    pub printed: Vec<String>,
}

impl Demo {
    fn start() -> Self {
        Self::start_with(&["--dir", env!("CARGO_MANIFEST_DIR")])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_cedargate"))
            .args(["demo", "--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut printed: Vec<String> = Vec::new();
        for line in lines {
            printed.push(line.trim().to_owned());
            if line.trim().starts_with("curl -s") {
                break;
            }
        }
        Self { process, printed }
    }

    /// The rest of the first line that starts like this.
    pub fn after(&self, start: &str) -> &str {
        self.printed.iter().find_map(|line| line.strip_prefix(start)).unwrap().trim()
    }

    pub fn proxy(&self) -> &str {
        self.after("proxy     http://").split('/').next().unwrap()
    }

    fn shell(&self, script: &str) -> String {
        let tokens: Vec<&str> = self
            .printed
            .iter()
            .filter(|line| line.starts_with("export "))
            .map(String::as_str)
            .collect();
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("{}\n{script}", tokens.join("\n")))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn the_demo_prints_the_requests_of_the_readme_and_answers_them_so() {
    let readme = readme();
    let console = blocks(&readme, "console");
    let lines: Vec<&str> = console.iter().flat_map(|block| block.lines()).collect();
    let shown: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("$ ")).collect();
    let status: Vec<&&str> = lines.iter().filter(|line| line.starts_with("HTTP/")).collect();
    assert_eq!((shown.len(), status.len()), (3, 3));
    let demo = Demo::start();
    let printed: Vec<&String> = demo.printed.iter().filter(|line| line.starts_with("curl -i")).collect();
    let as_in_readme: Vec<String> = printed
        .iter()
        .map(|line| line.replace(demo.proxy(), "127.0.0.1:8900"))
        .collect();
    assert_eq!(as_in_readme, shown);
    for (command, expected) in printed.iter().zip(status) {
        let answer = demo.shell(&format!("{command} -s"));
        assert_eq!(answer.lines().next(), Some(*expected), "{command}\n{answer}");
    }
    let query = demo.printed.iter().find(|line| line.starts_with("curl -s")).unwrap();
    assert!(demo.shell(query).contains("\"decision\":\"allow\""), "{query}");
    let log = demo.after("decisions ").to_owned();
    eventually("the decision log has a line for each request", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() >= 4 { Ok(()) } else { Err(text) }
    });
}

/// The shell blocks of the section about one's own app: the folder, the start, the requests.
fn own_app() -> [String; 3] {
    let readme = readme();
    let section = readme.split("## In front of your own app").nth(1).unwrap();
    let section = section.split("### ").next().unwrap();
    let shown = blocks(section, "sh").into_iter().map(str::to_owned).collect::<Vec<_>>();
    shown.try_into().unwrap()
}

/// A shell in the repository with `cedargate` on its path, as after `cargo install`, and a home of its own. The gate
/// listens on free ports and its app is on another than the README's; nothing else differs.
struct Reader {
    home: tempfile::TempDir,
    proxy: SocketAddr,
    decision: SocketAddr,
    app: SocketAddr,
}

impl Reader {
    fn new(app: SocketAddr) -> Self {
        let free = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self {
            home: tempfile::tempdir().unwrap(),
            proxy: free(),
            decision: free(),
            app,
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let folder = Path::new(env!("CARGO_BIN_EXE_cedargate")).parent().unwrap();
        vec![
            ("PATH", format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())),
            ("HOME", self.home.path().display().to_string()),
            ("CEDARGATE_LISTEN__PROXY__ADDRESS", self.proxy.to_string()),
            ("CEDARGATE_LISTEN__DECISION__ADDRESS", self.decision.to_string()),
            ("CEDARGATE_LISTEN__ADMIN__ADDRESS", "127.0.0.1:0".to_owned()),
            ("CEDARGATE_UPSTREAM__URL", format!("http://{}", self.app)),
            ("CEDARGATE_PUBLIC_URL", format!("http://localhost:{}", self.proxy.port())),
        ]
    }

    fn run(&self, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-euc", script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(self.environment())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{script}\n{printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        printed
    }

    /// Logs alice in with the password of the README; returns her session cookie.
    fn log_in(&self) -> String {
        let page = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];
        let first = raw(self.proxy, "GET", "/portal/shop/", &page, b"");
        assert_eq!(first.status, 302, "{}", first.text());
        let form = raw(self.proxy, "GET", first.header("location"), &page, b"");
        let login = form.headers["set-cookie"]
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        let text = form.text();
        let token = text.split("name=\"token\" value=\"").nth(1).unwrap();
        let token = token.split('"').next().unwrap();
        let body = format!("provider=local&portal=shop&rd=/portal/shop/&name=alice&password=correct+horse+battery&token={token}");
        let headers = [
            ("cookie", login.as_str()),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let done = raw(self.proxy, "POST", "/api/v1/identity/auth/local", &headers, body.as_bytes());
        assert_eq!(done.status, 303, "{}", done.text());
        set_cookie(&done, "cedargate").unwrap()
    }
}

#[test]
fn the_readmes_commands_put_a_gate_in_front_of_an_app() {
    let app = App::start();
    let reader = Reader::new(app.address);
    let [folder, start, requests] = own_app();
    let (install, folder) = folder.split_once('\n').unwrap();
    assert_eq!(install, "cargo install --locked --path .");
    let validated = reader.run(folder);
    assert!(validated.contains("shop"), "{validated}");
    let log = reader.home.path().join("gate.log");
    let serve = format!("cd ~/shop-gate; exec {start}");
    let environment: Vec<String> = reader
        .environment()
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let arguments: Vec<&str> = environment.iter().map(String::as_str).chain(["sh", "-c", &serve]).collect();
    let gate = Supervised::start(Path::new("env"), &arguments, &log);
    let ready = || std::net::TcpStream::connect(reader.proxy).and(std::net::TcpStream::connect(reader.decision));
    eventually("the gate listens", || if ready().is_ok() { Ok(()) } else { Err(gate.log()) });
    let requests = requests
        .replace("localhost:8900", &reader.proxy.to_string())
        .replace("localhost:8901", &reader.decision.to_string());
    let answers = reader.run(&requests);
    assert!(answers.starts_with("HTTP/1.1 401 Unauthorized"), "{answers}");
    assert!(answers.contains("\"decision\":\"allow\""), "{answers}");
    let cookie = reader.log_in();
    assert_eq!(app.seen().len(), 0);
    let answer = raw(reader.proxy, "GET", "/portal/shop/", &[("cookie", &cookie)], b"");
    assert_eq!((answer.status, app.seen().len()), (200, 1), "{}", answer.text());
}

#[test]
fn the_published_configuration_schema_is_the_one_that_the_binary_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_cedargate"))
        .args(["config", "schema"])
        .output()
        .unwrap();
    let published = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/config.schema.json")).unwrap();
    assert!(
        printed.stdout == published,
        "run `cedargate config schema > schemas/config.schema.json`"
    );
}
