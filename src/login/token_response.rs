//! The response of a token endpoint (RFC 6749, section 5.1), read as tolerantly as providers write it.
//!
//! Only `access_token` and `id_token` must be well formed. The gate knows how to go on without the other members, so an
//! odd `expires_in`, `scope` or `refresh_token` counts as absent. Messages name the member and never its value.

use std::time::Duration;

use oauth2::basic::BasicTokenType;
use oauth2::{AccessToken, RefreshToken, Scope, TokenResponse};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A response without an error.
#[derive(Clone)]
pub(super) struct OidcTokenResponse {
    access_token: AccessToken,
    refresh_token: Option<RefreshToken>,
    expires_in: Option<Duration>,
    id_token: Option<String>,
    token_type: BasicTokenType,
}

impl OidcTokenResponse {
    pub fn id_token(&self) -> Option<&str> {
        self.id_token.as_deref()
    }

    fn parse(mut members: Map<String, Value>) -> Result<Self, &'static str> {
        let Some(Value::String(access_token)) = members.remove("access_token").filter(|token| *token != "") else {
            return Err("`access_token` is missing, or is not a string");
        };
        let id_token = match members.remove("id_token") {
            None | Some(Value::Null) => None,
            Some(Value::String(token)) => Some(token),
            Some(_) => return Err("`id_token` is not a string"),
        };
        let is_bearer = match members.remove("token_type") {
            None | Some(Value::Null) => true,
            Some(Value::String(kind)) => kind.eq_ignore_ascii_case("bearer"),
            Some(_) => false,
        };
        if !is_bearer {
            return Err("`token_type` is not `Bearer`");
        }
        let refresh_token = match members.remove("refresh_token") {
            Some(Value::String(token)) if !token.is_empty() => Some(RefreshToken::new(token)),
            _ => None,
        };
        Ok(Self {
            access_token: AccessToken::new(access_token),
            refresh_token,
            expires_in: members.get("expires_in").and_then(seconds),
            id_token,
            token_type: BasicTokenType::Bearer,
        })
    }
}

/// A number of seconds, also as a text; `None` for anything else.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

impl TokenResponse for OidcTokenResponse {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

impl<'de> Deserialize<'de> for OidcTokenResponse {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Object(members) => Self::parse(members).map_err(D::Error::custom),
            _ => Err(D::Error::custom("it is not a JSON object")),
        }
    }
}

// `TokenResponse` demands it; nothing serializes a response
impl Serialize for OidcTokenResponse {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_none()
    }
}

impl std::fmt::Debug for OidcTokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(changes: &Value) -> Result<OidcTokenResponse, String> {
        let mut response =
            json!({"access_token": "a", "token_type": "Bearer", "expires_in": 300, "id_token": "i", "refresh_token": "r"});
        for (name, change) in changes.as_object().unwrap() {
            response[name] = change.clone();
        }
        serde_json::from_value(response).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn odd_member_that_is_not_needed_counts_as_absent() {
        let lives = [
            (json!(3600), Some(3600)),
            (json!("3600"), Some(3600)),
            (json!(" 60 "), Some(60)),
            (json!(59.5), Some(59)),
            (json!(null), None),
            (json!("soon"), None),
            (json!(-1), None),
            (json!("1e300"), None),
            (json!([3600]), None),
        ];
        for (expires_in, seconds) in lives {
            let response = parse(&json!({"expires_in": expires_in})).unwrap();
            assert_eq!(response.expires_in().map(|life| life.as_secs()), seconds, "{expires_in}");
        }
        for token_type in [json!("bearer"), json!("BEARER"), json!(null)] {
            assert!(parse(&json!({"token_type": token_type})).is_ok(), "{token_type}");
        }
        for refresh_token in [json!(null), json!(""), json!(7)] {
            let response = parse(&json!({"refresh_token": refresh_token})).unwrap();
            assert!(response.refresh_token().is_none(), "{refresh_token}");
        }
        for scope in [json!(["openid", "email"]), json!(""), json!(null), json!({})] {
            assert!(parse(&json!({"scope": scope})).is_ok(), "{scope}");
        }
        assert!(parse(&json!({"id_token": null})).unwrap().id_token().is_none());
    }

    #[test]
    fn refusal_names_the_member_and_never_its_value() {
        for (changes, member) in [
            (json!({"access_token": null}), "access_token"),
            (json!({"access_token": ""}), "access_token"),
            (json!({"access_token": ["secret"]}), "access_token"),
            (json!({"id_token": {"secret": 1}}), "id_token"),
            (json!({"token_type": "secret"}), "token_type"),
        ] {
            let error = parse(&changes).unwrap_err();
            assert!(error.contains(member) && !error.contains("secret"), "{error}");
        }
        let error = serde_json::from_str::<OidcTokenResponse>("\"secret\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a JSON object") && !error.contains("secret"), "{error}");
    }
}
