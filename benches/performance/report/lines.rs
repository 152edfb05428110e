//! A line plot: one curve per series, on linear or logarithmic axes.

use std::fmt::Write;

use super::bars::{escape, head, number};
use super::{Axis, Plot};

const LEFT: f64 = 64.0;
const RIGHT: f64 = 456.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 300.0;
/// Colours that colour-blind readers can tell apart; each series has a mark of its own, too.
const COLOURS: [&str; 7] = ["#0b6bcb", "#d55e00", "#009e73", "#a0418a", "#b8860b", "#333333", "#56a0d3"];
const LEGEND_STEP: f64 = 20.0;

/// An axis, and the range of the values on it.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

pub fn svg(plot: &Plot) -> String {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let x = Scale::new(&plot.x, points().map(|point| point.0));
    let y = Scale::new(&plot.y, points().map(|point| point.1));
    let legend = BOTTOM + 62.0;
    let height = legend + crate::load::count(plot.series.len()) * LEGEND_STEP;
    let mut text = head(&plot.title, height);
    let across = |value: f64| LEFT + x.share(value) * (RIGHT - LEFT);
    let up = |value: f64| BOTTOM - y.share(value) * (BOTTOM - TOP);
    for tick in &x.ticks {
        let at = across(*tick);
        let label = number(*tick);
        writeln!(
            text,
            "<path d='M{at:.1} {TOP}V{BOTTOM}' stroke='#e3e3e3'/><text x='{at:.1}' y='{:.1}' font-size='13' text-anchor='middle'>{label}</text>",
            BOTTOM + 17.0
        )
        .unwrap();
    }
    for tick in &y.ticks {
        let at = up(*tick);
        let label = number(*tick);
        writeln!(
            text,
            "<path d='M{LEFT} {at:.1}H{RIGHT}' stroke='#e3e3e3'/><text x='{:.1}' y='{:.1}' font-size='13' text-anchor='end'>{label}</text>",
            LEFT - 6.0,
            at + 4.0
        )
        .unwrap();
    }
    let middle = f64::midpoint(TOP, BOTTOM);
    write!(
        text,
        "<path d='M{LEFT} {TOP}V{BOTTOM}H{RIGHT}' stroke='#111' fill='none'/>\n\
         <text x='{:.1}' y='{:.1}' font-size='13' text-anchor='middle'>{}</text>\n\
         <text transform='translate(17 {middle}) rotate(-90)' font-size='13' text-anchor='middle'>{}</text>\n",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 38.0,
        escape(&plot.x.label),
        escape(&plot.y.label),
    )
    .unwrap();
    for (at, series) in plot.series.iter().enumerate() {
        let colour = COLOURS.get(at % COLOURS.len()).unwrap();
        let corners: Vec<(f64, f64)> = series.points.iter().map(|(a, b)| (across(*a), up(*b))).collect();
        let path: Vec<String> = corners.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
        writeln!(
            text,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>",
            path.join(" ")
        )
        .unwrap();
        for (a, b) in &corners {
            text += &mark(at, *a, *b, colour);
        }
        let row = legend + crate::load::count(at) * LEGEND_STEP;
        text += &mark(at, LEFT, row - 4.0, colour);
        writeln!(
            text,
            "<text x='{:.1}' y='{row:.1}' font-size='14'>{}</text>",
            LEFT + 12.0,
            escape(&series.name)
        )
        .unwrap();
    }
    text + "</svg>\n"
}

fn mark(series: usize, x: f64, y: f64, colour: &str) -> String {
    let shape = match series % 3 {
        0 => format!("<circle cx='{x:.1}' cy='{y:.1}' r='4'"),
        1 => format!("<rect x='{:.1}' y='{:.1}' width='7' height='7'", x - 3.5, y - 3.5),
        _ => format!("<path d='M{x:.1} {:.1}l5 8h-10z'", y - 5.0),
    };
    format!("{shape} fill='{colour}'/>\n")
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let values = values.filter(|value| value.is_finite() && (!axis.logarithmic || *value > 0.0));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        match (low <= high, axis.logarithmic) {
            (true, true) => Self::logarithmic(low, high),
            (true, false) => Self::linear(high),
            (false, _) => Self::linear(1.0),
        }
    }

    /// A scale from zero.
    fn linear(high: f64) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let rough = high / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(power);
        let count = (high / step).ceil();
        let ticks = (0..=10)
            .map(|n| f64::from(n) * step)
            .take_while(|tick| *tick <= count * step * 1.001);
        Self {
            low: 0.0,
            high: count * step,
            logarithmic: false,
            ticks: ticks.collect(),
        }
    }

    /// A scale of whole decades. A short range also gets ticks at 2 and 5.
    fn logarithmic(low: f64, high: f64) -> Self {
        let from = low.log10().floor();
        let to = high.log10().ceil().max(from + 1.0);
        let decades = (-12..=15).map(f64::from).filter(|power| *power >= from && *power <= to);
        let between: &[f64] = if to - from > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let ticks = decades.flat_map(|power| between.iter().map(move |times| times * 10_f64.powf(power)));
        let low = 10_f64.powf(from);
        let high = 10_f64.powf(to);
        Self {
            low,
            high,
            logarithmic: true,
            ticks: ticks.filter(|tick| *tick <= high * 1.001).collect(),
        }
    }

    /// The position of a value between the ends, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self.logarithmic {
            true => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
            false => (value - self.low) / (self.high - self.low),
        };
        share.clamp(0.0, 1.0)
    }
}
