//! Admission of requests to the workbench.
//!
//! SECURITY: three attackers matter. A page of another site sends requests to loopback from the user's browser: it has
//! no cookie, because the cookie is `SameSite=Strict`, and its `Sec-Fetch-Site` or `Origin` names it. A name that an
//! attacker points at 127.0.0.1 (DNS rebinding) arrives with that name in `Host`. Another user of the machine has no
//! token. A page of another port of 127.0.0.1 counts as the same *site*, so `Sec-Fetch-Site` must say the same
//! *origin*.

use std::net::SocketAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{CONTENT_TYPE, COOKIE, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method};

/// Random bytes of the token, and of the cookie.
const SECRET_BYTES: usize = 32;
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// A header that no form and no link can set; with it, a request from another origin needs a preflight, which gets no
/// answer.
const OWN_HEADER: HeaderName = HeaderName::from_static("x-cedargate-workbench");

/// The address, and the secrets that open it.
pub(crate) struct PageAccess {
    /// `127.0.0.1:4711`.
    host: String,
    /// In the printed address.
    token: String,
    /// The value of the cookie.
    session: String,
}

/// An admitted request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Admission {
    /// The first visit, with the token in the address.
    Welcome(Welcome),
    Admitted,
}

/// The way from the first visit to the page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Welcome {
    Redirect,
    /// A link on another page led here. Browsers send no strict cookie along redirects of such a navigation, so the
    /// answer is a page that goes on by itself.
    Page,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rejection {
    /// Another name or port than the listener's.
    Host,
    /// Another page asks.
    Origin,
    /// No cookie of this process, or a wrong token.
    Unknown,
    Method,
    /// A call that changes something without the page's own header, or not in JSON.
    Form,
}

impl PageAccess {
    /// Makes the secrets. `Err` if the machine has no random numbers.
    pub fn new(address: SocketAddr) -> Result<Self, String> {
        let secret = || {
            let mut bytes = [0; SECRET_BYTES];
            let filled = aws_lc_rs::rand::fill(&mut bytes);
            filled.map_err(|_why| "the machine has no random numbers".to_owned())?;
            Ok::<_, String>(hex::encode(bytes))
        };
        Ok(Self {
            host: address.to_string(),
            token: secret()?,
            session: secret()?,
        })
    }

    /// The address of the first visit.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.host, self.token)
    }

    /// Name and value of the cookie. Cookies are shared between ports, so the name has the port.
    pub(super) fn cookie(&self) -> String {
        format!("{}={}", self.cookie_name(), self.session)
    }

    fn cookie_name(&self) -> String {
        let port = self.host.rsplit(':').next().unwrap_or_default();
        format!("cedargate-workbench-{port}")
    }

    pub(super) fn admit(&self, head: &Parts) -> Result<Admission, Rejection> {
        let is_own_host = only(&head.headers, &HOST) == Some(&self.host);
        let is_own_target = head.uri.authority().is_none_or(|authority| authority.as_str() == self.host);
        if !is_own_host || !is_own_target {
            return Err(Rejection::Host);
        }
        if head.method != Method::GET && head.method != Method::POST {
            return Err(Rejection::Method);
        }
        if let Some(token) = self.presented_token(head) {
            if !is_same(&token, &self.token) {
                return Err(Rejection::Unknown);
            }
            return Ok(Admission::Welcome(match is_own_navigation(&head.headers) {
                true => Welcome::Redirect,
                false => Welcome::Page,
            }));
        }
        if !is_own_navigation(&head.headers) || !self.is_own_origin(&head.headers) {
            return Err(Rejection::Origin);
        }
        if !self.has_cookie(&head.headers) {
            return Err(Rejection::Unknown);
        }
        if head.method == Method::POST && !is_call(&head.headers) {
            return Err(Rejection::Form);
        }
        Ok(Admission::Admitted)
    }

    /// The token of a first visit.
    fn presented_token(&self, head: &Parts) -> Option<String> {
        if head.method != Method::GET || head.uri.path() != "/" {
            return None;
        }
        let query = head.uri.query()?;
        let found = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token");
        found.map(|(_, value)| value.into_owned())
    }

    fn is_own_origin(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(ORIGIN)
            .iter()
            .all(|origin| origin.to_str().is_ok_and(|origin| origin == format!("http://{}", self.host)))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = pairs
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(known, value)| known == name && is_same(value, &self.session))
    }
}

/// The value of a header that occurs once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

/// True if the page itself asks, or the user opened the address; also for a client that is no browser.
fn is_own_navigation(headers: &HeaderMap) -> bool {
    headers
        .get_all(FETCH_SITE)
        .iter()
        .all(|site| site == "same-origin" || site == "none")
}

fn is_call(headers: &HeaderMap) -> bool {
    let is_json = only(headers, &CONTENT_TYPE) == Some("application/json");
    is_json && headers.contains_key(&OWN_HEADER)
}

/// Compares in a time that does not depend on the place of a difference.
fn is_same(presented: &str, secret: &str) -> bool {
    verify_slices_are_equal(presented.as_bytes(), secret.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn access() -> PageAccess {
        PageAccess {
            host: "127.0.0.1:4711".to_owned(),
            token: "t".repeat(64),
            session: "s".repeat(64),
        }
    }

    fn admitted(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Admission, Rejection> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        access().admit(&request.body(()).unwrap().into_parts().0)
    }

    const OWN: (&str, &str) = ("host", "127.0.0.1:4711");

    fn cookie() -> String {
        format!("a=b; {}", access().cookie())
    }

    #[test]
    fn only_the_printed_token_opens_the_first_visit() {
        let right = format!("/?token={}", "t".repeat(64));
        assert_eq!(admitted("GET", &right, &[OWN]), Ok(Admission::Welcome(Welcome::Redirect)));
        let linked = [OWN, ("sec-fetch-site", "cross-site")];
        assert_eq!(admitted("GET", &right, &linked), Ok(Admission::Welcome(Welcome::Page)));
        for wrong in ["/?token=", "/?token=t", "/?token=x&token=tttt"] {
            assert_eq!(admitted("GET", wrong, &[OWN]), Err(Rejection::Unknown), "{wrong}");
        }
        let elsewhere = format!("/api/tree?token={}", "t".repeat(64));
        assert_eq!(admitted("GET", &elsewhere, &[OWN]), Err(Rejection::Unknown));
    }

    #[test]
    fn a_name_that_leads_to_loopback_is_no_host() {
        let cookie = cookie();
        let with = |host| admitted("GET", "/", &[("host", host), ("cookie", &cookie)]);
        for host in [
            "attacker.test:4711",
            "localhost:4711",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.2:4711",
            "[::1]:4711",
        ] {
            assert_eq!(with(host), Err(Rejection::Host), "{host}");
        }
        assert_eq!(with("127.0.0.1:4711"), Ok(Admission::Admitted));
        let twice = [OWN, ("host", "attacker.test"), ("cookie", &cookie)];
        assert_eq!(admitted("GET", "/", &twice), Err(Rejection::Host));
        let absolute = admitted("GET", "http://attacker.test/", &[OWN, ("cookie", &cookie)]);
        assert_eq!(absolute, Err(Rejection::Host));
    }

    #[test]
    fn another_page_of_the_same_browser_is_refused() {
        let cookie = cookie();
        for foreign in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://127.0.0.1:80"),
            ("origin", "null"),
        ] {
            let answer = admitted("GET", "/api/tree", &[OWN, ("cookie", &cookie), foreign]);
            assert_eq!(answer, Err(Rejection::Origin), "{foreign:?}");
        }
        assert_eq!(admitted("GET", "/api/tree", &[OWN]), Err(Rejection::Unknown));
        let guessed = [OWN, ("cookie", "cedargate-workbench-4711=s")];
        assert_eq!(admitted("GET", "/api/tree", &guessed), Err(Rejection::Unknown));
    }

    #[test]
    fn a_call_that_changes_something_has_json_and_the_pages_own_header() {
        let cookie = cookie();
        let with = |more: &[(&str, &str)]| {
            let headers: Vec<_> = [OWN, ("cookie", cookie.as_str())]
                .into_iter()
                .chain(more.iter().copied())
                .collect();
            admitted("POST", "/api/explain", &headers)
        };
        let json = ("content-type", "application/json");
        let own = ("x-cedargate-workbench", "1");
        assert_eq!(with(&[json, own]), Ok(Admission::Admitted));
        assert_eq!(with(&[json]), Err(Rejection::Form));
        assert_eq!(with(&[("content-type", "text/plain"), own]), Err(Rejection::Form));
        assert_eq!(with(&[own]), Err(Rejection::Form));
        assert_eq!(admitted("PUT", "/", &[OWN, ("cookie", &cookie)]), Err(Rejection::Method));
        assert_eq!(admitted("OPTIONS", "/api/explain", &[OWN]), Err(Rejection::Method));
    }
}
