//! `GET auth/login?portal=&rd=`: sends a browser to its provider, or shows a form.

use http::Response;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) async fn begin_login(&self, _visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
