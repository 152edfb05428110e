//! Exchanges a caller's token for one that the app may use at further services (RFC 8693, token exchange).
//!
//! Runs after a permit, for apps with `upstream.token: exchange`. The provider's token is cached per caller's token and
//! target, until shortly before either of the two expires. Requests with the same token race to ask: the first asks,
//! the others wait for it and find the answer in the cache. A failure is cached, too, for a short time.
//!
//! SECURITY: a token goes to the provider that issued it and to no other. Every failure refuses the request: the
//! client's own token never reaches the app in the place of the exchanged one.

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::json;
use http::HeaderValue;
use quick_cache::sync::Cache;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::form_urlencoded;

use super::AuthnError;
use super::endpoints::{Endpoints, basic_credentials, read_body, read_secret};
use super::in_flight::InFlight;
use crate::audit::{Audit, AuthAct, AuthFact, AuthSubject, Event};
use crate::base::clock::unix_seconds;
use crate::base::digest::sha256_of;
use crate::base::metrics::Metrics;
use crate::base::outbound::{Clients, cause};
use crate::config::{Config, Issuer, TokenExchange, UpstreamToken};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// One exchange with a provider, from connecting to the last byte.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Longest time that a request waits for its own exchange or another request's.
const ANSWER_WAIT: Duration = Duration::from_secs(6);
/// Seconds before its expiry at which a token is not used any more: the app needs it for a while.
const MARGIN: i64 = 10;
/// Seconds for which a token without `expires_in` is used.
const UNKNOWN_LIFE: i64 = 60;
/// Life of a cached refusal of the provider.
const REFUSED_LIFE: Duration = Duration::from_secs(5);
/// Pause before the gate asks a failed provider about the same token again.
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Most cached answers of this process.
const ANSWERS_MAX: usize = 10_000;
/// Most concurrent calls to providers.
const CALLS_MAX: usize = 64;

/// A caller's token, and the caller for the record.
#[derive(Clone, Copy)]
pub struct SubjectToken<'a> {
    pub token: &'a str,
    /// Name of the issuer that vouches for the caller.
    pub issuer: &'a str,
    pub subject: &'a str,
    /// Unix second after which the caller's token is not used.
    pub expires_at: i64,
}

/// The reason for which there is no token for the app.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ExchangeError {
    #[error("the caller's issuer is not the one that exchanges tokens (upstream.exchange.issuer)")]
    OtherIssuer,
    #[error("the provider does not accept the caller's token for an exchange: {0}")]
    Refused(String),
    #[error("the provider gave no token: {0}")]
    Unavailable(String),
}

/// Exchanges tokens. All workers share it.
pub struct ExchangeClient {
    issuers: Vec<Issuer>,
    /// By the index of the issuer; `None` for an issuer that exchanges none.
    clients: Vec<Option<reqwest::Client>>,
    answers: Cache<[u8; 32], Answer>,
    in_flight: InFlight,
    calls: Semaphore,
    endpoints: Endpoints,
    audit: Audit,
    metrics: Metrics,
}

#[derive(Clone)]
enum Answer {
    /// `Bearer` and the token, until a Unix second.
    Token {
        value: HeaderValue,
        until: i64,
    },
    Failed {
        error: ExchangeError,
        until: Instant,
    },
}

/// An exchange with everything that is known of its provider.
#[derive(Clone, Copy)]
struct Exchange<'a> {
    /// Index into `Config::issuers`.
    index: usize,
    issuer: &'a Issuer,
    settings: &'a TokenExchange,
    subject: SubjectToken<'a>,
}

impl ExchangeClient {
    pub fn new(config: &Config, audit: &Audit, metrics: &Metrics) -> Result<Self, AuthnError> {
        let portals = config.portals.iter().flatten().filter_map(|portal| portal.upstream.as_ref());
        let settings: Vec<&TokenExchange> = portals
            .chain([&config.upstream])
            .filter_map(|upstream| match &upstream.token {
                UpstreamToken::Exchange(settings) => Some(&**settings),
                UpstreamToken::None | UpstreamToken::Passthrough | UpstreamToken::Assertion => None,
            })
            .collect();
        let mut known = Clients::default();
        let mut clients = Vec::with_capacity(config.issuers.len());
        for (index, issuer) in config.issuers.iter().enumerate() {
            let is_asked = settings.iter().any(|settings| *settings.issuer == *issuer.scope.name);
            // a connection belongs to the runtime that made it, and every worker has its own, so none is pooled
            let finish = |builder: reqwest::ClientBuilder| builder.pool_max_idle_per_host(0).timeout(CALL_DEADLINE);
            let client = is_asked.then(|| known.of(&issuer.egress, finish)).transpose();
            clients.push(client.map_err(|message| AuthnError::Client { index, message })?);
        }
        Ok(Self {
            issuers: config.issuers.clone(),
            clients,
            answers: Cache::new(ANSWERS_MAX),
            in_flight: InFlight::default(),
            calls: Semaphore::new(CALLS_MAX),
            endpoints: Endpoints::of("token_endpoint"),
            audit: audit.clone(),
            metrics: metrics.clone(),
        })
    }

    /// The `Authorization` header for the app.
    pub async fn exchange(&self, settings: &TokenExchange, subject: SubjectToken<'_>) -> Result<HeaderValue, ExchangeError> {
        if *subject.issuer != *settings.issuer {
            return Err(ExchangeError::OtherIssuer);
        }
        let of_name = |(_, issuer): &(usize, &Issuer)| *issuer.scope.name == *settings.issuer;
        let found = self.issuers.iter().enumerate().find(of_name);
        let (index, issuer) = found.ok_or(ExchangeError::OtherIssuer)?;
        let exchange = Exchange {
            index,
            issuer,
            settings,
            subject,
        };
        let answer = match timeout(ANSWER_WAIT, self.answer(exchange)).await {
            Ok(answer) => answer,
            Err(_elapsed) => return Err(ExchangeError::Unavailable("it did not answer in time".to_owned())),
        };
        match answer {
            Answer::Token { value, .. } => Ok(value),
            Answer::Failed { error, .. } => Err(error),
        }
    }

    /// The provider's answer: from the cache, or by asking.
    async fn answer(&self, exchange: Exchange<'_>) -> Answer {
        let key = cache_key(exchange);
        if let Some(cached) = self.cached(&key) {
            return cached;
        }
        let mutex = self.in_flight.mutex(key);
        let _guard = mutex.lock().await;
        if let Some(cached) = self.cached(&key) {
            return cached;
        }
        let called = match self.calls.acquire().await {
            Ok(_permit) => timeout(CALL_DEADLINE, self.call(exchange)).await,
            Err(_closed) => Ok(Err(ExchangeError::Unavailable("the gate is shutting down".to_owned()))),
        };
        let called = called.unwrap_or_else(|_elapsed| Err(ExchangeError::Unavailable("it did not answer in time".to_owned())));
        let answer = match called {
            Ok(answer) => answer,
            Err(error) => {
                let life = match &error {
                    ExchangeError::Refused(_) | ExchangeError::OtherIssuer => REFUSED_LIFE,
                    ExchangeError::Unavailable(why) => {
                        tracing::warn!(issuer = &*exchange.issuer.scope.name, why, "a token could not be exchanged");
                        // the endpoint may have moved, so the next call discovers it again
                        self.endpoints.forget(exchange.index);
                        FAILURE_LIFE
                    }
                };
                Answer::Failed {
                    error,
                    until: Instant::now() + life,
                }
            }
        };
        self.record(exchange, &answer);
        self.answers.insert(key, answer.clone());
        answer
    }

    fn cached(&self, key: &[u8; 32]) -> Option<Answer> {
        self.answers.get(key).filter(|answer| match answer {
            Answer::Token { until, .. } => unix_seconds() < *until,
            Answer::Failed { until, .. } => Instant::now() < *until,
        })
    }

    async fn call(&self, exchange: Exchange<'_>) -> Result<Answer, ExchangeError> {
        let settings = exchange.settings;
        let client = self.clients.get(exchange.index).and_then(Option::as_ref);
        let client = client.ok_or_else(|| unavailable("there is no HTTPS client"))?;
        let url = match &settings.token_url {
            Some(url) => url.clone(),
            None => self
                .endpoints
                .discover(client, exchange.index, exchange.issuer)
                .await
                .map_err(ExchangeError::Unavailable)?,
        };
        let secret = read_secret(&settings.client_secret)
            .await
            .map_err(ExchangeError::Unavailable)?;
        let (user, password) = basic_credentials(&settings.client_id, &secret);
        let request = client
            .post(url)
            .basic_auth(user, Some(password))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(exchange));
        // a reqwest error may contain the URL, never the body or the secret
        let response = request
            .send()
            .await
            .map_err(|error| ExchangeError::Unavailable(cause(&error)))?;
        let status = response.status();
        let body = read_body(response, ANSWER_BYTES_MAX)
            .await
            .map_err(ExchangeError::Unavailable)?;
        let answer = json::object_from_slice(&body);
        if status != reqwest::StatusCode::OK {
            let code = answer
                .ok()
                .and_then(|answer| answer.get("error")?.as_str().map(str::to_owned));
            return Err(match code.as_deref() {
                // RFC 8693, 2.2.2: the subject token is invalid for any reason, or unacceptable
                Some(code @ ("invalid_request" | "invalid_grant")) => ExchangeError::Refused(code.to_owned()),
                _ => ExchangeError::Unavailable(format!("it answered {}", status.as_u16())),
            });
        }
        let answer = answer.map_err(|error| ExchangeError::Unavailable(format!("its answer is not strict JSON: {error}")))?;
        token_of(&answer, exchange.subject.expires_at)
    }

    /// Counts the exchange and sends its audit event.
    fn record(&self, exchange: Exchange<'_>, answer: &Answer) {
        let reason = match answer {
            Answer::Token { .. } => AuthFact::Exchanged,
            Answer::Failed {
                error: ExchangeError::Unavailable(_),
                ..
            } => AuthFact::Unavailable,
            Answer::Failed { .. } => AuthFact::Refused,
        };
        let name = &exchange.issuer.scope.name;
        self.metrics
            .token_exchanges
            .with_label_values(&[&**name, reason.as_str()])
            .inc();
        let about = AuthSubject {
            issuer: Some(Arc::clone(name)),
            subject: Some(exchange.subject.subject.to_owned()),
            ..AuthSubject::default()
        };
        let event = match answer {
            Answer::Token { .. } => about.succeeded(AuthAct::TokenExchange, reason),
            Answer::Failed { .. } => about.failed(AuthAct::TokenExchange, reason),
        };
        self.audit.send(&Event::Auth(Box::new(event)));
    }
}

fn form(exchange: Exchange<'_>) -> String {
    let settings = exchange.settings;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", GRANT)
        .append_pair("subject_token", exchange.subject.token)
        .append_pair("subject_token_type", ACCESS_TOKEN)
        .append_pair("requested_token_type", ACCESS_TOKEN);
    for (name, value) in [("audience", &settings.audience), ("resource", &settings.resource)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    if !settings.scopes.is_empty() {
        form.append_pair("scope", &settings.scopes.join(" "));
    }
    form.finish()
}

/// The token of an answer (RFC 8693, section 2.2.1).
fn token_of(answer: &Map<String, Value>, expires_at: i64) -> Result<Answer, ExchangeError> {
    let text = |name: &str| answer.get(name).and_then(Value::as_str);
    let token = text("access_token").filter(|token| (1..=TOKEN_BYTES_MAX).contains(&token.len()));
    let token = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
    let token = token.ok_or_else(|| unavailable("its answer has no usable `access_token`"))?;
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(unavailable("its answer has another `token_type` than Bearer"));
    }
    if !matches!(text("issued_token_type"), None | Some(ACCESS_TOKEN | JWT)) {
        return Err(unavailable("its answer has another `issued_token_type` than an access token"));
    }
    let life = match answer.get("expires_in") {
        None => UNKNOWN_LIFE,
        Some(life) => {
            life.as_i64()
                .ok_or_else(|| unavailable("its answer has a malformed `expires_in`"))?
                - MARGIN
        }
    };
    let mut value =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_unfit| unavailable("its token fits no header"))?;
    value.set_sensitive(true);
    Ok(Answer::Token {
        value,
        until: unix_seconds().saturating_add(life).min(expires_at),
    })
}

/// Hashes token and target; each part is preceded by its length, so that two different sets of parts never hash the
/// same bytes.
fn cache_key(exchange: Exchange<'_>) -> [u8; 32] {
    let settings = exchange.settings;
    let scopes = settings.scopes.join(" ");
    let optional = |text: &'_ Option<String>| text.clone().map_or_else(|| "-".to_owned(), |text| format!("+{text}"));
    let url = optional(&settings.token_url);
    let audience = optional(&settings.audience);
    let resource = optional(&settings.resource);
    let parts = [
        exchange.subject.token,
        &settings.issuer,
        &settings.client_id,
        &url,
        &audience,
        &resource,
        &scopes,
    ];
    let lengths = parts.map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    let all: Vec<&[u8]> = parts
        .iter()
        .zip(&lengths)
        .flat_map(|(part, length)| [&length[..], part.as_bytes()])
        .collect();
    sha256_of(&all)
}

fn unavailable(why: &str) -> ExchangeError {
    ExchangeError::Unavailable(why.to_owned())
}
