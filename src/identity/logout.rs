//! `POST auth/logout`: ends the session everywhere, and at the provider.

use http::Response;
use hyper::body::Incoming;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) async fn logout(&self, _visit: &Visit<'_>, _body: Incoming) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
