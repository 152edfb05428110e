//! `listen`: the addresses of the listeners, their TLS files, and the tokens that callers of the decision listener
//! present.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use cedargate_policy::types::Redacted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::check::{Checker, UNIX, transpose};
use crate::config::values::SecretText;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListen {
    /// The listener for clients.
    pub proxy: RawProxyListen,
    /// The listener for the app and for proxies: `/authorize`, AuthZEN, `/auth-request`, `/forward-auth`,
    /// `/ext-authz/`. Null: off.
    pub decision: Option<RawDecisionListen>,
    /// The listener for Envoy's `ext_authz` over gRPC. Absent: off.
    pub ext_authz: Option<RawExtAuthzListen>,
    /// Health, metrics, status; read-only. Null: off.
    pub admin: Option<RawAdminListen>,
    /// The socket for the operator on the same machine: drain, reload, sessions. Absent: off.
    pub control: Option<RawControlListen>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProxyListen {
    /// IP address and port.
    pub address: String,
    /// Serve TLS. Absent: plain HTTP.
    pub tls: Option<RawTls>,
    /// Expect a PROXY protocol header (v1 or v2) on every connection from `trusted_proxies`.
    pub proxy_protocol: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    /// PEM file of the certificate chain, leaf first; watched.
    #[schemars(required)]
    pub cert: Option<PathBuf>,
    /// PEM file of the private key; watched.
    #[schemars(required)]
    pub key: Option<PathBuf>,
    /// PEM file of the authorities that clients' certificates must come from; watched. Absent: clients need none.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// `optional`: a client may come without a certificate; `listen.proxy` only. Has no effect without `client_ca`.
    #[serde(default)]
    pub client_auth: ClientCertificates,
    /// PEM file of revocation lists, one of every authority in the chains of clients; watched. Absent: none is asked.
    #[serde(default)]
    pub client_crl: Option<PathBuf>,
}

/// `Optional`: a client without a certificate is served, too. One whose certificate does not verify never is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ClientCertificates {
    #[default]
    Required,
    Optional,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawControlListen {
    /// `unix:/path`: only the socket's owner may use it.
    #[schemars(required)]
    pub address: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDecisionListen {
    /// IP address and port, or `unix:/path`. Off loopback it needs `auth` or `tls.client_ca`.
    pub address: String,
    /// The tokens that callers must present.
    pub auth: RawDecisionAuth,
    /// Serve TLS. Absent: plain HTTP.
    pub tls: Option<RawTls>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawExtAuthzListen {
    /// Loopback address and port, or `unix:/path`: an Envoy on the same machine.
    #[schemars(required)]
    pub address: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDecisionAuth {
    /// Bearer tokens that callers must present, each of 16 characters or more. Better kept in `tokens_file`.
    #[schemars(extend("writeOnly" = true))]
    pub tokens: Option<Vec<SecretText>>,
    /// The same as a file, one token per line; blank lines and lines that start with `#` are ignored.
    pub tokens_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdminListen {
    /// IP address and port.
    pub address: String,
}

#[derive(Clone, Debug)]
pub struct Listen {
    pub proxy: ProxyListen,
    pub decision: Option<DecisionListen>,
    /// On loopback or a Unix socket.
    pub ext_authz: Option<Address>,
    pub admin: Option<SocketAddr>,
    /// Path of the Unix socket.
    pub control: Option<PathBuf>,
}

/// The listener for clients.
#[derive(Clone, Debug)]
pub struct ProxyListen {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub proxy_protocol: ProxyProtocol,
}

/// `Required`: connections from `trusted_proxies` start with a PROXY protocol header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyProtocol {
    Off,
    Required,
}

/// PEM files of one listener; read at start and again when they change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// `None`: clients need no certificate.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientCertificates,
    /// `None`: no revocation list is asked.
    pub client_crl: Option<PathBuf>,
}

/// The listener for the app. Off loopback `tokens` is never empty, or `tls` has a `client_ca`.
#[derive(Clone, Debug)]
pub struct DecisionListen {
    pub address: Address,
    /// Bearer tokens that callers must present (`auth.tokens_file`, one per line); empty: no check.
    pub tokens: Vec<Redacted<String>>,
    pub tls: Option<Tls>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            proxy: RawProxyListen::default(),
            decision: Some(RawDecisionListen::default()),
            ext_authz: None,
            admin: Some(RawAdminListen::default()),
            control: None,
        }
    }
}

impl Default for RawProxyListen {
    fn default() -> Self {
        Self {
            address: "0.0.0.0:8900".to_owned(),
            tls: None,
            proxy_protocol: false,
        }
    }
}

impl Default for RawDecisionListen {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8901".to_owned(),
            auth: RawDecisionAuth::default(),
            tls: None,
        }
    }
}

impl Default for RawAdminListen {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8903".to_owned(),
        }
    }
}

impl Checker<'_> {
    pub fn listen(&mut self, raw: &RawListen) -> Option<Listen> {
        let proxy = self.proxy(&raw.proxy);
        let decision = raw.decision.as_ref().map(|decision| self.decision(decision));
        let admin = raw
            .admin
            .as_ref()
            .map(|admin| self.socket_address("listen.admin.address", &admin.address));
        let control = raw.control.as_ref().map(|control| self.control(control));
        let ext_authz = raw.ext_authz.as_ref().map(|ext_authz| self.ext_authz(ext_authz));
        let listen = Listen {
            proxy: proxy?,
            decision: transpose(decision)?,
            ext_authz: transpose(ext_authz)?,
            admin: transpose(admin)?,
            control: transpose(control)?,
        };
        self.distinct(&listen);
        Some(listen)
    }

    fn distinct(&mut self, listen: &Listen) {
        let tcp = |address: &Address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        };
        let decision = listen.decision.as_ref().and_then(|decision| tcp(&decision.address));
        let named = [
            ("listen.decision.address", decision),
            ("listen.ext_authz.address", listen.ext_authz.as_ref().and_then(tcp)),
            ("listen.admin.address", listen.admin),
        ];
        let mut taken = vec![("listen.proxy.address", listen.proxy.address)];
        for (key, address) in named.into_iter().filter_map(|(key, address)| Some((key, address?))) {
            if let Some((other, _)) = taken.iter().find(|(_, other)| overlaps(*other, address)) {
                self.error(key, format!("`{address}` is also taken by `{other}`; choose another port"));
            }
            taken.push((key, address));
        }
    }

    fn proxy(&mut self, raw: &RawProxyListen) -> Option<ProxyListen> {
        let address = self.socket_address("listen.proxy.address", &raw.address);
        let tls = raw.tls.as_ref().map(|tls| self.tls("listen.proxy.tls", tls));
        let proxy_protocol = if raw.proxy_protocol {
            ProxyProtocol::Required
        } else {
            ProxyProtocol::Off
        };
        Some(ProxyListen {
            address: address?,
            tls: transpose(tls)?,
            proxy_protocol,
        })
    }

    fn control(&mut self, raw: &RawControlListen) -> Option<PathBuf> {
        let key = "listen.control.address";
        match raw.address.as_ref()?.strip_prefix(UNIX) {
            Some(path) if !path.is_empty() => Some(self.path(key, path)),
            _ => {
                self.error(key, "is a Unix socket only; write it as `unix:/run/cedargate/control.sock`");
                None
            }
        }
    }

    /// The paths alone; `http::tls` reads the files at start and whenever they change.
    fn tls(&mut self, section: &str, raw: &RawTls) -> Option<Tls> {
        let mut file = |name: &str, path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            Some(self.path(&format!("{section}.{name}"), path))
        };
        let cert = file("cert", &raw.cert);
        let key = file("key", &raw.key);
        let client_ca = file("client_ca", &raw.client_ca);
        let client_crl = file("client_crl", &raw.client_crl);
        if client_crl.is_some() && client_ca.is_none() {
            self.error(
                &format!("{section}.client_crl"),
                "has no effect without `client_ca`; remove one, or add the other",
            );
        }
        Some(Tls {
            cert: cert?,
            key: key?,
            client_ca,
            client_auth: raw.client_auth,
            client_crl,
        })
    }

    /// An address of either kind.
    fn any_address(&mut self, key: &str, text: &str) -> Option<Address> {
        match text.strip_prefix(UNIX) {
            Some("") => {
                self.error(key, "`unix:` needs a path, such as `unix:/run/cedargate/decision.sock`");
                None
            }
            Some(path) => Some(Address::Unix(self.path(key, path))),
            None => self.socket_address(key, text).map(Address::Tcp),
        }
    }

    fn ext_authz(&mut self, raw: &RawExtAuthzListen) -> Option<Address> {
        let key = "listen.ext_authz.address";
        let address = self.any_address(key, raw.address.as_ref()?)?;
        if let Address::Tcp(tcp) = &address
            && !tcp.ip().to_canonical().is_loopback()
        {
            let message = format!(
                "`{tcp}` is reachable from other hosts, and this listener believes what its callers say of a request: listen on \
                 127.0.0.1 or a Unix socket beside Envoy, or let Envoy ask over HTTP (`listen.decision`)"
            );
            self.error(key, message);
            return None;
        }
        Some(address)
    }

    fn decision(&mut self, raw: &RawDecisionListen) -> Option<DecisionListen> {
        let key = "listen.decision.address";
        let section = "listen.decision.auth";
        let address = self.any_address(key, &raw.address);
        let tokens = self.tokens(section, raw.auth.tokens.as_deref(), raw.auth.tokens_file.as_deref());
        let tls = transpose(raw.tls.as_ref().map(|tls| self.tls("listen.decision.tls", tls)))?;
        if tls.is_some() && matches!(address, Some(Address::Unix(_))) {
            self.error("listen.decision.tls", "is for TCP; a Unix socket needs none, so remove it");
            return None;
        }
        if tls
            .as_ref()
            .is_some_and(|tls| tls.client_auth == ClientCertificates::Optional)
        {
            let message = "is for `listen.proxy` alone: here the certificate is what admits a caller; remove it";
            self.error("listen.decision.tls.client_auth", message);
            return None;
        }
        let asks_certificate = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let address = address?;
        let open = matches!(&address, Address::Tcp(tcp) if !tcp.ip().to_canonical().is_loopback());
        // INVARIANT: off loopback there are tokens; a mistake in them was reported with their key
        if open && tokens.is_empty() && !asks_certificate {
            if !self.has_error_under(section) {
                let message = format!(
                    "`{}` is reachable from other hosts, so callers must present a token or a certificate: set this key or \
                     `listen.decision.tls.client_ca`, or listen on 127.0.0.1",
                    raw.address
                );
                self.error(&format!("{section}.tokens_file"), message);
            }
            return None;
        }
        Some(DecisionListen { address, tokens, tls })
    }

    fn socket_address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let problem = match text.parse() {
            Ok(address) => return Some(address),
            Err(_) if text.starts_with(UNIX) => {
                "is a Unix socket, which only `listen.decision`, `listen.ext_authz` and `listen.control` can use; write an IP address and port"
            }
            Err(_) if text.parse::<IpAddr>().is_ok() => "has no port; write it as `127.0.0.1:8900` or `[::1]:8900`",
            Err(_) if text.starts_with(':') => "has no address; write `0.0.0.0` before it to listen on all",
            Err(_) if text.starts_with("localhost:") => "is a name; write the IP address, `127.0.0.1`",
            Err(_) => "is not an IP address and port, such as `127.0.0.1:8900` or `[::1]:8900`",
        };
        self.error(key, format!("`{text}` {problem}"));
        None
    }
}

fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    // port 0 asks the system for a free one
    let either_any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip().to_canonical() == b.ip().to_canonical() || either_any)
}
