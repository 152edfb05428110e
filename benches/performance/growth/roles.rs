//! The cost of a decision against the number of roles of the caller.

use cedargate_benches::portal::{CallerRequest, LoadedPortal};
use cedargate_benches::shop;
use serde_json::json;

use super::draw::{Curve, plot, table};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::Section;

/// Roles of the caller; the gate refuses a token with more than 256.
const SIZES: [usize; 4] = [1, 10, 100, 256];
const POLICIES: usize = 10_000;

/// A request of a caller with this number of roles.
struct Sized {
    roles: usize,
    request: CallerRequest,
}

pub fn section(extent: Extent) -> Section {
    let policies = if extent == Extent::Whole { POLICIES } else { 200 };
    let sizes = super::sizes(extent, &SIZES, 2);
    let portal = shop::load(policies);
    let named = requests(&portal, sizes, "GET", "role");
    let unnamed = requests(&portal, sizes, "GET", "stranger");
    let conditional = requests(&portal, sizes, "POST", "role");
    let evaluate = |all: &[Sized]| -> Vec<Cost> {
        let works = all.iter().map(|one| Work::new(one.roles, || portal.evaluate(&one.request)));
        in_turns(extent, works.collect())
    };
    let principal = named
        .iter()
        .map(|one| Work::new(one.roles, || portal.principal(&one.request).is_some()));
    let curves: Vec<Curve> = vec![
        Curve::new("unconditional, policies name the roles", evaluate(&named)),
        Curve::new("unconditional, no policy names them", evaluate(&unnamed)),
        Curve::new("conditional with an ip, policies name the roles", evaluate(&conditional)),
        Curve::new(
            "once per token and revision: the principal",
            in_turns(extent, principal.collect()),
        ),
    ];
    Section {
        title: "A decision against the caller's roles".to_owned(),
        text: vec![format!(
            "In process, one thread; as in the section on policies, with {} of them. The caller has the role that permits and so many \
             more; some policies name each of them, or no policy does. The principal is made once per token (or session) and revision. A \
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

fn requests(portal: &LoadedPortal, sizes: &[usize], method: &str, role: &str) -> Vec<Sized> {
    let one = |size: &usize| {
        let mut claims = shop::claims();
        let more = (1..*size).map(|n| format!("{role}-{n}"));
        let roles: Vec<String> = std::iter::once("viewer".to_owned()).chain(more).collect();
        claims.insert("roles".to_owned(), json!(roles));
        let request = portal.request(&claims, method, "/shop/cart").unwrap();
        assert!(portal.decide(&request), "with {size} roles");
        portal.make_condition_only();
        Sized { roles: *size, request }
    };
    sizes.iter().map(one).collect()
}
