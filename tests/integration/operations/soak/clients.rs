//! The clients of the soak, and the oracle: each request is sent together with the one answer that is right.
//!
//! Three things make a second answer right for a while: a policy set on its way in (`/portal/p/flip` is asked under a
//! lock that a reload takes), a Redis that restarts (a session may be refused with 503, never answered otherwise), and
//! a client that leaves early, which gets no answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use serde_json::json;

use crate::support::http2_client::Client;
use crate::support::session_client::log_in_at;
use crate::support::{Issuer, RawConnection, claims, eventually, raw};

/// Bytes of an upload.
const UPLOAD_BYTES: usize = 256 * 1024;

/// Counts so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub aborts: u64,
    /// Sessions refused while Redis restarted.
    pub store_refusals: u64,
    pub reloads: u64,
    pub key_rotations: u64,
    pub redis_restarts: u64,
    pub wrong: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    Certain,
    /// Redis restarts, or did a moment ago.
    Uncertain,
}

pub struct Clients {
    proxy: SocketAddr,
    decision: SocketAddr,
    issuer: RwLock<Arc<Issuer>>,
    /// An issuer that the gate does not trust.
    stranger: Issuer,
    /// True while the flip page is allowed.
    flip: RwLock<bool>,
    store_uncertain: AtomicBool,
    cookies: RwLock<[String; 2]>,
    pub tally: Mutex<Tally>,
}

/// The requests of one client thread, on a connection that is kept.
struct Session<'a> {
    clients: &'a Clients,
    wire: Option<RawConnection>,
    http2: Option<Client>,
}

impl Clients {
    pub fn new(proxy: SocketAddr, decision: SocketAddr, issuer: Issuer) -> Self {
        Self {
            proxy,
            decision,
            issuer: RwLock::new(Arc::new(issuer)),
            stranger: Issuer::new("key-0"),
            flip: RwLock::new(true),
            store_uncertain: AtomicBool::new(false),
            cookies: RwLock::default(),
            tally: Mutex::default(),
        }
    }

    /// Alice, who may see the pages, and Bob, who may not.
    pub fn log_in(&self) {
        self.wait_for_key(&self.issuer());
        *self.cookies.write().unwrap() = ["alice", "bob"].map(|name| {
            // bob is refused the page that the login leads to
            log_in_at(self.proxy, name)
        });
    }

    pub fn issuer(&self) -> Arc<Issuer> {
        Arc::clone(&self.issuer.read().unwrap())
    }

    pub fn set_issuer(&self, issuer: Arc<Issuer>) {
        *self.issuer.write().unwrap() = issuer;
    }

    /// Waits until the gate accepts tokens of this key.
    pub fn wait_for_key(&self, issuer: &Issuer) {
        let bearer = format!("Bearer {}", issuer.token("alice", &["viewer"]));
        eventually("the gate knows the key", || {
            let answer = raw(self.proxy, "GET", "/portal/p/page", &[("authorization", &bearer)], b"");
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        });
    }

    pub fn while_changing(&self, flip: bool, change: impl FnOnce()) {
        let mut current = self.flip.write().unwrap();
        change();
        *current = flip;
    }

    pub fn set_store(&self, phase: Phase) {
        self.store_uncertain.store(phase == Phase::Uncertain, Ordering::SeqCst);
    }

    pub fn is_store_uncertain(&self) -> bool {
        self.store_uncertain.load(Ordering::SeqCst)
    }

    /// True if the gate reads sessions from Redis again.
    pub fn session_works(&self) -> bool {
        let cookie = self.cookies.read().unwrap()[0].clone();
        (0..5).all(|_| raw(self.proxy, "GET", "/portal/p/page", &[("cookie", &cookie)], b"").status == 200)
    }

    /// One client: requests of every kind until `stop`.
    pub fn run(&self, seed: u64, stop: &AtomicBool) {
        let mut session = Session {
            clients: self,
            wire: None,
            http2: None,
        };
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        while !stop.load(Ordering::SeqCst) {
            // xorshift
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            session.request(random % 100);
        }
    }

    fn wrong(&self, what: &str, wanted: u16, got: &str) {
        let mut tally = self.tally.lock().unwrap();
        if tally.wrong.len() < 1000 {
            tally.wrong.push(format!("{what}: wanted {wanted}, got {got}"));
        }
    }

    fn compare(&self, what: &str, wanted: u16, got: Option<u16>) {
        self.tally.lock().unwrap().requests += 1;
        if got != Some(wanted) {
            self.wrong(what, wanted, &format!("{got:?}"));
        }
    }
}

impl Session<'_> {
    fn request(&mut self, dice: u64) {
        let clients = self.clients;
        let issuer = clients.issuer();
        let viewer = || format!("authorization: Bearer {}\r\n", issuer.token("alice", &["viewer"]));
        match dice {
            0..20 => self.expect("viewer", "GET", "/portal/p/page", &viewer(), b"", 200),
            20..30 => self.expect("closed", "GET", "/portal/p/closed/x", &viewer(), b"", 403),
            30..36 => self.expect("no token", "GET", "/portal/p/page", "", b"", 401),
            36..42 => {
                let other = format!("authorization: Bearer {}\r\n", issuer.token("carol", &["buyer"]));
                self.expect("no role", "GET", "/portal/p/page", &other, b"", 403);
            }
            42..48 => {
                let forged = format!("authorization: Bearer {}\r\n", clients.stranger.token("alice", &["viewer"]));
                self.expect("forged", "GET", "/portal/p/page", &forged, b"", 401);
            }
            48..52 => {
                let mut old = claims("alice", &["viewer"]);
                old["exp"] = json!(1_700_000_000);
                let expired = format!("authorization: Bearer {}\r\n", issuer.sign(&old));
                self.expect("expired", "GET", "/portal/p/page", &expired, b"", 401);
            }
            52..55 => self.expect("public", "GET", "/portal/p/assets/a.css", "", b"", 200),
            55..58 => self.expect("dots", "GET", "/portal/p/%2e%2e/page", &viewer(), b"", 400),
            58..66 => {
                let flip = clients.flip.read().unwrap();
                self.expect("flip", "GET", "/portal/p/flip", &viewer(), b"", if *flip { 200 } else { 403 });
            }
            66..76 => self.session_request(dice.is_multiple_of(2)),
            76..82 => self.authorize(dice.is_multiple_of(2)),
            82..88 => self.http2_request(&issuer, dice.is_multiple_of(2)),
            88..92 => self.expect("upload", "POST", "/portal/p/page", &viewer(), &vec![b'x'; UPLOAD_BYTES], 200),
            92..95 => self.upgrade(&viewer()),
            _ => self.abort(&viewer(), dice),
        }
    }

    fn expect(&mut self, what: &str, method: &str, path: &str, headers: &str, body: &[u8], wanted: u16) {
        let got = self.exchange(method, path, headers, body);
        self.clients.compare(what, wanted, got);
    }

    /// One exchange on the kept connection, or on a new one if the gate closed it.
    fn exchange(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Option<u16> {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: shop.test\r\n{headers}{length}\r\n");
        for _try in 0..2 {
            let is_kept = self.wire.is_some();
            let wire = self.wire.get_or_insert_with(|| RawConnection::open(self.clients.proxy));
            wire.send([head.as_bytes(), body].concat());
            match wire.read_answer(method) {
                Some(answer) => {
                    if answer.header("connection").eq_ignore_ascii_case("close") {
                        self.wire = None;
                    }
                    return Some(answer.status);
                }
                // the gate may close a connection that is kept at any time
                None if is_kept => self.wire = None,
                None => break,
            }
        }
        self.wire = None;
        None
    }

    fn session_request(&mut self, is_alice: bool) {
        let cookies = self.clients.cookies.read().unwrap().clone();
        let (cookie, wanted) = if is_alice { (&cookies[0], 200) } else { (&cookies[1], 403) };
        let was_uncertain = self.clients.is_store_uncertain();
        let got = self.exchange("GET", "/portal/p/page", &format!("cookie: {cookie}\r\n"), b"");
        let is_uncertain = was_uncertain || self.clients.is_store_uncertain();
        if is_uncertain && got == Some(503) {
            let mut tally = self.clients.tally.lock().unwrap();
            tally.requests += 1;
            tally.store_refusals += 1;
        } else {
            self.clients.compare("session", wanted, got);
        }
    }

    fn authorize(&self, is_open: bool) {
        let path = if is_open { "/portal/p/page" } else { "/portal/p/closed/x" };
        let body = json!({"portal": "p", "token": self.clients.issuer().token("alice", &["viewer"]), "action": "GET",
            "resource": {"type": "Path", "id": path}});
        let answer = raw(
            self.clients.decision,
            "POST",
            "/authorize",
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        );
        let decision = answer.json()["decision"] == "allow";
        self.clients.tally.lock().unwrap().requests += 1;
        if answer.status != 200 || decision != is_open {
            self.clients.wrong("authorize", 200, &answer.text());
        }
    }

    fn http2_request(&mut self, issuer: &Issuer, is_open: bool) {
        let (path, wanted) = if is_open { ("page", 200) } else { ("closed/x", 403) };
        let client = self.http2.get_or_insert_with(|| Client::open(self.clients.proxy));
        let request = http::Request::builder()
            .uri(format!("http://shop.test/portal/p/{path}"))
            .header("authorization", format!("Bearer {}", issuer.token("alice", &["viewer"])))
            .body(())
            .unwrap();
        match client.ask(request, b"") {
            Ok(answer) => self.clients.compare("HTTP/2", wanted, Some(answer.status)),
            // the gate ended the connection; the next request opens one
            Err(_) => self.http2 = None,
        }
    }

    fn upgrade(&self, viewer: &str) {
        let mut wire = RawConnection::open(self.clients.proxy);
        wire.send(format!(
            "GET /portal/p/page HTTP/1.1\r\nhost: shop.test\r\n{viewer}connection: upgrade\r\nupgrade: echo/1\r\n\r\n"
        ));
        let head = wire.read_until("\r\n\r\n");
        wire.send("ping");
        let is_right = head.starts_with(b"HTTP/1.1 101") && wire.read_exactly(4) == b"ping";
        self.clients.tally.lock().unwrap().requests += 1;
        if !is_right {
            self.clients.wrong("upgrade", 101, &String::from_utf8_lossy(&head));
        }
    }

    /// A client that leaves within its head, within its body, or before the answer.
    fn abort(&self, viewer: &str, dice: u64) {
        let mut wire = RawConnection::open(self.clients.proxy);
        let head = format!("POST /portal/p/page HTTP/1.1\r\nhost: shop.test\r\n{viewer}content-length: 100000\r\n\r\n");
        let body = vec![b'x'; 100_000];
        match dice % 3 {
            0 => wire.send(&head[..head.len() / 2]),
            1 => wire.send([head.as_bytes(), &body[..50_000]].concat()),
            _ => wire.send([head.as_bytes(), &body].concat()),
        };
        self.clients.tally.lock().unwrap().aborts += 1;
    }
}
