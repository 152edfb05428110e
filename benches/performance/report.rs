//! The report as data: sections with tables, plots and goals. `markdown`, `bars` and `lines` write it.

mod bars;
mod lines;
mod markdown;

pub use self::markdown::{markdown, write};

/// A page that the report is written to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Page {
    /// `performance.md` and its plots.
    Whole,
    /// `performance-doors.md`, which has no plots.
    Doors,
}

impl Page {
    /// The title, and the command that writes the page.
    const fn head(self) -> &'static str {
        match self {
            Self::Whole => "# Performance\n\nWritten by `make bench`",
            Self::Doors => "# Performance of the doors\n\nWritten by `make bench BENCH='--only doors'`",
        }
    }
}

/// One part of the report.
#[derive(Clone, Debug, Default)]
pub struct Section {
    pub title: String,
    /// Paragraphs of Markdown.
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
    /// Name of the file, without `.svg`.
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

/// One bar for each compared program.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Name of the file, without `.svg`.
    pub name: String,
    pub title: String,
    /// Label of the values, with the unit.
    pub label: String,
    pub bars: Vec<Bar>,
}

#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// Smallest value of all rounds.
    pub low: f64,
    /// Largest value of all rounds.
    pub high: f64,
}

/// A goal, and the measured result.
#[derive(Clone, Debug)]
pub struct Goal {
    pub number: u8,
    pub what: String,
    pub wanted: String,
    pub measured: String,
    pub met: bool,
    /// The cost that bounds the result, where the goal is not met.
    pub bound: Option<String>,
}
