//! The app behind the gate as all workers share it: where it is, how to reach it, and whether it can be reached.
//!
//! One value per distinct upstream, made at start; portals with equal upstreams have the same one, and with it one
//! pool of connections per thread and one circuit. What a portal does with headers is its own (`HeaderRules`).

use std::sync::Arc;

use super::circuit::Circuit;
use super::tls::{Tls, TlsError};
use crate::config::{Upstream, UpstreamUrl};

#[derive(Debug)]
pub struct App {
    pub url: UpstreamUrl,
    pub circuit: Circuit,
    pub(super) settings: Upstream,
    pub(super) tls: Option<Tls>,
    /// Names it in every worker's pool.
    pub(super) number: usize,
}

/// Every app, while portals are being made.
#[derive(Debug, Default)]
pub struct Apps(Vec<Arc<App>>);

impl Apps {
    /// The app of this upstream: an earlier one if it is the same.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn load(&mut self, upstream: &Upstream) -> Result<Arc<App>, TlsError> {
        // headers are the portal's business
        let settings = Upstream {
            strip_headers: Vec::new(),
            forward_authorization: false,
            ..upstream.clone()
        };
        if let Some(known) = self.0.iter().find(|app| app.settings == settings) {
            return Ok(Arc::clone(known));
        }
        let app = Arc::new(App {
            url: settings.url.clone(),
            circuit: Circuit::new(settings.circuit),
            tls: Tls::load(&settings)?,
            settings,
            number: self.0.len(),
        });
        self.0.push(Arc::clone(&app));
        Ok(app)
    }
}
