//! The comparison for people at a terminal.

use super::changes::{ChangeKind, DiffLine};
use super::flips::{Direction, Flip};
use super::proof::{COVERS, Proof, ProofOutcome, Request, UnprovedGroup};
use super::{Comparison, PortalDiff};
use crate::cli::Paint;
use crate::cli::report::cedar;
use crate::cli::report::text::escaped;

pub(super) fn report(comparison: &Comparison, paint: Paint) -> String {
    let Comparison { old, new, portals, logs } = comparison;
    let changed = comparison.differing();
    let mut text = format!("{} → {}\n", escaped(old), escaped(new));
    if changed.is_empty() {
        text.push_str("\nno portal differs\n");
    }
    for portal in changed {
        text.push_str(&format!("\n{}", portal_text(portal, paint)));
    }
    let same = portals
        .iter()
        .filter(|portal| !portal.is_changed())
        .map(|portal| portal.slug.as_str());
    let same: Vec<&str> = same.collect();
    if !same.is_empty() && same.len() < portals.len() {
        text.push_str(&format!("\nunchanged: {}\n", same.join(", ")));
    }
    if portals.iter().any(|portal| portal.proof.is_some()) {
        text.push_str(&format!("\n{}\n", paint.dim(COVERS)));
    }
    text.extend(logs.iter().map(|logs| format!("\nlog: {}", logs.text)));
    text
}

fn portal_text(portal: &PortalDiff, paint: Paint) -> String {
    let mut text = match portal.kind {
        Some(kind) => format!("portal {} {}\n", portal.slug, kind.word()),
        None => format!("portal {}\n", portal.slug),
    };
    for policy in &portal.policies {
        text.push_str(&format!(
            "  {} {}  {}\n",
            coloured(policy.kind, paint),
            escaped(&policy.id),
            paint.dim(&policy.place)
        ));
        text.push_str(&lines(&policy.lines, paint));
    }
    for file in &portal.files {
        text.push_str(&format!("  {} {}\n", coloured(file.kind, paint), file.name));
        for detail in &file.details {
            text.push_str(&format!("      {}\n", escaped(detail)));
        }
        text.push_str(&lines(&file.lines, paint));
    }
    if portal.kind.is_none() {
        text.push_str(&flips(portal, paint));
    }
    if let Some(proof) = &portal.proof {
        text.push_str(&proof_text(proof, paint));
    }
    text
}

fn coloured(kind: ChangeKind, paint: Paint) -> String {
    match kind {
        ChangeKind::Added => paint.green(kind.word()),
        ChangeKind::Removed => paint.red(kind.word()),
        ChangeKind::Changed => paint.yellow(kind.word()),
    }
}

fn lines(lines: &[DiffLine], paint: Paint) -> String {
    let shown = |line: &DiffLine| {
        let text = escaped(format!("{} {}", line.sign, line.text).trim_end());
        match line.sign {
            '+' => paint.green(&text),
            '-' => paint.red(&text),
            _ => text,
        }
    };
    lines.iter().map(|line| format!("      {}\n", shown(line))).collect()
}

fn flips(portal: &PortalDiff, paint: Paint) -> String {
    let asked = &portal.asked;
    let noun = if asked.cases == 1 { "test" } else { "tests" };
    let mut text = match asked.flips.len() {
        0 => format!("  decisions: {} {noun} asked of both, none differs\n", asked.cases),
        1 => format!("  decisions: {} {noun} asked of both, 1 differs\n", asked.cases),
        differ => format!("  decisions: {} {noun} asked of both, {differ} differ\n", asked.cases),
    };
    for problem in &asked.problems {
        text.push_str(&format!("    {} {problem}\n", paint.yellow("not asked:")));
    }
    for flip in &asked.flips {
        text.push_str(&flip_text(flip, paint));
    }
    text
}

fn flip_text(flip: &Flip, paint: Paint) -> String {
    let line = flip.line.map(|line| format!(":{line}")).unwrap_or_default();
    let direction = format!("{} → {}", flip.old.word(), flip.new.word());
    let direction = match flip.direction() {
        Direction::Widens => paint.red(&direction),
        Direction::Narrows => paint.yellow(&direction),
    };
    format!(
        "    {direction}  {}  {}\n      old  {}\n      new  {}\n",
        escaped(&flip.case),
        paint.dim(&format!("{}{line}", flip.file)),
        flip.old.reason(),
        flip.new.reason()
    )
}

fn proof_text(proof: &Proof, paint: Paint) -> String {
    let Proof { kinds, questions, .. } = proof;
    if proof.is_proved() {
        let how = match questions {
            0 => "no change of a policy can allow more".to_owned(),
            1 => "1 question to the solver".to_owned(),
            questions => format!("{questions} questions to the solver"),
        };
        return format!(
            "  {}: NEW allows nothing that OLD denied, in any of {kinds} kinds of requests ({how})\n",
            paint.green("proved")
        );
    }
    proof.groups().iter().map(|group| group_text(group, paint)).collect()
}

fn group_text(group: &UnprovedGroup<'_>, paint: Paint) -> String {
    let UnprovedGroup { first, others } = group;
    let mut text = match &first.outcome {
        ProofOutcome::Widened(_) => format!("  {} {}\n", paint.red("widened:"), first.kind),
        ProofOutcome::Unknown(reason) => format!("  {} {}: {}\n", paint.yellow("unknown:"), first.kind, escaped(reason)),
    };
    if !first.about.is_empty() {
        text.push_str(&format!("    ({})\n", first.about));
    }
    if let ProofOutcome::Widened(request) = &first.outcome {
        text.push_str(&request_text(request));
    }
    for other in others {
        text.push_str(&format!("    likewise: {}\n", other.kind));
    }
    text
}

fn request_text(request: &Request) -> String {
    let mut text = format!(
        "    principal    {}\n    action       {}\n    resource     {}\n",
        request.principal, request.action, request.resource
    );
    if request.context.as_object().is_some_and(|context| !context.is_empty()) {
        text.push_str(&format!("    context      {}\n", cedar::value(&request.context)));
    }
    for (number, entity) in request.entities.iter().enumerate() {
        let label = if number == 0 { "entities" } else { "" };
        text.push_str(&format!("    {label:<8}     {}\n", cedar::entity(entity)));
    }
    text.push_str(&format!(
        "    OLD denies   {}\n    NEW allows   {}\n",
        request.old, request.new
    ));
    text
}
