//! More than one Redis: a master with replicas under Sentinel, and a cluster.

use super::{Redis, Setup};
use crate::support::eventually;

/// The Sentinels' name of their master.
const NAME: &str = "cedargate";
const SENTINELS: usize = 3;
const REPLICAS: usize = 2;

/// One master, two replicas, three sentinels with a quorum of two; a master is down after 500 ms.
#[derive(Debug)]
pub struct Sentinel {
    pub nodes: Vec<Redis>,
    pub sentinels: Vec<Redis>,
}

impl Sentinel {
    pub fn start() -> Self {
        Self::of(Redis::setup())
    }

    /// Every node from the same setup (a password, say); the sentinels take no password.
    pub fn of(setup: Setup) -> Self {
        let password = setup.password.clone();
        let mut setup = setup.line("repl-diskless-sync-delay 0").line("repl-ping-replica-period 1");
        if let Some(password) = &password {
            setup = setup.line(&format!("masterauth {password}"));
        }
        let master = setup.clone().start();
        let replica = setup.line(&format!("replicaof 127.0.0.1 {}", master.port));
        let mut watch = Redis::setup()
            .line(&format!("sentinel monitor {NAME} 127.0.0.1 {} 2", master.port))
            .line(&format!("sentinel down-after-milliseconds {NAME} 500"))
            .line(&format!("sentinel failover-timeout {NAME} 3000"))
            .line(&format!("sentinel parallel-syncs {NAME} {REPLICAS}"));
        if let Some(password) = &password {
            watch = watch.line(&format!("sentinel auth-pass {NAME} {password}"));
        }
        watch.is_sentinel = true;
        let mut nodes = vec![master];
        nodes.extend((0..REPLICAS).map(|_| replica.clone().start()));
        let started = Self {
            nodes,
            sentinels: (0..SENTINELS).map(|_| watch.clone().start()).collect(),
        };
        started.until_in_sync();
        started
    }

    pub fn name(&self) -> &'static str {
        NAME
    }

    pub fn sentinel_ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|sentinel| sentinel.port).collect()
    }

    /// The master as the first sentinel that still runs sees it.
    pub fn master_port(&self) -> u16 {
        let running = self.sentinels.iter().find(|s| s.process.is_running()).unwrap();
        watched(running).unwrap()
    }

    pub fn master(&self) -> &Redis {
        let port = self.master_port();
        self.nodes.iter().find(|node| node.port == port).unwrap()
    }

    /// Orders a failover; returns when every sentinel agrees on the new master and it takes writes. The old master goes
    /// on as master until Sentinel demotes it, ten seconds later; `settle` does not wait for that.
    pub fn failover(&self) -> u16 {
        let old = self.master_port();
        eventually("a sentinel begins a failover", || {
            let said = self.sentinels[0].cli(&["sentinel", "failover", NAME]);
            if said == "OK" { Ok(()) } else { Err(said) }
        });
        self.until_master_is_not(old)
    }

    /// Kills the master and returns its port at once, before the sentinels notice.
    pub fn kill_master(&self) -> u16 {
        let master = self.master();
        master.kill();
        master.port
    }

    pub fn until_master_is_not(&self, old: u16) -> u16 {
        eventually("another master is agreed on", || {
            let seen: Vec<_> = self.sentinels.iter().filter_map(watched).collect();
            let Some(port) = seen.first().copied().filter(|port| *port != old) else {
                return Err(format!("{seen:?}"));
            };
            let node = self.nodes.iter().find(|node| node.port == port).unwrap();
            let role = node.info("role");
            let is_done = |sentinel: &Redis| {
                value(sentinel, "port") == Some(port.to_string()) && value(sentinel, "flags").as_deref() == Some("master")
            };
            // a sentinel tells clients of the new master while it still works on the switch, and loses the next one
            if role == "master" && self.sentinels.iter().filter(|s| s.process.is_running()).all(is_done) {
                Ok(port)
            } else {
                Err(format!("{seen:?}, {role}"))
            }
        })
    }

    /// Makes every node that runs a replica of the master, and waits until they have all that it has.
    pub fn settle(&self) {
        let master = self.master();
        let others = self.nodes.iter().filter(|n| n.port != master.port && n.process.is_running());
        for node in others.clone() {
            assert!(
                node.cli(&["replicaof", "127.0.0.1", &master.port.to_string()])
                    .starts_with("OK")
            );
        }
        master.until_replicated(others.count());
    }

    fn until_in_sync(&self) {
        for replica in &self.nodes[1..] {
            eventually("a replica is in sync", || {
                let (link, syncing) = (replica.info("master_link_status"), replica.info("master_sync_in_progress"));
                if link == "up" && syncing == "0" { Ok(()) } else { Err(link) }
            });
        }
        for sentinel in &self.sentinels {
            eventually("a sentinel knows all others and every replica", || {
                let known = (
                    value(sentinel, "num-slaves"),
                    value(sentinel, "num-other-sentinels"),
                    value(sentinel, "flags"),
                );
                let wanted = [REPLICAS.to_string(), (SENTINELS - 1).to_string(), "master".to_owned()];
                if known == wanted.map(Some).into() {
                    Ok(())
                } else {
                    Err(format!("{known:?}"))
                }
            });
        }
    }
}

/// A field of a Sentinel's record of the master.
fn value(sentinel: &Redis, name: &str) -> Option<String> {
    let said = sentinel.cli(&["sentinel", "master", NAME]);
    said.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned)
}

fn watched(sentinel: &Redis) -> Option<u16> {
    let said = sentinel.cli(&["sentinel", "get-master-addr-by-name", NAME]);
    said.lines().nth(1)?.parse().ok()
}

/// Three masters that share the slots, each with as many replicas as asked for.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::of(Redis::setup(), 0)
    }

    pub fn of(setup: Setup, replicas: usize) -> Self {
        let setup = setup
            .line("cluster-enabled yes")
            .line("cluster-node-timeout 1000")
            .line("cluster-replica-validity-factor 0")
            .line("repl-diskless-sync-delay 0");
        let nodes: Vec<Redis> = (0..3 * (1 + replicas)).map(|_| setup.clone().start()).collect();
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let (count, first) = (replicas.to_string(), &nodes[0]);
        let mut args = vec!["--cluster", "create"];
        args.extend(addresses.iter().map(String::as_str));
        args.extend(["--cluster-replicas", &count, "--cluster-yes"]);
        let output = first.run(&args);
        assert!(output.status.success(), "{output:?}");
        let cluster = Self { nodes };
        cluster.until_ok(0);
        cluster
    }

    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// The master that holds this key's slot.
    pub fn holder(&self, key: &str) -> &Redis {
        let running = self.nodes.iter().find(|node| node.process.is_running()).unwrap();
        let slot: u32 = running.cli(&["cluster", "keyslot", key]).parse().unwrap();
        let nodes = running.cli(&["cluster", "nodes"]);
        let holds = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
                return false;
            };
            (first..=last).contains(&slot)
        };
        let line = nodes.lines().find(|line| line.split(' ').skip(8).any(holds)).unwrap();
        let address = line.split(' ').nth(1).unwrap().split('@').next().unwrap();
        self.nodes
            .iter()
            .find(|node| address == format!("127.0.0.1:{}", node.port))
            .unwrap()
    }

    /// Moves a key's slot, with all keys in it, to another master.
    pub fn move_slot(&self, key: &str) {
        let from = self.holder(key);
        let to = self
            .nodes
            .iter()
            .find(|n| n.port != from.port && n.info("role") == "master")
            .unwrap();
        let slot = from.cli(&["cluster", "keyslot", key]);
        let (from_id, to_id) = (from.cli(&["cluster", "myid"]), to.cli(&["cluster", "myid"]));
        assert_eq!(to.cli(&["cluster", "setslot", &slot, "importing", &from_id]), "OK");
        assert_eq!(from.cli(&["cluster", "setslot", &slot, "migrating", &to_id]), "OK");
        for moved in from.cli(&["cluster", "getkeysinslot", &slot, "1000"]).lines() {
            let port = to.port.to_string();
            assert_eq!(from.cli(&["migrate", "127.0.0.1", &port, moved, "0", "5000"]), "OK");
        }
        for node in [to, from] {
            assert_eq!(node.cli(&["cluster", "setslot", &slot, "node", &to_id]), "OK");
        }
    }

    /// Waits until every node that runs sees a whole cluster, of which so many are gone.
    pub fn until_ok(&self, gone: usize) {
        let running = self.nodes.iter().filter(|node| node.process.is_running());
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        for node in running.clone() {
            eventually("the cluster is whole", || {
                let info = node.cli(&["cluster", "info"]);
                let has = |line: &str| info.lines().any(|found| found.trim() == line);
                if has("cluster_state:ok") && has("cluster_slots_ok:16384") && has(&known) {
                    Ok(())
                } else {
                    Err(info)
                }
            });
        }
        assert_eq!(running.count(), self.nodes.len() - gone);
    }
}
