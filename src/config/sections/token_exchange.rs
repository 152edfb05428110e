//! `upstream.token` and `upstream.exchange`: the token that the app gets.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::client_credentials::RawClientCredentials;
use crate::config::Secret;
use crate::config::check::Checker;

/// The token that the app gets in `Authorization`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawUpstreamToken {
    /// None.
    #[default]
    None,
    /// The client's own.
    Passthrough,
    /// The gate's assertion.
    Assertion,
    /// One that the caller's provider gives for the client's own (RFC 8693).
    Exchange,
}

/// The exchange of a caller's token for one that the app gets.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawTokenExchange {
    /// Name of the issuer whose tokens are exchanged, one of `issuers`.
    #[schemars(required)]
    pub issuer: Option<String>,
    /// `https` URL of the token endpoint. Absent: OIDC discovery at the issuer.
    #[serde(default)]
    pub token_url: Option<String>,
    #[serde(flatten)]
    pub client: RawClientCredentials,
    /// The service that the token is for, by name.
    #[serde(default)]
    pub audience: Option<String>,
    /// The service that the token is for, by URL.
    #[serde(default)]
    pub resource: Option<String>,
    /// Scopes that the token should have.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// The token that the app gets in `Authorization`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UpstreamToken {
    None,
    Passthrough,
    Assertion,
    Exchange(Arc<TokenExchange>),
}

/// How the gate gets another token for the app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenExchange {
    /// `issuers[].name`.
    pub issuer: String,
    /// `None`: discovery.
    pub token_url: Option<String>,
    pub client_id: String,
    pub client_secret: Secret,
    pub audience: Option<String>,
    pub resource: Option<String>,
    pub scopes: Vec<String>,
}

/// The keys of an upstream that say which token the app gets.
#[derive(Clone, Copy)]
pub struct RawAppToken<'a> {
    pub token: RawUpstreamToken,
    pub exchange: Option<&'a RawTokenExchange>,
    pub forward_authorization: bool,
}

impl Checker<'_> {
    /// `section`: the key of the upstream.
    pub fn upstream_token(&mut self, section: &str, raw: RawAppToken<'_>) -> Option<UpstreamToken> {
        let key = |name: &str| format!("{section}.{name}");
        if raw.forward_authorization && !matches!(raw.token, RawUpstreamToken::None | RawUpstreamToken::Passthrough) {
            let message = "is the older name of `token: passthrough`, and `token` says something else; remove it";
            self.error(&key("forward_authorization"), message);
            return None;
        }
        match (raw.token, raw.exchange) {
            (RawUpstreamToken::Exchange, Some(exchange)) => {
                let exchange = self.token_exchange(&key("exchange"), exchange)?;
                Some(UpstreamToken::Exchange(Arc::new(exchange)))
            }
            (RawUpstreamToken::Exchange, None) => {
                self.error(
                    &key("exchange"),
                    "is required with `token: exchange`: it says where the gate gets the token",
                );
                None
            }
            (_, Some(_)) => {
                self.error(
                    &key("exchange"),
                    "has no effect without `token: exchange`; remove it, or set that key",
                );
                None
            }
            (RawUpstreamToken::Assertion, None) => Some(UpstreamToken::Assertion),
            (RawUpstreamToken::Passthrough, None) => Some(UpstreamToken::Passthrough),
            (RawUpstreamToken::None, None) if raw.forward_authorization => Some(UpstreamToken::Passthrough),
            (RawUpstreamToken::None, None) => Some(UpstreamToken::None),
        }
    }

    fn token_exchange(&mut self, section: &str, raw: &RawTokenExchange) -> Option<TokenExchange> {
        let key = |name: &str| format!("{section}.{name}");
        let client = self.client_credentials(section, &raw.client, "token");
        if let Some(text) = &raw.token_url {
            self.secret_url(&key("token_url"), text, "tokens and a secret are sent there")?;
        }
        let client = client?;
        Some(TokenExchange {
            issuer: raw.issuer.clone()?,
            token_url: raw.token_url.clone(),
            client_id: client.id,
            client_secret: client.secret,
            audience: raw.audience.clone(),
            resource: raw.resource.clone(),
            scopes: raw.scopes.clone(),
        })
    }
}
