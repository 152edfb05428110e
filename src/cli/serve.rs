//! `cedargate serve`: runs the gate until a signal or the control socket starts its shutdown.
//!
//! The first SIGTERM, SIGINT or `cedargate drain` drains. SIGINT also skips `limits.drain_delay`, because a user at a
//! terminal has no load balancer. The next signal forces the end; after `cedargate drain` the next signal still counts
//! as the first. SIGHUP reloads the policy files. SIGUSR1 and SIGUSR2 do nothing.

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::config_file::ConfigFile;
use super::{Exit, complain};
use crate::app::{self, ShutdownHandle};
use crate::base::telemetry;
use crate::config;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub(crate) fn run(args: &Args) -> Exit {
    let loaded = match config::load(&args.config.required(), config::process_environment()) {
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
    let log = match telemetry::start(telemetry::configured_filter().as_deref()) {
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
        Ok(running) => run_until_shutdown(running, signals),
        Err(error) => {
            complain(&error.to_string());
            Exit::Failure
        }
    };
    drop(log);
    exit
}

/// The signals that the gate catches from now on: one that arrives while the gate starts takes effect once it has
/// started.
pub(crate) struct Signals {
    runtime: Runtime,
    streams: SignalStreams,
}

struct SignalStreams {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// The reason for a shutdown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ShutdownCause {
    Terminate,
    Interrupt,
    /// `cedargate drain`, through the control socket.
    Control,
}

impl Signals {
    pub(crate) fn catch() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let streams = SignalStreams {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        };
        // a signal that was caught once never ends the process again
        for ignored in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(signal(ignored)?);
        }
        drop(inside);
        Ok(Self { runtime, streams })
    }
}

impl SignalStreams {
    async fn next(&mut self) -> ShutdownCause {
        tokio::select! {
            _ = self.terminate.recv() => ShutdownCause::Terminate,
            _ = self.interrupt.recv() => ShutdownCause::Interrupt,
        }
    }

    /// Reloads at every SIGHUP until a signal asks for the end.
    async fn next_while_reloading(&mut self, running: &app::Running) -> ShutdownCause {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return ShutdownCause::Terminate,
                _ = self.interrupt.recv() => return ShutdownCause::Interrupt,
                _ = self.hangup.recv() => drop(tokio::spawn(running.reload())),
            }
        }
    }
}

impl ShutdownCause {
    fn start_draining(self, shutdown: &ShutdownHandle) {
        tracing::info!(cause = ?self, "draining");
        shutdown.drain();
        if self == Self::Interrupt {
            shutdown.close();
        }
    }
}

/// Waits for the first cause, then stops the gate while another thread waits for the signal that forces the end.
pub(crate) fn run_until_shutdown(running: app::Running, signals: Signals) -> Exit {
    let Signals { runtime, mut streams } = signals;
    let shutdown = running.shutdown_handle();
    let draining = running.draining();
    let cause = runtime.block_on(async {
        tokio::select! {
            cause = streams.next_while_reloading(&running) => cause,
            () = draining => ShutdownCause::Control,
        }
    });
    cause.start_draining(&shutdown);
    // never joined; ends with the process
    let forcing = std::thread::spawn(move || {
        runtime.block_on(async {
            if cause == ShutdownCause::Control {
                streams.next().await.start_draining(&shutdown);
            }
            streams.next().await;
            tracing::warn!("a second signal; requests in flight are dropped");
            shutdown.force();
        });
    });
    running.stop();
    drop(forcing);
    Exit::Ok
}
