//! The comparison as a comment on a pull request.
//!
//! SECURITY: names come from files that the author of the pull request wrote. In tables and headings they are escaped,
//! so that they cannot pretend to be another result; text of policies stands in code blocks that it cannot close.

use super::changes::{ChangeKind, DiffLine};
use super::flips::{Direction, Flip};
use super::proof::{COVERS, Proof, ProofOutcome, UnprovedGroup};
use super::{Comparison, PortalDiff};
use crate::cli::report::markdown::{fenced, head_rows, plain, row};

/// Lines of one text diff; a forge cuts long comments.
const LINES_MAX: usize = 200;
/// Rows of one table.
const ROWS_MAX: usize = 100;

pub(super) fn report(comparison: &Comparison) -> String {
    let Comparison { old, new, logs, .. } = comparison;
    let changed = comparison.differing();
    let mut text = format!("## Policy changes: {} → {}\n\n", plain(old), plain(new));
    if changed.is_empty() {
        text.push_str("No portal differs.\n");
    } else {
        text.push_str(&portals(&changed));
    }
    text.extend(
        logs.iter()
            .map(|logs| format!("\n## Recorded decisions\n\n{}", logs.markdown)),
    );
    text
}

fn portals(changed: &[&PortalDiff]) -> String {
    let mut text = String::new();
    let mut head = vec!["portal", "policies", "decisions (DENY → ALLOW)", "decisions (ALLOW → DENY)"];
    head.extend(changed.iter().any(|portal| portal.proof.is_some()).then_some("proof"));
    text.push_str(&head_rows(&head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()));
    for portal in changed {
        text.push_str(&summary(portal));
    }
    for portal in changed {
        text.push_str(&details(portal));
    }
    if changed.iter().any(|portal| portal.proof.is_some()) {
        text.push_str(&format!("\n{COVERS}\n"));
    }
    text
}

fn summary(portal: &PortalDiff) -> String {
    let count = |kind: ChangeKind| portal.policies.iter().filter(|policy| policy.kind == kind).count();
    let widening = portal.widening_flips();
    let narrowing = portal.asked.flips.len() - widening;
    let name = match portal.kind {
        Some(kind) => format!("{} ({})", plain(&portal.slug), kind.word()),
        None => plain(&portal.slug),
    };
    let cases = portal.asked.cases;
    let mut cells = vec![
        name,
        format!(
            "{} added, {} removed, {} changed",
            count(ChangeKind::Added),
            count(ChangeKind::Removed),
            count(ChangeKind::Changed)
        ),
        match widening {
            0 => format!("0 of {cases}"),
            widening => format!("**{widening}** of {cases}"),
        },
        format!("{narrowing} of {cases}"),
    ];
    cells.extend(portal.proof.as_ref().map(verdict));
    row(&cells)
}

fn verdict(proof: &Proof) -> String {
    let widened = proof
        .unproved
        .iter()
        .filter(|one| matches!(one.outcome, ProofOutcome::Widened(_)))
        .count();
    match (widened, proof.unproved.len()) {
        (0, 0) => "proved: nothing is newly allowed".to_owned(),
        (0, unknown) => format!("**unknown** for {unknown} kinds of requests"),
        (widened, _) => format!("**widened** for {widened} kinds of requests"),
    }
}

fn details(portal: &PortalDiff) -> String {
    let mut text = format!("\n### {}\n", plain(&portal.slug));
    if !portal.asked.flips.is_empty() {
        text.push('\n');
        text.push_str(&head_rows(&["", "case", "before", "after"].map(str::to_owned)));
        text.extend(portal.asked.flips.iter().take(ROWS_MAX).map(flip));
        let more = portal.asked.flips.len().saturating_sub(ROWS_MAX);
        if more > 0 {
            text.push_str(&format!("\n… and {more} more.\n"));
        }
    }
    for problem in &portal.asked.problems {
        text.push_str(&format!("\nNot asked: {}\n", plain(problem)));
    }
    if let Some(proof) = &portal.proof {
        text.push_str(&proof_text(proof));
    }
    for policy in &portal.policies {
        let title = format!("{} {}", policy.kind.word(), code(&policy.id));
        text.push_str(&block(&title, &policy.place, &policy.lines));
    }
    for file in &portal.files {
        text.push_str(&block(&format!("{} {}", file.kind.word(), code(&file.name)), "", &file.lines));
        for detail in &file.details {
            text.push_str(&format!("- {}\n", plain(detail)));
        }
    }
    text
}

fn flip(flip: &Flip) -> String {
    let direction = match flip.direction() {
        Direction::Widens => "**DENY → ALLOW**",
        Direction::Narrows => "ALLOW → DENY",
    };
    let line = flip.line.map(|line| format!(":{line}")).unwrap_or_default();
    let place = format!("{}{line}", flip.file);
    row(&[
        direction.to_owned(),
        format!("{}<br>{}", plain(&flip.case), plain(&place)),
        plain(&flip.old.reason()),
        plain(&flip.new.reason()),
    ])
}

fn proof_text(proof: &Proof) -> String {
    let groups = proof.groups();
    let mut text: String = groups.iter().take(ROWS_MAX).map(group_text).collect();
    if groups.len() > ROWS_MAX {
        text.push_str(&format!("\n… and {} more.\n", groups.len() - ROWS_MAX));
    }
    text
}

fn group_text(group: &UnprovedGroup<'_>) -> String {
    let UnprovedGroup { first, others } = group;
    let about = match first.about {
        "" => String::new(),
        about => format!(" ({about})"),
    };
    let mut text = match &first.outcome {
        ProofOutcome::Unknown(reason) => format!("\n**unknown**: {}{about}: {}\n", code(&first.kind), plain(reason)),
        ProofOutcome::Widened(request) => {
            let body = serde_json::json!({
                "principal": request.principal, "action": request.action, "resource": request.resource,
                "context": request.context, "entities": request.entities,
            });
            let body = serde_json::to_string_pretty(&body).unwrap_or_default();
            format!(
                "\n**widened**: {}{about}. Before: {}. After: {}.\n\n<details><summary>for example</summary>\n\n{}\n</details>\n",
                code(&first.kind),
                plain(&request.old),
                plain(&request.new),
                fenced("json", &body)
            )
        }
    };
    if !others.is_empty() {
        let kinds: Vec<String> = others.iter().take(ROWS_MAX).map(|other| code(&other.kind)).collect();
        text.push_str(&format!("\nLikewise: {}\n", kinds.join(", ")));
    }
    text
}

fn block(title: &str, place: &str, lines: &[DiffLine]) -> String {
    let place = if place.is_empty() {
        String::new()
    } else {
        format!(" ({})", plain(place))
    };
    if lines.is_empty() {
        return format!("\n{title}{place}\n");
    }
    let shown = lines.iter().take(LINES_MAX);
    let mut body: Vec<String> = shown.map(|line| format!("{}{}", line.sign, line.text)).collect();
    let more = lines.len().saturating_sub(LINES_MAX);
    if more > 0 {
        body.push(format!(" … and {more} more lines"));
    }
    format!("\n{title}{place}\n\n{}", fenced("diff", &body.join("\n")))
}

/// A name as code.
fn code(name: &str) -> String {
    format!("<code>{}</code>", plain(name))
}
