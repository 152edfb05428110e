//! What finding the portal and deciding cost against how many portals there are.

use std::cell::Cell;

use cedargate::bench::{Folder, Portals, Question};
use serde_json::{Map, Value, json};

use super::draw::{Curve, plot, table};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::Section;

const SIZES: [usize; 4] = [1, 10, 100, 1_000];
const SCHEMA: &str = "entity Role; entity User in [Role]; entity Path in [Path, Portal]; entity Portal; \
                      action GET, POST appliesTo { principal: User, resource: Path, context: { source_ip?: ipaddr } };";

struct Asked {
    size: usize,
    portals: Portals,
    /// The same question to each portal.
    reads: Vec<Question>,
    writes: Vec<Question>,
}

pub fn section(extent: Extent) -> Section {
    let asked: Vec<Asked> = super::sizes(extent, &SIZES, 2).iter().map(|size| ask(*size)).collect();
    let curves: Vec<Curve> = vec![
        (
            "unconditional, one portal asked".to_owned(),
            one(extent, &asked, |asked| &asked.reads),
        ),
        (
            "conditional with an ip, one portal asked".to_owned(),
            one(extent, &asked, |asked| &asked.writes),
        ),
        (
            "unconditional, all portals in turn".to_owned(),
            all(extent, &asked, |asked| &asked.reads),
        ),
        (
            "conditional with an ip, all portals in turn".to_owned(),
            all(extent, &asked, |asked| &asked.writes),
        ),
    ];
    let goals = curves
        .iter()
        .take(2)
        .filter_map(|(name, costs)| super::flat(name, "portals", costs, 1.05))
        .collect();
    Section {
        title: "A decision against portals".to_owned(),
        text: vec![
            "In process, one thread: the portal is found by host and path, the path becomes action and resource, the portal's own revision \
             decides. Each portal has its own schema and ten policies. Where all portals are asked in turn, each finds the processor's \
             caches filled by the others: that is what the machine's memory costs, not a search."
                .to_owned(),
        ],
        tables: vec![table("portals", &curves)],
        plots: vec![plot("growth-portals", "A decision against portals", "portals", &curves)],
        goals,
        ..Section::default()
    }
}

fn ask(size: usize) -> Asked {
    let folders: Vec<(String, Folder)> = (0..size).map(|n| (format!("p-{n}"), folder(&format!("p-{n}")))).collect();
    let portals = Portals::load(folders.iter().map(|(name, folder)| (name.as_str(), folder))).unwrap();
    let questions = |method: &str| -> Vec<Question> {
        let made = portals.worlds().iter().zip(&folders).map(|(world, (name, _))| {
            let question = world
                .question(&claims(), method, &format!("/portal/{name}/shop/cart"))
                .unwrap();
            assert!(
                world.decide(&question) && portals.decide(&question),
                "{method} in {name} of {size}"
            );
            world.make_twins();
            question
        });
        made.collect()
    };
    let (reads, writes) = (questions("GET"), questions("POST"));
    Asked {
        size,
        portals,
        reads,
        writes,
    }
}

fn one(extent: Extent, asked: &[Asked], of: fn(&Asked) -> &Vec<Question>) -> Vec<Cost> {
    let works = asked.iter().filter_map(|asked| {
        let question = of(asked).get(asked.size / 2)?;
        Some(Work::new(asked.size, || asked.portals.decide(question)))
    });
    in_turns(extent, works.collect())
}

fn all(extent: Extent, asked: &[Asked], of: fn(&Asked) -> &Vec<Question>) -> Vec<Cost> {
    let works = asked.iter().map(|asked| {
        let (next, questions) = (Cell::new(0_usize), of(asked));
        Work::new(asked.size, move || {
            let turn = next.replace(next.get().wrapping_add(1));
            questions
                .get(turn % questions.len())
                .is_some_and(|question| asked.portals.decide(question))
        })
    });
    in_turns(extent, works.collect())
}

pub fn folder(name: &str) -> Folder {
    let (schema, policies) = files(name);
    Folder::of(
        name,
        [
            (format!("schemas/{name}.cedarschema").as_str(), schema),
            (format!("policies/{name}/main.cedar").as_str(), policies.as_str()),
        ],
    )
}

/// Schema and policies of one portal.
pub fn files(name: &str) -> (&'static str, String) {
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
    (SCHEMA, policies)
}

fn claims() -> Map<String, Value> {
    let claims = json!({"sub": "alice", "roles": ["viewer", "buyer"]});
    claims.as_object().unwrap().clone()
}
