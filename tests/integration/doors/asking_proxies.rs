//! Real proxies that ask the gate, configured as `docs/integrations` says: who gets in, what the app sees, and lists of
//! confusing paths and forged headers in front of each.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::front::{Front, block, port, start_gate, with_addresses};
use super::hostile_requests::the_app_sees_what_was_decided;
use crate::support::IDENTITY_HEADERS;
use crate::support::tools::tool;
use crate::support::{Answer, Gate, ISSUER, RawConnection, exchange, now};

/// Paths that some reader takes for `/portal/p/secret`.
pub const CONFUSING: &[&str] = &[
    "/portal/p/open/../secret",
    "/portal/p/open/%2e%2e/secret",
    "/portal/p/open/.%2E/secret",
    "/portal/p/open/..%2fsecret",
    "/portal/p/open/..;/secret",
    "/portal/p/open/..\\secret",
    "/portal/p/open/..%5csecret",
    "/portal/p/open/%252e%252e/secret",
    "/portal/p/open//../secret",
    "/portal/p/./secret",
    "/portal/p//secret",
    "//portal/p/secret",
    "/portal//p/secret",
    "/portal/p/%73ecret",
    "/portal/p/secre%74",
    "/portal/p/secret;x=1",
    "/portal/p/secret%00",
    "/portal/p/secret%20",
    "/portal/p/secret%2f",
    "/portal/p/secret/..%00/",
    "/portal/p/x/../secret?y=/portal/p/open",
    "/portal%2fp%2fsecret",
    "/portal/p/open/../../p/secret",
    "/portal/p/secret#/open",
    "/portal/p/open#/../secret",
    "/portal/p/secret/",
    "/portal/p/secret",
    "/portal/p/%E0%80%AE%E0%80%AE/secret",
    "/portal/p/open/%c0%ae%c0%ae/secret",
];

pub fn token(gate: &Gate, roles: &[&str]) -> String {
    let claims = json!({
        "iss": ISSUER, "aud": "shop", "sub": "alice", "roles": roles, "tenant": "acme", "iat": now(), "exp": now() + 600,
    });
    format!("Bearer {}", gate.issuer.sign(&claims))
}

/// A path as a careless app reads it.
fn careless(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap();
    let mut text = path.to_owned();
    for _ in 0..2 {
        text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    let mut segments: Vec<&str> = Vec::new();
    let text = text.replace('\\', "/").replace('\0', "");
    for segment in text.split('/') {
        match segment.split(';').next().unwrap().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// The answer, and what the app saw of the request.
fn through(front: &Front, gate: &Gate, bytes: &str) -> (Option<Answer>, Vec<crate::support::Seen>) {
    let before = gate.app.count();
    let answer = exchange(front.address, bytes.as_bytes());
    (answer, gate.app.seen().split_off(before))
}

fn a_viewer_gets_in_and_no_other_caller(front: &Front, gate: &Gate) {
    let before = gate.app.count();
    let answer = front.send("GET", "/portal/p/orders?x=1", &[]);
    assert_eq!(answer.status, 401, "{answer:?}");
    let answer = front.send("GET", "/portal/p/orders", &[("authorization", "Bearer nonsense")]);
    assert_eq!(answer.status, 401, "{answer:?}");
    let nobody = token(gate, &[]);
    let answer = front.send("GET", "/portal/p/orders", &[("authorization", &nobody)]);
    assert_eq!(answer.status, 403, "{answer:?}");
    let viewer = token(gate, &["viewer"]);
    let answer = front.send("GET", "/portal/p/secret", &[("authorization", &viewer)]);
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(gate.app.count(), before, "a refused request reached the app");
    for method in ["GET", "POST", "PUT"] {
        let answer = front.send(method, "/portal/p/orders/7?x=%2F&y=a+b", &[("authorization", &viewer)]);
        assert_eq!(answer.status, 200, "{method} {answer:?}");
        let seen = gate.app.last();
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str()),
            (method, "/portal/p/orders/7?x=%2F&y=a+b")
        );
        assert_eq!(seen.headers["x-forwarded-user"], "alice");
        assert_eq!(seen.headers["x-cedargate-tenant"], "acme");
        assert_eq!(seen.headers["x-cedargate-roles"], "viewer");
        assert_eq!(seen.headers["x-cedargate-portal"], "p");
        assert!(!seen.headers["x-cedargate-assertion"].is_empty());
        let authorization = seen.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
        assert_eq!(authorization, "", "the bearer token reached the app");
    }
    // an address that the client claims gives it no right
    for forged in [
        "x-forwarded-for: 203.0.113.1\r\n",
        "x-forwarded-for: 203.0.113.1\r\nx-forwarded-for: 203.0.113.1\r\n",
        "forwarded: for=203.0.113.1\r\nx-real-ip: 203.0.113.1\r\nx-envoy-external-address: 203.0.113.1\r\n",
    ] {
        let request = format!(
            "GET /portal/p/inside HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{forged}authorization: {viewer}\r\n\r\n"
        );
        let (answer, seen) = through(front, gate, &request);
        assert_eq!((answer.unwrap().status, seen.len()), (403, 0), "{forged}");
    }
}

pub fn no_confusing_path_reaches_the_secret(front: &Front, gate: &Gate) {
    let viewer = token(gate, &["viewer"]);
    for path in CONFUSING {
        for credential in [format!("authorization: {viewer}\r\n"), String::new()] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{credential}\r\n");
            let (answer, seen) = through(front, gate, &request);
            for request in &seen {
                let read = careless(&request.target);
                let is_secret = read == "/portal/p/secret" || read.starts_with("/portal/p/secret/");
                assert!(!is_secret, "{path}: the app saw {}", request.target);
            }
            if let Some(answer) = answer {
                assert!(answer.status < 500, "{path}: {answer:?}");
            }
        }
    }
}

pub fn no_forged_header_reaches_the_app(front: &Front, gate: &Gate) {
    let viewer = token(gate, &["viewer"]);
    let identity: Vec<&str> = IDENTITY_HEADERS.into_iter().chain(["x-forwarded-access-token"]).collect();
    for (credential, path) in [
        (format!("authorization: {viewer}\r\n"), "/portal/p/orders"),
        (String::new(), "/portal/p/open/x"),
    ] {
        for name in &identity {
            let others = [name.replace('-', "_"), name.replacen('-', "_", 1), name.to_ascii_uppercase()];
            for spelled in others.iter().map(String::as_str).chain([*name]) {
                let request = format!(
                    "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{credential}{spelled}: forged\r\n{spelled}: forged\r\n\r\n"
                );
                let (_, seen) = through(front, gate, &request);
                for request in &seen {
                    let forged = request.headers.iter().find(|(_, value)| *value == "forged");
                    assert!(forged.is_none(), "{spelled}: the app saw {forged:?}");
                }
            }
        }
    }
    for line in [
        "x-http-method-override: DELETE",
        "x-method-override: DELETE",
        "x-rewrite-url: /portal/p/secret",
        "x-cedargate-admin: forged",
        "x-original-method: GET\r\nx-original-url: https://localhost/portal/p/open",
        "x-forwarded-uri: /portal/p/open/x\r\nx-forwarded-method: GET",
        "x-forwarded-host: other.test",
        "connection: x-forwarded-user",
    ] {
        // a statement of the client's own changes neither what is decided nor what the app is told
        let before = gate.app.count();
        let mut connection = RawConnection::open(front.address);
        connection.send(format!(
            "GET /portal/p/secret HTTP/1.1\r\nhost: localhost\r\nauthorization: {viewer}\r\n{line}\r\n\r\n"
        ));
        let head = String::from_utf8(connection.read_until("\r\n\r\n")).unwrap();
        assert_eq!(gate.app.count(), before, "{line}");
        let status = head.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "401", "403", "404"].contains(&status), "{line}: {head}");
    }
}

fn check(front: &Front, gate: &Gate) {
    a_viewer_gets_in_and_no_other_caller(front, gate);
    no_confusing_path_reaches_the_secret(front, gate);
    no_forged_header_reaches_the_app(front, gate);
    the_app_sees_what_was_decided(front, gate, "x-forwarded-user");
}

#[test]
fn nginx_asks_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let page = with_addresses(&block("nginx.md", "# nginx", "nginx"), &gate, port);
    check(&start_nginx(page, port), &gate);
}

#[test]
fn nginx_that_keeps_slashes_and_underscores_asks_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let page = with_addresses(&block("nginx.md", "# nginx", "nginx"), &gate, port);
    let page = page.replace("http {\n", "http {\nmerge_slashes off;\nunderscores_in_headers on;\n");
    check(&start_nginx(page, port), &gate);
}

/// Starts nginx with a page's configuration.
pub fn start_nginx(page: String, port: u16) -> Front {
    // the folders of a daemon that runs as root; one process, so that no worker outlives the test
    let config = page.replace("http {", "error_log stderr;\npid nginx.pid;\ndaemon off;\nmaster_process off;\nhttp { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;");
    Front::start(
        &tool(&["nginx"]),
        &["-p", "{dir}", "-c", "nginx.conf"],
        &[("nginx.conf", config)],
        port,
    )
}

#[test]
fn caddy_asks_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let config = with_addresses(&block("caddy.md", "# Caddy", "caddyfile"), &gate, port);
    check(&start_caddy(config, port), &gate);
}

pub fn start_caddy(config: String, port: u16) -> Front {
    let args = ["run", "--config", "Caddyfile", "--adapter", "caddyfile"];
    Front::start(&tool(&["caddy"]), &args, &[("Caddyfile", config)], port)
}

#[test]
fn traefik_asks_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let fixed = with_addresses(&block("traefik.md", "`traefik.yaml`", "yaml"), &gate, port);
    let dynamic = with_addresses(&block("traefik.md", "`dynamic.yaml`", "yaml"), &gate, port);
    check(&start_traefik(fixed, dynamic, port), &gate);
}

pub fn start_traefik(fixed: String, dynamic: String, port: u16) -> Front {
    let files = [("traefik.yaml", fixed), ("dynamic.yaml", dynamic)];
    Front::start(&tool(&["traefik"]), &["--configFile=traefik.yaml"], &files, port)
}

#[test]
fn traefik_that_does_not_clean_paths_asks_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let fixed = with_addresses(&block("traefik.md", "`traefik.yaml`", "yaml"), &gate, port);
    let address = format!("    address: \"127.0.0.1:{port}\"\n");
    assert!(fixed.contains(&address), "{fixed}");
    let fixed = fixed.replace(&address, &format!("{address}    http: {{ sanitizePath: false }}\n"));
    let dynamic = with_addresses(&block("traefik.md", "`dynamic.yaml`", "yaml"), &gate, port);
    check(&start_traefik(fixed, dynamic, port), &gate);
}

#[test]
fn haproxy_asks_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let config = with_addresses(&block("haproxy.md", "`haproxy.cfg`", "haproxy"), &gate, port);
    let script = with_addresses(&block("haproxy.md", "`cedargate.lua`", "lua"), &gate, port);
    check(&start_haproxy(config, script, port), &gate);
}

pub fn start_haproxy(config: String, script: String, port: u16) -> Front {
    let files = [("haproxy.cfg", config), ("cedargate.lua", script)];
    Front::start(&tool(&["haproxy"]), &["-f", "haproxy.cfg", "-db"], &files, port)
}

fn envoy() -> PathBuf {
    let found = tool(&["envoy"]);
    found.canonicalize().unwrap_or(found)
}

pub fn start_envoy(config: String, port: u16) -> Front {
    // without it Envoy keeps each refused connection for a second
    let prompt = "use_remote_address: true\n                delayed_close_timeout: 0.05s";
    let config = config.replace("use_remote_address: true", prompt);
    // one Envoy beside others on this machine: no shared memory with them
    let args = [
        "--base-id-path",
        "base-id",
        "--use-dynamic-base-id",
        "-c",
        "envoy.yaml",
        "--concurrency",
        "1",
        "-l",
        "warning",
    ];
    Front::start(Path::new(&envoy()), &args, &[("envoy.yaml", config)], port)
}

#[test]
fn envoy_asks_the_gate_over_http() {
    let (gate, port) = (start_gate(""), port());
    let config = with_addresses(&block("envoy.md", "## Over HTTP", "yaml"), &gate, port);
    let front = start_envoy(config, port);
    check(&front, &gate);
}

#[test]
fn envoy_that_does_not_normalise_paths_asks_the_gate() {
    let (gate, port) = (start_gate(""), port());
    let config = with_addresses(&block("envoy.md", "## Over HTTP", "yaml"), &gate, port);
    let config = config
        .replace("normalize_path: true", "normalize_path: false")
        .replace(
            "path_with_escaped_slashes_action: REJECT_REQUEST",
            "path_with_escaped_slashes_action: KEEP_UNCHANGED",
        )
        .replace(
            "headers_with_underscores_action: REJECT_REQUEST",
            "headers_with_underscores_action: ALLOW",
        );
    let front = start_envoy(config, port);
    check(&front, &gate);
}

#[test]
fn the_manifests_for_ingress_nginx_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ingress.yaml");
    std::fs::write(&file, block("kubernetes-gateways.md", "## ingress-nginx", "yaml")).unwrap();
    let checked = std::process::Command::new(tool(&["kubernetes-validate"]))
        .args(["--strict", "-k", "1.35.0"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let names = block("kubernetes-gateways.md", "## ingress-nginx", "yaml");
    let names = names
        .lines()
        .find(|line| line.contains("auth-response-headers"))
        .unwrap()
        .to_ascii_lowercase();
    let route = block("kubernetes-gateways.md", "## Gateway API", "yaml");
    for name in IDENTITY_HEADERS
        .into_iter()
        .chain(["cookie", "authorization", "x-forwarded-access-token"])
    {
        assert!(names.contains(name) && route.contains(name), "{name}");
    }
}

/// The mistakes of an object under a resource definition of the Gateway API, as kube-apiserver finds them: also by its
/// rules in CEL.
fn mistakes(definition: &str, version: &str, object: &str) -> String {
    use std::io::Write;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/gateway-api");
    let mut child = std::process::Command::new(tool(&["gateway-api"]))
        .arg(folder.join(format!("gateway.networking.k8s.io_{definition}.yaml")))
        .arg(version)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(object.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!found.is_empty())), "{definition}");
    found
}

#[test]
fn the_manifests_for_the_gateway_api_fit_its_definitions_and_their_rules() {
    let manifests = block("kubernetes-gateways.md", "## Gateway API", "yaml");
    let (route, grant) = manifests.split_once("\n---\n").unwrap();
    for (name, text) in [("httproutes", route), ("referencegrants", grant)] {
        let manifest: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        let version = manifest["apiVersion"]
            .as_str()
            .unwrap()
            .strip_prefix("gateway.networking.k8s.io/")
            .unwrap();
        assert_eq!(mistakes(name, version, text), "");
        // each is refused for what it breaks: a value, a member, a rule
        for (from, to, why) in [
            ("ExternalAuth\n", "ExternalAuthorization\n", "Unsupported value"),
            ("allowedHeaders", "allowedHeader", "is not a member"),
            ("from:", "fromm:", "is not a member"),
            ("protocol: HTTP", "protocol: GRPC", "grpc must be specified"),
            (
                "type: ExternalAuth",
                "type: URLRewrite",
                "must be nil if the filter.type is not ExternalAuth",
            ),
            ("value: /\n", "value: /a/../b\n", "must not contain '/../'"),
        ] {
            let found = mistakes(name, version, &text.replace(from, to));
            assert_eq!(found.contains(why), text.contains(from), "{name}: {to}: {found}");
        }
    }
}

pub const WITH_GRPC: &str = "listen: { proxy: { address: '127.0.0.1:0' }, decision: { address: '127.0.0.1:0' }, \
    ext_authz: { address: '127.0.0.1:0' }, admin: { address: '127.0.0.1:0' } }";

pub fn start_envoy_over_grpc(gate: &Gate, change: impl Fn(String) -> String) -> Front {
    let port = port();
    let page = block("envoy.md", "Envoy's configuration:", "yaml");
    start_envoy(change(with_addresses(&page, gate, port)), port)
}

#[test]
fn envoy_asks_the_gate_over_grpc() {
    let gate = start_gate(WITH_GRPC);
    let front = start_envoy_over_grpc(&gate, |config| config);
    check(&front, &gate);
    let record = gate.records(1).pop().unwrap();
    assert_eq!(record["door"], "ext_authz", "{record}");
    // more headers than fit into one frame
    let viewer = token(&gate, &["viewer"]);
    let large = "x".repeat(20_000);
    let answer = front.send("GET", "/portal/p/x", &[("authorization", &viewer), ("x-large", &large)]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.app.last().headers["x-large"], large.as_str());
    // a gRPC client gets its status from Envoy
    let answer = front.send(
        "POST",
        "/portal/p/secret",
        &[("authorization", &viewer), ("content-type", "application/grpc")],
    );
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "7"), "{answer:?}");
}

#[test]
fn envoy_that_joins_headers_and_keeps_paths_asks_the_gate_over_grpc() {
    let gate = start_gate(WITH_GRPC);
    let front = start_envoy_over_grpc(&gate, |config| {
        config
            .replace("encode_raw_headers: true", "encode_raw_headers: false")
            .replace("normalize_path: true", "normalize_path: false")
            .replace(
                "path_with_escaped_slashes_action: REJECT_REQUEST",
                "path_with_escaped_slashes_action: KEEP_UNCHANGED",
            )
            .replace(
                "headers_with_underscores_action: REJECT_REQUEST",
                "headers_with_underscores_action: ALLOW",
            )
    });
    check(&front, &gate);
    let viewer = token(&gate, &["viewer"]);
    let answer = front.send("GET", "/portal/p/x!", &[("authorization", &viewer)]);
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[test]
fn envoy_names_the_portal_and_gets_the_decision_as_metadata() {
    let gate = start_gate(WITH_GRPC);
    let front = start_envoy_over_grpc(&gate, |config| {
        let route = "                        - match: { prefix: / }\n                          route: { cluster: app }\n";
        assert!(config.contains(route));
        let named = route.to_owned()
            + "                          response_headers_to_add: [{ header: { key: x-metadata, value: \"%DYNAMIC_METADATA(envoy.filters.http.ext_authz:portal)% %DYNAMIC_METADATA(envoy.filters.http.ext_authz:policies)%\" } }]\n"
            + "                          typed_per_filter_config: { envoy.filters.http.ext_authz: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: { context_extensions: { portal: p } } } }\n";
        config.replace(route, &named)
    });
    let viewer = token(&gate, &["viewer"]);
    let answer = front.send("GET", "/elsewhere", &[("authorization", &viewer)]);
    assert_eq!(
        (answer.status, answer.header("x-metadata")),
        (200, "p [\"viewers\"]"),
        "{answer:?}"
    );
    // without a gate no request passes
    let app = gate.app.clone();
    drop(gate);
    let before = app.count();
    assert_eq!(front.send("GET", "/portal/p/open/x", &[]).status, 403);
    assert_eq!(app.count(), before);
}

#[test]
fn the_grpc_listener_answers_health_checks_and_refuses_what_it_does_not_know() {
    let gate = start_gate(WITH_GRPC);
    let script = format!(
        r#"
import grpc
channel = grpc.insecure_channel("{}")
def call(method, message):
    try:
        return channel.unary_unary(method)(message, timeout=30).hex()
    except grpc.RpcError as error:
        return error.code().name
print(call("/grpc.health.v1.Health/Check", b""))
print(call("/grpc.health.v1.Health/Check", bytes([10, 1, 120])))
print(call("/grpc.health.v1.Health/Watch", b""))
print(call("/envoy.service.auth.v3.Authorization/Check", bytes([255, 255])))
print(call("/envoy.service.auth.v3.Authorization/Check", b"")[:8])
"#,
        gate.ext_authz
    );
    let output = std::process::Command::new(tool(&["python3"]))
        .args(["-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    // an empty question is decided: status 7, permission denied
    assert_eq!(
        lines,
        ["0801", "NOT_FOUND", "UNIMPLEMENTED", "INVALID_ARGUMENT", "0a020807"],
        "{output:?}"
    );
}
