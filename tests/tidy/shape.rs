//! Files fit in a head, functions on a screen, and parameters have names.

use crate::scan::{Source, code_lines, is_function, report, sources};

const FILE_LINES_MAX: usize = 600;
const FILE_LINES_GOAL: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn files_open_with_their_purpose_and_fit_in_a_head() {
    let mut findings = Vec::new();
    for Source { name, text, .. } in sources() {
        if !text.starts_with("//!") {
            findings.push(format!(
                "{name}:1: open the file with `//!`: what it is for, where on the path, what it never does"
            ));
        }
        if name.ends_with("/mod.rs") {
            findings.push(format!("{name}:1: move it to `foo.rs` beside `foo/`"));
        }
        let lines = code_lines(&text).count();
        if lines > FILE_LINES_MAX {
            findings.push(format!(
                "{name}: {lines} lines without tests, at most {FILE_LINES_MAX}; split it by concern"
            ));
        } else if lines > FILE_LINES_GOAL {
            println!("{name}: {lines} lines without tests; the goal is {FILE_LINES_GOAL}");
        }
        let unfinished = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
        for (number, line) in text.lines().enumerate() {
            if unfinished.iter().any(|mark| line.contains(mark.as_str())) {
                findings.push(format!(
                    "{name}:{}: finish it or open an issue; no marks in the code",
                    number + 1
                ));
            }
        }
    }
    report(&findings);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut findings = Vec::new();
    for Source { name, text, .. } in sources() {
        let mut open: Option<(usize, String)> = None;
        for (number, line) in code_lines(&text) {
            let indent: String = line.chars().take_while(|c| *c == ' ').collect();
            if open.is_none() && is_function(line) && !line.trim_end().ends_with(['}', ';']) {
                open = Some((number, indent));
            } else if let Some((start, close)) = &open
                && (line == format!("{close}}}") || (line.trim_end().ends_with(';') && *close == indent))
            {
                let length = number - start + 1;
                if length > FUNCTION_LINES_MAX {
                    findings.push(format!(
                        "{name}:{start}: {length} lines, at most {FUNCTION_LINES_MAX}; name its steps"
                    ));
                }
                open = None;
            }
        }
    }
    report(&findings);
}

#[test]
fn parameters_are_no_tuples() {
    let mut findings = Vec::new();
    for Source { name, text, .. } in sources() {
        let mut in_signature = false;
        for (number, line) in code_lines(&text) {
            in_signature |= is_function(line);
            let mut rest = line;
            while let Some(at) = rest.find("): (").filter(|_| in_signature) {
                let pattern = rest[..at].rsplit(['(', ',']).next().unwrap_or_default();
                if rest[..at].contains('(') && !pattern.contains('|') {
                    findings.push(format!(
                        "{name}:{number}: a tuple as parameter; name the group with a struct, or flatten it (seven parameters are fine)"
                    ));
                }
                rest = &rest[at + 4..];
            }
            if in_signature && line.trim_end().ends_with(['{', ';']) {
                in_signature = false;
            }
        }
    }
    report(&findings);
}

/// A call with `true` does not say what is true, and `let (a, b) = (x, y)` joins values only to save a line.
#[test]
fn parameters_are_no_bools_and_values_are_not_joined_to_save_lines() {
    let mut findings = Vec::new();
    for Source { name, text, .. } in sources() {
        let mut in_signature = false;
        // serde names and types the parameter of `visit_bool`
        for (number, line) in code_lines(&text).filter(|(_, line)| !line.contains("fn visit_bool<")) {
            in_signature |= is_function(line);
            if in_signature && [": bool,", ": bool)"].iter().any(|bool| line.contains(bool)) {
                findings.push(format!(
                    "{name}:{number}: a bool as parameter; name its two cases with an enum"
                ));
            }
            if in_signature && line.trim_end().ends_with(['{', ';', '}']) {
                in_signature = false;
            }
            if joins_values(line) {
                findings.push(format!(
                    "{name}:{number}: a tuple of values only to save lines; write a `let` for each"
                ));
            }
        }
    }
    report(&findings);
}

fn joins_values(line: &str) -> bool {
    let Some((names, _)) = line
        .trim_start()
        .strip_prefix("let (")
        .and_then(|rest| rest.split_once(") = ("))
    else {
        return false;
    };
    names.split(", ").all(|name| {
        name.trim_start_matches("mut ")
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

#[test]
fn joined_values_are_told_from_tuples_that_a_call_returns() {
    assert!(joins_values("    let (mut a, b) = (1, f(2));"));
    assert!(!joins_values("    let (a, b) = f(1, 2);"));
    assert!(!joins_values("    let (a, (b, c)) = (1, pair);"));
}
