//! Numbers as they stand in a table.

use super::rounds::{Round, Spread};
use crate::report::{Bar, Bars, Table};

pub fn table<const N: usize>(head: [&str; N], rows: Vec<Vec<String>>) -> Table {
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows,
    }
}

/// With commas; one digit behind the point where it is small.
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

/// How many times the one is the other, round by round.
pub fn ratio(of: &[Round], to: &[Round], what: impl Fn(&Round) -> f64) -> Option<Spread> {
    let ratios = of.iter().zip(to).map(|(of, to)| Round {
        rate: what(of) / what(to),
        ..Round::default()
    });
    let ratios: Vec<Round> = ratios.collect();
    Spread::of(&ratios, |round| round.rate)
}

/// Less than this share of its core, and something else was the limit.
pub const BUSY_MIN: f64 = 0.95;

/// How many times as many requests the gate does. Where either was not limited by its core, the CPU time per request says it,
/// and the text says so.
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
    (name, title, label): (&str, &str, &str),
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
