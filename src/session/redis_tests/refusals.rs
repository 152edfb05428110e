//! A Redis that refuses commands: full, without enough replicas, without rights, with another password.

use super::*;

#[tokio::test]
async fn refused_write_is_shown_in_the_status() {
    let server = Server::start(&[]);
    let gate = started(&server).await;
    gate.create(data("ann")).await.unwrap().into_parts();
    assert!(gate.status().last_failed_write.is_none());
    server.query::<()>(&[b"CONFIG", b"SET", b"min-replicas-to-write", b"1"]);
    assert!(gate.count("loop", &[1; 32], Duration::from_secs(60)).await.is_err());
    let failed = gate.status().last_failed_write.unwrap();
    assert!(
        failed.error.contains("NOREPLICAS") && failed.ago < Duration::from_secs(5),
        "{failed:?}"
    );
    server.query::<()>(&[b"CONFIG", b"SET", b"min-replicas-to-write", b"0"]);
    server.query::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    assert!(gate.create(data("bob")).await.is_err());
    assert!(gate.status().last_failed_write.unwrap().error.contains("OOM"));
    server.query::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    gate.create(data("bob")).await.unwrap().into_parts();
    gate.is_up().await;
    let status = gate.status();
    assert!(status.last_error.is_none() && status.last_failed_write.is_some());
}

#[tokio::test]
async fn full_redis_keeps_no_ended_session_alive_and_takes_pending_revocations_later() {
    let server = Server::start(&[]);
    let one = started(&server).await;
    let two = started(&server).await;
    let mut users = Vec::new();
    for name in ["ann", "bob", "cid"] {
        let (id, session) = one.create(data(name)).await.unwrap().into_parts();
        assert!(two.find(&id).await.is_ok());
        users.push((id, session));
    }
    server.query::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    for (id, session) in &users[..2] {
        assert!(!one.end(session).await.unwrap().everywhere);
        assert!(matches!(one.try_find(id), Some(Err(SessionError::Revoked))));
        let late = eventually("out", || async { matches!(two.find(id).await, Err(SessionError::Missing)) }).await;
        assert!(late < Duration::from_secs(1), "{late:?}");
    }
    assert!(two.find(&users[2].0).await.is_ok());
    assert!(!one.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap().everywhere);
    assert!(matches!(one.find(&users[2].0).await, Err(SessionError::Revoked)));
    // neither a reconnect nor a start needs room in Redis
    server.query::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    let three = started(&server).await;
    one.is_up().await;
    assert!(three.find(&users[2].0).await.is_ok());
    server.query::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    for gate in [&two, &three] {
        eventually("the pending revocation arrives", || async {
            matches!(gate.find(&users[2].0).await, Err(SessionError::Revoked))
        })
        .await;
        assert!(matches!(gate.find(&users[0].0).await, Err(SessionError::Revoked)));
    }
    assert!(one.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap().everywhere);
}

#[tokio::test]
async fn documented_acl_suffices_and_a_changed_password_is_used() {
    let server = Server::start(&[]);
    let documented = documented_acl();
    let rules = documented.split_whitespace().skip(3).filter(|rule| !rule.starts_with('>'));
    let mut command: Vec<&[u8]> = vec![b"ACL", b"SETUSER", b"gate", b">first"];
    command.extend(rules.map(|rule| if rule.starts_with('~') { "~cedargate:test:*" } else { rule }.as_bytes()));
    server.query::<()>(&command);
    let file = server.folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let more = format!("    username: gate\n    password_file: {}\n", file.display());
    let gate = start(&server, &more);
    gate.is_up().await;
    server.query::<()>(&[b"ACL", b"SETUSER", b"gate", b"resetpass", b">second"]);
    server.query::<i64>(&[b"CLIENT", b"KILL", b"USER", b"gate"]);
    eventually("refused", || async {
        gate.status()
            .last_error
            .is_some_and(|why| why.contains("WRONGPASS") || why.contains("uthent"))
    })
    .await;
    std::fs::write(&file, "second\n").unwrap();
    gate.is_up().await;
    // every operation of the gate, with the rights that the manual names
    let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
    assert_eq!(gate.list(10).await.unwrap().summaries.len(), 1);
    gate.cache.flush();
    gate.find(&id).await.unwrap();
    gate.touch(&id).await.unwrap();
    let key = [1; 32];
    let minute = Duration::from_secs(60);
    assert_eq!(gate.count("loop", &key, minute).await.unwrap(), 1);
    assert_eq!(gate.add("loop", &[(key, 4)], minute).await.unwrap(), [5]);
    assert_eq!(gate.counted("loop", &key).await.unwrap(), 5);
    gate.forget("loop", &key).await.unwrap();
    assert!(gate.first("state", &key, minute).await.unwrap());
    gate.put("token", &key, b"x", minute).await.unwrap();
    assert_eq!(gate.fetch("token", &key).await.unwrap().unwrap(), b"x");
    let (_, rotated) = gate.rotate(&id, &session).await.unwrap().into_parts();
    assert!(gate.store.now().await.is_some());
    gate.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap();
    gate.end(&rotated).await.unwrap();
    gate.is_up().await;
    let log = server.query::<Vec<::redis::Value>>(&[b"ACL", b"LOG"]);
    let denied: Vec<String> = log
        .iter()
        .map(|entry| format!("{entry:?}"))
        .filter(|entry| entry.contains("\"command\""))
        .collect();
    // the library sends CLIENT SETINFO; no operation depends on it
    assert!(denied.iter().all(|entry| entry.contains("client|setinfo")), "{denied:?}");
}

/// The `ACL SETUSER` command of docs/sessions.md.
fn documented_acl() -> String {
    let page = std::fs::read_to_string("docs/sessions.md").unwrap();
    let from = page.find("ACL SETUSER").unwrap();
    page[from..].split("```").next().unwrap().to_owned()
}
