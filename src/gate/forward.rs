//! Forwards a permitted request, and checks that its answer may still go out when it comes.
//!
//! A revocation or a new revision can come while the app works. The basis of the decision is compared before the answer goes
//! out, and `live` watches answers that stream.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use cedargate_policy::permit::Permit;
use cedargate_policy::types::HeaderNames;
use http::{Request, Response};
use hyper::body::Incoming;

use super::live::{DecisionBasis, OriginalRequest, Withdrawn};
use super::record::Progress;
use super::{Stop, Worker};
use crate::config::ByteSize;
use crate::http::listener::ClientConnection;
use crate::http::request::is_upgrade;
use crate::http::upstream::{self, Body, CutSignal, ForwardRequest, Sanitized, forward};
use crate::portals::Portal;

/// A permitted request before it is forwarded: its connection, its portal, and the basis of its decision.
pub(super) struct Forwarding<'a> {
    pub connection: &'a Rc<ClientConnection>,
    pub portal: &'a Arc<Portal>,
    /// The headers that policies read.
    pub policy_headers: &'a HeaderNames,
    pub original: OriginalRequest,
    /// `None` for a preflight: nothing to re-check later.
    pub basis: Option<DecisionBasis>,
    pub sanitized: Sanitized,
}

impl Worker {
    pub(super) async fn forward(
        &self,
        permit: Permit,
        request: Request<Incoming>,
        forwarding: Forwarding<'_>,
        progress: &mut Progress,
    ) -> Result<Response<Body>, Stop> {
        let Forwarding {
            connection,
            portal,
            policy_headers,
            original,
            basis,
            sanitized,
        } = forwarding;
        let cut = Rc::new(CutSignal::default());
        let send_hints = connection.early_hints().map(|hints| move |headers| hints.send(&headers));
        let to = ForwardRequest {
            app: &portal.upstream,
            path: original.path.as_str(),
            query: original.query.as_deref(),
            client: &original.client,
            trace: &progress.trace,
            request_id: &progress.request_id,
            rules: &portal.header_rules,
            policy_headers,
            sanitized,
            body_bytes_max: self.gate.config.limits.body_bytes.map(ByteSize::get),
            send_hints: send_hints.as_ref().map(|send| send as upstream::SendHints<'_>),
            connection_slot: self.connection_slot(connection, &request, &original, basis.as_ref(), &cut),
            cut,
        };
        let now = Instant::now();
        progress.gate_ended = Some(now);
        progress.upstream_started = Some(now);
        let response = forward(&self.pool, permit, request, to).await.map_err(Stop::Upstream)?;
        let Some(mut basis) = basis else {
            return Ok(response);
        };
        if !basis.is_current(&self.gate)
            && let Err(Withdrawn { reason, refusal }) = self.gate.recheck(&original, &mut basis)
        {
            self.gate.record_cut(&original, &basis, reason, &refusal);
            return Err((*refusal).into());
        }
        let mut response = response.map(|body| self.register(body, original, basis));
        self.rotate(&mut response, &progress.cookie).await;
        Ok(response)
    }

    /// The value that a tunnel holds until it ends: the connection, and the tunnel's entry in `live`. A tunnel is registered
    /// before the app is asked; a streamed answer when its body first waits.
    fn connection_slot(
        &self,
        connection: &Rc<ClientConnection>,
        request: &Request<Incoming>,
        original: &OriginalRequest,
        basis: Option<&DecisionBasis>,
        cut: &Rc<CutSignal>,
    ) -> Rc<dyn Any> {
        let connection = Rc::clone(connection) as Rc<dyn Any>;
        match basis.filter(|_| is_upgrade(request.headers(), request.extensions())) {
            Some(basis) => {
                let entry = self.live.join(&self.gate, original.clone(), basis.clone(), Rc::clone(cut));
                Rc::new((connection, entry))
            }
            None => connection,
        }
    }

    fn register(&self, body: Body, original: OriginalRequest, basis: DecisionBasis) -> Body {
        if !body.is_open() {
            return body;
        }
        let live = self.live.clone();
        let gate = Arc::clone(&self.gate);
        body.registered_as_live(Box::new(move |cut| live.join(&gate, original, basis, cut)))
    }
}
