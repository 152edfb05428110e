//! The apps behind the gate, as all workers share them: the address, the TLS settings and the circuit breaker of each.
//!
//! Start-up makes one `App` per distinct upstream. Portals with equal upstreams share it, and with it one connection
//! pool per thread and one circuit breaker. Header rules belong to each portal (`HeaderRules`).

use std::sync::Arc;

use super::circuit::CircuitBreaker;
use super::client_tls::{ClientTls, TlsError};
use crate::config::{Upstream, UpstreamToken, UpstreamUrl};

#[derive(Debug)]
pub struct App {
    pub url: UpstreamUrl,
    pub circuit: CircuitBreaker,
    pub(super) settings: Upstream,
    pub(super) tls: Option<ClientTls>,
    /// Key of the app in every worker's pool.
    pub(super) number: usize,
}

/// All apps made so far; used while start-up builds the portals.
#[derive(Debug, Default)]
pub struct Apps(Vec<Arc<App>>);

impl Apps {
    /// Returns the app of `upstream`: an earlier one if its settings are equal, else a new one.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn load(&mut self, upstream: &Upstream) -> Result<Arc<App>, TlsError> {
        // header settings belong to the portal, so they do not make two apps different
        let settings = Upstream {
            strip_headers: Vec::new(),
            pass_headers: Vec::new(),
            token: UpstreamToken::None,
            ..upstream.clone()
        };
        if let Some(known) = self.0.iter().find(|app| app.settings == settings) {
            return Ok(Arc::clone(known));
        }
        let app = Arc::new(App {
            url: settings.url.clone(),
            circuit: CircuitBreaker::new(settings.circuit),
            tls: ClientTls::load(&settings)?,
            settings,
            number: self.0.len(),
        });
        self.0.push(Arc::clone(&app));
        Ok(app)
    }
}
