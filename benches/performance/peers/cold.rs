//! Tokens that nobody has seen before: every request pays for a signature.

use super::cells::{number, range, ratio, table, times};
use super::http::{Site, Who, asking};
use super::rounds::{CONNECTIONS, Peer, Round, Shape, Spread};
use super::shop;
use crate::load::Until;
use crate::report::Section;

/// `None` where nobody is there to be compared.
pub fn section(site: &Site<'_>, peers: &mut [Peer], (rounds, tokens): (usize, usize)) -> Option<Section> {
    let names = [
        Who::Gate,
        Who::Haproxy,
        Who::Envoy {
            policies: 10,
            token_cache: false,
        },
    ]
    .map(Who::name);
    let mut all: Vec<(&mut Peer, Vec<Round>)> = peers
        .iter_mut()
        .filter(|peer| names.contains(&peer.name) && peer.failed.is_none())
        .map(|peer| (peer, Vec::new()))
        .collect();
    for round in 0..rounds {
        let fresh = (0..tokens).map(|n| site.issuer.token(&["viewer", "buyer"], (round + 1) * 1_000_000 + n));
        let requests: Vec<Vec<u8>> = fresh.map(|token| asking(shop::ALLOWED, Some(&token))).collect();
        for (peer, rounds) in &mut all {
            let usual = std::mem::replace(&mut peer.requests, requests.clone());
            let measured = peer.measure(&peer.load(Shape::Closed(CONNECTIONS), Until::AllOnce));
            peer.requests = usual;
            match measured {
                Ok(measured) => rounds.push(measured),
                Err(error) => eprintln!("  {}: {error}", peer.name),
            }
        }
        eprintln!("  new tokens, round {} of {rounds}", round + 1);
    }
    let gate = all.iter().find(|(peer, _)| peer.name == Who::Gate.name());
    let gate = gate.map(|(_, rounds)| rounds.clone())?;
    let rows = all.iter().filter(|(_, rounds)| !rounds.is_empty()).map(|(peer, rounds)| {
        let of = |what: fn(&Round) -> f64| Spread::of(rounds, what).unwrap_or_default();
        vec![
            peer.name.clone(),
            number(of(|round| round.rate).median),
            range(of(|round| round.rate)),
            ratio(&gate, rounds, |round| round.rate).map_or_else(String::new, times),
            number(of(|round| round.cpu).median),
        ]
    });
    let head = [
        "every token new",
        "requests/s",
        "of all rounds",
        "the gate does times as many",
        "CPU µs/request",
    ];
    Some(Section {
        title: "Tokens never seen before".to_owned(),
        text: vec![format!(
            "{} RS256 tokens per round, each sent once, closed loop over {CONNECTIONS} connections; the same ones for everybody. The gate also signs an assertion for each.",
            number(crate::load::count(tokens))
        )],
        tables: vec![table(head, rows.collect())],
        ..Section::default()
    })
}
