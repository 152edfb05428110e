//! What a decision costs against how many roles the caller has.

use cedargate::bench::{Question, World};
use serde_json::json;

use super::draw::{Curve, plot, table};
use super::measure::{Cost, Work, in_turns};
use super::world;
use crate::Extent;
use crate::report::Section;

/// A token whose claim names more is refused.
const SIZES: [usize; 4] = [1, 10, 100, 256];
const POLICIES: usize = 10_000;

pub fn section(extent: Extent) -> Section {
    let policies = if extent == Extent::Whole { POLICIES } else { 200 };
    let (sizes, world) = (super::sizes(extent, &SIZES, 2), world::world(policies));
    let named = ask(&world, sizes, "GET", "role");
    let unnamed = ask(&world, sizes, "GET", "stranger");
    let conditional = ask(&world, sizes, "POST", "role");
    let decide = |asked: &[(usize, Question)]| -> Vec<Cost> {
        in_turns(
            extent,
            asked
                .iter()
                .map(|(x, question)| Work::new(*x, || world.decide(question)))
                .collect(),
        )
    };
    let principal = named
        .iter()
        .map(|(x, question)| Work::new(*x, || world.principal(question).is_some()));
    let curves: Vec<Curve> = vec![
        ("unconditional, policies name the roles".to_owned(), decide(&named)),
        ("unconditional, no policy names them".to_owned(), decide(&unnamed)),
        (
            "conditional with an ip, policies name the roles".to_owned(),
            decide(&conditional),
        ),
        (
            "once per token and revision: the principal".to_owned(),
            in_turns(extent, principal.collect()),
        ),
    ];
    Section {
        title: "A decision against the caller's roles".to_owned(),
        text: vec![format!(
            "In process, one thread; as in the section on policies, with {} of them. The caller has the role that permits and so many \
             more, each of which some policies name, or none does. The principal is made once per token (or session) and revision. A \
             token with more than 256 roles is refused.",
            super::draw::grouped(policies)
        )],
        tables: vec![table("roles", &curves)],
        plots: vec![plot(
            "growth-roles",
            "A decision against the caller's roles",
            "roles",
            &curves,
        )],
        ..Section::default()
    }
}

fn ask(world: &World, sizes: &[usize], method: &str, role: &str) -> Vec<(usize, Question)> {
    let one = |size: &usize| {
        let mut claims = world::claims();
        let more = (1..*size).map(|n| format!("{role}-{n}"));
        let roles: Vec<String> = std::iter::once("viewer".to_owned()).chain(more).collect();
        claims.insert("roles".to_owned(), json!(roles));
        let question = world.question(&claims, method, "/shop/cart").unwrap();
        assert!(world.decide(&question), "with {size} roles");
        world.make_twins();
        (*size, question)
    };
    sizes.iter().map(one).collect()
}
