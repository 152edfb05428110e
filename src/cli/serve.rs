//! `cedargate serve`: runs until a signal or the control socket says so, drains, leaves.

use std::path::PathBuf;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, complain};
use crate::app::{self, Addresses, Ending};
use crate::base::telemetry;
use crate::config::{self, Address};

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
    let unusable = app::check_files(&loaded);
    if !unusable.is_empty() {
        complain(&unusable.to_string());
        return Exit::Usage;
    }
    let filter = std::env::var("CEDARGATE_LOG").ok();
    let log = match telemetry::start(filter.as_deref()) {
        Ok(log) => log,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Usage;
        }
    };
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot wait for signals: {error}"));
            return Exit::Failure;
        }
    };
    let exit = match app::start(loaded.config, loaded.watched) {
        Ok(running) => {
            announce(&running.addresses);
            until_asked(running, signals)
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

/// SIGTERM and SIGINT, caught from now on: one that comes while the gate starts is obeyed once it has started.
pub(crate) struct Signals {
    runtime: Runtime,
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(crate) fn catch() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(inside);
        Ok(Self { runtime, term, int })
    }

    async fn next(term: &mut Signal, int: &mut Signal) -> Asked {
        tokio::select! {
            _ = term.recv() => Asked::Terminate,
            _ = int.recv() => Asked::Interrupt,
        }
    }
}

/// What made the gate leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Terminate,
    /// Somebody waits at a terminal: balancers are not waited for.
    Interrupt,
    /// Through the control socket.
    Control,
}

impl Asked {
    fn obey(self, ending: &Ending) {
        tracing::info!(asked = ?self, "draining");
        ending.drain();
        if self == Self::Interrupt {
            ending.close();
        }
    }
}

/// The first signal drains, the second forces; what the control socket asked for is no signal.
pub(crate) fn until_asked(running: app::Running, signals: Signals) -> Exit {
    let Signals {
        runtime,
        mut term,
        mut int,
    } = signals;
    let (ending, asked_to_leave) = (running.ending(), running.asked_to_leave());
    let first = runtime.block_on(async {
        tokio::select! {
            asked = Signals::next(&mut term, &mut int) => asked,
            () = asked_to_leave => Asked::Control,
        }
    });
    first.obey(&ending);
    // ends with the process
    let watching = std::thread::spawn(move || {
        runtime.block_on(async {
            if first == Asked::Control {
                Signals::next(&mut term, &mut int).await.obey(&ending);
            }
            Signals::next(&mut term, &mut int).await;
            tracing::warn!("a second signal; ending what is in flight");
            ending.force();
        });
    });
    running.stop();
    drop(watching);
    Exit::Ok
}
