//! A pair of policies that is called contradictory has no request in common: Cedar's evaluator decides a few hundred.

use std::sync::{Arc, LazyLock};

use cedar_policy::{Authorizer, Context, Decision, Entities, Policy, PolicySet, Request};
use cedargate_policy::revision::Revision;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::prove::tests::revision;
use crate::prove::{RequestKind, environments};

/// Conjuncts, among them some that fail, and some that are no fact.
const CONJUNCTS: [&str; 30] = [
    "true",
    "principal == User::\"a\"",
    "User::\"b\" == principal",
    "principal != User::\"a\"",
    "!(principal == User::\"b\")",
    "!(principal != User::\"b\")",
    "principal in Role::\"r\"",
    "resource == Order::\"1\"",
    "resource == Path::\"/shop/x\"",
    "resource == Path::\"/shop/x/y\"",
    "resource in Path::\"/shop/x\"",
    "resource in Path::\"/shop/x/y\"",
    "resource in Path::\"/shop/z\"",
    "resource in Path::\"/shop\"",
    "resource in [Path::\"/shop/x\", Path::\"/shop/z\"]",
    "resource is Order",
    "resource is Path",
    "resource is Path in Path::\"/shop/z\"",
    "resource has tenant",
    "resource has owner",
    "resource.tenant == Tenant::\"t\"",
    "resource.tenant != Tenant::\"t\"",
    "resource.tenant == Tenant::\"u\"",
    "resource.owner == principal",
    "resource.isOpen",
    "!resource.isOpen",
    "context.portal == \"shop\"",
    "\"admin\" == context.portal",
    "(context.portal == \"shop\" || resource.isOpen)",
    "context.count + 9223372036854775807 == 0",
];

static REVISION: LazyLock<Arc<Revision>> = LazyLock::new(|| revision("permit (principal, action == Action::\"GET\", resource);"));

static SITUATIONS: LazyLock<Vec<Situation>> = LazyLock::new(|| situations(&ProofFacts::of("shop", &REVISION)));

struct Situation {
    request: Request,
    entities: Entities,
}

/// Every combination of a few callers, resources and contexts; a resource has all attributes, one of them, or none.
fn situations(facts: &ProofFacts<'_>) -> Vec<Situation> {
    let mut situations = Vec::new();
    for (action, ty, ids) in [
        ("GET", "Path", &["/shop/x", "/shop/x/y", "/shop/z", "/shop/x/y/k"][..]),
        ("viewOrder", "Order", &["1", "2"]),
    ] {
        for id in ids {
            for attributes in [
                json!({}),
                json!({"tenant": {"type": "Tenant", "id": "u"}}),
                full("t", true),
                full("u", false),
            ] {
                for (caller, portal) in [("a", "shop"), ("a", "admin"), ("b", "shop"), ("b", "admin")] {
                    let uid = |ty: &str, id: &str| -> EntityUid { format!("{ty}::\"{id}\"").parse().unwrap() };
                    let resource = uid(ty, id);
                    let name = |uid: &EntityUid| json!({"type": uid.type_name().to_string(), "id": uid.id().unescaped()});
                    let parents: Vec<Value> = match ty {
                        "Path" => facts.ancestors(&resource).iter().map(name).collect(),
                        _ => Vec::new(),
                    };
                    let entities = json!([
                        {"uid": name(&resource), "attrs": attributes, "parents": parents},
                        {"uid": {"type": "User", "id": caller}, "attrs": {}, "parents": [{"type": "Role", "id": "r"}]},
                    ]);
                    let context = Context::from_json_value(json!({"portal": portal, "count": 1}), None).unwrap();
                    let action = uid("Action", action);
                    situations.push(Situation {
                        request: Request::new(uid("User", caller), action, resource, context, None).unwrap(),
                        entities: Entities::from_json_value(entities, None).unwrap(),
                    });
                }
            }
        }
    }
    situations
}

fn full(tenant: &str, is_open: bool) -> Value {
    let of = |ty: &str, id: &str| json!({"__entity": {"type": ty, "id": id}});
    json!({"tenant": of("Tenant", tenant), "owner": of("User", "a"), "isOpen": is_open})
}

fn policy(effect: &str, conjuncts: &[usize]) -> Policy {
    let texts: Vec<&str> = conjuncts.iter().map(|number| CONJUNCTS[*number]).collect();
    let text = format!("{effect} (principal, action, resource) when {{ {} }};", texts.join(" && "));
    Policy::parse(None, text).unwrap()
}

/// The outcome of one policy alone.
fn is_satisfied(policy: &Policy, situation: &Situation) -> Result<bool, ()> {
    // a forbid is asked as a permit, so that its result shows
    let text = policy.to_string().replacen("forbid", "permit", 1);
    let set = PolicySet::from_policies([Policy::parse(None, text).unwrap()]).unwrap();
    let response = Authorizer::new().is_authorized(&situation.request, &set, &situation.entities);
    match response.diagnostics().errors().next() {
        Some(_) => Err(()),
        None => Ok(response.decision() == Decision::Allow),
    }
}

fn is_excluded(forbid: &[usize], permit: &[usize], errored: ErroredForbids, world: World<'_>) -> bool {
    let forbid = Clause::new(&policy("forbid", forbid), errored).unwrap();
    let permit = Clause::new(&policy("permit", permit), ErroredForbids::Deny).unwrap();
    !world.may_hold(&Fact::of_denying(&forbid), &Fact::of_satisfied(&permit.when))
}

fn numbers() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0..CONJUNCTS.len(), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_request_satisfies_a_pair_that_is_excluded(forbid in numbers(), permit in numbers()) {
        let facts = ProofFacts::of("shop", &REVISION);
        for (env, errored) in environments(&REVISION).iter().flat_map(|env| [(env, ErroredForbids::Deny), (env, ErroredForbids::Skip)]) {
            if !is_excluded(&forbid, &permit, errored, World { env, facts: &facts }) {
                continue;
            }
            let forbid = policy("forbid", &forbid);
            let permit = policy("permit", &permit);
            for situation in SITUATIONS.iter().filter(|situation| situation.request.action() == Some(env.action())) {
                let is_denied = is_satisfied(&forbid, situation).unwrap_or(errored == ErroredForbids::Deny);
                let is_permitted = is_satisfied(&permit, situation) == Ok(true);
                prop_assert!(!(is_denied && is_permitted), "{forbid} {errored:?} beside {permit}: {}", situation.request);
            }
        }
    }
}

#[test]
fn pairs_with_opposite_literals_are_excluded_and_others_are_not() {
    let facts = ProofFacts::of("shop", &REVISION);
    let environments = environments(&REVISION);
    let number = |text: &str| CONJUNCTS.iter().position(|conjunct| *conjunct == text).unwrap();
    for (action, forbid, permit, expected) in [
        (
            "GET",
            &["principal == User::\"a\""][..],
            &["User::\"b\" == principal"][..],
            true,
        ),
        ("GET", &["principal == User::\"a\""], &["principal != User::\"a\""], true),
        ("GET", &["principal == User::\"a\""], &["!(principal == User::\"b\")"], false),
        (
            "GET",
            &["resource in Path::\"/shop/x\""],
            &["resource in Path::\"/shop/z\""],
            true,
        ),
        (
            "GET",
            &["resource in Path::\"/shop/x\""],
            &["resource in Path::\"/shop/x/y\""],
            false,
        ),
        (
            "GET",
            &["resource == Path::\"/shop/x\""],
            &["resource in Path::\"/shop/x/y\""],
            true,
        ),
        (
            "GET",
            &["resource in Path::\"/shop/x\""],
            &["resource == Path::\"/shop/x/y\""],
            false,
        ),
        (
            "GET",
            &["resource is Path in Path::\"/shop/z\""],
            &["resource in Path::\"/shop/x\""],
            true,
        ),
        ("GET", &["true"], &["resource is Order"], true),
        ("viewOrder", &["true"], &["resource is Order"], false),
        ("viewOrder", &["resource.isOpen"], &["!resource.isOpen"], true),
        // the first conjunct can fail, and then the forbid denies without reading the second one
        (
            "viewOrder",
            &["resource.isOpen", "resource.tenant == Tenant::\"t\""],
            &["resource.tenant == Tenant::\"u\""],
            false,
        ),
        (
            "viewOrder",
            &[
                "resource has tenant",
                "resource.tenant == Tenant::\"t\"",
                "principal == User::\"a\"",
            ],
            &["User::\"b\" == principal"],
            true,
        ),
    ] {
        let env = environments
            .iter()
            .find(|env| RequestKind::of(env).action.contains(&format!("\"{action}\"")))
            .unwrap();
        let numbers = |texts: &[&str]| -> Vec<usize> { texts.iter().map(|text| number(text)).collect() };
        let world = World { env, facts: &facts };
        let found = is_excluded(&numbers(forbid), &numbers(permit), ErroredForbids::Deny, world);
        assert_eq!(found, expected, "{action}: {forbid:?} beside {permit:?}");
    }
}
