//! A connection to Redis, to one server or to a cluster, and the way it is made.
//!
//! Every command and every connection attempt has a deadline. Password and certificate files are read for every
//! connection, so a changed file counts from the next connection on.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value, cmd,
    from_redis_value,
};
use cedargate_policy::types::Redacted;

use super::files::{read, read_password};
use super::{Link, with_deadline};
use crate::config::{self, Secret, Topology};
use crate::session::StoreError;

/// Deadline of connecting, from the first packet to the end of the handshake.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Retries of the cluster library within one command.
const CLUSTER_RETRIES: u32 = 2;

/// The address of a server, as the Sentinels write it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisAddress {
    pub host: String,
    pub port: u16,
}

/// The two connections of one store.
pub struct Links {
    pub commands: Link,
    /// Runs the commands that wait for a replica.
    pub durable: Link,
}

impl Link {
    /// Runs a command that names no key, on the node that has `key`.
    pub async fn run_at<T: FromRedisValue>(&self, key: &str, command: &Cmd, deadline: Duration) -> Result<T, StoreError> {
        let Self::Cluster(mut cluster) = self.clone() else {
            return self.run(command, deadline).await;
        };
        let route = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
        let answer = cluster.route_command(command.clone(), RoutingInfo::SingleNode(route));
        read_value(with_deadline(deadline, answer).await?)
    }

    /// Runs a command on one master of a cluster; without a node, on the one server there is.
    pub async fn run_on<T: FromRedisValue>(
        &self,
        node: Option<&RedisAddress>,
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
        let answer = cluster.route_command(command.clone(), RoutingInfo::SingleNode(route));
        read_value(with_deadline(deadline, answer).await?)
    }

    /// Runs commands about keys of one cluster node, that of `key`, in order.
    pub async fn run_all(&self, key: &str, commands: Pipeline, deadline: Duration) -> Result<Vec<Value>, StoreError> {
        let count = commands.len();
        let answer = async {
            match self.clone() {
                Self::Node(mut node) => commands.query_async(&mut node).await,
                Self::Cluster(mut cluster) => {
                    let route = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                    let answers = cluster.route_pipeline(commands, 0, count, route).await?;
                    answers.into_iter().map(Value::extract_error).collect()
                }
            }
        };
        with_deadline(deadline, answer).await
    }

    /// True if the master of `key` has replicas.
    pub async fn has_replicas(&self, key: &str, deadline: Duration) -> Result<bool, StoreError> {
        let role: Value = self.run_at(key, &cmd("ROLE"), deadline).await?;
        Ok(Role::read(&role).is_some_and(|role| role.has_replicas))
    }

    /// The servers that hold keys: the masters of a cluster, or `None` for the one server there is.
    pub async fn masters(&self, deadline: Duration) -> Result<Vec<Option<RedisAddress>>, StoreError> {
        let Self::Cluster(mut cluster) = self.clone() else {
            return Ok(vec![None]);
        };
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        let value = with_deadline(deadline, cluster.route_command(slots, route)).await?;
        let ranges: Vec<Vec<Value>> = read_value(value)?;
        let mut nodes: Vec<Option<RedisAddress>> = Vec::new();
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
            let known = |node: &Option<RedisAddress>| node.as_ref().is_some_and(|node| node.host == host && node.port == port);
            if !nodes.iter().any(known) {
                nodes.push(Some(RedisAddress { host, port }));
            }
        }
        Ok(nodes)
    }
}

/// A server's answer to `ROLE`.
pub struct Role {
    pub is_master: bool,
    pub has_replicas: bool,
}

impl Role {
    pub fn read(value: &Value) -> Option<Self> {
        let Value::Array(parts) = value else { return None };
        let name: String = from_redis_value(parts.first()?.clone()).ok()?;
        Some(Self {
            is_master: name == "master",
            has_replicas: matches!(parts.get(2), Some(Value::Array(replicas)) if !replicas.is_empty()),
        })
    }
}

fn read_value<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    from_redis_value(value).map_err(|error| StoreError::Refused(error.to_string()))
}

/// The configured address of the store, for the log. Without passwords.
pub fn configured_address(config: &config::Redis) -> String {
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

/// Connects. `master` is the one that the Sentinels named; it is needed only with Sentinels.
pub async fn connect(config: &config::Redis, master: Option<&RedisAddress>) -> Result<Links, StoreError> {
    let secrets = Secrets::read(config).await?;
    let connecting = async {
        match (&config.topology, master) {
            (Topology::Single(url), _) => {
                let info = url.expose().as_str().into_connection_info()?;
                connect_twice(&client(info, &secrets, Credentials::Configured)?, config).await
            }
            (Topology::Sentinel { tls, .. }, Some(master)) => {
                let host = master.host.clone();
                let port = master.port;
                let address = match tls {
                    false => ConnectionAddr::Tcp(host, port),
                    true => ConnectionAddr::TcpTls {
                        host,
                        port,
                        insecure: false,
                        tls_params: None,
                    },
                };
                let info = address.into_connection_info()?;
                connect_twice(&client(info, &secrets, Credentials::Configured)?, config).await
            }
            (Topology::Sentinel { .. }, None) => Err((ErrorKind::Client, "no master was named").into()),
            (Topology::Cluster(urls), _) => {
                let client = cluster_client(config, urls, &secrets)?;
                let (commands, durable) = tokio::join!(client.get_async_connection(), client.get_async_connection());
                Ok(Links {
                    commands: Link::Cluster(commands?),
                    durable: Link::Cluster(durable?),
                })
            }
        }
    };
    with_deadline(CONNECT_DEADLINE, connecting).await
}

/// Connects to one Sentinel, without user and password: those are for the servers behind the Sentinels.
pub async fn connect_to_sentinel(url: &Redacted<String>, config: &config::Redis) -> Result<MultiplexedConnection, StoreError> {
    let secrets = Secrets::read(config).await?;
    let connecting = async {
        let info = url.expose().as_str().into_connection_info()?;
        let client = client(info, &secrets, Credentials::None)?;
        let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_DEADLINE));
        client.get_multiplexed_async_connection_with_config(&settings).await
    };
    with_deadline(CONNECT_DEADLINE, connecting).await
}

async fn connect_twice(client: &Client, config: &config::Redis) -> Result<Links, RedisError> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        .set_response_timeout(Some(config.timeout));
    let connect = || client.get_multiplexed_async_connection_with_config(&settings);
    let (commands, durable) = tokio::join!(connect(), connect());
    Ok(Links {
        commands: Link::Node(commands?),
        durable: Link::Node(durable?),
    })
}

/// The user and password that a connection sends.
#[derive(Clone, Copy)]
enum Credentials {
    Configured,
    None,
}

fn client(info: ConnectionInfo, secrets: &Secrets, credentials: Credentials) -> Result<Client, RedisError> {
    let mut settings: RedisConnectionInfo = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    if let Credentials::Configured = credentials {
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

fn cluster_client(
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

/// User, password and certificates, as the files hold them now.
struct Secrets {
    username: Option<String>,
    password: Option<Redacted<String>>,
    tls: Option<TlsCertificates>,
}

impl Secrets {
    /// Reads the files on a blocking thread, because a file system may hang.
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
            Some(Secret::File(path)) => Some(read_password(path)?),
        };
        let identity = match &config.tls.identity {
            None => None,
            Some((cert, key)) => Some(ClientTlsConfig {
                client_cert: read(cert)?,
                client_key: read(key)?,
            }),
        };
        let ca = config.tls.ca.as_deref().map(read).transpose()?;
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
