//! Rewrites the head of a request for the app, and the head of the app's answer for the client.
//!
//! The order prevents forged identities (GHSA-w9mr-28mw-j8hg, CVE-2025-64484). First the gate removes the headers that
//! `Connection` names, so the client cannot use `Connection` to remove a header that the gate sets. Then it removes
//! every copy of its own headers in any spelling. Last it sets all of its own headers, with an empty value if it has
//! none. So a client can neither remove nor repeat nor preset a header of the gate.
//!
//! `sanitize` does the first two steps before the decision, so that no policy reads a forged header or one that
//! `Connection` takes away from the app. `write_request_headers` does the rest after the decision and needs the permit.

use std::borrow::Cow;
use std::sync::LazyLock;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::permit::Permit;
use cedargate_policy::scope::RemovedHeaders;
use cedargate_policy::types::HeaderNames;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT,
    HOST, MAX_FORWARDS, ORIGIN, RANGE, REFERER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use smallvec::SmallVec;

use super::client_headers::ClientHeaderCache;
use super::name_set::{NameSet, normalised};
use super::{ForwardRequest, UpstreamError};
use crate::config::{Upstream, UpstreamToken, strip_headers};
use crate::http::credentials;
use crate::http::request::{TRACEPARENT, TRACESTATE, X_REQUEST_ID, uuid_value};

/// Characters that are percent-encoded: controls, non-ASCII (always), and those that separate or fake items of a list.
const ENCODED: &AsciiSet = &CONTROLS.add(b',').add(b'%');
/// Headers that the gate adds.
const GATE_HEADERS: usize = 18;
const HOP_BY_HOP: [&str; 4] = ["keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"];

static USER: HeaderName = HeaderName::from_static("x-forwarded-user");
static EMAIL: HeaderName = HeaderName::from_static("x-forwarded-email");
static GROUPS: HeaderName = HeaderName::from_static("x-forwarded-groups");
static PREFERRED_USERNAME: HeaderName = HeaderName::from_static("x-forwarded-preferred-username");
static ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-forwarded-access-token");
static TENANT: HeaderName = HeaderName::from_static("x-cedargate-tenant");
static PORTAL: HeaderName = HeaderName::from_static("x-cedargate-portal");
static ROLES: HeaderName = HeaderName::from_static("x-cedargate-roles");
static DECISION_ID: HeaderName = HeaderName::from_static("x-cedargate-decision-id");
static REVISION: HeaderName = HeaderName::from_static("x-cedargate-revision");

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Authorization {
    /// The gate's schemes do not reach the app.
    Strip,
    Forward,
    /// The app gets the gate's token, or none.
    Replace,
}

impl Authorization {
    /// True if the client's own header does not reach the app.
    fn removes(self, headers: &HeaderMap) -> bool {
        match self {
            Self::Forward => false,
            Self::Strip => !credentials::is_foreign(headers),
            Self::Replace => true,
        }
    }
}

/// The header rules of one portal, made once from its upstream's configuration.
#[derive(Clone, Debug)]
pub struct HeaderRules {
    assertion: HeaderName,
    /// Headers that the app gets from the gate or not at all.
    reserved: NameSet,
    /// Those of them that pass if they come from a trusted proxy.
    passed: NameSet,
    authorization: Authorization,
}

/// The peer that sent a request's headers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sender {
    Client,
    /// One of `trusted_proxies`.
    TrustedProxy,
}

/// The headers that replace the request, in any spelling. Those that state a question were taken out of it.
static REPLACE_THE_REQUEST: LazyLock<NameSet> = LazyLock::new(|| NameSet::in_any_spelling(strip_headers::replace_the_request()));
/// It names addresses, not a request; ingress-nginx sets it.
static ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");

impl HeaderRules {
    /// Builds the rules of an upstream's configuration. INVARIANT: `config` has checked every name, so the fallback is
    /// never taken.
    pub fn of(upstream: &Upstream, assertion: &str, headers: &RemovedHeaders) -> Self {
        let authorization = match &upstream.token {
            UpstreamToken::Passthrough => Authorization::Forward,
            UpstreamToken::None => Authorization::Strip,
            UpstreamToken::Assertion | UpstreamToken::Exchange(_) => Authorization::Replace,
        };
        let assertion = HeaderName::try_from(assertion).unwrap_or(HeaderName::from_static("x-cedargate-assertion"));
        Self {
            reserved: NameSet::in_any_spelling(headers.removed.iter().map(String::as_str)),
            passed: NameSet::as_written(headers.passed.iter().map(String::as_str)),
            assertion,
            authorization,
        }
    }

    /// Refuses a request of which another proxy could not make what the gate makes of its own: the proxy replaces the
    /// headers of `headers_for_proxy` by their names, and it removes no other.
    pub fn check_for_proxy(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let is_spelled = |name: &HeaderName| self.is_reserved(name) && normalised(name.as_str()) != name.as_str();
        let is_own = |name: &HeaderName| {
            name.as_str().starts_with("x-cedargate-") && ![&TENANT, &PORTAL, &ROLES, &DECISION_ID, &REVISION].contains(&name)
        };
        let is_assertion = |name: &HeaderName| *name == self.assertion;
        let replaces =
            |name: &HeaderName| REPLACE_THE_REQUEST.contains_in_any_spelling(name.as_str()) && *name != ORIGINAL_FORWARDED_FOR;
        let found = headers
            .keys()
            .find(|name| is_spelled(name) || replaces(name) || (is_own(name) && !is_assertion(name)));
        match found {
            None => Ok(()),
            Some(name) => Err(Refusal::new(
                Denial::RequestInvalid,
                format!("`{name}`: the proxy would pass this header to the app"),
            )),
        }
    }

    /// True if a client's header of this name, in any spelling, must not reach the app.
    fn is_reserved(&self, name: &HeaderName) -> bool {
        self.reserved.contains_in_any_spelling(name.as_str())
    }

    /// True if the header must not reach the app although it comes from this sender.
    fn removes(&self, name: &HeaderName, sender: Sender) -> bool {
        // a proxy sets a header in the spelling that is configured; another one is the client's
        let is_passed =
            || self.passed.contains(name.as_str()) && normalised(name.as_str()) != normalised(self.assertion.as_str());
        self.is_reserved(name) && !(sender == Sender::TrustedProxy && is_passed())
    }

    pub(super) fn remove_from_trailers(&self, trailers: &mut HeaderMap, policy_headers: &HeaderNames) {
        let forbidden: SmallVec<[HeaderName; 4]> = trailers
            .keys()
            .filter(|name| self.is_reserved(name) || !is_allowed_trailer(name) || policy_headers.contains(name.as_str()))
            .cloned()
            .collect();
        for name in forbidden {
            trailers.remove(name);
        }
    }
}

/// Proof that `sanitize` ran on a head before the decision.
#[derive(Debug)]
pub struct Sanitized(());

/// Removes the headers that `Connection` names, and the headers that only the gate may set. SECURITY: it runs before
/// the decision; otherwise a policy would read a header that `Connection` then takes away from the app. Headers that
/// frame the body or ask for an upgrade stay for `write_request_headers`.
pub fn sanitize(headers: &mut HeaderMap, rules: &HeaderRules, sender: Sender) -> Sanitized {
    if headers.contains_key(CONNECTION) {
        remove_named_by_connection(headers);
    }
    // most heads hold no such header
    if headers.keys().any(|name| rules.removes(name, sender)) {
        let reserved: SmallVec<[HeaderName; 8]> = headers.keys().filter(|name| rules.removes(name, sender)).cloned().collect();
        for name in reserved {
            headers.remove(name);
        }
    }
    Sanitized(())
}

/// Removes the headers that `Connection` names, as far as a policy could read them.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let exempt = [
        HOST,
        CONNECTION,
        UPGRADE,
        TE,
        TRANSFER_ENCODING,
        CONTENT_LENGTH,
        // the gate reads these two, and no policy can
        AUTHORIZATION,
        COOKIE,
    ];
    let named = tokens(headers, &CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok());
    let named: SmallVec<[HeaderName; 4]> = named.filter(|name| !exempt.contains(name)).collect();
    for name in named {
        headers.remove(name);
    }
}

/// False for what a server reads before the body (RFC 9110, 6.5.1: framing, routing, conditions, credentials, content),
/// and for the headers that the gate sets itself.
fn is_allowed_trailer(name: &HeaderName) -> bool {
    let before_the_body = [
        HOST,
        TRANSFER_ENCODING,
        CONTENT_LENGTH,
        AUTHORIZATION,
        COOKIE,
        CONNECTION,
        TE,
        TRAILER,
        UPGRADE,
        EXPECT,
        MAX_FORWARDS,
        RANGE,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_TYPE,
        CONTENT_RANGE,
        ORIGIN,
        REFERER,
    ];
    let own = [&X_REQUEST_ID, &TRACEPARENT, &TRACESTATE].contains(&name);
    let spelled = normalised(name.as_str());
    let known = before_the_body.iter().any(|known| known.as_str() == spelled) || spelled.starts_with("if-");
    !own && !known && !HOP_BY_HOP.contains(&&*spelled) && spelled != X_REQUEST_ID.as_str()
}

/// Turns the sanitized headers of a request into those that the app gets. Takes the permit, because the permit holds
/// the identity.
pub(super) fn write_request_headers(
    headers: &mut HeaderMap,
    permit: Permit,
    to: &ForwardRequest<'_>,
    client_headers: &ClientHeaderCache,
) {
    let Sanitized(()) = to.sanitized;
    headers.reserve(GATE_HEADERS);
    let found = FoundHeader::in_head(headers);
    if found.hop_by_hop {
        remove_hop_by_hop(headers);
    }
    // without a body hyper writes no length, and some apps refuse a POST that has none
    if found.content_length && headers.get(CONTENT_LENGTH).is_none_or(|length| length.as_bytes() != b"0") {
        headers.remove(CONTENT_LENGTH);
    }
    // a permitted request has the gate's own scheme, or one that is the app's
    if found.authorization && to.rules.authorization.removes(headers) {
        headers.remove(AUTHORIZATION);
        // the proof that came with it
        headers.remove("dpop");
    }
    if found.cookie {
        remove_session_cookies(headers);
    }
    if found.trace_state {
        headers.remove(&TRACESTATE);
    }
    set_identity(headers, permit, &to.rules.assertion);
    client_headers.set(headers, to.client);
    set_trace(headers, to);
}

/// The headers of a head that the app must not get as they are, found in one pass: most heads hold few of them, and
/// every removal looks its name up. A header may be gone again before its rule is applied.
#[derive(Clone, Copy, Debug, Default)]
struct FoundHeader {
    hop_by_hop: bool,
    content_length: bool,
    authorization: bool,
    cookie: bool,
    trace_state: bool,
}

impl FoundHeader {
    fn in_head(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "content-length" => found.content_length = true,
                "authorization" => found.authorization = true,
                "cookie" => found.cookie = true,
                "tracestate" => found.trace_state = true,
                _ => found.hop_by_hop |= is_hop_by_hop(name),
            }
        }
        found
    }
}

/// Turns the head of the app's answer into the one that the client gets.
///
/// # Errors
/// A head with ambiguous framing. SECURITY: hyper's client reads the body as chunked and keeps the `content-length`;
/// hyper's server would frame the client's body by that length, and the client's connection would be out of step.
pub(super) fn write_response_headers(answer: &mut Parts, request_id: &HeaderValue) -> Result<(), UpstreamError> {
    let headers = &mut answer.headers;
    check_framing(headers)?;
    remove_hop_by_hop(headers);
    if answer.status == StatusCode::NO_CONTENT {
        // RFC 9110, 8.6
        headers.remove(CONTENT_LENGTH);
    }
    headers.insert(&X_REQUEST_ID, request_id.clone());
    remove_set_session_cookies(headers);
    Ok(())
}

/// Removes the `Set-Cookie` headers of the app that name a session cookie. SECURITY: an app that could set the gate's
/// cookies could put one user into another user's session.
fn remove_set_session_cookies(headers: &mut HeaderMap) {
    let sets_session = |value: &&HeaderValue| is_session_cookie(value.as_bytes());
    if !headers.get_all(SET_COOKIE).iter().any(|value| sets_session(&value)) {
        return;
    }
    let remaining: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .filter(|v| !sets_session(v))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for value in remaining {
        headers.append(SET_COOKIE, value);
    }
}

/// True if an answer announces a body although its request (HEAD) or its status (204, 304) allows none. An app that
/// sends the body would send it in the place of the next answer.
pub(super) fn announces_forbidden_body(answer: &Parts, method: &Method) -> bool {
    let bodiless = *method == Method::HEAD || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&answer.status);
    let length = answer.headers.get(CONTENT_LENGTH);
    let announced = answer.headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0");
    bodiless && announced
}

fn check_framing(headers: &HeaderMap) -> Result<(), UpstreamError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) || codings.next().is_some() {
        return Err(UpstreamError::malformed(
            "the app's `transfer-encoding` is not exactly `chunked`",
        ));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let digits = length.as_bytes();
    if lengths.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(UpstreamError::malformed("the app's `content-length` is not one plain number"));
    }
    if coding.is_some() {
        return Err(UpstreamError::malformed(
            "the app sent `content-length` and `transfer-encoding`",
        ));
    }
    Ok(())
}

/// Removes the headers of an early hint that must not reach the client.
pub(super) fn prepare_hints(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(CONTENT_LENGTH);
    remove_set_session_cookies(headers);
}

/// Removes the trailers that would change the framing, the connection or the client's session.
pub(super) fn prepare_response_trailers(trailers: &mut HeaderMap) {
    remove_set_session_cookies(trailers);
    for name in [HOST, CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE] {
        trailers.remove(name);
    }
    for name in HOP_BY_HOP {
        trailers.remove(name);
    }
}

/// Iterates over the tokens of a list header, over all its lines.
pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    let items = lines.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// Removes the hop-by-hop headers. `Trailer` stays, because hyper sends no trailers without it. `TE` keeps `trailers`
/// only.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // `connection` and `te` are such headers themselves
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let trailers = tokens(headers, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    let named: SmallVec<[HeaderName; 4]> = tokens(headers, &CONNECTION)
        // the token that most apps send; the header `keep-alive` is removed below in any case
        .filter(|name| !name.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| *name != HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
    let found: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "connection" | "te" | "transfer-encoding" | "upgrade" | "http2-settings") || HOP_BY_HOP.contains(&name)
}

/// True if a cookie pair has the name of a session cookie. SECURITY: a browser stores `=cedargate=x` as a cookie
/// without a name and sends it back as `cedargate=x`, so characters before a name are skipped. The case is ignored,
/// because the app may read cookie names without regard to case.
fn is_session_cookie(pair: &[u8]) -> bool {
    let before = pair.iter().take_while(|b| b.is_ascii_whitespace() || b"=;\x0b\0".contains(b));
    let name = pair.get(before.count()..).unwrap_or_default();
    let rest = without_prefix(without_prefix(name, b"__Host-").unwrap_or(name), b"cedargate");
    // an app may use a cookie `cedargateway`
    rest.is_some_and(|rest| rest.first().is_none_or(|b| b"=_-;".contains(b) || !b.is_ascii_graphic()))
}

fn without_prefix<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Removes the session cookies; the app's own cookies stay byte for byte.
fn remove_session_cookies(headers: &mut HeaderMap) {
    let has_session_cookie = |value: &HeaderValue| value.as_bytes().split(|b| *b == b';').any(is_session_cookie);
    if !headers.get_all(COOKIE).iter().any(has_session_cookie) {
        return;
    }
    let remaining: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let app_pairs: Vec<&[u8]> = value
                .as_bytes()
                .split(|b| *b == b';')
                .filter(|pair| !is_session_cookie(pair) && !pair.trim_ascii().is_empty())
                .collect();
            let joined = app_pairs.join(&b';');
            Some(joined.trim_ascii())
                .filter(|rest| !rest.is_empty())
                .and_then(|rest| HeaderValue::from_bytes(rest).ok())
        })
        .collect();
    headers.remove(COOKIE);
    for value in remaining {
        headers.append(COOKIE, value);
    }
}

fn set_identity(headers: &mut HeaderMap, permit: Permit, assertion: &HeaderName) {
    let empty = || HeaderValue::from_static("");
    let identity = permit.forwarded;
    let caller = identity.caller.as_deref();
    let value = |pick: fn(&cedargate_policy::permit::CallerHeaders) -> &HeaderValue| {
        caller.map_or_else(empty, |caller| pick(caller).clone())
    };
    headers.insert(&USER, value(|c| &c.user));
    headers.insert(&EMAIL, value(|c| &c.email));
    headers.insert(&GROUPS, value(|c| &c.groups));
    headers.insert(&PREFERRED_USERNAME, value(|c| &c.preferred_username));
    headers.insert(&TENANT, value(|c| &c.tenant));
    headers.insert(&ROLES, value(|c| &c.roles));
    // only rules that replace the client's own give one
    if let Some(authorization) = identity.authorization {
        headers.insert(AUTHORIZATION, authorization);
    }
    // `sanitize` removed every header of this name, so an app without a token sees none
    if let Some(token) = caller.and_then(|caller| caller.access_token.as_ref()) {
        headers.insert(&ACCESS_TOKEN, token.clone());
    }
    headers.insert(&PORTAL, identity.portal);
    headers.insert(&REVISION, identity.revision);
    headers.insert(&DECISION_ID, uuid_value(identity.decision_id));
    headers.insert(assertion, identity.assertion);
}

/// The headers with which another proxy forwards a permitted request: identity, and the client's cookies and
/// `Authorization` as the app may see them. Each is always there, empty if there is nothing, so that the proxy replaces
/// the client's own.
pub fn headers_for_proxy(request: &mut HeaderMap, permit: Permit, rules: &HeaderRules) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(GATE_HEADERS);
    headers.insert(&ACCESS_TOKEN, HeaderValue::from_static(""));
    set_identity(&mut headers, permit, &rules.assertion);
    remove_session_cookies(request);
    let cookies: Vec<&[u8]> = request.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let cookies = HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
    headers.insert(COOKIE, cookies.unwrap_or(HeaderValue::from_static("")));
    if !headers.contains_key(AUTHORIZATION) {
        let forwards = !rules.authorization.removes(request);
        let authorization = request.get(AUTHORIZATION).filter(|_| forwards).cloned();
        headers.insert(AUTHORIZATION, authorization.unwrap_or(HeaderValue::from_static("")));
    }
    headers
}

fn set_trace(headers: &mut HeaderMap, to: &ForwardRequest<'_>) {
    headers.insert(&X_REQUEST_ID, to.request_id.clone());
    headers.insert(&TRACEPARENT, to.trace.traceparent());
    if to.trace.b3.is_some() {
        to.trace.set_b3(headers);
    }
    for state in &to.trace.state {
        headers.append(&TRACESTATE, state.clone());
    }
}

/// Encodes a value for a header of the gate: commas, `%`, controls and non-ASCII are percent-encoded.
pub fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(&encoded(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Percent-encodes one value. SECURITY: receivers trim values and items, so a space at an edge is encoded too: `alice `
/// must not arrive as `alice`.
fn encoded(text: &str) -> Cow<'_, str> {
    let inner = text.trim_matches(' ');
    if inner.len() == text.len() {
        return utf8_percent_encode(text, ENCODED).into();
    }
    let before = text.len() - text.trim_start_matches(' ').len();
    let after = text.len() - inner.len() - before;
    let leading = "%20".repeat(before);
    let trailing = "%20".repeat(after);
    format!("{leading}{}{trailing}", utf8_percent_encode(inner, ENCODED)).into()
}

/// Encodes each item and joins them with `,`.
pub fn header_list<'a>(items: impl IntoIterator<Item = &'a str>) -> HeaderValue {
    let items: Vec<Cow<'_, str>> = items.into_iter().map(encoded).collect();
    HeaderValue::from_str(&items.join(",")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_header_values_are_percent_encoded() {
        assert_eq!(header_value("a,b%\r\né"), "a%2Cb%25%0D%0A%C3%A9");
        assert_eq!(header_list(["a,b", "c"]), "a%2Cb,c");
        assert_eq!(header_list([]), "");
        assert_eq!(header_value(" a b  "), "%20a b%20%20");
        assert_eq!(header_list(["x", " ", " y"]), "x,%20,%20y");
    }

    #[test]
    fn hints_and_trailers_of_the_app_set_no_session_cookie() {
        for prepare in [prepare_hints, prepare_response_trailers] {
            let mut headers = HeaderMap::new();
            for value in ["__Host-cedargate=x; Secure", "own=1", "CEDARGATE_s=y"] {
                headers.append(SET_COOKIE, value.parse().unwrap());
            }
            prepare(&mut headers);
            assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["own=1"]);
        }
    }

    #[test]
    fn session_cookies_are_removed_and_the_apps_cookies_stay() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; __Host-cedargate=x; b=\"2; cedargate_csrf=y".parse().unwrap());
        headers.append(COOKIE, "__Host-cedargate_s=z".parse().unwrap());
        remove_session_cookies(&mut headers);
        let left: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(left, ["a=1; b=\"2"]);
        headers.insert(
            COOKIE,
            "cedargate=x; cedargateway=1; cedargate-login=y; my-cedargate=2"
                .parse()
                .unwrap(),
        );
        remove_session_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "cedargateway=1; my-cedargate=2");
    }

    #[test]
    fn app_cannot_set_a_session_cookie() {
        let mut headers = HeaderMap::new();
        for value in [
            "a=1; Path=/",
            "__Host-cedargate=x; Path=/; Secure",
            " cedargate-login=y",
            "b=cedargate",
        ] {
            headers.append(SET_COOKIE, value.parse().unwrap());
        }
        remove_set_session_cookies(&mut headers);
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(left, ["a=1; Path=/", "b=cedargate"]);
    }

    #[test]
    fn no_spelling_of_a_session_cookie_reaches_the_browser_or_the_app() {
        for ours in [
            "=cedargate=x",
            "=__Host-cedargate=x; Path=/; Secure",
            "==cedargate=x",
            " = \t=cedargate-login=x",
            ";cedargate=x",
            "; ; =cedargate=x",
            "\tcedargate=x",
            "Cedargate=x",
            "__HOST-CedarGate=x",
            "=__host-cedargate-login=x",
            "cedargate",
            "=cedargate",
            "cedargate\t=x",
            "cedargate; Path=/",
        ] {
            let mut headers = HeaderMap::new();
            headers.append(SET_COOKIE, "a=1".parse().unwrap());
            headers.append(SET_COOKIE, ours.parse().unwrap());
            remove_set_session_cookies(&mut headers);
            let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
            assert_eq!(left, ["a=1"], "{ours:?}");
            let mut headers = HeaderMap::new();
            headers.append(COOKIE, ours.split("; Path").next().unwrap().parse().unwrap());
            remove_session_cookies(&mut headers);
            assert!(!headers.contains_key(COOKIE), "{ours:?}: {headers:?}");
        }
        for other in [
            "=a=cedargate",
            "a=; cedargate=x",
            "cedargateway=1",
            "__Host-a=1",
            "=",
            "",
            "x=__Host-cedargate=x",
        ] {
            let mut headers = HeaderMap::new();
            headers.append(SET_COOKIE, other.parse().unwrap());
            remove_set_session_cookies(&mut headers);
            assert!(headers.contains_key(SET_COOKIE), "{other:?}");
        }
    }

    #[test]
    fn hop_by_hop_headers_are_removed_and_te_keeps_trailers() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-a, te"),
            ("x-a", "1"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("trailer", "x-t"),
            ("keep-alive", "3"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(
            (headers.len(), &headers["te"], &headers["trailer"]),
            (2, &"trailers".parse().unwrap(), &"x-t".parse().unwrap())
        );
    }
}
