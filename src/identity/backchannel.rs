//! `POST auth/backchannel-logout`: the provider ends sessions (OIDC Back-Channel Logout 1.0).

use http::Response;
use hyper::body::Incoming;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) async fn backchannel_logout(&self, _visit: &Visit<'_>, _body: Incoming) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
