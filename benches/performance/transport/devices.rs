//! The measured programs: the gate with its whole job, nginx and Envoy that check nothing. All use the same
//! certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Http, Wire};
use crate::gate::{self, Gate, Other};
use crate::machine::{DEVICE, pinned};
use crate::peers::installed::program;
use crate::peers::servers::nginx;
use crate::peers::shop::{self, Kind, write};
use crate::peers::token::{AUDIENCE, ISSUER, Issuer};
use crate::process::{Process, free_address};

/// Beside the policies of the other sections: viewers may upload, and open a WebSocket.
const UPLOADS: &str = r#"
@id("viewers-upload") permit (principal in Role::"viewer", action == Action::"POST", resource in Path::"/portal/shop/catalogue");
"#;

/// The surroundings of the measured programs.
pub struct Site<'a> {
    pub folder: &'a Path,
    pub app: SocketAddr,
    pub issuer: &'a Issuer,
    pub policies: usize,
}

/// A measured program: one process, or two where one process has no listeners of both kinds.
pub struct Device {
    pub name: &'static str,
    processes: Vec<Process>,
    plain: SocketAddr,
    /// HTTP/2 without TLS.
    plain2: SocketAddr,
    tls: SocketAddr,
}

impl Device {
    pub fn address(&self, wire: Wire, http: Http) -> SocketAddr {
        match (wire, http) {
            (Wire::Plain, Http::One) => self.plain,
            (Wire::Plain, Http::Two) => self.plain2,
            (Wire::Tls, _) => self.tls,
        }
    }

    /// Ends its processes as an operator does.
    pub fn end(self) {
        self.processes.into_iter().for_each(Process::end);
    }

    pub fn cpu_time(&self) -> Duration {
        self.processes.iter().map(Process::cpu_time).sum()
    }
}

/// The gate does its whole job: a token, Cedar policies, identity headers, an assertion, a decision record, metrics.
pub fn gates(site: &Site<'_>) -> Result<Device, String> {
    let (plain, process) = one_gate(site, "gate-plain", "")?;
    let (tls, other) = one_gate(site, "gate-tls", ", tls: { cert: ../cert.pem, key: ../key.pem }")?;
    Ok(Device {
        name: super::GATE,
        processes: vec![process, other],
        plain,
        plain2: plain,
        tls,
    })
}

fn one_gate(site: &Site<'_>, name: &str, tls: &str) -> Result<(SocketAddr, Process), String> {
    let folder = site.folder.join(name);
    shop::write_gate(&folder, Kind::Unconditional, site.policies);
    write(&folder, "policies/shop/uploads.cedar", UPLOADS);
    write(&folder, "jwks.json", &site.issuer.jwks());
    let config = format!(
        "upstream: {{ url: 'http://{}' }}\npolicies: {{ require: [shop] }}\n\
         issuers: [{{ name: bench, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: {{ file: jwks.json }} }}]\n\
         limits: {{ workers: 1, drain_delay: 0s }}\naudit: {{ sink: {{ file: records.jsonl }} }}\n",
        site.app
    );
    let other = Other {
        program: &gate::program()?,
        name: "gate",
        proxy_keys: tls,
        serves_envoy: false,
    };
    let gate = Gate::start_other(&other, &folder, &config, pinned(DEVICE))?;
    Ok((gate.proxy, gate.process))
}

/// nginx passes bodies on as they come, as the gate does: without that it would write them to a disk.
pub fn nginx_plain(site: &Site<'_>) -> Result<Device, String> {
    let [plain, plain2, tls] = [(); 3].map(|()| free_address());
    let cert = site.folder.join("cert.pem");
    let key = site.folder.join("key.pem");
    let servers = format!(
        "upstream app {{ server {}; keepalive 64; keepalive_requests 1000000000; }}
         map $http_upgrade $connection_to_app {{ default upgrade; '' ''; }}
         proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_to_app;
         proxy_request_buffering off; proxy_max_temp_file_size 0; client_max_body_size 0;
         server {{ listen {plain}; location / {{ proxy_pass http://app; }} }}
         server {{ listen {plain2} http2; location / {{ proxy_pass http://app; }} }}
         server {{ listen {tls} ssl http2; ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {};
             location / {{ proxy_pass http://app; }} }}\n",
        site.app,
        cert.display(),
        key.display()
    );
    let mut process = nginx(site.folder, "nginx-transport", DEVICE, &servers)?;
    for address in [plain, plain2, tls] {
        process.wait_for(address)?;
    }
    Ok(Device {
        name: super::NGINX,
        processes: vec![process],
        plain,
        plain2,
        tls,
    })
}

pub fn envoy(site: &Site<'_>) -> Result<Device, String> {
    let [plain, tls] = [(); 2].map(|()| free_address());
    let file = site.folder.join("envoy-transport.json");
    let files = [site.folder.join("cert.pem"), site.folder.join("key.pem")];
    let [cert, key] = files.map(|path| json!({"filename": path}));
    let security = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": cert, "private_key": key}],
        },
    });
    let chain = json!({"filters": [envoy_manager()]});
    let mut secured = chain.clone();
    secured.as_object_mut().unwrap().insert(
        "transport_socket".to_owned(),
        json!({"name": "envoy.transport_sockets.tls", "typed_config": security}),
    );
    let listener = |name: &str, address, chain: Value| json!({"name": name, "address": at(address), "filter_chains": [chain]});
    let endpoint = json!({"endpoint": {"address": at(site.app)}});
    let config = json!({"static_resources": {
        "listeners": [listener("plain", plain, chain), listener("tls", tls, secured)],
        "clusters": [{
            "name": "app", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }],
    }});
    write(site.folder, "envoy-transport.json", &config.to_string());
    let file = file.to_string_lossy();
    let args = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"];
    let log = site.folder.join("envoy-transport.log");
    let mut process = Process::start_logged(pinned(DEVICE), program("envoy")?, &args, &log)?;
    process.wait_for(tls)?;
    Ok(Device {
        name: super::ENVOY,
        processes: vec![process],
        plain,
        plain2: plain,
        tls,
    })
}

fn envoy_manager() -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}});
    let router = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "transport", "codec_type": "AUTO", "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }})
}

fn at(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
