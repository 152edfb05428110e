//! An explanation never contradicts the decision, nor Cedar's own authorizer, and it names what a reader has to change.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::explain::{Clause, Explanation, FoundValue, PolicyOutcome, ScopePart, caller_facts, explain};
use super::*;
use crate::claims::unsigned_identity;
use crate::decision::named::{ContextPrecedence, NamedEntity};
use crate::reference::Reference;
use crate::revision::Revision;
use crate::test_support::{portal, revision};

const SCHEMA: &str = r#"
entity Tenant;
entity Role in [Role];
entity User in [Role, Tenant] = { mail?: String, level: Long };
entity Order = { owner?: User, tenant?: Tenant, total: Long, tags: Set<String> };
type ContextFacts = { now: datetime, mfa?: Bool, reason?: String, address?: ipaddr };
action view, edit, cancel appliesTo { principal: [User], resource: [Order], context: ContextFacts };
"#;

const POLICIES: &str = r#"
@id("viewers") permit (principal in Role::"viewer", action == Action::"view", resource);
@id("owners") permit (principal, action in [Action::"edit", Action::"cancel"], resource is Order)
when { resource has owner && resource.owner == principal }
unless { context has mfa && !context.mfa };
@id("rich")
permit (principal, action, resource)
when { principal.level >= 5 || (resource.total < 10 && resource.tags.contains("gift")) }
when { if context has reason then context.reason like "b*" else principal has mail };
@id("own tenant") forbid (principal, action, resource) unless { resource has tenant && principal in resource.tenant };
@id("overflow") forbid (principal, action == Action::"cancel", resource) when { resource.total * 4611686018427387904 > 7 };
@id("inside") forbid (principal, action == Action::"edit", resource)
when { context has address && !context.address.isInRange(ip("10.0.0.0/8")) };
@id("editors") permit (principal in Role::"editor", action == Action::"edit", resource) when { resource.total != 3 && true };
"#;

fn shop() -> Arc<Revision> {
    revision([
        ("schemas/bench.cedarschema", SCHEMA),
        (
            "policies/bench/portal.yaml",
            "claims: { mail: contact.mail }\ncontext: { supplied: [address, mfa, reason] }\n",
        ),
        ("policies/bench/all.cedar", POLICIES),
    ])
}

struct Asking {
    claims: Value,
    action: &'static str,
    attrs: Value,
    context: Value,
}

/// Explains one query, and compares every verdict with the decision and with Cedar.
fn explained(revision: &Revision, asking: &Asking) -> Explanation {
    let portal = portal();
    let claims = asking.claims.as_object().unwrap().clone();
    let identity = unsigned_identity(&portal.issuers[0], claims).unwrap();
    let principal = revision.principal(&portal, &identity).unwrap();
    let resource = json!({"type": "Order", "id": "7", "attrs": asking.attrs});
    let resource = NamedEntity::read(resource, "resource").unwrap();
    let context: Map<String, Value> = asking.context.as_object().unwrap().clone();
    let named = || NamedQuery {
        action: asking.action,
        resource: &resource,
        principal: None,
        context: Some(&context),
        precedence: ContextPrecedence::Gate,
        entities: &[],
    };
    let query = |named| Query {
        portal: &portal,
        revision,
        now_millis: 1_800_000_000_000,
        asked: QueryForm::Named(named),
    };
    let caller = Caller::Proven {
        identity: &identity,
        principal: &principal,
    };
    let decision = decide(&query(named()), caller);
    let query = query(named());
    let explanation = explain(&query, caller);
    assert_eq!(explanation.decision.denial(), decision.denial());
    let ids = |decision: &Decision| {
        decision
            .policies()
            .iter()
            .map(|policy| Arc::clone(&policy.id))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&explanation.decision), ids(&decision));
    assert!(
        caller_facts(&query, &identity, &principal)
            .iter()
            .any(|fact| fact.name == "subject")
    );
    let evaluation = explanation.deciding().expect("the query was evaluated");
    let reference = Reference::new(&query, caller, &decision).unwrap();
    for policy in &evaluation.policies {
        let found = reference.is_satisfied(&policy.info.id);
        match &policy.verdict {
            PolicyOutcome::Satisfied => assert_eq!(found, Ok(true), "{policy:?}"),
            PolicyOutcome::ConditionFalse | PolicyOutcome::OutOfScope => assert_eq!(found, Ok(false), "{policy:?}"),
            PolicyOutcome::Failed(_) => assert!(found.is_err(), "{policy:?}"),
        }
        let unexplained = policy.verdict == PolicyOutcome::ConditionFalse && policy.clauses.is_empty();
        assert!(!unexplained, "{policy:?}");
        assert_eq!(
            policy.scope.is_empty(),
            policy.verdict != PolicyOutcome::OutOfScope,
            "{policy:?}"
        );
        let satisfied_and_unmet = policy.verdict == PolicyOutcome::Satisfied && !policy.clauses.is_empty();
        assert!(!satisfied_and_unmet, "{policy:?}");
    }
    explanation
}

fn clauses<'a>(explanation: &'a Explanation, id: &str) -> &'a [Clause] {
    let policies = &explanation.deciding().unwrap().policies;
    &policies.iter().find(|policy| &*policy.info.id == id).unwrap().clauses
}

#[test]
fn a_false_clause_is_named_with_the_values_on_both_sides() {
    let asking = Asking {
        claims: json!({"sub": "alice", "level": 1, "tenant": "acme"}),
        action: "edit",
        attrs: json!({"total": 12, "tags": [], "owner": {"__entity": {"type": "User", "id": "bob"}}, "tenant": {"__entity": {"type": "Tenant", "id": "acme"}}}),
        context: json!({"mfa": true}),
    };
    let explanation = explained(&shop(), &asking);
    let [owner] = clauses(&explanation, "owners") else {
        panic!("{:?}", clauses(&explanation, "owners"));
    };
    assert_eq!((owner.text.as_str(), owner.wants), ("resource.owner == principal", true));
    assert_eq!((owner.found.clone(), owner.line_offset), (FoundValue::Value(false), Some(1)));
    let operands: Vec<_> = owner
        .operands
        .iter()
        .map(|operand| (operand.text.as_str(), operand.value.clone().unwrap()))
        .collect();
    assert_eq!(
        operands,
        [
            ("resource.owner", "User::\"bob\"".to_owned()),
            ("principal", "User::\"alice\"".to_owned())
        ]
    );
    let [either, mail] = clauses(&explanation, "rich") else {
        panic!("{:?}", clauses(&explanation, "rich"));
    };
    assert!(either.text.starts_with("principal.level >= 5 ||"), "{either:?}");
    let operands: Vec<&str> = either.operands.iter().map(|operand| operand.text.as_str()).collect();
    assert_eq!(operands, ["principal.level", "resource.total", "resource.tags"], "{either:?}");
    assert!(mail.text.starts_with("if context has reason"), "{mail:?}");
}

#[test]
fn the_nearest_permit_is_the_one_that_wants_another_role_not_another_action() {
    let asking = Asking {
        claims: json!({"sub": "alice", "level": 9, "tenant": "acme", "roles": ["viewer"], "contact": {"mail": "a@b.test"}}),
        action: "edit",
        attrs: json!({"total": 12, "tags": [], "tenant": {"__entity": {"type": "Tenant", "id": "acme"}}}),
        context: json!({"reason": "a"}),
    };
    let explanation = explained(&shop(), &asking);
    assert_eq!(explanation.decision.denial(), Some(Denial::NotPermitted));
    let nearest = explanation.nearest_permit().unwrap();
    assert_eq!(
        &*nearest.info.id, "owners",
        "one clause away, as `rich` and `editors`; the first of them"
    );
    let editors = explanation
        .deciding()
        .unwrap()
        .policies
        .iter()
        .find(|policy| &*policy.info.id == "editors")
        .unwrap();
    assert_eq!(editors.scope.len(), 1);
    assert_eq!(
        (editors.scope[0].part, editors.scope[0].wants.as_str()),
        (ScopePart::Principal, "principal in Role::\"editor\"")
    );
}

#[test]
fn facts_of_the_caller_name_their_claims() {
    let portal = portal();
    let revision = shop();
    let claims = json!({"sub": "alice", "level": 9, "tenant": "acme", "contact": {"mail": "a@b.test"}});
    let identity = unsigned_identity(&portal.issuers[0], claims.as_object().unwrap().clone()).unwrap();
    let principal = revision.principal(&portal, &identity).unwrap();
    let query = Query {
        portal: &portal,
        revision: &revision,
        now_millis: 0,
        asked: QueryForm::Named(NamedQuery {
            action: "view",
            resource: &NamedEntity::Text("Order::\"1\"".to_owned()),
            principal: None,
            context: None,
            precedence: ContextPrecedence::Gate,
            entities: &[],
        }),
    };
    let facts = caller_facts(&query, &identity, &principal);
    let mail = facts.iter().find(|fact| fact.name == "mail").unwrap();
    assert_eq!(
        (mail.value.as_str(), &mail.source),
        ("\"a@b.test\"", &super::explain::FactSource::Claim("contact.mail".to_owned()))
    );
}

proptest! {
    #[test]
    fn verdicts_never_contradict_cedar(
        level in 0_i64..10,
        roles in prop::sample::subsequence(vec!["viewer", "editor", "odd"], 0..3),
        mail in prop::option::of(Just("a@b.test")),
        tenant in prop::option::of(prop::sample::select(vec!["acme", "globex"])),
        action in prop::sample::select(vec!["view", "edit", "cancel"]),
        total in 0_i64..14,
        tags in prop::sample::subsequence(vec!["gift", "sale"], 0..2),
        owner in prop::option::of(prop::sample::select(vec!["alice", "bob"])),
        of in prop::option::of(prop::sample::select(vec!["acme", "globex"])),
        context in prop::sample::subsequence(vec![
            ("mfa", json!(false)), ("reason", json!("fraud")), ("reason", json!("b")), ("address", json!({"__extn": {"fn": "ip", "arg": "10.1.2.3"}})),
            ("address", json!({"__extn": {"fn": "ip", "arg": "192.0.2.1"}})), ("mfa", json!(true)),
        ], 0..5),
    ) {
        let mut claims = json!({"sub": "alice", "level": level, "roles": roles});
        if let Some(tenant) = tenant { claims["tenant"] = json!(tenant); }
        if let Some(mail) = mail { claims["contact"] = json!({"mail": mail}); }
        let mut attrs = json!({"total": total, "tags": tags});
        if let Some(owner) = owner { attrs["owner"] = json!({"__entity": {"type": "User", "id": owner}}); }
        if let Some(of) = of { attrs["tenant"] = json!({"__entity": {"type": "Tenant", "id": of}}); }
        let context: Map<String, Value> = context.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        explained(&shop(), &Asking { claims, action, attrs, context: Value::Object(context) });
    }
}
