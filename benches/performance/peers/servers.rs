//! The app and every proxy in front of it, as processes with their configuration files.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::installed::program;
use super::shop::{self, write};
use super::token::{AUDIENCE, ISSUER};
use crate::machine::{DEVICE, REST, pinned};
use crate::process::{Process, free_address};

/// Entries of Envoy's token cache: as many as the gate's.
const TOKEN_CACHE: usize = 10_000;

/// The rules and the token cache of an Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvoyOptions {
    pub policies: usize,
    pub token_cache: bool,
}

pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
}

/// The app, and the service that nginx calls with `auth_request`; both run on the core of the load.
pub struct App {
    _process: Process,
    pub address: SocketAddr,
    pub authorizer: SocketAddr,
}

const NGINX: &str = "worker_processes 1; daemon off; master_process off; error_log stderr crit; pid PID;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy; fastcgi_temp_path FOLDER/f; uwsgi_temp_path FOLDER/u; scgi_temp_path FOLDER/s;
";

/// Starts nginx with one worker and these servers, on a core.
pub fn nginx(folder: &Path, name: &str, core: usize, servers: &str) -> Result<Process, String> {
    let home = folder.join(name);
    std::fs::create_dir_all(&home).map_err(|e| e.to_string())?;
    let head = NGINX.replace("FOLDER", &home.to_string_lossy());
    let head = head.replace("PID", &home.join("pid").to_string_lossy());
    write(&home, "nginx.conf", &format!("{head}{servers}}}\n"));
    let file = home.join("nginx.conf");
    let home = home.to_string_lossy();
    let args = ["-p", &*home, "-c", &*file.to_string_lossy()];
    Process::start_logged(pinned(core), program("nginx")?, &args, &folder.join(format!("{name}.log")))
}

impl App {
    pub fn start(folder: &Path) -> Result<Self, String> {
        let address = free_address();
        let authorizer = free_address();
        let servers = format!(
            "server {{ listen {address}; default_type text/plain; location / {{ return 200 \"ok\\n\"; }}
                location = {} {{ return 200 \"$http_x_cedargate_assertion\"; }} }}
             server {{ listen {authorizer}; location / {{ if ($http_authorization = \"\") {{ return 401; }} return 204; }} }}\n",
            shop::ECHO
        );
        let mut process = nginx(folder, "app", REST, &servers)?;
        process.wait_for(address)?;
        Ok(Self {
            _process: process,
            address,
            authorizer,
        })
    }
}

/// nginx without any check.
pub fn nginx_plain(folder: &Path, app: &App) -> Result<Server, String> {
    let address = free_address();
    let servers = format!(
        "upstream app {{ server {}; keepalive 64; keepalive_requests 1000000000; }}
         server {{ listen {address}; location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}\n",
        app.address
    );
    started(nginx(folder, "nginx-plain", DEVICE, &servers)?, address)
}

/// nginx with `auth_request` to a service that answers 204 to any credential.
pub fn nginx_auth_request(folder: &Path, app: &App) -> Result<Server, String> {
    let address = free_address();
    let servers = format!(
        "upstream app {{ server {}; keepalive 64; keepalive_requests 1000000000; }}
         upstream asked {{ server {}; keepalive 64; keepalive_requests 1000000000; }}
         server {{ listen {address};
            location / {{ auth_request /asked; proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
            location = /asked {{ internal; proxy_pass http://asked; proxy_pass_request_body off; proxy_http_version 1.1;
                proxy_set_header Connection \"\"; proxy_set_header Content-Length \"\"; proxy_set_header X-Original-URI $request_uri; }} }}\n",
        app.address, app.authorizer
    );
    started(nginx(folder, "nginx-auth-request", DEVICE, &servers)?, address)
}

/// HAProxy, which verifies every token anew and checks one role and one prefix.
pub fn haproxy(folder: &Path, app: &App) -> Result<Server, String> {
    let address = free_address();
    let pem = folder.join("issuer.pem");
    let text = format!(
        "global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 60s
    http-reuse always
frontend gate
    bind {address}
    http-request set-var(txn.bearer) http_auth_bearer
    http-request deny deny_status 401 unless {{ var(txn.bearer) -m found }}
    http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_header_query('$.alg') -m str RS256 }}
    http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify(\"RS256\",\"{}\") -m int 1 }}
    http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_payload_query('$.iss') -m str {ISSUER} }}
    http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_payload_query('$.aud') -m str {AUDIENCE} }}
    http-request set-var(txn.now) date()
    http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
    http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
    http-request deny deny_status 403 unless METH_GET {{ var(txn.bearer),jwt_payload_query('$.roles[0]') -m str viewer }} {{ path_beg /portal/shop/catalogue/ }}
    http-request set-header x-user %[var(txn.bearer),jwt_payload_query('$.sub')]
    http-request del-header authorization
    default_backend app
backend app
    server app {}
",
        pem.display(),
        app.address
    );
    write(folder, "haproxy.cfg", &text);
    let file = folder.join("haproxy.cfg");
    let args = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
    let process = Process::start_logged(pinned(DEVICE), program("haproxy")?, &args, &folder.join("haproxy.log"))?;
    started(process, address)
}

/// Envoy with one worker: `jwt_authn`, RBAC, and the subject as a header for the app.
pub fn envoy(folder: &Path, app: &App, options: EnvoyOptions) -> Result<Server, String> {
    let address = free_address();
    let name = format!("envoy-{}-{}", options.policies, options.token_cache);
    let file = folder.join(format!("{name}.json"));
    write(
        folder,
        &format!("{name}.json"),
        &envoy_config(address, app.address, folder, options).to_string(),
    );
    let args = [
        "-c",
        &*file.to_string_lossy(),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "warning",
    ];
    let process = Process::start_logged(pinned(DEVICE), program("envoy")?, &args, &folder.join(format!("{name}.log")))?;
    started(process, address)
}

fn envoy_config(address: SocketAddr, app: SocketAddr, folder: &Path, options: EnvoyOptions) -> Value {
    let at = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let mut provider = json!({
        "issuer": ISSUER, "audiences": [AUDIENCE], "local_jwks": {"filename": folder.join("jwks.json")}, "forward": false,
        "payload_in_metadata": "jwt", "claim_to_headers": [{"header_name": "x-user", "claim_name": "sub"}],
    });
    if options.token_cache {
        provider
            .as_object_mut()
            .unwrap()
            .insert("jwt_cache_config".to_owned(), json!({"jwt_cache_size": TOKEN_CACHE}));
    }
    let filter = |name: &str, kind: &str, config: Value| {
        let mut config = config;
        let kind = format!("type.googleapis.com/envoy.extensions.filters.{kind}");
        config.as_object_mut().unwrap().insert("@type".to_owned(), json!(kind));
        json!({"name": name, "typed_config": config})
    };
    let rbac = |action: &str, wanted: &str| {
        let rules = json!({"rules": {"action": action, "policies": shop::envoy_rbac(options.policies, wanted)}});
        filter("envoy.filters.http.rbac", "http.rbac.v3.RBAC", rules)
    };
    let jwt =
        json!({"providers": {"bench": provider}, "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}]});
    let mut filters = vec![filter(
        "envoy.filters.http.jwt_authn",
        "http.jwt_authn.v3.JwtAuthentication",
        jwt,
    )];
    // a DENY filter needs a policy: the first forbid is the tenth
    if options.policies >= 10 {
        filters.push(rbac("DENY", "forbid"));
    }
    filters.push(rbac("ALLOW", "permit"));
    filters.push(filter("envoy.filters.http.router", "http.router.v3.Router", json!({})));
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "app"}});
    let manager = json!({
        "stat_prefix": "gate", "codec_type": "HTTP1", "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    });
    let manager = filter(
        "envoy.filters.network.http_connection_manager",
        "network.http_connection_manager.v3.HttpConnectionManager",
        manager,
    );
    let endpoint = json!({"endpoint": {"address": at(app)}});
    json!({"static_resources": {
        "listeners": [{"name": "gate", "address": at(address), "filter_chains": [{"filters": [manager]}]}],
        "clusters": [{
            "name": "app", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }],
    }})
}

fn started(mut process: Process, address: SocketAddr) -> Result<Server, String> {
    process.wait_for(address)?;
    Ok(Server { process, address })
}
