//! The session that a request presents, for every door: found, its claims renewed, and what it is worth at a portal.
//!
//! What the process knows is asked first; the store only where that does not tell. Nothing here ends a session because
//! somebody did not answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use rustc_hash::FxHashSet;
use serde_json::Value;
use tokio::time::timeout;

use super::LoginDoor;
use crate::denial::{Denial, Refusal};
use crate::session::{Session, SessionData, SessionError, SessionId};

/// How long a request waits for claims that should have been renewed long ago.
const OVERDUE_WAIT: Duration = Duration::from_secs(5);

/// Sessions that are being renewed in the background or given a new id, by version: one task each, however many requests come.
#[derive(Debug, Default)]
pub struct Renewing(Mutex<FxHashSet<[u8; 32]>>);

impl Renewing {
    /// `None`: somebody is at it.
    pub fn turn(self: &Arc<Self>, version: [u8; 32]) -> Option<Turn> {
        let mine = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(version);
        mine.then(|| Turn(Arc::clone(self), version))
    }
}

/// Ends when it drops.
pub struct Turn(Arc<Renewing>, [u8; 32]);

impl Drop for Turn {
    fn drop(&mut self) {
        let Self(renewing, version) = self;
        renewing.0.lock().unwrap_or_else(PoisonError::into_inner).remove(version);
    }
}

/// Whether claims are to be renewed at their provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Renewal {
    NotYet,
    Due,
    /// For as long again as they were good for.
    Overdue,
}

impl LoginDoor {
    /// The session of a cookie, its claims as fresh as they have to be; `None` without a cookie.
    pub async fn session(&self, headers: &HeaderMap) -> Result<Option<(SessionId, Arc<Session>)>, Refusal> {
        if !self.sessions.cookies.has_session(headers) {
            return Ok(None);
        }
        let id = self.sessions.cookies.session(headers);
        let id = id.ok_or_else(|| Refusal::new(Denial::SessionMissing, "the session cookie is malformed or repeated"))?;
        let session = self.found(&id).await?;
        let session = match renewal(&session.data, now_millis()) {
            Renewal::NotYet => session,
            due => Box::pin(self.renewed(&id, session, due)).await?,
        };
        Ok(Some((id, session)))
    }

    async fn found(&self, id: &SessionId) -> Result<Arc<Session>, Refusal> {
        let found = match self.sessions.try_find(id) {
            Some(found) => found,
            None => Box::pin(self.sessions.find(id)).await,
        };
        found.map_err(|error| refused(&error))
    }

    /// The session as it is once its claims are as fresh as they have to be. Whoever asks first renews them, and nobody
    /// waits unless that is long overdue.
    async fn renewed(&self, id: &SessionId, session: Arc<Session>, renewal: Renewal) -> Result<Arc<Session>, Refusal> {
        let (sessions, login) = (Arc::clone(&self.sessions), Arc::clone(&self.login));
        let (own_id, known) = (id.clone(), Arc::clone(&session));
        let handle = session.handle;
        let renewing = async move { sessions.refresh(&own_id, &known, move |data| login.renew(handle, data)).await };
        if renewal == Renewal::Due {
            if let Some(turn) = self.renewing.turn(session.version) {
                tokio::task::spawn_local(async move {
                    if let Err(error) = renewing.await {
                        tracing::debug!(%error, "a session was not renewed");
                    }
                    drop(turn);
                });
            }
            return Ok(session);
        }
        match timeout(OVERDUE_WAIT, renewing).await {
            Ok(Err(error)) if !matches!(error, SessionError::Unavailable(_)) => Err(refused(&error)),
            // it may go on without us, and what the provider gave may not be in the store yet; but time has passed, in which
            // the session can have ended, or the feed can have fallen behind
            Err(_) | Ok(_) => self.found(id).await,
        }
    }
}

fn refused(error: &SessionError) -> Refusal {
    Refusal {
        keeps_cookie: matches!(error, SessionError::OtherKey),
        ..Refusal::new(Denial::from(error), error.to_string())
    }
}

fn renewal(data: &SessionData, now_millis: i64) -> Renewal {
    let Some(due) = data.grant.as_ref().and_then(|grant| grant.refresh_at) else {
        return Renewal::NotYet;
    };
    if now_millis < due {
        return Renewal::NotYet;
    }
    // when the provider last vouched, as its claims say
    let issued = data
        .claims
        .get("iat")
        .and_then(Value::as_i64)
        .map(|at| at.saturating_mul(1000));
    let life = due.saturating_sub(issued.unwrap_or(data.created_at)).max(0);
    if now_millis > due.saturating_add(life) {
        Renewal::Overdue
    } else {
        Renewal::Due
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::session::Grant;
    use crate::types::Redacted;

    #[test]
    fn claims_are_renewed_when_due_and_waited_for_after_twice_their_life() {
        let mut claims = Map::new();
        claims.insert("iat".to_owned(), json!(1_000));
        let mut data = SessionData {
            provider: "corp".into(),
            issuer: "corp".into(),
            subject: "alice".into(),
            portal: "p".into(),
            claims: Arc::new(claims),
            created_at: 0,
            idp_session: None,
            grant: None,
            portals: None,
            rotation_due: false,
        };
        assert_eq!(renewal(&data, i64::MAX), Renewal::NotYet);
        let token = Redacted::new(String::new());
        data.grant = Some(Grant {
            id_token: token.clone(),
            refresh_token: Some(token.clone()),
            access_token: token,
            refresh_at: Some(1_300_000),
        });
        for (now, expected) in [
            (1_299_999, Renewal::NotYet),
            (1_300_000, Renewal::Due),
            (1_600_000, Renewal::Due),
            (1_600_001, Renewal::Overdue),
        ] {
            assert_eq!(renewal(&data, now), expected, "{now}");
        }
    }
}
