//! `cedargate log-level`: a running gate's log level, through its control socket.

use std::time::Duration;

use http::StatusCode;
use url::form_urlencoded::Serializer;

use super::control::{ControlTarget, with_socket};
use super::{Exit, print};

#[derive(clap::Args)]
#[command(
    after_help = "Without LEVEL the command shows the level. `debug` and the like mean the gate's own lines; a filter such as \
                  `info,hyper=debug` is taken as it is. Exit codes: 0 shown or changed, 1 refused or no answer."
)]
pub(crate) struct Args {
    #[command(flatten)]
    target: ControlTarget,
    /// off, error, warn, info, debug, trace, or a filter as in CEDARGATE_LOG
    #[arg(conflicts_with = "revert")]
    level: Option<String>,
    /// The time after which the level of the start is back; at most 24h
    #[arg(long = "for", default_value = "10m", value_parser = humantime::parse_duration, value_name = "TIME")]
    time: Duration,
    /// End a change now
    #[arg(long)]
    revert: bool,
}

pub(crate) fn run(args: &Args) -> Exit {
    with_socket(&args.target, async |socket| {
        let response = match (&args.level, args.revert) {
            (None, false) => socket.get("/log-level").await?,
            (None, true) => socket.post("/log-level").await?,
            (Some(level), _) => {
                let time = humantime::format_duration(args.time).to_string();
                let query = Serializer::new(String::new())
                    .append_pair("filter", level)
                    .append_pair("for", &time)
                    .finish();
                socket.post(&format!("/log-level?{query}")).await?
            }
        };
        print(&response.body);
        Ok(if response.status == StatusCode::OK {
            Exit::Ok
        } else {
            Exit::Failure
        })
    })
}
