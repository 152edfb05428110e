//! The fast path and Cedar's readers give the same decisions, the same records and the same refusals.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::decision::QueryForm;
use crate::fast_path::fast_name;
use crate::revision::Revision;
use crate::test_support::{portal, revision};

const SCHEMA: &str = r#"
namespace Shop {
    entity Tenant;
    entity Role in [Role];
    entity Colour enum ["red", "blue"];
    entity Team;
    entity User in [Role, Tenant, Team] = { department?: String };
    entity Portal;
    entity Path in [Path, Portal];
    entity Order in [Portal, Team];
    entity Strict = { owner: String };
    type Auth = { method: String };
    type ContextFacts = {
        portal: String, now: datetime, auth?: Auth, tenant?: String, method?: String, source_ip?: ipaddr,
        amount?: Long, gift?: Bool, tags?: Set<String>, shade?: Colour, until?: datetime, nested?: { a: Long },
    };
    type Needs = { portal: String, reason: String, count?: Long };
    action GET appliesTo { principal: [User], resource: [Path], context: ContextFacts };
    action view, edit appliesTo { principal: [User, Guest], resource: [Order, Strict], context: ContextFacts };
    action cancel appliesTo { principal: [User], resource: [Order], context: Needs };
}
entity Guest in [Shop::Role];
"#;

const POLICIES: &str = r#"
@id("viewers") permit (principal in Shop::Role::"viewer", action, resource);
@id("team") permit (principal, action == Shop::Action::"edit", resource) when { principal in Shop::Team::"a" && resource in Shop::Team::"a" };
@id("gifts") permit (principal, action == Shop::Action::"view", resource)
when { context has gift && context.gift && context has tags && context.tags.contains("x") };
@id("reasons") permit (principal, action == Shop::Action::"cancel", resource) when { context.reason like "b*" };
@id("much") forbid (principal, action, resource) when { context has amount && context.amount > 10 };
@id("late") forbid (principal, action, resource) when { context has until && context.now > context.until };
@id("nested") forbid (principal, action, resource) when { context has nested && context.nested.a == 1 };
@id("method") forbid (principal, action, resource) when { context has method && context.method == "PUT" };
@id("blue") forbid (principal, action, resource) when { context has shade && context.shade == Shop::Colour::"blue" };
"#;

const STORED: &str = r#"[
    {"uid": {"type": "Shop::Role", "id": "admin"}, "attrs": {}, "parents": [{"type": "Shop::Role", "id": "viewer"}]},
    {"uid": {"type": "Shop::User", "id": "stored"}, "attrs": {}, "parents": [{"type": "Shop::Role", "id": "admin"}]}
]"#;

fn shop() -> Arc<Revision> {
    revision([
        ("schemas/bench.cedarschema", SCHEMA),
        (
            "policies/bench/portal.yaml",
            "namespace: Shop\ncontext: { supplied: [amount, gift, nested, shade, tags, until] }\n",
        ),
        ("policies/bench/all.cedar", POLICIES),
        ("policies/bench/entities.json", STORED),
    ])
}

fn one_of(values: Vec<Value>) -> impl Strategy<Value = Value> {
    prop::sample::select(values)
}

fn parent() -> impl Strategy<Value = Value> {
    one_of(vec![
        json!({"type": "Shop::Role", "id": "viewer"}),
        json!({"type": "Shop::Role", "id": "admin"}),
        json!({"type": "Role", "id": "viewer"}),
        json!({"type": "Shop::Team", "id": "a"}),
        json!({"type": "Shop::Portal", "id": "bench"}),
        json!({"type": "Shop::User", "id": "alice"}),
        json!({"type": "Shop::Colour", "id": "green"}),
        json!({"type": "Nope", "id": "x"}),
        json!({"__entity": {"type": "Shop::Role", "id": "viewer"}}),
        json!({"type": "Shop::Role", "id": "viewer", "more": 1}),
        json!("Shop::Role::\"viewer\""),
        json!("Shop::Role::\"view\\\"er\""),
        json!("Role::\"viewer\""),
        json!("Shop::Role::\"\""),
        json!("viewer"),
        json!(7),
    ])
}

/// A name, described or not.
fn named(types: &'static [&'static str], ids: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let attrs = one_of(vec![
        json!({}),
        json!({"department": "sales"}),
        json!({"department": 1}),
        json!({"owner": "x"}),
        json!([]),
        json!(null),
    ]);
    let attrs = prop_oneof![3 => Just(None), 2 => Just(Some(json!({}))), 1 => attrs.prop_map(Some)];
    let parents = prop::collection::vec(parent(), 0..3).prop_map(Value::Array);
    let parents = prop_oneof![2 => Just(None), 6 => parents.prop_map(Some), 1 => Just(Some(json!("x")))];
    let name = (prop::sample::select(types), prop::sample::select(ids));
    (name, attrs, parents, prop::bool::weighted(0.2)).prop_map(|((ty, id), attrs, parents, is_text)| {
        if is_text {
            return json!(format!("{ty}::{id:?}"));
        }
        let mut parts = json!({"type": ty, "id": id});
        if let Some(attrs) = attrs {
            parts["attrs"] = attrs;
        }
        if let Some(parents) = parents {
            parts["parents"] = parents;
        }
        parts
    })
}

fn context() -> impl Strategy<Value = Map<String, Value>> {
    let field = prop::sample::select(vec![
        ("amount", json!(5)),
        ("amount", json!(11)),
        ("amount", json!(11.0)),
        ("amount", json!(u64::MAX)),
        ("amount", json!("11")),
        ("gift", json!(true)),
        ("gift", json!("true")),
        ("tags", json!(["x", "y"])),
        ("tags", json!([])),
        ("tags", json!([["x"]])),
        ("tags", json!(["x", 1])),
        ("tags", json!("x")),
        ("shade", json!({"type": "Shop::Colour", "id": "blue"})),
        ("shade", json!({"__entity": {"type": "Shop::Colour", "id": "green"}})),
        ("shade", json!("Shop::Colour::\"blue\"")),
        ("until", json!("2020-01-01")),
        ("until", json!({"__extn": {"fn": "datetime", "arg": "2020-01-01"}})),
        ("until", json!("never")),
        ("nested", json!({"a": 1})),
        ("nested", json!({"a": "1"})),
        ("method", json!("PUT")),
        ("source_ip", json!("10.0.0.1")),
        ("reason", json!("bored")),
        ("reason", json!("sick")),
        ("reason", json!(null)),
        ("count", json!(-1)),
        ("portal", json!("other")),
        ("now", json!("x")),
        ("tenant", json!("acme")),
        ("auth", json!({"method": "none"})),
        ("undeclared", json!(1)),
    ]);
    prop::collection::vec(field, 0..4).prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

/// One generated query.
#[derive(Clone, Debug)]
struct Generated {
    principal: Value,
    action: &'static str,
    resource: Value,
    context: Option<Map<String, Value>>,
    entities: Vec<Value>,
}

fn query() -> impl Strategy<Value = Generated> {
    let principal = named(
        &["Shop::User", "User", "Shop::Role", "Guest", "Nope"],
        &["alice", "stored", "a\"b"],
    );
    let resource = named(
        &["Shop::Order", "Order", "Shop::Path", "Path", "Shop::Strict", "Shop::Colour"],
        &["/a/b", "17", "red", "alice"],
    );
    let action = prop::sample::select(vec!["GET", "view", "edit", "cancel", "nope"]);
    let entities = prop_oneof![
        4 => Just(Vec::new()),
        1 => Just(vec![json!({"uid": {"type": "Shop::Order", "id": "17"}, "attrs": {}, "parents": [{"type": "Shop::Team", "id": "a"}]})]),
    ];
    (principal, resource, action, prop::option::of(context()), entities).prop_map(
        |(principal, resource, action, context, entities)| Generated {
            principal,
            action,
            resource,
            context,
            entities,
        },
    )
}

fn outcome(reader: Reader, revision: &Revision, query: &Generated) -> Result<Value, (Denial, String)> {
    let portal = portal();
    let refused = |refusal: Refusal| (refusal.denial, refusal.detail.into_owned());
    let principal = NamedEntity::read(query.principal.clone(), "principal").map_err(refused)?;
    let resource = NamedEntity::read(query.resource.clone(), "resource").map_err(refused)?;
    let named = NamedQuery {
        action: query.action,
        resource: &resource,
        principal: Some(&principal),
        context: query.context.as_ref(),
        precedence: ContextPrecedence::Gate,
        entities: &query.entities,
    };
    let full = Query {
        portal: &portal,
        revision,
        now_millis: 1_800_000_000_000,
        asked: QueryForm::Named(NamedQuery { ..named }),
    };
    let mut details = Details::default();
    let evaluation = evaluate_by(reader, &full, &named, Caller::Anonymous, None, &mut details).map_err(refused)?;
    let policies: Vec<&str> = evaluation.policies.iter().map(|p| &*p.id).collect();
    let errors: Vec<&str> = evaluation.errors.iter().map(|e| e.message.as_str()).collect();
    let target = details.target.unwrap();
    Ok(json!({
        "outcome": format!("{:?}", evaluation.outcome), "policies": policies, "errors": errors,
        "named": [details.named_principal.unwrap().uid.to_string(), target.action.to_string(), target.resource.uid.to_string()],
        "context": details.context,
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn the_fast_path_and_cedars_reader_decide_alike(query in query()) {
        thread_local!(static SHOP: Arc<Revision> = shop());
        SHOP.with(|shop| {
            prop_assert_eq!(outcome(Reader::FastPathFirst, shop, &query), outcome(Reader::CedarAlone, shop, &query));
            Ok(())
        })?;
    }
}

#[test]
fn the_fast_path_reads_a_plain_query() {
    let shop = shop();
    let rules = &shop.rules;
    let alice = fast_name(&rules.schema, &json!("Shop::User::\"alice\"")).unwrap();
    let parents = json!([{"type": "Shop::Role", "id": "viewer"}, "Shop::Team::\"a\""]);
    let described = DescribedEntity {
        uid: &alice,
        attrs: None,
        parents: Some(&parents),
    };
    assert_eq!(rules.fast_entities(&[described], None).unwrap().len(), 1);
    let (action, flags) = (rules.schema.resolve_action("view").unwrap(), Arc::default());
    let facts = ContextFacts {
        portal: "bench",
        tenant: None,
        now_millis: 0,
        auth: None,
        flags: &flags,
        http: None,
    };
    let given = json!({"amount": 5, "tags": ["x"], "gift": true});
    let declared = &rules.schema.action(&action).unwrap().context;
    let plan = rules.plans.get(&action).unwrap();
    assert!(plan.fast(&facts, declared, given.as_object()).is_some());
}
