//! The first sight of a token per algorithm, and every later one against the number of tokens in the cache.

use std::cell::Cell;

use cedargate_benches::issuer::{ALGORITHMS, Keys};
use cedargate_benches::tokens::Tokens;

use super::draw::{Curve, grouped, plot, short, table};
use super::measure::{Cost, Work, in_turns};
use crate::Extent;
use crate::report::{Goal, Section, Table};

const SIZES: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
const FIRST_MICROS: f64 = 35.0;
const HIT_MICROS: f64 = 1.0;

/// A cache, and the tokens in it.
struct Remembered {
    tokens: Tokens,
    minted: Vec<String>,
}

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
        // each shard of the cache has its own limit, so a cache of exactly this size would evict some of the tokens
        let tokens = Tokens::with_cache(&file, size * 2 + 64).unwrap();
        let minted: Vec<String> = (0..*size).map(|n| keys.token("EdDSA", &format!("user-{n}"))).collect();
        assert!(
            minted.iter().all(|token| tokens.remember(token).is_some()),
            "a token is refused"
        );
        Remembered { tokens, minted }
    });
    let remembered: Vec<Remembered> = remembered.collect();
    let curves: Vec<Curve> = vec![
        Curve::new("one of them", hits(extent, &remembered, 1)),
        Curve::new("a thousand of them in turn", hits(extent, &remembered, 1_000)),
        Curve::new("all in turn", hits(extent, &remembered, usize::MAX)),
    ];
    Section {
        title: "Tokens".to_owned(),
        text: vec![
            "In process, one thread. First sight is parsing the token and checking signature and claims; a hit is the hash of the whole \
             token, the look-up, and checking time and key again. Making the principal and reading the header are not in it. The gate \
             remembers 10,000 tokens per portal unless `limits.token_cache` says otherwise; a token that left the cache is \
             verified again. Where all tokens are used in turn, tokens and cache entries come from the machine's memory instead of the processor's caches."
                .to_owned(),
        ],
        tables: vec![sights(&first), table("tokens remembered", &curves)],
        plots: vec![plot("growth-tokens", "A token seen before, against tokens remembered", "tokens", &curves)],
        goals: goals(&first, &curves),
        ..Section::default()
    }
}

fn hits(extent: Extent, remembered: &[Remembered], many: usize) -> Vec<Cost> {
    let works = remembered.iter().map(|Remembered { tokens, minted }| {
        let next = Cell::new(0_usize);
        let many = many.min(minted.len());
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
    let hit = curves.first().and_then(|curve| curve.costs.last());
    let hit = hit.map(|cost| goal(format!("a token seen before, of {}", grouped(cost.x)), HIT_MICROS, cost));
    sight.into_iter().chain(hit).collect()
}
