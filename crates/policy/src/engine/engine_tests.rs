//! The decision is Cedar's: random worlds, policies and queries, decided by the engine and by plain Cedar.
//!
//! The engine leaves out policies (index), entities (reach) and context fields (lazily built) and removes scopes
//! (condition-only policies); plain Cedar gets the whole policy set, all entities and the whole context. Decision,
//! determining policies and errors must be equal. `CEDARGATE_TEST_CASES` raises the number of worlds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, LazyLock};

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityUid, PolicyId, PolicySet, Request, RestrictedExpression,
    SlotId,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::context::ReadyContext;
use crate::engine::dependencies::ContextDependencies;
use crate::engine::entities::SuppliedEntities;
use crate::engine::entities::{EntityStore, ResolvedEntity};
use crate::engine::index::ScopeTable;
use crate::engine::{
    ContextSource, Effects, Engine, EntityQuery, ErroredForbids, Evaluation, EvaluationOutcome, PolicyEntry, QueryEntity,
};
use crate::schema::TypeNames;

/// Random worlds per run; each decides several queries in several ways.
const CASES: u32 = 150;
const QUESTIONS: usize = 4;

/// Choices that proptest made; when they run out the simplest alternative is taken, so that shrinking is dropping.
struct Choices<'a>(std::slice::Iter<'a, u16>);

impl Choices<'_> {
    fn below(&mut self, n: usize) -> usize {
        usize::from(*self.0.next().unwrap_or(&0)) % n
    }

    fn of<'s>(&mut self, all: &[&'s str]) -> &'s str {
        all[self.below(all.len())]
    }

    fn half(&mut self) -> bool {
        self.below(2) == 1
    }

    fn user(&mut self) -> String {
        format!("User::\"u{}\"", self.below(5))
    }

    fn group(&mut self) -> String {
        format!("Group::\"g{}\"", self.below(4))
    }

    fn doc(&mut self) -> String {
        format!("Doc::\"d{}\"", self.below(4))
    }

    fn path(&mut self) -> String {
        format!("Path::\"{}\"", self.of(&["/a/b", "/", "/a", "/a/b/c", "/x"]))
    }

    fn literal(&mut self) -> String {
        match self.below(5) {
            0 => self.user(),
            1 => self.group(),
            2 => self.doc(),
            3 => self.path(),
            _ => format!("Action::\"{}\"", self.of(&["view", "edit", "read", "all", "nowhere"])),
        }
    }

    /// An expression that often is an entity.
    fn entity(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.below(6) {
                0 | 1 => "principal".to_owned(),
                2 => "resource".to_owned(),
                3 => "action".to_owned(),
                4 => "context.user".to_owned(),
                _ => self.literal(),
            };
        }
        let inner = |c: &mut Self| c.entity(depth - 1);
        match self.below(12) {
            0 => inner(self),
            1..=3 => {
                let attribute = self.of(&["boss", "team", "owner", "peer", "missing"]);
                format!("({}).{attribute}", inner(self))
            }
            4 => format!("({}).info.manager", inner(self)),
            5 => format!("({}).info.deep.user", inner(self)),
            6 => format!("({}).getTag(\"{}\")", inner(self), self.of(&["k", "list", "gone"])),
            7 => format!("({}).getTag(({}).name)", inner(self), inner(self)),
            8 => format!("(if {} then {} else {})", self.condition(depth - 1), inner(self), inner(self)),
            9 => format!(
                "{{\"Var\": {}, \"in\": {}, \".\": 1}}[\"{}\"]",
                inner(self),
                inner(self),
                self.of(&["Var", "in", "."])
            ),
            10 => self
                .of(&[
                    "context.rec.user",
                    "context.rec.deep.user",
                    "context.gone",
                    "context[\"user\"].boss",
                ])
                .to_owned(),
            _ => format!("{{nested: {{\"has\": {}}}}}.nested[\"has\"]", inner(self)),
        }
    }

    fn number(&mut self, depth: usize) -> String {
        match self.below(6) {
            0 => self.below(4).to_string(),
            1 | 2 => format!("({}).age", self.entity(depth)),
            3 => format!("(({}).age + 9223372036854775807)", self.entity(depth)),
            4 => format!("(context.level * ({}).age)", self.entity(depth)),
            _ => "(-context.level - 9223372036854775807)".to_owned(),
        }
    }

    fn condition(&mut self, depth: usize) -> String {
        let d = depth.saturating_sub(1);
        match self.below(if depth == 0 { 16 } else { 21 }) {
            0 => self.of(&["true", "false"]).to_owned(),
            1 => format!("({}) in ({})", self.entity(depth), self.entity(depth)),
            2 => format!("({}) in [{}, ({})]", self.entity(depth), self.group(), self.entity(d)),
            3 => format!("({}) is {}", self.entity(depth), self.of(&["User", "Group", "Path", "Doc"])),
            4 => format!("({}) is User in ({})", self.entity(depth), self.entity(d)),
            5 => format!(
                "({}) has {}",
                self.entity(depth),
                self.of(&["boss", "info", "age", "name", "missing"])
            ),
            6 => format!(
                "({}) has {}",
                self.entity(depth),
                self.of(&["info.manager", "info.deep.user", "boss.boss.age", "info.deep.gone"])
            ),
            7 => format!("({}).hasTag(\"{}\")", self.entity(depth), self.of(&["k", "list", "gone"])),
            8 => format!("({}) == ({})", self.entity(depth), self.entity(depth)),
            9 => format!("({}).friends.contains({})", self.entity(depth), self.entity(d)),
            10 => format!(
                "({}).getTag(\"list\").containsAny([{}, {}])",
                self.entity(depth),
                self.entity(d),
                self.user()
            ),
            11 => format!(
                "({}).name like \"{}\"",
                self.entity(depth),
                self.of(&["k*", "*", "a\\*b", "in"])
            ),
            12 => format!("{} < {}", self.number(depth), self.number(d)),
            13 => format!("({}).ip.isInRange(ip(\"10.0.0.0/8\"))", self.entity(depth)),
            14 => format!("({}).dec.lessThan(decimal(\"2.5\"))", self.entity(depth)),
            15 => self
                .of(&[
                    "context.flag",
                    "context has gone",
                    "context has rec.user",
                    "context == {flag: true}",
                    "[context, {level: 1}].contains(context)",
                    "context.users.contains(principal)",
                    "context.ip.isLoopback()",
                    "context.rec == {user: User::\"u0\"}",
                    "principal in context.users",
                    "{c: context}.c has level",
                ])
                .to_owned(),
            16 => format!("(({}) && ({}))", self.condition(d), self.condition(d)),
            17 => format!("(({}) || ({}))", self.condition(d), self.condition(d)),
            18 => format!("!({})", self.condition(d)),
            19 => format!(
                "(if {} then {} else {})",
                self.condition(d),
                self.condition(d),
                self.condition(d)
            ),
            _ => format!("({}) in ({}).friends", self.entity(depth), self.entity(d)),
        }
    }

    fn principal_scope(&mut self) -> String {
        match self.below(8) {
            0 | 1 => "principal".to_owned(),
            2 => format!("principal == {}", self.user()),
            3 | 4 => format!("principal in {}", self.group()),
            5 => format!("principal is {}", self.of(&["User", "Doc"])),
            6 => format!("principal is User in {}", self.group()),
            _ => format!("principal in {}", self.user()),
        }
    }

    fn action_scope(&mut self) -> &'static str {
        self.of(&[
            "action",
            "action == Action::\"view\"",
            "action in Action::\"read\"",
            "action in [Action::\"all\"]",
            "action in [Action::\"edit\", Action::\"read\"]",
            "action in []",
            "action == Action::\"nowhere\"",
        ])
    }

    fn resource_scope(&mut self) -> String {
        match self.below(9) {
            0 | 1 => "resource".to_owned(),
            2 => format!("resource == {}", self.doc()),
            3 => format!("resource in {}", self.doc()),
            4 => format!("resource in {}", self.path()),
            5 => format!("resource == {}", self.path()),
            6 => format!("resource is {}", self.of(&["Doc", "Path"])),
            7 => format!("resource is Path in {}", self.path()),
            _ => format!("resource in {}", self.group()),
        }
    }

    fn policy(&mut self) -> String {
        let effect = self.of(&["permit", "permit", "forbid"]);
        self.policy_of(effect)
    }

    fn policy_of(&mut self, effect: &str) -> String {
        let (principal, action, resource) = (self.principal_scope(), self.action_scope(), self.resource_scope());
        let mut text = format!("{effect}({principal}, {action}, {resource})");
        for _ in 0..self.below(3) {
            let (kind, depth) = (self.of(&["when", "when", "unless"]), self.below(4));
            write!(text, " {kind} {{ {} }}", self.condition(depth)).unwrap();
        }
        text + ";\n"
    }

    fn template(&mut self) -> String {
        let principal = self.of(&[
            "principal == ?principal",
            "principal in ?principal",
            "principal is User in ?principal",
        ]);
        let resource = self.of(&["resource == ?resource", "resource in ?resource"]);
        let effect = self.of(&["permit", "forbid"]);
        format!(
            "{effect}({principal}, {}, {resource}) when {{ {} }};\n",
            self.action_scope(),
            self.condition(2)
        )
    }

    fn value(&mut self, depth: usize) -> Value {
        let named = |ty: &str, id: String| json!({"__entity": {"type": ty, "id": id}});
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 | 1 => named("User", format!("u{}", self.below(5))),
            2 => named("Group", format!("g{}", self.below(4))),
            3 => named("Doc", format!("d{}", self.below(4))),
            4 => json!(self.below(4)),
            5 => json!({"manager": self.value(0), "deep": {"user": self.value(0)}}),
            _ => json!([self.value(0), self.value(0)]),
        }
    }

    /// Attributes that are often there and often of the type that conditions expect.
    fn attributes(&mut self) -> Value {
        let mut all = Map::new();
        for name in ["boss", "team", "owner", "peer"] {
            if self.half() {
                all.insert(name.to_owned(), self.value(1));
            }
        }
        let mut put = |name: &str, value: Value| {
            if self.half() {
                all.insert(name.to_owned(), value);
            }
        };
        put("age", json!(3));
        put("name", json!("k"));
        put("ip", json!({"__extn": {"fn": "ip", "arg": "10.1.2.3"}}));
        put("dec", json!({"__extn": {"fn": "decimal", "arg": "2.0"}}));
        if self.half() {
            all.insert("friends".to_owned(), json!([self.value(0), self.value(0)]));
        }
        if self.half() {
            all.insert(
                "info".to_owned(),
                json!({"manager": self.value(0), "deep": {"user": self.value(0)}}),
            );
        }
        Value::Object(all)
    }

    fn entity_json(&mut self, ty: &str, id: &str, parents: Vec<Value>) -> Value {
        let mut entity = json!({"uid": {"type": ty, "id": id}, "attrs": self.attributes(), "parents": parents});
        if self.half() {
            entity["tags"] = json!({"k": self.value(0), "list": [self.value(0)]});
        }
        entity
    }

    fn groups_above(&mut self, from: usize) -> Vec<Value> {
        let chosen = (from..4).filter(|_| self.half());
        chosen.map(|g| json!({"type": "Group", "id": format!("g{g}")})).collect()
    }

    fn context(&mut self) -> Map<String, Value> {
        let mut all = Map::new();
        for (name, value) in [
            ("flag", json!(true)),
            ("level", json!(2)),
            ("user", self.value(0)),
            ("users", json!([self.value(0), self.value(0)])),
            ("rec", json!({"user": self.value(0), "deep": {"user": self.value(0)}})),
            ("ip", json!({"__extn": {"fn": "ip", "arg": "127.0.0.1"}})),
        ] {
            if self.below(4) != 3 {
                all.insert(name.to_owned(), value);
            }
        }
        all
    }
}

/// Everything that a portal holds, and the same for plain Cedar.
struct TestPortal {
    policies: PolicySet,
    stored: Vec<Entity>,
    supplied: Vec<Entity>,
}

fn world(choices: &mut Choices<'_>) -> TestPortal {
    let count = 1 + choices.below(10);
    let mut text: String = (0..count).map(|_| choices.policy()).collect();
    let template = choices.template();
    text.push_str(&template);
    let mut policies: PolicySet = text.parse().unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    let id: PolicyId = policies.templates().next().unwrap().id().clone();
    for n in 0..choices.below(3) {
        let principal = if choices.half() { choices.user() } else { choices.group() };
        let slots = [
            (SlotId::principal(), uid(&principal)),
            (SlotId::resource(), uid(&choices.doc())),
        ];
        policies
            .link(id.clone(), PolicyId::new(format!("link \"{n}\"\n")), slots.into())
            .unwrap();
    }
    let (mut stored, mut supplied) = (actions(), Vec::new());
    // stored entities have stored ancestors only: no supplied entity can change them
    for group in 0..4 {
        let parents = choices.groups_above(group + 1);
        if choices.below(4) != 3 || !parents.is_empty() {
            stored.push(choices.entity_json("Group", &format!("g{group}"), parents));
        }
    }
    for user in 0..5 {
        let parents = choices.groups_above(0);
        let json = choices.entity_json("User", &format!("u{user}"), parents);
        match choices.below(4) {
            0 | 1 => stored.push(json),
            2 => supplied.push(json),
            _ => {}
        }
    }
    let mut docs_supplied = false;
    for doc in (0..4).rev() {
        let mut parents = choices.groups_above(2);
        parents.extend(
            (doc + 1..4)
                .filter(|_| choices.half())
                .map(|d| json!({"type": "Doc", "id": format!("d{d}")})),
        );
        let json = choices.entity_json("Doc", &format!("d{doc}"), parents);
        docs_supplied |= choices.half();
        if docs_supplied { &mut supplied } else { &mut stored }.push(json);
    }
    let parse =
        |list: Vec<Value>| -> Vec<Entity> { list.into_iter().map(|e| Entity::from_json_value(e, None).unwrap()).collect() };
    TestPortal {
        policies,
        stored: parse(stored),
        supplied: parse(supplied),
    }
}

fn actions() -> Vec<Value> {
    let action = |id: &str, parents: &[&str]| {
        let parents: Vec<Value> = parents.iter().map(|p| json!({"type": "Action", "id": p})).collect();
        json!({"uid": {"type": "Action", "id": id}, "attrs": {}, "parents": parents})
    };
    vec![
        action("view", &["read"]),
        action("edit", &["all"]),
        action("read", &["all"]),
        action("all", &[]),
    ]
}

fn uid(text: &str) -> EntityUid {
    text.parse().unwrap()
}

/// One query to a world, and all entities as plain Cedar gets them.
struct EngineCase {
    principal: QueryEntity,
    action: EntityUid,
    resource: QueryEntity,
    context: Map<String, Value>,
    supplied: SuppliedEntities,
    all: Entities,
}

struct ContextFacts<'a> {
    world: &'a TestPortal,
    engine: &'a Engine,
}

/// A random query whose principal and resource are known by name, by attributes and parents, or (a path) by the id
/// alone.
fn asked(choices: &mut Choices<'_>, facts: &ContextFacts<'_>) -> EngineCase {
    let mut all: BTreeMap<EntityUid, Entity> = BTreeMap::new();
    for entity in facts.world.supplied.iter().chain(&facts.world.stored) {
        all.insert(entity.uid(), entity.clone());
    }
    let who = uid(&choices.user());
    let described = choices.half().then(|| {
        let (id, parents) = (who.id().unescaped().to_owned(), choices.groups_above(0));
        Entity::from_json_value(choices.entity_json("User", &id, parents), None).unwrap()
    });
    if let Some(entity) = &described {
        all.insert(who.clone(), entity.clone());
    }
    let what = if choices.half() {
        uid(&choices.path())
    } else {
        uid(&choices.doc())
    };
    let above = above_path(&what);
    if !above.is_empty() {
        all.insert(
            what.clone(),
            Entity::new_no_attrs(what.clone(), above.iter().cloned().collect()),
        );
    }
    let all = Entities::from_entities(all.into_values(), None).unwrap();
    let closed = |of: &EntityUid| -> Vec<EntityUid> { all.ancestors(of).map(|a| a.cloned().collect()).unwrap_or_default() };
    let key = |table: &ScopeTable, of: &EntityUid| table.key(of, &closed(of));
    let index = facts.engine.index();
    let principal_key = key(&index.principals, &who);
    let principal = match described {
        Some(entity) => QueryEntity::resolved(ResolvedEntity::new(&entity).below(closed(&who)), principal_key),
        None => QueryEntity::stored(who, principal_key),
    };
    let resource_key = key(&index.resources, &what);
    let resource = if above.is_empty() {
        QueryEntity::stored(what, resource_key)
    } else {
        QueryEntity::resolved(ResolvedEntity::without_attributes(what, above), resource_key)
    };
    let supplied = facts.world.supplied.iter().map(|e| {
        let above = closed(&e.uid());
        (e.uid(), ResolvedEntity::new(e).below(above))
    });
    let supplied = supplied.collect();
    EngineCase {
        principal,
        action: uid(&format!("Action::\"{}\"", choices.of(&["view", "edit", "read", "nowhere"]))),
        resource,
        context: choices.context(),
        supplied,
        all,
    }
}

fn above_path(uid: &EntityUid) -> Vec<EntityUid> {
    let id = uid.id().unescaped();
    if uid.type_name().to_string() != "Path" {
        return Vec::new();
    }
    let parents =
        std::iter::successors(id.rsplit_once('/'), |(p, _)| p.rsplit_once('/')).map(|(p, _)| if p.is_empty() { "/" } else { p });
    let parents = parents.filter(|p| *p != id).map(|p| format!("Path::\"{p}\""));
    parents
        .chain(["Portal::\"p\"".to_owned()])
        .map(|p| p.parse().unwrap())
        .collect()
}

/// As the proxy builds it: the fields that conditions read, and no others.
struct LazyContext<'a>(&'a Map<String, Value>);

impl ContextSource for LazyContext<'_> {
    fn context(&self, reads: &ContextDependencies) -> Result<Context, String> {
        let read: Map<_, _> = self
            .0
            .iter()
            .filter(|(name, _)| reads.includes(name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        Context::from_json_value(Value::Object(read), None).map_err(|e| e.to_string())
    }

    fn names_entities(&self) -> bool {
        true
    }
}

fn full_context(fields: &Map<String, Value>) -> Context {
    Context::from_json_value(Value::Object(fields.clone()), None).unwrap()
}

/// Decision, determining policies, errors: as sets.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Verdict {
    outcome: EvaluationOutcome,
    policies: BTreeSet<String>,
    errors: BTreeSet<(String, String)>,
}

impl From<Evaluation> for Verdict {
    fn from(answer: Evaluation) -> Self {
        Self {
            outcome: answer.outcome,
            policies: answer.policies.iter().map(|p| p.id.to_string()).collect(),
            errors: answer
                .errors
                .iter()
                .map(|e| (e.policy.to_string(), e.message.clone()))
                .collect(),
        }
    }
}

/// The outcome of plain Cedar, in the engine's terms; the rule that a failed forbid denies is the only addition.
fn by_cedar(policies: &PolicySet, asked: &EngineCase, rule: ErroredForbids) -> Verdict {
    let uids = (asked.principal.uid.clone(), asked.action.clone(), asked.resource.uid.clone());
    let request = Request::new(uids.0, uids.1, uids.2, full_context(&asked.context), None).unwrap();
    let response = Authorizer::new().is_authorized(&request, policies, &asked.all);
    let diagnostics = response.diagnostics();
    let determining: BTreeSet<String> = diagnostics.reason().map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
    let mut errored_forbid = false;
    let mut errors = BTreeSet::new();
    for error in diagnostics.errors() {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(inner) = error;
        errored_forbid |= policies.policy(inner.policy_id()).unwrap().effect() == Effect::Forbid;
        errors.insert((AsRef::<str>::as_ref(inner.policy_id()).to_owned(), inner.to_string()));
    }
    let outcome = match (response.decision(), determining.is_empty()) {
        (Decision::Deny, false) => EvaluationOutcome::Forbidden,
        _ if errored_forbid && rule == ErroredForbids::Deny => EvaluationOutcome::EvaluationError,
        (Decision::Allow, _) => EvaluationOutcome::Allow,
        (Decision::Deny, true) => EvaluationOutcome::NotPermitted,
    };
    Verdict {
        outcome,
        policies: determining,
        errors,
    }
}

fn entries(policies: &PolicySet) -> Vec<Arc<PolicyEntry>> {
    policies
        .policies()
        .map(|p| Arc::new(PolicyEntry::new(p, "p.cedar:1".to_owned()).unwrap()))
        .collect()
}

static ACTION_GROUPS: LazyLock<Vec<(EntityUid, Vec<EntityUid>)>> = LazyLock::new(|| {
    let groups = |all: &[&str]| all.iter().map(|g| uid(&format!("Action::\"{g}\""))).collect();
    vec![
        (uid("Action::\"view\""), groups(&["read", "all"])),
        (uid("Action::\"edit\""), groups(&["all"])),
        (uid("Action::\"read\""), groups(&["all"])),
    ]
});

fn engine(entries: Vec<Arc<PolicyEntry>>, world: &TestPortal, rule: ErroredForbids) -> Engine {
    let store = EntityStore::new(
        Entities::from_entities(world.stored.clone(), None).unwrap(),
        &TypeNames::default(),
    );
    let actions = ACTION_GROUPS.iter().map(|(a, groups)| (a, groups.as_slice()));
    Engine::new(entries, actions, Arc::new(store), rule)
}

fn put(engine: &Engine, asked: &EngineCase, context: &dyn ContextSource, effects: Effects) -> Verdict {
    let (principal, resource) = (&asked.principal, &asked.resource);
    let question = EntityQuery {
        principal,
        action: &asked.action,
        resource,
        context,
        supplied: &asked.supplied,
        effects,
    };
    engine.decide(&question).into()
}

fn decided(engine: &Engine, asked: &EngineCase) -> Verdict {
    put(engine, asked, &ReadyContext(full_context(&asked.context)), Effects::Both)
}

/// Runs a property over random choices; a failure prints the world's policies.
fn for_all(property: impl Fn(&mut Choices<'_>)) {
    let cases = std::env::var("CEDARGATE_TEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(CASES);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let choices = proptest::collection::vec(any::<u16>(), 100..1500);
    TestRunner::new(config)
        .run(&choices, |made| {
            property(&mut Choices(made.iter()));
            Ok(())
        })
        .unwrap();
}

#[test]
fn engine_and_cedar_agree_before_and_after_twins_and_on_every_ask() {
    for_all(|choices| {
        let world = world(choices);
        for rule in [ErroredForbids::Skip, ErroredForbids::Deny] {
            let (sender, new_slices) = sync_channel(64);
            let made = |entries, queue| engine(entries, &world, rule).with_preparation_queue(Some(queue));
            let engine = made(entries(&world.policies), sender);
            for _ in 0..QUESTIONS {
                let asked = asked(
                    choices,
                    &ContextFacts {
                        world: &world,
                        engine: &engine,
                    },
                );
                let expected = by_cedar(&world.policies, &asked, rule);
                let context = &asked.context;
                let note = || {
                    format!(
                        "{:?} {} {:?} {context:?}\n{}",
                        asked.principal.uid, asked.action, asked.resource.uid, world.policies
                    )
                };
                assert_eq!(decided(&engine, &asked), expected, "originals: {}", note());
                assert_eq!(decided(&engine, &asked), expected, "asked again: {}", note());
                let lazy = LazyContext(context);
                assert_eq!(
                    put(&engine, &asked, &lazy, Effects::Both),
                    expected,
                    "lazy context: {}",
                    note()
                );
                for match_set in new_slices.try_iter() {
                    match_set.upgrade().unwrap().make_condition_only();
                }
                assert_eq!(decided(&engine, &asked), expected, "condition_only: {}", note());
                assert_eq!(
                    put(&engine, &asked, &lazy, Effects::Both),
                    expected,
                    "condition_only, lazy context: {}",
                    note()
                );
                // the same policies after a reload, at another place: their condition-only forms are taken over
                let moved = engine.policies().iter().map(|p| p.at("moved.cedar:1".to_owned())).collect();
                let (sender, waiting) = sync_channel(64);
                let reloaded = made(moved, sender);
                assert_eq!(decided(&reloaded, &asked), expected, "condition_only taken over: {}", note());
                assert_eq!(
                    waiting.try_iter().count(),
                    0,
                    "no condition_only has to be made again: {}",
                    note()
                );
            }
        }
    });
}

#[test]
fn the_order_of_policies_changes_nothing() {
    for_all(|choices| {
        let world = world(choices);
        let mut turned = entries(&world.policies);
        turned.sort_by(|a, b| b.info.id.cmp(&a.info.id));
        let one = engine(entries(&world.policies), &world, ErroredForbids::Deny);
        let other = engine(turned.clone(), &world, ErroredForbids::Deny);
        let mut again = choices.0.clone();
        let question = asked(
            choices,
            &ContextFacts {
                world: &world,
                engine: &one,
            },
        );
        // keys are numbers of one index: the same query is made again for the other index
        let same = asked(
            &mut Choices(std::mem::take(&mut again)),
            &ContextFacts {
                world: &world,
                engine: &other,
            },
        );
        assert_eq!(decided(&one, &question), decided(&other, &same), "{}", world.policies);
    });
}

#[test]
fn one_more_forbid_never_allows_and_an_errored_forbid_denies() {
    for_all(|choices| {
        let world = world(choices);
        for rule in [ErroredForbids::Skip, ErroredForbids::Deny] {
            let fewer = engine(entries(&world.policies), &world, rule);
            let forbid = choices.policy_of("forbid");
            let mut set = world.policies.clone();
            set.add(cedar_policy::Policy::parse(Some(PolicyId::new("more")), &forbid).unwrap())
                .unwrap();
            let more = engine(entries(&set), &world, rule);
            let again = choices.0.clone();
            let question = asked(
                choices,
                &ContextFacts {
                    world: &world,
                    engine: &fewer,
                },
            );
            let same = asked(
                &mut Choices(again),
                &ContextFacts {
                    world: &world,
                    engine: &more,
                },
            );
            let (before, after) = (decided(&fewer, &question), decided(&more, &same));
            assert!(
                before.outcome == EvaluationOutcome::Allow || after.outcome != EvaluationOutcome::Allow,
                "{forbid} allows: {before:?} {after:?}\n{}",
                world.policies
            );
            if rule == ErroredForbids::Deny && after.errors.iter().any(|(id, _)| id == "more") {
                assert!(
                    matches!(
                        after.outcome,
                        EvaluationOutcome::EvaluationError | EvaluationOutcome::Forbidden
                    ),
                    "{forbid}: {after:?}"
                );
            }
        }
    });
}

#[test]
fn evaluating_only_forbids_gives_the_forbids_of_the_full_evaluation() {
    for_all(|choices| {
        let world = world(choices);
        let engine = engine(entries(&world.policies), &world, ErroredForbids::Deny);
        let asked = asked(
            choices,
            &ContextFacts {
                world: &world,
                engine: &engine,
            },
        );
        let mut forbids = PolicySet::new();
        for entry in entries(&world.policies).iter().filter(|e| e.info.effect == Effect::Forbid) {
            forbids.add(entry.policy().clone()).unwrap();
        }
        let expected = by_cedar(&forbids, &asked, ErroredForbids::Deny);
        let context = ReadyContext(full_context(&asked.context));
        assert_eq!(
            put(&engine, &asked, &context, Effects::Forbids),
            expected,
            "{}",
            world.policies
        );
        let both = decided(&engine, &asked);
        assert_eq!(
            both.outcome == EvaluationOutcome::Forbidden,
            expected.outcome == EvaluationOutcome::Forbidden,
            "{}",
            world.policies
        );
    });
}

/// Conditions with long chains of look-ups: each must reach the entity at the end of its chain.
#[test]
fn look_ups_reach_as_far_as_conditions_nest() {
    let named = |ty: &str, id: &str| json!({"__entity": {"type": ty, "id": id}});
    let user = |id: &str, attrs: Value, tags: Value, parents: Value| json!({"uid": {"type": "User", "id": id}, "attrs": attrs, "tags": tags, "parents": parents});
    let group = |id: &str, parents: Value| json!({"uid": {"type": "Group", "id": id}, "attrs": {"lead": named("User", "c")}, "parents": parents});
    let stored = vec![
        user(
            "a",
            json!({"boss": named("User", "b"), "info": {"in": {"who": [named("User", "b"), named("User", "c")]}}, "key": "k"}),
            json!({"k": {"next": named("User", "b")}}),
            json!([]),
        ),
        user(
            "b",
            json!({"boss": named("User", "c"), "team": named("Group", "g"), "key": "t"}),
            json!({"t": [named("User", "c")]}),
            json!([]),
        ),
        user(
            "c",
            json!({"age": 7, "name": "chief", "boss": named("User", "c"), "team": named("Group", "top")}),
            json!({}),
            json!([{"type": "Group", "id": "g"}]),
        ),
        group("g", json!([{"type": "Group", "id": "top"}])),
        group("top", json!([])),
    ];
    let parse = |list: Vec<Value>| list.into_iter().map(|e| Entity::from_json_value(e, None).unwrap()).collect();
    for condition in [
        "principal.boss.boss.age == 7",
        "principal has boss.boss.boss.age",
        "principal.boss.boss.name like \"ch*\"",
        "principal.boss.boss in principal.boss.team",
        "principal.boss.boss in Group::\"top\"",
        "principal.boss.team in principal.boss.boss.team",
        "principal.getTag(principal.key).next.boss.age == 7",
        "principal.getTag(\"k\").next.getTag(principal.boss.key).contains(principal.boss.boss)",
        "principal.info[\"in\"].who.contains(principal.boss)",
        "{\"in\": principal.boss}[\"in\"].team.lead.age == 7",
        "(if principal.boss.boss is User then principal.boss else principal).boss.boss.boss.age == 7",
        "context.who.boss.boss.age == 7",
        "context.set.contains(principal.boss) && context.nest.a.b.boss.team.lead.boss.age == 7",
        "context has who.boss.boss.age",
        "User::\"a\".boss.team.lead.age == 7",
        "[User::\"a\", User::\"c\"].contains(principal) && User::\"c\" in Group::\"top\"",
        "principal.boss.boss is User in principal.boss.team",
        "principal.boss.boss in [Group::\"no\", principal.boss.team]",
        "action in Action::\"all\" && resource.boss.boss.age == 7",
    ] {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        let policies: PolicySet = text.parse().unwrap();
        let mut entities = parse_actions();
        let more: Vec<Entity> = parse(stored.clone());
        entities.extend(more);
        let world = TestPortal {
            policies,
            stored: entities,
            supplied: Vec::new(),
        };
        let (sender, match_sets) = sync_channel(8);
        let engine = engine(entries(&world.policies), &world, ErroredForbids::Deny).with_preparation_queue(Some(sender));
        let key = |table: &ScopeTable| table.key(&uid("User::\"a\""), []);
        let context =
            json!({"who": named("User", "a"), "set": [named("User", "b")], "nest": {"a": {"b": named("User", "a")}}, "other": 1});
        let Value::Object(context) = context else { panic!() };
        let asked = EngineCase {
            principal: QueryEntity::stored(uid("User::\"a\""), key(&engine.index().principals)),
            action: uid("Action::\"view\""),
            resource: QueryEntity::stored(uid("User::\"a\""), key(&engine.index().resources)),
            context,
            supplied: SuppliedEntities::default(),
            all: Entities::empty(),
        };
        let lazy = LazyContext(&asked.context);
        assert_eq!(
            put(&engine, &asked, &lazy, Effects::Both).outcome,
            EvaluationOutcome::Allow,
            "{condition}: {:?}",
            put(&engine, &asked, &lazy, Effects::Both)
        );
        match_sets.try_iter().for_each(|s| s.upgrade().unwrap().make_condition_only());
        let condition_only = put(&engine, &asked, &lazy, Effects::Both);
        assert_eq!(
            condition_only.outcome,
            EvaluationOutcome::Allow,
            "condition_only: {condition}: {condition_only:?}"
        );
    }
}

fn parse_actions() -> Vec<Entity> {
    actions()
        .into_iter()
        .map(|e| Entity::from_json_value(e, None).unwrap())
        .collect()
}

/// The generator must produce what the property is about: allowed, forbidden and failing queries.
#[test]
fn random_worlds_are_not_all_alike() {
    let seen = std::cell::RefCell::new(BTreeMap::<String, usize>::new());
    for_all(|choices| {
        let world = world(choices);
        let engine = engine(entries(&world.policies), &world, ErroredForbids::Skip);
        let asked = asked(
            choices,
            &ContextFacts {
                world: &world,
                engine: &engine,
            },
        );
        let verdict = by_cedar(&world.policies, &asked, ErroredForbids::Deny);
        let mut seen = seen.borrow_mut();
        *seen.entry(format!("{:?}", verdict.outcome)).or_default() += 1;
        *seen.entry(format!("errors: {}", !verdict.errors.is_empty())).or_default() += 1;
    });
    let seen = seen.into_inner();
    for kind in [
        "Allow",
        "NotPermitted",
        "Forbidden",
        "EvaluationError",
        "errors: true",
        "errors: false",
    ] {
        assert!(seen.get(kind).is_some_and(|n| *n >= 3), "{kind} hardly occurs: {seen:?}");
    }
}

/// A value that Cedar cannot build denies instead of being left out.
#[test]
fn a_context_that_cannot_be_built_denies() {
    struct Broken;
    impl ContextSource for Broken {
        fn context(&self, _: &ContextDependencies) -> Result<Context, String> {
            Context::from_pairs([("ip".to_owned(), RestrictedExpression::new_ip("nonsense"))]).map_err(|e| e.to_string())
        }

        fn names_entities(&self) -> bool {
            true
        }
    }
    let policies: PolicySet = "permit(principal, action, resource) when { context has ip || true };"
        .parse()
        .unwrap();
    let world = TestPortal {
        policies,
        stored: parse_actions(),
        supplied: Vec::new(),
    };
    let engine = engine(entries(&world.policies), &world, ErroredForbids::Skip);
    let asked = asked(
        &mut Choices([].iter()),
        &ContextFacts {
            world: &world,
            engine: &engine,
        },
    );
    assert_eq!(
        put(&engine, &asked, &Broken, Effects::Both).outcome,
        EvaluationOutcome::EvaluationError
    );
}
