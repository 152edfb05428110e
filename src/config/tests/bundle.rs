//! The bundle of policies.

use super::*;

#[test]
fn mistakes_of_a_bundle_are_explained() {
    let of = |bundle: &str| {
        with(&format!(
            "policies: {{ state_dir: s, bundle: {{ keys: [k.pub], {bundle} }} }}"
        ))
    };
    for (bundle, part) in [
        ("poll: 2s", "policies.bundle.url"),
        ("url: 'http://files.test/b'", "is not https"),
        ("url: 'ftp://files.test/b'", "is not the URL of a bundle"),
        ("url: 'https://u:p@files.test/b'", "has a user name or password"),
        ("url: 'oci://registry.test/shop'", "oci://registry/repository:tag"),
        ("url: 'oci://registry.test/Shop:x'", "oci://registry/repository:tag"),
        ("url: 'oci://registry.test/../x:y'", "oci://registry/repository:tag"),
        ("url: 'oci://registry.test/shop@sha256:12'", "oci://registry/repository:tag"),
        ("url: 'oci+http://registry.test/shop:x'", "is not https"),
        ("url: 'https://f.test/b', poll: 999ms", "policies.bundle.poll"),
        ("url: 'https://f.test/b', bytes_max: 65MiB", "policies.bundle.bytes_max"),
        ("url: 'https://f.test/b', user: a", "policies.bundle.user"),
        (
            "url: 'https://f.test/b', user: a, password: b, token: c",
            "policies.bundle.user",
        ),
        ("url: 'https://f.test/b', proxy: 'socks5://x'", "policies.bundle.proxy"),
        (
            "url: 'https://f.test/b', danger_unsigned: true",
            "has no effect beside `policies.bundle.keys`",
        ),
    ] {
        bad(&of(bundle), &[part]);
    }
    let plain = "bundle: { url: 'https://f.test/b', keys: [k] }";
    bad(
        &with(&format!("policies: {{ dir: p, schemas: s, {plain} }}")),
        &[
            "policies.dir: `policies.bundle` is given",
            "policies.schemas: `policies.bundle`",
            "policies.state_dir: is missing",
        ],
    );
    bad(
        &with("policies: { state_dir: s, bundle: { url: 'https://f.test/b' } }"),
        &["policies.bundle.keys: is missing"],
    );
    for good in [
        "url: 'https://f.test/b?sig=1', token: t",
        "url: 'http://localhost:1/b'",
        "url: 'http://f.test/b', danger_insecure_url: true",
        "url: 'oci://registry.test:5000/a/b-c:v1.0', user: a, password: b",
        "url: 'oci+http://127.0.0.1:5000/shop:x'",
        "url: 'oci://r.test/shop@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
    ] {
        assert!(Config::from_yaml(&of(good)).unwrap().bundle.is_some(), "{good}");
    }
}
