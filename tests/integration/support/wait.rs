//! Waiting: a condition is tried again until it holds or the patience ends. No test sleeps for a fixed time.

use std::time::{Duration, Instant};

/// The patience of `eventually`; a slow machine may set `CEDARGATE_TEST_PATIENCE` (seconds).
pub fn patience() -> Duration {
    let seconds = std::env::var("CEDARGATE_TEST_PATIENCE").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Tries again until the attempt succeeds; panics with the last state after the patience.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    until(Instant::now() + patience(), what, attempt)
}

/// `eventually` for the start of a large foreign program: several at once are slow on few cores.
pub fn once_started<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    until(Instant::now() + patience() * 6, what, attempt)
}

/// True as soon as the condition holds; false after the patience, for a test that compares what there is.
pub fn holds_eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience();
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn until<T>(deadline: Instant, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(state) if Instant::now() > deadline => panic!("never came true: {what}; last: {state}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
