//! The queue of finished lines between the threads that decide and the writer thread: one buffer of text, bounded by
//! records.
//!
//! Senders append a whole line under the lock, and the writer takes the whole buffer and leaves an empty one. A sender
//! never waits for the sink, and wakes the writer only if it waits. A line counts until the sink has it, so no more
//! than the configured number of records is ever in memory. A reservation counts as a line and is always accepted
//! later.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// A buffer that grew beyond this in a burst is given back to the allocator.
const KEPT_BYTES: usize = 1024 * 1024;

/// The queue. Senders and the writer share it.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Signalled when the writer waits and there is a line for it, or the queue is closed.
    wake: Condvar,
    /// Most records: those that wait, those being written, and reservations.
    records_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    lines: usize,
    /// Lines that the writer took and that the sink does not have yet.
    taken: usize,
    reserved: usize,
    writer_sleeps: bool,
    closed: bool,
}

/// The queue is full or closed.
#[derive(Debug)]
pub(super) struct Full;

/// A place for one line. Dropping it without a line frees the place.
#[derive(Debug)]
pub(super) struct Reservation(Option<Arc<Queue>>);

/// The lines that the writer took.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub text: Vec<u8>,
    pub lines: usize,
}

/// What the writer took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TakenLines {
    Lines,
    /// The deadline is over.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

impl Waiting {
    fn is_full(&self, records_max: usize) -> bool {
        self.lines + self.taken + self.reserved >= records_max
    }
}

impl Queue {
    pub fn new(records_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            records_max,
        }
    }

    /// Reserves the place of a line.
    pub fn reserve(self: &Arc<Self>) -> Result<Reservation, Full> {
        let mut waiting = self.waiting.lock();
        if waiting.is_full(self.records_max) {
            return Err(Full);
        }
        waiting.reserved += 1;
        Ok(Reservation(Some(Arc::clone(self))))
    }

    /// Adds a line in a place of its own.
    pub fn push(&self, line: &[u8]) -> Result<(), Full> {
        let waiting = self.waiting.lock();
        if waiting.closed || waiting.is_full(self.records_max) {
            return Err(Full);
        }
        self.add(line, waiting);
        Ok(())
    }

    fn add(&self, line: &[u8], mut waiting: MutexGuard<'_, Waiting>) {
        waiting.text.extend_from_slice(line);
        waiting.lines += 1;
        let wakes = std::mem::take(&mut waiting.writer_sleeps);
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Waits until there are lines or the deadline is over, and exchanges the lines for the empty `batch`.
    pub fn take(&self, batch: &mut Batch, deadline: Option<Instant>) -> TakenLines {
        let mut waiting = self.waiting.lock();
        let mut is_over = false;
        while waiting.lines == 0 && !waiting.closed && !is_over {
            waiting.writer_sleeps = true;
            match deadline {
                None => self.wake.wait(&mut waiting),
                Some(deadline) => is_over = self.wake.wait_until(&mut waiting, deadline).timed_out(),
            }
        }
        waiting.writer_sleeps = false;
        if waiting.lines == 0 {
            return if waiting.closed {
                TakenLines::Closed
            } else {
                TakenLines::Nothing
            };
        }
        if batch.text.capacity() > KEPT_BYTES {
            batch.text = Vec::new();
        }
        std::mem::swap(&mut waiting.text, &mut batch.text);
        batch.lines = std::mem::take(&mut waiting.lines);
        waiting.taken = batch.lines;
        TakenLines::Lines
    }

    /// Frees the places of the lines that the writer took.
    pub fn done(&self) {
        self.waiting.lock().taken = 0;
    }

    /// Makes the writer end once the queue is empty. Later lines are refused.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }
}

impl Reservation {
    /// Adds a line in the reserved place.
    pub fn push(mut self, line: &[u8]) {
        let Some(queue) = self.0.take() else { return };
        let mut waiting = queue.waiting.lock();
        waiting.reserved -= 1;
        queue.add(line, waiting);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.waiting.lock().reserved -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(queue: &Queue, batch: &mut Batch) -> String {
        batch.text.clear();
        assert_eq!(queue.take(batch, None), TakenLines::Lines);
        String::from_utf8(batch.text.clone()).unwrap()
    }

    #[test]
    fn lines_come_in_order_and_count_until_they_are_written() {
        let queue = Queue::new(2);
        let mut batch = Batch::default();
        queue.push(b"1\n").unwrap();
        queue.push(b"2\n").unwrap();
        queue.push(b"3\n").unwrap_err();
        assert_eq!((taken(&queue, &mut batch).as_str(), batch.lines), ("1\n2\n", 2));
        batch.text.clear();
        assert_eq!(queue.take(&mut batch, Some(Instant::now())), TakenLines::Nothing);
        queue.push(b"3\n").unwrap_err();
        queue.done();
        queue.push(b"3\n").unwrap();
        queue.close();
        assert_eq!((taken(&queue, &mut batch).as_str(), batch.lines), ("3\n", 1));
        batch.text.clear();
        assert_eq!(queue.take(&mut batch, None), TakenLines::Closed);
    }

    #[test]
    fn reservation_keeps_its_place_until_it_is_used_or_dropped() {
        let queue = Arc::new(Queue::new(1));
        let reservation = queue.reserve().unwrap();
        queue.push(b"1\n").unwrap_err();
        queue.reserve().unwrap_err();
        drop(reservation);
        let reservation = queue.reserve().unwrap();
        reservation.push(b"2\n");
        queue.reserve().unwrap_err();
        assert_eq!(taken(&queue, &mut Batch::default()), "2\n");
        queue.done();
        queue.reserve().unwrap();
    }

    #[test]
    fn line_wakes_a_writer_that_sleeps() {
        let queue = Arc::new(Queue::new(10));
        let writer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let mut batch = Batch::default();
                let mut lines = 0;
                while queue.take(&mut batch, None) == TakenLines::Lines {
                    lines += batch.lines;
                    batch.text.clear();
                    queue.done();
                }
                lines
            }
        });
        for _ in 0..100 {
            while queue.push(b"x\n").is_err() {
                std::thread::yield_now();
            }
        }
        queue.close();
        assert_eq!(writer.join().unwrap(), 100);
    }
}
