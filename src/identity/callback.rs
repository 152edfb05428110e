//! `GET auth/callback`: the browser comes back from the provider.

use http::Response;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) async fn callback(&self, _visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
