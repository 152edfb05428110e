//! `GET permissions`: the caller's permissions at a portal, as the gate's own answer or as rules of CASL.
//!
//! The answer says what the policies would decide; it permits nothing. Its ETag is a hash of everything that the answer
//! depends on, so a client that has it gets 304 without a computation, and the ETag of another caller never matches.
//! Credential and revocations are checked before and, because a computation takes time, again after it.

mod etag;
mod events;
mod resources;

use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::permissions::{Permission, Permissions};
use http::header::{CACHE_CONTROL, ETAG, VARY};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::etag::EntityTag;
pub use self::events::PermissionStreams;
pub(super) use self::events::stream;
pub(super) use self::resources::decide;
use super::caller::{CallerCredential, principal_id};
use super::input::Parameters;
use super::{EndpointRequest, LoginDoor, portal_lookup};
use crate::base::clock::rfc3339_seconds;
use crate::http::answer;
use crate::http::upstream::Body;
use crate::permissions::PortalCaller;
use crate::portals::Portal;

/// The form of the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SnapshotForm {
    Snapshot,
    /// The raw rules of CASL: a list of what is allowed.
    Casl,
}

/// The answer of `SnapshotForm::Snapshot`.
#[derive(Serialize)]
struct SnapshotAnswer<'a> {
    portal: &'a str,
    revision: &'a str,
    subject: &'a str,
    tenant: Option<&'a str>,
    roles: &'a [String],
    expires_at: String,
    actions: std::collections::BTreeMap<&'a str, Permission>,
    resource_types: &'a std::collections::BTreeMap<String, std::collections::BTreeMap<String, Permission>>,
    flags: &'a Map<String, Value>,
}

/// A caller whose credential holds at a portal that has a revision.
pub(super) struct KnownCaller<'a> {
    pub credential: CallerCredential<'a>,
    pub caller: PortalCaller,
}

impl SnapshotForm {
    fn read(parameters: &Parameters) -> Result<Self, Refusal> {
        match parameters.optional("format")?.as_deref() {
            None => Ok(Self::Snapshot),
            Some("casl") => Ok(Self::Casl),
            Some(_) => Err(Refusal::new(Denial::RequestInvalid, "`format` is not `casl`").with_public_detail()),
        }
    }
}

impl<'a> KnownCaller<'a> {
    /// `slug` is the portal that the request names.
    pub async fn of(door: &LoginDoor, request: &EndpointRequest<'a>, slug: Option<&str>) -> Result<Self, Refusal> {
        let credential = CallerCredential::of(door, request).await?;
        Self::at(door, request, credential, slug).await
    }

    /// The caller of a credential that was read already.
    pub async fn at(
        door: &LoginDoor,
        request: &EndpointRequest<'a>,
        credential: CallerCredential<'a>,
        slug: Option<&str>,
    ) -> Result<Self, Refusal> {
        let portal = match slug {
            Some(slug) => portal_lookup::find(request, slug)?,
            None => implied_portal(request, &credential)?,
        };
        let identity = credential.identity(door, request, portal).await?;
        let active = portal.active_revision()?;
        let principal = active.revision.principal(&portal.scope, &identity)?;
        Ok(Self {
            credential,
            caller: PortalCaller {
                portal: Arc::clone(portal),
                active,
                identity: Arc::new(identity),
                principal: Arc::new(principal),
            },
        })
    }

    /// Refuses a caller that was revoked since its credential was checked.
    pub fn check_again(&self, door: &LoginDoor) -> Result<(), Refusal> {
        let PortalCaller { portal, identity, .. } = &self.caller;
        self.credential.check_again(door, portal, identity)
    }
}

pub(super) async fn show(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let parameters = Parameters::from_query(request.head);
    let format = SnapshotForm::read(&parameters)?;
    let known = KnownCaller::of(door, request, parameters.optional("portal")?.as_deref()).await?;
    let caller = &known.caller;
    let subject = principal_id(&caller.portal, &caller.identity)?;
    let digest = caller.query().digest();
    let tag = EntityTag::of(caller, format, &subject, digest);
    if tag.is_known(&request.head.headers) {
        door.permissions.count(&caller.portal, "not_modified");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(with_cache_headers(response, &tag));
    }
    let snapshot = door.permissions.of(caller.clone(), digest).await?;
    known.check_again(door)?;
    let permissions = &snapshot.permissions;
    let response = match format {
        SnapshotForm::Casl => answer::json(StatusCode::OK, &casl(permissions)),
        SnapshotForm::Snapshot => answer::json(
            StatusCode::OK,
            &SnapshotAnswer {
                portal: &caller.portal.name,
                revision: &caller.active.revision.id,
                subject: &subject,
                tenant: caller.identity.tenant.as_deref(),
                roles: &caller.identity.roles,
                expires_at: rfc3339_seconds(caller.identity.expires_at),
                actions: permissions.actions(),
                resource_types: &permissions.resource_types,
                flags: &caller.principal.flags,
            },
        ),
    };
    Ok(with_cache_headers(response, &tag))
}

/// Rules of CASL for what is allowed; CASL denies what no rule permits.
fn casl(permissions: &Permissions) -> Vec<Value> {
    let of_types = permissions.resource_types.iter();
    let rules = of_types.flat_map(|(ty, actions)| {
        let allowed = actions.iter().filter(|(_, answer)| **answer == Permission::Allow);
        allowed.map(move |(action, _)| json!({"action": action, "subject": ty}))
    });
    rules.collect()
}

fn with_cache_headers(mut response: Response<Body>, tag: &EntityTag) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(ETAG, tag.header());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(VARY, HeaderValue::from_static("Cookie, Authorization"));
    response
}

/// The portal of a request that names none: the only one of the request's host, else the one where the session began.
fn implied_portal<'a>(request: &EndpointRequest<'a>, credential: &CallerCredential<'_>) -> Result<&'a Arc<Portal>, Refusal> {
    let portals = request.portals;
    let mut at_host = portals.portals.iter().filter(|portal| portal.is_at(&request.client.host));
    match (at_host.next(), at_host.next(), credential) {
        (Some(only), None, _) => Ok(only),
        (_, _, CallerCredential::Session(session)) => portal_lookup::find(request, &session.data.portal),
        (_, _, CallerCredential::Bearer(_) | CallerCredential::WithProof(_) | CallerCredential::Certificate(_)) => {
            Err(Refusal::new(Denial::RequestInvalid, "several portals are at this host: add `?portal=`").with_public_detail())
        }
    }
}
