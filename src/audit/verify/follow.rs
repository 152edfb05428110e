//! Follows one chain through its lines: what the next line must be, and what is missing so far.

use super::super::chain::link::{self, ChainId, Hash, Link, Signature};
use super::super::chain::{CheckpointEvent, NO_HASH, PlaceText};
use super::{ChainFinding, ChainReport, Checkpoint, FindingKind, LineLocation, Trust};
use crate::base::terminal::counted;

/// Gaps that are remembered, so that a line that comes late counts as reordered.
const GAPS_MAX: usize = 1000;

/// Lines that did not come when they were due.
#[derive(Debug)]
struct Gap {
    from: u64,
    to: u64,
    /// Hash of the line before `from`, if that line was there.
    before: Option<Hash>,
    /// The line behind the gap.
    spot: LineLocation,
    /// The checkpoint before the gap.
    after_checkpoint: Option<LineLocation>,
    /// The first checkpoint behind it.
    before_checkpoint: Option<LineLocation>,
}

/// The state of one chain.
#[derive(Debug)]
pub(super) struct Follower {
    id: ChainId,
    replica: Option<String>,
    first: LineLocation,
    last: LineLocation,
    /// Number of the line that is due.
    next: u64,
    /// Hash of the line before it; `None`: not known.
    head: Option<Hash>,
    lines: u64,
    checkpoints: u64,
    /// The last checkpoint whose signature is right.
    checkpoint: Option<LineLocation>,
    proven_to: Option<LineLocation>,
    /// Number of the last line that a checkpoint proves.
    proven_seq: Option<u64>,
    /// Lines since the last checkpoint.
    not_proven: u64,
    ended: bool,
    lost: u64,
    gaps: Vec<Gap>,
    /// Findings since the last checkpoint, which do not know the next one yet.
    waiting: Vec<ChainFinding>,
    former: Option<PlaceText>,
    begins_here: ChainStart,
    /// Number of the first line here.
    first_seq: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ChainStart {
    Start,
    /// A `continue` line names the place so far.
    Continued,
    Absent,
}

impl Follower {
    /// A follower whose first line is `link`.
    pub fn new(link: &Link<'_>, checkpoint: Option<&Checkpoint>, spot: LineLocation) -> Self {
        let event = checkpoint.map(|checkpoint| checkpoint.event);
        let (begins_here, head) = match event {
            Some(CheckpointEvent::Start) if link.seq == 0 => (ChainStart::Start, Some(NO_HASH)),
            Some(CheckpointEvent::Continue) => (ChainStart::Continued, checkpoint.and_then(|found| before(found, link))),
            _ => (ChainStart::Absent, None),
        };
        Self {
            id: link.id,
            replica: None,
            first: spot.clone(),
            last: spot,
            next: link.seq,
            head,
            lines: 0,
            checkpoints: 0,
            checkpoint: None,
            proven_to: None,
            proven_seq: None,
            not_proven: 0,
            ended: false,
            lost: 0,
            gaps: Vec::new(),
            waiting: Vec::new(),
            former: None,
            begins_here,
            first_seq: link.seq,
        }
    }

    /// Takes the next line of the chain. `found` gets what is wrong, once the checkpoint behind it is known.
    pub fn line(
        &mut self,
        link: &Link<'_>,
        checkpoint: Option<Checkpoint>,
        spot: LineLocation,
        trust: Trust<'_>,
        found: &mut Vec<ChainFinding>,
    ) {
        self.lines += 1;
        if link.seq < self.next {
            self.late(link, &spot);
            return;
        }
        if link.seq > self.next {
            self.gap(link, &spot);
            // a `continue` line says itself what came before
            self.head = checkpoint.as_ref().and_then(|checkpoint| before(checkpoint, link));
        }
        let fits = self
            .head
            .is_none_or(|head| link.hash_behind(&head, &mut Vec::new()) == link.hash);
        self.head = Some(link.hash);
        self.next = link.seq.saturating_add(1);
        self.last = spot.clone();
        self.not_proven += 1;
        self.ended = false;
        let Some(signature) = &link.signature else {
            if !fits {
                self.wait(
                    FindingKind::Changed,
                    &spot,
                    "this line was changed: its content does not have the hash that it claims",
                );
            } else if link.record().starts_with(b"{\"schema_version\":1,\"kind\":\"checkpoint\"") {
                self.wait(FindingKind::Signature, &spot, "the signature of this checkpoint is gone");
            }
            return;
        };
        let is_genuine = self.check_signature(&link.hash, signature, &spot, trust);
        if !fits {
            let message = match is_genuine {
                true => {
                    "the signed hash of this checkpoint does not follow from the lines before it: this line was changed, or one since the \
                     last checkpoint was changed and the hashes behind it computed anew"
                }
                false => "this checkpoint was changed: its content does not have the hash that it claims",
            };
            self.wait(FindingKind::Changed, &spot, message);
        }
        if let Some(checkpoint) = checkpoint {
            self.take_facts(checkpoint);
        }
        if is_genuine {
            self.proven(link.seq, spot, found);
        }
    }

    /// True if the signature is that of a given key, or is not to be looked at.
    fn check_signature(&mut self, hash: &Hash, signature: &Signature<'_>, spot: &LineLocation, trust: Trust<'_>) -> bool {
        let Trust::Keys(keys) = trust else { return true };
        let Some(key) = keys.iter().find(|key| key.id() == signature.key) else {
            let message = format!(
                "this checkpoint is signed by the key `{}`, which was not given",
                signature.key
            );
            self.wait(FindingKind::UnknownKey, spot, &message);
            return false;
        };
        let is_genuine = key.verifies(&link::signed_text(hash), &signature.bytes);
        if !is_genuine {
            self.wait(FindingKind::Signature, spot, "the signature of this checkpoint is wrong");
        }
        is_genuine
    }

    fn take_facts(&mut self, checkpoint: Checkpoint) {
        self.checkpoints += 1;
        self.ended = checkpoint.event == CheckpointEvent::End;
        self.lost = checkpoint.lost;
        self.replica = Some(checkpoint.replica);
        if checkpoint.event == CheckpointEvent::Start {
            self.former = checkpoint.previous;
        }
    }

    /// A checkpoint with a right signature: what came before it is proven, or is known to be wrong.
    fn proven(&mut self, seq: u64, spot: LineLocation, found: &mut Vec<ChainFinding>) {
        self.not_proven = 0;
        self.proven_seq = Some(seq);
        self.proven_to = Some(spot.clone());
        for gap in self.gaps.iter_mut().filter(|gap| gap.before_checkpoint.is_none()) {
            gap.before_checkpoint = Some(spot.clone());
        }
        found.extend(self.waiting.drain(..).map(|mut finding| {
            finding.before_checkpoint = Some(spot.clone());
            finding
        }));
        self.checkpoint = Some(spot);
    }

    fn wait(&mut self, kind: FindingKind, spot: &LineLocation, message: &str) {
        if self.waiting.len() < super::FINDINGS_MAX {
            let finding = self.finding(kind, spot.clone(), message.to_owned());
            self.waiting.push(finding);
        }
    }

    fn finding(&self, kind: FindingKind, spot: LineLocation, message: String) -> ChainFinding {
        ChainFinding {
            kind,
            spot,
            chain: Some(self.id),
            message,
            after_checkpoint: self.checkpoint.clone(),
            before_checkpoint: None,
        }
    }

    /// The lines from the one that is due up to this one did not come.
    fn gap(&mut self, link: &Link<'_>, spot: &LineLocation) {
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(Gap {
                from: self.next,
                to: link.seq - 1,
                before: self.head,
                spot: spot.clone(),
                after_checkpoint: self.checkpoint.clone(),
                before_checkpoint: None,
            });
        } else {
            self.wait(FindingKind::Removed, spot, "lines are missing before this one");
        }
    }

    /// A line that should have come before: reordered if it is missing so far, else there twice.
    fn late(&mut self, link: &Link<'_>, spot: &LineLocation) {
        let seq = link.seq;
        let Some(at) = self.gaps.iter().position(|gap| gap.from <= seq && seq <= gap.to) else {
            let message = format!("line {seq} of the chain stands here once more");
            self.wait(FindingKind::Duplicated, spot, &message);
            return;
        };
        let gap = self.gaps.remove(at);
        let message = format!("line {seq} of the chain stands here, behind later ones");
        self.wait(FindingKind::Reordered, spot, &message);
        let before = gap.before.filter(|_| gap.from == seq);
        if before.is_some_and(|before| link.hash_behind(&before, &mut Vec::new()) != link.hash) {
            self.wait(
                FindingKind::Changed,
                spot,
                "this line was changed: its content does not have the hash that it claims",
            );
        }
        let rest = [
            (gap.from, seq.checked_sub(1), gap.before),
            (seq.saturating_add(1), Some(gap.to), Some(link.hash)),
        ];
        for (from, to, before) in rest {
            if let Some(to) = to.filter(|to| from <= *to) {
                self.gaps.push(Gap {
                    from,
                    to,
                    before,
                    spot: gap.spot.clone(),
                    after_checkpoint: gap.after_checkpoint.clone(),
                    before_checkpoint: gap.before_checkpoint.clone(),
                });
            }
        }
    }

    /// What is known only at the end of all files.
    pub fn finish(&self, found: &mut Vec<ChainFinding>) {
        found.extend(self.waiting.iter().cloned());
        found.extend(self.gaps.iter().map(|gap| {
            let lines = counted(gap.to - gap.from + 1, "line", "lines");
            let message = format!(
                "{lines} ({} to {} of the chain) missing before this one; this one cannot be checked without them",
                gap.from, gap.to
            );
            ChainFinding {
                after_checkpoint: gap.after_checkpoint.clone(),
                before_checkpoint: gap.before_checkpoint.clone(),
                ..self.finding(FindingKind::Removed, gap.spot.clone(), message)
            }
        }));
        let before = self.first_seq.saturating_sub(1);
        match self.begins_here {
            ChainStart::Start => {}
            ChainStart::Continued => {
                let message = format!("the chain begins before these files: lines 0 to {before} are not among them");
                found.push(self.finding(FindingKind::NoBeginning, self.first.clone(), message));
            }
            ChainStart::Absent => {
                let message =
                    "the chain has no beginning here: the first line of the file was removed, or the file does not start one";
                found.push(self.finding(FindingKind::Removed, self.first.clone(), message.to_owned()));
            }
        }
        if self.not_proven > 0 {
            let lines = counted(self.not_proven, "line is", "lines are");
            let message =
                format!("{lines} behind the last checkpoint and not proven; lines removed from the end cannot be noticed");
            found.push(self.finding(FindingKind::NotProven, self.last.clone(), message));
        } else if !self.ended {
            let message = "the chain has no end here: the gate runs, or it crashed, or lines were removed from the end";
            found.push(self.finding(FindingKind::NoEnd, self.last.clone(), message.to_owned()));
        }
    }

    pub const fn former(&self) -> Option<&PlaceText> {
        self.former.as_ref()
    }

    /// Compares the end of this chain with what the next one says of it.
    pub fn compare_end(&self, said: &PlaceText, next: &Self, found: &mut Vec<ChainFinding>) {
        let last = self.next.saturating_sub(1);
        if said.seq > last {
            let missing = counted(said.seq - last, "line was", "lines were");
            let message = format!(
                "{missing} removed from the end of chain {}: the next chain knows line {}",
                self.id, said.seq
            );
            found.push(next.finding(FindingKind::Removed, next.first.clone(), message));
        } else if said.seq == last && self.head.is_some_and(|head| link::hash_text(&head) != said.hash) {
            let message = format!("the next chain knows the last line of chain {} with another hash", self.id);
            found.push(next.finding(FindingKind::Changed, self.last.clone(), message));
        } else if said.seq < last && self.proven_seq.is_none_or(|proven| proven < last) {
            let message = format!("the next chain knows chain {} up to line {} only", self.id, said.seq);
            found.push(self.finding(FindingKind::Added, self.last.clone(), message));
        }
    }

    /// The chain before this one is not among the files.
    pub fn without_former(&self, former: &PlaceText) -> ChainFinding {
        let message = format!(
            "the chain before this one, `{}` up to line {}, is not among these files",
            former.id, former.seq
        );
        self.finding(FindingKind::NoBeginning, self.first.clone(), message)
    }

    pub fn report(&self) -> ChainReport {
        ChainReport {
            id: self.id.to_string(),
            replica: self.replica.clone(),
            first: self.first.clone(),
            last: self.last.clone(),
            lines: self.lines,
            checkpoints: self.checkpoints,
            proven_to: self.proven_to.clone(),
            not_proven: self.not_proven,
            ended: self.ended,
            lost: self.lost,
        }
    }
}

/// The hash before a `continue` line, as the line itself says.
fn before(checkpoint: &Checkpoint, link: &Link<'_>) -> Option<Hash> {
    let previous = checkpoint.previous.as_ref()?;
    let is_here = previous.id == link.id.as_str() && previous.seq.checked_add(1) == Some(link.seq);
    link::parse_hash(&previous.hash).filter(|_| is_here && checkpoint.event == CheckpointEvent::Continue)
}
