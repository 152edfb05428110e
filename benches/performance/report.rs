//! What was measured, as tables, plots and goals, before it is written down; writing it down is below.

mod bars;
mod lines;
mod markdown;

pub use self::markdown::{markdown, write};

/// One part of the report.
#[derive(Clone, Debug, Default)]
pub struct Section {
    pub title: String,
    /// Paragraphs of Markdown: what was measured, how, what is not in it.
    pub text: Vec<String>,
    pub tables: Vec<Table>,
    pub plots: Vec<Plot>,
    pub bars: Vec<Bars>,
    pub goals: Vec<Goal>,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
pub struct Plot {
    /// Of the file, without `.svg`.
    pub name: String,
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug)]
pub struct Axis {
    /// With the unit.
    pub label: String,
    pub logarithmic: bool,
}

#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// One bar for each of those who are compared.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Of the file, without `.svg`.
    pub name: String,
    pub title: String,
    /// Of the values, with the unit.
    pub label: String,
    pub bars: Vec<Bar>,
}

#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// Of all rounds.
    pub low: f64,
    pub high: f64,
}

/// Something that was promised, and what came of it.
#[derive(Clone, Debug)]
pub struct Goal {
    pub number: u8,
    pub what: String,
    pub wanted: String,
    pub measured: String,
    pub met: bool,
    /// What bounds it where it is not met.
    pub bound: Option<String>,
}
