//! Renewals over a real Redis: leases, claims, and grants whose write fails or comes late.

use cedargate_policy::types::Redacted;

use super::super::millis;
use super::super::renewal::lease::lease_key;
use super::super::seal::{OpenedSession, RenewalClaim};
use super::super::store_outcome::Swap;
use super::*;

fn memory() -> Arc<Sessions> {
    sessions(&config("sessions: {idle_timeout: 30m, absolute_timeout: 12h}\n"))
}

/// The data as a provider that rotates refresh tokens returns it.
fn renewed(mut data: SessionData, n: usize) -> SessionData {
    let mut grant = data.grant.unwrap();
    grant.refresh_token = Some(Redacted::new(format!("refresh token {n}")));
    data.grant = Some(grant);
    data
}

fn token(data: &SessionData) -> String {
    let token = data.grant.as_ref().unwrap().refresh_token.clone();
    token.unwrap().expose().clone()
}

async fn change(sessions: &Sessions, id: &SessionId, change: impl FnOnce(&mut OpenedSession)) {
    let mut read = sessions.read(id).await.unwrap().unwrap();
    change(&mut read.opened);
    let swapped = sessions.swap_session(id, &read.raw, &read.opened).await.unwrap();
    assert_eq!(swapped, Swap::Done);
    sessions.cache.forget_changed([Seal::handle(id)]);
}

fn claim_of(by: &str, ago: Duration) -> RenewalClaim {
    RenewalClaim {
        renewing_since: unix_millis() - millis(ago),
        by: by.to_owned(),
    }
}

/// A provider call that reports when it is made and answers when the test says so.
struct Call {
    made: tokio::sync::oneshot::Receiver<()>,
    answer: tokio::sync::oneshot::Sender<Result<usize, RefreshError>>,
    renewal: tokio::task::JoinHandle<Result<Arc<Session>, SessionError>>,
}

fn provider_call(sessions: &Arc<Sessions>, id: &SessionId, session: &Arc<Session>) -> Call {
    let (made_sender, made) = tokio::sync::oneshot::channel();
    let (answer, answered) = tokio::sync::oneshot::channel::<Result<usize, RefreshError>>();
    let sessions = Arc::clone(sessions);
    let id = id.clone();
    let session = Arc::clone(session);
    let renewal = tokio::spawn(async move {
        let call = |data| async move {
            made_sender.send(()).unwrap();
            answered.await.unwrap().map(|n| renewed(data, n))
        };
        sessions.refresh(&id, &session, call).await
    });
    Call { made, answer, renewal }
}

async fn never(data: SessionData) -> Result<SessionData, RefreshError> {
    panic!("the provider was called for {}", data.subject)
}

#[tokio::test]
async fn process_that_lost_its_lease_keeps_its_claim_and_its_grant_wins() {
    let server = Server::start(&[]);
    let one = started(&server).await;
    let two = started(&server).await;
    let (id, session) = one.create(data("ann")).await.unwrap().into_parts();
    let mut call = provider_call(&one, &id, &session);
    (&mut call.made).await.unwrap();
    one.store.remove(&lease_key(session.handle)).await.unwrap();
    let there = two.find(&id).await.unwrap();
    let same = two.refresh(&id, &there, never).await.unwrap();
    assert_eq!(same.version, there.version);
    assert!(matches!(two.rotate(&id, &there).await, Err(StoreError::Refused(_))));
    call.answer.send(Ok(2)).unwrap();
    let renewed = call.renewal.await.unwrap().unwrap();
    assert_eq!(token(&renewed.data), "refresh token 2");
    eventually("the other process has the new grant", || async {
        two.find(&id).await.unwrap().version == renewed.version
    })
    .await;
    assert!(one.read(&id).await.unwrap().unwrap().opened.header.renewal_claims.is_empty());
    two.rotate(&id, &renewed).await.unwrap().into_parts();
}

#[tokio::test]
async fn renewed_grant_follows_a_rotated_session_to_its_new_id() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let mut call = provider_call(&sessions, &id, &session);
    (&mut call.made).await.unwrap();
    sessions.store.remove(&lease_key(session.handle)).await.unwrap();
    let (next, rotated) = sessions.rotate(&id, &session).await.unwrap().into_parts();
    assert_eq!(token(&rotated.data), token(&session.data));
    call.answer.send(Ok(2)).unwrap();
    call.renewal.await.unwrap().unwrap();
    sessions.cache.forget_changed([rotated.handle]);
    assert_eq!(token(&sessions.find(&next).await.unwrap().data), "refresh token 2");
    assert!(sessions.find(&id).await.unwrap().data.grant.is_none());
}

#[tokio::test]
async fn late_write_of_a_renewal_does_not_extend_an_unused_session() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let mut call = provider_call(&sessions, &id, &session);
    (&mut call.made).await.unwrap();
    let claimed_at = unix_millis() - millis(Duration::from_secs(31 * 60));
    change(&sessions, &id, |opened| {
        opened.header.summary.used_at = claimed_at;
        opened.header.renewal_claims[0].renewing_since = claimed_at;
    })
    .await;
    call.answer.send(Ok(2)).unwrap();
    assert!(matches!(call.renewal.await.unwrap(), Err(SessionError::Expired)));
    assert!(matches!(sessions.find(&id).await, Err(SessionError::Expired)));
}

#[tokio::test]
async fn refused_grant_ends_no_session_if_another_process_may_hold_a_newer_one() {
    let minute = Duration::from_secs(60);
    let sessions = memory();
    // another process wrote a newer grant meanwhile
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let mut call = provider_call(&sessions, &id, &session);
    (&mut call.made).await.unwrap();
    change(&sessions, &id, |opened| opened.data = renewed(opened.data.clone(), 7)).await;
    call.answer.send(Err(RefreshError::Ended("spent".to_owned()))).unwrap();
    let theirs = call.renewal.await.unwrap().unwrap();
    assert_eq!(token(&theirs.data), "refresh token 7");
    // another process claimed the session two or eleven minutes ago
    for (ago, ends) in [(minute * 2, false), (minute * 11, true)] {
        let (id, session) = sessions.create(data("bob")).await.unwrap().into_parts();
        change(&sessions, &id, |opened| {
            opened.header.renewal_claims.push(claim_of("another", ago))
        })
        .await;
        let call = provider_call(&sessions, &id, &session);
        call.answer.send(Err(RefreshError::Ended("spent".to_owned()))).unwrap();
        let outcome = call.renewal.await.unwrap();
        assert_eq!(matches!(outcome, Err(SessionError::Revoked)), ends, "{outcome:?}");
        assert_eq!(sessions.find(&id).await.is_err(), ends);
        if !ends {
            let claims = sessions.read(&id).await.unwrap().unwrap().opened.header.renewal_claims;
            assert_eq!(claims.len(), 1, "its own claim is released: {claims:?}");
            assert!(sessions.refresh(&id, &session, never).await.is_ok(), "renewals pause");
        }
    }
    // an answer for another subject ends the session at once
    let (id, session) = sessions.create(data("eve")).await.unwrap().into_parts();
    change(&sessions, &id, |opened| {
        opened.header.renewal_claims.push(claim_of("another", minute * 2))
    })
    .await;
    let call = provider_call(&sessions, &id, &session);
    call.answer.send(Err(RefreshError::Foreign("mallory".to_owned()))).unwrap();
    assert!(matches!(call.renewal.await.unwrap(), Err(SessionError::Revoked)));
}

#[tokio::test]
async fn renewals_wait_after_a_reconnect_for_unwritten_grants() {
    let mut server = Server::start(&["--appendonly", "yes"]);
    let one = started(&server).await;
    let two = started(&server).await;
    let (id, session) = one.create(data("ann")).await.unwrap().into_parts();
    let mut call = provider_call(&one, &id, &session);
    (&mut call.made).await.unwrap();
    server.kill();
    call.answer.send(Ok(2)).unwrap();
    assert!(matches!(call.renewal.await.unwrap(), Err(SessionError::Unavailable(_))));
    server.run();
    eventually("Redis answers again", || async { two.find(&id).await.is_ok() }).await;
    // the lease is gone, as after a long outage
    server.query::<i64>(&[b"DEL", format!("cedargate:test:{}", lease_key(session.handle)).as_bytes()]);
    let back = Instant::now();
    let there = two.find(&id).await.unwrap();
    assert!(two.refresh(&id, &there, never).await.is_ok());
    one.renewals.idle().await;
    eventually("the other process has the new grant", || async {
        token(&two.find(&id).await.unwrap().data) == "refresh token 2"
    })
    .await;
    eventually("renewals start again", || async {
        let there = two.find(&id).await.unwrap();
        let next = two.refresh(&id, &there, |data| async { Ok(renewed(data, 3)) }).await.unwrap();
        token(&next.data) == "refresh token 3"
    })
    .await;
    assert!(back.elapsed() > Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test]
async fn full_store_stops_the_provider_call_and_a_grant_is_written_once_there_is_room() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
    let mut call = provider_call(&gate, &id, &session);
    (&mut call.made).await.unwrap();
    server.query::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    call.answer.send(Ok(2)).unwrap();
    let result = call.renewal.await.unwrap();
    assert!(
        matches!(&result, Err(SessionError::Unavailable(StoreError::Refused(why))) if why.contains("OOM")),
        "{result:?}"
    );
    server.query::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    gate.renewals.idle().await;
    assert_eq!(token(&gate.find(&id).await.unwrap().data), "refresh token 2");
    server.query::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let now = gate.find(&id).await.unwrap();
    assert_eq!(gate.refresh(&id, &now, never).await.unwrap().version, now.version);
}

#[tokio::test]
async fn renewed_session_is_not_renewed_again_until_it_is_due() {
    let server = Server::start(&[]);
    let one = started(&server).await;
    let two = started(&server).await;
    let (id, session) = one.create(data("ann")).await.unwrap().into_parts();
    let later = unix_millis() + 3_600_000;
    let renew = |n| {
        move |data| async move {
            let mut data = renewed(data, n);
            data.grant.as_mut().unwrap().refresh_at = Some(later);
            Ok(data)
        }
    };
    let first = one.refresh(&id, &session, renew(1)).await.unwrap();
    assert_eq!(token(&first.data), "refresh token 1");
    let lease = one.try_lease(session.handle).await.unwrap();
    assert!(lease.is_some(), "the lease is released before the result is sent");
    one.release_lease(&lease.unwrap()).await;
    for gate in [&one, &two] {
        eventually("known", || async { gate.find(&id).await.unwrap().version == first.version }).await;
        let known = gate.find(&id).await.unwrap();
        assert_eq!(gate.refresh(&id, &known, never).await.unwrap().version, first.version);
    }
    change(&one, &id, |opened| {
        opened.header.renewed_at = opened.header.renewed_at.map(|at| at - 10_001);
    })
    .await;
    let second = two.refresh(&id, &first, renew(2)).await.unwrap();
    assert_eq!(token(&second.data), "refresh token 2");
    // due again, even within the pause
    change(&one, &id, |opened| opened.data.grant.as_mut().unwrap().refresh_at = Some(0)).await;
    let due = one.find(&id).await.unwrap();
    let third = one.refresh(&id, &due, renew(3)).await.unwrap();
    assert_eq!(token(&third.data), "refresh token 3");
}

#[tokio::test]
async fn lease_is_removed_if_the_stores_answer_is_lost() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (_, session) = gate.create(data("ann")).await.unwrap().into_parts();
    // Redis holds the command back and carries it out after the gate's timeout
    server.query::<()>(&[b"CLIENT", b"PAUSE", b"1500", b"ALL"]);
    assert!(gate.try_lease(session.handle).await.is_err());
    let again = async {
        while !matches!(gate.try_lease(session.handle).await, Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
}

#[tokio::test]
async fn two_processes_renew_a_session_once_and_both_see_it() {
    let server = Server::start(&[]);
    let one = started(&server).await;
    let two = started(&server).await;
    let (id, session) = one.create(data("ann")).await.unwrap().into_parts();
    let calls = Arc::new(AtomicUsize::new(0));
    let renewals: Vec<_> = (0..20)
        .map(|n| {
            let sessions = Arc::clone(if n % 2 == 0 { &one } else { &two });
            let calls = Arc::clone(&calls);
            let id = id.clone();
            tokio::spawn(async move {
                let session = sessions.find(&id).await.unwrap();
                let call = move |mut data: SessionData| async move {
                    calls.fetch_add(1, Ordering::AcqRel);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    data.claims = Arc::new(json!({"sub": "ann", "n": 2}).as_object().cloned().unwrap());
                    Ok(data)
                };
                sessions.refresh(&id, &session, call).await.unwrap()
            })
        })
        .collect();
    for renewal in renewals {
        assert_eq!(renewal.await.unwrap().data.claims["n"], json!(2));
    }
    assert_eq!(calls.load(Ordering::Acquire), 1);
    assert_ne!(one.find(&id).await.unwrap().version, session.version);
    assert_eq!(two.find(&id).await.unwrap().version, one.find(&id).await.unwrap().version);
}

#[tokio::test]
async fn lease_of_a_dead_process_is_taken_over_and_a_failed_renewal_pauses_all_processes() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
    let lease = gate.try_lease(session.handle).await.unwrap().unwrap();
    let key = format!("cedargate:test:lease:{{{}}}", session.handle.to_hex());
    assert!(server.query::<i64>(&[b"PTTL", key.as_bytes()]) > 25_000);
    // the holder is gone, and most of the lease's time has passed
    server.query::<()>(&[b"PEXPIRE", key.as_bytes(), b"700"]);
    drop(lease);
    let renew = |data: SessionData| async move {
        let claims = json!({"n": 3}).as_object().cloned().unwrap();
        Ok(SessionData {
            claims: Arc::new(claims),
            ..data
        })
    };
    let renewed = gate.refresh(&id, &session, renew).await.unwrap();
    assert_eq!(renewed.data.claims["n"], json!(3));
    let fail = |_| async { Err(RefreshError::Temporary("no answer".to_owned())) };
    let same = gate.refresh(&id, &renewed, fail).await.unwrap();
    assert_eq!(same.version, renewed.version);
    let other = started(&server).await;
    let session = other.find(&id).await.unwrap();
    let began = Instant::now();
    let never = |data: SessionData| async move { panic!("the provider was called for {}", data.subject) };
    assert_eq!(other.refresh(&id, &session, never).await.unwrap().version, renewed.version);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn renewed_grant_is_written_once_the_store_answers_again() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
    let (called, mut is_called) = tokio::sync::watch::channel(false);
    let (answer, answered) = tokio::sync::oneshot::channel::<()>();
    let call = move |data: SessionData| async move {
        called.send_replace(true);
        answered.await.unwrap();
        let claims = json!({"n": 4}).as_object().cloned().unwrap();
        Ok(SessionData {
            claims: Arc::new(claims),
            ..data
        })
    };
    let renewal = tokio::spawn({
        let sessions = Arc::clone(&gate);
        let id = id.clone();
        async move { sessions.refresh(&id, &session, call).await }
    });
    is_called.wait_for(|is_called| *is_called).await.unwrap();
    server.signal("-STOP");
    answer.send(()).unwrap();
    assert!(matches!(renewal.await.unwrap(), Err(SessionError::Unavailable(_))));
    server.signal("-CONT");
    eventually("written", || async {
        gate.find(&id)
            .await
            .is_ok_and(|found| found.data.claims.get("n") == Some(&json!(4)))
    })
    .await;
    gate.renewals.idle().await;
}
