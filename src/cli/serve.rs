//! `cedargate serve`: runs until a signal, drains, leaves.

use std::path::PathBuf;

use super::{Exit, complain};
use crate::app::{self, Addresses};
use crate::config::{self, Address};
use crate::telemetry;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file
    #[arg(long, short, env = "CEDARGATE_CONFIG", default_value = "cedargate.yaml")]
    config: PathBuf,
}

pub(crate) fn run(args: &Args) -> Exit {
    let loaded = match config::load(&args.config, config::process_environment()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            complain(&errors.to_string());
            return Exit::Usage;
        }
    };
    let filter = std::env::var("CEDARGATE_LOG").ok();
    let log = match telemetry::start(filter.as_deref()) {
        Ok(log) => log,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Usage;
        }
    };
    let exit = match app::start(loaded.config, loaded.watched) {
        Ok(running) => {
            announce(&running.addresses);
            until_signal(running)
        }
        Err(error) => {
            complain(&error.to_string());
            Exit::Failure
        }
    };
    drop(log);
    exit
}

fn announce(addresses: &Addresses) {
    let decision = addresses.decision.as_ref().map(|a| match a {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    });
    tracing::info!(proxy = %addresses.proxy, decision = decision, admin = addresses.admin.map(|a| a.to_string()), "listening");
}

/// The first signal drains, the second forces.
pub(crate) fn until_signal(running: app::Running) -> Exit {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        complain("cannot wait for signals");
        running.stop();
        return Exit::Failure;
    };
    let caught = runtime.block_on(signal());
    tracing::info!(signal = caught, "draining");
    let force = running.forcer();
    let second = std::thread::spawn(move || {
        runtime.block_on(signal());
        force.force();
    });
    running.stop();
    drop(second);
    Exit::Ok
}

async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}
