//! A token's first sight per algorithm, and every later one against how many are remembered.

use std::cell::Cell;

use cedargate::bench::Tokens;

use super::draw::{Curve, grouped, plot, short, table};
use super::issuer::{ALGORITHMS, Keys};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::{Goal, Section, Table};

const SIZES: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
const FIRST_MICROS: f64 = 35.0;
const HIT_MICROS: f64 = 1.0;

pub fn section(extent: Extent) -> Section {
    let keys = Keys::generate();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, keys.jwks().to_string()).unwrap();
    let tokens = Tokens::new(&file).unwrap();
    let minted: Vec<String> = ALGORITHMS.iter().map(|algorithm| keys.token(algorithm, "alice")).collect();
    let works = minted
        .iter()
        .enumerate()
        .map(|(n, token)| Work::new(n, || tokens.verify(token).is_some()));
    let first = in_turns(extent, works.collect());
    let remembered = super::sizes(extent, &SIZES, 3).iter().map(|size| {
        // a cache of many parts is never quite full when it says that it is
        let tokens = Tokens::with_room(&file, size * 2 + 64).unwrap();
        let minted: Vec<String> = (0..*size).map(|n| keys.token("EdDSA", &format!("user-{n}"))).collect();
        assert!(
            minted.iter().all(|token| tokens.remember(token).is_some()),
            "a token is refused"
        );
        (tokens, minted)
    });
    let remembered: Vec<(Tokens, Vec<String>)> = remembered.collect();
    let curves: Vec<Curve> = vec![
        ("one of them".to_owned(), hits(extent, &remembered, 1)),
        ("a thousand of them in turn".to_owned(), hits(extent, &remembered, 1_000)),
        ("all in turn".to_owned(), hits(extent, &remembered, usize::MAX)),
    ];
    Section {
        title: "Tokens".to_owned(),
        text: vec![
            "In process, one thread. First sight is taking the token apart, the signature and the claims; a hit is the hash of the whole \
             token, the look-up, and checking time and key again. Making the principal and reading the header are not in it. The gate \
             remembers 10,000 tokens per portal and revision unless `limits.token_cache` says otherwise; past it, tokens are seen for \
             the first time again. Where all are asked for in turn, tokens and entries come out of the machine's memory."
                .to_owned(),
        ],
        tables: vec![sights(&first), table("tokens remembered", &curves)],
        plots: vec![plot("growth-tokens", "A token seen before, against tokens remembered", "tokens", &curves)],
        goals: goals(&first, &curves),
        ..Section::default()
    }
}

fn hits(extent: Extent, remembered: &[(Tokens, Vec<String>)], many: usize) -> Vec<Cost> {
    let works = remembered.iter().map(|(tokens, minted)| {
        let (next, many) = (Cell::new(0_usize), many.min(minted.len()));
        // spread over all of them
        let step = minted.len() / many;
        Work::new(minted.len(), move || {
            let turn = next.replace(next.get().wrapping_add(1)) % many * step;
            minted.get(turn).is_some_and(|token| tokens.seen_before(token))
        })
    });
    in_turns(extent, works.collect())
}

fn sights(first: &[Cost]) -> Table {
    let row = |(algorithm, cost): (&&str, &Cost)| {
        vec![
            (*algorithm).to_owned(),
            short(cost.median()),
            format!("{:.0} %", cost.spread() * 50.0),
        ]
    };
    Table {
        head: ["first sight of", "µs", "±"].map(str::to_owned).into(),
        rows: ALGORITHMS.iter().zip(first).map(row).collect(),
    }
}

fn goals(first: &[Cost], curves: &[Curve]) -> Vec<Goal> {
    let goal = |what: String, limit: f64, cost: &Cost| Goal {
        number: 7,
        what,
        wanted: format!("≤ {limit} µs"),
        measured: format!("{} µs", short(cost.median())),
        met: cost.median() <= limit,
        bound: None,
    };
    let sight = first
        .first()
        .map(|cost| goal("first sight of an RS256 token".to_owned(), FIRST_MICROS, cost));
    let hit = curves.first().and_then(|(_, costs)| costs.last());
    let hit = hit.map(|cost| goal(format!("a token seen before, of {}", grouped(cost.x)), HIT_MICROS, cost));
    sight.into_iter().chain(hit).collect()
}
