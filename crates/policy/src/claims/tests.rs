//! Tests of the claim mapping: forms of roles, claims that are elsewhere, audiences, times, and what nothing reads.

use serde_json::{Value, json};

use super::*;
use crate::claim_path::ClaimPath;
use crate::scope::{ClaimPaths, Overage, RoleClaim, RoleForm, RoleLimits};

fn issuer() -> IssuerScope {
    IssuerScope::new("corp", "https://id.test/", vec!["shop".to_owned()])
}

fn with_roles(claims: &[(&str, RoleForm)]) -> IssuerScope {
    let roles = claims.iter().map(|(path, form)| RoleClaim {
        path: ClaimPath::parse(path).unwrap(),
        form: form.clone(),
    });
    IssuerScope {
        claims: ClaimPaths {
            roles: roles.collect(),
            ..ClaimPaths::default()
        },
        ..issuer()
    }
}

fn map(claims: Value) -> Map<String, Value> {
    claims.as_object().unwrap().clone()
}

#[track_caller]
fn gives(issuer: &IssuerScope, claims: Value, expected: &[&str]) {
    assert_eq!(roles(issuer, &map(claims)).unwrap(), expected);
}

#[track_caller]
fn refuses(issuer: &IssuerScope, claims: Value, why: &str) {
    let error = roles(issuer, &map(claims)).unwrap_err();
    assert_eq!(error.denial(), Denial::ClaimInvalid);
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn roles_are_read_from_each_form_that_the_issuer_says() {
    let values = with_roles(&[("roles", RoleForm::Values)]);
    gives(&values, json!({"roles": ["a", "", "b", "a"]}), &["a", "b"]);
    gives(&values, json!({"roles": "a,b c"}), &["a,b c"]);
    gives(&values, json!({"roles": ""}), &[]);
    gives(&values, json!({}), &[]);
    refuses(&values, json!({"roles": {"a": {}}}), "`take: keys`");
    refuses(&values, json!({"roles": null}), "`roles`");
    refuses(&values, json!({"roles": [["a"]]}), "`roles`");
    let keys = with_roles(&[("urn:zitadel:iam:org:project:roles", RoleForm::Keys)]);
    let zitadel = json!({"urn:zitadel:iam:org:project:roles": {"viewer": {"1": "acme.test"}, "": {}, "admin": false, "x": null}});
    gives(&keys, zitadel, &["viewer"]);
    for wrong in [json!(["viewer"]), json!("viewer"), json!(null), json!(1)] {
        refuses(&keys, json!({"urn:zitadel:iam:org:project:roles": wrong}), "`take: keys`");
    }
    let split = with_roles(&[("roles", RoleForm::Split(",".to_owned()))]);
    gives(&split, json!({"roles": " a, b ,,a"}), &["a", "b"]);
    gives(&split, json!({"roles": ["a,b", "c"]}), &["a", "b", "c"]);
    refuses(&split, json!({"roles": {"a": 1}}), "`roles`");
    refuses(&split, json!({"roles": "a,b\tc"}), "control character");
    let spaces = with_roles(&[("scope", RoleForm::Split(" ".to_owned()))]);
    gives(&spaces, json!({"scope": "read  write"}), &["read", "write"]);
}

#[test]
fn several_role_claims_are_joined_and_each_must_be_sound() {
    let both = with_roles(&[
        ("realm_access.roles", RoleForm::Values),
        (r#"resource_access."shop.api".roles"#, RoleForm::Values),
    ]);
    let claims = json!({"realm_access": {"roles": ["a", "b"]}, "resource_access": {"shop.api": {"roles": ["b", "c"]}}});
    gives(&both, claims, &["a", "b", "c"]);
    gives(&both, json!({"realm_access": {"roles": ["a"]}}), &["a"]);
    refuses(
        &both,
        json!({"realm_access": {"roles": ["a"]}, "resource_access": []}),
        "shop.api",
    );
    refuses(
        &both,
        json!({"realm_access": {"roles": ["a"]}, "resource_access": {"shop.api": 1}}),
        "shop.api",
    );
    let bounded = IssuerScope {
        roles: Some(vec!["a".to_owned()]),
        ..both
    };
    refuses(
        &bounded,
        json!({"resource_access": {"shop.api": {"roles": ["b"]}}}),
        "issuers[].roles",
    );
}

#[test]
fn the_limits_of_roles_have_names() {
    let limited = IssuerScope {
        role_limits: RoleLimits { count: 2, bytes: 4 },
        ..issuer()
    };
    gives(&limited, json!({"roles": ["a", "b", "a", ""]}), &["a", "b"]);
    refuses(&limited, json!({"roles": ["a", "b", "c"]}), "limits.roles");
    gives(&limited, json!({"roles": "abcd"}), &["abcd"]);
    refuses(&limited, json!({"roles": "abcde"}), "limits.role_bytes");
    let many: Vec<String> = (0..1000).map(|n| format!("role-{n}")).collect();
    assert_eq!(roles(&issuer(), &map(json!({ "roles": many }))).unwrap().len(), 1000);
}

#[test]
fn a_read_claim_that_the_issuer_left_out_is_refused_unless_the_configuration_says_otherwise() {
    let groups = with_roles(&[("groups", RoleForm::Values)]);
    let left_out = [
        json!({"sub": "a", "_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.test/"}}}),
        json!({"sub": "a", "hasgroups": true}),
        json!({"sub": "a", "hasgroups": "true"}),
        json!({"sub": "a", "groups:src1": "src1"}),
        json!({"sub": "a", "groups": ["a"], "_claim_names": {"groups": "src1"}}),
    ];
    let lenient = IssuerScope {
        overage: Overage::DangerIgnore,
        ..groups.clone()
    };
    for claims in left_out {
        refuses(&groups, claims.clone(), "group overage");
        refuses(&groups, claims.clone(), "issuers[].danger_ignore_overage");
        let identity = unsigned_identity(&lenient, map(claims.clone())).unwrap();
        assert!(
            lookup::at(&identity.claims, &ClaimPath::unquoted("groups")).is_ok(),
            "{claims}"
        );
        assert_eq!(
            unsigned_identity(&issuer(), map(claims)).unwrap().roles,
            Vec::<String>::new(),
            "not read"
        );
    }
    for here in [
        json!({"groups": ["a"], "hasgroups": false}),
        json!({"groups": ["a"], "_claim_names": {"roles": "src1"}}),
        json!({"groups": ["a"], "groups:source": 1}),
    ] {
        gives(&groups, here, &["a"]);
    }
}

#[test]
fn the_audience_claim_of_the_issuer_decides_and_aud_must_fit_as_well() {
    let cognito = IssuerScope {
        audience_claim: ClaimPath::unquoted("client_id"),
        ..issuer()
    };
    let judged = |issuer: &IssuerScope, claims: Value| {
        let claims = map(claims);
        let header = TokenHeader { kid: None, alg: "RS256" };
        let window = Window { from: 0, until: 1 };
        token_identity(issuer, header, claims, window, &Possession::NONE)
            .map(|bound| bound.identity.token.aud)
            .map_err(|error| error.denial())
    };
    let token = |extra: Value| {
        let mut claims = json!({"sub": "a", "exp": 1});
        claims.as_object_mut().unwrap().extend(map(extra));
        claims
    };
    let mismatch = Err(Denial::AudienceMismatch);
    assert_eq!(
        judged(&cognito, token(json!({"client_id": "shop"}))),
        Ok(vec!["shop".to_owned()])
    );
    assert_eq!(
        judged(&cognito, token(json!({"client_id": "shop", "aud": ["x", "shop"]}))),
        Ok(vec!["shop".to_owned()])
    );
    for refused in [
        json!({}),
        json!({"client_id": "other"}),
        json!({"client_id": ""}),
        json!({"client_id": []}),
        json!({"aud": "shop"}),
        json!({"client_id": "shop", "aud": "other"}),
        json!({"client_id": "shop", "aud": []}),
    ] {
        assert_eq!(judged(&cognito, token(refused.clone())), mismatch, "{refused}");
    }
    assert_eq!(judged(&cognito, token(json!({"client_id": 1}))), Err(Denial::ClaimInvalid));
    assert_eq!(
        judged(&issuer(), token(json!({"client_id": "shop"}))),
        mismatch,
        "only where the issuer says so"
    );
}

#[test]
fn a_time_with_a_fraction_never_makes_a_token_live_longer() {
    let window = |claims: Value| window(&map(claims), 0);
    assert_eq!(
        window(json!({"exp": 100.9, "nbf": 50.1, "iat": 49.9})),
        Ok(Window { from: 51, until: 100 })
    );
    assert_eq!(
        window(json!({"exp": 1e2, "iat": 5e1, "nbf": null})),
        Ok(Window { from: 50, until: 100 })
    );
    assert_eq!(
        window(json!({"exp": 1e2, "iat": null})),
        Ok(Window {
            from: i64::MIN,
            until: 100
        })
    );
    for wrong in [json!(null), json!("100"), json!(-0.5), json!(1e12), json!(1e300), json!(true)] {
        assert!(window(json!({ "exp": wrong })).is_err(), "{wrong}");
    }
}

#[test]
fn malformed_facts_of_the_login_are_unreadable_and_not_absent() {
    let facts = |claims: Value| {
        let mut all = map(claims);
        all.insert("sub".to_owned(), json!("a"));
        unsigned_identity(&issuer(), all).unwrap().auth
    };
    let read = facts(json!({"acr": 2, "amr": "pwd", "scope": ["a", "b"], "auth_time": 7.5, "iat": 9}));
    assert_eq!((read.acr.as_deref(), read.time), (Some("2"), Some(7)));
    assert_eq!(
        (read.amr.as_slice(), read.scopes.as_slice()),
        (["pwd".to_owned()].as_slice(), ["a".to_owned(), "b".to_owned()].as_slice())
    );
    assert!(read.unreadable.is_empty());
    let absent = facts(json!({"acr": null, "amr": null, "scope": null, "scp": "a b", "auth_time": null, "iat": 9}));
    assert_eq!((absent.acr.as_deref(), absent.time, absent.scopes.len()), (None, Some(9), 2));
    assert!(absent.unreadable.is_empty());
    let odd = facts(json!({"acr": {}, "amr": [1], "scope": 1, "auth_time": "7", "iat": 9}));
    let fields: Vec<_> = odd.unreadable.iter().map(|fact| fact.field).collect();
    assert_eq!(fields, ["time", "acr", "amr", "scopes"]);
    assert_eq!(
        odd.time, None,
        "the time of the token does not stand in for one that cannot be read"
    );
}
