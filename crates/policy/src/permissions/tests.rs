//! Unit tests of the permissions of a caller: known policies, and that no decision of the engine contradicts an answer.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::*;
use crate::claims::unsigned_identity;
use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::decision::{Caller, Query, QueryForm, decide};
use crate::load::Loader;
use crate::test_support::{portal, tree};

const SCHEMA: &str = r#"
entity Role in [Role, Group]; entity Tenant { plan?: String }; entity Group;
entity User in [Role, Tenant, Group] { level?: Long, home?: Tenant, badges?: Set<String> };
entity Portal; entity Path in [Path, Portal];
entity Folder { closed?: Bool };
entity Doc in [Folder] { owner: User, level: Long, tenant: Tenant, folder: Folder, open?: Bool } tags String;
entity Draft { owner?: User };
type Context = { mfa?: Bool, tenant?: String, auth?: { method?: String, acr?: String, amr?: Set<String> },
  flags?: { beta?: Bool, old?: Bool }, now: datetime };
action read;
action view in [read] appliesTo { principal: [User], resource: [Doc, Draft], context: Context };
action edit appliesTo { principal: [User], resource: [Doc], context: Context };
action GET appliesTo { principal: [User], resource: [Path], context: {} };
action audit appliesTo { principal: [Role], resource: [Doc], context: Context };
"#;
const ENTITIES: &str = r#"[
  { "uid": { "type": "Role", "id": "admin" }, "attrs": {}, "parents": [{ "type": "Role", "id": "editor" }, { "type": "Group", "id": "staff" }] },
  { "uid": { "type": "Role", "id": "editor" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "Tenant", "id": "t" }, "attrs": { "plan": "pro" }, "parents": [] },
  { "uid": { "type": "Folder", "id": "closed" }, "attrs": { "closed": true }, "parents": [] },
  { "uid": { "type": "User", "id": "v" }, "attrs": {}, "parents": [{ "type": "Group", "id": "staff" }] }
]"#;

fn revision(policies: &str) -> Arc<Revision> {
    try_revision(policies).unwrap_or_else(|rejected| panic!("{rejected}"))
}

fn try_revision(policies: &str) -> Result<Arc<Revision>, String> {
    let tree = tree([
        ("schemas/bench.cedarschema", SCHEMA),
        ("policies/bench/main.cedar", policies),
        ("policies/bench/entities.json", ENTITIES),
        (
            "policies/bench/portal.yaml",
            "flags: { beta: true, old: false }\ncontext: { supplied: [mfa] }\n",
        ),
    ]);
    let loaded = Loader::new(None).load(&portal(), &tree, None);
    loaded.revision.ok_or_else(|| format!("{:?}", loaded.rejected))
}

/// A caller; `acr` and `amr` are facts of its login.
#[derive(Clone, Debug)]
struct Who {
    subject: &'static str,
    tenant: Option<&'static str>,
    role: Option<&'static str>,
    level: Option<i64>,
    acr: Option<&'static str>,
    amr: Option<Vec<&'static str>>,
}

const ALICE: Who = Who {
    subject: "alice",
    tenant: Some("t"),
    role: Some("viewer"),
    level: None,
    acr: None,
    amr: None,
};

impl Who {
    fn identity(&self, portal: &PortalScope) -> Identity {
        let mut claims = json!({"iss": "https://id.example.test/", "sub": self.subject, "home": "t",
            "roles": self.role.into_iter().collect::<Vec<_>>(), "badges": []});
        for (name, value) in [
            ("tenant", self.tenant.map(Value::from)),
            ("level", self.level.map(Value::from)),
            ("acr", self.acr.map(Value::from)),
            ("amr", self.amr.clone().map(Value::from)),
        ] {
            if let Some(value) = value {
                claims[name] = value;
            }
        }
        unsigned_identity(&portal.issuers[0], claims.as_object().unwrap().clone()).unwrap()
    }

    fn permissions(&self, revision: &Revision) -> Permissions {
        let portal = portal();
        let identity = self.identity(&portal);
        let principal = revision.principal(&portal, &identity).unwrap();
        let query = PermissionsQuery {
            portal: &portal,
            revision,
            identity: &identity,
            principal: &principal,
        };
        Permissions::of(query).unwrap()
    }

    fn may(&self, policies: &str, ty: &str, action: &str) -> &'static str {
        word(self.permissions(&revision(policies)).resource_types[ty][action])
    }
}

fn word(answer: Permission) -> &'static str {
    match answer {
        Permission::Allow => "allow",
        Permission::Deny => "deny",
        Permission::Conditional => "conditional",
    }
}

#[test]
fn known_facts_settle_and_unknown_ones_are_conditional() {
    let admin = Who {
        role: Some("admin"),
        acr: Some("mfa"),
        level: Some(7),
        ..ALICE
    };
    let staff = Who { subject: "v", ..ALICE };
    let forbidden = "permit (principal, action, resource); forbid (principal, action, resource)";
    for (who, policies, expected) in [
        (&ALICE, "permit (principal, action, resource is Doc);", "allow"),
        (&ALICE, "", "deny"),
        (&ALICE, "permit (principal in Role::\"editor\", action, resource);", "deny"),
        (&admin, "permit (principal in Role::\"editor\", action, resource);", "allow"),
        (&staff, "permit (principal in Group::\"staff\", action, resource);", "allow"),
        (
            &ALICE,
            "permit (principal == User::\"alice\", action in Action::\"read\", resource);",
            "allow",
        ),
        (&ALICE, "permit (principal, action, resource == Doc::\"d\");", "conditional"),
        (&ALICE, "permit (principal, action, resource is Draft);", "deny"),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { resource.owner == principal };",
            "conditional",
        ),
        // of the caller
        (
            &admin,
            "permit (principal, action, resource) when { principal has level && principal.level > 5 };",
            "allow",
        ),
        (
            &ALICE,
            "permit (principal, action, resource) when { principal has level && principal.level > 5 };",
            "deny",
        ),
        (
            &ALICE,
            "permit (principal, action, resource) when { principal in Tenant::\"t\" };",
            "allow",
        ),
        (
            &ALICE,
            "permit (principal, action, resource) when { principal has home.plan && principal.home.plan == \"pro\" };",
            "conditional",
        ),
        (
            &ALICE,
            "permit (principal, action, resource) when { principal has home && principal.home == Tenant::\"t\" };",
            "allow",
        ),
        (
            &ALICE,
            "permit (principal, action, resource) when { principal has badges && principal.badges.contains(\"x\") };",
            "deny",
        ),
        // of the portal and of the login
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context has flags && context.flags has beta && context.flags.beta };",
            "allow",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context has flags && context.flags has old && context.flags.old };",
            "deny",
        ),
        (
            &admin,
            "permit (principal, action, resource is Doc) when { context has auth && context.auth has acr && context.auth.acr == \"mfa\" };",
            "allow",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context has auth && context.auth has acr && context.auth.acr == \"mfa\" };",
            "deny",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context has auth.amr && context.auth.amr.contains(\"otp\") };",
            "deny",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context has auth && context.auth has amr && context.auth.amr.contains(\"otp\") };",
            "deny",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context has tenant && context.tenant == \"t\" };",
            "allow",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context has mfa && context.mfa };",
            "conditional",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { context.now < datetime(\"2030-01-01\") };",
            "conditional",
        ),
        // a resource that no query describes has no attributes
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { resource has owner };",
            "conditional",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) unless { resource has owner };",
            "conditional",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { resource.level < 3 || principal in Tenant::\"t\" };",
            "conditional",
        ),
        (
            &ALICE,
            "permit (principal, action, resource is Doc) when { principal in Tenant::\"t\" || resource.level < 3 };",
            "allow",
        ),
        // forbids
        (&ALICE, forbidden, "deny"),
        (
            &ALICE,
            "permit (principal, action, resource); forbid (principal, action, resource) when { principal in Role::\"editor\" };",
            "allow",
        ),
        (
            &admin,
            "permit (principal, action, resource); forbid (principal, action, resource) when { principal in Role::\"editor\" };",
            "deny",
        ),
        (
            &admin,
            "permit (principal, action, resource); forbid (principal, action, resource) when { principal has level && 9223372036854775807 + principal.level > 0 };",
            "deny",
        ),
        (
            &ALICE,
            "permit (principal, action, resource); forbid (principal, action, resource is Doc) when { resource.owner != principal };",
            "conditional",
        ),
    ] {
        let policies = if policies == forbidden {
            format!("{policies};")
        } else {
            policies.to_owned()
        };
        assert_eq!(who.may(&policies, "Doc", "view"), expected, "{who:?} {policies}");
    }
}

#[test]
fn equal_callers_have_equal_digests_and_others_do_not() {
    let (portal, revision) = (portal(), revision(""));
    let digest = |who: &Who| {
        let identity = who.identity(&portal);
        let principal = revision.principal(&portal, &identity).unwrap();
        let query = PermissionsQuery {
            portal: &portal,
            revision: &revision,
            identity: &identity,
            principal: &principal,
        };
        query.digest()
    };
    let alice = Who {
        level: Some(1),
        amr: Some(vec!["pwd", "otp"]),
        ..ALICE
    };
    let same = digest(&alice);
    // attributes have no order of their own
    assert!((0..50).all(|_| digest(&alice) == same));
    for other in [
        Who {
            subject: "bob",
            ..alice.clone()
        },
        Who {
            tenant: Some("s"),
            ..alice.clone()
        },
        Who {
            role: Some("admin"),
            ..alice.clone()
        },
        Who {
            level: Some(2),
            ..alice.clone()
        },
        Who {
            acr: Some("2"),
            ..alice.clone()
        },
        Who {
            amr: None,
            ..alice.clone()
        },
    ] {
        assert_ne!(digest(&other), same, "{other:?}");
    }
}

#[test]
fn a_path_is_in_its_portal_and_actions_join_their_types() {
    let policies = "permit (principal, action == Action::\"GET\", resource in Portal::\"bench\");\n\
                    permit (principal, action == Action::\"view\", resource is Draft);";
    let permissions = ALICE.permissions(&revision(policies));
    assert_eq!(permissions.resource_types["Path"]["GET"], Permission::Allow);
    assert_eq!(permissions.resource_types["Doc"]["view"], Permission::Deny);
    assert_eq!(
        permissions.resource_types["Doc"]["audit"],
        Permission::Deny,
        "another type of principal"
    );
    let actions = permissions.actions();
    let shown: Vec<_> = actions.iter().map(|(name, answer)| (*name, word(*answer))).collect();
    assert_eq!(
        shown,
        [("GET", "allow"), ("audit", "deny"), ("edit", "deny"), ("view", "conditional")]
    );
    let below = ALICE.permissions(&revision("permit (principal, action, resource in Path::\"/\");"));
    assert_eq!(below.resource_types["Path"]["GET"], Permission::Allow);
}

#[test]
fn more_work_than_the_bound_is_conditional() {
    let open = "permit (principal, action, resource is Doc) when { resource.level == 1 };\n".repeat(EVALUATIONS_MAX + 1);
    let permissions = ALICE.permissions(&revision(&format!(
        "{open} permit (principal, action == Action::\"view\", resource is Draft);"
    )));
    assert_eq!(permissions.resource_types["Doc"]["view"], Permission::Conditional);
    assert_eq!(
        permissions.resource_types["Draft"]["view"],
        Permission::Allow,
        "scopes cost nothing"
    );
}

fn condition() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(vec![
        "resource.owner == principal",
        "resource has owner",
        "resource has open && resource.open",
        "resource has owner && resource.owner in Role::\"editor\"",
        "resource.level > 2",
        "resource.folder has closed && resource.folder.closed",
        "resource.hasTag(\"x\") && resource.getTag(\"x\") == \"1\"",
        "resource.tenant has plan",
        "principal in resource.tenant",
        "principal has level",
        "principal has level && principal.level < 2",
        "principal has level && principal.level + 9223372036854775806 > 0",
        "principal has home && principal.home has plan && principal.home.plan == \"pro\"",
        "principal has home && principal.home == resource.tenant",
        "principal in Role::\"editor\"",
        "principal in [Role::\"admin\", Role::\"viewer\"]",
        "principal in Group::\"staff\"",
        "principal == User::\"u\"",
        "context has mfa && context.mfa",
        "context has tenant && context.tenant == \"t\"",
        "context has tenant",
        "context has flags && context.flags has beta && context.flags.beta",
        "context has flags.old && context.flags.old",
        "context has auth && context.auth has acr && context.auth.acr == \"2\"",
        "context has auth && context.auth has amr && context.auth.amr.contains(\"otp\")",
        "context has auth && context.auth has amr && context.auth.amr.containsAny([\"otp\", \"pwd\"])",
        "context.now < datetime(\"1980-01-01\")",
        "context.now.toTime() >= duration(\"0ms\")",
        "resource in Folder::\"closed\"",
        "resource == Doc::\"d\"",
    ]);
    let joined = prop::sample::select(vec!["&&", "||"]);
    (atom.clone(), joined, atom, any::<bool>()).prop_map(|(one, joined, other, is_negated)| match is_negated {
        true => format!("!({one}) {joined} ({other})"),
        false => format!("({one}) {joined} ({other})"),
    })
}

fn policy() -> impl Strategy<Value = String> {
    let principal = prop::sample::select(vec![
        "principal",
        "principal",
        "principal in Role::\"viewer\"",
        "principal == User::\"u\"",
        "principal is User in Group::\"staff\"",
    ]);
    let action = prop::sample::select(vec![
        "action",
        "action == Action::\"view\"",
        "action in [Action::\"read\", Action::\"edit\"]",
    ]);
    let resource = prop::sample::select(vec![
        "resource is Doc",
        "resource is Doc",
        "resource is Doc in Folder::\"closed\"",
    ]);
    let effect = prop::sample::select(vec!["permit", "permit", "forbid"]);
    let clause = prop::option::of((prop::sample::select(vec!["when", "unless"]), condition()));
    (effect, principal, action, resource, clause).prop_map(|(effect, principal, action, resource, clause)| {
        let clause = clause.map_or(String::new(), |(word, condition)| format!(" {word} {{ {condition} }}"));
        format!("{effect} ({principal}, {action}, {resource}){clause};\n")
    })
}

fn who() -> impl Strategy<Value = Who> {
    let amr = prop::option::of(prop::sample::subsequence(vec!["pwd", "otp"], 0..=2));
    (
        prop::sample::select(vec!["u", "v"]),
        prop::option::of(prop::sample::select(vec!["t", "s"])),
        prop::option::of(prop::sample::select(vec!["viewer", "editor", "admin"])),
        prop::option::of(0_i64..4),
        prop::option::of(prop::sample::select(vec!["1", "2"])),
        amr,
    )
        .prop_map(|(subject, tenant, role, level, acr, amr)| Who {
            subject,
            tenant,
            role,
            level,
            acr,
            amr,
        })
}

/// A question of an app about a document.
#[derive(Clone, Debug)]
struct Question {
    action: &'static str,
    id: &'static str,
    /// Owner, level, tenant and folder; `None`: nothing describes the document.
    described: Option<(&'static str, i64, &'static str, &'static str)>,
    open: Option<bool>,
    mfa: Option<bool>,
    millis: i64,
}

fn question() -> impl Strategy<Value = Question> {
    let described = (
        prop::sample::select(vec!["u", "v"]),
        0_i64..5,
        prop::sample::select(vec!["t", "s"]),
        prop::sample::select(vec!["closed", "other"]),
    );
    (
        prop::sample::select(vec!["view", "edit"]),
        prop::sample::select(vec!["d", "e"]),
        prop::option::of(described),
        prop::option::of(any::<bool>()),
        prop::option::of(any::<bool>()),
        prop::sample::select(vec![0, 4_000_000_000_000]),
    )
        .prop_map(|(action, id, described, open, mfa, millis)| Question {
            action,
            id,
            described,
            open,
            mfa,
            millis,
        })
}

fn is_allowed(revision: &Revision, who: &Who, question: &Question) -> bool {
    let portal = portal();
    let identity = who.identity(&portal);
    let principal = revision.principal(&portal, &identity).unwrap();
    let mut resource = json!({"type": "Doc", "id": question.id});
    if let Some((owner, level, tenant, folder)) = question.described {
        let entity = |ty: &str, id: &str| json!({"__entity": {"type": ty, "id": id}});
        let mut attrs = json!({"owner": entity("User", owner), "level": level, "tenant": entity("Tenant", tenant), "folder": entity("Folder", folder)});
        if let Some(open) = question.open {
            attrs["open"] = open.into();
        }
        resource["attrs"] = attrs;
        resource["parents"] = json!([{"type": "Folder", "id": folder}]);
    }
    let resource = NamedEntity::read(resource, "resource").unwrap();
    let context = question.mfa.map(|mfa| json!({"mfa": mfa}).as_object().unwrap().clone());
    let query = Query {
        portal: &portal,
        revision,
        now_millis: question.millis,
        asked: QueryForm::Named(NamedQuery {
            action: question.action,
            resource: &resource,
            principal: None,
            context: context.as_ref(),
            precedence: ContextPrecedence::Gate,
            entities: &[],
        }),
    };
    let caller = Caller::Proven {
        identity: &identity,
        principal: &principal,
    };
    let decision = decide(&query, caller);
    assert!(decision.is_evaluated(), "{:?}", decision.refusal());
    decision.denial().is_none()
}

#[test]
fn no_decision_of_the_engine_contradicts_an_answer() {
    let mut decided = 0;
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 300,
        ..ProptestConfig::default()
    });
    let rules = prop::collection::vec(policy(), 1..6);
    let cases = (rules, who(), prop::collection::vec(question(), 100));
    let decided_in_all = std::cell::RefCell::new(&mut decided);
    let outcome = runner.run(&cases, |(policies, who, questions)| {
        // strict validation refuses some
        let Ok(revision) = try_revision(&policies.concat()) else {
            return Ok(());
        };
        let permissions = who.permissions(&revision);
        for question in questions {
            let allowed = is_allowed(&revision, &who, &question);
            let answer = permissions.resource_types["Doc"][question.action];
            if answer != Permission::Conditional {
                **decided_in_all.borrow_mut() += 1;
                prop_assert_eq!(
                    answer == Permission::Allow,
                    allowed,
                    "{} {:?} {:?}",
                    policies.concat(),
                    who,
                    question
                );
            }
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(decided > 10_000, "only {decided} decisions were compared");
}
