//! A proxy in front of the app that asks the gate, configured by the documentation page as it stands.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::processes::{Supervised, free_port};
use crate::support::{Gate, Setup, raw};

const SCHEMA: &str = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];
    entity User in [Role, Tenant] = { email?: String };
    action GET, POST, HEAD, PUT appliesTo { principal: [User], resource: [Path], context: { source_ip?: ipaddr } };";
const POLICIES: &str = r#"
    @id("viewers") permit (principal in Role::"viewer", action, resource);
    @id("secret") forbid (principal, action, resource in Path::"/portal/p/secret");
    @id("inside") forbid (principal, action, resource in Path::"/portal/p/inside")
        unless { context has source_ip && context.source_ip.isInRange(ip("203.0.113.0/24")) };
"#;

/// A gate whose portal `p` permits viewers everything but `/portal/p/secret`.
pub fn start_gate(more: &str) -> Gate {
    Setup::portal(SCHEMA, POLICIES)
        .file("policies/p/portal.yaml", "public: [ \"GET /portal/p/open/**\" ]\n")
        .config(more)
        .start()
}

/// The block of a page that follows `after` and is of this language.
pub fn block(page: &str, after: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/integrations").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let rest = &text[text.find(after).unwrap_or_else(|| panic!("{page} has no `{after}`"))..];
    let fence = format!("```{language}\n");
    let start = rest.find(&fence).unwrap_or_else(|| panic!("{page} has no {language}")) + fence.len();
    let end = start + rest[start..].find("\n```").unwrap();
    rest[start..end].to_owned() + "\n"
}

/// The text with the addresses of this test in the place of the documented ones.
pub fn with_addresses(text: &str, gate: &Gate, front: u16) -> String {
    let ports = [
        ("3000", gate.app.address.port()),
        ("8901", gate.decision.port()),
        ("8902", gate.ext_authz.port()),
        ("8900", gate.proxy.port()),
        ("8080", front),
    ];
    ports.iter().fold(text.to_owned(), |text, (documented, port)| {
        let text = text.replace(&format!("127.0.0.1:{documented}"), &format!("127.0.0.1:{port}"));
        let text = text.replace(&format!("port_value: {documented} "), &format!("port_value: {port} "));
        text.replace(&format!("\n:{documented} {{"), &format!("\n:{port} {{"))
    })
}

/// A running proxy.
pub struct Front {
    pub address: SocketAddr,
    server: Supervised,
    _folder: tempfile::TempDir,
}

impl Front {
    /// Starts a program with files in a folder of its own; `{dir}` in an argument stands for the folder.
    pub fn start(program: &Path, args: &[&str], files: &[(&str, String)], port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let command: Vec<String> = [
            format!("cd '{dir}' && exec '{}' \"$@\"", program.display()),
            "front".to_owned(),
        ]
        .into_iter()
        .chain(args.iter().map(|arg| arg.replace("{dir}", dir)))
        .collect();
        let mut shell = vec!["-c".to_owned()];
        shell.extend(command);
        let server = Supervised::start(Path::new("sh"), &shell, &folder.path().join("front.log"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let front = Self {
            address,
            server,
            _folder: folder,
        };
        crate::support::eventually("the proxy answers", || {
            assert!(front.server.is_running(), "{}", front.server.log());
            let request = b"GET /portal/p/open/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            let answer = std::net::TcpStream::connect(address)
                .ok()
                .and_then(|_| crate::support::exchange(address, request));
            match answer {
                Some(answer) if answer.status == 200 => Ok(()),
                answer => Err(format!("{answer:?}\n{}", front.server.log())),
            }
        });
        front
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> crate::support::Answer {
        raw(self.address, method, path, headers, b"")
    }
}

/// A port for a proxy.
pub fn port() -> u16 {
    free_port()
}
