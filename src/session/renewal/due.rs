//! Renews the claims of a presented session when they are due.
//!
//! A request never waits for a renewal that is merely due: a background task renews, one per version of a session. A
//! request waits, at most `OVERDUE_WAIT`, if the claims are older than twice their life. If the provider or the store
//! does not answer, the session goes on as it is; only the store or a revocation can end it.

use std::sync::Arc;
use std::time::Duration;

use cedargate_policy::denial::Refusal;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use serde_json::Value;
use tokio::time::timeout;

use crate::session::{RefreshError, Session, SessionData, SessionError, SessionId, Sessions};

/// Maximum time that a request waits for the renewal of overdue claims.
const OVERDUE_WAIT: Duration = Duration::from_secs(5);

/// Versions of sessions that this process is renewing in the background or giving a new id. One task per version,
/// however many requests present the session; as many entries as there are such tasks.
#[derive(Debug, Default)]
pub struct InProgress(Mutex<FxHashSet<[u8; 32]>>);

impl InProgress {
    /// Reserves the version until the guard drops; `None` if another task has it.
    pub fn start(self: &Arc<Self>, version: [u8; 32]) -> Option<InProgressGuard> {
        let is_new = self.0.lock().insert(version);
        is_new.then(|| InProgressGuard {
            set: Arc::clone(self),
            version,
        })
    }
}

/// Releases the version when it drops.
pub struct InProgressGuard {
    set: Arc<InProgress>,
    version: [u8; 32],
}

impl Drop for InProgressGuard {
    fn drop(&mut self) {
        self.set.0.lock().remove(&self.version);
    }
}

/// The urgency of a renewal of the session's claims.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Urgency {
    NotDue,
    Due,
    /// The claims are older than twice their life.
    Overdue,
}

impl Sessions {
    /// Due: starts the renewal in the background, unless a task of this version runs, and returns the session as it is.
    /// Overdue: waits for the renewal and returns the session as it is afterwards.
    pub(in crate::session) async fn renew_presented<F>(
        self: &Arc<Self>,
        id: &SessionId,
        session: Arc<Session>,
        urgency: Urgency,
        call: impl FnOnce(SessionData) -> F + Send + 'static,
    ) -> Result<Arc<Session>, Refusal>
    where
        F: Future<Output = Result<SessionData, RefreshError>> + Send + 'static,
    {
        let sessions = Arc::clone(self);
        let renewed_id = id.clone();
        let known = Arc::clone(&session);
        let renewal = async move { sessions.refresh(&renewed_id, &known, call).await };
        if urgency == Urgency::Due {
            if let Some(guard) = self.in_progress.start(session.version) {
                tokio::task::spawn_local(async move {
                    if let Err(error) = renewal.await {
                        tracing::debug!(%error, "a session was not renewed");
                    }
                    drop(guard);
                });
            }
            return Ok(session);
        }
        match timeout(OVERDUE_WAIT, renewal).await {
            Ok(Err(error)) if !matches!(error, SessionError::Unavailable(_)) => Err(Refusal::from(&error)),
            // Late, or not written yet: the renewal may go on without this request. Time has passed in which the
            // session may have ended or the revocation log may have become stale, so the session is looked up again.
            Err(_) | Ok(_) => self.find_or_refuse(id).await,
        }
    }
}

pub fn urgency(data: &SessionData, now_millis: i64) -> Urgency {
    let Some(due) = data.grant.as_ref().and_then(|grant| grant.refresh_at) else {
        return Urgency::NotDue;
    };
    if now_millis < due {
        return Urgency::NotDue;
    }
    // the claims' life began when the provider issued them; without `iat`, with the login
    let issued = data
        .claims
        .get("iat")
        .and_then(Value::as_i64)
        .map(|at| at.saturating_mul(1000));
    let life = due.saturating_sub(issued.unwrap_or(data.created_at)).max(0);
    if now_millis > due.saturating_add(life) {
        Urgency::Overdue
    } else {
        Urgency::Due
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use cedargate_policy::types::Redacted;

    use crate::session::Grant;

    #[test]
    fn claims_are_due_at_refresh_at_and_overdue_after_twice_their_life() {
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
        assert_eq!(urgency(&data, i64::MAX), Urgency::NotDue);
        let token = Redacted::new(String::new());
        data.grant = Some(Grant {
            id_token: token.clone(),
            refresh_token: Some(token.clone()),
            access_token: token,
            refresh_at: Some(1_300_000),
        });
        for (now, expected) in [
            (1_299_999, Urgency::NotDue),
            (1_300_000, Urgency::Due),
            (1_600_000, Urgency::Due),
            (1_600_001, Urgency::Overdue),
        ] {
            assert_eq!(urgency(&data, now), expected, "{now}");
        }
    }
}
