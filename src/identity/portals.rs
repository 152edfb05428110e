//! `GET portals/` and `portals/<slug>/`: public metadata. In a browser, the chooser.

use http::Response;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) fn portals(&self, _visit: &Visit<'_>) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }

    pub(super) fn portal(&self, _visit: &Visit<'_>, _slug: &str) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
