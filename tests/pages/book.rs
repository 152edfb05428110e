//! The book: mdBook builds it of all pages, and every link in it leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{pages, read, report, root};

const SUMMARY: &str = "docs/SUMMARY.md";
/// Links that leave the book lead here; see `.ci/book-links`.
const REPOSITORY: &str = "https://github.com/cedargate/cedargate/blob/main/";
/// Pages that mdBook makes for itself.
const OWN: &[&str] = &["print.html", "toc.html", "404.html"];

fn mdbook() -> PathBuf {
    let path = root("target/tools/bin/mdbook");
    assert!(path.is_file(), "mdbook is missing; run `make tools`");
    path
}

/// One page of the built book.
struct Page {
    ids: BTreeSet<String>,
    links: Vec<String>,
}

/// Builds the book; every HTML page by its path in it.
fn built() -> (tempfile::TempDir, BTreeMap<String, Page>) {
    let book = tempfile::tempdir().unwrap();
    let output = Command::new(mdbook())
        .args(["build", "docs", "--dest-dir"])
        .arg(book.path())
        .current_dir(root(""))
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let complains = said.lines().any(|line| line.contains("WARN") || line.contains("ERROR"));
    assert!(output.status.success() && !complains, "{said}");
    let mut found = BTreeMap::new();
    let mut folders = vec![book.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "html") {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(book.path()).unwrap().to_str().unwrap().to_owned();
                let page = Page {
                    ids: attributes(&text, " id=\"").collect(),
                    links: attributes(&text, " href=\"").chain(attributes(&text, " src=\"")).collect(),
                };
                found.insert(name, page);
            }
        }
    }
    (book, found)
}

/// The values of an attribute in a page.
fn attributes<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = String> + 'a {
    let values = text.split(start).skip(1).filter_map(|rest| rest.split('"').next());
    values.map(|value| value.replace("&amp;", "&").replace("&#x27;", "'"))
}

/// A link of a page as a path in the book.
fn target(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn the_book_builds_and_every_link_in_it_leads_somewhere() {
    let (book, built) = built();
    assert!(built.len() > 50, "the book has {} pages", built.len());
    let mut findings = Vec::new();
    let mut count = 0;
    for (name, page) in built.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
        for link in &page.links {
            count += 1;
            if let Some(path) = link.strip_prefix(REPOSITORY) {
                let file = path.split('#').next().unwrap();
                if !root(file).exists() {
                    findings.push(format!("{name}: {link}: the repository has no {file}"));
                }
                continue;
            }
            if link.contains("://") || link.starts_with("mailto:") || link.starts_with("data:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = if path.is_empty() { name.clone() } else { target(name, path) };
            match built.get(&path) {
                Some(to) if anchor.is_empty() || to.ids.contains(anchor) => {}
                Some(_) => findings.push(format!("{name}: {link}: {path} has no such heading")),
                None if Path::new(&book.path().join(&path)).exists() => {}
                None => findings.push(format!("{name}: {link}: the book has no {path}")),
            }
        }
    }
    assert!(count > 1000, "the book has {count} links");
    findings.dedup();
    report(&findings);
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = read(SUMMARY);
    let missing = pages()
        .into_iter()
        .filter(|page| page != SUMMARY)
        .filter_map(|page| page.strip_prefix("docs/").map(str::to_owned))
        .filter(|page| !summary.contains(&format!("]({page})")));
    report(
        &missing
            .map(|page| format!("{SUMMARY}: has no line for {page}"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn a_link_is_followed_from_its_page() {
    assert_eq!(target("runbooks/a.html", "../b.html"), "b.html");
    assert_eq!(target("runbooks/a.html", "b.html"), "runbooks/b.html");
    assert_eq!(target("a.html", "./decisions/b.html"), "decisions/b.html");
}
