//! The stream of revocations: entries that are lost, trimmed, from the future, or at the last possible id.

use super::super::record::RevocationKey;
use super::*;

#[tokio::test]
async fn revocations_that_redis_lost_are_published_again() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
    let value: Vec<u8> = server.query(&[b"GET", gate.stored(&session).as_bytes()]);
    gate.end(&session).await.unwrap();
    let feed = b"cedargate:test:{feed}:revocations";
    // a failover that lost the end of the stream and the removal of the session
    server.query::<()>(&[b"DEL", feed]);
    server.query::<()>(&[b"SET", gate.stored(&session).as_bytes(), &value]);
    server.query::<String>(&[b"XADD", feed, b"*", b"m", b"junk", b"a", b"x"]);
    eventually("published again", || async { server.query::<usize>(&[b"XLEN", feed]) >= 2 }).await;
    let later = started(&server).await;
    assert!(matches!(later.find(&id).await, Err(SessionError::Revoked)));
}

#[tokio::test]
async fn revocation_from_the_future_counts_as_of_now() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, _) = gate.create(data("ann")).await.unwrap().into_parts();
    let later = |millis| SessionData {
        created_at: unix_millis() + millis,
        ..data("ann")
    };
    let (in_time, _) = gate.create(later(3000)).await.unwrap().into_parts();
    let (after, _) = gate.create(later(60_000)).await.unwrap().into_parts();
    let portal = RevocationKey::portal("shop");
    let mark = [&[portal.kind.code()][..], &portal.hash].concat();
    for at in [unix_millis() + 3_600_000, i64::MAX] {
        let feed = b"cedargate:test:{feed}:revocations";
        let at = at.to_string();
        server.query::<String>(&[b"XADD", feed, b"*", b"m", &mark, b"a", at.as_bytes()]);
    }
    eventually("revoked", || async { gate.find(&id).await.is_err() }).await;
    // a gate that reads the entries later limits them the same way
    let other = started(&server).await;
    for gate in [&gate, &other] {
        assert!(matches!(gate.find(&id).await, Err(SessionError::Revoked)));
        assert!(matches!(gate.find(&in_time).await, Err(SessionError::Revoked)));
        assert!(gate.find(&after).await.is_ok());
    }
}

#[tokio::test]
async fn trimming_the_stream_of_revocations_ends_no_session() {
    let server = Server::start(&["--stream-node-max-entries", "1"]);
    let gate = started(&server).await;
    let feed = b"cedargate:test:{feed}:revocations";
    for n in 1..=300 {
        let id = format!("{n}-0");
        server.query::<String>(&[b"XADD", feed, id.as_bytes(), b"m", b"junk", b"a", b"1"]);
    }
    // each revocation trims a hundred entries at most
    for _ in 0..4 {
        gate.revoke(Revocation::Tenant("other".to_owned())).await.unwrap();
    }
    assert!(server.query::<usize>(&[b"XLEN", feed]) < 10);
    let (id, _) = gate.create(data("ann")).await.unwrap().into_parts();
    assert!(gate.find(&id).await.is_ok());
    eventually("still fresh", || async {
        gate.is_revocation_log_fresh() && gate.status().reachable
    })
    .await;
}

#[tokio::test]
async fn stream_at_its_last_id_begins_anew_and_no_revocation_is_lost() {
    let server = Server::start(&[]);
    let one = started(&server).await;
    let two = started(&server).await;
    let (early, session) = two.create(data("ann")).await.unwrap().into_parts();
    two.end(&session).await.unwrap();
    eventually("known", || async { one.find(&early).await.is_err() }).await;
    let last = b"18446744073709551615-18446744073709551615";
    for stream in [&b"cedargate:test:{feed}:revocations"[..], b"cedargate:test:{feed}:changes"] {
        server.query::<String>(&[b"XADD", stream, last, b"m", b"junk", b"a", b"1"]);
    }
    let (late, session) = one.create(data("bob")).await.unwrap().into_parts();
    two.find(&late).await.unwrap();
    let written = Instant::now();
    for gate in [&one, &two] {
        eventually("both read it", || async { gate.revocation_log.age() < written.elapsed() }).await;
    }
    assert!(one.end(&session).await.unwrap().everywhere);
    let took = eventually("known", || async {
        matches!(two.try_find(&late), Some(Err(SessionError::Revoked)))
    })
    .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    eventually("published again", || async {
        server.query::<usize>(&[b"XLEN", b"cedargate:test:{feed}:revocations"]) >= 2
    })
    .await;
    let three = started(&server).await;
    for id in [&early, &late] {
        assert!(matches!(three.find(id).await, Err(SessionError::Revoked)));
    }
    // changes of sessions are read again
    let (old, first) = one.create(data("cid")).await.unwrap().into_parts();
    two.find(&old).await.unwrap();
    one.rotate(&old, &first).await.unwrap().into_parts();
    eventually("the change is read", || async {
        two.find(&old).await.is_ok_and(|old| old.data.grant.is_none())
    })
    .await;
}
