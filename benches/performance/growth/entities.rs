//! The cost of a decision, and of a load, against the number of entities of the portal.

use std::fmt::Write;
use std::time::Instant;

use cedargate_benches::portal::{CallerRequest, LoadedPortal, PolicyFile, PolicyFiles};
use cedargate_benches::shop::NamedRequest;
use serde_json::json;

use super::draw::{Curve, grouped, plot, short, table};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::{Section, Table};

const SIZES: [usize; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// One of so many entities is a group or a role; the rest are their members.
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
const REQUESTS: [NamedRequest; 2] = [
    NamedRequest::new("by role and group", "GET", "/orders/order-7"),
    NamedRequest::new("and by the order's attributes", "PUT", "/orders/order-7"),
];

struct Loaded {
    entities: usize,
    bytes: usize,
    seconds: f64,
    portal: LoadedPortal,
    requests: Vec<CallerRequest>,
}

pub fn section(extent: Extent) -> Section {
    let loaded: Vec<Loaded> = super::sizes(extent, &SIZES, 3).iter().map(|size| load(*size)).collect();
    let curves: Vec<Curve> = REQUESTS
        .iter()
        .enumerate()
        .map(|(n, case)| Curve::new(case.name, costs(extent, &loaded, n)))
        .collect();
    let goals = curves
        .iter()
        .filter_map(|curve| super::flat(curve, "entities", 1.10))
        .collect();
    Section {
        title: "A decision against entities".to_owned(),
        text: vec![
            "In process, one thread; as in the section on policies. All entities come from `entities.json`: orders with two attributes in \
             groups, groups below one group, and a user in a role below the role that the policies name. Caller and order of the request are the same \
             at every size. A folder may be 256 MiB large, which bounds the number of entities of a portal."
                .to_owned(),
            "Loading parses JSON, checks it against the schema, computes the ancestors of each entity, and indexes; it happens beside the \
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
        let request = loaded.requests.get(nth)?;
        Some(Work::new(loaded.entities, move || loaded.portal.evaluate(request)))
    });
    in_turns(extent, works.collect())
}

fn load(entities: usize) -> Loaded {
    let files = files(entities);
    let bytes = files.iter().map(|file| file.text.len()).max().unwrap_or_default();
    let files = PolicyFiles::new(&files);
    let begun = Instant::now();
    let portal = LoadedPortal::load(&files).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let claims = json!({"sub": "alice", "roles": ["night-shift"]});
    let requests = REQUESTS.map(|case| {
        let request = portal.request(claims.as_object().unwrap(), case.method, case.path).unwrap();
        assert!(portal.decide(&request), "{} is not allowed at {entities} entities", case.name);
        request
    });
    portal.make_condition_only();
    Loaded {
        entities,
        bytes,
        seconds,
        portal,
        requests: requests.into(),
    }
}

/// The files of a portal with `entities` entities.
pub fn files(entities: usize) -> [PolicyFile; 4] {
    [
        PolicyFile::new("schemas/bench.cedarschema", SCHEMA),
        PolicyFile::new("policies/bench/portal.yaml", ROUTES),
        PolicyFile::new("policies/bench/main.cedar", POLICIES),
        PolicyFile::new("policies/bench/entities.json", file(entities)),
    ]
}

/// `entities.json` with the four entities of the requests, then orders, and a group for every nine of them.
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
