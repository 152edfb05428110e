//! Login rates of local accounts: an address that used up its tries locks out no other address.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::support::openid::user_agent::form;
use crate::support::session_client::{HASH, auth_event};
use crate::support::{Gate, OPEN_SCHEMA, Setup, parse};

const LOGIN: &str = "/api/v1/identity/auth/login?portal=p&rd=/portal/p/x";

fn start() -> Gate {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    Setup::portal(OPEN_SCHEMA, "@id(\"open\") permit (principal, action, resource);")
        .file("policies/p/portal.yaml", "login: { provider: local }\n")
        .file(
            "users.yaml",
            &format!("users:\n  alice: {{ password: \"{HASH}\" }}\n  bob: {{ password: \"{HASH}\" }}\n"),
        )
        .config(&format!(
            "public_url: 'http://localhost:{port}'\nlisten: {{ proxy: {{ address: '127.0.0.1:{port}' }}, decision: null, admin: {{ address: '127.0.0.1:0' }} }}\n\
             sessions: {{ danger_insecure_cookie: true }}\nlogin: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}\n\
             limits: {{ rate_login: {{ requests: 3, per: 1h }} }}"
        ))
        .start()
}

/// One request from an address of this machine.
fn ask(gate: &Gate, from: IpAddr, head: &str, body: &str) -> crate::support::Answer {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&gate.proxy.into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let text = format!(
        "{head}\r\nhost: shop.test\r\naccept: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut received = Vec::new();
    drop(stream.read_to_end(&mut received));
    parse(&received).unwrap()
}

/// Tries to log in with a fresh browser; `Err` is the page.
fn log_in(gate: &Gate, from: &str, name: &str, password: &str) -> Result<(), String> {
    let from = from.parse().unwrap();
    let shown = ask(gate, from, &format!("GET {LOGIN} HTTP/1.1"), "");
    let cookie = shown.header("set-cookie").split(';').next().unwrap().to_owned();
    let page = shown.text();
    let field = |name: &str| {
        let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let (provider, portal, rd, token) = (field("provider"), field("portal"), field("rd"), field("token"));
    let body = form(&[
        ("provider", &provider),
        ("portal", &portal),
        ("rd", &rd),
        ("token", &token),
        ("name", name),
        ("password", password),
    ]);
    let head = format!(
        "POST /api/v1/identity/auth/local HTTP/1.1\r\ncookie: {cookie}\r\nsec-fetch-site: same-origin\r\ncontent-type: application/x-www-form-urlencoded"
    );
    let answer = ask(gate, from, &head, &body);
    (answer.status == 303).then_some(()).ok_or(answer.text())
}

fn is_limited(tried: &Result<(), String>) -> bool {
    tried.as_ref().is_err_and(|page| page.contains("Too many attempts"))
}

#[test]
fn guessing_from_one_address_does_not_lock_the_account_at_another_address() {
    let gate = start();
    let (thief, owner) = ("127.0.0.2", "127.0.0.3");
    for _ in 0..3 {
        let tried = log_in(&gate, thief, "alice", "a guess");
        assert!(tried.is_err() && !is_limited(&tried), "{tried:?}");
    }
    for _ in 0..4 {
        let tried = log_in(&gate, thief, "alice", "password");
        assert!(is_limited(&tried), "{tried:?}");
    }
    let page = log_in(&gate, thief, "alice", "password").unwrap_err();
    assert!(
        page.contains("<summary>For the people who run this site</summary>") && page.contains("`limits.rate_login`"),
        "{page}"
    );
    let event = auth_event(&gate, "the refused login is recorded", |event| {
        event["limit"] == "limits.rate_login"
    });
    assert_eq!((&event["event"], &event["reason"]), (&"login".into(), &"rate_limited".into()));
    let other = log_in(&gate, thief, "bob", "password");
    assert!(is_limited(&other), "an address that tries many accounts is bound: {other:?}");
    assert_eq!(log_in(&gate, owner, "alice", "password"), Ok(()));
    assert_eq!(log_in(&gate, owner, "bob", "password"), Ok(()));
}
