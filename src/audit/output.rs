//! Lines into the sink, whole and in order: rotation, the chain, and what a failure leaves behind.
//!
//! A line that the sink took in part is completed before anything else is written, so the file has no broken line after
//! a full disk. If another program replaced or truncated the file meanwhile, the whole line is written to the new one.
//! A file that a crash left within a line gets a line break first. The chain's tip is that of the last line that the
//! sink took.

use std::io;
use std::time::Instant;

use super::chain::{Chain, ChainEnd, CheckpointEvent};
use super::sink::{Found, Sink, WriteProgress};

/// Bytes that are chained and written at once.
const CHAINED_BYTES: usize = 64 * 1024;
/// More than a chain member adds to a line.
const LINK_BYTES: usize = 128;

/// The sink, and the state that belongs to it.
#[derive(Debug)]
pub(super) struct Output {
    sink: Sink,
    chain: Option<Chain>,
    unfinished: Unfinished,
    /// A line whose beginning is in a file that is gone.
    again: Vec<u8>,
    chained: Chained,
}

/// A line whose beginning the sink has.
#[derive(Debug, Default)]
struct Unfinished {
    /// Empty: there is no such line.
    rest: Vec<u8>,
    /// The whole record as it was queued; empty for a checkpoint, and for the line of a former process.
    record: Vec<u8>,
    /// The chain's tip before the line.
    tip_before: Option<ChainEnd>,
}

/// Chained lines that were not written yet.
#[derive(Debug, Default)]
struct Chained {
    text: Vec<u8>,
    marks: Vec<Mark>,
}

/// The end of a chained line.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// In the chained text.
    end: usize,
    /// In the text before it was chained.
    raw_end: usize,
    tip: ChainEnd,
}

impl Output {
    /// `chain`: not begun yet. Its first line is written with the first call of `attend` or `write`.
    pub fn new(mut sink: Sink, chain: Option<Chain>) -> Self {
        let is_torn = sink.file().is_some_and(|file| file.ends_within_line());
        Self {
            sink,
            chain,
            unfinished: Unfinished {
                rest: if is_torn { b"\n".to_vec() } else { Vec::new() },
                ..Unfinished::default()
            },
            again: Vec::new(),
            chained: Chained::default(),
        }
    }

    /// Writes lines, and removes from `lines` those that need no further try, also if an error ends the writing.
    pub fn write(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        let mut done = 0;
        let result = self.write_from(lines, &mut done);
        drop(lines.drain(..done));
        result?;
        self.sync_if_due()
    }

    fn write_from(&mut self, lines: &[u8], done: &mut usize) -> io::Result<()> {
        if lines.is_empty() {
            return self.prepare(0);
        }
        while let Some(rest) = lines.get(*done..).filter(|rest| !rest.is_empty()) {
            // the length matters to rotation by size alone, and finding it costs a look at every byte
            let is_limited = self.sink.file().is_some_and(|file| file.room().is_some());
            self.prepare(if is_limited { end_of_line(rest) } else { 1 })?;
            let room = self.sink.file().and_then(|file| file.room());
            let room = room.map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX));
            let (taken, result) = self.write_lines(rest, room);
            *done += taken;
            result?;
        }
        Ok(())
    }

    /// Does what is due without new lines: the first line of a chain, a checkpoint, a rotation by time, fsync.
    pub fn attend(&mut self) -> io::Result<()> {
        self.prepare(0)?;
        let is_due = |chain: &Chain| chain.deadline().is_some_and(|at| at <= Instant::now());
        if self.chain.as_ref().is_some_and(is_due) {
            self.write_checkpoint(CheckpointEvent::Checkpoint)?;
        }
        self.sync_if_due()
    }

    /// When `attend` has something to do.
    pub fn deadline(&mut self) -> Option<Instant> {
        let chain = self.chain.as_ref().and_then(Chain::deadline);
        let file = self.sink.file().and_then(|file| file.deadline());
        chain.into_iter().chain(file).min()
    }

    /// Writes the last line of the chain and forces everything to the disk.
    pub fn finish(&mut self) -> io::Result<()> {
        self.prepare(0)?;
        if self.chain.is_some() {
            self.write_checkpoint(CheckpointEvent::End)?;
        }
        match self.sink.file() {
            Some(file) => file.sync(),
            None => Ok(()),
        }
    }

    /// Brings the sink to the state in which the next line, of `length` bytes, can be written.
    fn prepare(&mut self, length: usize) -> io::Result<()> {
        let found = match self.sink.file() {
            Some(file) => file.look()?,
            None => Found::Same,
        };
        if found != Found::Same {
            self.begin_file();
        }
        self.write_unfinished()?;
        let more = if self.chain.is_some() { length + LINK_BYTES } else { length };
        if length > 0 || self.deadline().is_some_and(|at| at <= Instant::now()) {
            self.rotate_if_due(more)?;
        }
        if let Some(event) = self.chain.as_ref().and_then(|chain| chain.opening) {
            self.write_checkpoint(event)?;
        }
        if self.again.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.again);
        let (taken, result) = self.write_lines(&line, usize::MAX);
        if taken == 0 {
            self.again = line;
        }
        result
    }

    fn begin_file(&mut self) {
        let Unfinished {
            rest,
            record,
            tip_before,
        } = std::mem::take(&mut self.unfinished);
        if !rest.is_empty() && !record.is_empty() {
            self.again = record;
        }
        if let Some(chain) = &mut self.chain {
            if let Some(tip) = tip_before.filter(|_| !rest.is_empty()) {
                chain.set_tip(tip);
            }
            chain.continue_elsewhere();
        }
    }

    fn rotate_if_due(&mut self, more: usize) -> io::Result<()> {
        if !self.sink.file().is_some_and(|file| file.is_rotation_due(more)) {
            return Ok(());
        }
        if self
            .chain
            .as_ref()
            .is_some_and(|chain| chain.opening.is_none() && chain.tip.unsigned > 0)
        {
            self.write_checkpoint(CheckpointEvent::Checkpoint)?;
        }
        if self.sink.file().is_some_and(|file| file.rotate()) {
            self.begin_file();
        }
        Ok(())
    }

    fn sync_if_due(&mut self) -> io::Result<()> {
        match self.sink.file() {
            Some(file) => file.sync_if_due(),
            None => Ok(()),
        }
    }

    fn write_unfinished(&mut self) -> io::Result<()> {
        if self.unfinished.rest.is_empty() {
            return Ok(());
        }
        let WriteProgress { bytes, result } = self.sink.write(&self.unfinished.rest);
        drop(self.unfinished.rest.drain(..bytes));
        result
    }

    /// Writes lines for about `room` bytes, at least one. Returns how many bytes of them need no further try.
    fn write_lines(&mut self, lines: &[u8], room: usize) -> (usize, io::Result<()>) {
        match &mut self.chain {
            None => self.write_plain(whole_lines(lines, room)),
            Some(chain) => {
                self.chained.fill(chain, lines, room.min(CHAINED_BYTES));
                self.write_chained(lines)
            }
        }
    }

    /// Writes whole lines. Returns how many bytes of them need no further try.
    fn write_plain(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let WriteProgress { bytes, result } = self.sink.write(lines);
        let is_whole = bytes.checked_sub(1).is_none_or(|last| lines.get(last) == Some(&b'\n'));
        if is_whole {
            return (bytes, result);
        }
        let (begun, rest) = lines.split_at_checked(bytes).unwrap_or((lines, &[]));
        let start = begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = bytes + end_of_line(rest);
        self.unfinished = Unfinished {
            rest: lines.get(bytes..end).unwrap_or_default().to_vec(),
            record: lines.get(start..end).unwrap_or_default().to_vec(),
            tip_before: None,
        };
        (end, result)
    }

    fn write_checkpoint(&mut self, event: CheckpointEvent) -> io::Result<()> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        self.chained.clear();
        let tip = chain.append_checkpoint(&chain.tip.clone(), event, &mut self.chained.text);
        self.chained.mark(0, tip);
        let (_, result) = self.write_chained(&[]);
        result
    }

    /// Writes the chained lines, and moves the chain's tip to the last one of which the sink has at least a part.
    /// `lines` are the same lines before they were chained; returns how many bytes of them need no further try.
    fn write_chained(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let WriteProgress { bytes, result } = self.sink.write(&self.chained.text);
        let Some(chain) = &mut self.chain else { return (0, result) };
        let mut taken = 0;
        let mut start = 0;
        for mark in &self.chained.marks {
            if bytes <= start {
                break;
            }
            if let Some(rest) = self.chained.text.get(bytes..mark.end).filter(|rest| !rest.is_empty()) {
                self.unfinished = Unfinished {
                    rest: rest.to_vec(),
                    record: lines.get(taken..mark.raw_end).unwrap_or_default().to_vec(),
                    tip_before: Some(chain.tip),
                };
            }
            taken = mark.raw_end;
            start = mark.end;
            chain.opening = None;
            chain.set_tip(mark.tip);
        }
        (taken, result)
    }
}

impl Chained {
    fn clear(&mut self) {
        self.text.clear();
        self.marks.clear();
    }

    fn mark(&mut self, raw_end: usize, tip: ChainEnd) {
        let end = self.text.len();
        self.marks.push(Mark { end, raw_end, tip });
    }

    /// Chains lines until their text fills `room`.
    fn fill(&mut self, chain: &mut Chain, lines: &[u8], room: usize) {
        self.clear();
        let mut tip = chain.tip;
        let mut raw_end = 0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let is_first = self.marks.is_empty();
            if !is_first && self.text.len() + line.len() + LINK_BYTES > room {
                return;
            }
            raw_end += line.len();
            tip = chain.append(&tip, line.strip_suffix(b"\n").unwrap_or(line), &mut self.text);
            self.mark(raw_end, tip);
            if chain.is_full(&tip) {
                tip = chain.append_checkpoint(&tip, CheckpointEvent::Checkpoint, &mut self.text);
                self.mark(raw_end, tip);
            }
        }
    }
}

/// Length of the first line with its line break.
fn end_of_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1)
}

/// The lines that fit into `room`; at least one.
fn whole_lines(lines: &[u8], room: usize) -> &[u8] {
    let fitting = match lines.get(..room) {
        None => return lines,
        Some(fitting) => fitting.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1),
    };
    lines.get(..fitting.unwrap_or_else(|| end_of_line(lines))).unwrap_or(lines)
}
