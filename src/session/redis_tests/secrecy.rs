//! A reader and a writer of Redis, and server keys that change.

use super::*;

#[tokio::test]
async fn dump_of_redis_reveals_nothing_and_a_writer_gains_no_session() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (ann, ann_session) = gate.create(data("ann@example.com")).await.unwrap().into_parts();
    let (bob, bob_session) = gate.create(data("bob@example.com")).await.unwrap().into_parts();
    let subject = Revocation::Subject {
        issuer: "corp".to_owned(),
        subject: "cid@example.com".to_owned(),
    };
    gate.revoke(subject).await.unwrap();
    gate.put("introspection", &[1; 32], b"the secret answer", Duration::from_secs(60))
        .await
        .unwrap();
    let keys: Vec<Vec<u8>> = server.query(&[b"KEYS", b"*"]);
    assert!(keys.len() >= 4, "{}", keys.len());
    let mut dump = Vec::new();
    for key in &keys {
        assert!(key.starts_with(b"cedargate:test:"));
        let kind: String = server.query(&[b"TYPE", key]);
        dump.extend_from_slice(key);
        if kind == "stream" {
            let raw: ::redis::Value = server.query(&[b"XRANGE", key, b"-", b"+"]);
            dump.extend_from_slice(format!("{raw:?}").as_bytes());
        } else {
            dump.extend_from_slice(&server.query::<Vec<u8>>(&[b"GET", key]));
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
    // a writer swaps the values of two sessions
    let ann_key = gate.stored(&ann_session);
    let bob_key = gate.stored(&bob_session);
    let ann_value: Vec<u8> = server.query(&[b"GET", ann_key.as_bytes()]);
    let bob_value: Vec<u8> = server.query(&[b"GET", bob_key.as_bytes()]);
    server.query::<()>(&[b"SET", ann_key.as_bytes(), &bob_value]);
    server.query::<()>(&[b"SET", bob_key.as_bytes(), &ann_value]);
    let other = started(&server).await;
    for id in [&ann, &bob] {
        assert!(matches!(other.find(id).await, Err(SessionError::Missing)));
    }
    // a writer puts another user's value under an id of its own
    let own = operations::random_id().unwrap();
    let key = format!("cedargate:test:{}", record::session_key(Seal::handle(&own)));
    server.query::<()>(&[b"SET", key.as_bytes(), &ann_value]);
    assert!(matches!(other.find(&own).await, Err(SessionError::Missing)));
    server.query::<()>(&[b"SET", ann_key.as_bytes(), &ann_value]);
    assert!(other.find(&ann).await.is_ok());
}

#[tokio::test]
async fn removed_key_drops_its_sessions_from_memory_and_a_new_first_key_does_not() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    let (id, _) = gate.create(data("ann")).await.unwrap().into_parts();
    let keys = server.folder.path().join("keys");
    let [old, new] = [[7; 32], [8; 32]].map(|key| STANDARD.encode(key));
    let first = async |text: &str| {
        let before = gate.seal.keys.ring.load().sealing().id;
        std::fs::write(&keys, text).unwrap();
        eventually("another key seals", || async {
            gate.seal.keys.ring.load().sealing().id != before
        })
        .await;
    };
    first(&format!("{new}\n{old}\n")).await;
    assert!(matches!(gate.try_find(&id), Some(Ok(_))), "the old key still opens");
    std::fs::write(&keys, format!("{new}\n")).unwrap();
    eventually("the cache drops the session", || async { gate.try_find(&id).is_none() }).await;
    assert!(matches!(gate.find(&id).await, Err(SessionError::OtherKey)));
    let listing = gate.list(10).await.unwrap();
    assert_eq!((listing.summaries.len(), listing.unreadable), (0, 1));
    // no value was deleted: with the key back in the ring the session works
    first(&format!("{old}\n{new}\n")).await;
    gate.find(&id).await.unwrap();
}
