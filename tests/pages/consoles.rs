//! Sessions at a terminal that a page shows: what follows `$ ` is run, and what it prints is what the page shows.
//!
//! All `console tested` blocks of a page run in one shell that starts in an empty folder; `> ` continues a command.
//! With `CEDARGATE_ACCEPT=1` the test writes what the commands print into the page.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{read, root};

const OPEN: &str = "```console tested\n";
const CLOSE: &str = "```\n";
/// Begins a line that tells the outputs of commands apart.
const MARK: char = '\u{1}';

/// One command with what the page says that it prints.
struct Shown {
    command: String,
    output: String,
}

fn commands(block: &str) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), line.strip_prefix("> "), found.last_mut()) {
            (Some(command), ..) => found.push(Shown {
                command: command.to_owned(),
                output: String::new(),
            }),
            (None, Some(more), Some(last)) if last.output.is_empty() => {
                last.command.push('\n');
                last.command.push_str(more);
            }
            (None, _, Some(last)) => {
                last.output.push_str(line);
                last.output.push('\n');
            }
            (None, _, None) => panic!("a console block begins with `$ `: {line}"),
        }
    }
    found
}

/// What each command prints, both streams in order.
fn outputs(folder: &Path, all: &[&Shown]) -> Vec<String> {
    let mut script = String::new();
    for shown in all {
        writeln!(script, "printf '{MARK}\\n'\n{{\n{}\n}} 2>&1", shown.command).unwrap();
    }
    let bin = Path::new(env!("CARGO_BIN_EXE_cedargate")).parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-uc", &script])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HOME", folder)
        .env("NO_COLOR", "1")
        .envs(["AUTHOR", "COMMITTER"].iter().flat_map(|who| {
            let set = |what: &str, value: &str| (format!("GIT_{who}_{what}"), value.to_owned());
            [set("NAME", "you"), set("EMAIL", "you@example.com")]
        }))
        .env_remove("CEDARGATE_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let parts = text
        .split(&format!("{MARK}\n"))
        .skip(1)
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert_eq!(parts.len(), all.len(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    parts
}

fn block(shown: &[(&Shown, &String)]) -> String {
    let mut text = String::new();
    for (shown, output) in shown {
        writeln!(text, "$ {}", shown.command.replace('\n', "\n> ")).unwrap();
        text.push_str(output);
    }
    text
}

#[test]
fn pages_show_what_their_commands_print() {
    for name in crate::files("docs", ".md") {
        let page = read(&name);
        let mut pieces = page.split(OPEN);
        let mut made = pieces.next().unwrap().to_owned();
        let rest: Vec<(&str, &str)> = pieces.map(|piece| piece.split_once(CLOSE).unwrap()).collect();
        let blocks: Vec<Vec<Shown>> = rest.iter().map(|(block, _)| commands(block)).collect();
        let all: Vec<&Shown> = blocks.iter().flatten().collect();
        if all.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let outputs = outputs(folder.path(), &all);
        let mut printed = outputs.iter();
        for (shown, (_, after)) in blocks.iter().zip(&rest) {
            let pairs: Vec<(&Shown, &String)> = shown.iter().zip(printed.by_ref()).collect();
            made.push_str(OPEN);
            made.push_str(&block(&pairs));
            made.push_str(CLOSE);
            made.push_str(after);
        }
        if std::env::var_os("CEDARGATE_ACCEPT").is_some() {
            std::fs::write(root(&name), &made).unwrap();
        }
        for (shown, output) in all.iter().zip(&outputs) {
            assert!(
                shown.output == *output || made == read(&name),
                "{name}: `{}` prints\n{output}\nand the page shows\n{}\nCEDARGATE_ACCEPT=1 writes the page anew",
                shown.command,
                shown.output
            );
        }
    }
}
