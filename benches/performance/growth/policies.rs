//! What a decision costs against how many policies there are that cannot apply.

use cedargate::bench::{Plain, Question, World};

use super::draw::{Curve, plot, short, table};
use super::measure::{Cost, Work, in_turns};
use super::world;
use crate::Extent;
use crate::report::{Goal, Section};

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Past it plain Cedar takes a tenth of a second and more.
const PLAIN_MAX: usize = 10_000;
/// Name, method, path.
const DENIED: (&str, &str, &str) = ("nothing permits", "DELETE", "/shop/cart");
/// Microseconds.
const LIMITS: [(&str, f64); 3] = [("unconditional", 0.3), ("conditional with ip", 5.0), ("forbids", 5.0)];

struct Asked<'a> {
    policies: usize,
    world: &'a World,
    questions: Vec<(Question, bool)>,
}

pub fn section(extent: Extent) -> Section {
    let sizes = super::sizes(extent, &SIZES, 2);
    let worlds: Vec<(usize, World)> = sizes.iter().map(|size| (*size, world::world(*size))).collect();
    let asked: Vec<Asked<'_>> = worlds.iter().map(|(policies, world)| ask(*policies, world)).collect();
    let mut curves: Vec<Curve> = questions()
        .enumerate()
        .map(|(n, ((name, ..), _))| (name.to_owned(), gate(extent, &asked, n)))
        .collect();
    let goals = goals(&curves);
    for (n, ((name, ..), _)) in questions().enumerate().take(2) {
        curves.push((format!("plain Cedar, {name}"), plain(extent, &asked, n)));
    }
    Section {
        title: "A decision against policies".to_owned(),
        text: vec![
            "In process, one thread. *Forbids* is a permit and two forbids, whose conditions read an attribute of the caller and an ip. Caller and target are known as they are when a request gets here: what is measured is reading \
             facts, building as much of the context as is read, and deciding. HTTP, the token and the record are not in it. Every set \
             has the same ten policies that the questions meet; the others name roles and subtrees of others, a tenth are forbids and \
             a quarter have conditions. Plain Cedar is `is_authorized` over the whole set with entities and request prepared."
                .to_owned(),
        ],
        tables: vec![table("policies", &curves)],
        plots: vec![plot("growth-policies", "A decision against policies", "policies", &curves)],
        goals,
        ..Section::default()
    }
}

/// With whether they are allowed.
fn questions() -> impl Iterator<Item = ((&'static str, &'static str, &'static str), bool)> {
    let allowed = world::QUESTIONS.into_iter().take(3);
    allowed.map(|question| (question, true)).chain([(DENIED, false)])
}

fn ask(policies: usize, world: &World) -> Asked<'_> {
    let questions = questions().map(|((name, method, path), allowed)| {
        let question = world.question(&world::claims(), method, path).unwrap();
        // the first time makes the slice, which then waits for its twins
        assert_eq!(world.decide(&question), allowed, "{name} at {policies} policies");
        (question, allowed)
    });
    let questions = questions.collect();
    world.make_twins();
    Asked {
        policies,
        world,
        questions,
    }
}

fn gate(extent: Extent, asked: &[Asked<'_>], nth: usize) -> Vec<Cost> {
    let works = asked.iter().filter_map(|asked| {
        let (question, allowed) = asked.questions.get(nth)?;
        Some(Work::new(asked.policies, move || asked.world.decide(question) == *allowed))
    });
    in_turns(extent, works.collect())
}

fn plain(extent: Extent, asked: &[Asked<'_>], nth: usize) -> Vec<Cost> {
    let prepared: Vec<(usize, Plain, bool)> = asked
        .iter()
        .filter(|asked| asked.policies <= PLAIN_MAX)
        .filter_map(|asked| {
            let (question, allowed) = asked.questions.get(nth)?;
            Some((asked.policies, asked.world.plain(question).unwrap(), *allowed))
        })
        .collect();
    let works = prepared
        .iter()
        .map(|(size, plain, allowed)| Work::new(*size, move || plain.decide() == *allowed));
    in_turns(extent, works.collect())
}

fn goals(curves: &[Curve]) -> Vec<Goal> {
    let mut goals: Vec<Goal> = curves
        .iter()
        .filter_map(|(name, costs)| super::flat(name, "policies", costs, 1.10))
        .collect();
    for (name, limit) in LIMITS {
        let Some(costs) = curves.iter().find(|(n, _)| n == name).map(|(_, costs)| costs) else {
            continue;
        };
        let worst = costs.iter().map(Cost::median).fold(0.0, f64::max);
        goals.push(Goal {
            number: 5,
            what: format!("a decision, token known: {name}"),
            wanted: format!("≤ {limit} µs"),
            measured: format!("{} µs at the slowest size", short(worst)),
            met: worst <= limit,
            bound: (worst > limit).then(|| {
                "Cedar's evaluator over the conditions that are left, and the values made for them; scopes are decided before"
                    .to_owned()
            }),
        });
    }
    goals
}
