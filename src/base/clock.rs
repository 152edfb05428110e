//! The wall clock: the only module that reads it as a number.
//!
//! A clock set before 1970 reads as 1970. Durations are measured with `std::time::Instant`, never with this.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time as records show it.
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Time since 1970-01-01T00:00:00Z.
pub fn since_epoch() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix milliseconds.
pub fn unix_millis() -> i64 {
    i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX)
}

/// Unix seconds with their fraction, as Prometheus gauges and `/status` show a moment.
pub fn unix_seconds_f64() -> f64 {
    since_epoch().as_secs_f64()
}

/// Unix seconds.
pub fn unix_seconds() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}

/// Unix milliseconds of a time such as `2026-01-31T23:59:00Z`; `None` of another text, and of a time before 1970.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// A time in unix milliseconds as `2026-01-31T23:59:00Z`; a time before 1970 is shown as 1970.
pub fn rfc3339_millis(unix_millis: i64) -> String {
    rfc3339_seconds(unix_millis / 1000)
}

/// A time in unix seconds as `2026-01-31T23:59:00Z`; a time before 1970 is shown as 1970.
pub fn rfc3339_seconds(unix_seconds: i64) -> String {
    // the last second of the year 9999: a later one has no such text
    let seconds = u64::try_from(unix_seconds).unwrap_or_default().min(253_402_300_799);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}
