//! Listeners: addresses, TLS, the control socket, tokens of the decision listener.

use std::path::Path;

use super::*;

#[test]
fn envoy_asks_over_grpc_on_this_machine_only() {
    for (address, part) in [
        ("x", "is not an IP address"),
        ("'0.0.0.0:8902'", "reachable from other hosts"),
        ("'10.0.0.1:8902'", "let Envoy ask over HTTP"),
        ("'127.0.0.1:8901'", "also taken by `listen.decision.address`"),
        ("'unix:'", "needs a path"),
    ] {
        bad(
            &with(&format!("listen: {{ ext_authz: {{ address: {address} }} }}")),
            &["listen.ext_authz.address", part],
        );
    }
    for address in ["127.0.0.1:8902", "[::1]:8902", "unix:/run/envoy.sock"] {
        let text = with(&format!("listen: {{ ext_authz: {{ address: '{address}' }} }}"));
        let config = from_str(&text, Path::new("."), std::iter::empty()).unwrap().config;
        assert!(config.listen.ext_authz.is_some(), "{address}");
    }
}

#[test]
fn the_portal_and_the_identifier_of_authzen_are_checked() {
    let good = with("authzen: { portal: shop, identifier: 'https://pdp.test/a/' }\nportals: { shop: {} }");
    let config = from_str(&good, Path::new("."), std::iter::empty()).unwrap().config;
    assert_eq!(config.authzen.identifier.as_deref(), Some("https://pdp.test/a"));
    bad(
        &with("authzen: { portal: shot }\nportals: { shop: {} }"),
        &["authzen.portal: there is no portal `shot`"],
    );
    for url in [
        "pdp.test",
        "https://",
        "ftp://pdp.test",
        "https://pdp.test/?a",
        "https://pdp.test/#a",
        "https://u@pdp.test",
    ] {
        bad(&with(&format!("authzen: {{ identifier: '{url}' }}")), &["authzen.identifier"]);
    }
}

#[test]
fn bad_addresses_are_explained() {
    for (address, part) in [
        ("127.0.0.1", "has no port"),
        (":8900", "has no address"),
        ("localhost:8900", "is a name"),
        ("unix:/x", "only `listen.decision`"),
        ("127.0.0.1:99999", "is not an IP address and port"),
    ] {
        bad(
            &with(&format!("listen: {{ proxy: {{ address: '{address}' }} }}")),
            &["listen.proxy.address", part],
        );
    }
    bad(&with("listen: { decision: { address: 'unix:' } }"), &["needs a path"]);
    bad(
        &with("listen: { admin: { address: '127.0.0.1:8900' } }"),
        &["also taken by `listen.proxy.address`"],
    );
    bad(
        &with("trusted_proxies: [10.0.0.0/33]"),
        &["trusted_proxies[0]: `10.0.0.0/33` is not a network"],
    );
    bad(&with("assertion: { header: 'a b' }"), &["assertion.header"]);
    bad(&with("assertion: { header: Host }"), &["assertion.header"]);
}

#[test]
fn listeners_take_tls_files_and_a_control_socket() {
    let tls = "cert: tls.pem, key: tls.key, client_ca: ca.pem";
    let config = good(&with(&format!(
        "trusted_proxies: [10.0.0.0/8]\nlisten: {{ proxy: {{ tls: {{ {tls} }}, proxy_protocol: true }}, decision: {{ address: '0.0.0.0:1', tls: {{ {tls} }} }}, control: {{ address: 'unix:c.sock' }} }}"
    )));
    assert_eq!(config.listen.proxy.proxy_protocol, ProxyProtocol::Required);
    assert_eq!(
        config.listen.proxy.tls.unwrap().client_ca.unwrap(),
        Path::new("/etc/cedargate/ca.pem")
    );
    assert!(
        config.listen.decision.unwrap().tokens.is_empty(),
        "a client's certificate is enough off loopback"
    );
    assert_eq!(config.listen.control.unwrap(), Path::new("/etc/cedargate/c.sock"));
    bad(
        &with("listen: { decision: { address: '0.0.0.0:1', tls: { cert: a, key: b } } }"),
        &["listen.decision.auth.tokens_file", "a token or a certificate"],
    );
    bad(
        &with("listen: { proxy: { proxy_protocol: true } }"),
        &["listen.proxy.proxy_protocol: is believed only from `trusted_proxies`"],
    );
    bad(
        &with("listen: { decision: { address: 'unix:/d.sock', tls: { cert: a, key: b } } }"),
        &["listen.decision.tls: is for TCP"],
    );
    bad(
        &with("listen: { proxy: { tls: { cert: a } } }"),
        &["listen.proxy.tls.key: this key is required"],
    );
    bad(
        &with("listen: { control: { address: '127.0.0.1:1' } }"),
        &["is a Unix socket only"],
    );
}

#[test]
fn a_decision_listener_off_loopback_needs_tokens() {
    for address in ["0.0.0.0:8901", "10.0.0.1:8901", "[::]:8901"] {
        bad(
            &with(&format!("listen: {{ decision: {{ address: '{address}' }} }}")),
            &["listen.decision.auth.tokens_file", "must present a token"],
        );
    }
    bad(
        &with("listen: { decision: { address: '0.0.0.0:8901', auth: { tokens: null, tokens_file: null } } }"),
        &["must present a token"],
    );
    for address in ["127.0.0.2:8901", "[::1]:8901", "unix:/run/x.sock"] {
        good(&with(&format!("listen: {{ decision: {{ address: '{address}' }} }}")));
    }
}
