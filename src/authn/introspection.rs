//! Who is calling, from a token that says nothing by itself: its issuer is asked (RFC 7662).
//!
//! On the path where a JWT would be verified. Whoever asks first asks for everybody with the same token. What an issuer says is
//! remembered for `issuers[].introspection.cache` at most, here and for the other replicas under a hash of token, issuer and
//! client; a no for some seconds, here only. An issuer that does not answer is no yes and no no.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use quick_cache::sync::Cache;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::{Instant, timeout};
use url::form_urlencoded;

use super::cache::sha256;
use cedargate_policy::claims::{self, TokenHeader, Window};

use super::error::TokenError;
use super::keys::{check_url, discovery_url, unix_now};
use super::{Authn, Proof};
use crate::audit::{Audit, AuthEvent, Event};
use crate::base::metrics::Metrics;
use crate::config::{self, Issuer, Secret};
use crate::json;
use crate::session::Sessions;
use crate::types::Identity;

/// One exchange with an issuer, from connecting to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a request waits for an answer, also one that somebody else is waiting for.
const WAIT: Duration = Duration::from_secs(6);
/// How long a no counts, and how long an issuer that did not answer is not asked about the same token.
const NO_LIFE: Duration = Duration::from_secs(5);
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Answers remembered by this process.
const ANSWERS_MAX: usize = 10_000;
/// Issuers of one portal that are asked about one token.
const ISSUERS_MAX: usize = 3;
/// Questions to issuers at once.
const CALLS_MAX: usize = 64;
/// How long a discovered endpoint is used.
const ENDPOINT_LIFE: Duration = Duration::from_secs(3600);
/// Bytes of a secret's file.
const SECRET_BYTES_MAX: usize = 4096;
const AREA: &str = "introspection";

/// What a bearer token's identity rests on.
#[derive(Clone, Debug)]
pub enum Ground {
    Token(Proof),
    /// The issuer's word, until it must be asked again (unix seconds).
    Word {
        until: i64,
    },
}

/// Asks issuers about opaque tokens. Shared by all workers.
pub struct Introspection {
    issuers: Vec<Issuer>,
    token_bytes: usize,
    client: Option<reqwest::Client>,
    answers: Cache<[u8; 32], Remembered>,
    /// Who is asking about which token; as many as there are requests.
    asking: Mutex<FxHashMap<[u8; 32], Weak<AsyncMutex<()>>>>,
    calls: Semaphore,
    endpoints: Mutex<FxHashMap<usize, (String, Instant)>>,
    sessions: Arc<Sessions>,
    audit: Audit,
    metrics: Metrics,
}

/// What was made of an issuer's answer.
#[derive(Clone)]
enum Remembered {
    /// Claims, and the unix second until which they count.
    Yes(Arc<Map<String, Value>>, i64),
    No(TokenError, Instant),
}

/// Why an issuer could not be asked; for the log.
type Failure = String;

impl Introspection {
    pub fn new(
        config: &config::Config,
        sessions: &Arc<Sessions>,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, reqwest::Error> {
        let asks = config.issuers.iter().any(|issuer| issuer.introspection.is_some());
        // a connection belongs to the thread that made it, so none is kept
        let client = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .pool_max_idle_per_host(0)
                .timeout(DEADLINE)
                .user_agent(concat!("cedargate/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        Ok(Arc::new(Self {
            issuers: config.issuers.clone(),
            token_bytes: config.limits.token_bytes.as_usize(),
            client: if asks { Some(client()?) } else { None },
            answers: Cache::new(ANSWERS_MAX),
            asking: Mutex::default(),
            calls: Semaphore::new(CALLS_MAX),
            endpoints: Mutex::default(),
            sessions: Arc::clone(sessions),
            audit: audit.clone(),
            metrics: metrics.clone(),
        }))
    }

    /// The identity behind a bearer token of either kind, for a portal that trusts these issuers.
    pub async fn proven(&self, authn: &Authn, token: &str, trusted: &[usize]) -> Result<(Identity, Ground), TokenError> {
        if self.asks_about(token, trusted) {
            return self.introspected(token, trusted).await;
        }
        let now = unix_now();
        let verified = match authn.try_verify(token, trusted, now) {
            Some(verified) => verified?,
            None => authn.verify(token, trusted, now).await?,
        };
        Ok((verified.identity, Ground::Token(verified.proof)))
    }

    /// Whether a token is no JWT, and some issuer may be asked about it.
    fn asks_about(&self, token: &str, trusted: &[usize]) -> bool {
        token.bytes().filter(|b| *b == b'.').count() != 2 && self.asked(trusted).next().is_some()
    }

    fn asked<'a>(&'a self, trusted: &'a [usize]) -> impl Iterator<Item = (usize, &'a Issuer, &'a config::Introspection)> {
        let known = trusted.iter().filter_map(|index| Some((*index, self.issuers.get(*index)?)));
        known
            .filter_map(|(index, issuer)| Some((index, issuer, issuer.introspection.as_ref()?)))
            .take(ISSUERS_MAX)
    }

    /// In the portal's order; the first that knows the token has the say.
    async fn introspected(&self, token: &str, trusted: &[usize]) -> Result<(Identity, Ground), TokenError> {
        if token.len() > self.token_bytes {
            return Err(TokenError::TooLong { max: self.token_bytes });
        }
        let mut refused = TokenError::Inactive;
        for (index, issuer, settings) in self.asked(trusted) {
            let answer = timeout(WAIT, self.answer((index, issuer, settings), token)).await;
            let answer = answer
                .unwrap_or_else(|_elapsed| Remembered::No(unavailable(issuer, "it does not answer in time"), Instant::now()));
            let outcome = match answer {
                Remembered::Yes(claims, until) => {
                    identity(issuer, &claims, until).map(|identity| (identity, Ground::Word { until }))
                }
                Remembered::No(error, _) => Err(error),
            };
            self.count(issuer, &outcome);
            match outcome {
                Err(TokenError::Inactive) => {}
                // nobody else's yes is asked for once somebody said yes, nor is somebody's silence a no
                Err(error @ TokenError::KeysUnavailable { .. }) => refused = error,
                outcome => return outcome,
            }
        }
        Err(refused)
    }

    fn count(&self, issuer: &Issuer, outcome: &Result<(Identity, Ground), TokenError>) {
        let result = outcome.as_ref().err().map_or("ok", |error| error.denial().code());
        self.metrics
            .token_validations
            .with_label_values(&[&*issuer.scope.name, result])
            .inc();
    }

    /// What the issuer says, by whoever heard it last.
    async fn answer(&self, (index, issuer, settings): (usize, &Issuer, &config::Introspection), token: &str) -> Remembered {
        let key = key(token, issuer, settings);
        if let Some(known) = self.remembered(&key) {
            return known;
        }
        let turn = self.turn(key);
        let _mine = turn.lock().await;
        if let Some(known) = self.remembered(&key) {
            return known;
        }
        let stored = match self.sessions.fetch(AREA, &key).await {
            Ok(Some(bytes)) => stored(&bytes).filter(|known| known.is_fresh()),
            Ok(None) | Err(_) => None,
        };
        let answer = match stored {
            Some(stored) => stored,
            None => self.ask((index, issuer, settings), token, &key).await,
        };
        self.answers.insert(key, answer.clone());
        answer
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Remembered> {
        self.answers.get(key).filter(Remembered::is_fresh)
    }

    /// The lock of a token; it goes with the last who holds it.
    fn turn(&self, key: [u8; 32]) -> Arc<AsyncMutex<()>> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = asking.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        asking.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(AsyncMutex::new(()));
        asking.insert(key, Arc::downgrade(&turn));
        turn
    }

    async fn ask(
        &self,
        (index, issuer, settings): (usize, &Issuer, &config::Introspection),
        token: &str,
        key: &[u8; 32],
    ) -> Remembered {
        let called = match self.calls.acquire().await {
            Ok(_turn) => timeout(DEADLINE, self.call((index, issuer, settings), token)).await,
            Err(_closed) => Ok(Err("the gate is ending".to_owned())),
        };
        let called = called.unwrap_or_else(|_elapsed| Err("it did not answer in time".to_owned()));
        let now = Instant::now();
        let answer = match called {
            Ok(Some(claims)) => {
                let cache = i64::try_from(settings.cache.as_secs()).unwrap_or(0);
                let leeway = i64::try_from(issuer.leeway.as_secs()).unwrap_or(0);
                match judged(issuer, claims, unix_now().saturating_add(cache), leeway) {
                    Ok((claims, until)) => Remembered::Yes(claims, until),
                    Err(error) => Remembered::No(error, now + NO_LIFE),
                }
            }
            Ok(None) => Remembered::No(TokenError::Inactive, now + NO_LIFE),
            Err(why) => {
                tracing::warn!(issuer = &*issuer.scope.name, why, "a token could not be introspected");
                self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
                Remembered::No(unavailable(issuer, "it could not be asked about a token"), now + FAILURE_LIFE)
            }
        };
        self.tell(issuer, &answer);
        if let Remembered::Yes(claims, until) = &answer {
            let life = u64::try_from(until.saturating_sub(unix_now())).unwrap_or(0);
            let value = json!({"claims": &**claims, "until": until}).to_string();
            if life > 0
                && let Err(error) = self
                    .sessions
                    .put(AREA, key, value.as_bytes(), Duration::from_secs(life))
                    .await
            {
                tracing::debug!(%error, "an introspection is not shared");
            }
        }
        answer
    }

    /// One call; `None`: the token is not active.
    async fn call(
        &self,
        (index, issuer, settings): (usize, &Issuer, &config::Introspection),
        token: &str,
    ) -> Result<Option<Map<String, Value>>, Failure> {
        let client = self.client.as_ref().ok_or("there is no client")?;
        let url = self.endpoint(client, (index, issuer, settings)).await?;
        let secret = secret(&settings.client_secret).await?;
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        // RFC 6749, 2.3.1: both are form-encoded first
        let request = client
            .post(url)
            .basic_auth(encoded(&settings.client_id), Some(encoded(&secret)))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        let answer = object_of(request).await?;
        match answer.get("active") {
            Some(Value::Bool(true)) => Ok(Some(answer)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err("its answer has no boolean `active`".to_owned()),
        }
    }

    async fn endpoint(
        &self,
        client: &reqwest::Client,
        (index, issuer, settings): (usize, &Issuer, &config::Introspection),
    ) -> Result<String, Failure> {
        if let Some(url) = &settings.url {
            return Ok(url.clone());
        }
        let known = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&index)
            .cloned();
        if let Some((url, until)) = known
            && Instant::now() < until
        {
            return Ok(url);
        }
        let transport = config::KeyTransport::Tls;
        let discovery = discovery_url(&issuer.scope.issuer);
        check_url(&discovery, transport).map_err(|error| error.to_string())?;
        let document = object_of(client.get(discovery)).await?;
        if document.get("issuer").and_then(Value::as_str) != Some(&issuer.scope.issuer) {
            return Err("its discovery document is another issuer's".to_owned());
        }
        let url = document.get("introspection_endpoint").and_then(Value::as_str);
        let url = url.ok_or("its discovery document names no `introspection_endpoint`")?;
        check_url(url, transport).map_err(|error| error.to_string())?;
        let entry = (url.to_owned(), Instant::now() + ENDPOINT_LIFE);
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(index, entry);
        Ok(url.to_owned())
    }

    fn tell(&self, issuer: &Issuer, answer: &Remembered) {
        let (result, reason, claims) = match answer {
            Remembered::Yes(claims, _) => ("success", "active", Some(claims)),
            Remembered::No(TokenError::Inactive, _) => ("success", "inactive", None),
            Remembered::No(error, _) => ("failure", error.denial().code(), None),
        };
        let subject = claims.and_then(|claims| claims::at(claims, &issuer.scope.claims.subject).ok().flatten());
        self.audit.send(Event::Auth(Box::new(AuthEvent {
            event: "introspection",
            result,
            reason,
            issuer: Some(Arc::clone(&issuer.scope.name)),
            subject: subject.and_then(Value::as_str).map(str::to_owned),
            ..AuthEvent::default()
        })));
    }
}

impl Remembered {
    fn is_fresh(&self) -> bool {
        match self {
            Self::Yes(_, until) => unix_now() < *until,
            Self::No(_, until) => Instant::now() < *until,
        }
    }
}

fn key(token: &str, issuer: &Issuer, settings: &config::Introspection) -> [u8; 32] {
    let mut input = Vec::new();
    for part in [token, &issuer.scope.issuer, &settings.client_id] {
        input.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    sha256(&input)
}

fn unavailable(issuer: &Issuer, why: &'static str) -> TokenError {
    TokenError::KeysUnavailable {
        issuer: issuer.scope.name.to_string(),
        why,
    }
}

/// What was put for other replicas.
fn stored(bytes: &[u8]) -> Option<Remembered> {
    let mut value = json::object_from_slice(bytes).ok()?;
    let until = value.get("until")?.as_i64()?;
    let Some(Value::Object(claims)) = value.remove("claims") else {
        return None;
    };
    Some(Remembered::Yes(Arc::new(claims), until))
}

/// The claims of an active token, if they are for us, and until when they count. What RFC 7662 leaves out is filled in: the
/// issuer that was asked, and the audience of the client that it told.
fn judged(
    issuer: &Issuer,
    mut claims: Map<String, Value>,
    latest: i64,
    leeway: i64,
) -> Result<(Arc<Map<String, Value>>, i64), TokenError> {
    for (name, access) in [("token_type", "bearer"), ("token_use", "access_token"), ("typ", "bearer")] {
        let other = claims.get(name).is_some_and(|kind| {
            kind.as_str().is_none_or(|kind| {
                !(kind.eq_ignore_ascii_case(access) || name == "typ" && kind.to_ascii_lowercase().ends_with("jwt"))
            })
        });
        if other {
            return Err(TokenError::claim(name, "says that this is no access token to be borne"));
        }
    }
    match claims.get("iss") {
        None => drop(claims.insert("iss".to_owned(), json!(issuer.scope.issuer))),
        Some(Value::String(iss)) if *iss == issuer.scope.issuer => {}
        Some(_) => return Err(TokenError::claim("iss", "is not the issuer that was asked")),
    }
    if !claims.contains_key("aud") {
        claims.insert("aud".to_owned(), json!(issuer.scope.audiences.first()));
    }
    if !claims.contains_key("exp") {
        claims.insert("exp".to_owned(), json!(latest));
    }
    let window = claims::window(&claims, leeway)?;
    window.check(unix_now())?;
    let claims = Arc::new(claims);
    identity(issuer, &claims, window.until)?;
    Ok((claims, window.until.min(latest)))
}

fn identity(issuer: &Issuer, claims: &Arc<Map<String, Value>>, until: i64) -> Result<Identity, TokenError> {
    let window = Window { from: i64::MIN, until };
    let header = TokenHeader {
        kid: None,
        alg: "opaque",
    };
    Ok(claims::token_identity(
        &issuer.scope,
        header,
        claims.as_ref().clone(),
        window,
    )?)
}

async fn object_of(request: reqwest::RequestBuilder) -> Result<Map<String, Value>, Failure> {
    // an error of reqwest may hold the URL, never the body or the secret
    let mut response = request.send().await.map_err(|error| error.without_url().to_string())?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("it answered {}", response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("it sent more than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    json::object_from_slice(&body).map_err(|error| format!("its answer is not strict JSON: {error}"))
}

/// Read anew for every call, so that a changed file counts at once.
async fn secret(secret: &Secret) -> Result<String, Failure> {
    let path = match secret {
        Secret::Value(value) => return Ok(value.expose().clone()),
        Secret::File(path) => path.clone(),
    };
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read as _;
        let mut text = String::new();
        let limit = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX);
        std::fs::File::open(path)?.take(limit).read_to_string(&mut text).map(|_| text)
    });
    match read.await {
        Ok(Ok(text)) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(Ok(_)) => Err("the client secret's file is empty".to_owned()),
        Ok(Err(error)) => Err(format!("the client secret's file cannot be read: {error}")),
        Err(_ended) => Err("the client secret's file was not read".to_owned()),
    }
}
