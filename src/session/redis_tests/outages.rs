//! A Redis that is absent, hangs, or restarts.

use super::*;

#[tokio::test]
async fn gate_starts_without_redis_and_sessions_are_unavailable() {
    let mut server = Server::start(&[]);
    server.kill();
    let gate = start(&server, "");
    let id = operations::random_id().unwrap();
    assert!(matches!(gate.find(&id).await, Err(SessionError::Unavailable(_))));
    assert!(matches!(gate.create(data("ann")).await, Err(StoreError::Unreachable(_))));
    assert!(gate.check_identity_of("ann").is_ok());
    eventually("the status has an error", || async {
        gate.status().last_error.is_some() && !gate.status().reachable
    })
    .await;
    server.run();
    let late = eventually("connected", || async { gate.status().reachable }).await;
    assert!(late < Duration::from_secs(2), "{late:?}");
    assert!(matches!(gate.find(&id).await, Err(SessionError::Missing)));
}

#[tokio::test]
async fn hanging_redis_makes_sessions_unavailable_in_time_and_ends_none() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, _) = gate.create(data("ann")).await.unwrap().into_parts();
    server.signal("-STOP");
    let unknown = operations::random_id().unwrap();
    let began = Instant::now();
    assert!(matches!(gate.find(&unknown).await, Err(SessionError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // cached sessions work until the revocation log is stale, and no longer
    eventually("too old", || async {
        match gate.try_find(&id) {
            Some(Ok(_)) => false,
            Some(Err(SessionError::Unavailable(_))) => true,
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert!(gate.revocation_log.age() > Duration::from_secs(1));
    assert!(gate.create(data("bob")).await.is_err());
    server.signal("-CONT");
    let late = eventually("back", || async { gate.find(&id).await.is_ok() }).await;
    assert!(late < Duration::from_secs(3), "{late:?}");
}

#[tokio::test]
async fn gate_reconnects_to_a_restarted_redis_and_finds_the_kept_sessions() {
    for (options, kept) in [
        (&["--appendonly", "yes", "--appendfsync", "always"][..], true),
        (&[][..], false),
    ] {
        let mut server = Server::start(options);
        let gate = started(&server).await;
        let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
        let (other, _) = gate.create(data("bob")).await.unwrap().into_parts();
        gate.end(&session).await.unwrap();
        server.kill();
        eventually("noticed", || async { !gate.status().reachable }).await;
        assert!(!matches!(gate.find(&other).await, Err(SessionError::Missing)));
        server.run();
        let late = eventually("connected", || async { gate.status().reachable }).await;
        assert!(late < Duration::from_millis(1500), "{late:?}");
        let found = gate.find(&other).await;
        assert_eq!(found.is_ok(), kept, "{found:?}");
        assert!(kept || matches!(found, Err(SessionError::Missing)));
        // revoked sessions stay revoked, also for a replica that starts later
        assert!(matches!(gate.find(&id).await, Err(SessionError::Revoked)));
        let later = started(&server).await;
        assert!(matches!(later.find(&id).await, Err(SessionError::Revoked)));
    }
}

#[tokio::test]
async fn unreachable_store_is_logged_once_and_has_no_feed_age() {
    let buffer = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let _guard = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(LogBuffer(Arc::clone(&buffer)))
            .finish(),
    );
    let mut server = Server::start(&[]);
    let file = server.folder.path().join("password");
    std::fs::create_dir(&file).unwrap();
    let gate = start(
        &server,
        &format!("    username: gate\n    password_file: {}\n", file.display()),
    );
    eventually("tried", || async {
        gate.status().last_error.is_some_and(|why| why.contains("/password`"))
    })
    .await;
    let status = gate.status();
    assert!(!status.reachable && status.feed_age.is_none());
    let log = || String::from_utf8(buffer.lock().clone()).unwrap();
    let deadline = Instant::now() + Duration::from_millis(300);
    eventually("some tries later", || async { Instant::now() > deadline }).await;
    assert_eq!(log().matches("WARN").count(), 1, "{}", log());
    assert!(log().contains("/password`"), "{}", log());
    server.kill();
    let gate = start(&server, "");
    eventually("tried", || async {
        gate.status().last_error.is_some_and(|why| why.contains("refused"))
    })
    .await;
    let error = gate.create(data("ann")).await.unwrap_err().to_string();
    assert_eq!(error.matches("cannot be reached").count(), 1, "{error}");
}

#[tokio::test]
async fn demand_that_may_come_only_once_holds_at_once_and_reaches_redis_later() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let told = started(&server).await;
    let other = started(&server).await;
    let began = unix_millis();
    let (id, _) = told.create(data("ann")).await.unwrap().into_parts();
    let (late, _) = told.create(data("bob")).await.unwrap().into_parts();
    let what = |subject: &str| Revocation::Subject {
        issuer: "corp".to_owned(),
        subject: subject.to_owned(),
    };
    server.kill();
    eventually("noticed", || async { !told.status().reachable }).await;
    assert!(told.revoke_until_stored(&[what("ann")], unix_millis()).await.is_err());
    assert!(told.revoke_until_stored(&[what("bob")], began - 1).await.is_err());
    assert!(matches!(told.try_find(&id), Some(Err(SessionError::Revoked))));
    server.run();
    eventually("the other gate knows", || async {
        matches!(other.find(&id).await, Err(SessionError::Revoked))
    })
    .await;
    assert!(other.find(&late).await.is_ok(), "it began after the time of the demand");
}
