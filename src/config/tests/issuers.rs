//! Issuers, and the portals that trust them.

use super::*;

#[test]
fn unsafe_issuers_are_refused() {
    let issuer = |more: &str| {
        with(&format!(
            "issuers:\n  - {{ name: corp, issuer: 'https://id.test', {more} }}\n"
        ))
    };
    bad(&issuer("audiences: []"), &["issuers[0].audiences: is empty"]);
    bad(&issuer("audiences: ['']"), &["issuers[0].audiences[0]"]);
    let issuer = |more: &str| issuer(&format!("audiences: [x], {more}"));
    bad(
        &issuer("algorithms: [HS256]"),
        &["issuers[0].algorithms[0]: `HS256` is symmetric"],
    );
    bad(&issuer("algorithms: [none]"), &["unsigned"]);
    bad(&issuer("algorithms: [rs256]"), &["did you mean `RS256`?"]);
    bad(&issuer("algorithms: []"), &["issuers[0].algorithms: is empty"]);
    bad(
        &issuer("leeway: 6m"),
        &["issuers[0].leeway: `6m` is too long; the most is 5m"],
    );
    bad(&issuer("principal: 'not a type'"), &["issuers[0].principal"]);
    bad(&issuer("claims: { subject: '' }"), &["issuers[0].claims.subject"]);
    bad(&issuer("jwks: { url: null }"), &["exactly one"]);
    bad(&issuer("jwks: { url: 7 }"), &["issuers[0].jwks.url: expected a string"]);
    bad(
        &issuer("jwks: {}"),
        &["issuers[0].jwks: needs exactly one of `url` and `file`"],
    );
    bad(&issuer("jwks: { url: 'https://a.test', file: b }"), &["exactly one"]);
    bad(
        &issuer("jwks: { url: 'http://keys.test/jwks' }"),
        &["issuers[0].jwks.url", "danger_insecure_jwks"],
    );
    bad(&issuer("jwks: { url: 'file:///etc/keys' }"), &["issuers[0].jwks.url"]);
    good(&issuer("jwks: { url: 'http://keys.test/jwks' }, danger_insecure_jwks: true"));
    good(&issuer("jwks: { url: 'http://127.0.0.1:9/jwks' }"));
    good(&issuer("jwks: { url: 'http://localhost:9/jwks' }"));
    bad(
        &with("issuers: [{ name: a, issuer: 'http://id.test', audiences: [x] }]"),
        &["issuers[0].issuer"],
    );
    bad(
        &with("issuers: [{ name: Corp, issuer: 'https://id.test', audiences: [x] }]"),
        &["issuers[0].name"],
    );
    let twice = "issuers:\n  - { name: a, issuer: 'https://id.test', audiences: [x] }\n  - { name: a, issuer: 'https://id.test', audiences: [y] }\n";
    bad(
        &with(twice),
        &["issuers[1].name: another issuer", "issuers[1].issuer: another issuer"],
    );
}

#[test]
fn role_claims_are_a_path_a_mapping_or_a_list() {
    let claims = |roles: &str| {
        with(&format!(
            "issuers:\n  - {{ name: corp, issuer: 'https://id.test', audiences: [x], claims: {{ roles: {roles} }} }}\n"
        ))
    };
    let paths = |text: &str| -> Vec<String> {
        let config = good(&claims(text));
        let roles = &config.issuers[0].scope.claims.roles;
        roles.iter().map(|claim| format!("{} {:?}", claim.path, claim.form)).collect()
    };
    assert_eq!(paths("a.b"), ["a.b Values"]);
    assert_eq!(paths("{ claim: a, take: keys }"), ["a Keys"]);
    assert_eq!(paths("{ claim: a, split: ' ' }"), ["a Split(\" \")"]);
    assert_eq!(
        paths("[a, '\"b.c\".d', { claim: e }]"),
        ["a Values", "\"b.c\".d Values", "e Values"]
    );
    for (wrong, parts) in [
        ("''", vec!["issuers[0].claims.roles: is empty"]),
        ("'\"a'", vec!["issuers[0].claims.roles: `\"a` has a quote without its end"]),
        ("[a, '\"b\"c']", vec!["issuers[0].claims.roles[1]: `\"b\"c` has text after"]),
        ("{ take: keys }", vec!["issuers[0].claims.roles.claim: this key is required"]),
        ("{ claim: a, take: key }", vec!["issuers[0].claims.roles.take", "keys"]),
        (
            "{ claim: a, take: keys, split: ',' }",
            vec!["issuers[0].claims.roles.split: has no meaning"],
        ),
        ("{ claim: a, split: '' }", vec!["issuers[0].claims.roles.split: is empty"]),
        (
            "{ claim: a, spilt: ',' }",
            vec!["issuers[0].claims.roles.spilt", "did you mean `split`?"],
        ),
        ("7", vec!["issuers[0].claims.roles: expected"]),
    ] {
        bad(&claims(wrong), &parts);
    }
    let env = from_env(
        &with(ISSUER),
        &[("CEDARGATE_ISSUERS__0__CLAIMS__ROLES", "realm_access.roles")],
    )
    .unwrap();
    assert_eq!(
        env.config.issuers[0].scope.claims.roles[0].path.as_str(),
        "realm_access.roles"
    );
}

#[test]
fn issuers_of_one_portal_whose_subjects_could_be_the_same_are_refused() {
    let two = |one: &str, other: &str, more: &str| {
        with(&format!(
            "issuers:\n  - {{ name: a, issuer: 'https://a.test', audiences: [x]{one} }}\n  - {{ name: b, issuer: 'https://b.test', audiences: [x]{other} }}\n{more}"
        ))
    };
    let none = ", subject_prefix: ''";
    good(&two(none, "", ""));
    good(&two("", "", ""));
    bad(
        &two(none, none, ""),
        &["issuers[1].subject_prefix: the subjects of `a` and `b`"],
    );
    bad(&two(", subject_prefix: 'B|'", "", ""), &["issuers[1].subject_prefix"]);
    bad(
        &two(none, ", subject_prefix: '', principal: Service", ""),
        &["issuers[1].subject_prefix"],
    );
    good(&two(none, none, "portals: { p: { issuers: [a] }, q: { issuers: [b] } }\n"));
    bad(
        &two(none, none, "portals: { p: { issuers: [a] }, q: {} }\n"),
        &["issuers[1].subject_prefix"],
    );
    let accounts = "public_url: 'https://shop.test'\nlogin: { providers: { staff: { users_file: u.yaml } } }\n";
    bad(
        &two(", subject_prefix: 'staff|'", "", accounts),
        &["subject_prefix", "`staff`"],
    );
}

#[test]
fn ambiguous_portals_are_refused() {
    let portal = |more: &str| with(&format!("{ISSUER}portals: {{ shop: {{ {more} }} }}"));
    for (host, part) in [
        ("shop.test:80", "has a port"),
        ("*shop.test", "inside a label"),
        ("https://shop.test", "without scheme"),
        ("shop..test", "is not a host name"),
        ("", "is not a host name"),
        ("bücher.test", "punycode"),
    ] {
        bad(
            &portal(&format!("match: {{ hosts: ['{host}'] }}")),
            &["portals.shop.match.hosts[0]", part],
        );
    }
    for prefix in [
        "shop", "/a//b", "/a/../b", "/a/./b", "/a%20b", "/a b", "/a;b", "//", "", "/a?b", "/ü",
    ] {
        bad(
            &portal(&format!("match: {{ path_prefix: '{prefix}' }}")),
            &["portals.shop.match.path_prefix", "canonical"],
        );
    }
    for prefix in ["/api/v1/identity", "/api/v1/identity/x", "/.well-known/cedargate/y"] {
        bad(&portal(&format!("match: {{ path_prefix: '{prefix}' }}")), &["lies under"]);
    }
    good(&portal("match: { path_prefix: /api/v1/identity2 }"));
    bad(
        &portal("issuers: [crop]"),
        &["portals.shop.issuers[0]: there is no issuer `crop`; did you mean `corp`?"],
    );
    bad(
        &portal("tenant: claims"),
        &["portals.shop.tenant: unknown value `claims`; did you mean `claim`?"],
    );
    bad(&portal("tenant: { fixd: a }"), &["portals.shop.tenant.fixd"]);
    bad(&portal("tenant: {}"), &["portals.shop.tenant.fixed: this key is required"]);
    bad(
        &portal("upstream: 'ftp://x'"),
        &["portals.shop.upstream: write it as `http://host:port`"],
    );
    bad(
        &with("portals: { Shop_1: {} }"),
        &["portals.Shop_1: `Shop_1` is not a portal's slug"],
    );
    bad(&with("portals: {}"), &["portals: is empty"]);
    bad(
        &with("portals: { a: {} }\npolicies: { require: [b] }"),
        &["policies.require[0]: there is no portal `b`"],
    );
    bad(&with("identity: { prefix: / }"), &["identity.prefix"]);
}

#[test]
fn ties_between_portals_are_start_errors() {
    let two = |a: &str, b: &str| {
        with(&format!(
            "portals:\n  a: {{ match: {{ hosts: [{a}], path_prefix: /x }} }}\n  b: {{ match: {{ hosts: [{b}], path_prefix: /x }} }}\n"
        ))
    };
    bad(&two("", ""), &["portals.b.match: portal `a` matches any host at `/x`"]);
    bad(&two("'s.test'", "'S.test.'"), &["portal `a` matches `s.test`"]);
    bad(&two("'*.a.test'", "'s.*.test'"), &["neither would win"]);
    good(&two("'s.test'", "'*.test'"));
    good(&two("'s.test'", ""));
    good(&two("'s.test'", "'t.test'"));
}
