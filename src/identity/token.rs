//! `POST auth/token`: a short-lived JWT with tenant and portal, for the caller's own use.

use http::Response;
use hyper::body::Incoming;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) async fn token(&self, _visit: &Visit<'_>, _body: Incoming) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
