//! Costs in this process: many short batches of each function in turn, so that a slow moment of the machine meets all
//! functions alike, and the median of the batches leaves it out.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Extent;

/// Duration of a batch: long against the resolution of the clock, short against the pauses of a virtual machine.
const BATCH: Duration = Duration::from_micros(200);
/// Time of each function in each round.
const TURN: Duration = Duration::from_millis(40);
const BATCHES_MIN: usize = 3;
const BATCHES_MAX: usize = 100;
const ROUNDS: usize = 7;

/// A function to measure, and its position on the x axis.
pub struct Work<'a> {
    pub x: usize,
    call: Box<dyn FnMut() -> bool + 'a>,
}

/// The cost of one call, a number per round.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub x: usize,
    /// Microseconds.
    pub rounds: Vec<f64>,
}

impl<'a> Work<'a> {
    /// `call` returns false if its result was wrong; that ends the program.
    pub fn new(x: usize, call: impl FnMut() -> bool + 'a) -> Self {
        Self { x, call: Box::new(call) }
    }

    fn batch(&mut self, times: usize) -> Duration {
        let begun = Instant::now();
        let mut is_right = true;
        for _ in 0..times {
            is_right &= black_box((self.call)());
        }
        let took = begun.elapsed();
        assert!(is_right, "the measured function returned a wrong result at {}", self.x);
        took
    }

    /// The number of calls in a batch.
    fn calibrate(&mut self) -> usize {
        let mut times = 1;
        while times < 1 << 20 && self.batch(times) < BATCH {
            times *= 2;
        }
        times
    }
}

impl Cost {
    /// Microseconds.
    pub fn median(&self) -> f64 {
        median(self.rounds.iter().copied())
    }

    /// The distance of the extreme rounds, as a share of the median.
    pub fn spread(&self) -> f64 {
        let low = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.rounds.iter().copied().fold(0.0, f64::max);
        (high - low) / self.median()
    }

    /// The ratio to another cost, round by round.
    pub fn ratio(&self, base: &Self) -> f64 {
        median(self.rounds.iter().zip(&base.rounds).map(|(own, other)| own / other))
    }
}

/// Measures all functions in turn, round by round.
pub fn in_turns(extent: Extent, mut works: Vec<Work<'_>>) -> Vec<Cost> {
    let rounds = if extent == Extent::Whole { ROUNDS } else { 1 };
    let mut costs: Vec<Cost> = works
        .iter()
        .map(|work| Cost {
            x: work.x,
            rounds: Vec::new(),
        })
        .collect();
    let times: Vec<usize> = works
        .iter_mut()
        .map(|work| if extent == Extent::Whole { work.calibrate() } else { 1 })
        .collect();
    for _ in 0..rounds {
        for ((work, times), cost) in works.iter_mut().zip(&times).zip(&mut costs) {
            cost.rounds.push(turn(extent, work, *times));
        }
    }
    costs
}

fn turn(extent: Extent, work: &mut Work<'_>, times: usize) -> f64 {
    let begun = Instant::now();
    let mut batches = Vec::new();
    let enough = if extent == Extent::Whole { BATCHES_MIN } else { 1 };
    while batches.len() < enough || (extent == Extent::Whole && begun.elapsed() < TURN && batches.len() < BATCHES_MAX) {
        batches.push(work.batch(times).as_secs_f64() * 1e6 / number(times));
    }
    median(batches)
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 50)
}

pub fn quantile(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    let place = (all.len() * percent / 100).min(all.len().saturating_sub(1));
    all.get(place).copied().unwrap_or(f64::NAN)
}

/// A count as a floating-point number, for plots and ratios.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub const fn number(count: usize) -> f64 {
    count as f64
}
