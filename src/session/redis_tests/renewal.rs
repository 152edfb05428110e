//! A grant that may be spent: whoever asked and went silent keeps it, and its value wins.

use std::sync::atomic::AtomicBool;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::renewal::lease::lease_key;
use super::super::revocations::log::millis;
use super::super::seal::{Asked, Opened};
use super::super::store::Swap;
use super::*;
use crate::types::Redacted;

fn memory() -> Arc<Sessions> {
    sessions(&config("sessions: {idle_timeout: 30m, absolute_timeout: 12h}\n"))
}

/// As a provider that rotates gives it.
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

async fn change(sessions: &Sessions, id: &SessionId, change: impl FnOnce(&mut Opened)) {
    let mut read = sessions.read(id).await.unwrap().unwrap();
    change(&mut read.opened);
    let swapped = sessions.swap_card(id, &read.raw, &read.opened).await.unwrap();
    assert_eq!(swapped, Swap::Done);
    sessions.cache.hear([Seal::handle(id)]);
}

fn asked(by: &str, ago: Duration) -> Asked {
    Asked {
        renewing_since: unix_millis() - millis(ago),
        by: by.to_owned(),
    }
}

/// A call that says when it is made, and answers when told.
struct Call {
    made: tokio::sync::oneshot::Receiver<()>,
    answer: tokio::sync::oneshot::Sender<Result<usize, RefreshError>>,
    asking: tokio::task::JoinHandle<Result<Arc<Session>, SessionError>>,
}

fn call(sessions: &Arc<Sessions>, id: &SessionId, session: &Arc<Session>) -> Call {
    let (say, made) = tokio::sync::oneshot::channel();
    let (answer, told) = tokio::sync::oneshot::channel::<Result<usize, RefreshError>>();
    let (sessions, id, session) = (Arc::clone(sessions), id.clone(), Arc::clone(session));
    let asking = tokio::spawn(async move {
        let call = |data| async move {
            say.send(()).unwrap();
            told.await.unwrap().map(|n| renewed(data, n))
        };
        sessions.refresh(&id, &session, call).await
    });
    Call { made, answer, asking }
}

async fn never(data: SessionData) -> Result<SessionData, RefreshError> {
    panic!("asked for {}", data.subject)
}

#[tokio::test]
async fn a_process_that_asked_and_lost_its_lease_is_left_alone_and_its_value_wins() {
    let server = Server::start(&[]);
    let (one, two) = (started(&server).await, started(&server).await);
    let (id, session) = one.create(data("ann")).await.unwrap();
    let mut asking = call(&one, &id, &session);
    (&mut asking.made).await.unwrap();
    one.store.remove(&lease_key(session.handle)).await.unwrap();
    let there = two.find(&id).await.unwrap();
    let same = two.refresh(&id, &there, never).await.unwrap();
    assert_eq!(same.version, there.version);
    assert!(matches!(two.rotate(&id, &there).await, Err(StoreError::Refused(_))));
    asking.answer.send(Ok(2)).unwrap();
    let renewed = asking.asking.await.unwrap().unwrap();
    assert_eq!(token(&renewed.data), "refresh token 2");
    eventually("the other one has it", || async {
        two.find(&id).await.unwrap().version == renewed.version
    })
    .await;
    assert!(one.read(&id).await.unwrap().unwrap().opened.card.asked.is_empty());
    two.rotate(&id, &renewed).await.unwrap();
}

#[tokio::test]
async fn a_renewed_grant_follows_the_session_to_its_new_id() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap();
    let mut asking = call(&sessions, &id, &session);
    (&mut asking.made).await.unwrap();
    sessions.store.remove(&lease_key(session.handle)).await.unwrap();
    let (next, rotated) = sessions.rotate(&id, &session).await.unwrap();
    assert_eq!(token(&rotated.data), token(&session.data));
    asking.answer.send(Ok(2)).unwrap();
    asking.asking.await.unwrap().unwrap();
    sessions.cache.hear([rotated.handle]);
    assert_eq!(token(&sessions.find(&next).await.unwrap().data), "refresh token 2");
    assert!(sessions.find(&id).await.unwrap().data.grant.is_none());
}

#[tokio::test]
async fn a_renewal_that_is_written_late_keeps_no_session_alive_that_nobody_used() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap();
    let mut asking = call(&sessions, &id, &session);
    (&mut asking.made).await.unwrap();
    let asked_at = unix_millis() - millis(Duration::from_secs(31 * 60));
    change(&sessions, &id, |opened| {
        opened.card.card.used_at = asked_at;
        opened.card.asked[0].renewing_since = asked_at;
    })
    .await;
    asking.answer.send(Ok(2)).unwrap();
    assert!(matches!(asking.asking.await.unwrap(), Err(SessionError::Expired)));
    assert!(matches!(sessions.find(&id).await, Err(SessionError::Expired)));
}

#[tokio::test]
async fn a_refused_grant_ends_no_session_of_which_somebody_else_may_have_a_newer_one() {
    let (minute, sessions) = (Duration::from_secs(60), memory());
    // somebody else wrote a newer one meanwhile
    let (id, session) = sessions.create(data("ann")).await.unwrap();
    let mut asking = call(&sessions, &id, &session);
    (&mut asking.made).await.unwrap();
    change(&sessions, &id, |opened| opened.data = renewed(opened.data.clone(), 7)).await;
    asking.answer.send(Err(RefreshError::Ended("spent".to_owned()))).unwrap();
    let theirs = asking.asking.await.unwrap().unwrap();
    assert_eq!(token(&theirs.data), "refresh token 7");
    // somebody else asked a while ago, or long ago
    for (ago, ends) in [(minute * 2, false), (minute * 11, true)] {
        let (id, session) = sessions.create(data("bob")).await.unwrap();
        change(&sessions, &id, |opened| opened.card.asked.push(asked("another", ago))).await;
        let asking = call(&sessions, &id, &session);
        asking.answer.send(Err(RefreshError::Ended("spent".to_owned()))).unwrap();
        let outcome = asking.asking.await.unwrap();
        assert_eq!(matches!(outcome, Err(SessionError::Revoked)), ends, "{outcome:?}");
        assert_eq!(sessions.find(&id).await.is_err(), ends);
        if !ends {
            let signed = sessions.read(&id).await.unwrap().unwrap().opened.card.asked;
            assert_eq!(signed.len(), 1, "its own is withdrawn: {signed:?}");
            assert!(sessions.refresh(&id, &session, never).await.is_ok(), "not at once again");
        }
    }
    // a provider that speaks of somebody else is believed at once
    let (id, session) = sessions.create(data("eve")).await.unwrap();
    change(&sessions, &id, |opened| opened.card.asked.push(asked("another", minute * 2))).await;
    let asking = call(&sessions, &id, &session);
    asking.answer.send(Err(RefreshError::Foreign("mallory".to_owned()))).unwrap();
    assert!(matches!(asking.asking.await.unwrap(), Err(SessionError::Revoked)));
}

#[tokio::test]
async fn nobody_renews_anything_until_those_who_hold_values_had_time_to_write_them() {
    let mut server = Server::start(&["--appendonly", "yes"]);
    let (one, two) = (started(&server).await, started(&server).await);
    let (id, session) = one.create(data("ann")).await.unwrap();
    let mut asking = call(&one, &id, &session);
    (&mut asking.made).await.unwrap();
    server.kill();
    asking.answer.send(Ok(2)).unwrap();
    assert!(matches!(asking.asking.await.unwrap(), Err(SessionError::Unavailable(_))));
    server.run();
    eventually("there again", || async { two.find(&id).await.is_ok() }).await;
    // as if it had been away for longer than anybody waits
    server.ask::<i64>(&[b"DEL", format!("cedargate:test:{}", lease_key(session.handle)).as_bytes()]);
    let back = Instant::now();
    let there = two.find(&id).await.unwrap();
    assert!(two.refresh(&id, &there, never).await.is_ok());
    one.flights.landed().await;
    eventually("the other one has it", || async {
        token(&two.find(&id).await.unwrap().data) == "refresh token 2"
    })
    .await;
    eventually("renewals go on", || async {
        let there = two.find(&id).await.unwrap();
        let next = two.refresh(&id, &there, |data| async { Ok(renewed(data, 3)) }).await.unwrap();
        token(&next.data) == "refresh token 3"
    })
    .await;
    assert!(back.elapsed() > Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_full_store_is_asked_before_the_provider_and_a_value_is_kept_until_it_has_room() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap();
    let mut asking = call(&gate, &id, &session);
    (&mut asking.made).await.unwrap();
    server.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    asking.answer.send(Ok(2)).unwrap();
    let told = asking.asking.await.unwrap();
    assert!(
        matches!(&told, Err(SessionError::Unavailable(StoreError::Refused(why))) if why.contains("OOM")),
        "{told:?}"
    );
    server.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    gate.flights.landed().await;
    assert_eq!(token(&gate.find(&id).await.unwrap().data), "refresh token 2");
    server.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let now = gate.find(&id).await.unwrap();
    assert_eq!(gate.refresh(&id, &now, never).await.unwrap().version, now.version);
}

#[tokio::test]
async fn who_hears_of_a_renewal_may_ask_again_and_gets_nothing_new_until_it_is_due() {
    let server = Server::start(&[]);
    let (one, two) = (started(&server).await, started(&server).await);
    let (id, session) = one.create(data("ann")).await.unwrap();
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
    let lease = one.lease(session.handle).await.unwrap();
    assert!(lease.is_some(), "given back before anybody is told");
    one.release(session.handle, &lease.unwrap()).await;
    for gate in [&one, &two] {
        eventually("known", || async { gate.find(&id).await.unwrap().version == first.version }).await;
        let known = gate.find(&id).await.unwrap();
        assert_eq!(gate.refresh(&id, &known, never).await.unwrap().version, first.version);
    }
    change(&one, &id, |opened| {
        opened.card.renewed_at = opened.card.renewed_at.map(|at| at - 10_001);
    })
    .await;
    let second = two.refresh(&id, &first, renew(2)).await.unwrap();
    assert_eq!(token(&second.data), "refresh token 2");
    // due again, however short it lasted
    change(&one, &id, |opened| opened.data.grant.as_mut().unwrap().refresh_at = Some(0)).await;
    let due = one.find(&id).await.unwrap();
    let third = one.refresh(&id, &due, renew(3)).await.unwrap();
    assert_eq!(token(&third.data), "refresh token 3");
}

/// In front of Redis: once armed, the answers after the next script are lost with their connection.
async fn lossy(server: &Server) -> (Server, Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = Server {
        child: None,
        port: listener.local_addr().unwrap().port(),
        folder: tempfile::tempdir().unwrap(),
        options: Vec::new(),
    };
    let (armed, behind) = (Arc::new(AtomicBool::new(false)), server.port);
    let told = Arc::clone(&armed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let redis = tokio::net::TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
            let ((mut asks, mut hears), (mut answers, mut does)) = (client.into_split(), redis.into_split());
            let (armed, muted) = (Arc::clone(&told), Arc::new(AtomicBool::new(false)));
            let mute = Arc::clone(&muted);
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = asks.read(&mut buffer).await {
                    if buffer[..read].windows(4).any(|word| word == b"EVAL") && armed.swap(false, Ordering::AcqRel) {
                        mute.store(true, Ordering::Release);
                    }
                    does.write_all(&buffer[..read]).await.unwrap();
                }
            });
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = answers.read(&mut buffer).await {
                    if !muted.load(Ordering::Acquire) && hears.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (through, armed)
}

#[tokio::test]
async fn a_rotation_whose_answer_the_store_lost_took_place_or_did_not() {
    let server = Server::start(&[]);
    let (through, armed) = lossy(&server).await;
    let gate = started(&through).await;
    let (id, session) = gate.create(data("ann")).await.unwrap();
    armed.store(true, Ordering::Release);
    let (new, second) = gate.rotate(&id, &session).await.unwrap();
    assert!(!armed.load(Ordering::Acquire), "an answer was lost");
    gate.is_up().await;
    assert_eq!(gate.find(&id).await.unwrap().next, Some(new.clone()));
    assert_eq!(gate.find(&new).await.unwrap().handle, second.handle);
    assert_eq!(gate.list(10).await.unwrap().cards.len(), 1);
}

#[tokio::test]
async fn a_lease_whose_answer_was_lost_is_given_back() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (_, session) = gate.create(data("ann")).await.unwrap();
    // held back and carried out later, when nobody waits for the answer any more
    server.ask::<()>(&[b"CLIENT", b"PAUSE", b"1500", b"ALL"]);
    assert!(gate.lease(session.handle).await.is_err());
    let again = async {
        while !matches!(gate.lease(session.handle).await, Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
}
