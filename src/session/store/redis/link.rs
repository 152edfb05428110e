//! A connection to Redis, however many servers that is, and how it is made.
//!
//! Everything has a deadline. The password file is read for every connection, so a changed one is taken up with the next.

use std::path::Path;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value, cmd,
    from_redis_value,
};
use tokio::time::timeout;

use super::sentinels::Address;
use crate::config::{self, Secret, Topology};
use crate::session::StoreError;
use crate::types::Redacted;

/// From the first packet to the last greeting.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Tries of the cluster library within one command.
const CLUSTER_RETRIES: u32 = 2;

#[derive(Clone)]
pub enum Link {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// One master of a cluster.
#[derive(Clone, Debug)]
pub struct Node {
    host: String,
    port: u16,
}

impl Link {
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd, deadline: Duration) -> Result<T, StoreError> {
        let asked = async {
            match self.clone() {
                Self::Node(mut node) => command.query_async(&mut node).await,
                Self::Cluster(mut cluster) => command.query_async(&mut cluster).await,
            }
        };
        in_time(deadline, asked).await
    }

    /// On the node that has the key: for commands that name none.
    pub async fn run_at<T: FromRedisValue>(&self, key: &str, command: &Cmd, deadline: Duration) -> Result<T, StoreError> {
        let Self::Cluster(mut cluster) = self.clone() else {
            return self.run(command, deadline).await;
        };
        let route = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
        let asked = cluster.route_command(command.clone(), RoutingInfo::SingleNode(route));
        read_value(in_time(deadline, asked).await?)
    }

    pub async fn run_on<T: FromRedisValue>(
        &self,
        node: Option<&Node>,
        command: &Cmd,
        deadline: Duration,
    ) -> Result<T, StoreError> {
        let (Self::Cluster(mut cluster), Some(node)) = (self.clone(), node) else {
            return self.run(command, deadline).await;
        };
        let route = SingleNodeRoutingInfo::ByAddress {
            host: node.host.clone(),
            port: node.port,
        };
        let asked = cluster.route_command(command.clone(), RoutingInfo::SingleNode(route));
        read_value(in_time(deadline, asked).await?)
    }

    /// Commands about keys that lie where `key` lies, one after the other.
    pub async fn run_all(&self, key: &str, commands: Pipeline, deadline: Duration) -> Result<Vec<Value>, StoreError> {
        let count = commands.len();
        let asked = async {
            match self.clone() {
                Self::Node(mut node) => commands.query_async(&mut node).await,
                Self::Cluster(mut cluster) => {
                    let route = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                    let answers = cluster.route_pipeline(commands, 0, count, route).await?;
                    answers.into_iter().map(Value::extract_error).collect()
                }
            }
        };
        in_time(deadline, asked).await
    }

    /// Whether the master of a key has any.
    pub async fn has_replicas(&self, key: &str, deadline: Duration) -> Result<bool, StoreError> {
        let role: Value = self.run_at(key, &cmd("ROLE"), deadline).await?;
        Ok(Role::read(&role).is_some_and(|role| role.replicas))
    }

    /// Where keys are: `None` is the one node there is.
    pub async fn masters(&self, deadline: Duration) -> Result<Vec<Option<Node>>, StoreError> {
        let Self::Cluster(mut cluster) = self.clone() else {
            return Ok(vec![None]);
        };
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        let value = in_time(deadline, cluster.route_command(slots, route)).await?;
        let ranges: Vec<Vec<Value>> = read_value(value)?;
        let mut nodes: Vec<Option<Node>> = Vec::new();
        for range in ranges {
            let Some(Value::Array(master)) = range.get(2) else { continue };
            let text = |n: usize| {
                master
                    .get(n)
                    .cloned()
                    .and_then(|value| from_redis_value::<String>(value).ok())
            };
            let (Some(host), Some(port)) = (text(0), text(1).and_then(|port| port.parse().ok())) else {
                continue;
            };
            let known = |node: &Option<Node>| node.as_ref().is_some_and(|node| node.host == host && node.port == port);
            if !nodes.iter().any(known) {
                nodes.push(Some(Node { host, port }));
            }
        }
        Ok(nodes)
    }
}

/// What a server says it is.
pub struct Role {
    pub master: bool,
    pub replicas: bool,
}

impl Role {
    pub fn read(value: &Value) -> Option<Self> {
        let Value::Array(parts) = value else { return None };
        let name: String = from_redis_value(parts.first()?.clone()).ok()?;
        let replicas = matches!(parts.get(2), Some(Value::Array(replicas)) if !replicas.is_empty());
        Some(Self {
            master: name == "master",
            replicas,
        })
    }
}

pub async fn in_time<T>(deadline: Duration, asked: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
    match timeout(deadline, asked).await {
        Ok(answer) => answer.map_err(|error| store_error(&error)),
        Err(_late) => Err(StoreError::Timeout),
    }
}

fn read_value<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    from_redis_value(value).map_err(|error| StoreError::Refused(error.to_string()))
}

/// Says what the server or the network said; neither quotes keys, values or passwords.
fn store_error(error: &RedisError) -> StoreError {
    if error.is_timeout() {
        StoreError::Timeout
    } else if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() {
        StoreError::Unreachable(error.to_string())
    } else {
        StoreError::Refused(error.to_string())
    }
}

/// Where the store is said to be, for the log.
pub fn place(config: &config::Redis) -> String {
    let address = |url: &Redacted<String>| {
        let info = url.expose().as_str().into_connection_info();
        info.map_or_else(|_no_url| "?".to_owned(), |info| info.addr().to_string())
    };
    let addresses = |urls: &[Redacted<String>]| urls.iter().map(address).collect::<Vec<_>>().join(", ");
    match &config.topology {
        Topology::Single(url) => address(url),
        Topology::Sentinel { master, urls, .. } => format!("`{master}` of the Sentinels {}", addresses(urls)),
        Topology::Cluster(urls) => format!("the cluster at {}", addresses(urls)),
    }
}

/// Two links of the same kind: one for commands, one that may wait for replicas. `master` is whom the Sentinels named.
pub async fn connect(config: &config::Redis, master: Option<&Address>) -> Result<(Link, Link), StoreError> {
    let secrets = Secrets::read(config).await?;
    let connecting = async {
        match (&config.topology, master) {
            (Topology::Single(url), _) => {
                let client = open(url.expose().as_str().into_connection_info()?, &secrets, Login::Known)?;
                both(&client, config).await
            }
            (Topology::Sentinel { tls, .. }, Some(master)) => {
                let (host, port) = (master.host.clone(), master.port);
                let address = match tls {
                    false => ConnectionAddr::Tcp(host, port),
                    true => ConnectionAddr::TcpTls {
                        host,
                        port,
                        insecure: false,
                        tls_params: None,
                    },
                };
                both(&open(address.into_connection_info()?, &secrets, Login::Known)?, config).await
            }
            (Topology::Sentinel { .. }, None) => Err((ErrorKind::Client, "no master was named").into()),
            (Topology::Cluster(urls), _) => {
                let client = cluster(config, urls, &secrets)?;
                let (one, other) = tokio::join!(client.get_async_connection(), client.get_async_connection());
                Ok((Link::Cluster(one?), Link::Cluster(other?)))
            }
        }
    };
    in_time(CONNECT_DEADLINE, connecting).await
}

/// To one of them; users and passwords are for the servers behind them.
pub async fn connect_to_sentinel(url: &Redacted<String>, config: &config::Redis) -> Result<MultiplexedConnection, StoreError> {
    let secrets = Secrets::read(config).await?;
    let connecting = async {
        let client = open(url.expose().as_str().into_connection_info()?, &secrets, Login::Unknown)?;
        let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_DEADLINE));
        client.get_multiplexed_async_connection_with_config(&settings).await
    };
    in_time(CONNECT_DEADLINE, connecting).await
}

async fn both(client: &Client, config: &config::Redis) -> Result<(Link, Link), RedisError> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        .set_response_timeout(Some(config.timeout));
    let connect = || client.get_multiplexed_async_connection_with_config(&settings);
    let (one, other) = tokio::join!(connect(), connect());
    Ok((Link::Node(one?), Link::Node(other?)))
}

/// Whether the server knows our user.
#[derive(Clone, Copy)]
enum Login {
    Known,
    Unknown,
}

fn open(info: ConnectionInfo, secrets: &Secrets, login: Login) -> Result<Client, RedisError> {
    let mut settings: RedisConnectionInfo = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    if let Login::Known = login {
        if let Some(username) = &secrets.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &secrets.password {
            settings = settings.set_password(password.expose());
        }
    }
    let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let info = info.set_redis_settings(settings);
    match (&secrets.tls, is_tls) {
        (Some(tls), true) => Client::build_with_tls(info, tls.clone()),
        _ => Client::open(info),
    }
}

fn cluster(
    config: &config::Redis,
    urls: &[Redacted<String>],
    secrets: &Secrets,
) -> Result<::redis::cluster::ClusterClient, RedisError> {
    let urls: Vec<&str> = urls.iter().map(|url| url.expose().as_str()).collect();
    let mut builder = ClusterClientBuilder::new(urls)
        .use_protocol(ProtocolVersion::RESP3)
        .retries(CLUSTER_RETRIES)
        .connection_timeout(CONNECT_DEADLINE)
        .response_timeout(config.timeout);
    if let Some(username) = &secrets.username {
        builder = builder.username(username);
    }
    if let Some(password) = &secrets.password {
        builder = builder.password(password.expose());
    }
    if let Some(tls) = &secrets.tls {
        builder = builder.certs(tls.clone());
    }
    builder.build()
}

/// What the files hold now.
struct Secrets {
    username: Option<String>,
    password: Option<Redacted<String>>,
    tls: Option<TlsCertificates>,
}

impl Secrets {
    /// Off this thread: a file system may hang.
    async fn read(config: &config::Redis) -> Result<Self, StoreError> {
        let config = config.clone();
        let read = tokio::task::spawn_blocking(move || Self::read_now(&config)).await;
        read.unwrap_or_else(|_ended| Err("the files could not be read".to_owned()))
            .map_err(StoreError::Unreachable)
    }

    fn read_now(config: &config::Redis) -> Result<Self, String> {
        let password = match &config.password {
            None => None,
            Some(Secret::Value(value)) => Some(value.clone()),
            Some(Secret::File(path)) => {
                let text = String::from_utf8(file(path)?).map_err(|_may_quote| format!("`{}` is no text", path.display()))?;
                Some(Redacted::new(text.trim().to_owned()))
            }
        };
        let identity = match &config.tls.identity {
            None => None,
            Some((cert, key)) => Some(ClientTlsConfig {
                client_cert: file(cert)?,
                client_key: file(key)?,
            }),
        };
        let ca = config.tls.ca.as_deref().map(file).transpose()?;
        let tls = (identity.is_some() || ca.is_some()).then_some(TlsCertificates {
            client_tls: identity,
            root_cert: ca,
        });
        Ok(Self {
            username: config.username.clone(),
            password,
            tls,
        })
    }
}

fn file(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}
