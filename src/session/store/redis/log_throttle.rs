//! Limits log lines about a failing store: the first error, another error, and an error that lasts are logged, not
//! every try.

use std::time::Duration;

use tokio::time::Instant;

/// Interval at which the same error is logged again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Minimum interval between two different errors, so that alternating errors do not fill the log.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct LogThrottle {
    /// The error logged last, and its time.
    last: Option<(String, Instant)>,
}

impl LogThrottle {
    /// True if the error should be logged now; then it counts as logged.
    pub fn should_log(&mut self, error: &str, now: Instant) -> bool {
        let is_due = self.last.as_ref().is_none_or(|(last, at)| {
            let interval = if last == error { REPEAT_INTERVAL } else { CHANGE_INTERVAL };
            now.saturating_duration_since(*at) >= interval
        });
        if is_due {
            self.last = Some((error.to_owned(), now));
        }
        is_due
    }

    /// The store works again: the next error is logged at once.
    pub fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_error_another_error_and_a_lasting_error_are_logged() {
        let mut throttle = LogThrottle::default();
        let began = Instant::now();
        let mut should_log = |error: &str, millis: u64| throttle.should_log(error, began + Duration::from_millis(millis));
        assert!(should_log("refused", 0));
        assert!(!should_log("refused", 29_999));
        assert!(should_log("refused", 30_000), "the error lasts");
        assert!(!should_log("WRONGPASS", 30_999), "errors that alternate");
        assert!(should_log("WRONGPASS", 31_000), "another error");
        assert!(!should_log("WRONGPASS", 60_999));
        throttle.reset();
        assert!(throttle.should_log("WRONGPASS", began + Duration::from_secs(61)));
    }
}
