//! Stops asking an app that cannot be reached: one circuit per upstream, shared by all workers.
//!
//! Only connection attempts count: refused, timed out, TLS. After `failures` in a row it is open, and requests that
//! would need a new connection fail at once; living connections are proof of an app and go on being used. After
//! `pause` one attempt may try (half-open); its success closes the circuit. Atomics only: nobody waits for anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use crate::config;

/// `until` of a closed circuit.
const CLOSED: u64 = 0;
/// Longest error text kept, in characters.
const ERROR_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub struct Circuit {
    settings: config::Circuit,
    /// What the microseconds below count from.
    start: Instant,
    /// In a row.
    failures: AtomicU32,
    /// Microseconds until which nothing is tried.
    until: AtomicU64,
    /// Whether somebody tries on behalf of all.
    probing: AtomicBool,
    last_error: ArcSwapOption<String>,
}

/// One connection attempt; dropped without a result (client gone), it says nothing.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    circuit: &'a Circuit,
    probe: bool,
}

/// What `/status` shows.
#[derive(Clone, Debug)]
pub struct CircuitStatus {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Failed attempts in a row.
    pub failures: u32,
    /// Of the newest failed attempt since the app could last be reached.
    pub last_error: Option<Arc<String>>,
}

impl Circuit {
    pub fn new(settings: config::Circuit) -> Self {
        Self {
            settings,
            start: Instant::now(),
            failures: AtomicU32::new(0),
            until: AtomicU64::new(CLOSED),
            probing: AtomicBool::new(false),
            last_error: ArcSwapOption::empty(),
        }
    }

    /// `None`: it is open, or another request is trying.
    pub(super) fn attempt(&self) -> Option<Attempt<'_>> {
        let attempt = |probe| Attempt { circuit: self, probe };
        if self.until.load(Ordering::Acquire) == CLOSED {
            return Some(attempt(false));
        }
        if !self.may_try() || self.probing.swap(true, Ordering::AcqRel) {
            return None;
        }
        // from here on dropping it lets the next one try
        let attempt = attempt(true);
        // the one who tried before may have failed between our two looks
        self.may_try().then_some(attempt)
    }

    pub fn status(&self) -> CircuitStatus {
        let state = match self.until.load(Ordering::Acquire) {
            CLOSED => "closed",
            _ if self.may_try() => "half_open",
            _ => "open",
        };
        CircuitStatus {
            state,
            failures: self.failures.load(Ordering::Relaxed),
            last_error: self.last_error.load_full(),
        }
    }

    fn may_try(&self) -> bool {
        self.until.load(Ordering::Acquire) <= self.now()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Attempt<'_> {
    pub fn succeeded(self) {
        let circuit = self.circuit;
        // a write to shared memory only where something changed: this is every new connection
        if circuit.failures.load(Ordering::Relaxed) != 0 || circuit.until.load(Ordering::Relaxed) != CLOSED {
            circuit.failures.store(0, Ordering::Relaxed);
            circuit.last_error.store(None);
            circuit.until.store(CLOSED, Ordering::Release);
        }
    }

    pub fn failed(self, error: &dyn std::fmt::Display) {
        let circuit = self.circuit;
        let text: String = error.to_string().chars().take(ERROR_CHARS_MAX).collect();
        circuit.last_error.store(Some(Arc::new(text)));
        let failures = circuit.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if circuit.settings.failures > 0 && failures >= circuit.settings.failures {
            let pause = u64::try_from(circuit.settings.pause.get().as_micros()).unwrap_or(u64::MAX);
            // never the value of a closed one
            let until = circuit.now().saturating_add(pause).max(CLOSED + 1);
            circuit.until.store(until, Ordering::Release);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.circuit.probing.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn circuit(failures: u32, pause: Duration) -> Circuit {
        let pause = config::Timeout::new(pause).unwrap();
        Circuit::new(config::Circuit { failures, pause })
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_attempt_at_a_time_may_close_it() {
        let circuit = circuit(2, Duration::from_millis(20));
        circuit.attempt().unwrap().failed(&"refused");
        circuit.attempt().unwrap().succeeded();
        circuit.attempt().unwrap().failed(&"refused");
        assert_eq!((circuit.status().state, circuit.status().failures), ("closed", 1));
        circuit.attempt().unwrap().failed(&"refused again");
        assert_eq!(circuit.status().state, "open");
        assert_eq!(circuit.status().last_error.unwrap().as_str(), "refused again");
        assert!(circuit.attempt().is_none());
        while circuit.status().state != "half_open" {
            std::thread::yield_now();
        }
        let probe = circuit.attempt().unwrap();
        assert!(circuit.attempt().is_none(), "two try at once");
        drop(probe);
        circuit
            .attempt()
            .expect("a probe whose client left blocks all others")
            .failed(&"still");
        assert!(circuit.attempt().is_none(), "a failed probe opens it again");
        while circuit.status().state != "half_open" {
            std::thread::yield_now();
        }
        circuit.attempt().unwrap().succeeded();
        let status = circuit.status();
        assert_eq!((status.state, status.failures, status.last_error), ("closed", 0, None));
        assert!(circuit.attempt().is_some() && circuit.attempt().is_some());
    }

    #[test]
    fn zero_failures_never_open_it() {
        let circuit = circuit(0, Duration::from_secs(60));
        for _ in 0..100 {
            circuit.attempt().unwrap().failed(&"refused");
        }
        assert_eq!((circuit.status().state, circuit.status().failures), ("closed", 100));
    }

    #[test]
    fn of_many_threads_one_tries() {
        let circuit = circuit(1, Duration::from_millis(1));
        circuit.attempt().unwrap().failed(&"refused");
        std::thread::sleep(Duration::from_millis(2));
        let barrier = std::sync::Barrier::new(8);
        let tried: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let attempt = circuit.attempt();
                        barrier.wait();
                        usize::from(attempt.is_some())
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(tried, 1);
    }
}
