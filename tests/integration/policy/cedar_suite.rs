//! Cedar's own handwritten integration tests and example use cases, through the running `/authorize`.
//!
//! Each file becomes a portal of one gate. Expected are the file's own verdicts and, beside them, what plain Cedar
//! says. The data is found by `CEDARGATE_TEST_DATA` (its folder `cedar`); without it the tests say that they skipped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, EntityUid, PolicyId, PolicySet, Request, Schema, SlotId,
};
use serde_json::{Value, json};

use crate::support::{Gate, Setup};

/// Requests in the handwritten tests, so that a moved folder cannot pass by holding nothing.
const HANDWRITTEN_REQUESTS: usize = 74;
const EXAMPLE_REQUESTS_MIN: usize = 35;
const EXAMPLES_LOADED_MIN: usize = 7;

/// One policy tree and the requests that belong to it.
struct Case {
    slug: String,
    policies: String,
    schema: String,
    entities: String,
    links: Option<String>,
    should_validate: bool,
    requests: Vec<Asked>,
}

struct Asked {
    name: String,
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    context: Value,
    allowed: bool,
    /// Determining and erring policies, where the file names them.
    because: Option<(BTreeSet<String>, BTreeSet<String>)>,
}

fn data() -> Option<PathBuf> {
    let found = std::env::var_os("CEDARGATE_TEST_DATA").map(|root| Path::new(&root).join("cedar"));
    if found.is_none() {
        eprintln!("SKIPPED: CEDARGATE_TEST_DATA is not set; Cedar's own tests were not run");
    }
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn parsed(path: &Path) -> Value {
    serde_json::from_str(&text(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files with this extension below a folder, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn slug(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap().with_extension("");
    relative.to_str().unwrap().replace(['/', '_'], "-").to_lowercase()
}

fn uid(value: &Value) -> EntityUid {
    match value {
        Value::String(text) => text.parse().unwrap(),
        other => EntityUid::from_json(other.clone()).unwrap(),
    }
}

fn handwritten(data: &Path) -> Vec<Case> {
    let cases = files(&data.join("tests"), "json").into_iter().map(|path| {
        let test = parsed(&path);
        let file = |member: &str| text(&data.join(test[member].as_str().unwrap()));
        let names = |list: &Value| -> BTreeSet<String> {
            list.as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_str().unwrap().to_owned())
                .collect()
        };
        let requests = test["requests"].as_array().unwrap().iter().map(|r| Asked {
            name: r["description"].as_str().unwrap().to_owned(),
            principal: uid(&r["principal"]),
            action: uid(&r["action"]),
            resource: uid(&r["resource"]),
            context: r["context"].clone(),
            allowed: r["decision"] == "allow",
            because: Some((names(&r["reason"]), names(&r["errors"]))),
        });
        Case {
            slug: slug(data, &path),
            policies: file("policies"),
            schema: file("schema"),
            entities: file("entities"),
            links: None,
            should_validate: test["shouldValidate"].as_bool().unwrap(),
            requests: requests.collect(),
        }
    });
    cases.collect()
}

fn examples(data: &Path) -> Vec<Case> {
    let root = data.join("examples");
    let policies = files(&root, "cedar");
    let cases = policies.iter().map(|path| {
        let folder = path.parent().unwrap();
        let mut requests = Vec::new();
        for (verdict, allowed) in [("ALLOW", true), ("DENY", false)] {
            for path in files(&folder.join(verdict), "json") {
                let r = parsed(&path);
                requests.push(Asked {
                    name: format!("{verdict}/{}", path.file_name().unwrap().to_str().unwrap()),
                    principal: uid(&r["principal"]),
                    action: uid(&r["action"]),
                    resource: uid(&r["resource"]),
                    context: r.get("context").cloned().unwrap_or_else(|| json!({})),
                    allowed,
                    because: None,
                });
            }
        }
        let linked = folder.join("linked");
        Case {
            slug: slug(&root, folder),
            policies: text(path),
            schema: text(&folder.join("policies.cedarschema")),
            entities: text(&folder.join("entities.json")),
            links: linked.exists().then(|| text(&linked)),
            // one example's entities do not conform to its own schema; Cedar's CLI does not check that, the gate does
            should_validate: conforms(folder),
            requests,
        }
    });
    cases.collect()
}

fn conforms(folder: &Path) -> bool {
    let (schema, _) = Schema::from_cedarschema_str(&text(&folder.join("policies.cedarschema"))).unwrap();
    Entities::from_json_str(&text(&folder.join("entities.json")), Some(&schema)).is_ok()
}

fn start(cases: &[Case]) -> Gate {
    let mut setup = Setup::empty();
    for case in cases {
        let folder = format!("policies/{}", case.slug);
        setup = setup
            .file(&format!("schemas/{}.cedarschema", case.slug), &case.schema)
            .file(&format!("{folder}/policies.cedar"), &case.policies)
            .file(&format!("{folder}/entities.json"), &case.entities);
        if let Some(links) = &case.links {
            setup = setup.file(&format!("{folder}/links.json"), links);
        }
    }
    setup.start()
}

/// Cedar's number of a policy (`policy3`) ↔ the id that the gate shows (`@id`, or `policies#3`).
fn gate_ids(policies: &PolicySet) -> BTreeMap<String, String> {
    let given = |id: &PolicyId, annotation: Option<&str>| {
        let cedar: &str = id.as_ref();
        let shown = match annotation {
            Some(own) => own.to_owned(),
            None => cedar
                .strip_prefix("policy")
                .map_or(cedar.to_owned(), |n| format!("policies#{n}")),
        };
        (cedar.to_owned(), shown)
    };
    policies
        .policies()
        .map(|p| given(p.id(), p.annotation("id").filter(|_| p.is_static())))
        .collect()
}

fn link(policies: &mut PolicySet, links: &str) {
    for link in serde_json::from_str::<Vec<Value>>(links).unwrap() {
        let slots = link["args"].as_object().unwrap().iter().map(|(slot, value)| {
            let slot = if slot == "?principal" {
                SlotId::principal()
            } else {
                SlotId::resource()
            };
            (slot, uid(value))
        });
        let template = link["template_id"].as_str().unwrap();
        let named = policies
            .templates()
            .find(|t| t.annotation("id") == Some(template))
            .map(|t| t.id().clone());
        let id = PolicyId::new(link["link_id"].as_str().unwrap());
        policies.link(named.unwrap(), id, slots.collect::<HashMap<_, _>>()).unwrap();
    }
}

/// Decision of plain Cedar, with the gate's policy ids.
struct Plain {
    allowed: bool,
    policies: BTreeSet<String>,
    errors: BTreeSet<(String, String)>,
    forbid_failed: bool,
    /// True if the schema allows the request.
    conforms: bool,
}

fn plain(case: &Case, asked: &Asked) -> Plain {
    let mut set: PolicySet = case.policies.parse().unwrap();
    if let Some(links) = &case.links {
        link(&mut set, links);
    }
    let ids = gate_ids(&set);
    let schema = Schema::from_cedarschema_str(&case.schema).unwrap().0;
    let entities = Entities::from_json_str(&case.entities, Some(&schema)).unwrap();
    let typed = Context::from_json_value(asked.context.clone(), Some((&schema, &asked.action)));
    let context = || match &typed {
        Ok(context) => context.clone(),
        Err(_) => Context::from_json_value(asked.context.clone(), None).unwrap(),
    };
    let request = |schema: Option<&Schema>| {
        Request::new(
            asked.principal.clone(),
            asked.action.clone(),
            asked.resource.clone(),
            context(),
            schema,
        )
    };
    let response = Authorizer::new().is_authorized(&request(None).unwrap(), &set, &entities);
    let mut plain = Plain {
        allowed: response.decision() == Decision::Allow,
        policies: response
            .diagnostics()
            .reason()
            .map(|id| ids[AsRef::<str>::as_ref(id)].clone())
            .collect(),
        errors: BTreeSet::new(),
        forbid_failed: false,
        conforms: typed.is_ok() && request(Some(&schema)).is_ok(),
    };
    for AuthorizationError::PolicyEvaluationError(error) in response.diagnostics().errors() {
        let cedar: &str = error.policy_id().as_ref();
        plain.forbid_failed |= set.policy(error.policy_id()).unwrap().effect() == Effect::Forbid;
        // Cedar's message quotes the id
        plain.errors.insert((
            ids[cedar].clone(),
            error.to_string().replace(&format!("`{cedar}`"), &format!("`{}`", ids[cedar])),
        ));
    }
    plain
}

fn named(uid: &EntityUid) -> Value {
    json!({"type": uid.type_name().to_string(), "id": uid.id().unescaped()})
}

/// Asks the gate; checks the answer against the file and against plain Cedar.
fn check(gate: &Gate, case: &Case, asked: &Asked) {
    let place = format!("{} `{}`", case.slug, asked.name);
    let question = json!({
        "portal": case.slug,
        "principal": named(&asked.principal),
        "action": asked.action.to_string(),
        "resource": named(&asked.resource),
        "context": asked.context,
    });
    let answer = gate.ask("/authorize", &question);
    let plain = plain(case, asked);
    if !plain.conforms {
        // Cedar's CLI evaluates requests that the schema does not allow; the gate refuses them
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "request_invalid"),
            "{place}: {}",
            answer.text()
        );
        assert!(!asked.allowed, "{place}: what may not be asked was to be allowed");
        return;
    }
    assert_eq!(answer.status, 200, "{place}: {}", answer.text());
    let answer = answer.json();
    let ids = |list: &Value, member: &str| -> BTreeSet<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|p| p[member].as_str().unwrap().to_owned())
            .collect()
    };
    let (policies, erring) = (ids(&answer["policies"], "id"), ids(&answer["errors"], "policy"));
    let errors: BTreeSet<(String, String)> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                e["policy"].as_str().unwrap().to_owned(),
                e["message"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(policies, plain.policies, "{place}: {answer}");
    assert_eq!(errors, plain.errors, "{place}: {answer}");
    assert_eq!(plain.allowed, asked.allowed, "{place}: plain Cedar and the file disagree");
    if plain.forbid_failed {
        // plain Cedar skips a forbid that fails to evaluate; the gate denies
        assert_eq!(answer["decision"], "deny", "{place}: {answer}");
        assert!(
            answer["reason"] == "evaluation_error" || answer["reason"] == "forbidden",
            "{place}: {answer}"
        );
        return;
    }
    let expected = if asked.allowed { "allow" } else { "deny" };
    assert_eq!(answer["decision"], expected, "{place}: {answer}");
    let reason = match (asked.allowed, policies.is_empty()) {
        (true, _) => "permitted",
        (false, true) => "not_permitted",
        (false, false) => "forbidden",
    };
    assert_eq!(answer["reason"], reason, "{place}: {answer}");
    if let Some((reasons, errors)) = &asked.because {
        let ids = gate_ids(&case.policies.parse().unwrap());
        let shown = |names: &BTreeSet<String>| -> BTreeSet<String> { names.iter().map(|n| ids[n].clone()).collect() };
        assert_eq!((policies, erring), (shown(reasons), shown(errors)), "{place}: {answer}");
    }
}

fn run(cases: &[Case]) -> usize {
    let gate = start(cases);
    for case in cases {
        let loaded = gate.revision(&case.slug).is_some();
        assert_eq!(loaded, case.should_validate, "{}: {}", case.slug, gate.status());
        for asked in &case.requests {
            if loaded {
                check(&gate, case, asked);
                continue;
            }
            let question = json!({"portal": case.slug, "principal": named(&asked.principal), "action": asked.action.to_string(), "resource": named(&asked.resource), "context": asked.context});
            assert_eq!(gate.authorize(&question)["reason"], "no_policy_loaded", "{}", case.slug);
        }
    }
    gate.stop();
    cases.iter().map(|c| c.requests.len()).sum()
}

#[test]
fn handwritten_tests_of_cedar_hold() {
    let Some(data) = data() else { return };
    assert_eq!(run(&handwritten(&data)), HANDWRITTEN_REQUESTS);
}

#[test]
fn example_use_cases_of_cedar_hold() {
    let Some(data) = data() else { return };
    let cases = examples(&data);
    let requests = run(&cases);
    let loaded = cases.iter().filter(|c| c.should_validate).count();
    assert!(
        loaded >= EXAMPLES_LOADED_MIN,
        "only {loaded} of {} examples load",
        cases.len()
    );
    assert!(requests >= EXAMPLE_REQUESTS_MIN, "only {requests} requests were found");
}

/// The handwritten tests hold no policy set that fails validation; this one does.
#[test]
fn a_set_that_does_not_validate_is_rejected_and_denies() {
    let asked = Asked {
        name: "everything".to_owned(),
        principal: uid(&json!("User::\"alice\"")),
        action: uid(&json!("Action::\"view\"")),
        resource: uid(&json!("Photo::\"p\"")),
        context: json!({}),
        allowed: false,
        because: None,
    };
    let case = Case {
        slug: "broken".to_owned(),
        policies: "permit(principal, action, resource) when { principal.nmae == \"alice\" };".to_owned(),
        schema: "entity User { name: String }; entity Photo; action view appliesTo { principal: User, resource: Photo };"
            .to_owned(),
        entities: "[]".to_owned(),
        links: None,
        should_validate: false,
        requests: vec![asked],
    };
    assert_eq!(run(&[case]), 1);
}
