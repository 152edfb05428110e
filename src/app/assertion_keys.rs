//! Watches `assertion.key_file` and takes up a changed key.
//!
//! A file that cannot be used is reported once per change; the old keys stay in force.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::audit::{AdminAct, AdminEvent, Event};
use crate::gate::Gate;

/// Runs until `stop`. Reads the file on a blocking thread, once per `policies.poll`.
pub(super) async fn watch(gate: Arc<Gate>, stop: CancellationToken) {
    let mut last_error = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(gate.config.policies.poll.get()) => {}
        }
        let assertions = Arc::clone(&gate.assertions);
        let Ok(change) = tokio::task::spawn_blocking(move || assertions.reload()).await else {
            continue;
        };
        let error = change.as_ref().and_then(|result| result.as_ref().err());
        let error = error.map(ToString::to_string);
        let repeated = error.is_some() && error == last_error;
        last_error.clone_from(&error);
        if change.is_some() && !repeated {
            report(&gate, error);
        }
    }
}

fn report(gate: &Gate, error: Option<String>) {
    let (result, event) = match &error {
        None => {
            tracing::info!("new assertion keys in force");
            ("success", AdminAct::AssertionKeysReloaded)
        }
        Some(error) => {
            tracing::warn!(error, "assertion keys rejected; the old ones stay in force");
            ("rejected", AdminAct::AssertionKeysRejected)
        }
    };
    gate.metrics.assertion_keys.with_label_values(&[result]).inc();
    gate.audit.send(&Event::Admin(AdminEvent { event, detail: error }));
}
