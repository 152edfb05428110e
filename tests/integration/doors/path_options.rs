//! Options of each proxy that change how it reads and writes paths: with the options that the pages call safe, the app
//! sees the path that the gate decided on. For an option that a page calls unsafe, a test shows that the page is right.

use super::asking_proxies::{
    WITH_GRPC, no_confusing_path_reaches_the_secret, start_caddy, start_envoy, start_envoy_over_grpc, start_haproxy, start_nginx,
    start_traefik, token,
};
use super::front::{Front, block, port, start_gate, with_addresses};
use super::hostile_requests::{the_app_sees_what_was_decided, the_app_sees_what_was_decided_below};
use crate::support::Gate;

fn is_safe(front: &Front, gate: &Gate) {
    no_confusing_path_reaches_the_secret(front, gate);
    the_app_sees_what_was_decided(front, gate, "x-forwarded-user");
}

/// Replaces text that must be there.
fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no `{from}` in {text}");
    text.replace(from, to)
}

/// The target that the app saw of a viewer's permitted request.
fn seen_target(front: &Front, gate: &Gate, target: &str) -> String {
    let viewer = token(gate, &["viewer"]);
    let answer = front.send("GET", target, &[("authorization", &viewer)]);
    assert_eq!(answer.status, 200, "{target}: {answer:?}");
    gate.app.last().target
}

/// The values of `path_with_escaped_slashes_action` besides those of the page and of `asking_proxies`.
const ENVOY_ACTIONS: [&str; 2] = ["UNESCAPE_AND_FORWARD", "UNESCAPE_AND_REDIRECT"];

fn envoy_that_unescapes(config: &str, action: &str) -> String {
    let config = changed(
        config,
        "REJECT_REQUEST\n                common",
        &format!("{action}\n                common"),
    );
    changed(
        &config,
        "normalize_path: true",
        "normalize_path: true\n                merge_slashes: true",
    )
}

#[test]
fn envoy_that_unescapes_and_merges_slashes_asks_about_the_path_that_the_app_sees() {
    for action in ENVOY_ACTIONS {
        let (gate, port) = (start_gate(""), port());
        let config = with_addresses(&block("envoy.md", "## Over HTTP", "yaml"), &gate, port);
        is_safe(&start_envoy(envoy_that_unescapes(&config, action), port), &gate);
    }
}

#[test]
fn envoy_that_unescapes_and_merges_slashes_asks_over_grpc_about_the_path_that_the_app_sees() {
    for action in ENVOY_ACTIONS {
        let gate = start_gate(WITH_GRPC);
        let front = start_envoy_over_grpc(&gate, |config| envoy_that_unescapes(&config, action));
        is_safe(&front, &gate);
    }
}

#[test]
fn envoy_that_rewrites_a_prefix_sends_the_app_another_path() {
    let (gate, port) = (start_gate(""), port());
    let config = with_addresses(&block("envoy.md", "## Over HTTP", "yaml"), &gate, port);
    let config = changed(
        &config,
        "route: { cluster: app }",
        "route: { cluster: app, prefix_rewrite: /other/ }",
    );
    let front = start_envoy(config, port);
    assert_eq!(seen_target(&front, &gate, "/portal/p/x"), "/other/portal/p/x");
}

#[test]
fn traefik_that_lets_encoded_characters_pass_asks_about_the_path_that_the_app_sees() {
    for sanitize in ["true", "false"] {
        let (gate, port) = (start_gate(""), port());
        let fixed = with_addresses(&block("traefik.md", "`traefik.yaml`", "yaml"), &gate, port);
        let address = format!("    address: \"127.0.0.1:{port}\"\n");
        let options = "allowEncodedSlash: true, allowEncodedBackSlash: true, allowEncodedNullCharacter: true, \
                       allowEncodedSemicolon: true, allowEncodedPercent: true, allowEncodedQuestionMark: true, allowEncodedHash: true";
        let options = format!("{address}    http: {{ sanitizePath: {sanitize}, encodedCharacters: {{ {options} }} }}\n");
        let fixed = changed(&fixed, &address, &options);
        let dynamic = with_addresses(&block("traefik.md", "`dynamic.yaml`", "yaml"), &gate, port);
        is_safe(&start_traefik(fixed, dynamic, port), &gate);
    }
}

#[test]
fn traefik_that_strips_a_prefix_before_it_asks_is_safe_and_after_it_is_not() {
    for (order, is_before) in [("[strip, cedargate]", true), ("[cedargate, strip]", false)] {
        let (gate, port) = (start_gate(""), port());
        let fixed = with_addresses(&block("traefik.md", "`traefik.yaml`", "yaml"), &gate, port);
        let dynamic = with_addresses(&block("traefik.md", "`dynamic.yaml`", "yaml"), &gate, port);
        let dynamic = changed(&dynamic, "middlewares: [cedargate]", &format!("middlewares: {order}"));
        let dynamic = changed(
            &dynamic,
            "  middlewares:\n    cedargate:\n",
            "  middlewares:\n    strip: { stripPrefix: { prefixes: [/pre] } }\n    cedargate:\n",
        );
        let front = start_traefik(fixed, dynamic, port);
        if is_before {
            assert_eq!(seen_target(&front, &gate, "/pre/portal/p/x"), "/portal/p/x");
            the_app_sees_what_was_decided_below("/pre", &front, &gate, "x-forwarded-user");
        } else {
            let viewer = token(&gate, &["viewer"]);
            let answer = front.send("GET", "/pre/portal/p/x", &[("authorization", &viewer)]);
            assert_eq!(answer.status, 404, "the gate was asked about the path before: {answer:?}");
        }
    }
}

/// HAProxy's page with a line before or after the action.
fn haproxy(gate: &Gate, port: u16, change: impl Fn(&str) -> String) -> Front {
    let config = with_addresses(&block("haproxy.md", "`haproxy.cfg`", "haproxy"), gate, port);
    let config = changed(&config, "global\n", "global\n    expose-experimental-directives\n");
    let script = with_addresses(&block("haproxy.md", "`cedargate.lua`", "lua"), gate, port);
    start_haproxy(change(&config), script, port)
}

const HAPROXY_ASKS: &str = "    http-request lua.cedargate";

#[test]
fn haproxy_that_normalises_before_it_asks_asks_about_the_path_that_the_app_sees() {
    let all = [
        "path-merge-slashes",
        "path-strip-dot",
        "path-strip-dotdot full",
        "percent-decode-unreserved",
        "percent-to-uppercase",
        "fragment-strip",
        "query-sort-by-name",
    ];
    let lines: String = all
        .iter()
        .map(|name| format!("    http-request normalize-uri {name}\n"))
        .collect();
    let (gate, port) = (start_gate(""), port());
    let front = haproxy(&gate, port, |config| {
        changed(config, HAPROXY_ASKS, &format!("{lines}{HAPROXY_ASKS}"))
    });
    is_safe(&front, &gate);
}

#[test]
fn haproxy_that_replaces_the_path_after_it_asks_sends_the_app_another_path() {
    let (gate, port) = (start_gate(""), port());
    let after = "    use_backend gate if";
    let front = haproxy(&gate, port, |config| {
        let line = "    http-request replace-path /portal/p/(.*) /portal/q/\\1\n";
        changed(config, after, &format!("{line}{after}"))
    });
    assert_eq!(seen_target(&front, &gate, "/portal/p/x"), "/portal/q/x");
}

#[test]
fn nginx_with_a_path_in_proxy_pass_sends_the_app_its_own_spelling() {
    let (gate, port) = (start_gate(""), port());
    let page = with_addresses(&block("nginx.md", "# nginx", "nginx"), &gate, port);
    let with_path = changed(&page, "proxy_pass http://app; ", "proxy_pass http://app/; ");
    let front = start_nginx(with_path, port);
    // the same path to most apps, in another spelling
    assert_eq!(seen_target(&front, &gate, "/portal/p/a%26b"), "/portal/p/a&b");
    let page = changed(&page, "proxy_pass http://app; ", "proxy_pass http://app/other/; ");
    let other = super::front::port();
    let front = start_nginx(
        changed(&page, &format!("127.0.0.1:{port}"), &format!("127.0.0.1:{other}")),
        other,
    );
    assert_eq!(seen_target(&front, &gate, "/portal/p/x"), "/other/portal/p/x");
}

#[test]
fn caddy_that_strips_a_prefix_before_it_asks_asks_about_the_path_that_the_app_sees() {
    let (gate, port) = (start_gate(""), port());
    let config = with_addresses(&block("caddy.md", "# Caddy", "caddyfile"), &gate, port);
    let (before, asks) = config.split_once("\thandle {\n").unwrap();
    let stripped = format!(
        "{before}\thandle_path /pre/* {{\n{}\n",
        asks.trim_end().strip_suffix('}').unwrap()
    );
    let front = start_caddy(format!("{stripped}\thandle {{\n{asks}"), port);
    assert_eq!(seen_target(&front, &gate, "/pre/portal/p/x"), "/portal/p/x");
    the_app_sees_what_was_decided_below("/pre", &front, &gate, "x-forwarded-user");
    is_safe(&front, &gate);
}
