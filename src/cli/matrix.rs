//! `cedargate matrix`: roles × actions × resource types of each portal, as the policies answer them.

mod csv;
mod json;
mod markdown;
mod page;
mod selection;
mod text;

use cedargate_policy::matrix::{Cell, CellAnswer, Column, Matrix, Row};

use serde_json::Value;

use self::selection::Selection;
use super::report::{Finding, Format, Severity, Writers};
use super::tree::TreeArgs;
use super::{Exit, Paint, complain, print};

/// The name of the row of callers without a role.
const NO_ROLE: &str = "(no role)";

#[derive(clap::Args)]
#[command(
    after_help = "A cell is about callers whose only role is that of the row: allow and deny hold for every resource and context, \
                        conditional comes with what must hold, unknown could not be computed. docs/matrix.md says what is not in it."
)]
pub(crate) struct Args {
    #[command(flatten)]
    tree: TreeArgs,
    /// Only this portal
    #[arg(long, short)]
    portal: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// Format of the report; html is one page that needs nothing else
    #[arg(long, value_parser = WRITERS.parser(), default_value = "human")]
    format: Format,
}

const WRITERS: Writers<Vec<PortalMatrix>, 5> = Writers([
    (Format::Human, |matrices| text::report(matrices, Paint::stdout())),
    (Format::Markdown, |matrices| markdown::report(matrices)),
    (Format::Csv, |matrices| csv::report(matrices)),
    (Format::Html, |matrices| page::html(matrices)),
    (Format::Json, |matrices| json::report(matrices)),
]);

/// The matrix of one portal, with its name.
pub(super) struct PortalMatrix {
    pub portal: String,
    pub matrix: Matrix,
}

/// The conditions of a cell as texts.
struct Conditions {
    /// One of them must hold.
    permits: Vec<String>,
    /// None of them may hold.
    forbids: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Exit {
    Exit::or_usage(show(args))
}

fn show(args: &Args) -> Result<Exit, String> {
    let workbench = args.tree.open()?;
    let loads = match &args.portal {
        Some(slug) => vec![workbench.load_untested_one(workbench.named(slug)?)],
        None => workbench.load_untested(),
    };
    let mut matrices = Vec::new();
    let mut findings = Vec::new();
    for load in &loads {
        let portal = load.portal.slug.to_string();
        let finding = |problem| Finding::from_problem(problem, Severity::Error, &portal);
        findings.extend(load.problems.iter().map(finding));
        if let Some(revision) = &load.revision {
            let matrix = args.selection.of(load.portal, revision);
            if !matrix.rows.is_empty() && !matrix.columns.is_empty() {
                matrices.push(PortalMatrix { portal, matrix });
            }
        }
    }
    let loaded: Vec<_> = loads
        .iter()
        .filter_map(|load| Some((load.portal, load.revision.as_deref()?)))
        .collect();
    // a portal that does not load may be the one that has the name
    if loaded.len() == loads.len() {
        args.selection.refuse_unknown_names(&loaded)?;
    }
    let source = |file: &str| workbench.source(file);
    let findings = super::report::distinct(findings, &source);
    if !findings.is_empty() {
        complain(super::report::text::findings(&findings, &source, Paint::stderr()).trim_end());
    }
    print(&WRITERS.write(args.format, &matrices)?);
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Invalid })
}

impl PortalMatrix {
    /// For the workbench.
    pub(super) fn as_page(&self) -> Value {
        page::portal(self)
    }

    /// The name of a row; with the type of its callers if there are several types.
    fn row_name(&self, row: &Row) -> String {
        let role = row.role.as_ref().map_or(NO_ROLE, |role| role.id().unescaped());
        let is_only = self
            .matrix
            .rows
            .iter()
            .all(|other| other.principal_type == row.principal_type);
        match is_only {
            true => role.to_owned(),
            false => format!("{} {role}", row.principal_type),
        }
    }

    /// The cells of a column, each with its row.
    fn cells_of(&self, column: usize) -> impl Iterator<Item = (&Row, &Cell)> {
        let cells = self.matrix.cells.iter().filter_map(move |row| row.get(column));
        self.matrix.rows.iter().zip(cells)
    }

    /// The columns with their positions.
    fn columns(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.matrix.columns.iter().enumerate()
    }
}

/// The action as people name it.
fn action_name(column: &Column) -> &str {
    column.action.id().unescaped()
}

/// The conditions of a conditional or unknown cell; `None` for every other.
fn conditions(cell: &Cell) -> Option<Conditions> {
    let texts = |conditions: &[std::sync::Arc<cedargate_policy::matrix::Condition>]| {
        let text = |condition: &std::sync::Arc<cedargate_policy::matrix::Condition>| match &condition.text {
            Some(text) => format!("{}: {text}", condition.policy.id),
            None => format!("{}: always", condition.policy.id),
        };
        conditions.iter().map(text).collect::<Vec<String>>()
    };
    matches!(cell.answer, CellAnswer::Conditional | CellAnswer::Unknown).then(|| Conditions {
        permits: texts(&cell.permits),
        forbids: texts(&cell.forbids),
    })
}
