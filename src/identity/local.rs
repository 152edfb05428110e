//! `POST auth/local`: the form of a local account.

use http::Response;
use hyper::body::Incoming;

use super::{IdentityDoor, Visit};
use crate::denial::{Denial, Refusal};
use crate::upstream::Body;

impl IdentityDoor {
    pub(super) async fn local_login(&self, _visit: &Visit<'_>, _body: Incoming) -> Result<Response<Body>, Refusal> {
        Err(Denial::PortalUnknown.into())
    }
}
