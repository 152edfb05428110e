//! `cedargate audit verify`: follows the chains of decision-log files and places what does not fit.
//!
//! Files are read line by line; memory does not grow with them. One `Follower` follows one chain, because the lines of
//! several replicas may be in one file. A finding names the line, and the checkpoints around it. What no checkpoint
//! covers is reported as not proven, not as intact (docs/audit.md).

mod follow;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::chain::link::{ChainId, Link};
use super::chain::{CheckpointEvent, PlaceText};
use super::lines::{self, Line, Lines};
use crate::base::ed25519::VerifyingKey;
use crate::base::terminal::counted;
use follow::Follower;

/// Chains that are followed at once. One run of one gate is one chain.
const CHAINS_MAX: usize = 10_000;
/// Findings that are kept; more are counted.
const FINDINGS_MAX: usize = 1000;

/// The kind of a finding, as its rule names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FindingKind {
    /// A line's content does not have the hash that it claims.
    Changed,
    /// Lines of a chain are not there.
    Removed,
    /// A line stands behind a later one.
    Reordered,
    /// A line stands there twice.
    Duplicated,
    /// A line that the next chain does not know stands behind the end of a chain.
    Added,
    /// A line without a place in a chain.
    Unchained,
    /// A checkpoint's signature is missing or wrong.
    Signature,
    /// A checkpoint is signed by a key that was not given.
    UnknownKey,
    /// The line was cut off by a crash, or at the end of the file.
    Cut,
    /// The beginning of a chain is not among the files.
    NoBeginning,
    /// The chain has no `end` line.
    NoEnd,
    /// Lines behind the last checkpoint.
    NotProven,
    /// Lines before the first chain.
    NotCovered,
}

/// The place of a line.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LineLocation {
    pub file: String,
    /// From 1.
    pub line: u64,
}

#[derive(Clone, Debug)]
pub struct ChainFinding {
    pub kind: FindingKind,
    pub spot: LineLocation,
    pub chain: Option<ChainId>,
    pub message: String,
    /// The last checkpoint before the place.
    pub after_checkpoint: Option<LineLocation>,
    /// The first one behind it.
    pub before_checkpoint: Option<LineLocation>,
}

/// What is known of one chain.
#[derive(Clone, Debug, Serialize)]
pub struct ChainReport {
    pub id: String,
    pub replica: Option<String>,
    pub first: LineLocation,
    pub last: LineLocation,
    pub lines: u64,
    pub checkpoints: u64,
    /// The last line that a checkpoint proves.
    pub proven_to: Option<LineLocation>,
    pub not_proven: u64,
    pub ended: bool,
    /// Records that the gate says it lost.
    pub lost: u64,
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of their places.
    pub findings: Vec<ChainFinding>,
    /// Findings beyond the most that are kept.
    pub findings_left_out: u64,
    pub chains: Vec<ChainReport>,
    pub files: Vec<String>,
    pub lines: u64,
}

/// Which keys checkpoints are held against.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    Keys(&'a [VerifyingKey]),
    /// Signatures are not looked at: only accidents are found.
    HashesOnly,
}

/// The fields of a checkpoint that verification reads.
#[derive(Debug, Deserialize)]
struct Checkpoint {
    kind: String,
    event: CheckpointEvent,
    replica: String,
    previous: Option<PlaceText>,
    lost: u64,
}

impl FindingKind {
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Changed => "audit-changed",
            Self::Removed => "audit-removed",
            Self::Reordered => "audit-reordered",
            Self::Duplicated => "audit-duplicated",
            Self::Added => "audit-added",
            Self::Unchained => "audit-unchained",
            Self::Signature => "audit-signature",
            Self::UnknownKey => "audit-unknown-key",
            Self::Cut => "audit-cut",
            Self::NoBeginning => "audit-no-beginning",
            Self::NoEnd => "audit-no-end",
            Self::NotProven => "audit-not-proven",
            Self::NotCovered => "audit-not-covered",
        }
    }

    /// True if the log is not as the gate wrote it. False for what a crash, or the choice of files, explains as well.
    pub const fn is_damage(self) -> bool {
        !matches!(
            self,
            Self::Cut | Self::NoBeginning | Self::NoEnd | Self::NotProven | Self::NotCovered
        )
    }
}

impl Checkpoint {
    fn of(link: &Link<'_>) -> Option<Self> {
        serde_json::from_slice(&link.record())
            .ok()
            .filter(|found: &Self| found.kind == "checkpoint")
    }
}

/// Verifies the files in the order in which they were written, in any order given.
pub fn verify(paths: &[PathBuf], trust: Trust<'_>) -> io::Result<Report> {
    let mut verifier = Verifier {
        trust,
        followers: BTreeMap::new(),
        order: Vec::new(),
        findings: Vec::new(),
        findings_left_out: 0,
        not_covered: None,
        unchained: None,
        cut: None,
        files: Vec::new(),
        lines: 0,
    };
    for path in lines::in_order(paths)? {
        verifier
            .file(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))?;
    }
    Ok(verifier.finish())
}

struct Verifier<'a> {
    trust: Trust<'a>,
    followers: BTreeMap<ChainId, Follower>,
    /// Chains in the order in which they begin.
    order: Vec<ChainId>,
    findings: Vec<ChainFinding>,
    findings_left_out: u64,
    /// The first line without a chain before every chain, and their number.
    not_covered: Option<(LineLocation, u64)>,
    /// The same for a run of lines among chained ones.
    unchained: Option<(LineLocation, u64)>,
    /// A line that is not JSON, until the next line tells whether a crash explains it.
    cut: Option<LineLocation>,
    files: Vec<String>,
    lines: u64,
}

impl Verifier<'_> {
    fn file(&mut self, path: &Path) -> io::Result<()> {
        let name = path.display().to_string();
        let mut lines = Lines::open(path)?;
        let mut number = 0;
        while let Some(line) = lines.next()? {
            number += 1;
            self.lines += 1;
            let spot = LineLocation {
                file: name.clone(),
                line: number,
            };
            self.line(&line, spot);
        }
        if let Some(spot) = self.cut.take() {
            self.add(
                FindingKind::Cut,
                spot,
                "the line is cut off at the end of the file; its record is not complete",
            );
        }
        self.end_unchained();
        self.files.push(name);
        Ok(())
    }

    fn line(&mut self, line: &Line<'_>, spot: LineLocation) {
        let link = if line.is_too_long || !line.is_whole {
            None
        } else {
            Link::of(line.bytes)
        };
        let Some(link) = link else {
            self.unchained_line(line, spot);
            return;
        };
        let checkpoint = link.signature.is_some().then(|| Checkpoint::of(&link)).flatten();
        let begins_chain = checkpoint.as_ref().is_some_and(|found| found.event == CheckpointEvent::Start);
        if let Some(cut) = self.cut.take() {
            let (kind, message) = if begins_chain {
                (
                    FindingKind::Cut,
                    "the line is cut off, as by a crash; the gate started again behind it",
                )
            } else {
                (
                    FindingKind::Unchained,
                    "the line is not a record, and no start of the gate behind it explains a crash",
                )
            };
            self.add(kind, cut, message);
        }
        self.end_unchained();
        if !self.followers.contains_key(&link.id) {
            if self.followers.len() >= CHAINS_MAX {
                let message = format!("more than {CHAINS_MAX} chains; verify fewer files at once");
                self.add(FindingKind::Unchained, spot, &message);
                return;
            }
            self.order.push(link.id);
        }
        let id = link.id;
        let follower = self
            .followers
            .entry(id)
            .or_insert_with(|| Follower::new(&link, checkpoint.as_ref(), spot.clone()));
        let mut found = Vec::new();
        follower.line(&link, checkpoint, spot, self.trust, &mut found);
        for finding in found {
            self.keep(finding);
        }
    }

    fn unchained_line(&mut self, line: &Line<'_>, spot: LineLocation) {
        let is_json = line.is_whole && serde_json::from_slice::<serde::de::IgnoredAny>(line.bytes).is_ok();
        if self.followers.is_empty() && is_json {
            let (_, count) = self.not_covered.get_or_insert((spot, 0));
            *count += 1;
        } else if is_json || line.is_too_long || self.cut.is_some() {
            let (_, count) = self.unchained.get_or_insert((spot, 0));
            *count += 1;
        } else {
            self.cut = Some(spot);
        }
    }

    fn end_unchained(&mut self) {
        if let Some((spot, count)) = self.unchained.take() {
            let message = format!(
                "{} here without a place in a chain",
                counted(count, "line stands", "lines stand")
            );
            self.add(FindingKind::Unchained, spot, &message);
        }
    }

    fn add(&mut self, kind: FindingKind, spot: LineLocation, message: &str) {
        self.keep(ChainFinding {
            kind,
            spot,
            chain: None,
            message: message.to_owned(),
            after_checkpoint: None,
            before_checkpoint: None,
        });
    }

    fn keep(&mut self, finding: ChainFinding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    fn finish(mut self) -> Report {
        if let Some((spot, count)) = self.not_covered.take() {
            let message = format!(
                "{} before the first chain and not covered",
                counted(count, "line is", "lines are")
            );
            self.add(FindingKind::NotCovered, spot, &message);
        }
        let mut found = Vec::new();
        for id in &self.order {
            let Some(follower) = self.followers.get(id) else { continue };
            follower.finish(&mut found);
            if let Some(former) = follower.former() {
                match ChainId::parse(former.id.as_bytes()).and_then(|id| self.followers.get(&id)) {
                    Some(before) => before.compare_end(former, follower, &mut found),
                    None => found.push(follower.without_former(former)),
                }
            }
        }
        for finding in found {
            self.keep(finding);
        }
        let place = |spot: &LineLocation| (self.files.iter().position(|file| *file == spot.file), spot.line);
        self.findings.sort_by_key(|finding| place(&finding.spot));
        let followers = self.order.iter().filter_map(|id| self.followers.get(id));
        Report {
            chains: followers.map(Follower::report).collect(),
            findings: self.findings,
            findings_left_out: self.findings_left_out,
            files: self.files,
            lines: self.lines,
        }
    }
}
