//! Several gates over one Redis: sessions, logouts, and writes that wait for a replica of Redis.

use super::*;

#[tokio::test]
async fn session_of_one_replica_is_served_by_another_and_a_logout_ends_it_in_both() {
    let server = Server::start(&[]);
    let one = started(&server).await;
    let two = started(&server).await;
    let (id, session) = one.create(data("ann")).await.unwrap().into_parts();
    let found = two.find(&id).await.unwrap();
    assert_eq!(found.version, session.version);
    assert!(two.try_find(&id).unwrap().is_ok());
    assert_eq!(one.end(&session).await.unwrap().replicated, None);
    let late = eventually("ended", || async {
        matches!(two.try_find(&id), Some(Err(SessionError::Revoked)))
    })
    .await;
    assert!(late < Duration::from_secs(1), "{late:?}");
    let (id, _) = two.create(data("bob")).await.unwrap().into_parts();
    assert!(one.find(&id).await.is_ok());
    two.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap();
    let late = eventually("revoked", || async {
        matches!(one.try_find(&id), Some(Err(SessionError::Revoked)))
    })
    .await;
    assert!(late < Duration::from_secs(1), "{late:?}");
    // a replica that starts later knows the revocation as well
    let three = started(&server).await;
    assert!(matches!(three.find(&id).await, Err(SessionError::Revoked)));
    let listed = three.list(10).await.unwrap();
    assert!(listed.summaries.is_empty() && listed.unreadable == 0, "{listed:?}");
    let (old, first) = one
        .create(SessionData {
            created_at: unix_millis() + 5,
            ..data("cid")
        })
        .await
        .unwrap()
        .into_parts();
    two.find(&old).await.unwrap();
    let (new, _) = one.rotate(&old, &first).await.unwrap().into_parts();
    eventually("the change is read", || async {
        two.find(&old).await.is_ok_and(|old| old.data.grant.is_none())
    })
    .await;
    assert!(two.find(&new).await.unwrap().data.grant.is_some());
}

#[tokio::test]
async fn redis_keeps_a_value_for_twice_the_idle_timeout() {
    let server = Server::start(&[]);
    let gate = start(&server, "  idle_timeout: 1s\n  absolute_timeout: 1m\n");
    gate.is_up().await;
    let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
    let stored = gate.stored(&session);
    let left: i64 = server.query(&[b"PTTL", stored.as_bytes()]);
    assert!((1500..=2000).contains(&left), "{left}");
    eventually("not used for so long", || async {
        gate.list(10).await.unwrap().summaries.is_empty()
    })
    .await;
    assert_eq!(server.query::<i64>(&[b"EXISTS", stored.as_bytes()]), 1);
    gate.cache.flush();
    assert!(matches!(gate.find(&id).await, Err(SessionError::Expired)));
    // but not beyond the absolute timeout
    let other = start(&server, "  idle_timeout: 50s\n  absolute_timeout: 1m\n");
    other.is_up().await;
    let (_, session) = other.create(data("bob")).await.unwrap().into_parts();
    let left: i64 = server.query(&[b"PTTL", other.stored(&session).as_bytes()]);
    assert!((50_000..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn creation_and_revocation_wait_for_a_replica_if_there_is_one() {
    let server = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    let gate = started(&server).await;
    eventually("replica seen", || async {
        gate.revoke(Revocation::Tenant("x".to_owned())).await.unwrap().replicated == Some(true)
    })
    .await;
    let (_, session) = gate.create(data("ann")).await.unwrap().into_parts();
    assert_eq!(replica.query::<i64>(&[b"EXISTS", gate.stored(&session).as_bytes()]), 1);
    replica.signal("-STOP");
    let began = Instant::now();
    gate.create(data("bob")).await.unwrap().into_parts();
    assert_eq!(gate.end(&session).await.unwrap().replicated, Some(false));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    replica.signal("-CONT");
    eventually("confirmed again", || async {
        gate.revoke(Revocation::Tenant("y".to_owned())).await.unwrap().replicated == Some(true)
    })
    .await;
}
