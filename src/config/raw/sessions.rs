//! The keys of `sessions` and `login`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, Secret};

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSessions {
    /// Where sessions live.
    pub store: RawSessionStore,
    /// Server keys, shared by all replicas: one per line, 32 bytes in base64; the first seals, all open; watched.
    /// Needed by the redis store; null with the memory store: an ephemeral key.
    pub key_file: Option<String>,
    /// The Redis of the redis store.
    pub redis: Option<RawRedis>,
    /// A session not used for this long ends.
    pub idle_timeout: DurationText,
    /// A session ends this long after its login.
    pub absolute_timeout: DurationText,
    /// How long a replica may not know of a revocation.
    pub staleness_max: DurationText,
    /// Sessions that this process remembers so that it need not ask the store.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub cache: usize,
    /// Set the cookie without `Secure` and `__Host-`: for plain HTTP on localhost only.
    pub danger_insecure_cookie: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawSessionStore {
    /// In this process.
    #[default]
    Memory,
    /// In Redis, for all replicas.
    Redis,
}

/// One of `url`, `sentinel` and `cluster` says where it is.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRedis {
    /// A single server: `redis://host:port/db`, `rediss://` over TLS, `unix:/path`.
    #[schemars(extend("writeOnly" = true))]
    pub url: Option<Secret>,
    /// Sentinels that know the master.
    pub sentinel: Option<RawSentinel>,
    /// URLs of some nodes of a cluster.
    #[schemars(extend("writeOnly" = true))]
    pub cluster: Option<Vec<Secret>>,
    /// ACL user. Absent: the default user.
    pub username: Option<String>,
    /// Its password. Better kept in `password_file`.
    #[schemars(extend("writeOnly" = true))]
    pub password: Option<Secret>,
    /// The same as a file; read again for every connection.
    pub password_file: Option<String>,
    /// How the servers prove themselves over TLS, and the gate to them.
    pub tls: RawRedisTls,
    /// Put before every key; `cedargate:<deployment>:`. Deployments that share a Redis must differ.
    pub key_prefix: Option<String>,
    /// How long one command may take.
    pub timeout: DurationText,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawSentinel {
    /// Name of the master.
    #[schemars(required)]
    pub master: Option<String>,
    /// URLs of the sentinels.
    #[schemars(required, extend("writeOnly" = true))]
    pub urls: Option<Vec<Secret>>,
    /// Whether the servers behind the sentinels speak TLS.
    #[serde(default)]
    pub tls: bool,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRedisTls {
    /// PEM file of the authorities that the servers' certificates must come from. Absent: the system's.
    pub ca: Option<String>,
    /// PEM file of the gate's own certificate chain. Absent: none is presented.
    pub cert: Option<String>,
    /// PEM file of its private key.
    pub key: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogin {
    /// Ways to log in, by name; `portal.yaml` names the one that a portal uses.
    pub providers: BTreeMap<String, RawProvider>,
}

/// An OIDC provider (`issuer`, `client_id`), or local accounts (`users_file`).
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProvider {
    /// What the login page calls it. Absent: its name.
    pub title: Option<String>,
    /// Name of the issuer, one of `issuers`.
    pub issuer: Option<String>,
    /// The gate's client at the provider.
    pub client_id: Option<String>,
    /// Its secret. Better kept in `client_secret_file`.
    #[schemars(extend("writeOnly" = true))]
    pub client_secret: Option<Secret>,
    /// The same as a file; read at each use.
    pub client_secret_file: Option<String>,
    /// PKCS#8 PEM of the client's P-256 key, for `private_key_jwt`; read at each use.
    pub client_key_file: Option<String>,
    /// How the gate proves itself. Absent: `private_key_jwt` with a key, `client_secret_basic` with a secret.
    pub auth_method: Option<RawAuthMethod>,
    /// What to ask for; `openid` always is.
    pub scopes: Vec<String>,
    /// Users of local accounts: YAML, made with `cedargate user add`; watched.
    pub users_file: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RawAuthMethod {
    /// The secret in `Authorization: Basic`.
    ClientSecretBasic,
    /// The secret in the form.
    ClientSecretPost,
    /// A JWT signed with the client's key (RFC 7523).
    PrivateKeyJwt,
}
