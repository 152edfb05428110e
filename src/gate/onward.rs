//! From a permit to the app's answer, and whether the answer may still go out when it comes.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;

use super::live::{Asked, Standing};
use super::progress::Progress;
use super::{Stop, Worker};
use crate::authz::Permit;
use crate::config::ByteSize;
use crate::http::listener::Link;
use crate::http::request::is_upgrade;
use crate::http::upstream::{self, Body, Cleansed, Cut, Outward, forward};
use crate::portals::Portal;

/// Where a permitted request goes, and what it stands on.
pub(super) struct Onward<'a> {
    pub link: &'a Rc<Link>,
    pub portal: &'a Arc<Portal>,
    pub asked: Asked,
    /// `None`: a preflight, which rests on nobody.
    pub standing: Option<Standing>,
    pub cleansed: Cleansed,
}

impl Worker {
    pub(super) async fn pass_on(
        &self,
        permit: Permit,
        request: Request<Incoming>,
        onward: Onward<'_>,
        progress: &mut Progress,
    ) -> Result<Response<Body>, Stop> {
        let Onward {
            link,
            portal,
            asked,
            standing,
            cleansed,
        } = onward;
        let cut = Rc::new(Cut::default());
        let early = link.early_hints().map(|hints| move |headers| hints.send(&headers));
        let outward = Outward {
            upstream: &portal.upstream,
            path: asked.path.as_str(),
            query: asked.query.as_deref(),
            client: &asked.client,
            trace: &progress.trace,
            request_id: &progress.request_id,
            rules: &portal.header_rules,
            cleansed,
            body_bytes_max: self.gate.config.limits.body_bytes.map(ByteSize::get),
            early: early.as_ref().map(|tell| tell as upstream::Early<'_>),
            place: self.place(link, &request, (&asked, standing.as_ref()), &cut),
            cut,
        };
        let now = Instant::now();
        (progress.gate_ended, progress.upstream_started) = (Some(now), Some(now));
        let response = forward(&self.pool, permit, request, outward).await.map_err(Stop::Upstream)?;
        let Some(mut standing) = standing else {
            return Ok(response);
        };
        if !standing.is_current(&self.gate)
            && let Err((reason, refusal)) = self.gate.recheck(&asked, &mut standing)
        {
            self.gate.tell_cut(&asked, &standing, (reason, &refusal));
            return Err(refusal.into());
        }
        let mut response = response.map(|body| self.watched(body, asked, standing));
        self.rotate(&mut response, &progress.cookie).await;
        Ok(response)
    }

    /// What a tunnel holds on to. It is known from before the app is asked; what else lives on becomes known when it does.
    fn place(
        &self,
        link: &Rc<Link>,
        request: &Request<Incoming>,
        (asked, standing): (&Asked, Option<&Standing>),
        cut: &Rc<Cut>,
    ) -> Rc<dyn Any> {
        let link = Rc::clone(link) as Rc<dyn Any>;
        match standing.filter(|_| is_upgrade(request.headers(), request.extensions())) {
            Some(standing) => {
                let entry = self.live.join(&self.gate, asked.clone(), standing.clone(), Rc::clone(cut));
                Rc::new((link, entry))
            }
            None => link,
        }
    }

    fn watched(&self, body: Body, asked: Asked, standing: Standing) -> Body {
        if !body.is_open() {
            return body;
        }
        let (live, gate) = (self.live.clone(), Arc::clone(&self.gate));
        body.watched(Box::new(move |cut| live.join(&gate, asked, standing, cut)))
    }
}
