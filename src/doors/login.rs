//! The endpoints under `identity.prefix`: login, callback, logout, who am I, tokens, portals, and their pages.
//!
//! Another door: `gate` hands it what was checked of a request whose path is the gate's own. Nothing here decides what an
//! app's path permits. Answers are never cached; a redirect only ever leads to this origin or to a configured provider.

mod backchannel;
mod callback;
mod local;
mod login;
mod logout;
mod outcome;
mod page;
mod portals;
mod presented;
mod refresh;
mod return_path;
mod session;
mod token;
mod visitor;

pub use self::return_path::ReturnPath;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use uuid::Uuid;

pub use self::presented::{Renewing, session_identity};
use crate::audit::Audit;
use crate::authn::{AssertionKeys, Authn, IntrospectionClient};
use crate::base::metrics::Metrics;
use crate::config::Config;
use crate::denial::{Denial, Refusal};
use crate::http::answer::Style;
use crate::http::pages::Theme;
use crate::http::request::ClientFacts;
use crate::http::upstream::Body;
use crate::login::Login;
use crate::login::accounts::Accounts;
use crate::portals::Serving;
use crate::session::Sessions;

/// Bytes of a form.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// How long a form may take.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that the endpoints need.
pub struct IdentityDoor {
    pub config: Arc<Config>,
    pub sessions: Arc<Sessions>,
    pub login: Arc<Login>,
    pub accounts: Arc<Accounts>,
    pub theme: Arc<Theme>,
    pub authn: Arc<Authn>,
    pub introspection: Arc<IntrospectionClient>,
    pub assertions: Arc<AssertionKeys>,
    pub audit: Audit,
    pub metrics: Metrics,
    pub renewing: Arc<Renewing>,
}

/// One request to an endpoint, checked as every request is.
pub struct Visit<'a> {
    pub head: &'a Parts,
    pub client: &'a ClientFacts,
    pub style: Style,
    pub decision_id: Uuid,
    pub serving: &'a Serving,
    /// The path below the prefix, without slashes at its ends.
    pub endpoint: &'a str,
}

impl IdentityDoor {
    pub async fn handle(&self, visit: &Visit<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let mut response = self.dispatch(visit, body).await?;
        let headers = response.headers_mut();
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn dispatch(&self, visit: &Visit<'_>, body: Incoming) -> Result<Response<Body>, Refusal> {
        let method = &visit.head.method;
        let reads = *method == Method::GET || *method == Method::HEAD;
        match visit.endpoint {
            "portals" if reads => self.portals(visit),
            "auth/login" if reads => self.begin_login(visit).await,
            "auth/local" if *method == Method::POST => self.local_login(visit, body).await,
            "auth/callback" if reads => self.callback(visit).await,
            "auth/logout" if *method == Method::POST => self.logout(visit, body).await,
            "auth/backchannel-logout" if *method == Method::POST => self.backchannel_logout(visit, body).await,
            "auth/session" if reads => self.who_am_i(visit).await,
            "auth/refresh" if *method == Method::POST => self.refresh(visit).await,
            "auth/token" if *method == Method::POST => self.token(visit, body).await,
            "portals" | "auth/login" | "auth/callback" | "auth/session" => Ok(not_allowed("GET, HEAD")),
            "auth/local" | "auth/logout" | "auth/backchannel-logout" | "auth/refresh" | "auth/token" => Ok(not_allowed("POST")),
            other => match other.strip_prefix("portals/") {
                Some(slug) if reads && !slug.contains('/') => self.portal(visit, slug),
                Some(slug) if !slug.contains('/') => Ok(not_allowed("GET, HEAD")),
                _ => Err(Refusal::new(
                    Denial::PortalUnknown,
                    "this path is the gate's and has no endpoint",
                )),
            },
        }
    }
}

/// The fields of a form, each at most once.
async fn form(head: &Parts, body: Incoming) -> Result<Vec<(String, String)>, Refusal> {
    let kind = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/x-www-form-urlencoded") {
        return Err(Refusal::new(Denial::RequestInvalid, "the body is no form"));
    }
    let read = tokio::time::timeout(FORM_TIMEOUT, Limited::new(body, FORM_BYTES_MAX).collect()).await;
    let read = read.map_err(|_late| Refusal::new(Denial::RequestInvalid, "the form did not come in time"))?;
    let bytes = read
        .map_err(|_error| Refusal::new(Denial::RequestTooLarge, "the form is too large or broke off"))?
        .to_bytes();
    let fields: Vec<(String, String)> = url::form_urlencoded::parse(&bytes).into_owned().collect();
    for (n, (name, _)) in fields.iter().enumerate() {
        if fields.iter().take(n).any(|(other, _)| other == name) {
            return Err(Refusal::new(Denial::RequestInvalid, "a form field is repeated"));
        }
    }
    Ok(fields)
}

fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 303: whatever the method was, the next is a GET.
fn see_other(location: &str) -> Result<Response<Body>, Refusal> {
    let location =
        HeaderValue::try_from(location).map_err(|_bad| Refusal::new(Denial::RequestInvalid, "no header can carry the target"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// A clock before 1970 reads as 1970.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = json(
        StatusCode::METHOD_NOT_ALLOWED,
        &serde_json::json!({"error": format!("this takes {methods}")}),
    );
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}
