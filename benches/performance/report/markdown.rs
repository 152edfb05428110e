//! The report as Markdown, and the plots as files beside it.

use std::fmt::Write;
use std::path::Path;

use super::{Goal, Page, Section, Table, bars, lines};

/// Names and values of the run: machine, versions, command.
pub type Facts = Vec<(String, String)>;

/// Writes the report to its page in the folder, and the plots of the whole report to `<folder>/performance/`.
pub fn write(folder: &Path, page: Page, facts: &Facts, sections: &[Section]) -> std::io::Result<()> {
    let text = markdown(page, facts, sections);
    if page == Page::Doors {
        return std::fs::write(folder.join("performance-doors.md"), text);
    }
    let plots = folder.join("performance");
    std::fs::create_dir_all(&plots)?;
    for file in std::fs::read_dir(&plots)?.flatten() {
        if file.path().extension().is_some_and(|extension| extension == "svg") {
            std::fs::remove_file(file.path())?;
        }
    }
    for section in sections {
        for chart in &section.bars {
            std::fs::write(plots.join(format!("{}.svg", chart.name)), bars::svg(chart))?;
        }
        for plot in &section.plots {
            std::fs::write(plots.join(format!("{}.svg", plot.name)), lines::svg(plot))?;
        }
    }
    std::fs::write(folder.join("performance.md"), text)
}

pub fn markdown(page: Page, facts: &Facts, sections: &[Section]) -> String {
    let mut text = page.head().to_owned()
        + ": every number below comes from one run of it. Compare ratios: absolute times depend on the machine. \
                    The method: [benches/README.md](../benches/README.md).\n\n";
    let rows = facts.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
    text += &table(&Table {
        head: vec!["fact".to_owned(), "this run".to_owned()],
        rows: rows.collect(),
    });
    text += &goals(sections);
    for section in sections {
        text += &self::section(section);
    }
    text.trim_end().to_owned() + "\n"
}

fn goals(sections: &[Section]) -> String {
    let mut goals: Vec<&Goal> = sections.iter().flat_map(|section| &section.goals).collect();
    if goals.is_empty() {
        return String::new();
    }
    goals.sort_by_key(|goal| goal.number);
    let rows = goals.iter().map(|goal| {
        let met = if goal.met { "met" } else { "**not met**" };
        vec![
            goal.number.to_string(),
            goal.what.clone(),
            goal.wanted.clone(),
            goal.measured.clone(),
            met.to_owned(),
        ]
    });
    let head = ["#", "goal", "wanted", "measured", ""].map(str::to_owned).to_vec();
    let mut text = "## Goals\n\n".to_owned()
        + &table(&Table {
            head,
            rows: rows.collect(),
        });
    let mut bounds: Vec<String> = Vec::new();
    for goal in goals {
        if let Some(bound) = &goal.bound {
            let line = format!("- Goal {}: {bound}", goal.number);
            if !bounds.contains(&line) {
                bounds.push(line);
            }
        }
    }
    if !bounds.is_empty() {
        text += &format!("What bounds the goals that are not met:\n\n{}\n\n", bounds.join("\n"));
    }
    text
}

fn section(section: &Section) -> String {
    let mut text = format!("## {}\n\n", section.title);
    for paragraph in &section.text {
        write!(text, "{paragraph}\n\n").unwrap();
    }
    for table in &section.tables {
        text += &self::table(table);
    }
    let bars = section.bars.iter().map(|bars| (&bars.title, &bars.name));
    let plots = section.plots.iter().map(|plot| (&plot.title, &plot.name));
    for (title, name) in bars.chain(plots) {
        write!(text, "![{title}](performance/{name}.svg)\n\n").unwrap();
    }
    text
}

fn table(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let numbers = |column: usize| {
        let mut cells = table
            .rows
            .iter()
            .filter_map(|row| row.get(column))
            .filter(|cell| !cell.is_empty())
            .peekable();
        cells.peek().is_some() && cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '–'))
    };
    let rule: String = (0..table.head.len())
        .map(|column| if numbers(column) { "---:|" } else { "---|" })
        .collect();
    let rows = table
        .rows
        .iter()
        .inspect(|row| assert_eq!(row.len(), table.head.len(), "{row:?}"));
    let rows: String = rows.map(|row| line(row)).collect();
    format!("{}|{rule}\n{rows}\n", line(&table.head))
}
