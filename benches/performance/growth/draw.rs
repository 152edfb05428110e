//! Costs as tables and plots.

use super::measure::{Cost, number};
use crate::report::{Axis, Plot, Series, Table};

/// Costs of one thing at several sizes.
pub struct Curve {
    pub name: String,
    pub costs: Vec<Cost>,
}

impl Curve {
    pub fn new(name: impl Into<String>, costs: Vec<Cost>) -> Self {
        Self {
            name: name.into(),
            costs,
        }
    }
}

/// A row per size, a column per curve with median and spread, in microseconds.
pub fn table(of: &str, curves: &[Curve]) -> Table {
    let mut xs: Vec<usize> = curves
        .iter()
        .flat_map(|curve| curve.costs.iter().map(|cost| cost.x))
        .collect();
    xs.sort_unstable();
    xs.dedup();
    let head = std::iter::once(of.to_owned()).chain(curves.iter().map(|curve| format!("{}, µs", curve.name)));
    let row = |x: &usize| {
        let cell = |costs: &Vec<Cost>| costs.iter().find(|cost| cost.x == *x).map_or("–".to_owned(), shown);
        std::iter::once(grouped(*x))
            .chain(curves.iter().map(|curve| cell(&curve.costs)))
            .collect()
    };
    Table {
        head: head.collect(),
        rows: xs.iter().map(row).collect(),
    }
}

fn shown(cost: &Cost) -> String {
    format!("{} ± {:.0} %", short(cost.median()), cost.spread() * 50.0)
}

/// Both axes are logarithmic, so that costs that do not grow are a level line.
pub fn plot(name: &str, title: &str, of: &str, curves: &[Curve]) -> Plot {
    let series = curves.iter().map(|curve| Series {
        name: curve.name.clone(),
        points: curve.costs.iter().map(|cost| (number(cost.x), cost.median())).collect(),
    });
    Plot {
        name: name.to_owned(),
        title: title.to_owned(),
        x: Axis {
            label: of.to_owned(),
            logarithmic: true,
        },
        y: Axis {
            label: "µs".to_owned(),
            logarithmic: true,
        },
        series: series.collect(),
    }
}

/// Three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// `10,000`
pub fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `+3 %`
pub fn percent(ratio: f64) -> String {
    format!("{:+.0} %", (ratio - 1.0) * 100.0)
}
