//! Sessions over a real Redis, which is stopped, killed, emptied and tampered with.

mod renewal;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::tests::{config, data, sessions};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server of this test's own.
struct Server {
    child: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut server = Self {
            child: None,
            port,
            folder: tempfile::tempdir().unwrap(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        server.run();
        server
    }

    fn run(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(self.folder.path()).args(&self.options);
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while self.client().get_connection().is_err() {
            assert!(Instant::now() < deadline, "redis-server does not start");
            std::thread::yield_now();
        }
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn client(&self) -> ::redis::Client {
        ::redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap()
    }

    fn ask<T: ::redis::FromRedisValue>(&self, command: &[&[u8]]) -> T {
        let mut cmd = ::redis::Cmd::new();
        for part in command {
            cmd.arg(*part);
        }
        cmd.query(&mut self.client().get_connection().unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal("-CONT");
            self.kill();
        }
    }
}

/// One process' worth of sessions, running.
struct Gate {
    sessions: Arc<Sessions>,
    stop: CancellationToken,
}

impl std::ops::Deref for Gate {
    type Target = Arc<Sessions>;

    fn deref(&self) -> &Arc<Sessions> {
        &self.sessions
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start(server: &Server, more: &str) -> Gate {
    let keys = server.folder.path().join("keys");
    std::fs::write(&keys, STANDARD.encode([7; 32])).unwrap();
    let yaml = format!(
        "sessions:\n  store: redis\n  key_file: {}\n  redis:\n    url: \"redis://127.0.0.1:{}\"\n    key_prefix: \"cedargate:test:\"\n{more}",
        keys.display(),
        server.port
    );
    let sessions = sessions(&config(&yaml));
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&sessions).run(stop.clone()));
    Gate { sessions, stop }
}

async fn started(server: &Server) -> Gate {
    let gate = start(server, "");
    gate.is_up().await;
    gate
}

impl Gate {
    async fn is_up(&self) {
        eventually("connected and fresh", || async { self.status().reachable && self.is_fresh() }).await;
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) -> Duration {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn a_session_of_one_replica_is_served_by_another_and_a_logout_holds_in_both() {
    let server = Server::start(&[]);
    let (one, two) = (started(&server).await, started(&server).await);
    let (id, session) = one.create(data("ann")).await.unwrap();
    let found = two.find(&id).await.unwrap();
    assert_eq!(found.version, session.version);
    assert!(two.try_find(&id).unwrap().is_ok());
    assert_eq!(one.end(&session).await.unwrap().replicated, None);
    let late = eventually("ended", || async {
        matches!(two.try_find(&id), Some(Err(SessionError::Revoked)))
    })
    .await;
    assert!(late < Duration::from_secs(1), "{late:?}");
    let (id, _) = two.create(data("bob")).await.unwrap();
    assert!(one.find(&id).await.is_ok());
    two.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap();
    let late = eventually("revoked", || async {
        matches!(one.try_find(&id), Some(Err(SessionError::Revoked)))
    })
    .await;
    assert!(late < Duration::from_secs(1), "{late:?}");
    // one that starts later knows of it as well
    let three = started(&server).await;
    assert!(matches!(three.find(&id).await, Err(SessionError::Revoked)));
    let listed = three.list(10).await.unwrap();
    assert!(listed.cards.is_empty() && listed.unreadable == 0, "{listed:?}");
    let (old, first) = one
        .create(SessionData {
            created_at: unix_millis() + 5,
            ..data("cid")
        })
        .await
        .unwrap();
    two.find(&old).await.unwrap();
    let (new, _) = one.rotate(&old, &first).await.unwrap();
    eventually("change heard", || async {
        two.find(&old).await.is_ok_and(|old| old.data.grant.is_none())
    })
    .await;
    assert!(two.find(&new).await.unwrap().data.grant.is_some());
}

#[tokio::test]
async fn redis_keeps_a_value_longer_than_the_session_is_good_for() {
    let server = Server::start(&[]);
    let gate = start(&server, "  idle_timeout: 1s\n  absolute_timeout: 1m\n");
    gate.is_up().await;
    let (id, session) = gate.create(data("ann")).await.unwrap();
    let stored = gate.stored(&session);
    let left: i64 = server.ask(&[b"PTTL", stored.as_bytes()]);
    assert!((1500..=2000).contains(&left), "{left}");
    eventually("not used for so long", || async {
        gate.list(10).await.unwrap().cards.is_empty()
    })
    .await;
    assert_eq!(server.ask::<i64>(&[b"EXISTS", stored.as_bytes()]), 1);
    gate.cache.flush();
    assert!(matches!(gate.find(&id).await, Err(SessionError::Expired)));
    // but not beyond its end
    let other = start(&server, "  idle_timeout: 50s\n  absolute_timeout: 1m\n");
    other.is_up().await;
    let (_, session) = other.create(data("bob")).await.unwrap();
    let left: i64 = server.ask(&[b"PTTL", other.stored(&session).as_bytes()]);
    assert!((50_000..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn start_up_needs_no_redis_and_without_it_nothing_is_decided() {
    let mut server = Server::start(&[]);
    server.kill();
    let gate = start(&server, "");
    let id = operations::random_id().unwrap();
    assert!(matches!(gate.find(&id).await, Err(SessionError::Unavailable(_))));
    assert!(matches!(gate.create(data("ann")).await, Err(StoreError::Unreachable(_))));
    assert!(gate.check_identity_of("ann").is_ok());
    eventually("says why", || async {
        gate.status().last_error.is_some() && !gate.status().reachable
    })
    .await;
    server.run();
    let late = eventually("connected", || async { gate.status().reachable }).await;
    assert!(late < Duration::from_secs(2), "{late:?}");
    assert!(matches!(gate.find(&id).await, Err(SessionError::Missing)));
}

#[tokio::test]
async fn a_redis_that_hangs_makes_sessions_unavailable_in_time_and_ends_none() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, _) = gate.create(data("ann")).await.unwrap();
    server.signal("-STOP");
    let unknown = operations::random_id().unwrap();
    let began = Instant::now();
    assert!(matches!(gate.find(&unknown).await, Err(SessionError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // known ones go on until the feed is too old, and no longer
    eventually("too old", || async {
        match gate.try_find(&id) {
            Some(Ok(_)) => false,
            Some(Err(SessionError::Unavailable(_))) => true,
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert!(gate.feed.age() > Duration::from_secs(1));
    assert!(gate.create(data("bob")).await.is_err());
    server.signal("-CONT");
    let late = eventually("back", || async { gate.find(&id).await.is_ok() }).await;
    assert!(late < Duration::from_secs(3), "{late:?}");
}

#[tokio::test]
async fn a_killed_redis_is_found_again_and_what_it_kept_is_there() {
    for (options, kept) in [
        (&["--appendonly", "yes", "--appendfsync", "always"][..], true),
        (&[][..], false),
    ] {
        let mut server = Server::start(options);
        let gate = started(&server).await;
        let (id, session) = gate.create(data("ann")).await.unwrap();
        let (other, _) = gate.create(data("bob")).await.unwrap();
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
        // and what was revoked stays revoked, for replicas that come later too
        assert!(matches!(gate.find(&id).await, Err(SessionError::Revoked)));
        let later = started(&server).await;
        assert!(matches!(later.find(&id).await, Err(SessionError::Revoked)));
    }
}

#[tokio::test]
async fn a_feed_that_went_back_is_read_again_and_said_again() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap();
    let value: Vec<u8> = server.ask(&[b"GET", gate.stored(&session).as_bytes()]);
    gate.end(&session).await.unwrap();
    let feed = b"cedargate:test:{feed}:revocations";
    // a failover that lost the end of the feed, read or not, and the removal
    server.ask::<()>(&[b"DEL", feed]);
    server.ask::<()>(&[b"SET", gate.stored(&session).as_bytes(), &value]);
    server.ask::<String>(&[b"XADD", feed, b"*", b"m", b"junk", b"a", b"x"]);
    eventually("said again", || async { server.ask::<usize>(&[b"XLEN", feed]) >= 2 }).await;
    let later = started(&server).await;
    assert!(matches!(later.find(&id).await, Err(SessionError::Revoked)));
}

#[tokio::test]
async fn a_revocation_from_the_future_counts_as_of_now() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, _) = gate.create(data("ann")).await.unwrap();
    let later = |millis| SessionData {
        created_at: unix_millis() + millis,
        ..data("ann")
    };
    let (in_time, _) = gate.create(later(3000)).await.unwrap();
    let (after, _) = gate.create(later(60_000)).await.unwrap();
    let portal = Mark::portal("shop");
    let mark = [&[portal.kind.code()][..], &portal.hash].concat();
    for at in [unix_millis() + 3_600_000, i64::MAX] {
        let (feed, at) = (b"cedargate:test:{feed}:revocations", at.to_string());
        server.ask::<String>(&[b"XADD", feed, b"*", b"m", &mark, b"a", at.as_bytes()]);
    }
    eventually("revoked", || async { gate.find(&id).await.is_err() }).await;
    // one that reads it later sees the same
    let other = started(&server).await;
    for gate in [&gate, &other] {
        assert!(matches!(gate.find(&id).await, Err(SessionError::Revoked)));
        assert!(matches!(gate.find(&in_time).await, Err(SessionError::Revoked)));
        assert!(gate.find(&after).await.is_ok());
    }
}

#[tokio::test]
async fn the_feed_is_trimmed_and_its_old_entries_end_nothing_new() {
    let server = Server::start(&["--stream-node-max-entries", "1"]);
    let gate = started(&server).await;
    let feed = b"cedargate:test:{feed}:revocations";
    for n in 1..=300 {
        let id = format!("{n}-0");
        server.ask::<String>(&[b"XADD", feed, id.as_bytes(), b"m", b"junk", b"a", b"1"]);
    }
    // each takes away a hundred at most
    for _ in 0..4 {
        gate.revoke(Revocation::Tenant("other".to_owned())).await.unwrap();
    }
    assert!(server.ask::<usize>(&[b"XLEN", feed]) < 10);
    let (id, _) = gate.create(data("ann")).await.unwrap();
    assert!(gate.find(&id).await.is_ok());
    eventually("still fresh", || async { gate.is_fresh() && gate.status().reachable }).await;
}

#[tokio::test]
async fn two_processes_renew_a_session_once_and_both_see_it() {
    let server = Server::start(&[]);
    let (one, two) = (started(&server).await, started(&server).await);
    let (id, session) = one.create(data("ann")).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let asks: Vec<_> = (0..20)
        .map(|n| {
            let sessions = Arc::clone(if n % 2 == 0 { &one } else { &two });
            let (calls, id) = (Arc::clone(&calls), id.clone());
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
    for ask in asks {
        assert_eq!(ask.await.unwrap().data.claims["n"], json!(2));
    }
    assert_eq!(calls.load(Ordering::Acquire), 1);
    assert_ne!(one.find(&id).await.unwrap().version, session.version);
    assert_eq!(two.find(&id).await.unwrap().version, one.find(&id).await.unwrap().version);
}

#[tokio::test]
async fn a_lease_whose_holder_died_is_taken_over_and_one_that_failed_is_left_alone() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap();
    let lease = gate.lease(session.handle).await.unwrap().unwrap();
    let key = format!("cedargate:test:lease:{{{}}}", session.handle.to_hex());
    assert!(server.ask::<i64>(&[b"PTTL", key.as_bytes()]) > 25_000);
    // the holder is gone, and most of its time, too
    server.ask::<()>(&[b"PEXPIRE", key.as_bytes(), b"700"]);
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
    let never = |data: SessionData| async move { panic!("asked for {}", data.subject) };
    assert_eq!(other.refresh(&id, &session, never).await.unwrap().version, renewed.version);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_renewed_grant_gets_into_a_store_that_was_away() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap();
    let (asked, mut heard) = watch::channel(false);
    let (go, going) = tokio::sync::oneshot::channel::<()>();
    let call = move |data: SessionData| async move {
        asked.send_replace(true);
        going.await.unwrap();
        let claims = json!({"n": 4}).as_object().cloned().unwrap();
        Ok(SessionData {
            claims: Arc::new(claims),
            ..data
        })
    };
    let asking = tokio::spawn({
        let (sessions, id) = (Arc::clone(&gate), id.clone());
        async move { sessions.refresh(&id, &session, call).await }
    });
    heard.wait_for(|asked| *asked).await.unwrap();
    server.signal("-STOP");
    go.send(()).unwrap();
    assert!(matches!(asking.await.unwrap(), Err(SessionError::Unavailable(_))));
    server.signal("-CONT");
    eventually("written", || async {
        gate.find(&id)
            .await
            .is_ok_and(|found| found.data.claims.get("n") == Some(&json!(4)))
    })
    .await;
    gate.flights.landed().await;
}

#[tokio::test]
async fn a_write_that_redis_refused_is_seen_though_everything_else_works() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    gate.create(data("ann")).await.unwrap();
    assert!(gate.status().last_failed_write.is_none());
    server.ask::<()>(&[b"CONFIG", b"SET", b"min-replicas-to-write", b"1"]);
    assert!(gate.count("loop", &[1; 32], Duration::from_secs(60)).await.is_err());
    let failed = gate.status().last_failed_write.unwrap();
    assert!(
        failed.error.contains("NOREPLICAS") && failed.ago < Duration::from_secs(5),
        "{failed:?}"
    );
    server.ask::<()>(&[b"CONFIG", b"SET", b"min-replicas-to-write", b"0"]);
    server.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    assert!(gate.create(data("bob")).await.is_err());
    assert!(gate.status().last_failed_write.unwrap().error.contains("OOM"));
    server.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    gate.create(data("bob")).await.unwrap();
    gate.is_up().await;
    let status = gate.status();
    assert!(status.last_error.is_none() && status.last_failed_write.is_some());
}

#[tokio::test]
async fn a_full_redis_keeps_no_session_alive_and_is_told_as_soon_as_it_has_room() {
    let server = Server::start(&[]);
    let (one, two) = (started(&server).await, started(&server).await);
    let mut users = Vec::new();
    for name in ["ann", "bob", "cid"] {
        let (id, session) = one.create(data(name)).await.unwrap();
        assert!(two.find(&id).await.is_ok());
        users.push((id, session));
    }
    server.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    for (id, session) in &users[..2] {
        assert!(!one.end(session).await.unwrap().everywhere);
        assert!(matches!(one.try_find(id), Some(Err(SessionError::Revoked))));
        let late = eventually("out", || async { matches!(two.find(id).await, Err(SessionError::Missing)) }).await;
        assert!(late < Duration::from_secs(1), "{late:?}");
    }
    assert!(two.find(&users[2].0).await.is_ok());
    assert!(!one.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap().everywhere);
    assert!(matches!(one.find(&users[2].0).await, Err(SessionError::Revoked)));
    // neither a reconnect nor a start needs room
    server.ask::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    let three = started(&server).await;
    one.is_up().await;
    assert!(three.find(&users[2].0).await.is_ok());
    server.ask::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    for gate in [&two, &three] {
        eventually("told", || async {
            matches!(gate.find(&users[2].0).await, Err(SessionError::Revoked))
        })
        .await;
        assert!(matches!(gate.find(&users[0].0).await, Err(SessionError::Revoked)));
    }
    assert!(one.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap().everywhere);
}

#[tokio::test]
async fn a_stream_at_its_last_id_begins_anew_and_nothing_is_forgotten() {
    let server = Server::start(&[]);
    let (one, two) = (started(&server).await, started(&server).await);
    let (early, session) = two.create(data("ann")).await.unwrap();
    two.end(&session).await.unwrap();
    eventually("known", || async { one.find(&early).await.is_err() }).await;
    let last = b"18446744073709551615-18446744073709551615";
    for stream in [&b"cedargate:test:{feed}:revocations"[..], b"cedargate:test:{feed}:changes"] {
        server.ask::<String>(&[b"XADD", stream, last, b"m", b"junk", b"a", b"1"]);
    }
    let (late, session) = one.create(data("bob")).await.unwrap();
    two.find(&late).await.unwrap();
    let written = Instant::now();
    for gate in [&one, &two] {
        eventually("both read it", || async { gate.feed.age() < written.elapsed() }).await;
    }
    assert!(one.end(&session).await.unwrap().everywhere);
    let took = eventually("known", || async {
        matches!(two.try_find(&late), Some(Err(SessionError::Revoked)))
    })
    .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    eventually("said again", || async {
        server.ask::<usize>(&[b"XLEN", b"cedargate:test:{feed}:revocations"]) >= 2
    })
    .await;
    let three = started(&server).await;
    for id in [&early, &late] {
        assert!(matches!(three.find(id).await, Err(SessionError::Revoked)));
    }
    // and what changes is heard of again
    let (old, first) = one.create(data("cid")).await.unwrap();
    two.find(&old).await.unwrap();
    one.rotate(&old, &first).await.unwrap();
    eventually("change heard", || async {
        two.find(&old).await.is_ok_and(|old| old.data.grant.is_none())
    })
    .await;
}

#[tokio::test]
async fn neither_a_dump_nor_a_writer_of_redis_gains_anything() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (ann, ann_session) = gate.create(data("ann@example.com")).await.unwrap();
    let (bob, bob_session) = gate.create(data("bob@example.com")).await.unwrap();
    let subject = Revocation::Subject {
        issuer: "corp".to_owned(),
        subject: "cid@example.com".to_owned(),
    };
    gate.revoke(subject).await.unwrap();
    gate.put("introspection", &[1; 32], b"the secret answer", Duration::from_secs(60))
        .await
        .unwrap();
    let keys: Vec<Vec<u8>> = server.ask(&[b"KEYS", b"*"]);
    assert!(keys.len() >= 4, "{}", keys.len());
    let mut dump = Vec::new();
    for key in &keys {
        assert!(key.starts_with(b"cedargate:test:"));
        let kind: String = server.ask(&[b"TYPE", key]);
        dump.extend_from_slice(key);
        if kind == "stream" {
            let raw: ::redis::Value = server.ask(&[b"XRANGE", key, b"-", b"+"]);
            dump.extend_from_slice(format!("{raw:?}").as_bytes());
        } else {
            dump.extend_from_slice(&server.ask::<Vec<u8>>(&[b"GET", key]));
        }
    }
    let ids = [ann.0.expose(), bob.0.expose()];
    let mut secrets: Vec<Vec<u8>> = ids.iter().map(|id| id.to_vec()).collect();
    secrets.extend(
        ids.iter()
            .map(|id| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(id).into_bytes()),
    );
    secrets.extend(ids.iter().map(|id| hex::encode(*id).into_bytes()));
    secrets.extend(["example.com", "acme", "clerk", "token of", "the secret"].map(|text| text.as_bytes().to_vec()));
    for secret in secrets {
        assert!(
            !dump.windows(secret.len()).any(|part| part == secret),
            "{}",
            String::from_utf8_lossy(&secret)
        );
    }
    // a writer who swaps two sessions
    let (ann_key, bob_key) = (gate.stored(&ann_session), gate.stored(&bob_session));
    let ann_value: Vec<u8> = server.ask(&[b"GET", ann_key.as_bytes()]);
    let bob_value: Vec<u8> = server.ask(&[b"GET", bob_key.as_bytes()]);
    server.ask::<()>(&[b"SET", ann_key.as_bytes(), &bob_value]);
    server.ask::<()>(&[b"SET", bob_key.as_bytes(), &ann_value]);
    let other = started(&server).await;
    for id in [&ann, &bob] {
        assert!(matches!(other.find(id).await, Err(SessionError::Missing)));
    }
    // one who knows an id of his own and puts somebody's value under it
    let own = operations::random_id().unwrap();
    let key = format!("cedargate:test:{}", operations::key(Seal::handle(&own)));
    server.ask::<()>(&[b"SET", key.as_bytes(), &ann_value]);
    assert!(matches!(other.find(&own).await, Err(SessionError::Missing)));
    server.ask::<()>(&[b"SET", ann_key.as_bytes(), &ann_value]);
    assert!(other.find(&ann).await.is_ok());
}

#[tokio::test]
async fn a_key_that_leaves_the_ring_takes_its_sessions_out_of_memory_and_a_new_first_one_does_not() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, _) = gate.create(data("ann")).await.unwrap();
    let keys = server.folder.path().join("keys");
    let [old, new] = [[7; 32], [8; 32]].map(|key| STANDARD.encode(key));
    let first = async |text: &str| {
        let before = gate.seal.keys.ring().sealing().id;
        std::fs::write(&keys, text).unwrap();
        eventually("another key seals", || async { gate.seal.keys.ring().sealing().id != before }).await;
    };
    first(&format!("{new}\n{old}\n")).await;
    assert!(matches!(gate.try_find(&id), Some(Ok(_))), "the old key still opens");
    std::fs::write(&keys, format!("{new}\n")).unwrap();
    eventually("memory forgets it", || async { gate.try_find(&id).is_none() }).await;
    assert!(matches!(gate.find(&id).await, Err(SessionError::OtherKey)));
    let listing = gate.list(10).await.unwrap();
    assert_eq!((listing.cards.len(), listing.unreadable), (0, 1));
    // nothing was deleted: the key comes back, and so does the session
    first(&format!("{old}\n{new}\n")).await;
    gate.find(&id).await.unwrap();
}

#[tokio::test]
async fn the_documented_rights_are_enough_and_a_changed_password_is_taken_up() {
    let server = Server::start(&[]);
    let documented = documented_acl();
    let rules = documented.split_whitespace().skip(3).filter(|rule| !rule.starts_with('>'));
    let mut command: Vec<&[u8]> = vec![b"ACL", b"SETUSER", b"gate", b">first"];
    command.extend(rules.map(|rule| if rule.starts_with('~') { "~cedargate:test:*" } else { rule }.as_bytes()));
    server.ask::<()>(&command);
    let file = server.folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let more = format!("    username: gate\n    password_file: {}\n", file.display());
    let gate = start(&server, &more);
    gate.is_up().await;
    server.ask::<()>(&[b"ACL", b"SETUSER", b"gate", b"resetpass", b">second"]);
    server.ask::<i64>(&[b"CLIENT", b"KILL", b"USER", b"gate"]);
    eventually("refused", || async {
        gate.status()
            .last_error
            .is_some_and(|why| why.contains("WRONGPASS") || why.contains("uthent"))
    })
    .await;
    std::fs::write(&file, "second\n").unwrap();
    gate.is_up().await;
    // everything that the gate asks, with the rights that the manual names
    let (id, session) = gate.create(data("ann")).await.unwrap();
    assert_eq!(gate.list(10).await.unwrap().cards.len(), 1);
    gate.cache.flush();
    gate.find(&id).await.unwrap();
    gate.touch(&id).await.unwrap();
    let (key, minute) = ([1; 32], Duration::from_secs(60));
    assert_eq!(gate.count("loop", &key, minute).await.unwrap(), 1);
    assert_eq!(gate.add("loop", &[(key, 4)], minute).await.unwrap(), [5]);
    assert_eq!(gate.counted("loop", &key).await.unwrap(), 5);
    gate.forget("loop", &key).await.unwrap();
    assert!(gate.first("state", &key, minute).await.unwrap());
    gate.put("token", &key, b"x", minute).await.unwrap();
    assert_eq!(gate.fetch("token", &key).await.unwrap().unwrap(), b"x");
    let (_, rotated) = gate.rotate(&id, &session).await.unwrap();
    assert!(gate.store.now().await.is_some());
    gate.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap();
    gate.end(&rotated).await.unwrap();
    gate.is_up().await;
    let log = server.ask::<Vec<::redis::Value>>(&[b"ACL", b"LOG"]);
    let denied: Vec<String> = log
        .iter()
        .map(|entry| format!("{entry:?}"))
        .filter(|entry| entry.contains("\"command\""))
        .collect();
    // of the library's own accord, and nothing depends on it
    assert!(denied.iter().all(|entry| entry.contains("client|setinfo")), "{denied:?}");
}

#[tokio::test]
async fn a_store_that_was_never_reached_says_why_once_and_has_no_age() {
    let said = Arc::new(std::sync::Mutex::new(Vec::new()));
    let _guard = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(Said(Arc::clone(&said)))
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
    let (log, deadline) = (
        || String::from_utf8(said.lock().unwrap().clone()).unwrap(),
        Instant::now() + Duration::from_millis(300),
    );
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
async fn creation_and_revocation_wait_for_a_replica_where_there_is_one() {
    let server = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    let gate = started(&server).await;
    eventually("replica seen", || async {
        gate.revoke(Revocation::Tenant("x".to_owned())).await.unwrap().replicated == Some(true)
    })
    .await;
    let (_, session) = gate.create(data("ann")).await.unwrap();
    assert_eq!(replica.ask::<i64>(&[b"EXISTS", gate.stored(&session).as_bytes()]), 1);
    replica.signal("-STOP");
    let began = Instant::now();
    gate.create(data("bob")).await.unwrap();
    assert_eq!(gate.end(&session).await.unwrap().replicated, Some(false));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    replica.signal("-CONT");
    eventually("confirmed again", || async {
        gate.revoke(Revocation::Tenant("y".to_owned())).await.unwrap().replicated == Some(true)
    })
    .await;
}

#[derive(Clone)]
struct Said(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Said {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// As docs/sessions.md has it.
fn documented_acl() -> String {
    let page = std::fs::read_to_string("docs/sessions.md").unwrap();
    let from = page.find("ACL SETUSER").unwrap();
    page[from..].split("```").next().unwrap().to_owned()
}

impl Sessions {
    fn stored(&self, session: &Session) -> String {
        format!("{}{}", self.seal.prefix, operations::key(session.handle))
    }

    fn check_identity_of(&self, subject: &str) -> Result<(), Denial> {
        self.check_identity(&super::tests::identity(subject, None), "shop")
    }
}
