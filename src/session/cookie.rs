//! The cookies that the gate sets, and their reading.
//!
//! The session cookie carries the opaque id; the login cookie binds a running login to the browser that began it. Two
//! notes of the browser to itself prove nothing: the count of logins that did not help, and the mark that a logout ends
//! at `/`. Reading never guesses: two cookies of the same name, or a value that is not exactly in the form that the
//! gate writes, count as no cookie.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cedargate_policy::types::Redacted;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::config::CookieSecurity;

/// `Max-Age` of the count of logins: logins within a minute belong together.
const LOGINS_SECONDS: u32 = 60;
/// Highest count of logins that a cookie holds; above every `limits.login_loop`.
const LOGINS_MAX: u32 = 99;
/// Characters of 32 bytes in base64url without padding.
const TEXT_CHARS: usize = 43;
/// `Max-Age` of the login cookie.
const LOGIN_SECONDS: u32 = 600;

/// The opaque id that a session cookie carries. `Debug` does not print it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionId(pub(super) Redacted<[u8; 32]>);

/// The gate's own cookies.
#[derive(Clone, Copy)]
enum OwnCookie {
    Session,
    Login,
    Logins,
    Logout,
}

impl OwnCookie {
    const ALL: [Self; 4] = [Self::Session, Self::Login, Self::Logins, Self::Logout];
}

/// Names and attributes of the cookies.
#[derive(Clone, Debug)]
pub struct Cookies {
    pub(super) security: CookieSecurity,
}

impl Cookies {
    /// The session id of a request; `None` if there are two session cookies, or if the value is not an id.
    pub fn session(&self, headers: &HeaderMap) -> Option<SessionId> {
        secret(headers, self.session_name()).map(SessionId)
    }

    /// True if the request carries a session cookie, well-formed or not.
    pub fn has_session(&self, headers: &HeaderMap) -> bool {
        values(headers, self.session_name()).next().is_some()
    }

    /// The secret of the login cookie.
    pub fn login(&self, headers: &HeaderMap) -> Option<Redacted<[u8; 32]>> {
        secret(headers, self.login_name())
    }

    /// The count of logins that did not help; zero without a well-formed cookie.
    pub fn logins(&self, headers: &HeaderMap) -> u32 {
        let count = only(headers, self.name(OwnCookie::Logins)).and_then(|text| std::str::from_utf8(text).ok());
        let digits = count.filter(|text| text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    pub fn set_logins(&self, count: u32) -> HeaderValue {
        self.set(
            self.name(OwnCookie::Logins),
            &count.min(LOGINS_MAX).to_string(),
            Some(LOGINS_SECONDS),
        )
    }

    pub fn clear_logins(&self) -> HeaderValue {
        self.set(self.name(OwnCookie::Logins), "", Some(0))
    }

    /// True if the browser comes from a logout at a provider.
    pub fn is_after_logout(&self, headers: &HeaderMap) -> bool {
        only(headers, self.name(OwnCookie::Logout)).is_some()
    }

    pub fn set_after_logout(&self) -> HeaderValue {
        self.set(self.name(OwnCookie::Logout), "1", Some(LOGIN_SECONDS))
    }

    pub fn clear_after_logout(&self) -> HeaderValue {
        self.set(self.name(OwnCookie::Logout), "", Some(0))
    }

    /// `Set-Cookie` of a session cookie; without `max_age` (seconds) until the browser closes.
    pub(super) fn set_session(&self, id: &SessionId, max_age: Option<u32>) -> HeaderValue {
        self.set(self.session_name(), &URL_SAFE_NO_PAD.encode(id.0.expose()), max_age)
    }

    /// `Set-Cookie` that removes the session cookie.
    pub fn clear_session(&self) -> HeaderValue {
        self.set(self.session_name(), "", Some(0))
    }

    /// `Set-Cookie` of a login cookie. Sent to every path of the origin, because `__Host-` allows no narrower path.
    pub fn set_login(&self, secret: &[u8; 32]) -> HeaderValue {
        self.set(self.login_name(), &URL_SAFE_NO_PAD.encode(secret), Some(LOGIN_SECONDS))
    }

    /// Removes the gate's own cookies from a request's `Cookie` headers: the app never sees them.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let own = OwnCookie::ALL.map(|cookie| self.name(cookie));
        let is_own = |pair: &[u8]| own.contains(&name_of(pair));
        let found = |value: &HeaderValue| pairs(value).any(is_own);
        if !headers.get_all(COOKIE).iter().any(found) {
            return;
        }
        let remaining: Vec<HeaderValue> = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| {
                if !found(value) {
                    return Some(value.clone());
                }
                let app_pairs: Vec<&[u8]> = pairs(value).filter(|pair| !pair.is_empty() && !is_own(pair)).collect();
                HeaderValue::from_bytes(&app_pairs.join(&b"; "[..]))
                    .ok()
                    .filter(|value| !value.is_empty())
            })
            .collect();
        headers.remove(COOKIE);
        for value in remaining {
            headers.append(COOKIE, value);
        }
    }

    fn session_name(&self) -> &'static [u8] {
        self.name(OwnCookie::Session)
    }

    fn login_name(&self) -> &'static [u8] {
        self.name(OwnCookie::Login)
    }

    fn name(&self, cookie: OwnCookie) -> &'static [u8] {
        let host: &[u8] = match cookie {
            OwnCookie::Session => b"__Host-cedargate",
            OwnCookie::Login => b"__Host-cedargate-login",
            OwnCookie::Logins => b"__Host-cedargate-logins",
            OwnCookie::Logout => b"__Host-cedargate-logout",
        };
        match self.security {
            CookieSecurity::Host => host,
            CookieSecurity::DangerInsecure => host.strip_prefix(b"__Host-").unwrap_or(host),
        }
    }

    fn set(&self, name: &[u8], value: &str, max_age: Option<u32>) -> HeaderValue {
        let mut text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", String::from_utf8_lossy(name));
        if let Some(seconds) = max_age {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        if self.security == CookieSecurity::Host {
            text.push_str("; Secure");
        }
        // INVARIANT: names, base64url and attributes are visible ASCII
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// The 32 bytes of the only cookie of a name; `None` if there are several, or if the form is another.
fn secret(headers: &HeaderMap, name: &[u8]) -> Option<Redacted<[u8; 32]>> {
    let text = only(headers, name)?;
    if text.len() != TEXT_CHARS {
        return None;
    }
    let mut bytes = [0; 32];
    // strict: the two surplus bits of 43 characters must be zero, so an id has exactly one form
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (length == bytes.len()).then(|| Redacted::new(bytes))
}

/// The value of the only cookie of a name; `None` if there are several.
fn only<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> Option<&'a [u8]> {
    let mut values = values(headers, name);
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(pairs);
    pairs.filter(move |pair| name_of(pair) == name).map(|pair| {
        let mut halves = pair.splitn(2, |b| *b == b'=');
        halves.nth(1).unwrap_or_default().trim_ascii()
    })
}

fn pairs(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|b| *b == b';').map(<[u8]>::trim_ascii)
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIES: Cookies = Cookies {
        security: CookieSecurity::Host,
    };

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(COOKIE, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn written(id: u8) -> String {
        URL_SAFE_NO_PAD.encode([id; 32])
    }

    #[test]
    fn session_is_read_only_from_the_exact_form_that_the_gate_writes() {
        let good = written(7);
        let with = |text: &str| format!("__Host-cedargate={text}");
        let id = Some(SessionId(Redacted::new([7; 32])));
        assert_eq!(COOKIES.session(&headers(&[&with(&good)])), id);
        assert_eq!(COOKIES.session(&headers(&[&format!("a=b; {}; c=d", with(&good))])), id);
        assert_eq!(COOKIES.session(&headers(&["a=b", &with(&good)])), id);
        let bad = [
            with(""),
            with("x"),
            with(&format!("\"{good}\"")),
            with(&format!("{good}=")),
            with(&format!("{good}A")),
            with(&good.replace("BwcHBw", "Bwc+/w")),
            // the same bytes in another form
            with(&format!("{}d", &good[..42])),
            good.clone(),
            format!("cedargate={good}"),
            format!("__host-cedargate={good}"),
            format!("__Host-cedargate-login={good}"),
            "__Host-cedargate".to_owned(),
        ];
        for text in &bad {
            assert_eq!(COOKIES.session(&headers(&[text])), None, "{text}");
        }
    }

    #[test]
    fn two_session_cookies_count_as_none_in_any_order() {
        let one = format!("__Host-cedargate={}", written(1));
        let two = format!("__Host-cedargate={}", written(2));
        for values in [
            vec![format!("{one}; {two}")],
            vec![one.clone(), two.clone()],
            vec![one.clone(), one.clone()],
        ] {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(COOKIES.session(&headers(&values)), None, "{values:?}");
            assert!(COOKIES.has_session(&headers(&values)));
        }
        assert_eq!(COOKIES.session(&headers(&[&format!("{one}; __Host-cedargate")])), None);
        assert!(!COOKIES.has_session(&headers(&["a=b"])));
    }

    #[test]
    fn cookies_that_are_set_can_be_read_and_carry_only_the_id() {
        let id = SessionId(Redacted::new([9; 32]));
        let set = COOKIES.set_session(&id, None);
        let text = set.to_str().unwrap();
        let (pair, attributes) = text.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(COOKIES.session(&headers(&[pair])), Some(id.clone()));
        let login = COOKIES.set_login(&[3; 32]);
        assert!(
            login
                .to_str()
                .unwrap()
                .ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=600; Secure")
        );
        let pair = login.to_str().unwrap().split(';').next().unwrap().to_owned();
        assert_eq!(COOKIES.login(&headers(&[&pair])), Some(Redacted::new([3; 32])));
        assert_eq!(
            COOKIES.clear_session(),
            "__Host-cedargate=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0; Secure"
        );
        let plain = Cookies {
            security: CookieSecurity::DangerInsecure,
        };
        assert_eq!(plain.clear_session(), "cedargate=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
        assert!(!format!("{id:?}").contains('9'));
    }

    #[test]
    fn app_sees_every_cookie_except_the_gates_own() {
        let own = format!("__Host-cedargate={}", written(1));
        let table: &[(&[&str], &[&str])] = &[
            (&["a=b"], &["a=b"]),
            (&["a=b;c=d"], &["a=b;c=d"]),
            (&[&own], &[]),
            (&["a=b", &own, "c=d"], &["a=b", "c=d"]),
            (
                &["a=b; __Host-cedargate=junk; __Host-cedargate; c=\"x y\""],
                &["a=b; c=\"x y\""],
            ),
            (&["__Host-cedargate-login=1;a=b"], &["a=b"]),
            (&["__Host-cedargate-other=1"], &["__Host-cedargate-other=1"]),
            (&["a=b;\t__Host-cedargate =x"], &["a=b"]),
        ];
        for (before, after) in table {
            let mut headers = headers(before);
            COOKIES.strip(&mut headers);
            let left: Vec<&str> = headers.get_all(COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(&left, after, "{before:?}");
        }
    }

    #[test]
    fn count_of_logins_is_read_only_from_the_form_that_the_gate_writes() {
        let with = |text: &str| headers(&[&format!("__Host-cedargate-logins={text}")]);
        assert_eq!((COOKIES.logins(&with("7")), COOKIES.logins(&with("42"))), (7, 42));
        for bad in ["", "-1", "+1", "100", "x", "1.0", "99999999999999999999"] {
            assert_eq!(COOKIES.logins(&with(bad)), 0, "{bad}");
        }
        assert_eq!(
            COOKIES.logins(&headers(&["__Host-cedargate-logins=7", "__Host-cedargate-logins=8"])),
            0
        );
        assert_eq!(COOKIES.logins(&HeaderMap::new()), 0);
        let set = COOKIES.set_logins(1000);
        assert!(
            set.to_str()
                .unwrap()
                .starts_with("__Host-cedargate-logins=99; Path=/; HttpOnly; SameSite=Lax; Max-Age=60")
        );
        let mut sent = headers(&["a=1; __Host-cedargate-logins=7; __Host-cedargate-logout=1"]);
        assert!(COOKIES.is_after_logout(&sent));
        COOKIES.strip(&mut sent);
        assert_eq!(sent[COOKIE], "a=1");
    }
}
