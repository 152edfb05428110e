//! `GET auth/session`: who am I; never a token.

use http::Response;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) async fn who_am_i(&self, _visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
