//! The login door: the endpoints under `identity.prefix` (login, callback, logout, session, tokens, permissions,
//! portals) and their pages.
//!
//! `gate` passes a checked request whose path is below the prefix. `Endpoint` is the table of paths and methods, and
//! `LoginDoor::dispatch` names the file that answers each endpoint. This door never decides about a path of an app. No
//! response is cached; a redirect leads to this origin or to a configured provider, nowhere else.

mod backchannel;
mod begin;
mod callback;
mod caller;
mod completion;
mod form_token;
mod input;
mod local;
mod login_loop;
mod logout;
mod oauth2_proxy;
mod own_sessions;
mod page;
mod permissions;
mod portal_lookup;
mod portals;
mod record;
mod refresh;
mod return_path;
mod session;
mod token;

use std::cell::Cell;
use std::sync::Arc;

use cedargate_policy::denial::{Denial, Refusal};
use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use uuid::Uuid;

use self::input::Parameters;
use self::page::Pages;
pub use self::permissions::PermissionStreams;
pub use self::return_path::{ReturnPath, ReturnRules};
use crate::accounts::Accounts;
use crate::audit::Audit;
use crate::authn::{AssertionKeys, Authn, IntrospectionClient, Proofs};
use crate::base::lifecycle::Shutdown;
use crate::base::metrics::Metrics;
use crate::config::{Config, StatedIn};
use crate::http::answer::{self, DPOP_NONCE, Style};
use crate::http::client_certificate::ClientCertificate;
use crate::http::pages::Theme;
use crate::http::request::{ClientFacts, same_origin};
use crate::http::upstream::Body;
use crate::login::RelyingParty;
use crate::permissions::PermissionSnapshots;
use crate::portals::PortalRegistry;
use crate::session::Sessions;

/// The parts of the gate that the endpoints use.
pub struct LoginDoor {
    pub config: Arc<Config>,
    pub sessions: Arc<Sessions>,
    pub login: Arc<RelyingParty>,
    pub accounts: Arc<Accounts>,
    pub theme: Arc<Theme>,
    pub authn: Arc<Authn>,
    pub introspection: Arc<IntrospectionClient>,
    pub assertions: Arc<AssertionKeys>,
    pub proofs: Arc<Proofs>,
    pub audit: Audit,
    pub metrics: Metrics,
    pub permissions: PermissionSnapshots,
    pub permission_streams: PermissionStreams,
    /// Changes whenever a revision is swapped.
    pub reloads: watch::Sender<u64>,
    pub shutdown: Shutdown,
}

/// One request to an endpoint, after the checks that `gate` makes of every request.
pub struct EndpointRequest<'a> {
    pub head: &'a Parts,
    pub client: &'a ClientFacts,
    pub style: Style,
    pub decision_id: Uuid,
    pub portals: &'a PortalRegistry,
    /// The path below the prefix, without slashes at its ends.
    pub endpoint: &'a str,
    /// The client certificate of the connection.
    pub certificate: Option<&'a Arc<ClientCertificate>>,
    /// The nonce for the client's next DPoP proofs; set where a proof counts, read when the answer is made.
    pub next_nonce: &'a Cell<Option<HeaderValue>>,
}

/// Every endpoint under `identity.prefix`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Endpoint<'a> {
    Portals,
    Portal { slug: &'a str },
    Login,
    LocalLogin,
    Callback,
    Logout,
    LoggedOut,
    BackchannelLogout,
    Session,
    OwnSessions,
    Refresh,
    Token,
    Permissions,
    PermissionEvents,
    // of oauth2-proxy
    Start,
    SignOut,
    UserInfo,
}

impl<'a> Endpoint<'a> {
    /// `oauth2_proxy`: `Some` if the endpoints of oauth2-proxy are on.
    fn find(path: &'a str, oauth2_proxy: Option<StatedIn>) -> Option<Self> {
        Some(match path {
            "start" | "sign_in" if oauth2_proxy.is_some() => Self::Start,
            "sign_out" if oauth2_proxy.is_some() => Self::SignOut,
            "userinfo" if oauth2_proxy.is_some() => Self::UserInfo,
            "callback" if oauth2_proxy.is_some() => Self::Callback,
            "portals" => Self::Portals,
            "auth/login" => Self::Login,
            "auth/local" => Self::LocalLogin,
            "auth/callback" => Self::Callback,
            "auth/logout" => Self::Logout,
            "auth/logged-out" => Self::LoggedOut,
            "auth/backchannel-logout" => Self::BackchannelLogout,
            "auth/session" => Self::Session,
            "auth/sessions" => Self::OwnSessions,
            "auth/refresh" => Self::Refresh,
            "auth/token" => Self::Token,
            "permissions" => Self::Permissions,
            "permissions/events" => Self::PermissionEvents,
            other => match other.strip_prefix("portals/") {
                Some(slug) if !slug.contains('/') => Self::Portal { slug },
                _ => return None,
            },
        })
    }

    /// The methods of the endpoint, as the `Allow` header lists them.
    const fn methods(self) -> &'static str {
        match self {
            Self::Portals | Self::Portal { .. } | Self::Login | Self::LoggedOut | Self::Session => "GET, HEAD",
            Self::Start | Self::UserInfo => "GET, HEAD",
            Self::Callback | Self::OwnSessions | Self::Permissions | Self::SignOut => "GET, HEAD, POST",
            Self::PermissionEvents => "GET",
            Self::LocalLogin | Self::Logout | Self::BackchannelLogout | Self::Refresh | Self::Token => "POST",
        }
    }
}

impl LoginDoor {
    pub async fn handle(&self, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let mut response = self.dispatch(request, body).await?;
        let headers = response.headers_mut();
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if let Some(nonce) = request.next_nonce.take() {
            headers.insert(DPOP_NONCE, nonce);
        }
        Ok(response)
    }

    /// Each endpoint's function; its module is the file.
    async fn dispatch(&self, request: &EndpointRequest<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let Some(endpoint) = Endpoint::find(request.endpoint, self.config.identity.oauth2_proxy) else {
            return Err(Refusal::new(
                Denial::PortalUnknown,
                "this path is the gate's and has no endpoint",
            ));
        };
        let methods = endpoint.methods();
        if !methods.split(", ").any(|method| request.head.method == *method) {
            return Ok(match request.style {
                Style::Page => self.pages(request).method_not_allowed(methods, endpoint),
                _ => answer::method_not_allowed(methods),
            });
        }
        match endpoint {
            Endpoint::Portals => portals::list(self, request),
            Endpoint::Portal { slug } => portals::show(self, request, slug).await,
            Endpoint::Login => begin::begin(self, request).await,
            Endpoint::LocalLogin => local::submit(self, request, body).await,
            Endpoint::Callback if request.head.method == Method::POST => callback::receive_form(self, request, body).await,
            Endpoint::Callback => callback::complete(self, request).await,
            Endpoint::Logout => logout::log_out(self, request, body).await,
            Endpoint::LoggedOut => Ok(logout::logged_out(self, request)),
            Endpoint::BackchannelLogout => backchannel::log_out(self, request, body).await,
            Endpoint::Session => session::show(self, request).await,
            Endpoint::OwnSessions if request.head.method == Method::POST => own_sessions::end(self, request, body).await,
            Endpoint::OwnSessions => own_sessions::show(self, request).await,
            Endpoint::Refresh => refresh::refresh(self, request).await,
            Endpoint::Permissions if request.head.method == Method::POST => permissions::decide(self, request, body).await,
            Endpoint::Permissions => permissions::show(self, request).await,
            Endpoint::PermissionEvents => permissions::stream(self, request).await,
            Endpoint::Token => token::mint(self, request, body).await,
            Endpoint::Start => oauth2_proxy::start(self, request),
            Endpoint::SignOut => oauth2_proxy::sign_out(self, request, body).await,
            Endpoint::UserInfo => oauth2_proxy::user_info(self, request).await,
        }
    }

    fn pages<'a>(&'a self, request: &EndpointRequest<'_>) -> Pages<'a> {
        Pages {
            theme: &self.theme,
            prefix: &self.config.identity.prefix,
            decision_id: request.decision_id,
            portal: None,
        }
    }

    /// Refuses a request without evidence that a page of this origin sent it.
    fn check_same_origin(&self, request: &EndpointRequest<'_>) -> Result<(), Refusal> {
        let host = &request.client.host;
        same_origin(&request.head.headers, |origin| self.config.is_own_origin(host, origin))
    }

    /// Checks the return path of a link or form; `None` without one.
    fn return_path(&self, parameters: &Parameters) -> Result<Option<ReturnPath>, Refusal> {
        ReturnPath::from_parameters(parameters, ReturnRules::of(&self.config))
    }

    /// Checks the return path of a login state, which the gate sealed.
    fn own_return_path(&self, text: &str) -> Result<ReturnPath, Refusal> {
        ReturnPath::parse_own(text, ReturnRules::of(&self.config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slug_of_a_portal_is_one_path_segment() {
        assert_eq!(Endpoint::find("portals/a", None), Some(Endpoint::Portal { slug: "a" }));
        for path in ["portals/a/b", "portal", "auth", "auth/login/", "login", ""] {
            assert_eq!(Endpoint::find(path, None), None, "{path}");
        }
    }

    #[test]
    fn endpoints_of_oauth2_proxy_are_there_with_the_switch_only() {
        for path in ["start", "sign_in", "sign_out", "userinfo", "callback"] {
            assert_eq!(Endpoint::find(path, None), None, "{path}");
            assert!(Endpoint::find(path, Some(StatedIn::XForwarded)).is_some(), "{path}");
        }
        // a question is answered before the login door, and in one spelling
        assert_eq!(Endpoint::find("auth", Some(StatedIn::XOriginal)), None);
    }
}
