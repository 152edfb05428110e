//! Tokens that no peer has seen before: every request costs the check of a signature.

use super::cells::{number, range, ratio, table, times};
use super::http::{ProxyKind, Site, get};
use super::rounds::{CONNECTIONS, Peer, Round, Shape, Spread};
use super::servers::EnvoyOptions;
use super::shop;
use crate::load::Until;
use crate::report::Section;

/// `None` if the gate was not measured.
pub fn section(site: &Site<'_>, peers: &mut [Peer], rounds: usize, tokens: usize) -> Option<Section> {
    let names = [
        ProxyKind::Gate,
        ProxyKind::Haproxy,
        ProxyKind::Envoy(EnvoyOptions {
            policies: 10,
            token_cache: false,
        }),
    ]
    .map(ProxyKind::name);
    let mut all: Vec<(&mut Peer, Vec<Round>)> = peers
        .iter_mut()
        .filter(|peer| names.contains(&peer.name) && peer.failed.is_none())
        .map(|peer| (peer, Vec::new()))
        .collect();
    for round in 0..rounds {
        let fresh = (0..tokens).map(|n| site.issuer.token(&["viewer", "buyer"], (round + 1) * 1_000_000 + n));
        let requests: Vec<Vec<u8>> = fresh.map(|token| get(shop::ALLOWED, Some(&token))).collect();
        for (peer, rounds) in &mut all {
            let before = std::mem::replace(&mut peer.requests, requests.clone());
            let measured = peer.measure(&peer.load(Shape::Closed(CONNECTIONS), Until::AllOnce));
            peer.requests = before;
            match measured {
                Ok(measured) => rounds.push(measured),
                Err(error) => eprintln!("  {}: {error}", peer.name),
            }
        }
        eprintln!("  new tokens, round {} of {rounds}", round + 1);
    }
    let gate = all.iter().find(|(peer, _)| peer.name == ProxyKind::Gate.name());
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
        "gate / peer",
        "CPU µs/request",
    ];
    Some(Section {
        title: "Tokens never seen before".to_owned(),
        text: vec![format!(
            "{} RS256 tokens per round, each sent once, closed loop over {CONNECTIONS} connections; every peer gets the same tokens. The gate also signs an assertion for each.",
            number(crate::load::count(tokens))
        )],
        tables: vec![table(head, rows.collect())],
        ..Section::default()
    })
}
