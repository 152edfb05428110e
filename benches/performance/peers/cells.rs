//! Numbers as text of tables, and the ratios of rounds.

use super::rounds::{Round, Spread};
use crate::report::{Bar, Bars, Table};

pub fn table<const N: usize>(head: [&str; N], rows: Vec<Vec<String>>) -> Table {
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows,
    }
}

/// A number with commas between thousands; small ones have one decimal place.
pub fn number(value: f64) -> String {
    match value {
        _ if !value.is_finite() => "–".to_owned(),
        _ if value >= 100.0 => thousands(value),
        _ => format!("{value:.1}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn range(spread: Spread) -> String {
    format!("{}–{}", number(spread.low), number(spread.high))
}

/// The ratio of two peers, round by round.
pub fn ratio(of: &[Round], to: &[Round], what: impl Fn(&Round) -> f64) -> Option<Spread> {
    let ratios = of.iter().zip(to).map(|(of, to)| Round {
        rate: what(of) / what(to),
        ..Round::default()
    });
    let ratios: Vec<Round> = ratios.collect();
    Spread::of(&ratios, |round| round.rate)
}

/// A peer that used a smaller share of its core was limited by app or load.
pub const BUSY_MIN: f64 = 0.95;

/// The ratio of the request rates, the gate's to the peer's. Where one of them was not limited by its core, the ratio
/// of the CPU times per request instead; the text says which.
pub fn gain(gate: &[Round], other: &[Round]) -> Option<(Spread, &'static str)> {
    let busy = |rounds: &[Round]| Spread::of(rounds, |round| round.busy).is_some_and(|busy| busy.median >= BUSY_MIN);
    match busy(gate) && busy(other) {
        true => Some((ratio(gate, other, |round| round.rate)?, "by requests")),
        false => Some((
            ratio(other, gate, |round| round.cpu)?,
            "by CPU time, because a core was not full",
        )),
    }
}

pub fn times(ratio: Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high)
}

pub fn bars<'a>(
    name: &str,
    title: &str,
    label: &str,
    all: impl Iterator<Item = (&'a str, &'a [Round])>,
    what: impl Fn(&Round) -> f64,
) -> Bars {
    let bars = all.filter_map(|(name, rounds)| {
        let spread = Spread::of(rounds, &what)?;
        Some(Bar {
            name: name.to_owned(),
            value: spread.median,
            low: spread.low,
            high: spread.high,
        })
    });
    Bars {
        name: name.to_owned(),
        title: title.to_owned(),
        label: label.to_owned(),
        bars: bars.collect(),
    }
}
