//! What a decision costs against how many entities the portal knows, and what they cost to load.

use std::fmt::Write;
use std::time::Instant;

use cedargate::bench::{Folder, Question, World};
use serde_json::json;

use super::draw::{Curve, grouped, plot, short, table};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::{Section, Table};

const SIZES: [usize; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// One of so many entities is a group or a role, the rest are what is in them.
const GROUP_EVERY: usize = 10;

const SCHEMA: &str = r#"
entity Role in [Role];
entity User in [Role] = { level?: Long };
entity Group in [Group];
entity Order in [Group] = { owner: String, total: Long };
entity Path in [Path, Portal];
entity Portal;
action GET appliesTo { principal: User, resource: Path };
action view, change appliesTo { principal: User, resource: Order };
"#;
const ROUTES: &str = r#"
routes:
  - { route: "GET /orders/{order}", action: view, resource: { type: Order, id: "{order}" } }
  - { route: "PUT /orders/{order}", action: change, resource: { type: Order, id: "{order}" } }
"#;
const POLICIES: &str = r#"
@id("shop") permit (principal in Role::"viewer", action == Action::"GET", resource in Path::"/shop");
@id("view") permit (principal in Role::"staff", action == Action::"view", resource in Group::"all");
@id("change") permit (principal in Role::"staff", action == Action::"change", resource in Group::"all")
when { resource.total < 1000 };
@id("not-others") forbid (principal, action == Action::"change", resource in Group::"all")
when { resource.owner == "nobody" };
"#;
/// A path that the viewer may read, here and in sets of policies.
pub const PERMITTED: &str = "/shop/cart";
/// Name, method, path.
const QUESTIONS: [(&str, &str, &str); 2] = [
    ("by role and group", "GET", "/orders/order-7"),
    ("and by the order's attributes", "PUT", "/orders/order-7"),
];

struct Loaded {
    entities: usize,
    bytes: usize,
    seconds: f64,
    world: World,
    questions: Vec<Question>,
}

pub fn section(extent: Extent) -> Section {
    let loaded: Vec<Loaded> = super::sizes(extent, &SIZES, 3).iter().map(|size| load(*size)).collect();
    let curves: Vec<Curve> = QUESTIONS
        .iter()
        .enumerate()
        .map(|(n, (name, ..))| ((*name).to_owned(), costs(extent, &loaded, n)))
        .collect();
    let goals = curves
        .iter()
        .filter_map(|(name, costs)| super::flat(name, "entities", costs, 1.10))
        .collect();
    Section {
        title: "A decision against entities".to_owned(),
        text: vec![
            "In process, one thread; as in the section on policies. All entities come from `entities.json`: orders with two attributes in \
             groups, groups in a chain under one, and users in a role under the role that is asked for. The caller and the order that are asked about are the same \
             at every size. One file may make its folder 256 MiB large, which bounds how many entities a portal can have."
                .to_owned(),
            "Loading is reading JSON, checking it against the schema, working out what is above what, and indexing; it happens beside the \
             traffic, at start and when a file of the portal changes."
                .to_owned(),
        ],
        tables: vec![table("entities", &curves), loading(&loaded)],
        plots: vec![plot("growth-entities", "A decision against entities", "entities", &curves)],
        goals,
        ..Section::default()
    }
}

fn costs(extent: Extent, loaded: &[Loaded], nth: usize) -> Vec<Cost> {
    let works = loaded.iter().filter_map(|loaded| {
        let question = loaded.questions.get(nth)?;
        Some(Work::new(loaded.entities, move || loaded.world.decide(question)))
    });
    in_turns(extent, works.collect())
}

fn load(entities: usize) -> Loaded {
    let files = files(entities);
    let bytes = files.iter().map(|(_, text)| text.len()).max().unwrap_or_default();
    let folder = Folder::new(files.iter().map(|(name, text)| (*name, text.as_str())));
    let begun = Instant::now();
    let world = World::load(&folder).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let claims = json!({"sub": "alice", "roles": ["night-shift"]});
    let questions = QUESTIONS.map(|(name, method, path)| {
        let question = world.question(claims.as_object().unwrap(), method, path).unwrap();
        assert!(world.decide(&question), "{name} is not allowed at {entities} entities");
        question
    });
    world.make_twins();
    Loaded {
        entities,
        bytes,
        seconds,
        world,
        questions: questions.into(),
    }
}

/// A portal that has so many entities.
pub fn files(entities: usize) -> [(&'static str, String); 4] {
    [
        ("schemas/bench.cedarschema", SCHEMA.to_owned()),
        ("policies/bench/portal.yaml", ROUTES.to_owned()),
        ("policies/bench/main.cedar", POLICIES.to_owned()),
        ("policies/bench/entities.json", file(entities)),
    ]
}

/// What the questions need, then orders and a group for each few of them, to the number.
fn file(entities: usize) -> String {
    let mut text = String::from(
        r#"[{"uid":{"type":"Role","id":"night-shift"},"attrs":{},"parents":[{"type":"Role","id":"staff"}]},
{"uid":{"type":"User","id":"alice"},"attrs":{"level":3},"parents":[{"type":"Role","id":"night-shift"}]},
{"uid":{"type":"Group","id":"g-0"},"attrs":{},"parents":[{"type":"Group","id":"all"}]},
{"uid":{"type":"Order","id":"order-7"},"attrs":{"owner":"bob","total":12},"parents":[{"type":"Group","id":"g-0"}]}"#,
    );
    for n in 4..entities {
        let group = n / GROUP_EVERY;
        let (id, attrs, parent) = match n % GROUP_EVERY {
            0 => (
                json!({"type": "Group", "id": format!("g-{group}")}),
                json!({}),
                "all".to_owned(),
            ),
            _ => (
                json!({"type": "Order", "id": format!("o-{n}")}),
                json!({"owner": format!("user-{n}"), "total": n}),
                format!("g-{group}"),
            ),
        };
        write!(
            text,
            ",\n{}",
            json!({"uid": id, "attrs": attrs, "parents": [{"type": "Group", "id": parent}]})
        )
        .unwrap();
    }
    text + "]"
}

fn loading(loaded: &[Loaded]) -> Table {
    let row = |one: &Loaded| {
        let each = one.seconds * 1e6 / super::measure::number(one.entities);
        vec![
            grouped(one.entities),
            grouped(one.bytes / 1024),
            short(one.seconds * 1e3),
            short(each),
        ]
    };
    Table {
        head: ["entities", "file, KiB", "loading, ms", "each, µs"].map(str::to_owned).into(),
        rows: loaded.iter().map(row).collect(),
    }
}
