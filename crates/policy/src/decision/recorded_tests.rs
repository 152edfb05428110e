//! Facts of records: known, absent, masked, never recorded.

use serde_json::json;

use super::*;
use crate::test_support::{portal, revision};

const SCHEMA: &str = "
entity Role; entity Tenant; entity Path;
entity User in [Role, Tenant] { email?: String, level?: Long };
entity Order { owner?: User };
type Web = { path?: String, source_ip?: ipaddr, auth?: { method?: String, acr?: String }, query?: { tag?: String }, headers?: { \"x-dept\"?: String }, flags?: { open?: Bool } };
action GET, POST appliesTo { principal: User, resource: Path, context: Web };
action view appliesTo { principal: User, resource: Order };
";

const POLICIES: &str = r#"
@id("read") permit (principal in Role::"viewer", action == Action::"GET", resource);
@id("vip") permit (principal, action == Action::"GET", resource) when { principal has email && principal.email like "*@vip.test" };
@id("tagged") permit (principal, action == Action::"POST", resource in Path::"/tagged") when { context has query && context.query has tag && context.query.tag == "ok" };
@id("dept") permit (principal, action == Action::"POST", resource in Path::"/dept") when { context has headers && context.headers has "x-dept" && context.headers["x-dept"] == "hr" };
@id("strong") permit (principal, action == Action::"POST", resource in Path::"/strong") when { context has auth && context.auth has acr && context.auth.acr == "gold" };
@id("office") permit (principal, action == Action::"POST", resource in Path::"/office") when { context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8")) };
@id("open") permit (principal, action == Action::"POST", resource in Path::"/open") when { context has flags && context.flags has open && context.flags.open };
@id("own") permit (principal, action == Action::"view", resource) when { resource has owner && resource.owner == principal };
"#;

fn shop() -> Arc<Revision> {
    revision([
        ("schemas/bench.cedarschema", SCHEMA),
        (
            "policies/bench/portal.yaml",
            "flags: { open: true }\npublic: [ \"GET /assets/**\" ]\nclaims: { email: profile.mail }\n",
        ),
        ("policies/bench/all.cedar", POLICIES),
    ])
}

/// A record of `POST path` by a caller without roles.
struct Record {
    method: &'static str,
    path: &'static str,
    roles: Vec<String>,
    claims: Value,
    context: Option<Value>,
    masked: Vec<String>,
    facts: Option<Arc<str>>,
    client: Option<IpAddr>,
}

fn post(path: &'static str, context: Value) -> Record {
    Record {
        method: "POST",
        path,
        roles: Vec::new(),
        claims: json!({}),
        context: Some(context),
        masked: Vec::new(),
        facts: Some(Arc::clone(&shop().facts)),
        client: None,
    }
}

/// The decision: its denial code or `permitted`, or the reason why there is none.
fn replay(record: &Record) -> Result<&'static str, NotReplayable> {
    let (portal, revision) = (portal(), shop());
    let action = format!("Action::{:?}", record.method);
    let query = RecordedQuery {
        caller: RecordedCaller::Proven(ProvenCaller {
            ty: "User",
            id: "alice",
            tenant: None,
            roles: record.roles.clone(),
            claims: record.claims.as_object().unwrap().clone(),
            issuer: None,
        }),
        asked: RecordedAsked::Http {
            method: record.method,
            path: record.path,
            client: record.client,
        },
        now_millis: 1_767_225_600_000,
        action: Some(&action),
        context: record.context.as_ref().and_then(Value::as_object),
        masked: &record.masked,
        revision: Some("another"),
        facts: record.facts.as_deref(),
    };
    let decision = Replay::new(&portal, &revision).decide(&query)?;
    Ok(decision.denial().map_or("permitted", Denial::code))
}

fn unread(policy: &str, name: &str) -> Result<&'static str, NotReplayable> {
    Err(NotReplayable::Unread {
        name: name.to_owned(),
        policy: policy.into(),
    })
}

#[test]
fn facts_of_the_record_are_the_facts_of_the_query() {
    for (path, context) in [
        ("/tagged", json!({"query": {"tag": "ok"}})),
        ("/dept", json!({"headers": {"x-dept": "hr"}})),
        ("/strong", json!({"auth": {"method": "session", "acr": "gold"}})),
        ("/office", json!({"source_ip": "10.1.2.3"})),
        ("/open", json!({"flags": {"open": false}})),
    ] {
        assert_eq!(
            replay(&post(path, context)),
            Ok("permitted"),
            "{path}: flags are the revision's"
        );
    }
    for (path, context) in [
        ("/tagged", json!({"query": {"tag": "no"}})),
        ("/dept", json!({"headers": {}})),
        ("/strong", json!({"auth": {"method": "bearer"}})),
    ] {
        assert_eq!(replay(&post(path, context)), Ok("not_permitted"), "{path}: absent is absent");
    }
    let office = Record {
        client: Some("10.9.9.9".parse().unwrap()),
        ..post("/office", json!({}))
    };
    assert_eq!(replay(&office), Ok("permitted"));
}

#[test]
fn attributes_of_the_record_are_those_of_the_principal() {
    let get = |claims: Value| Record {
        method: "GET",
        claims,
        ..post("/", json!({}))
    };
    assert_eq!(replay(&get(json!({"profile.mail": "a@vip.test"}))), Ok("permitted"));
    assert_eq!(replay(&get(json!({}))), Ok("not_permitted"));
    assert_eq!(replay(&get(json!({"level": "high"}))), Ok("claim_invalid"));
    let viewer = Record {
        roles: vec!["viewer".to_owned()],
        ..get(json!({}))
    };
    assert_eq!(replay(&viewer), Ok("permitted"));
    let masked = Record {
        masked: vec!["/principal/attrs/profile.mail".to_owned()],
        ..get(json!({"profile.mail": "[masked]"}))
    };
    assert_eq!(replay(&masked), unread("vip", "email"));
    let other_mask = Record {
        masked: vec!["/principal/attrs/level".to_owned()],
        ..get(json!({"level": "[masked]"}))
    };
    assert_eq!(replay(&other_mask), Ok("not_permitted"), "no policy reads it");
}

#[test]
fn masked_fact_is_unknown_only_where_a_policy_reads_it() {
    let masked = |path, pointer: &str| Record {
        masked: vec![pointer.to_owned()],
        ..post(path, json!({"headers": "[masked]", "query": {"tag": "[masked]"}}))
    };
    assert_eq!(replay(&masked("/dept", "/context/headers")), unread("dept", "headers"));
    assert_eq!(replay(&masked("/strong", "/context/headers")), Ok("not_permitted"));
    assert_eq!(replay(&masked("/tagged", "/context/query/tag")), unread("tagged", "tag"));
    let whole = Record {
        context: None,
        ..masked("/office", "/context")
    };
    assert_eq!(replay(&whole), unread("office", "source_ip"));
}

#[test]
fn fact_that_another_schema_may_not_have_declared_is_unknown() {
    let other_schema = |path, context| Record {
        facts: Some("00000000".into()),
        ..post(path, context)
    };
    assert_eq!(replay(&other_schema("/strong", json!({}))), unread("strong", "auth"));
    assert_eq!(replay(&other_schema("/strong", json!({"auth": {}}))), unread("strong", "acr"));
    assert_eq!(
        replay(&other_schema("/strong", json!({"auth": {"acr": "gold"}}))),
        Ok("permitted")
    );
    assert_eq!(
        replay(&other_schema("/open", json!({}))),
        Ok("permitted"),
        "flags are always known"
    );
    let old = Record {
        method: "GET",
        facts: None,
        ..post("/", json!({}))
    };
    assert_eq!(replay(&old), unread("vip", "email"));
}

#[test]
fn anonymous_caller_is_permitted_on_public_paths_alone() {
    let (portal, revision) = (portal(), shop());
    let ask = |method, path| {
        let query = RecordedQuery {
            caller: RecordedCaller::Anonymous,
            asked: RecordedAsked::Http {
                method,
                path,
                client: None,
            },
            now_millis: 0,
            action: None,
            context: None,
            masked: &[],
            revision: None,
            facts: None,
        };
        let decision = Replay::new(&portal, &revision).decide(&query)?;
        Ok(decision.denial().map_or("permitted", Denial::code))
    };
    assert_eq!(ask("GET", "/assets/a.css"), Ok("permitted"));
    assert_eq!(ask("GET", "/"), Ok("token_missing"));
    assert_eq!(ask("OPTIONS", "/"), Err(NotReplayable::Preflight));
    assert!(matches!(ask("GET", "/a/../b"), Err(NotReplayable::Malformed(_))));
}

#[test]
fn query_of_the_app_has_the_entities_that_it_described() {
    let (portal, revision) = (portal(), shop());
    let owner = json!({"owner": {"__entity": {"type": "User", "id": "bob"}}});
    let order = |attrs| NamedEntity::Parts {
        ty: "Order".to_owned(),
        id: "7".to_owned(),
        attrs,
        parents: None,
    };
    let ask = |resource| {
        let query = RecordedQuery {
            caller: RecordedCaller::Named(NamedEntity::Text("User::\"bob\"".to_owned())),
            asked: RecordedAsked::Named { resource, entities: &[] },
            now_millis: 0,
            action: Some("Action::\"view\""),
            context: None,
            masked: &[],
            revision: Some(&revision.id),
            facts: None,
        };
        let decision = Replay::new(&portal, &revision).decide(&query).unwrap();
        decision.denial().map_or("permitted", Denial::code)
    };
    assert_eq!(ask(order(Some(owner))), "permitted");
    assert_eq!(ask(order(None)), "not_permitted");
}
