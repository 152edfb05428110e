//! The device flow (RFC 8628): a command without a browser gets tokens, while the user logs in on any other device.
//!
//! `cedargate login` uses it with a public client of its own, never with the gate's. Nothing of the provider's answer
//! is shown before it is checked: a code and an address that a terminal prints must not move its cursor, and the
//! address is one that a user may type a code into.

use std::time::Duration;

use cedargate_policy::json;
use cedargate_policy::types::Redacted;
use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse};
use oauth2::{
    AuthType, Client, ClientId, DeviceAuthorizationUrl, DeviceCodeErrorResponse, EndpointNotSet, EndpointSet, RequestTokenError,
    Scope, StandardDeviceAuthorizationResponse, StandardRevocableToken, TokenResponse, TokenUrl,
};
use serde_json::Value;
use url::Url;

use super::http::{DEADLINE, Http, HttpError};
use super::metadata::endpoint;
use super::provider::printable;
use super::token_response::OidcTokenResponse;
use crate::authn::{check_url, discovery_url};
use crate::config::{Egress, KeyTransport};

/// The longest time that a command waits for its user, also if the provider allows more.
const WAIT_MAX: Duration = Duration::from_secs(30 * 60);
/// Characters of a user code that a person can type.
const USER_CODE_CHARS_MAX: usize = 64;
const ADDRESS_BYTES_MAX: usize = 2048;

type DeviceClient = Client<
    BasicErrorResponse,
    OidcTokenResponse,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// The reason why there is no token. Contains no code and no token.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("{0}")]
    Unreachable(String),
    #[error("the provider's {0}")]
    Invalid(String),
    #[error("the provider has no device flow: its discovery document has no `device_authorization_endpoint`")]
    Unsupported,
    #[error("the login was refused")]
    Denied,
    #[error("the code has expired; begin again")]
    Expired,
    #[error("the provider answered `{0}`")]
    Refused(String),
}

/// A device login to begin.
#[derive(Debug)]
pub struct DeviceRequest<'a> {
    pub issuer: &'a str,
    /// `None`: at the issuer.
    pub discovery_url: Option<&'a str>,
    pub transport: KeyTransport,
    pub egress: &'a Egress,
    /// A public client that the provider allows the device flow.
    pub client_id: &'a str,
    pub scopes: &'a [String],
    /// `audience` and `resource`: the API that the token is for, as the provider names it.
    pub parameters: &'a [(&'static str, String)],
}

/// A login that waits for its user.
pub struct DeviceLogin {
    http: Http,
    client: DeviceClient,
    answer: StandardDeviceAuthorizationResponse,
    parameters: Vec<(&'static str, String)>,
    /// What the user types, printable.
    pub user_code: String,
    /// Where the user types it.
    pub address: String,
    /// The same with the code in it, for a link.
    pub address_with_code: Option<String>,
    pub expires_in: Duration,
}

/// Tokens of a finished login, unverified: the gate verifies what it gets.
pub struct DeviceTokens {
    pub access_token: Redacted<String>,
    pub id_token: Option<Redacted<String>>,
}

impl DeviceLogin {
    /// Finds the endpoints and asks for a code.
    pub async fn begin(request: &DeviceRequest<'_>) -> Result<Self, DeviceError> {
        let http = Http::new(request.egress, DEADLINE).map_err(DeviceError::Unreachable)?;
        let client = find_client(request, &http).await?;
        let mut asked = client
            .exchange_device_code()
            .add_scopes(request.scopes.iter().cloned().map(Scope::new));
        for (name, value) in request.parameters {
            asked = asked.add_extra_param(*name, value.clone());
        }
        let answer: StandardDeviceAuthorizationResponse = asked.request_async(&http).await.map_err(not_begun)?;
        let user_code = answer.user_code().secret().clone();
        if !is_typeable(&user_code) {
            return Err(DeviceError::Invalid("`user_code` cannot be shown".to_owned()));
        }
        let with_code = answer.verification_uri_complete().map(|uri| uri.secret().as_str());
        Ok(Self {
            http,
            client,
            user_code,
            address: checked_address(answer.verification_uri(), request.transport)?,
            address_with_code: with_code.map(|uri| checked_address(uri, request.transport)).transpose()?,
            expires_in: answer.expires_in().min(WAIT_MAX),
            parameters: request.parameters.to_vec(),
            answer,
        })
    }

    /// Asks at the provider's interval until the user is done; `slow_down` and lost connections make the interval
    /// longer.
    pub async fn wait(self) -> Result<DeviceTokens, DeviceError> {
        let mut asked = self.client.exchange_device_access_token(&self.answer);
        for (name, value) in &self.parameters {
            asked = asked.add_extra_param(*name, value.clone());
        }
        let tokens = asked
            .request_async(&self.http, tokio::time::sleep, Some(self.expires_in))
            .await
            .map_err(not_finished)?;
        Ok(DeviceTokens {
            access_token: Redacted::new(tokens.access_token().secret().clone()),
            id_token: tokens.id_token().map(|token| Redacted::new(token.to_owned())),
        })
    }
}

async fn find_client(request: &DeviceRequest<'_>, http: &Http) -> Result<DeviceClient, DeviceError> {
    let url = request
        .discovery_url
        .map_or_else(|| discovery_url(request.issuer), str::to_owned);
    check_url(&url, request.transport).map_err(|error| DeviceError::Unreachable(error.to_string()))?;
    let url = Url::parse(&url).map_err(|_invalid| DeviceError::Unreachable(format!("`{url}` is not a URL")))?;
    let document = http.get(&url, None).await.map_err(|error| unreachable(&error))?;
    let invalid = |why: String| DeviceError::Invalid(format!("discovery document cannot be used: {why}"));
    if document.status != 200 {
        return Err(invalid(format!("it answered {}", document.status)));
    }
    let document = json::object_from_slice(&document.body).map_err(|error| invalid(error.to_string()))?;
    if document.get("issuer").and_then(Value::as_str) != Some(request.issuer) {
        return Err(invalid("its `issuer` is not exactly the one that was asked for".to_owned()));
    }
    let find = |name| endpoint(&document, name, request.transport).map_err(invalid);
    let device = find("device_authorization_endpoint")?.ok_or(DeviceError::Unsupported)?;
    let token = find("token_endpoint")?.ok_or_else(|| invalid("it has no `token_endpoint`".to_owned()))?;
    Ok(Client::new(ClientId::new(request.client_id.to_owned()))
        // a public client names itself in the body (RFC 8628, section 3.1)
        .set_auth_type(AuthType::RequestBody)
        .set_device_authorization_url(DeviceAuthorizationUrl::from_url(device))
        .set_token_uri(TokenUrl::from_url(token)))
}

fn is_typeable(code: &str) -> bool {
    (1..=USER_CODE_CHARS_MAX).contains(&code.chars().count()) && code.chars().all(|c| c.is_ascii_graphic() || c == ' ')
}

/// The address, if a browser may open it and a terminal may print it.
fn checked_address(text: &str, transport: KeyTransport) -> Result<String, DeviceError> {
    let invalid = || DeviceError::Invalid("`verification_uri` is not an address to open".to_owned());
    let is_printable = text.len() <= ADDRESS_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    check_url(text, transport).map_err(|_insecure| invalid())?;
    is_printable.then(|| text.to_owned()).ok_or_else(invalid)
}

fn unreachable(error: &HttpError) -> DeviceError {
    DeviceError::Unreachable(error.to_string())
}

/// SECURITY: of an answer only the error code goes into a message.
fn not_begun(error: RequestTokenError<HttpError, BasicErrorResponse>) -> DeviceError {
    match error {
        RequestTokenError::ServerResponse(response) => DeviceError::Refused(printable(response.error().as_ref())),
        RequestTokenError::Request(error) => unreachable(&error),
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            DeviceError::Invalid("answer to the request for a code cannot be used".to_owned())
        }
    }
}

fn not_finished(error: RequestTokenError<HttpError, DeviceCodeErrorResponse>) -> DeviceError {
    match error {
        RequestTokenError::ServerResponse(response) => match response.error().as_ref() {
            "access_denied" => DeviceError::Denied,
            "expired_token" => DeviceError::Expired,
            code => DeviceError::Refused(printable(code)),
        },
        RequestTokenError::Request(error) => unreachable(&error),
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            DeviceError::Invalid("token response cannot be used".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_addresses_that_a_terminal_must_not_print_are_refused() {
        assert!(is_typeable("WDJB-MJHT") && is_typeable("WDJB MJHT"));
        for bad in ["", "AB\u{1b}[2J", "A\nB", "K\u{e4}se", &"A".repeat(65)] {
            assert!(!is_typeable(bad), "{bad:?}");
        }
        let address = |text| checked_address(text, KeyTransport::Tls).is_ok();
        assert!(address("https://id.example.com/device?user_code=AB") && address("http://localhost:8080/device"));
        for bad in [
            "http://id.example.com/device",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "https://id.example.com/\u{1b}[2J",
            "https://id.example.com/ and more",
            "no address",
        ] {
            assert!(!address(bad), "{bad:?}");
        }
    }
}
