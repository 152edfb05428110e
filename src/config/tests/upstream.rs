//! The app behind the gate: URLs, protocols, probes, the exposure check.

use std::path::Path;
use std::time::Duration;

use super::*;

#[test]
fn bad_urls_are_explained_and_never_show_a_password() {
    for (url, part) in [
        ("unix:", "needs the path"),
        ("unix://app.sock", "needs the path"),
        ("grpc://app:1", "write it as `http://host:port`"),
        ("https://app:1/path", "has a path"),
        ("h2c://app/x", "has a path"),
        ("app:3000", "write it as `http://host:port`"),
        ("http:app", "write it as `http://host:port`"),
        ("http://app:1/path", "has a path"),
        ("http://app:1/.", "has a path"),
        ("http://app:1?q", "has a path or query"),
        ("http://app:1#f", "has a path or query"),
        ("http://app:0", "port 0"),
        ("http://app:99999", "is not a URL"),
        ("http://", "is not a URL"),
    ] {
        bad(&format!("upstream: {{ url: '{url}' }}"), &["upstream.url", part]);
    }
    for text in [
        "upstream: { url: 'http://me:hunter2@app:1' }".to_owned(),
        "upstream: { url: 'http://me:hunter2@app:999999' }".to_owned(),
        with("public_url: 'https://me:hunter2@shop.test'"),
        with("issuers: [{ name: a, issuer: x, audiences: [y], jwks: { url: 'https://me:hunter2@id.test/keys' } }]"),
    ] {
        let message = from_env(&text, &[]).unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
    for url in [
        "shop.example.com",
        "ftp://shop.test",
        "https://shop.test/app",
        "https://shop.test?x",
    ] {
        bad(&with(&format!("public_url: '{url}'")), &["public_url"]);
    }
}

#[test]
fn url_and_protocol_decide_the_http_version_of_an_upstream() {
    let upstream = |text: &str| good(&format!("upstream: {{ {text} }}")).upstream;
    for (text, origin, protocol) in [
        ("url: 'http://App'", "http://app:80", Protocol::Auto),
        ("url: 'https://app'", "https://app:443", Protocol::Auto),
        ("url: 'H2C://app:50051'", "http://app:50051", Protocol::Http2),
        ("url: 'http://app', protocol: http2", "http://app:80", Protocol::Http2),
        ("url: 'https://app', protocol: http1", "https://app:443", Protocol::Http1),
        ("url: 'unix:/run/app.sock'", "unix:/run/app.sock", Protocol::Auto),
    ] {
        let upstream = upstream(text);
        assert_eq!(
            (upstream.url.origin().as_str(), upstream.protocol),
            (origin, protocol),
            "{text}"
        );
    }
    bad(
        "upstream: { url: 'h2c://app', protocol: http1 }",
        &["upstream.protocol: `http1` contradicts"],
    );
    bad(
        "upstream: { url: 'https://app', tls: { cert: a.pem } }",
        &["upstream.tls.cert: needs `key`"],
    );
    bad(
        "upstream: { url: 'http://app', tls: { ca: a.pem } }",
        &["upstream.tls: is for an `https` URL"],
    );
    let both = "upstream: { url: 'h2c://app' }\nportals: { a: { upstream: 'http://a' }, b: { upstream: { url: 'http://b', protocol: http1 } } }";
    let portals = good(both).portals.unwrap();
    let protocols: Vec<_> = portals.iter().map(|p| p.upstream.as_ref().unwrap().protocol).collect();
    assert_eq!(
        protocols,
        [Protocol::Http2, Protocol::Http1],
        "what a portal leaves out is the top level's"
    );
}

#[test]
fn a_portal_takes_the_upstream_keys_that_it_leaves_out_from_the_top_level() {
    let portal = |base: &str, own: &str| {
        let text = format!("upstream: {{ {base} }}\nportals: {{ a: {{ upstream: {own} }} }}");
        good(&text).portals.unwrap().remove(0).upstream.unwrap()
    };
    let base = "url: 'https://app', tls: { ca: ca.pem }, connect_timeout: 3s, circuit: { failures: 9, pause: 9s }";
    for own in [
        "'https://b'",
        "{ url: 'https://b' }",
        "{ url: 'https://b', tls: null, circuit: null }",
    ] {
        let upstream = portal(base, own);
        assert_eq!(upstream.connect_timeout, Duration::from_secs(3), "{own}");
        assert_eq!(upstream.tls.ca.as_deref(), Some(Path::new("/etc/cedargate/ca.pem")), "{own}");
        assert_eq!(upstream.circuit.failures, 9, "{own}");
    }
    let upstream = portal(base, "{ url: 'https://b', tls: {}, circuit: { failures: 2 } }");
    assert_eq!(upstream.tls, UpstreamTls::default(), "a given mapping replaces the whole one");
    assert_eq!(upstream.circuit.pause.get(), Duration::from_millis(200));
    let upstream = portal(base, "'http://b'");
    assert_eq!(upstream.tls, UpstreamTls::default(), "the files are for an `https` URL");
    let upstream = portal("url: 'http://app', protocol: http1", "'h2c://b'");
    assert_eq!(upstream.protocol, Protocol::Http2, "the portal's own scheme says it");
}

#[test]
fn mistakes_of_the_top_level_upstream_are_not_repeated_for_portals() {
    let text = "upstream: { url: 'https://app', tls: { cert: a }, connect_timeout: 0s, strip_headers: ['a b'] }\n\
                portals: { a: { upstream: 'https://b' }, b: { upstream: { url: 'https://b', idle_timeout: 0s } } }";
    let errors = from_env(text, &[]).unwrap_err();
    let mut keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "portals.b.upstream.idle_timeout",
            "upstream.connect_timeout",
            "upstream.strip_headers[0]",
            "upstream.tls.cert"
        ]
    );
}

#[test]
fn probes_of_the_app_have_a_url_or_an_address() {
    let probes = |probes: &str| format!("upstream: {{ url: 'http://127.0.0.1:3000', probes: {probes} }}\n");
    let config = good(&probes(
        "{ livez: { url: 'http://localhost:80/a/../health?x=1', headers: ['Host: a.test'] }, readyz: { url: 'https://[::1]:8443', timeout: 900ms }, startupz: { tcp: '[::1]:80' } }",
    ));
    let AppProbe { target, timeout } = config.app_probes.livez.unwrap();
    let ProbeTarget::Http { url, target, headers } = target else {
        panic!("{target:?}")
    };
    assert_eq!(
        (url.origin().as_str(), target.to_string().as_str()),
        ("http://localhost:80", "/health?x=1")
    );
    assert_eq!(
        (headers["host"].to_str().unwrap(), timeout),
        ("a.test", Duration::from_secs(1))
    );
    let ready = config.app_probes.readyz.unwrap();
    assert!(matches!(
        ready.target,
        ProbeTarget::Http {
            url: UpstreamUrl::Https(_),
            ..
        }
    ));
    assert_eq!(ready.timeout, Duration::from_millis(900));
    let started = config.app_probes.startupz.unwrap().target;
    assert!(
        matches!(&started, ProbeTarget::Tcp(at) if at.dialled() == "::1" && at.port == 80),
        "{started:?}"
    );
    assert!(good(MINIMAL).app_probes.livez.is_none());
    for (mistake, part) in [
        ("{}", "needs `url`"),
        ("{ url: 'http://a', tcp: 'a:1' }", "keep one"),
        ("{ grpc: 'a:1', tcp: 'a:1' }", "keep one"),
        ("{ grpc: 'a' }", "is not `host:port`"),
        ("{ grpc: 'a:1', service: 'a b' }", "not the name of a service"),
        ("{ tcp: 'a:1', service: a }", "is for `grpc`"),
        ("{ url: 'ftp://a' }", "cannot be asked"),
        ("{ url: 'http://a#b' }", "cannot be asked"),
        ("{ url: 'http://u:p@a' }", "user name or password"),
        ("{ url: '/healthz' }", "is not a URL"),
        ("{ tcp: '127.0.0.1' }", "is not `host:port`"),
        ("{ tcp: '3000' }", "is not `host:port`"),
        ("{ tcp: 'a:0' }", "is not `host:port`"),
        ("{ tcp: 'a:65536' }", "is not `host:port`"),
        ("{ tcp: 'http://a:1' }", "is not `host:port`"),
        ("{ tcp: 'a:1', headers: ['a: b'] }", "is for `url`"),
        ("{ url: 'http://a', headers: ['a'] }", "headers[0]"),
        (
            "{ url: 'http://a', headers: ['Authorization: x'] }",
            "`authorization` cannot be a header of a probe",
        ),
        ("{ url: 'http://a', timeout: 61s }", "the most is 1m"),
        ("{ url: 'http://a', timeout: 0s }", "too short"),
        ("{ ulr: 'http://a' }", "known are: url, tcp, grpc"),
    ] {
        bad(
            &probes(&format!("{{ readyz: {mistake} }}")),
            &["upstream.probes.readyz", part],
        );
    }
    bad(&probes("{ ready: { tcp: 'a:1' } }"), &["upstream.probes.ready"]);
    let portal = "portals: { a: { upstream: { url: 'http://b', probes: {} } }, b: { upstream: { url: 'http://b', exposure_check: null } } }";
    bad(
        &with(portal),
        &["portals.a.upstream.probes", "portals.b.upstream.exposure_check"],
    );
    let loaded = from_env(&with("portals: { a: { upstream: { url: 'http://b' } } }"), &[]).unwrap();
    assert!(loaded.effective.pointer("/portals/a/upstream/probes").is_none());
}

#[test]
fn the_exposure_check_is_on_and_can_be_turned_off() {
    let check = |check: &str| {
        good(&format!(
            "upstream: {{ url: 'http://127.0.0.1:3000', exposure_check: {check} }}"
        ))
        .exposure_check
    };
    let on = good(MINIMAL).exposure_check.unwrap();
    assert_eq!((on.interval, on.addresses.len()), (Duration::from_secs(60), 0));
    assert_eq!(check("null"), None);
    let given = check("{ interval: 1s, addresses: ['10.1.2.3', 'fd00::1', '::ffff:10.1.2.4'] }").unwrap();
    assert_eq!(
        given.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.2.3", "fd00::1", "10.1.2.4"]
    );
    for (mistake, part) in [
        ("{ interval: 500ms }", "too short"),
        ("{ addresses: ['127.0.0.1'] }", "where the app belongs"),
        ("{ addresses: ['0.0.0.0'] }", "where the app belongs"),
        ("{ addresses: ['10.1.2.3:80'] }", "not an IP address"),
        ("{ addresses: [shop] }", "not an IP address"),
        ("{ adresses: [] }", "did you mean `addresses`"),
    ] {
        let text = format!("upstream: {{ url: 'http://a', exposure_check: {mistake} }}");
        bad(&text, &["upstream.exposure_check", part]);
    }
}
