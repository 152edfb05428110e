//! Looks whether the app can be reached around the gate.
//!
//! An app behind the gate belongs on loopback. If it also accepts connections at an address of the machine (in a pod:
//! the pod's address), other pods reach it without a decision. This file tries to connect there, as they would, and
//! tells the operator: a warning, a gauge, `/status`. It never sends a byte, and it changes nothing about how the gate
//! serves.
//!
//! Runs on the `operations` thread, apart from requests.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::metrics::Metrics;
use crate::config::{Config, ExposureCheck, UpstreamUrl};

/// Longest wait for one connection. The machine's own addresses answer at once, unless a firewall drops the attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// The first pause; each pause is twice the one before, up to the configured interval. An app may start after the gate.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Shortest time between two lines of the log about a change.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// Addresses of the machine that are tried; the rest is left out.
const ADDRESSES_MAX: usize = 64;
/// Connections of one look; the rest is left out.
const ATTEMPTS_MAX: usize = 1024;

/// The result of the last look, for the endpoints that show it.
#[derive(Clone, Debug, Default)]
pub struct Exposure(Arc<Mutex<BTreeSet<SocketAddr>>>);

/// The look, again and again.
pub struct ExposureWatch {
    check: ExposureCheck,
    apps: Vec<LocalApp>,
    /// Addresses of the gate's own listeners.
    own: Vec<SocketAddr>,
    exposure: Exposure,
    metrics: Metrics,
    logged: BTreeSet<SocketAddr>,
    last_log: Option<Instant>,
}

/// An app that the gate reaches on this machine.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct LocalApp {
    host: LocalHost,
    port: u16,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum LocalHost {
    /// Other addresses of the machine must not answer.
    Loopback(Option<IpAddr>),
    /// Counts if it is an address of the machine.
    Address(IpAddr),
}

impl Exposure {
    /// Addresses at which the app answers around the gate, in order; empty if there are none, or if nothing was looked
    /// at.
    pub fn addresses(&self) -> Vec<String> {
        self.0.lock().iter().map(ToString::to_string).collect()
    }
}

impl ExposureWatch {
    /// `None` if the check is off, or if no app is on this machine. `own`: the addresses of the gate's listeners.
    pub fn new(config: &Config, own: Vec<SocketAddr>, exposure: Exposure, metrics: Metrics) -> Option<Self> {
        let check = config.exposure_check.clone()?;
        let portals = config.portals.iter().flatten().filter_map(|portal| portal.upstream.as_ref());
        let upstreams = std::iter::once(&config.upstream).chain(portals);
        let apps: BTreeSet<LocalApp> = upstreams.filter_map(|upstream| LocalApp::of(&upstream.url)).collect();
        if apps.is_empty() {
            return None;
        }
        Some(Self {
            check,
            apps: apps.into_iter().collect(),
            own,
            exposure,
            metrics,
            logged: BTreeSet::new(),
            last_log: None,
        })
    }

    /// Looks now and then, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE.min(self.check.interval);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(self.check.interval);
        }
    }

    async fn look(&mut self) {
        let addresses = if self.check.addresses.is_empty() {
            // reads the interfaces from the kernel
            match tokio::task::spawn_blocking(machine_addresses).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot read the machine's addresses; the exposure check is skipped");
                    return;
                }
                Err(_panicked_or_stopped) => return,
            }
        } else {
            self.check.addresses.clone()
        };
        let mut reachable = BTreeSet::new();
        for target in targets(&self.apps, &self.own, &addresses) {
            if let Ok(Ok(_stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
                reachable.insert(target);
            }
        }
        self.publish(reachable);
    }

    fn publish(&mut self, reachable: BTreeSet<SocketAddr>) {
        self.metrics.app_reachable_around_gate.set(i64::from(!reachable.is_empty()));
        let may_log = self.last_log.is_none_or(|last| last.elapsed() >= LOG_PAUSE);
        if reachable != self.logged && may_log {
            if reachable.is_empty() {
                tracing::info!("the app cannot be reached around the gate any more");
            } else {
                let addresses = reachable.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                tracing::warn!(
                    addresses,
                    "the app can be reached around the gate; let it listen on 127.0.0.1 only (docs/runbooks/app-reachable-around-gate.md)"
                );
            }
            self.logged.clone_from(&reachable);
            self.last_log = Some(Instant::now());
        }
        *self.exposure.0.lock() = reachable;
    }
}

impl LocalApp {
    fn of(url: &UpstreamUrl) -> Option<Self> {
        let (UpstreamUrl::Http(authority) | UpstreamUrl::Https(authority)) = url else {
            return None;
        };
        let name = authority.dialled();
        let host = match name.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) if address.is_loopback() => LocalHost::Loopback(Some(address)),
            // a connection to 0.0.0.0 goes to loopback
            Ok(address) if address.is_unspecified() => LocalHost::Loopback(None),
            Ok(address) => LocalHost::Address(address),
            Err(_name) if name == "localhost" || name.ends_with(".localhost") => LocalHost::Loopback(None),
            Err(_name) => return None,
        };
        Some(Self {
            host,
            port: authority.port,
        })
    }
}

/// Addresses at which the apps must not answer.
fn targets(apps: &[LocalApp], own: &[SocketAddr], addresses: &[IpAddr]) -> BTreeSet<SocketAddr> {
    // `::` takes connections of both families
    let is_every = |own: &SocketAddr, target: &SocketAddr| own.ip().is_unspecified() && (own.is_ipv6() || target.is_ipv4());
    let is_own = |target: &SocketAddr| {
        own.iter()
            .any(|own| own.port() == target.port() && (is_every(own, target) || own.ip() == target.ip()))
    };
    let pairs = apps
        .iter()
        .flat_map(|app| addresses.iter().map(move |address| (app, *address)));
    let wanted = pairs.filter(|(app, address)| match app.host {
        LocalHost::Loopback(own_address) => own_address != Some(*address),
        LocalHost::Address(own_address) => own_address == *address,
    });
    wanted
        .map(|(app, address)| SocketAddr::new(address, app.port))
        .filter(|target| !is_own(target))
        .take(ATTEMPTS_MAX)
        .collect()
}

/// Addresses of the interfaces, without loopback and link-local ones. A link-local address is none that a Service or
/// another node could use.
fn machine_addresses() -> std::io::Result<Vec<IpAddr>> {
    let is_link_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()?
        .into_iter()
        .map(|interface| interface.ip())
        .filter(|address| !address.is_loopback() && !is_link_local(address))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(url: &str) -> Option<LocalApp> {
        let config = Config::from_yaml(&format!("upstream: {{ url: '{url}' }}")).unwrap();
        LocalApp::of(&config.upstream.url)
    }

    fn target_texts(urls: &[&str], own: &[&str], addresses: &[&str]) -> Vec<String> {
        let apps: Vec<LocalApp> = urls.iter().filter_map(|url| app(url)).collect();
        let own: Vec<SocketAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        targets(&apps, &own, &addresses).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn apps_of_this_machine_are_looked_at_and_others_are_not() {
        for local in [
            "http://127.0.0.1:1",
            "https://127.9.9.9:1",
            "http://localhost:1",
            "http://[::1]:1",
            "h2c://0.0.0.0:1",
        ] {
            assert!(matches!(app(local).unwrap().host, LocalHost::Loopback(_)), "{local}");
        }
        for other in ["http://shop.svc:1", "unix:/run/app.sock", "http://localhost.example.com:1"] {
            assert_eq!(app(other), None, "{other}");
        }
    }

    #[test]
    fn every_app_is_tried_at_every_address_but_at_the_gates_own_ports() {
        let apps = [
            "http://127.0.0.1:3000",
            "http://localhost:3001",
            "http://10.9.9.9:3002",
            "http://10.0.0.1:3003",
        ];
        let all = target_texts(&apps, &[], &["10.0.0.1", "fd00::1"]);
        assert_eq!(
            all,
            [
                "10.0.0.1:3000",
                "10.0.0.1:3001",
                "10.0.0.1:3003",
                "[fd00::1]:3000",
                "[fd00::1]:3001"
            ]
        );
        let own = ["0.0.0.0:3000", "10.0.0.1:3001", "127.0.0.1:3003"];
        let rest = target_texts(&apps, &own, &["10.0.0.1", "fd00::1"]);
        assert_eq!(rest, ["10.0.0.1:3003", "[fd00::1]:3000", "[fd00::1]:3001"]);
        let rest = target_texts(&apps, &["[::]:3000"], &["10.0.0.1", "fd00::1"]);
        assert_eq!(rest, ["10.0.0.1:3001", "10.0.0.1:3003", "[fd00::1]:3001"]);
        assert!(
            target_texts(&["http://127.0.0.2:1"], &[], &["127.0.0.2"]).is_empty(),
            "the app's own address"
        );
    }

    #[tokio::test]
    async fn an_address_that_answers_is_published_and_forgotten_when_it_stops() {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let yaml = format!("upstream: {{ url: 'http://127.0.0.1:{port}', exposure_check: {{ addresses: [127.0.0.2] }} }}");
        let config = Config::from_yaml(&yaml).unwrap();
        let (metrics, exposure) = (Metrics::new().unwrap(), Exposure::default());
        let mut watch = ExposureWatch::new(&config, Vec::new(), exposure.clone(), metrics.clone()).unwrap();
        watch.look().await;
        assert_eq!(exposure.addresses(), [format!("127.0.0.2:{port}")]);
        assert_eq!(metrics.app_reachable_around_gate.get(), 1);
        drop(listener);
        watch.look().await;
        assert!(exposure.addresses().is_empty());
        assert_eq!(metrics.app_reachable_around_gate.get(), 0);
        assert_eq!(watch.logged.len(), 1, "a second line waits for its time");
    }
}
