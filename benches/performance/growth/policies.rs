//! The cost of an evaluation against the number of policies that cannot apply.

use cedargate_benches::portal::{CallerRequest, LoadedPortal};
use cedargate_benches::shop::{self, NamedRequest};

use super::draw::{Curve, plot, short, table};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::{Goal, Section};

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// With more policies plain Cedar takes a tenth of a second and more.
const PLAIN_MAX: usize = 10_000;
const DENIED: NamedRequest = NamedRequest::new("nothing permits", "DELETE", "/shop/cart");
/// Microseconds.
const LIMITS: [(&str, f64); 3] = [("unconditional", 0.3), ("conditional with ip", 5.0), ("forbids", 5.0)];

/// A portal with a number of policies, and requests to it.
struct Sized {
    policies: usize,
    portal: LoadedPortal,
    requests: Vec<Prepared>,
}

struct Prepared {
    name: &'static str,
    request: CallerRequest,
    is_allowed: bool,
}

pub fn section(extent: Extent) -> Section {
    let sizes = super::sizes(extent, &SIZES, 2);
    let all: Vec<Sized> = sizes.iter().map(|policies| prepare(*policies)).collect();
    let names: Vec<&str> = all
        .iter()
        .take(1)
        .flat_map(|sized| sized.requests.iter().map(|one| one.name))
        .collect();
    let mut curves: Vec<Curve> = names
        .iter()
        .enumerate()
        .map(|(n, name)| Curve::new(*name, gate(extent, &all, n)))
        .collect();
    let goals = goals(&curves);
    for (n, name) in names.iter().enumerate().take(2) {
        curves.push(Curve::new(format!("plain Cedar, {name}"), plain(extent, &all, n)));
    }
    Section {
        title: "A decision against policies".to_owned(),
        text: vec![
            "In process, one thread. *Forbids* is a permit and two forbids, whose conditions read an attribute of the caller and an ip. Caller, action and resource \
             are known: the measured work is reading facts, building the part of the context that conditions read, and evaluating policies. HTTP, the token and the record are \
             not in it. Every set has the same ten policies that the requests meet; the rest name roles and subtrees that no request touches, a tenth are forbids and \
             a quarter have conditions. Plain Cedar is `is_authorized` over the whole set with entities and request prepared."
                .to_owned(),
        ],
        tables: vec![table("policies", &curves)],
        plots: vec![plot("growth-policies", "A decision against policies", "policies", &curves)],
        goals,
        ..Section::default()
    }
}

fn prepare(policies: usize) -> Sized {
    let portal = shop::load(policies);
    let allowed = shop::REQUESTS.into_iter().take(3).map(|case| (case, true));
    let requests = allowed.chain([(DENIED, false)]).map(|(case, is_allowed)| {
        let request = portal.request(&shop::claims(), case.method, case.path).unwrap();
        assert_eq!(portal.decide(&request), is_allowed, "{} at {policies} policies", case.name);
        Prepared {
            name: case.name,
            request,
            is_allowed,
        }
    });
    let requests = requests.collect();
    portal.make_condition_only();
    Sized {
        policies,
        portal,
        requests,
    }
}

fn gate(extent: Extent, all: &[Sized], nth: usize) -> Vec<Cost> {
    let works = all.iter().filter_map(|sized| {
        let prepared = sized.requests.get(nth)?;
        let run = move || sized.portal.evaluate(&prepared.request) == prepared.is_allowed;
        Some(Work::new(sized.policies, run))
    });
    in_turns(extent, works.collect())
}

fn plain(extent: Extent, all: &[Sized], nth: usize) -> Vec<Cost> {
    let few = all.iter().filter(|sized| sized.policies <= PLAIN_MAX);
    let works = few.filter_map(|sized| {
        let prepared = sized.requests.get(nth)?;
        let reference = sized.portal.reference(&prepared.request).unwrap();
        Some(Work::new(sized.policies, move || reference.allows() == prepared.is_allowed))
    });
    in_turns(extent, works.collect())
}

fn goals(curves: &[Curve]) -> Vec<Goal> {
    let mut goals: Vec<Goal> = curves
        .iter()
        .filter_map(|curve| super::flat(curve, "policies", 1.10))
        .collect();
    for (name, limit) in LIMITS {
        let Some(curve) = curves.iter().find(|curve| curve.name == name) else {
            continue;
        };
        let worst = curve.costs.iter().map(Cost::median).fold(0.0, f64::max);
        goals.push(Goal {
            number: 5,
            what: format!("a decision, token known: {name}"),
            wanted: format!("≤ {limit} µs"),
            measured: format!("{} µs at the slowest size", short(worst)),
            met: worst <= limit,
            bound: (worst > limit).then(|| {
                "Cedar's evaluator over the conditions that remain, and the values made for them; the index has decided the scopes before"
                    .to_owned()
            }),
        });
    }
    goals
}
