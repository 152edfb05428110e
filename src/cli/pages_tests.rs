//! Pages and the command line: `docs/cli.md` is made from clap's own description, and every command that a page shows
//! parses.
//!
//! `CEDARGATE_ACCEPT=1 cargo test --lib cli_page` writes `docs/cli.md` anew.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};

use super::Cli;
use super::report::Format;

const PAGE: &str = "docs/cli.md";
const HEAD: &str = "# Command line\n\n\
    <!-- made from the program: CEDARGATE_ACCEPT=1 cargo test --lib cli_page -->\n\n\
    Every command, as `cedargate help` has it. [Operating a gate](operations.md) says when to use which.\n\n\
    | exit code | meaning |\n|---|---|\n\
    | 0 | ok, or allow |\n| 1 | failure |\n| 2 | deny (`authorize`) |\n| 3 | invalid policies, or findings |\n\
    | 4 | failed decision tests, flips, or a widened diff |\n| 64 | wrong usage or bad configuration |\n\n\
    Reports go to stdout, all other text to stderr.\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The whole reference: a section for each command, subcommands after their command.
fn cli_page() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = HEAD.to_owned();
    for sub in command.get_subcommands().filter(|sub| is_shown(sub)) {
        section(&mut page, sub, "cedargate", 2);
    }
    page
}

fn is_shown(command: &clap::Command) -> bool {
    command.get_name() != "help" && !command.is_hide_set()
}

fn section(page: &mut String, command: &clap::Command, parent: &str, depth: usize) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let about = about.unwrap_or_default();
    assert!(!about.is_empty(), "`{name}` has no description");
    writeln!(
        page,
        "\n{} `{name}`\n\n{}.",
        "#".repeat(depth),
        prose(about.trim_end_matches('.'))
    )
    .unwrap();
    let shown: Vec<&clap::Arg> = command.get_arguments().filter(|arg| is_documented(arg)).collect();
    if command.get_subcommands().next().is_none() {
        let usage = command.clone().render_usage().to_string();
        let usage = usage
            .trim_start_matches("Usage: ")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        writeln!(page, "\n```text\n{usage}\n```").unwrap();
    }
    if !shown.is_empty() {
        page.push_str("\n| argument | default | meaning |\n|---|---|---|\n");
        for arg in shown {
            row(page, arg);
        }
    }
    if let Some(after) = command.get_after_help() {
        writeln!(page, "\n{}", prose(&after.to_string())).unwrap();
    }
    for sub in command.get_subcommands().filter(|sub| is_shown(sub)) {
        section(page, sub, &name, depth + 1);
    }
}

/// A text of the program as Markdown: outside of code, `<name>` is no HTML.
fn prose(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let escaped = parts.map(|(n, part)| {
        if n % 2 == 0 {
            part.replace('<', "&lt;")
        } else {
            part.to_owned()
        }
    });
    escaped.collect::<Vec<_>>().join("`")
}

fn is_documented(arg: &clap::Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn row(page: &mut String, arg: &clap::Arg) {
    let value = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map(|name| format!("<{name}>"));
    let value = if arg.get_action().takes_values() {
        value.unwrap_or_default()
    } else {
        String::new()
    };
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long} {value}"),
        (None, Some(long)) => format!("--{long} {value}"),
        (_, None) => format!("[{}]", value.trim_matches(['<', '>'])),
    };
    let defaults = arg.get_default_values().iter().filter(|_| arg.get_action().takes_values());
    let default: Vec<String> = defaults.map(|v| format!("`{}`", v.to_string_lossy())).collect();
    let mut help = prose(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let possible: Vec<String> = arg
        .get_possible_values()
        .iter()
        .map(|v| format!("`{}`", v.get_name()))
        .collect();
    if !possible.is_empty() && arg.get_action().takes_values() {
        write!(
            help,
            "{}one of {}",
            if help.is_empty() { "" } else { "; " },
            possible.join(", ")
        )
        .unwrap();
    }
    if let Some(variable) = arg.get_env() {
        write!(help, " (environment: `{}`)", variable.to_string_lossy()).unwrap();
    }
    let cells = [format!("`{}`", name.trim()), default.join(" "), help].map(|cell| cell.replace('|', "\\|").replace('\n', " "));
    writeln!(page, "| {} |", cells.join(" | ")).unwrap();
}

#[test]
fn cli_page_is_what_the_program_says() {
    let (page, path) = (cli_page(), root().join(PAGE));
    if std::env::var_os("CEDARGATE_ACCEPT").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(published.lines()).find(|(made, kept)| made != kept);
    assert!(
        page == published,
        "{PAGE} is not what the program says ({differs:?}); run `CEDARGATE_ACCEPT=1 cargo test --lib cli_page`"
    );
}

/// One command that a page shows.
struct Shown {
    place: String,
    words: Vec<String>,
    /// From a block, so nothing may be missing; a mention in a sentence may lack its arguments.
    is_whole: bool,
}

/// Pages of which a reader copies commands.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "book" && name != "decisions") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Commands of the blocks `sh` and `console`, and of code in sentences that begins with `cedargate`.
fn commands_of(page: &str, name: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut language: Option<&str> = None;
    let mut carried = String::new();
    for (number, line) in page.lines().enumerate() {
        let text = line.trim();
        if let Some(opened) = text.strip_prefix("```") {
            language = language.is_none().then_some(opened);
            continue;
        }
        let place = format!("{name}:{}", number + 1);
        match language {
            Some("sh" | "console") => {
                carried.push_str(text.strip_prefix("$ ").unwrap_or(text));
                if carried.ends_with('\\') {
                    carried.pop();
                    continue;
                }
                let whole = std::mem::take(&mut carried);
                found.extend(commands(&whole).into_iter().map(|words| Shown {
                    place: place.clone(),
                    words,
                    is_whole: true,
                }));
            }
            Some(_) => {}
            None => {
                let spans = text
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .filter(|span| span.starts_with("cedargate "));
                let mentions = spans.flat_map(|span| commands(&span.replace(['[', ']'], "").replace('…', "ELLIPSIS")));
                found.extend(mentions.map(|words| Shown {
                    place: place.clone(),
                    words,
                    is_whole: false,
                }));
            }
        }
    }
    found
}

/// The calls of `cedargate` in a line of shell: what follows the name, to the end of that command.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = Vec::new();
    let mut open = false;
    let mut is_start = true;
    for word in words(line) {
        match word.as_str() {
            "|" | "&&" | "||" | ";" | "&" | ">" | ">>" | "<" | "2>" | "do" | "then" | "--" | "exec" | "!"
                if !open || word != "--" =>
            {
                open = false;
                is_start = true;
            }
            "#" => break,
            "cedargate" if is_start => {
                found.push(vec!["cedargate".to_owned()]);
                open = true;
                is_start = false;
            }
            _ if open => found.last_mut().unwrap().push(word),
            // `NAME=value cedargate …`, `if cedargate …`
            _ => is_start = is_start && (word.contains('=') || word == "if"),
        }
    }
    found
}

/// The words of a line of shell, quotes taken off, operators as words of their own.
fn words(line: &str) -> Vec<String> {
    let (mut found, mut word, mut quote, mut has_word) = (Vec::new(), String::new(), None, false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.push(letter),
            (None, '"' | '\'') => (quote, has_word) = (Some(letter), true),
            (None, ' ' | '\t' | ';' | '|' | '&' | '>' | '<' | ')' | '(') => {
                if !word.is_empty() || has_word {
                    found.push(std::mem::take(&mut word));
                    has_word = false;
                }
                if !letter.is_whitespace() {
                    let mut operator = letter.to_string();
                    while letters.peek() == Some(&letter) {
                        operator.extend(letters.next());
                    }
                    found.push(if matches!(letter, '(' | ')') {
                        ";".to_owned()
                    } else {
                        operator
                    });
                }
            }
            (None, '$') if letters.peek() == Some(&'(') => {}
            (None, _) => word.push(letter),
        }
    }
    if !word.is_empty() || has_word {
        found.push(word);
    }
    found
}

fn is_placeholder(word: &str) -> bool {
    word.len() > 2 && word.chars().all(|letter| letter.is_ascii_uppercase())
}

/// Every command that has `--format`, with its words.
fn commands_with_formats(command: &clap::Command, words: &[String], found: &mut Vec<(Vec<String>, clap::Arg)>) {
    let format = command.get_arguments().find(|argument| argument.get_long() == Some("format"));
    found.extend(format.map(|format| (words.to_vec(), format.clone())));
    for sub in command.get_subcommands() {
        let words = [words, &[sub.get_name().to_owned()]].concat();
        commands_with_formats(sub, &words, found);
    }
}

#[test]
fn formats_of_all_commands_are_those_of_reports_and_any_other_is_one_usage_error() {
    let mut found = Vec::new();
    commands_with_formats(&Cli::command(), &["cedargate".to_owned()], &mut found);
    assert!(found.len() >= 15, "{found:?}");
    let all: Vec<PossibleValue> = Format::value_variants()
        .iter()
        .filter_map(ValueEnum::to_possible_value)
        .collect();
    for (words, format) in found {
        let offered = format.get_possible_values();
        assert!(offered.len() >= 2, "{words:?}");
        for value in &offered {
            assert!(all.contains(value), "{words:?} has a format of its own: {value:?}");
        }
        for other in all.iter().filter(|value| !offered.contains(value)) {
            let arguments = [words.clone(), vec!["--format".to_owned(), other.get_name().to_owned()]].concat();
            let error = Cli::try_parse_from(arguments).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{words:?}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("possible values") && text.contains("human"),
                "{words:?}: {text}"
            );
        }
    }
}

#[test]
fn every_command_in_a_page_parses() {
    let mut findings = Vec::new();
    let mut count = 0;
    for path in pages() {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        for shown in commands_of(&std::fs::read_to_string(&path).unwrap(), &name) {
            count += 1;
            // a shell function passes on what its callers say
            let (passed, words): (Vec<_>, Vec<_>) = shown.words.iter().partition(|word| *word == "$@");
            let is_whole = shown.is_whole && passed.is_empty();
            let Err(error) = Cli::command().try_get_matches_from(words) else {
                continue;
            };
            let is_fine = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                // `cedargate token`, `cedargate sessions revoke` or `cedargate validate --config` in a sentence
                ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !is_whole,
                ErrorKind::InvalidValue if shown.words.last().is_some_and(|word| word.starts_with("--")) => !is_whole,
                // `cedargate healthcheck --url URL` in a sentence
                ErrorKind::ValueValidation => !is_whole && shown.words.iter().any(|word| is_placeholder(word)),
                _ => !is_whole && shown.words.iter().any(|word| word.contains("ELLIPSIS")),
            };
            if !is_fine {
                findings.push(format!("{}: `{}`: {error}", shown.place, shown.words.join(" ")));
            }
        }
    }
    assert!(count > 60, "the scan found {count} commands");
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn commands_are_found_where_a_reader_would_run_them() {
    let found = |line: &str| commands(line).iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        found("kubectl -n x exec p -c cedargate -- cedargate status --ready"),
        ["cedargate status --ready"]
    );
    assert_eq!(
        found("A=1 cedargate test | tail -1 && cedargate fmt; echo cedargate no"),
        ["cedargate test", "cedargate fmt"]
    );
    assert_eq!(
        found("x=$(cedargate token mint --subject \"a b\") # cedargate no"),
        ["cedargate token mint --subject a b"]
    );
    assert_eq!(found("cedargate config schema > schemas/x.json"), ["cedargate config schema"]);
    let mistakes = commands_of("`cedargate valdate`\n```sh\ncedargate status \\\n  --adress x\n```\n", "p");
    assert_eq!(mistakes.len(), 2);
    for shown in mistakes {
        assert!(
            Cli::command().try_get_matches_from(&shown.words).is_err(),
            "{:?}",
            shown.words
        );
    }
}
