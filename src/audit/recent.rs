//! The newest records in memory, so that a running gate can explain a decision by its id.
//!
//! The writer thread adds what it writes, in batches; no request waits for it. The oldest batches go when the bytes
//! exceed `audit.recent_bytes`. The lines are masked like those of the sink.

use std::collections::VecDeque;

use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct Recent {
    bytes_max: usize,
    kept: Mutex<RecentRecord>,
}

#[derive(Debug, Default)]
struct RecentRecord {
    batches: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Recent {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            kept: Mutex::default(),
        }
    }

    /// Keeps whole lines, each with its line break.
    pub fn add(&self, lines: &[u8]) {
        let lines = newest(lines, self.bytes_max);
        if lines.is_empty() {
            return;
        }
        let mut kept = self.kept.lock();
        kept.bytes += lines.len();
        kept.batches.push_back(lines.into());
        while kept.bytes > self.bytes_max {
            let Some(oldest) = kept.batches.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
    }

    /// The lines that hold this text, the newest first.
    pub fn lines_with(&self, text: &str) -> Vec<Box<[u8]>> {
        let kept = self.kept.lock();
        let lines = kept
            .batches
            .iter()
            .rev()
            .flat_map(|batch| batch.rsplit(|byte| *byte == b'\n'));
        let holds = |line: &&[u8]| line.windows(text.len().max(1)).any(|part| part == text.as_bytes());
        lines.filter(holds).map(Box::from).collect()
    }
}

/// The last lines that fit.
fn newest(lines: &[u8], bytes_max: usize) -> &[u8] {
    let Some(surplus) = lines.len().checked_sub(bytes_max).filter(|surplus| *surplus > 0) else {
        return lines;
    };
    let cut = lines.get(surplus - 1..).unwrap_or_default();
    let whole = cut.iter().position(|byte| *byte == b'\n').map_or(cut.len(), |at| at + 1);
    cut.get(whole..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(recent: &Recent, text: &str) -> Vec<String> {
        let lines = recent.lines_with(text);
        lines
            .into_iter()
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn the_newest_whole_lines_are_kept_within_the_bytes() {
        let recent = Recent::new(10);
        recent.add(b"a1\na2\n");
        recent.add(b"a3\n");
        assert_eq!(found(&recent, "a"), ["a3", "a2", "a1"]);
        recent.add(b"a4\n");
        assert_eq!(found(&recent, "a"), ["a4", "a3"], "a batch goes as a whole");
        recent.add(b"too long\nb5\nb6\nb7\n");
        assert_eq!(found(&recent, "b"), ["b7", "b6", "b5"]);
        assert!(found(&recent, "a").is_empty());
        let none = Recent::new(0);
        none.add(b"a\n");
        assert!(found(&none, "a").is_empty());
    }
}
