//! `/app/livez`, `/app/readyz`, `/app/startupz`: the app's probes, forwarded for the kubelet.
//!
//! The admin port is open to the pod's network and asks for no identity. Therefore nothing of the app's answer but its
//! status is passed on, and a flood of probes is no flood on the app: probes of one kind share one call, and its
//! outcome answers everything that comes within `REUSE` after it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::text;
use crate::config::{AppProbe, Config};
use crate::http::upstream::{Body, Probe, TlsError};

/// Time for which an outcome answers later probes; less than the kubelet's shortest period, one second.
const REUSE: Duration = Duration::from_millis(200);

/// Paths of the endpoints and the keys that configure them.
const ENDPOINTS: [(&str, &str); 3] = [
    ("/app/livez", "upstream.probes.livez"),
    ("/app/readyz", "upstream.probes.readyz"),
    ("/app/startupz", "upstream.probes.startupz"),
];

/// The endpoints of the app's probes.
pub struct AppProbes([Option<Arc<SharedProbe>>; 3]);

/// One probe, and the call that is under way or ended last.
struct SharedProbe {
    probe: Probe,
    call: Mutex<Option<watch::Receiver<Option<ProbeOutcome>>>>,
}

#[derive(Clone, Debug)]
struct ProbeOutcome {
    status: StatusCode,
    text: String,
    at: Instant,
}

impl AppProbes {
    /// # Errors
    /// TLS of an `https` probe that cannot be set up.
    pub fn new(config: &Config) -> Result<Self, TlsError> {
        let shared = |probe: &Option<AppProbe>| {
            let prepared = probe.as_ref().map(|probe| Probe::new(probe, &config.upstream)).transpose()?;
            Ok(prepared.map(|probe| {
                Arc::new(SharedProbe {
                    probe,
                    call: Mutex::default(),
                })
            }))
        };
        let probes = &config.app_probes;
        Ok(Self([
            shared(&probes.livez)?,
            shared(&probes.readyz)?,
            shared(&probes.startupz)?,
        ]))
    }

    /// Answers a request for `path`; `None` if the path is no endpoint of an app's probe.
    pub async fn answer(&self, path: &str) -> Option<Response<Body>> {
        let mut endpoints = ENDPOINTS.iter().zip(&self.0);
        let ((_, key), probe) = endpoints.find(|((endpoint, _), _)| *endpoint == path)?;
        let Some(probe) = probe else {
            let hint = format!("`{key}` is not configured, so the gate has nothing to ask the app\n");
            return Some(text(StatusCode::NOT_FOUND, hint));
        };
        let outcome = SharedProbe::ask(probe).await;
        Some(text(outcome.status, outcome.text))
    }
}

impl SharedProbe {
    /// The outcome of the call under way, of one that ended just now, or of a new one.
    async fn ask(this: &Arc<Self>) -> ProbeOutcome {
        let mut call = Self::current_call(this);
        let ended = call.wait_for(Option::is_some).await;
        let outcome = ended.ok().and_then(|outcome| outcome.clone());
        // the call's task always sends its outcome, unless it panicked or the gate ends
        outcome.unwrap_or_else(|| ProbeOutcome::unhealthy("the probe was cut off"))
    }

    fn current_call(this: &Arc<Self>) -> watch::Receiver<Option<ProbeOutcome>> {
        let mut current = this.call.lock();
        if let Some(call) = current.as_ref().filter(|call| is_usable(call)) {
            return call.clone();
        }
        let (sender, receiver) = watch::channel(None);
        *current = Some(receiver.clone());
        let probe = Arc::clone(this);
        // a task of its own: a caller that goes away does not end the call for the others
        tokio::task::spawn_local(async move {
            let outcome = match probe.probe.send().await {
                Ok(healthy) => ProbeOutcome::healthy(healthy),
                Err(unhealthy) => ProbeOutcome::unhealthy(unhealthy),
            };
            drop(sender.send(Some(outcome)));
        });
        receiver
    }
}

/// True if the call is under way or ended less than `REUSE` ago.
fn is_usable(call: &watch::Receiver<Option<ProbeOutcome>>) -> bool {
    match call.borrow().as_ref() {
        Some(outcome) => outcome.at.elapsed() < REUSE,
        None => call.has_changed().is_ok(),
    }
}

impl ProbeOutcome {
    fn healthy(how: impl Display) -> Self {
        Self::new(StatusCode::OK, how)
    }

    fn unhealthy(why: impl Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    fn new(status: StatusCode, text: impl Display) -> Self {
        Self {
            status,
            text: format!("{text}\n"),
            at: Instant::now(),
        }
    }
}
