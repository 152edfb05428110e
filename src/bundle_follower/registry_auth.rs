//! The credential for a server, and a registry's token service (the distribution specification's bearer challenge).
//!
//! SECURITY: a registry names its token service itself. The password goes there only if `policies.bundle` would accept
//! the URL: https, or a loopback host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cedargate_policy::json;
use cedargate_policy::types::Redacted;
use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use reqwest::Client;
use serde_json::Value;
use url::Url;

use super::download::{Ask, Failure, body, send, shown};
use crate::base::files::read_secret;
use crate::config::{BundleCredential, BundleTransport, Secret};

const SECRET_BYTES_MAX: u64 = 64 * 1024;
const TOKEN_BYTES_MAX: u64 = 256 * 1024;

pub(super) struct RegistryCredential(Option<BundleCredential>);

/// A credential as it is now.
pub(super) struct CurrentSecret {
    /// `None`: the text is a bearer token.
    pub user: Option<String>,
    pub text: Redacted<String>,
}

/// A registry's demand for a credential.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl RegistryCredential {
    pub fn new(credential: Option<BundleCredential>) -> Self {
        Self(credential)
    }

    /// Reads the secret anew: a rotated file counts at once.
    pub fn read(&self) -> Result<Option<CurrentSecret>, Failure> {
        let (user, secret, key) = match &self.0 {
            None => return Ok(None),
            Some(BundleCredential::Password { user, password }) => (Some(user.clone()), password, "password_file"),
            Some(BundleCredential::Token(token)) => (None, token, "token_file"),
        };
        let text = match secret {
            Secret::Value(text) => text.clone(),
            Secret::File(path) => read_secret(path, SECRET_BYTES_MAX)
                .map_err(|error| Failure::new(format!("`{}` (policies.bundle.{key}): {error}", path.display())))?,
        };
        Ok(Some(CurrentSecret { user, text }))
    }
}

pub(super) fn basic(user: &str, password: &Redacted<String>) -> Result<HeaderValue, Failure> {
    header(&format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))))
}

pub(super) fn bearer(token: &Redacted<String>) -> Result<HeaderValue, Failure> {
    header(&format!("Bearer {}", token.expose()))
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_control| Failure::new("the credential of policies.bundle has characters that no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Challenge {
    /// The first challenge of a kind that the gate knows.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let texts = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        texts.into_iter().find_map(Self::parse)
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let value = |name: &str| parameter(rest, name).map(str::to_owned);
        Some(Self::Bearer {
            realm: value("realm")?,
            service: value("service"),
            scope: value("scope"),
        })
    }
}

/// The quoted value of a parameter. Registries send neither escapes nor unquoted values.
fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (value, next) = after.split_once('"')?;
        if key.trim_start_matches([',', ' ']).eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = next;
    }
}

/// Asks a token service for a token to pull `repository`.
pub(super) async fn token(
    client: &Client,
    challenge: &Challenge,
    repository: &str,
    secret: Option<&CurrentSecret>,
    transport: BundleTransport,
) -> Result<HeaderValue, Failure> {
    let Challenge::Bearer { realm, service, scope } = challenge else {
        return match secret {
            Some(CurrentSecret { user: Some(user), text }) => basic(user, text),
            _ => Err(Failure::new(
                "the registry wants `user` and `password_file` of policies.bundle",
            )),
        };
    };
    let mut url =
        Url::parse(realm).map_err(|_not_a_url| Failure::new(format!("the registry's token service `{realm}` is no URL")))?;
    if !transport.allows(&url) {
        return Err(Failure::new(format!(
            "the registry's token service `{}` is not https",
            shown(&url)
        )));
    }
    let own_scope = format!("repository:{repository}:pull");
    url.query_pairs_mut()
        .extend_pairs(service.iter().map(|service| ("service", service)))
        .append_pair("scope", scope.as_deref().unwrap_or(&own_scope));
    let authorization = match secret {
        Some(CurrentSecret { user: Some(user), text }) => Some(basic(user, text)?),
        _ => None,
    };
    let ask = Ask {
        method: Method::GET,
        url: &url,
        headers: HeaderMap::new(),
        authorization,
    };
    let response = send(client, ask, transport).await?;
    if response.status() != StatusCode::OK {
        return Err(Failure::status(&response));
    }
    let bytes = body(response, TOKEN_BYTES_MAX).await?;
    let document =
        json::object_from_slice(&bytes).map_err(|error| Failure::new(format!("the token service's answer: {error}")))?;
    let text = ["token", "access_token"]
        .iter()
        .find_map(|key| document.get(*key).and_then(Value::as_str));
    let text = text.ok_or_else(|| Failure::new("the token service's answer holds no `token`"))?;
    bearer(&Redacted::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (text, challenge) in [
            (
                r#"Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull,push""#,
                bearer(
                    "https://auth.test/token",
                    Some("registry.test"),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            (
                r#"bearer realm="https://auth.test/""#,
                bearer("https://auth.test/", None, None),
            ),
            (r#"Bearer service="x", realm="y""#, bearer("y", Some("x"), None)),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer", None),
            (r#"Bearer realm="x"#, None),
            ("Negotiate", None),
        ] {
            assert_eq!(Challenge::parse(text), challenge, "{text}");
        }
    }
}
