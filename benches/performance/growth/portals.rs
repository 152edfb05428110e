//! The cost of finding the portal and deciding against the number of portals.

use std::cell::Cell;

use cedargate_benches::portal::{CallerRequest, LoadedPortals, PolicyFile, PolicyFiles};
use serde_json::{Map, Value, json};

use super::draw::{Curve, plot, table};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::Section;

const SIZES: [usize; 4] = [1, 10, 100, 1_000];
const SCHEMA: &str = "entity Role; entity User in [Role]; entity Path in [Path, Portal]; entity Portal; \
                      action GET, POST appliesTo { principal: User, resource: Path, context: { source_ip?: ipaddr } };";

struct Sized {
    size: usize,
    portals: LoadedPortals,
    /// The same request to each portal.
    reads: Vec<CallerRequest>,
    writes: Vec<CallerRequest>,
}

pub fn section(extent: Extent) -> Section {
    let sized: Vec<Sized> = super::sizes(extent, &SIZES, 2).iter().map(|size| prepare(*size)).collect();
    let curves: Vec<Curve> = vec![
        Curve::new("unconditional, one of them", one(extent, &sized, reads)),
        Curve::new("conditional with an ip, one of them", one(extent, &sized, writes)),
        Curve::new("unconditional, all in turn", all(extent, &sized, reads)),
        Curve::new("conditional with an ip, all in turn", all(extent, &sized, writes)),
    ];
    let goals = curves
        .iter()
        .take(2)
        .filter_map(|curve| super::flat(curve, "portals", 1.05))
        .collect();
    Section {
        title: "A decision against portals".to_owned(),
        text: vec![
            "In process, one thread: the portal is found by host and path, method and path become action and resource, the portal's own revision \
             decides. Each portal has its own schema and ten policies. Where requests go to all portals in turn, each portal finds the processor's \
             caches filled with the data of the other portals: the difference is the cost of memory, not of a search."
                .to_owned(),
        ],
        tables: vec![table("portals", &curves)],
        plots: vec![plot("growth-portals", "A decision against portals", "portals", &curves)],
        goals,
        ..Section::default()
    }
}

fn reads(sized: &Sized) -> &Vec<CallerRequest> {
    &sized.reads
}

fn writes(sized: &Sized) -> &Vec<CallerRequest> {
    &sized.writes
}

fn prepare(size: usize) -> Sized {
    let trees: Vec<PolicyFiles> = (0..size).map(|n| PolicyFiles::of(&slug(n), &files(&slug(n)))).collect();
    let portals = LoadedPortals::load(&trees).unwrap();
    let requests = |method: &str| -> Vec<CallerRequest> {
        let made = portals.portals().iter().enumerate().map(|(n, portal)| {
            let path = format!("/portal/{}/shop/cart", slug(n));
            let request = portal.request(&claims(), method, &path).unwrap();
            assert!(portals.decide(&request), "{method} {path} of {size}");
            portal.make_condition_only();
            request
        });
        made.collect()
    };
    let reads = requests("GET");
    let writes = requests("POST");
    Sized {
        size,
        portals,
        reads,
        writes,
    }
}

fn one(extent: Extent, all: &[Sized], of: fn(&Sized) -> &Vec<CallerRequest>) -> Vec<Cost> {
    let works = all.iter().filter_map(|sized| {
        let request = of(sized).get(sized.size / 2)?;
        Some(Work::new(sized.size, || sized.portals.decide(request)))
    });
    in_turns(extent, works.collect())
}

fn all(extent: Extent, all: &[Sized], of: fn(&Sized) -> &Vec<CallerRequest>) -> Vec<Cost> {
    let works = all.iter().map(|sized| {
        let next = Cell::new(0_usize);
        let requests = of(sized);
        Work::new(sized.size, move || {
            let turn = next.replace(next.get().wrapping_add(1));
            let request = requests.get(turn % requests.len());
            request.is_some_and(|request| sized.portals.decide(request))
        })
    });
    in_turns(extent, works.collect())
}

/// The slug of the portal of this number.
pub fn slug(number: usize) -> String {
    format!("p-{number}")
}

/// Schema and policies of one portal.
pub fn files(slug: &str) -> [PolicyFile; 2] {
    [
        PolicyFile::new(format!("schemas/{slug}.cedarschema"), SCHEMA),
        PolicyFile::new(policies_file(slug), policies(slug)),
    ]
}

/// The name of the file with a portal's policies.
pub fn policies_file(slug: &str) -> String {
    format!("policies/{slug}/main.cedar")
}

/// The policies of one portal.
pub fn policies(name: &str) -> String {
    let shop = format!("/portal/{name}/shop");
    let mut policies = format!(
        "@id(\"read\") permit (principal in Role::\"viewer\", action == Action::\"GET\", resource in Path::\"{shop}\");\n\
         @id(\"write\") permit (principal in Role::\"viewer\", action == Action::\"POST\", resource in Path::\"{shop}\")\n\
         when {{ context has source_ip && context.source_ip.isInRange(ip(\"10.0.0.0/8\")) }};\n"
    );
    for n in 0..8 {
        let other = format!(
            "@id(\"other-{n}\") permit (principal in Role::\"role-{n}\", action, resource in Path::\"/portal/{name}/team-{n}\");\n"
        );
        policies.push_str(&other);
    }
    policies
}

fn claims() -> Map<String, Value> {
    let claims = json!({"sub": "alice", "roles": ["viewer", "buyer"]});
    claims.as_object().unwrap().clone()
}
