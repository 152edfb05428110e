//! The formats of reports, and the writers that a command has for them.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// The formats of all reports. Each command has some of them, which its `Writers` name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
    /// For a comment on a pull request
    Markdown,
    Csv,
    Junit,
    /// Annotations for GitHub Actions
    Github,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// One page that needs nothing else
    Html,
}

/// The formats of one report, each with the function that writes it. `--format` accepts exactly these.
pub(crate) struct Writers<T, const N: usize>(pub [(Format, Write<T>); N]);

/// Writes a report in one format.
pub(crate) type Write<T> = fn(&T) -> String;

impl<T, const N: usize> Writers<T, N> {
    /// A parser for `--format`. Another format is a usage error that names the formats there are.
    pub fn parser(&self) -> impl TypedValueParser<Value = Format> + use<T, N> {
        let values: Vec<PossibleValue> = self.0.iter().filter_map(|(format, _)| format.to_possible_value()).collect();
        PossibleValuesParser::new(values).try_map(|name| Format::from_str(&name, false))
    }

    /// The text of the report. `Err` is a usage error: an option selects a report that has fewer formats than the
    /// command.
    pub fn write(&self, format: Format, report: &T) -> Result<String, String> {
        let writer = self.0.iter().find(|(known, _)| *known == format);
        writer.map(|(_, write)| write(report)).ok_or_else(|| {
            let names: Vec<String> = self.0.iter().map(|(format, _)| format.name()).collect();
            format!(
                "there is no `--format {}` of this report; its formats are {}",
                format.name(),
                names.join(", ")
            )
        })
    }
}

impl Format {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITERS: Writers<u8, 2> = Writers([
        (Format::Human, |number| format!("number {number}")),
        (Format::Junit, |number| format!("<n>{number}</n>")),
    ]);

    #[test]
    fn parser_accepts_only_the_formats_of_its_command() {
        let command = clap::Command::new("c").arg(clap::Arg::new("format").long("format").value_parser(WRITERS.parser()));
        let parsed = |value: &str| {
            let matches = command.clone().try_get_matches_from(["c", "--format", value]);
            matches.ok().and_then(|m| m.get_one::<Format>("format").copied())
        };
        assert_eq!(parsed("junit"), Some(Format::Junit));
        assert_eq!(parsed("json"), None);
    }

    #[test]
    fn a_format_without_writer_is_an_error_that_names_the_others() {
        assert_eq!(WRITERS.write(Format::Junit, &7).as_deref(), Ok("<n>7</n>"));
        let error = "there is no `--format csv` of this report; its formats are human, junit";
        assert_eq!(WRITERS.write(Format::Csv, &7), Err(error.to_owned()));
    }
}
