//! Verifies a bearer token that is not a JWT by asking its issuer (RFC 7662, token introspection).
//!
//! Runs in the place of JWT verification. An issuer's answer is cached: an active token for
//! `issuers[].introspection.cache` at most, in this process and, through the session store, for the other replicas; a
//! refused one for `INACTIVE_LIFE`, in this process only. The key of an entry is a hash of token, issuer and client. A
//! store that fails counts as a miss.
//!
//! Requests with the same token race to ask. An async mutex per token orders them: the first asks the issuer, the rest
//! wait for the mutex and then find the answer in the cache. If the first request is cancelled (its client went away),
//! its mutex is free and the next request asks. If the issuer fails, the failure is cached for `FAILURE_LIFE`, so that
//! the requests that wait do not each ask again; the token is denied `key_unavailable`, because a failure says neither
//! that it is active nor that it is not. Each request waits at most `ANSWER_WAIT`.

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::claims::{self, Binding, BoundIdentity, Possession, TokenHeader, Window};
use cedargate_policy::json;
use cedargate_policy::types::Identity;
use quick_cache::sync::Cache;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::form_urlencoded;

use super::endpoints::{CallFailure, Endpoints, basic_credentials, fetch_object, read_secret};
use super::error::TokenError;
use super::in_flight::InFlight;
use super::{Authn, AuthnError, PresentedToken, TokenProof, check_sender};
use crate::audit::{Audit, AuthAct, AuthFact, AuthSubject, Event};
use crate::base::clock::unix_seconds;
use crate::base::digest::sha256_of;
use crate::base::metrics::Metrics;
use crate::base::outbound::Clients;
use crate::config::{self, Issuer};
use crate::session::Sessions;

/// One exchange with an issuer, from connecting to the last byte.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Longest time that a request waits for an answer, its own or another request's.
const ANSWER_WAIT: Duration = Duration::from_secs(6);
/// Life of a cached refusal: the token is inactive, or active with unacceptable claims.
const INACTIVE_LIFE: Duration = Duration::from_secs(5);
/// Pause before the gate asks a failed issuer about the same token again.
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most cached answers of this process.
const ANSWERS_MAX: usize = 10_000;
/// Most issuers of one portal that are asked about one token.
const ISSUERS_MAX: usize = 3;
/// Most concurrent calls to issuers.
const CALLS_MAX: usize = 64;
/// Area of the session store that holds shared answers.
const STORE_AREA: &str = "introspection";

/// The evidence for the identity of a bearer token.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// A verified JWT.
    Token(TokenProof),
    /// The issuer's answer, valid until a time in unix seconds.
    Introspection { until: i64, binding: Binding },
}

/// A bearer token whose identity was verified.
#[derive(Clone, Debug)]
pub struct VerifiedBearer {
    pub identity: Identity,
    pub evidence: Evidence,
}

/// Asks issuers about opaque tokens. All workers share it.
pub struct IntrospectionClient {
    issuers: Vec<Issuer>,
    token_bytes: usize,
    /// By the index of the issuer; `None` for an issuer that is not asked.
    clients: Vec<Option<reqwest::Client>>,
    answers: Cache<[u8; 32], IssuerAnswer>,
    in_flight: InFlight,
    calls: Semaphore,
    endpoints: Endpoints,
    sessions: Arc<Sessions>,
    audit: Audit,
    metrics: Metrics,
}

/// The evaluated answer of an issuer.
#[derive(Clone)]
enum IssuerAnswer {
    Active(ActiveToken),
    /// Inactive, active but unacceptable, or not answered.
    Refused {
        error: TokenError,
        until: Instant,
    },
}

/// The claims of an active token.
#[derive(Clone)]
struct ActiveToken {
    claims: Arc<Map<String, Value>>,
    /// Unix second until which the claims may be used.
    until: i64,
}

/// An issuer with introspection, as a portal trusts it.
#[derive(Clone, Copy)]
struct IntrospectedIssuer<'a> {
    /// Index into `Config::issuers`.
    index: usize,
    issuer: &'a Issuer,
    settings: &'a config::Introspection,
}

impl IntrospectionClient {
    pub fn new(
        config: &config::Config,
        sessions: &Arc<Sessions>,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, AuthnError> {
        let mut known = Clients::default();
        let mut clients = Vec::with_capacity(config.issuers.len());
        for (index, issuer) in config.issuers.iter().enumerate() {
            // a connection belongs to the runtime that made it, and every worker has its own, so none is pooled
            let finish = |builder: reqwest::ClientBuilder| builder.pool_max_idle_per_host(0).timeout(CALL_DEADLINE);
            let client = issuer.introspection.as_ref().map(|_| known.of(&issuer.egress, finish));
            let client = client.transpose();
            clients.push(client.map_err(|message| AuthnError::Client { index, message })?);
        }
        Ok(Arc::new(Self {
            issuers: config.issuers.clone(),
            token_bytes: config.limits.token_bytes.as_usize(),
            clients,
            answers: Cache::new(ANSWERS_MAX),
            in_flight: InFlight::default(),
            calls: Semaphore::new(CALLS_MAX),
            endpoints: Endpoints::of("introspection_endpoint"),
            sessions: Arc::clone(sessions),
            audit: audit.clone(),
            metrics: metrics.clone(),
        }))
    }

    /// Verifies a bearer token of either kind, for a portal that trusts these issuers.
    pub async fn verify(
        &self,
        authn: &Authn,
        token: PresentedToken<'_>,
        trusted: &[usize],
    ) -> Result<VerifiedBearer, TokenError> {
        let verified = self.verify_either(authn, token, trusted).await?;
        self.sessions.note_issued(&verified.identity);
        Ok(verified)
    }

    async fn verify_either(
        &self,
        authn: &Authn,
        token: PresentedToken<'_>,
        trusted: &[usize],
    ) -> Result<VerifiedBearer, TokenError> {
        if self.is_opaque(token.token, trusted) {
            return self.introspect(token, trusted).await;
        }
        let now = unix_seconds();
        let verified = match authn.try_verify(token, trusted, now) {
            Some(verified) => verified?,
            None => authn.verify(token, trusted, now).await?,
        };
        Ok(VerifiedBearer {
            identity: verified.identity,
            evidence: Evidence::Token(verified.proof),
        })
    }

    /// True if a token is not a JWT and a trusted issuer has introspection.
    fn is_opaque(&self, token: &str, trusted: &[usize]) -> bool {
        token.bytes().filter(|b| *b == b'.').count() != 2 && self.introspected_issuers(trusted).next().is_some()
    }

    fn introspected_issuers<'a>(&'a self, trusted: &'a [usize]) -> impl Iterator<Item = IntrospectedIssuer<'a>> {
        let with_introspection = trusted.iter().filter_map(|index| {
            let issuer = self.issuers.get(*index)?;
            Some(IntrospectedIssuer {
                index: *index,
                issuer,
                settings: issuer.introspection.as_ref()?,
            })
        });
        with_introspection.take(ISSUERS_MAX)
    }

    /// Asks the issuers in the portal's order. The first issuer that knows the token as active decides.
    async fn introspect(&self, presented: PresentedToken<'_>, trusted: &[usize]) -> Result<VerifiedBearer, TokenError> {
        let token = presented.token;
        if token.len() > self.token_bytes {
            return Err(TokenError::TooLong { max: self.token_bytes });
        }
        let mut refusal = TokenError::Inactive;
        for from in self.introspected_issuers(trusted) {
            let answer = match timeout(ANSWER_WAIT, self.answer(from, token)).await {
                Ok(answer) => answer,
                Err(_elapsed) => IssuerAnswer::Refused {
                    error: unavailable(from.issuer, "it did not answer in time"),
                    until: Instant::now(),
                },
            };
            let outcome = match answer {
                IssuerAnswer::Active(active) => {
                    let checked = check_sender(from.issuer, &presented.possession);
                    let bound = checked.and_then(|()| identity(from.issuer, &active, &presented.possession));
                    bound.map(|BoundIdentity { identity, binding }| VerifiedBearer {
                        identity,
                        evidence: Evidence::Introspection {
                            until: active.until,
                            binding,
                        },
                    })
                }
                IssuerAnswer::Refused { error, .. } => Err(error),
            };
            self.count(from.issuer, &outcome);
            match outcome {
                Err(TokenError::Inactive) => {}
                // another issuer may know the token; if none does, the failure is the result, because this one may know
                // it
                Err(error @ TokenError::KeysUnavailable { .. }) => refusal = error,
                outcome => return outcome,
            }
        }
        Err(refusal)
    }

    fn count(&self, issuer: &Issuer, outcome: &Result<VerifiedBearer, TokenError>) {
        let result = outcome.as_ref().err().map_or("ok", |error| error.denial().code());
        self.metrics
            .token_validations
            .with_label_values(&[&*issuer.scope.name, result])
            .inc();
    }

    /// Returns the issuer's answer: from this process's cache, from the session store, or by asking.
    async fn answer(&self, from: IntrospectedIssuer<'_>, token: &str) -> IssuerAnswer {
        let key = cache_key(token, from);
        if let Some(cached) = self.cached(&key) {
            return cached;
        }
        let token_mutex = self.in_flight.mutex(key);
        let _guard = token_mutex.lock().await;
        if let Some(cached) = self.cached(&key) {
            return cached;
        }
        let shared = match self.sessions.fetch(STORE_AREA, &key).await {
            Ok(Some(bytes)) => decode_shared(&bytes).map(IssuerAnswer::Active).filter(IssuerAnswer::is_fresh),
            Ok(None) | Err(_) => None,
        };
        let answer = match shared {
            Some(shared) => shared,
            None => self.ask(from, token, &key).await,
        };
        self.answers.insert(key, answer.clone());
        answer
    }

    fn cached(&self, key: &[u8; 32]) -> Option<IssuerAnswer> {
        self.answers.get(key).filter(IssuerAnswer::is_fresh)
    }

    /// Asks the issuer, records the answer in the audit log and shares it if the token is active.
    async fn ask(&self, from: IntrospectedIssuer<'_>, token: &str, key: &[u8; 32]) -> IssuerAnswer {
        let called = match self.calls.acquire().await {
            Ok(_permit) => timeout(CALL_DEADLINE, self.call(from, token)).await,
            Err(_closed) => Ok(Err("the gate is shutting down".to_owned())),
        };
        let called = called.unwrap_or_else(|_elapsed| Err("it did not answer in time".to_owned()));
        let answer = self.evaluate(from, called);
        self.record(from.issuer, &answer);
        if let IssuerAnswer::Active(active) = &answer {
            self.share(key, active).await;
        }
        answer
    }

    /// Turns the result of a call into an answer and its life in the cache.
    fn evaluate(&self, from: IntrospectedIssuer<'_>, called: Result<Option<Map<String, Value>>, CallFailure>) -> IssuerAnswer {
        let now = Instant::now();
        match called {
            Ok(Some(claims)) => {
                let cache_life = i64::try_from(from.settings.cache.as_secs()).unwrap_or(0);
                let leeway = i64::try_from(from.issuer.leeway.as_secs()).unwrap_or(0);
                match check_claims(from.issuer, claims, unix_seconds().saturating_add(cache_life), leeway) {
                    Ok(active) => IssuerAnswer::Active(active),
                    Err(error) => IssuerAnswer::Refused {
                        error,
                        until: now + INACTIVE_LIFE,
                    },
                }
            }
            Ok(None) => IssuerAnswer::Refused {
                error: TokenError::Inactive,
                until: now + INACTIVE_LIFE,
            },
            Err(why) => {
                tracing::warn!(issuer = &*from.issuer.scope.name, why, "a token could not be introspected");
                // the endpoint may have moved, so the next call discovers it again
                self.endpoints.forget(from.index);
                IssuerAnswer::Refused {
                    error: unavailable(from.issuer, "the introspection call failed"),
                    until: now + FAILURE_LIFE,
                }
            }
        }
    }

    /// Stores an active token for the other replicas. A failure costs them a call of their own.
    async fn share(&self, key: &[u8; 32], active: &ActiveToken) {
        let life = u64::try_from(active.until.saturating_sub(unix_seconds())).unwrap_or(0);
        if life == 0 {
            return;
        }
        let value = json!({"claims": &*active.claims, "until": active.until}).to_string();
        let life = Duration::from_secs(life);
        if let Err(error) = self.sessions.put(STORE_AREA, key, value.as_bytes(), life).await {
            tracing::debug!(%error, "an introspection answer was not shared with the other replicas");
        }
    }

    /// Calls the introspection endpoint. `None`: the token is not active.
    async fn call(&self, from: IntrospectedIssuer<'_>, token: &str) -> Result<Option<Map<String, Value>>, CallFailure> {
        let client = self.clients.get(from.index).and_then(Option::as_ref);
        let client = client.ok_or("there is no HTTPS client")?;
        let url = self.endpoint(client, from).await?;
        let secret = read_secret(&from.settings.client_secret).await?;
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let (user, password) = basic_credentials(&from.settings.client_id, &secret);
        let request = client
            .post(url)
            .basic_auth(user, Some(password))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        let answer = fetch_object(request, ANSWER_BYTES_MAX).await?;
        match answer.get("active") {
            Some(Value::Bool(true)) => Ok(Some(answer)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err("its answer has no boolean `active`".to_owned()),
        }
    }

    /// Returns the configured endpoint, else the discovered one.
    async fn endpoint(&self, client: &reqwest::Client, from: IntrospectedIssuer<'_>) -> Result<String, CallFailure> {
        match &from.settings.url {
            Some(url) => Ok(url.clone()),
            None => self.endpoints.discover(client, from.index, from.issuer).await,
        }
    }

    /// Sends the audit event of an answer.
    fn record(&self, issuer: &Issuer, answer: &IssuerAnswer) {
        let mut about = AuthSubject {
            issuer: Some(Arc::clone(&issuer.scope.name)),
            ..AuthSubject::default()
        };
        let event = match answer {
            IssuerAnswer::Active(active) => {
                about.subject = claims::subject(&issuer.scope, &active.claims).ok().map(str::to_owned);
                about.succeeded(AuthAct::Introspection, AuthFact::Active)
            }
            IssuerAnswer::Refused {
                error: TokenError::Inactive,
                ..
            } => about.succeeded(AuthAct::Introspection, AuthFact::Inactive),
            IssuerAnswer::Refused { error, .. } => about.failed(AuthAct::Introspection, error.denial()),
        };
        self.audit.send(&Event::Auth(Box::new(event)));
    }
}

impl IssuerAnswer {
    fn is_fresh(&self) -> bool {
        match self {
            Self::Active(active) => unix_seconds() < active.until,
            Self::Refused { until, .. } => Instant::now() < *until,
        }
    }
}

/// Hashes token, issuer and client; each is preceded by its length, so that two different triples never hash the same
/// bytes.
fn cache_key(token: &str, from: IntrospectedIssuer<'_>) -> [u8; 32] {
    let length = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes();
    let issuer = &from.issuer.scope.issuer;
    let client = &from.settings.client_id;
    sha256_of(&[
        &length(token),
        token.as_bytes(),
        &length(issuer),
        issuer.as_bytes(),
        &length(client),
        client.as_bytes(),
    ])
}

fn unavailable(issuer: &Issuer, why: &'static str) -> TokenError {
    TokenError::KeysUnavailable {
        issuer: issuer.scope.name.to_string(),
        why,
    }
}

/// Decodes an answer that another replica, or this one, stored.
fn decode_shared(bytes: &[u8]) -> Option<ActiveToken> {
    let mut value = json::object_from_slice(bytes).ok()?;
    let until = value.get("until")?.as_i64()?;
    let Some(Value::Object(claims)) = value.remove("claims") else {
        return None;
    };
    Some(ActiveToken {
        claims: Arc::new(claims),
        until,
    })
}

/// Checks the claims of an active token. Claims that RFC 7662 allows the issuer to omit are filled in: `iss` with the
/// asked issuer, `aud` with its first configured audience, `exp` with `latest`. The result is usable until `exp`, at
/// most until `latest`.
fn check_claims(issuer: &Issuer, mut claims: Map<String, Value>, latest: i64, leeway: i64) -> Result<ActiveToken, TokenError> {
    let binding = Binding::of(&claims)?;
    if binding.asked_for().key.is_some()
        && claims
            .get("token_type")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.eq_ignore_ascii_case("dpop"))
    {
        claims.remove("token_type");
    }
    for (name, access) in [("token_type", "bearer"), ("token_use", "access_token"), ("typ", "bearer")] {
        let is_other = claims.get(name).is_some_and(|kind| {
            kind.as_str().is_none_or(|kind| {
                !(kind.eq_ignore_ascii_case(access) || name == "typ" && kind.to_ascii_lowercase().ends_with("jwt"))
            })
        });
        if is_other {
            return Err(TokenError::claim(name, "is not that of a bearer access token"));
        }
    }
    match claims.get("iss") {
        None => drop(claims.insert("iss".to_owned(), json!(issuer.scope.issuer))),
        Some(Value::String(iss)) if *iss == issuer.scope.issuer => {}
        Some(_) => return Err(TokenError::claim("iss", "is not the issuer that was asked")),
    }
    if issuer.scope.audience_claim.as_str() == "aud" && !claims.contains_key("aud") {
        claims.insert("aud".to_owned(), json!(issuer.scope.audiences.first()));
    }
    if !claims.contains_key("exp") {
        claims.insert("exp".to_owned(), json!(latest));
    }
    let window = claims::window(&claims, leeway)?;
    window.check(unix_seconds())?;
    let mut active = ActiveToken {
        claims: Arc::new(claims),
        until: window.until,
    };
    // an answer whose claims make no identity is refused before it is cached as active
    identity(issuer, &active, &binding.asked_for())?;
    active.until = window.until.min(latest);
    Ok(active)
}

fn identity(issuer: &Issuer, active: &ActiveToken, possession: &Possession) -> Result<BoundIdentity, TokenError> {
    let window = Window {
        from: i64::MIN,
        until: active.until,
    };
    let header = TokenHeader {
        kid: None,
        alg: "opaque",
    };
    Ok(claims::token_identity(
        &issuer.scope,
        header,
        active.claims.as_ref().clone(),
        window,
        possession,
    )?)
}
