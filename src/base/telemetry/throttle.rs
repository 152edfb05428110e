//! Leaves out warnings and errors that repeat: one failure that every request meets must not fill the disk and hide the
//! others.
//!
//! Each place in the code that logs has a budget of `LINES_MAX` lines in `WINDOW`. The writer thread reports how many
//! lines of a place were left out once its window is over. Lines below `warn` are not counted, and cost nothing here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one place in one window. A rejected candidate may name many problems at once.
const LINES_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);
/// The target of the reports, which are never left out.
const REPORTS: &str = "cedargate::log";

/// Cheap to clone. The map has one entry for each place in the code that warned within a window.
#[derive(Clone, Default)]
pub(super) struct Throttle(Arc<Mutex<HashMap<Identifier, ThrottleWindow>>>);

struct ThrottleWindow {
    metadata: &'static Metadata<'static>,
    began: Instant,
    lines: u32,
    left_out: u64,
}

/// The lines that were left out at one place.
#[derive(Debug, Eq, PartialEq)]
struct LeftOut {
    place: String,
    lines: u64,
}

impl Throttle {
    fn admits(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if *metadata.level() > Level::WARN || metadata.target() == REPORTS {
            return true;
        }
        let mut windows = self.0.lock();
        let window = windows.entry(metadata.callsite()).or_insert(ThrottleWindow {
            metadata,
            began: now,
            lines: 0,
            left_out: 0,
        });
        if window.lines < LINES_MAX {
            window.lines += 1;
            return true;
        }
        window.left_out += 1;
        false
    }

    /// Takes out the windows that are over.
    fn over(&self, now: Instant) -> Vec<LeftOut> {
        let mut left_out = Vec::new();
        self.0.lock().retain(|_, window| {
            let is_over = now.duration_since(window.began) >= WINDOW;
            if is_over && window.left_out > 0 {
                let file = window.metadata.file().unwrap_or_default();
                let line = window.metadata.line().unwrap_or_default();
                left_out.push(LeftOut {
                    place: format!("{file}:{line}"),
                    lines: window.left_out,
                });
            }
            !is_over
        });
        left_out
    }

    /// Logs how many lines were left out where. The writer thread calls it every second.
    pub fn report(&self) {
        for LeftOut { place, lines } in self.over(Instant::now()) {
            tracing::warn!(target: REPORTS, place, lines, "repeated lines were left out");
        }
    }
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.admits(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Remembers the places that logged.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<&'static Metadata<'static>>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.0.lock().push(event.metadata());
        }
    }

    fn places() -> Vec<&'static Metadata<'static>> {
        let seen = Seen::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(seen.clone()), || {
            tracing::warn!("one");
            tracing::error!("two");
            tracing::info!("three");
        });
        let found = seen.0.lock().clone();
        assert_eq!(found.len(), 3);
        found
    }

    #[test]
    fn a_place_that_repeats_is_left_out_and_counted_and_others_are_not() {
        let (places, throttle, start) = (places(), Throttle::default(), Instant::now());
        let admitted = |n: usize, at: Instant| throttle.admits(places[n], at);
        let passed = (0..1000).filter(|_| admitted(0, start)).count();
        assert_eq!(passed, LINES_MAX as usize);
        assert!(admitted(1, start), "another place");
        assert!((0..1000).all(|_| admitted(2, start)), "below a warning");
        assert!(!admitted(0, start + WINDOW / 2));
        assert_eq!(throttle.over(start + WINDOW / 2), []);
        let left_out = throttle.over(start + WINDOW);
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].lines, 1001 - u64::from(LINES_MAX));
        assert!(
            left_out[0]
                .place
                .ends_with(&format!("throttle.rs:{}", places[0].line().unwrap()))
        );
        assert!(admitted(0, start + WINDOW));
    }
}
