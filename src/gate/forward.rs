//! Forwards a permitted request, and checks that its answer may still go out when it comes.
//!
//! A revocation or a new revision can come while the app works. The basis of the decision is compared before the answer
//! goes out, and `live` watches answers that stream.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use cedargate_policy::permit::Permit;
use cedargate_policy::types::HeaderNames;
use http::Response;
use http::request::Parts;
use hyper::body::Incoming;

use super::live::{DecidedRequest, InvalidPermit};
use super::record::Progress;
use super::{Stop, Worker};
use crate::config::ByteSize;
use crate::http::listener::ClientConnection;
use crate::http::request::is_upgrade;
use crate::http::upstream::{self, Body, CutSignal, Exchange, ForwardRequest, Sanitized};
use crate::portals::Portal;

/// A permitted request before it is forwarded: its connection, its portal, and the basis of its decision.
pub(super) struct Forwarding<'a> {
    pub connection: &'a Rc<ClientConnection>,
    pub portal: &'a Arc<Portal>,
    /// The headers that policies read.
    pub policy_headers: &'a HeaderNames,
    pub request: Rc<DecidedRequest>,
    pub sanitized: Sanitized,
}

impl Worker {
    pub(super) async fn forward(
        &self,
        permit: Permit,
        head: Box<Parts>,
        body: Incoming,
        forwarding: Forwarding<'_>,
        progress: &mut Progress,
    ) -> Result<Response<Body>, Stop> {
        let Forwarding {
            connection,
            portal,
            policy_headers,
            request,
            sanitized,
        } = forwarding;
        let original = &request.original;
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
            connection_slot: self.connection_slot(connection, &head, &request, &cut),
            cut,
        };
        let now = Instant::now();
        progress.gate_ended = Some(now);
        progress.upstream_started = Some(now);
        let exchange = Exchange::begin(&self.pool, permit, head, body, to).await;
        let response = exchange.map_err(Stop::Upstream)?.answer().await.map_err(Stop::Upstream)?;
        if request.basis.is_none() {
            return Ok(response);
        }
        if let Err(InvalidPermit { reason, refusal }) = self.gate.recheck(&request) {
            self.gate.record_cut(&request, reason, &refusal);
            return Err((*refusal).into());
        }
        let mut response = response.map(|body| self.register(body, request));
        self.rotate(&mut response, &progress.cookie).await;
        Ok(response)
    }

    /// The value that a tunnel holds until it ends: the connection, and the tunnel's entry in `live`. A tunnel is
    /// registered before the app is asked; a streamed answer when its body first waits.
    fn connection_slot(
        &self,
        connection: &Rc<ClientConnection>,
        head: &Parts,
        request: &Rc<DecidedRequest>,
        cut: &Rc<CutSignal>,
    ) -> Rc<dyn Any> {
        let connection = Rc::clone(connection) as Rc<dyn Any>;
        if request.basis.is_none() || !is_upgrade(&head.headers, &head.extensions) {
            return connection;
        }
        let entry = self.live.join(&self.gate, Rc::clone(request), Rc::clone(cut));
        Rc::new((connection, entry))
    }

    fn register(&self, body: Body, request: Rc<DecidedRequest>) -> Body {
        if !body.is_open() {
            return body;
        }
        let live = self.live.clone();
        let gate = Arc::clone(&self.gate);
        body.registered_as_live(Box::new(move |cut| live.join(&gate, request, cut)))
    }
}
