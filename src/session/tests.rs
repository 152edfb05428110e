//! Sessions over the memory store: the rules that hold with every store.

use std::sync::atomic::{AtomicUsize, Ordering};

use cedargate_policy::denial::Denial;
use cedargate_policy::types::{Identity, PortalSlug, TokenFacts};
use futures_util::FutureExt as _;
use serde_json::{Map, Value, json};

use super::seal::OpenedSession;
use super::*;
use crate::base::clock::unix_millis;

pub(super) fn config(sessions: &str) -> Config {
    let yaml = format!(
        "upstream: {{url: \"http://127.0.0.1:1\"}}\npolicies: {{dir: policies, schemas: schemas}}\n\
         issuers: [{{name: corp, issuer: \"https://corp\", audiences: [x]}}]\n{sessions}"
    );
    Config::from_yaml(&yaml).unwrap()
}

pub(super) fn sessions(config: &Config) -> Arc<Sessions> {
    let metrics = Metrics::new().unwrap();
    Sessions::new(config, &metrics).unwrap()
}

fn memory() -> Arc<Sessions> {
    sessions(&config("sessions: {idle_timeout: 30m, absolute_timeout: 12h}\n"))
}

pub(super) fn data(subject: &str) -> SessionData {
    let claims = json!({"sub": subject, "tenant": "acme", "roles": ["clerk"]});
    SessionData {
        provider: "corp".to_owned(),
        issuer: "corp".to_owned(),
        subject: subject.to_owned(),
        portal: "shop".to_owned(),
        claims: Arc::new(claims.as_object().cloned().unwrap()),
        created_at: unix_millis(),
        idp_session: Some(format!("sid of {subject}")),
        grant: Some(Grant {
            id_token: cedargate_policy::types::Redacted::new(format!("id token of {subject}")),
            refresh_token: Some(cedargate_policy::types::Redacted::new(format!("refresh token of {subject}"))),
            access_token: cedargate_policy::types::Redacted::new(format!("access token of {subject}")),
            refresh_at: Some(0),
        }),
        portals: None,
        rotation_due: false,
    }
}

pub(super) fn identity(subject: &str, issued: Option<i64>) -> Identity {
    let mut claims = Map::new();
    if let Some(issued) = issued {
        claims.insert("iat".to_owned(), Value::from(issued));
    }
    Identity {
        issuer: Arc::from("corp"),
        subject: subject.to_owned(),
        principal_type: Arc::from("User"),
        tenant: Some("acme".to_owned()),
        roles: Vec::new(),
        claims: Arc::new(claims),
        expires_at: i64::MAX,
        auth: Arc::default(),
        token: TokenFacts::default(),
    }
}

#[tokio::test]
async fn session_is_found_from_its_creation_until_its_end() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let found = sessions.try_find(&id).unwrap().unwrap();
    assert_eq!((found.data.subject.as_str(), found.version), ("ann", session.version));
    assert!(Arc::ptr_eq(&found, &sessions.find(&id).await.unwrap()));
    sessions.cache.flush();
    assert!(sessions.try_find(&id).is_none());
    let read = sessions.find(&id).await.unwrap();
    assert_eq!((read.version, read.expires_at), (session.version, session.expires_at));
    let listed = sessions.list(10).await.unwrap().summaries;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].subject.as_str(), listed[0].tenant.as_deref()),
        ("ann", Some("acme"))
    );
    let revocations = sessions.revocations();
    let before = *revocations.borrow();
    assert_eq!(sessions.end(&session).await.unwrap().replicated, None);
    assert!(*revocations.borrow() > before);
    assert!(matches!(sessions.find(&id).await, Err(SessionError::Revoked)));
    assert!(sessions.revocation_log.revokes_at(&session, "shop"));
    assert!(sessions.list(10).await.unwrap().summaries.is_empty());
    assert!(matches!(
        sessions.find(&operations::random_id().unwrap()).await,
        Err(SessionError::Missing)
    ));
}

#[tokio::test]
async fn session_past_its_timeouts_is_expired_even_if_the_store_still_has_it() {
    let sessions = memory();
    let hours = |n: i64| n * 3_600_000;
    let mut old = data("ann");
    old.created_at -= hours(12);
    let (id, _) = sessions.create(old).await.unwrap().into_parts();
    assert!(matches!(
        sessions.find(&id).await,
        Err(SessionError::Expired | SessionError::Missing)
    ));
    // an old value was restored, and the store lost its time to live
    let (id, session) = sessions.create(data("bob")).await.unwrap().into_parts();
    let read = sessions.read(&id).await.unwrap().unwrap();
    let mut header = read.opened.header;
    header.summary.used_at -= hours(1);
    let stale = sessions
        .seal
        .session(&id, &header, &read.opened.data, &read.opened.links)
        .unwrap();
    sessions
        .store
        .write(&record::session_key(session.handle), stale, Duration::from_secs(60))
        .await
        .unwrap();
    sessions.cache.flush();
    assert!(matches!(sessions.find(&id).await, Err(SessionError::Expired)));
}

#[tokio::test]
async fn use_of_a_session_is_written_to_the_store_at_intervals() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let used_at = |read: seal::StoredSession| read.opened.header.summary.used_at;
    let before = used_at(sessions.read(&id).await.unwrap().unwrap());
    sessions.try_find(&id).unwrap().unwrap();
    assert_eq!(used_at(sessions.read(&id).await.unwrap().unwrap()), before);
    // the clock must move on: a write in the same millisecond could not be told apart
    tokio::time::sleep(Duration::from_millis(5)).await;
    let cached = sessions.cache.get(session.handle).unwrap();
    cached.used_at.store(before - 100_000, Ordering::Release);
    sessions.try_find(&id).unwrap().unwrap();
    let noted = async {
        while used_at(sessions.read(&id).await.unwrap().unwrap()) == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), noted).await.unwrap();
    assert_eq!(sessions.find(&id).await.unwrap().version, session.version);
}

#[tokio::test]
async fn corrupt_and_moved_values_count_as_missing_and_are_not_deleted() {
    let sessions = memory();
    let (ann, ann_session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let (bob, bob_session) = sessions.create(data("bob")).await.unwrap().into_parts();
    let key_of = |session: &Session| record::session_key(session.handle);
    let value = sessions.store.read(&key_of(&ann_session)).await.unwrap().unwrap();
    for bad in [value.clone(), b"junk".to_vec(), Vec::new()] {
        sessions
            .store
            .write(&key_of(&bob_session), bad.clone(), Duration::from_secs(60))
            .await
            .unwrap();
        sessions.cache.flush();
        assert!(matches!(sessions.find(&bob).await, Err(SessionError::Missing)));
        assert_eq!(sessions.store.read(&key_of(&bob_session)).await.unwrap(), Some(bad));
    }
    assert!(sessions.find(&ann).await.is_ok());
    assert_eq!(sessions.list(10).await.unwrap().summaries.len(), 1);
}

#[tokio::test]
async fn session_sealed_with_another_replicas_key_counts_as_missing_here_only() {
    let sessions = memory();
    let other = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let OpenedSession { header, data, links, .. } = sessions.read(&id).await.unwrap().unwrap().opened;
    let store_key = record::session_key(session.handle);
    let minute = Duration::from_secs(60);
    let theirs = other.seal.session(&id, &header, &data, &links).unwrap();
    sessions.store.write(&store_key, theirs.clone(), minute).await.unwrap();
    sessions.cache.flush();
    let error = sessions.find(&id).await.unwrap_err();
    assert!(matches!(error, SessionError::OtherKey), "{error:?}");
    assert_eq!(Denial::from(&error), Denial::SessionMissing);
    assert!(sessions.rotate(&id, &session).await.is_err());
    assert!(sessions.list(10).await.unwrap().summaries.is_empty());
    assert_eq!(sessions.store.read(&store_key).await.unwrap(), Some(theirs.clone()));
    // the replica that has the key serves the session
    other.store.write(&store_key, theirs, minute).await.unwrap();
    assert_eq!(other.find(&id).await.unwrap().data.subject, "ann");
    // a revocation ends the session even if this replica cannot open it
    assert!(sessions.revoke(Revocation::Session(session.handle)).await.is_ok());
    assert!(matches!(sessions.find(&id).await, Err(SessionError::Revoked)));
}

#[tokio::test]
async fn rotated_session_keeps_its_old_id_and_a_logout_ends_both_ids() {
    let sessions = memory();
    let (old, first) = sessions
        .create(SessionData {
            rotation_due: true,
            ..data("ann")
        })
        .await
        .unwrap()
        .into_parts();
    let (new, second) = sessions.rotate(&old, &first).await.unwrap().into_parts();
    assert_ne!(first.handle, second.handle);
    assert!(!second.data.rotation_due && second.data.grant.is_some());
    let meanwhile = sessions.find(&old).await.unwrap();
    assert!(meanwhile.data.grant.is_none(), "one owner of the grant");
    assert_eq!(
        meanwhile.next.as_ref(),
        Some(&new),
        "the response that carried the new id may be lost"
    );
    let (again, same) = sessions.rotate(&old, &meanwhile).await.unwrap().into_parts();
    assert_eq!((again, same.handle), (new.clone(), second.handle));
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let old_header = sessions.read(&old).await.unwrap().unwrap().opened.header;
    assert_eq!(old_header.ends_at, None, "no request used the new id");
    let listed = sessions.list(10).await.unwrap();
    assert_eq!(listed.summaries.len(), 1, "{listed:?}");
    // uses of the old id do not extend its idle time
    let cached = sessions.cache.get(first.handle).unwrap();
    assert!(cached.ends_at <= old_header.summary.used_at + 30 * 60_000);
    // a logout with either id ends both ids and the session found under the first id
    sessions.end(&meanwhile).await.unwrap();
    for id in [&old, &new] {
        assert!(matches!(sessions.find(id).await, Err(SessionError::Revoked)));
    }
    let (old, first) = sessions.create(data("bob")).await.unwrap().into_parts();
    let (_, second) = sessions.rotate(&old, &first).await.unwrap().into_parts();
    sessions.end(&second).await.unwrap();
    assert!(sessions.revocation_log.revokes_at(&first, "shop"));
    assert!(matches!(sessions.find(&old).await, Err(SessionError::Revoked)));
}

#[tokio::test]
async fn old_id_works_until_seconds_after_the_first_use_of_the_new_id() {
    let sessions = memory();
    let (old, first) = sessions.create(data("ann")).await.unwrap().into_parts();
    let handle = first.handle;
    // the caller leaves before the answer
    drop(Box::pin(sessions.rotate(&old, &first)).as_mut().now_or_never());
    let next = async {
        loop {
            sessions.cache.flush();
            if let Some(next) = sessions.find(&old).await.unwrap().next.clone() {
                return next;
            }
            tokio::task::yield_now().await;
        }
    };
    let new = tokio::time::timeout(Duration::from_secs(20), next).await.unwrap();
    assert!(sessions.cache.get(handle).unwrap().ends_at > unix_millis() + 20 * 60_000);
    assert_eq!(sessions.list(10).await.unwrap().summaries.len(), 1);
    assert_eq!(sessions.find(&new).await.unwrap().revocation_keys.lineage, handle);
    let ending = async {
        loop {
            let found = sessions.find(&old).await.unwrap();
            if sessions
                .cache
                .get(handle)
                .is_some_and(|cached| cached.ends_at <= unix_millis() + 10_000)
            {
                assert_eq!(found.next, None, "the browser has the new id");
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ending).await.unwrap();
    let proven = sessions.read(&new).await.unwrap().unwrap();
    assert_eq!(proven.opened.links.previous.as_ref(), Some(&old));
    assert_eq!(sessions.list(10).await.unwrap().summaries.len(), 1);
}

#[tokio::test]
async fn a_token_of_an_issuer_whose_clock_is_ahead_ends_with_a_later_revocation() {
    let sessions = memory();
    let now = unix_millis() / 1000;
    let token = identity("ann", Some(now + 20));
    sessions.note_issued(&token);
    let subject = Revocation::Subject {
        issuer: "corp".to_owned(),
        subject: "ann".to_owned(),
    };
    sessions.revoke(subject).await.unwrap();
    assert!(
        sessions.check_identity(&token, "shop").is_err(),
        "it was here before the revocation"
    );
    assert!(sessions.check_identity(&identity("ann", Some(now + 10)), "shop").is_err());
    // the issuer's clock shows this time a second after the revocation
    assert!(sessions.check_identity(&identity("ann", Some(now + 22)), "shop").is_ok());
    assert!(sessions.check_identity(&identity("bob", Some(now)), "shop").is_ok());
}

#[tokio::test]
async fn revocation_ends_sessions_and_tokens_that_began_before_it() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let now = unix_millis() / 1000;
    assert!(sessions.check_identity(&identity("ann", None), "shop").is_ok());
    let portal = Revocation::Portal(PortalSlug::parse("admin").unwrap());
    sessions.revoke(portal).await.unwrap();
    assert!(sessions.find(&id).await.is_ok());
    assert!(sessions.revocation_log.revokes_at(&session, "admin") && !sessions.revocation_log.revokes_at(&session, "shop"));
    assert!(sessions.check_identity(&identity("ann", Some(now - 1)), "admin").is_err());
    assert!(sessions.check_identity(&identity("ann", Some(now + 2)), "admin").is_ok());
    assert!(sessions.check_identity(&identity("ann", None), "shop").is_ok());
    let subject = Revocation::Subject {
        issuer: "corp".to_owned(),
        subject: "ann".to_owned(),
    };
    sessions.revoke(subject).await.unwrap();
    assert!(matches!(sessions.find(&id).await, Err(SessionError::Revoked)));
    assert!(sessions.check_identity(&identity("ann", Some(now - 1)), "shop").is_err());
    assert!(sessions.check_identity(&identity("ann", None), "shop").is_err());
    assert!(sessions.check_identity(&identity("bob", None), "shop").is_ok());
    sessions.revoke(Revocation::Tenant("acme".to_owned())).await.unwrap();
    assert!(sessions.check_identity(&identity("bob", None), "shop").is_err());
    let (later, _) = sessions
        .create(SessionData {
            created_at: unix_millis() + 1,
            ..data("ann")
        })
        .await
        .unwrap()
        .into_parts();
    assert!(sessions.find(&later).await.is_ok(), "a login after the revocation counts");
}

#[tokio::test]
async fn concurrent_requests_renew_once_and_a_leaving_client_changes_nothing() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let calls = Arc::new(AtomicUsize::new(0));
    let renew = || {
        let calls = Arc::clone(&calls);
        let sessions = Arc::clone(&sessions);
        let id = id.clone();
        let session = Arc::clone(&session);
        tokio::spawn(async move {
            let call = move |mut data: SessionData| async move {
                calls.fetch_add(1, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(50)).await;
                data.claims = Arc::new(
                    json!({"sub": "ann", "tenant": "acme", "roles": ["chief"]})
                        .as_object()
                        .cloned()
                        .unwrap(),
                );
                data.created_at = 0;
                Ok(data)
            };
            sessions.refresh(&id, &session, call).await
        })
    };
    let first = renew();
    while calls.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (0..20).map(|_| renew()).collect();
    first.abort();
    for other in others {
        let renewed = other.await.unwrap().unwrap();
        assert_eq!(renewed.data.claims["roles"], json!(["chief"]));
        assert!(renewed.data.rotation_due && renewed.version != session.version);
        assert_eq!(renewed.data.created_at, session.data.created_at);
    }
    assert_eq!(calls.load(Ordering::Acquire), 1);
    sessions.cache.flush();
    assert_eq!(sessions.find(&id).await.unwrap().data.claims["roles"], json!(["chief"]));
    tokio::time::timeout(Duration::from_secs(5), sessions.renewals.idle())
        .await
        .unwrap();
}

#[tokio::test]
async fn silent_provider_changes_nothing_and_a_refusing_provider_ends_the_session() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let calls = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let calls = Arc::clone(&calls);
        let call = move |_| async move {
            calls.fetch_add(1, Ordering::AcqRel);
            Err(RefreshError::Temporary("no answer".to_owned()))
        };
        let same = sessions.refresh(&id, &session, call).await.unwrap();
        assert_eq!(same.version, session.version);
    }
    assert_eq!(calls.load(Ordering::Acquire), 1, "renewals pause after a failure");
    for end in ["ended", "other subject"] {
        let (id, session) = sessions.create(data("bob")).await.unwrap().into_parts();
        let call = move |data: SessionData| async move {
            match end {
                "ended" => Err(RefreshError::Ended("invalid_grant".to_owned())),
                other => Ok(SessionData {
                    subject: other.to_owned(),
                    ..data
                }),
            }
        };
        assert!(matches!(
            sessions.refresh(&id, &session, call).await,
            Err(SessionError::Revoked)
        ));
        assert!(matches!(sessions.find(&id).await, Err(SessionError::Revoked)));
    }
}

#[tokio::test]
async fn panic_in_the_provider_call_leaves_the_session_as_it_was() {
    let sessions = memory();
    let (id, session) = sessions.create(data("ann")).await.unwrap().into_parts();
    let call = |data: SessionData| async move {
        assert!(data.subject.is_empty(), "the call panics");
        Ok(data)
    };
    assert_eq!(sessions.refresh(&id, &session, call).await.unwrap().version, session.version);
    sessions.renewals.idle().await;
    assert!(sessions.find(&id).await.is_ok());
}

#[tokio::test]
async fn marks_and_counters_are_shared_and_can_be_removed() {
    let sessions = memory();
    let key = [1; 32];
    let minute = Duration::from_secs(60);
    assert!(sessions.first("state", &key, minute).await.unwrap());
    assert!(!sessions.first("state", &key, minute).await.unwrap());
    assert!(sessions.first("other", &key, minute).await.unwrap());
    assert_eq!(sessions.count("loop", &key, minute).await.unwrap(), 1);
    assert_eq!(sessions.count("loop", &key, minute).await.unwrap(), 2);
    assert_eq!(sessions.counted("loop", &key).await.unwrap(), 2);
    sessions.forget("loop", &key).await.unwrap();
    assert_eq!(sessions.counted("loop", &key).await.unwrap(), 0);
    sessions.put("introspection", &key, b"active", minute).await.unwrap();
    assert_eq!(sessions.fetch("introspection", &key).await.unwrap().unwrap(), b"active");
    assert_eq!(sessions.fetch("introspection", &[2; 32]).await.unwrap(), None);
    let sealed = sessions.seal_for_browser(b"cookie", b"state");
    assert_eq!(sessions.open_from_browser(b"cookie", &sealed).unwrap(), b"state");
    assert_eq!(sessions.open_from_browser(b"cookie", ""), None);
}
