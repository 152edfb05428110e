//! Proxies that ask keep their connections to the gate: a relay in front of its listener counts them.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::asking_proxies::{WITH_GRPC, start_caddy, start_envoy, start_haproxy, start_nginx, start_traefik, token};
use super::front::{Front, block, port, start_gate, with_addresses};
use crate::support::Gate;

/// Requests of one run, one after another.
const REQUESTS: usize = 200;
/// Connections that a proxy may open for them: one for each of its workers, and one in place of each that ended.
const CONNECTIONS_MAX: usize = 8;

/// Passes connections on to one address, and counts them.
struct Relay {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Relay {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        // ends with the test's process
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    std::thread::spawn(move || {
                        drop(copy(&mut from, &mut to));
                        drop(to.shutdown(Shutdown::Write));
                    });
                }
            }
        });
        Self { address, accepted }
    }
}

fn asked_over_few_connections(front: &Front, gate: &Gate, relay: &Relay) {
    let viewer = token(gate, &["viewer"]);
    for at in 0..REQUESTS {
        let (credential, status) = match at % 4 {
            // a refusal keeps the connection, too
            3 => ("Bearer nonsense".to_owned(), 401),
            _ => (viewer.clone(), 200),
        };
        let answer = front.send("GET", "/portal/p/orders", &[("authorization", &credential)]);
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let accepted = relay.accepted.load(Ordering::Relaxed);
    assert!(accepted <= CONNECTIONS_MAX, "{accepted} connections for {REQUESTS} requests");
    assert!(accepted > 0, "the proxy did not ask through the relay");
}

fn through(text: &str, listener: SocketAddr, relay: &Relay) -> String {
    let text = text.replace(&listener.to_string(), &relay.address.to_string());
    text.replace(
        &format!("port_value: {} ", listener.port()),
        &format!("port_value: {} ", relay.address.port()),
    )
}

#[test]
fn nginx_keeps_its_connections_to_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let relay = Relay::to(gate.decision);
    let page = with_addresses(&block("nginx.md", "# nginx", "nginx"), &gate, port);
    let front = start_nginx(through(&page, gate.decision, &relay), port);
    asked_over_few_connections(&front, &gate, &relay);
}

#[test]
fn caddy_keeps_its_connections_to_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let relay = Relay::to(gate.decision);
    let page = with_addresses(&block("caddy.md", "# Caddy", "caddyfile"), &gate, port);
    let front = start_caddy(through(&page, gate.decision, &relay), port);
    asked_over_few_connections(&front, &gate, &relay);
}

#[test]
fn traefik_keeps_its_connections_to_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let relay = Relay::to(gate.decision);
    let fixed = with_addresses(&block("traefik.md", "`traefik.yaml`", "yaml"), &gate, port);
    let dynamic = with_addresses(&block("traefik.md", "`dynamic.yaml`", "yaml"), &gate, port);
    let front = start_traefik(fixed, through(&dynamic, gate.decision, &relay), port);
    asked_over_few_connections(&front, &gate, &relay);
}

#[test]
fn haproxy_keeps_its_connections_to_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let relay = Relay::to(gate.decision);
    let config = with_addresses(&block("haproxy.md", "`haproxy.cfg`", "haproxy"), &gate, port);
    let script = with_addresses(&block("haproxy.md", "`cedargate.lua`", "lua"), &gate, port);
    let front = start_haproxy(config, through(&script, gate.decision, &relay), port);
    asked_over_few_connections(&front, &gate, &relay);
}

#[test]
fn envoy_keeps_its_connections_to_the_gate_over_http() {
    let (gate, port) = (start_gate(""), port());
    let relay = Relay::to(gate.decision);
    let page = with_addresses(&block("envoy.md", "## Over HTTP", "yaml"), &gate, port);
    let front = start_envoy(through(&page, gate.decision, &relay), port);
    asked_over_few_connections(&front, &gate, &relay);
}

#[test]
fn envoy_keeps_its_connections_to_the_gate_over_grpc() {
    let (gate, port) = (start_gate(WITH_GRPC), port());
    let relay = Relay::to(gate.ext_authz);
    let page = with_addresses(&block("envoy.md", "Envoy's configuration:", "yaml"), &gate, port);
    let front = start_envoy(through(&page, gate.ext_authz, &relay), port);
    asked_over_few_connections(&front, &gate, &relay);
}
