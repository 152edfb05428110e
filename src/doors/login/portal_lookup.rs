//! Finds the portal that a request names, its title and its login provider.

use std::borrow::Cow;
use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::file::PortalFile;

use super::{EndpointRequest, LoginDoor};
use crate::config;
use crate::portals::Portal;

/// The portal of this slug; `portal_unknown` if there is none.
pub(super) fn find<'a>(request: &EndpointRequest<'a>, slug: &str) -> Result<&'a Arc<Portal>, Refusal> {
    let portal = request.portals.named(slug);
    portal.ok_or_else(|| Refusal::new(Denial::PortalUnknown, format!("there is no portal `{slug}`")).with_public_detail())
}

/// The `portal.yaml` of the active revision; `None` if no revision is loaded.
pub(super) fn file(portal: &Portal) -> Option<Arc<PortalFile>> {
    portal.active.load().as_ref().map(|active| Arc::clone(&active.revision.file))
}

/// The origin of a portal for this request's browser.
pub(super) fn origin<'a>(
    door: &'a LoginDoor,
    request: &EndpointRequest<'_>,
    portal: &'a Portal,
) -> Result<Cow<'a, str>, Refusal> {
    let origin = door.config.origin_of(&portal.config, &request.client.host);
    origin.ok_or_else(|| Refusal::new(Denial::PortalUnknown, "the portal is at other hosts (`match.hosts`)"))
}

/// The title in `portal.yaml`; the slug without one.
pub(super) fn title(portal: &Portal) -> String {
    portal.title()
}

/// The ways to log in at a portal, after the request's own choice.
pub(super) enum LoginChoice<'a> {
    One(&'a config::Provider),
    /// The user chooses.
    Several(Vec<&'a config::Provider>),
}

/// The login provider of a portal: the `requested` one, else those of `portal.yaml`, else the configuration's default,
/// else every one whose issuer the portal trusts. Never a provider whose issuer the portal does not trust; where
/// `portal.yaml` offers several, none besides these.
pub(super) fn provider<'a>(door: &'a LoginDoor, portal: &Portal, requested: Option<&str>) -> Result<LoginChoice<'a>, Refusal> {
    let invalid = |detail: &'static str| Refusal::new(Denial::RequestInvalid, detail);
    let file = file(portal).ok_or(Refusal::from(Denial::NoPolicyLoaded))?;
    let offered = file.login.as_ref().map_or(&[][..], |login| login.providers.as_slice());
    let is_trusted = |provider: &&config::Provider| portal.config.issuers.contains(&provider.issuer);
    let named = |name: &str| {
        let provider = door.login.provider(name).filter(is_trusted);
        provider.ok_or_else(|| invalid("the provider is not configured, or the portal does not trust its issuer"))
    };
    if let Some(name) = requested {
        if offered.len() > 1 && offered.iter().all(|one| one.name != name) {
            return Err(invalid(
                "the portal does not offer this provider (portal.yaml, `login.providers`)",
            ));
        }
        return named(name).map(LoginChoice::One);
    }
    let default = door.config.login.default_of(&portal.config);
    let mut providers: Vec<&config::Provider> = match (offered, default) {
        ([], Some(default)) => vec![default],
        ([], None) => door.config.login.providers.iter().filter(is_trusted).collect(),
        (offered, _) => offered.iter().map(|one| named(&one.name)).collect::<Result<_, _>>()?,
    };
    match (providers.pop(), providers.is_empty()) {
        (None, _) => Err(invalid("this portal has no login (portal.yaml, `login.provider`)")),
        (Some(only), true) => Ok(LoginChoice::One(only)),
        (Some(last), false) => {
            providers.push(last);
            Ok(LoginChoice::Several(providers))
        }
    }
}
