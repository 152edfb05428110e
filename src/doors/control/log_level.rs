//! `log-level` of the control socket: the log's level, and a change of it that ends by itself.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::task::spawn_local;
use url::form_urlencoded;

use super::{Control, JsonAnswer, error};
use crate::audit::AdminAct;
use crate::base::telemetry::{LogLevelError, log_level};

/// The time of a change that names none.
const TIME_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// The longest time of a change.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn show() -> JsonAnswer {
    match log_level() {
        None => error(StatusCode::SERVICE_UNAVAILABLE, &LogLevelError::NotRunning.to_string()),
        Some(level) => JsonAnswer {
            status: StatusCode::OK,
            body: json!(level.state()),
        },
    }
}

/// The parameters of a change.
struct LevelChange {
    /// `None`: the level of the start.
    filter: Option<String>,
    time: Duration,
}

impl LevelChange {
    fn parse(query: &str) -> Result<Self, &'static str> {
        let mut wanted = Self {
            filter: None,
            time: TIME_DEFAULT,
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "filter" => wanted.filter = Some(value.into_owned()),
                "for" => match humantime::parse_duration(&value) {
                    Ok(time) if !time.is_zero() && time <= TIME_MAX => wanted.time = time,
                    _ => return Err("`for` is a time such as `10m`, at most 24h"),
                },
                _ => return Err("the parameters are `filter` and `for`"),
            }
        }
        Ok(wanted)
    }
}

impl Control {
    /// `filter=debug&for=10m` changes the level; without `filter` the level of the start is back.
    pub(super) fn set_log_level(&self, query: &str) -> JsonAnswer {
        let Some(level) = log_level() else { return show() };
        let LevelChange { filter, time } = match LevelChange::parse(query) {
            Ok(wanted) => wanted,
            Err(why) => return error(StatusCode::BAD_REQUEST, why),
        };
        let Some(filter) = filter else {
            level.revert(None);
            self.record(AdminAct::LogLevelChanged, Some(level.state().filter));
            return show();
        };
        match level.set(&filter, time) {
            Ok(number) => {
                let span = humantime::format_duration(time);
                self.record(AdminAct::LogLevelChanged, Some(format!("{filter} for {span}")));
                spawn_local(async move {
                    tokio::time::sleep(time).await;
                    if level.revert(Some(number)) {
                        tracing::info!("the log level of the start is back");
                    }
                });
                show()
            }
            Err(why @ LogLevelError::NotRunning) => error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string()),
            Err(why) => error(StatusCode::BAD_REQUEST, &why.to_string()),
        }
    }
}
