//! The log's level: from `CEDARGATE_LOG` at start, changed for a time through the control socket.
//!
//! There is one per process, as there is one log. A change ends by itself, so that a debug level is not forgotten in
//! production: the caller of `set` calls `revert` later with the number that it got, which does nothing if another
//! change came meanwhile.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const DEFAULT_LEVEL: &str = "info";
/// Silences a crate whose lines carry paths of the build machine; the gate logs the same failures itself.
const SILENCED: &str = ",rustls_platform_verifier=off";
/// A bare level means this program's own lines: debug lines of libraries are many, and may show what they transport.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const FILTER_BYTES_MAX: usize = 1024;

static CURRENT: OnceLock<LogLevel> = OnceLock::new();

/// The level was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LogLevelError {
    #[error("`{text}` is not a log filter: {source}")]
    Filter { text: String, source: ParseError },
    #[error("the filter is longer than {FILTER_BYTES_MAX} bytes")]
    TooLong,
    #[error("the log takes no other level: the process has no log of its own, or ends")]
    NotRunning,
}

/// The level of this process.
pub struct LogLevel {
    apply: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
    /// The filter of the start.
    base: String,
    changed: Mutex<Changed>,
}

#[derive(Default)]
struct Changed {
    /// Counts changes, so that the end of an old one does not end a newer one.
    number: u64,
    now: Option<Change>,
}

struct Change {
    filter: String,
    until: Instant,
}

/// The level as the control socket shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LevelState {
    pub filter: String,
    /// Seconds until the level of the start is back; `None`: it is in force.
    pub reverts_in_seconds: Option<u64>,
}

/// `None` before the log started.
pub fn log_level() -> Option<&'static LogLevel> {
    CURRENT.get()
}

pub(super) fn filter_text(wanted: Option<&str>) -> String {
    wanted.map_or_else(|| format!("{DEFAULT_LEVEL}{SILENCED}"), str::to_owned)
}

pub(super) fn parse(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(text)
}

pub(super) fn install(base: String, apply: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    let level = LogLevel {
        apply: Box::new(apply),
        base,
        changed: Mutex::default(),
    };
    let _started_twice = CURRENT.set(level).is_err();
}

impl LogLevel {
    /// Changes the level. Returns the number for `revert`.
    pub fn set(&self, wanted: &str, time: Duration) -> Result<u64, LogLevelError> {
        if wanted.len() > FILTER_BYTES_MAX {
            return Err(LogLevelError::TooLong);
        }
        let filter = if LEVELS.contains(&wanted) {
            format!("{DEFAULT_LEVEL},cedargate={wanted},cedargate_policy={wanted}{SILENCED}")
        } else {
            wanted.to_owned()
        };
        let parsed = parse(&filter).map_err(|source| LogLevelError::Filter {
            text: wanted.to_owned(),
            source,
        })?;
        let mut changed = self.changed.lock();
        if !(self.apply)(parsed) {
            return Err(LogLevelError::NotRunning);
        }
        changed.number += 1;
        changed.now = Some(Change {
            filter,
            until: Instant::now() + time,
        });
        Ok(changed.number)
    }

    /// Takes the level of the start back into force, unless the level was changed again since `number`. `None`: in any
    /// case.
    pub fn revert(&self, number: Option<u64>) -> bool {
        let mut changed = self.changed.lock();
        if changed.now.is_none() || number.is_some_and(|number| number != changed.number) {
            return false;
        }
        // it was parsed at start
        let Ok(filter) = parse(&self.base) else { return false };
        changed.now = None;
        (self.apply)(filter)
    }

    pub fn state(&self) -> LevelState {
        let changed = self.changed.lock();
        let now = changed.now.as_ref();
        LevelState {
            filter: now.map_or_else(|| self.base.clone(), |change| change.filter.clone()),
            reverts_in_seconds: now.map(|change| change.until.saturating_duration_since(Instant::now()).as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_change_ends_unless_a_newer_one_took_its_place() {
        let applied = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&applied);
        let level = LogLevel {
            apply: Box::new(move |filter| {
                sink.lock().push(filter.to_string());
                true
            }),
            base: "warn".to_owned(),
            changed: Mutex::default(),
        };
        let minute = Duration::from_secs(60);
        let first = level.set("debug", minute).unwrap();
        assert!(level.state().filter.contains("cedargate=debug") && level.state().reverts_in_seconds.is_some());
        let second = level.set("cedargate=trace", minute).unwrap();
        assert!(!level.revert(Some(first)), "it was replaced");
        assert!(level.revert(Some(second)) && !level.revert(Some(second)));
        assert_eq!(
            (level.state().filter.as_str(), level.state().reverts_in_seconds),
            ("warn", None)
        );
        assert!(matches!(level.set("a=b=c=,,", minute), Err(LogLevelError::Filter { .. })));
        assert!(matches!(level.set(&"x".repeat(2000), minute), Err(LogLevelError::TooLong)));
        assert_eq!(applied.lock().len(), 3);
    }
}
