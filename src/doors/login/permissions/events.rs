//! `GET permissions/events`: server-sent events that say when a caller should ask for its permissions again.
//!
//! The stream ends with the credential, at a revocation, at the drain, or when the client leaves. It says nothing about
//! the permissions themselves, so a stream that stays open longer than it should gives nothing away. What races: the
//! stream subscribes to revocations and reloads *before* the caller is checked, so it sees every event after the check.
//! Several changes at once are one event with the newest revision; a slow client holds one event and no queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::types::Identity;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};
use parking_lot::Mutex;
use prometheus::IntGauge;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::KnownCaller;
use crate::base::clock::unix_seconds;
use crate::base::lifecycle::Shutdown;
use crate::config::{Config, Limits};
use crate::doors::login::caller::CallerCredential;
use crate::doors::login::input::Parameters;
use crate::doors::login::{EndpointRequest, LoginDoor};
use crate::http::client_certificate::ClientCertificate;
use crate::http::upstream::Body;
use crate::portals::Portal;
use crate::session::{Revocable, Session, Sessions};

/// Time between two comments that keep the connection open.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Milliseconds after which a browser connects again.
const RETRY_MILLIS: u32 = 3000;
/// Longest life of a stream; the client then connects again.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The open streams of the process, counted by caller.
pub struct PermissionStreams {
    open: Arc<Mutex<OpenStreams>>,
    gauge: IntGauge,
}

#[derive(Default)]
struct OpenStreams {
    /// INVARIANT: the sum of `by_caller`.
    count: usize,
    by_caller: HashMap<CallerKey, usize>,
}

/// Portal, issuer and subject.
type CallerKey = (Arc<str>, Arc<str>, String);

/// The place of one open stream; free again when it is dropped.
struct StreamSlot {
    open: Arc<Mutex<OpenStreams>>,
    key: CallerKey,
    gauge: IntGauge,
}

/// One stream.
struct Events {
    portal: Arc<Portal>,
    identity: Arc<Identity>,
    proof: StreamProof,
    /// The client certificate of the connection.
    certificate: Option<Arc<ClientCertificate>>,
    config: Arc<Config>,
    sessions: Arc<Sessions>,
    /// The revision that the client knows of; empty: the portal has none.
    revision: Arc<str>,
    reloads: watch::Receiver<u64>,
    revocations: watch::Receiver<u64>,
    shutdown: Shutdown,
    heartbeat: Interval,
    ends_at: Instant,
    state: State,
    _place: StreamSlot,
}

/// The credential that the stream was opened with.
enum StreamProof {
    Token,
    Session(Arc<Session>),
    /// The certificate of the connection.
    Certificate,
}

enum State {
    Begins(Bytes),
    Open,
    Over,
}

impl PermissionStreams {
    pub fn new(gauge: IntGauge) -> Self {
        Self {
            open: Arc::default(),
            gauge,
        }
    }

    /// # Errors
    /// 429 if the caller has too many streams, 503 if the process has.
    fn open(&self, key: CallerKey, limits: &Limits) -> Result<StreamSlot, Refusal> {
        let mut open = self.open.lock();
        let of_caller = open.by_caller.get(&key).copied().unwrap_or(0);
        if of_caller >= limits.permission_streams_per_caller.as_usize() {
            return Err(Refusal::over_limit(
                Denial::RateLimited,
                "limits.permission_streams_per_caller",
            ));
        }
        if open.count >= limits.permission_streams.as_usize() {
            return Err(Refusal::over_limit(Denial::Overloaded, "limits.permission_streams"));
        }
        open.by_caller.insert(key.clone(), of_caller + 1);
        open.count += 1;
        self.gauge.inc();
        Ok(StreamSlot {
            open: Arc::clone(&self.open),
            key,
            gauge: self.gauge.clone(),
        })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.gauge.dec();
        let mut open = self.open.lock();
        open.count = open.count.saturating_sub(1);
        match open.by_caller.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(open.by_caller.remove(&self.key)),
        }
    }
}

pub(in crate::doors::login) async fn stream(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<Response<Body>, Refusal> {
    let reloads = door.reloads.subscribe();
    let revocations = door.sessions.revocations();
    let slug = Parameters::from_query(request.head).optional("portal")?;
    let known = KnownCaller::of(door, request, slug.as_deref()).await?;
    let caller = known.caller;
    let proof = match known.credential {
        CallerCredential::Bearer(_) | CallerCredential::WithProof(_) => StreamProof::Token,
        CallerCredential::Session(session) => StreamProof::Session(session),
        CallerCredential::Certificate(_) => StreamProof::Certificate,
    };
    let identity = caller.identity;
    let key = (
        Arc::clone(&caller.portal.name),
        Arc::clone(&identity.issuer),
        identity.subject.clone(),
    );
    let place = door.permission_streams.open(key, &door.config.limits)?;
    let revision = Arc::clone(&caller.active.revision.id);
    let last = request.head.headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let begin = match last {
        Some(last) if last != &*revision => changed(&revision),
        Some(_) | None => String::new(),
    };
    let begin = format!(
        "retry: {RETRY_MILLIS}\nid: {revision}\n: permissions of {}\n\n{begin}",
        caller.portal.name
    );
    let left = u64::try_from(identity.expires_at.saturating_sub(unix_seconds())).unwrap_or_default();
    let now = Instant::now();
    let mut heartbeat = interval_at(now + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        portal: caller.portal,
        identity,
        proof,
        certificate: request.certificate.cloned(),
        config: Arc::clone(&door.config),
        sessions: Arc::clone(&door.sessions),
        revision,
        reloads,
        revocations,
        shutdown: door.shutdown.clone(),
        heartbeat,
        ends_at: now + Duration::from_secs(left).min(LIFE_MAX),
        state: State::Begins(Bytes::from(begin)),
        _place: place,
    };
    let mut response = Response::new(Body::stream(futures_util::stream::unfold(events, Events::next)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // nginx passes events on at once
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The event of a new revision.
fn changed(revision: &str) -> String {
    format!(
        "id: {revision}\nevent: changed\ndata: {}\n\n",
        json!({ "revision": revision })
    )
}

impl Events {
    /// The next bytes of the stream; `None` at its end.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        match std::mem::replace(&mut self.state, State::Open) {
            State::Over => return None,
            State::Begins(bytes) => return Some((bytes, self)),
            State::Open => {}
        }
        loop {
            let text = tokio::select! {
                biased;
                () = self.shutdown.draining() => return None,
                () = sleep_until(self.ends_at) => Some(self.end("expired")),
                woken = self.revocations.changed() => {
                    woken.ok()?;
                    self.is_revoked().then(|| self.end("revoked"))
                }
                woken = self.reloads.changed() => {
                    woken.ok()?;
                    match self.check_certificate() {
                        Ok(()) => self.new_revision(),
                        Err(_untrusted) => Some(self.end("revoked")),
                    }
                }
                _ = self.heartbeat.tick() => Some(match &self.proof {
                    StreamProof::Session(session) if self.sessions.is_idle(session) => self.end("expired"),
                    StreamProof::Session(_) | StreamProof::Token | StreamProof::Certificate => ":\n\n".to_owned(),
                }),
            };
            if let Some(text) = text {
                return Some((Bytes::from(text), self));
            }
        }
    }

    fn is_revoked(&self) -> bool {
        let caller = match &self.proof {
            StreamProof::Session(session) => Revocable::Session(session),
            StreamProof::Token | StreamProof::Certificate => Revocable::Identity(&self.identity),
        };
        self.sessions.check_caller(caller, &self.portal.name).is_err()
    }

    /// Checks the certificate of the connection under the trust in force, as the requests of that connection do.
    fn check_certificate(&self) -> Result<(), Refusal> {
        match (&self.certificate, &self.proof) {
            (Some(certificate), StreamProof::Certificate) => {
                let trust = self.portal.certificate_trust(&self.config);
                trust.check(certificate, &self.identity.issuer)
            }
            (Some(certificate), StreamProof::Token | StreamProof::Session(_)) => {
                Ok(certificate.check(unix_seconds()).map(drop)?)
            }
            (None, _) => Ok(()),
        }
    }

    fn new_revision(&mut self) -> Option<String> {
        let active = self.portal.active.load();
        let revision = active
            .as_ref()
            .map_or_else(|| Arc::from(""), |active| Arc::clone(&active.revision.id));
        if revision == self.revision {
            return None;
        }
        self.revision = revision;
        Some(changed(&self.revision))
    }

    /// The last event.
    fn end(&mut self, reason: &str) -> String {
        self.state = State::Over;
        format!("event: changed\ndata: {}\n\n", json!({ "reason": reason }))
    }
}
