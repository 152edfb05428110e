//! The circuit breaker of one app: stops connection attempts to an app that cannot be reached. All workers share it.
//!
//! Only connection attempts count: refused, timed out, TLS failed. After `failures` failed attempts in a row the
//! circuit is open for `pause`: a request that needs a new connection fails at once, a request with a pooled connection
//! is sent. After `pause` the circuit is half-open.
//!
//! Workers race for the one probe of a half-open circuit. `attempt` swaps `probing` to true; the worker that finds it
//! false makes the probe, the others fail at once. A probe that ended between a worker's first look at the pause and
//! its swap may have opened the circuit again, so the worker looks at the pause a second time after the swap. Any
//! attempt that succeeds closes the circuit; a failed probe starts a new pause. A probe whose client went away records
//! nothing; its drop resets `probing`, and the next request may probe. Everything is atomic; no worker waits for
//! another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use crate::config;

/// Value of `open_until` of a closed circuit.
const CLOSED: u64 = 0;
/// Longest stored error text, in characters.
const ERROR_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub struct CircuitBreaker {
    settings: config::Circuit,
    /// Origin of the microseconds in `open_until`.
    start: Instant,
    /// Failed attempts in a row.
    failures: AtomicU32,
    /// Microseconds since `start` until which no attempt is made.
    open_until: AtomicU64,
    /// True while one request probes the app on behalf of all workers.
    probing: AtomicBool,
    last_error: ArcSwapOption<String>,
}

/// One connection attempt. Dropped without a result (the client went away), it does not count.
#[derive(Debug)]
pub(super) struct ConnectAttempt<'a> {
    circuit: &'a CircuitBreaker,
    is_probe: bool,
}

/// The state that `/status` shows.
#[derive(Clone, Debug)]
pub struct CircuitStatus {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Failed attempts in a row.
    pub failures: u32,
    /// Error of the newest failed attempt; `None` after a success.
    pub last_error: Option<Arc<String>>,
}

impl CircuitBreaker {
    pub fn new(settings: config::Circuit) -> Self {
        Self {
            settings,
            start: Instant::now(),
            failures: AtomicU32::new(0),
            open_until: AtomicU64::new(CLOSED),
            probing: AtomicBool::new(false),
            last_error: ArcSwapOption::empty(),
        }
    }

    /// Begins an attempt. `None`: the circuit is open, or another request is probing.
    pub(super) fn attempt(&self) -> Option<ConnectAttempt<'_>> {
        if self.open_until.load(Ordering::Acquire) == CLOSED {
            return Some(ConnectAttempt {
                circuit: self,
                is_probe: false,
            });
        }
        if !self.pause_is_over() || self.probing.swap(true, Ordering::AcqRel) {
            return None;
        }
        // from here on, dropping the probe lets the next request probe
        let probe = ConnectAttempt {
            circuit: self,
            is_probe: true,
        };
        // an earlier probe may have failed between the first look at the pause and the swap
        self.pause_is_over().then_some(probe)
    }

    pub fn status(&self) -> CircuitStatus {
        let state = match self.open_until.load(Ordering::Acquire) {
            CLOSED => "closed",
            _ if self.pause_is_over() => "half_open",
            _ => "open",
        };
        CircuitStatus {
            state,
            failures: self.failures.load(Ordering::Relaxed),
            last_error: self.last_error.load_full(),
        }
    }

    fn pause_is_over(&self) -> bool {
        self.open_until.load(Ordering::Acquire) <= self.now()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl ConnectAttempt<'_> {
    pub fn record_success(self) {
        let circuit = self.circuit;
        // every new connection comes here: shared memory is written only if the state changes
        if circuit.failures.load(Ordering::Relaxed) != 0 || circuit.open_until.load(Ordering::Relaxed) != CLOSED {
            circuit.failures.store(0, Ordering::Relaxed);
            circuit.last_error.store(None);
            circuit.open_until.store(CLOSED, Ordering::Release);
        }
    }

    pub fn record_failure(self, error: &dyn std::fmt::Display) {
        let circuit = self.circuit;
        let text: String = error.to_string().chars().take(ERROR_CHARS_MAX).collect();
        circuit.last_error.store(Some(Arc::new(text)));
        let failures = circuit.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if circuit.settings.failures > 0 && failures >= circuit.settings.failures {
            let pause = u64::try_from(circuit.settings.pause.get().as_micros()).unwrap_or(u64::MAX);
            // INVARIANT: never the value of a closed circuit
            let open_until = circuit.now().saturating_add(pause).max(CLOSED + 1);
            circuit.open_until.store(open_until, Ordering::Release);
        }
    }
}

impl Drop for ConnectAttempt<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.circuit.probing.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn circuit(failures: u32, pause: Duration) -> CircuitBreaker {
        let pause = config::Timeout::new(pause).unwrap();
        CircuitBreaker::new(config::Circuit { failures, pause })
    }

    #[test]
    fn circuit_opens_after_failures_in_a_row_and_one_probe_at_a_time_may_close_it() {
        let circuit = circuit(2, Duration::from_millis(20));
        circuit.attempt().unwrap().record_failure(&"refused");
        circuit.attempt().unwrap().record_success();
        circuit.attempt().unwrap().record_failure(&"refused");
        assert_eq!((circuit.status().state, circuit.status().failures), ("closed", 1));
        circuit.attempt().unwrap().record_failure(&"refused again");
        assert_eq!(circuit.status().state, "open");
        assert_eq!(circuit.status().last_error.unwrap().as_str(), "refused again");
        assert!(circuit.attempt().is_none());
        while circuit.status().state != "half_open" {
            std::thread::yield_now();
        }
        let probe = circuit.attempt().unwrap();
        assert!(circuit.attempt().is_none(), "two requests probe at once");
        drop(probe);
        circuit
            .attempt()
            .expect("a dropped probe blocks the next one")
            .record_failure(&"still");
        assert!(circuit.attempt().is_none(), "a failed probe opens it again");
        while circuit.status().state != "half_open" {
            std::thread::yield_now();
        }
        circuit.attempt().unwrap().record_success();
        let status = circuit.status();
        assert_eq!((status.state, status.failures, status.last_error), ("closed", 0, None));
        assert!(circuit.attempt().is_some() && circuit.attempt().is_some());
    }

    #[test]
    fn circuit_with_zero_failures_never_opens() {
        let circuit = circuit(0, Duration::from_secs(60));
        for _ in 0..100 {
            circuit.attempt().unwrap().record_failure(&"refused");
        }
        assert_eq!((circuit.status().state, circuit.status().failures), ("closed", 100));
    }

    #[test]
    fn one_of_many_threads_probes() {
        let circuit = circuit(1, Duration::from_millis(1));
        circuit.attempt().unwrap().record_failure(&"refused");
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
