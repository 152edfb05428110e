//! Tests of key refresh: keys arrive, change and fail, from a local server that counts requests and from swapped files.
//!
//! As in the gate, the refresher runs on a runtime of its own thread, so the tests also cover notifications across
//! runtimes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cedargate_policy::scope::IssuerScope;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::attack_tests::issuer;
use cedargate_policy::denial::Denial;

use super::*;

/// Longest time for a change to take effect.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of fixed answers by path; counts requests.
#[derive(Clone)]
struct Server {
    base: String,
    answers: Arc<Mutex<HashMap<String, String>>>,
    hits: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            base: format!("http://{}", listener.local_addr().unwrap()),
            answers: Arc::default(),
            hits: Arc::default(),
        };
        let handle = server.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 8192];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                handle.hits.fetch_add(1, Ordering::SeqCst);
                let path = text.split(' ').nth(1).unwrap_or("/");
                let answer = handle.answers.lock().get(path).cloned();
                let answer =
                    answer.unwrap_or_else(|| "HTTP/1.1 500 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned());
                drop(stream.write_all(answer.as_bytes()).await);
            }
        });
        server
    }

    fn answer(&self, path: &str, body: &Value) {
        let body = body.to_string();
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        self.answers.lock().insert(path.to_owned(), text);
    }

    fn raw(&self, path: &str, text: String) {
        self.answers.lock().insert(path.to_owned(), text);
    }
}

/// The refresher on its own thread and runtime; stops when dropped.
struct Control(CancellationToken);

impl Control {
    fn start(authn: &Arc<Authn>) -> Self {
        let authn = Arc::clone(authn);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(authn.run(stopped));
        });
        Self(stop)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn gate(issuer: Issuer) -> Arc<Authn> {
    Authn::new(&[issuer], 16 * 1024, Metrics::new().unwrap()).unwrap()
}

fn token(key: &SigningKey, iss: &str) -> String {
    let claims = json!({"iss": iss, "sub": "alice", "aud": "orders"});
    let claims: Map<String, Value> = claims.as_object().unwrap().clone();
    mint(key, claims, Duration::from_secs(300), unix_seconds()).unwrap()
}

async fn ask(authn: &Authn, token: &str) -> Result<(), Denial> {
    let outcome = authn.verify(PresentedToken::bearer(token), &[0], unix_seconds()).await;
    outcome.map(|_| ()).map_err(|error| error.denial())
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn tokens_with_unknown_kids_cost_one_fetch_and_that_fetch_finds_rotated_keys() {
    let server = Server::start().await;
    let old = SigningKey::generate().unwrap();
    let new = SigningKey::generate().unwrap();
    server.answer("/jwks", &old.jwks());
    let config = Issuer {
        keys: KeySource::Url(format!("{}/jwks", server.base)),
        ..issuer("corp")
    };
    let iss = config.scope.issuer.clone();
    let authn = gate(config);
    let _control = Control::start(&authn);
    assert_eq!(ask(&authn, &token(&old, &iss)).await, Ok(()), "waits for the first keys");
    let proof = authn
        .verify(PresentedToken::bearer(&token(&old, &iss)), &[0], unix_seconds())
        .await
        .unwrap()
        .proof;
    assert_eq!(server.hits.load(Ordering::SeqCst), 1);
    server.answer("/jwks", &new.jwks());
    assert_eq!(ask(&authn, &token(&new, &iss)).await, Ok(()), "an unknown kid refetches once");
    assert!(matches!(
        authn.recheck(&proof, unix_seconds()),
        Err(TokenError::KeyGone { .. })
    ));
    let start = Instant::now();
    for n in 0..200 {
        let header = json!({"alg": "ES256", "kid": format!("random-{n}")});
        let claims = json!({"iss": iss, "sub": "alice", "aud": "orders", "exp": unix_seconds() + 300});
        assert_eq!(
            ask(&authn, &new.sign(&header, &claims).unwrap()).await,
            Err(Denial::TokenInvalid)
        );
    }
    assert_eq!(ask(&authn, &token(&old, &iss)).await, Err(Denial::TokenInvalid), "removed");
    assert_eq!(ask(&authn, &token(&new, &iss)).await, Ok(()));
    assert!(start.elapsed() < keys::REFETCH_WAIT, "no token waited");
    assert_eq!(server.hits.load(Ordering::SeqCst), 2, "the storm cost nothing more");
}

#[tokio::test]
async fn unreachable_issuer_gives_key_unavailable_and_the_last_good_keys_stay() {
    let server = Server::start().await;
    let key = SigningKey::generate().unwrap();
    let config = Issuer {
        keys: KeySource::Url(format!("{}/jwks", server.base)),
        ..issuer("corp")
    };
    let iss = config.scope.issuer.clone();
    let authn = gate(config);
    let _control = Control::start(&authn);
    assert_eq!(ask(&authn, &token(&key, &iss)).await, Err(Denial::KeyUnavailable));
    server.answer("/jwks", &key.jwks());
    until("a retry after the back-off", || authn.status()[0].keys == 1).await;
    assert_eq!(ask(&authn, &token(&key, &iss)).await, Ok(()));
    server.raw(
        "/jwks",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_owned(),
    );
    let other = SigningKey::generate().unwrap();
    assert_eq!(ask(&authn, &token(&other, &iss)).await, Err(Denial::TokenInvalid));
    assert_eq!(
        ask(&authn, &token(&key, &iss)).await,
        Ok(()),
        "a broken answer takes no keys away"
    );
    assert!(
        authn.status()[0]
            .last_error
            .as_deref()
            .is_some_and(|error| error.contains("keys"))
    );
}

#[tokio::test]
async fn discovery_requires_the_exact_issuer_and_follows_no_redirect() {
    let server = Server::start().await;
    let key = SigningKey::generate().unwrap();
    let iss = format!("{}/", server.base);
    let config = Issuer {
        scope: Arc::new(IssuerScope::new("corp", iss.clone(), issuer("corp").scope.audiences.clone())),
        keys: KeySource::Discovery,
        ..issuer("corp")
    };
    let jwks = format!("{}/jwks", server.base);
    server.answer("/jwks", &key.jwks());
    server.answer(
        "/.well-known/openid-configuration",
        &json!({"issuer": server.base, "jwks_uri": jwks}),
    );
    let authn = gate(config);
    let _control = Control::start(&authn);
    assert_eq!(ask(&authn, &token(&key, &iss)).await, Err(Denial::KeyUnavailable));
    assert!(
        authn.status()[0]
            .last_error
            .as_deref()
            .is_some_and(|error| error.contains("exactly"))
    );
    let elsewhere = format!("HTTP/1.1 302 Found\r\nlocation: {jwks}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    server.raw("/moved", elsewhere);
    let moved = format!("{}/moved", server.base);
    server.answer(
        "/.well-known/openid-configuration",
        &json!({"issuer": iss, "jwks_uri": moved}),
    );
    until("the redirect", || {
        authn.status()[0]
            .last_error
            .as_deref()
            .is_some_and(|error| error.contains("302"))
    })
    .await;
    server.answer("/.well-known/openid-configuration", &json!({"issuer": iss, "jwks_uri": jwks}));
    until("the keys", || authn.status()[0].keys == 1).await;
    assert_eq!(ask(&authn, &token(&key, &iss)).await, Ok(()));
}

#[tokio::test]
async fn swapped_key_file_is_loaded_and_a_broken_one_keeps_the_last_good_keys() {
    let dir = tempfile::tempdir().unwrap();
    let first = SigningKey::generate().unwrap();
    let second = SigningKey::generate().unwrap();
    let first_file = dir.path().join("a");
    let second_file = dir.path().join("b");
    let link = dir.path().join("jwks.json");
    std::fs::write(&first_file, first.jwks().to_string()).unwrap();
    std::fs::write(&second_file, second.jwks().to_string()).unwrap();
    std::os::unix::fs::symlink(&first_file, &link).unwrap();
    let config = Issuer {
        keys: KeySource::File(link.clone()),
        ..issuer("corp")
    };
    let iss = config.scope.issuer.clone();
    let authn = gate(config);
    let _control = Control::start(&authn);
    assert_eq!(ask(&authn, &token(&first, &iss)).await, Ok(()));
    let next = dir.path().join("next");
    std::os::unix::fs::symlink(&second_file, &next).unwrap();
    std::fs::rename(&next, &link).unwrap();
    let moved = token(&second, &iss);
    until("the swapped file", || {
        authn
            .try_verify(PresentedToken::bearer(&moved), &[0], unix_seconds())
            .is_some_and(|outcome| outcome.is_ok())
    })
    .await;
    assert_eq!(ask(&authn, &token(&first, &iss)).await, Err(Denial::TokenInvalid));
    std::fs::write(&second_file, "{ half").unwrap();
    until("the error", || authn.status()[0].last_error.is_some()).await;
    assert_eq!(ask(&authn, &moved).await, Ok(()));
}

#[test]
fn plain_http_is_accepted_for_loopback_only_and_discovery_drops_the_trailing_slash() {
    for good in [
        "https://id.test/jwks",
        "http://127.0.0.1:1/x",
        "http://[::1]/x",
        "http://localhost/x",
    ] {
        assert!(keys::check_url(good, crate::config::KeyTransport::Tls).is_ok(), "{good}");
    }
    for bad in [
        "http://id.test/jwks",
        "http://localhost.evil.test/",
        "ftp://id.test/",
        "file:///etc/passwd",
        "x",
        "",
    ] {
        assert!(keys::check_url(bad, crate::config::KeyTransport::Tls).is_err(), "{bad}");
    }
    let danger = crate::config::KeyTransport::DangerPlain;
    assert!(keys::check_url("http://id.test/jwks", danger).is_ok() && keys::check_url("ftp://id.test/", danger).is_err());
    for iss in ["https://id.test/a", "https://id.test/a/"] {
        assert_eq!(keys::discovery_url(iss), "https://id.test/a/.well-known/openid-configuration");
    }
    let config = Issuer {
        keys: KeySource::Url("http://id.test/jwks".to_owned()),
        ..issuer("corp")
    };
    assert!(matches!(
        Authn::new(&[config], 1024, Metrics::new().unwrap()),
        Err(AuthnError::Source { index: 0, .. })
    ));
}
