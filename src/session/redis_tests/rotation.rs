//! A rotation whose answer from Redis is lost.

use std::sync::atomic::AtomicBool;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A proxy in front of Redis. Once armed, it drops the answers after the next script, and all later answers of that
/// connection.
async fn lossy(server: &Server) -> (Server, Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = Server {
        child: None,
        port: listener.local_addr().unwrap().port(),
        folder: tempfile::tempdir().unwrap(),
        options: Vec::new(),
    };
    let armed = Arc::new(AtomicBool::new(false));
    let behind = server.port;
    let is_armed = Arc::clone(&armed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let redis = tokio::net::TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_redis, mut to_redis) = redis.into_split();
            let armed = Arc::clone(&is_armed);
            let muted = Arc::new(AtomicBool::new(false));
            let mute = Arc::clone(&muted);
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    if buffer[..read].windows(4).any(|word| word == b"EVAL") && armed.swap(false, Ordering::AcqRel) {
                        mute.store(true, Ordering::Release);
                    }
                    to_redis.write_all(&buffer[..read]).await.unwrap();
                }
            });
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_redis.read(&mut buffer).await {
                    if !muted.load(Ordering::Acquire) && to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (through, armed)
}

#[tokio::test]
async fn rotation_is_completed_if_the_stores_answer_is_lost() {
    let server = Server::start(&[]);
    let (through, armed) = lossy(&server).await;
    let gate = started(&through).await;
    let (id, session) = gate.create(data("ann")).await.unwrap().into_parts();
    armed.store(true, Ordering::Release);
    let (new, second) = gate.rotate(&id, &session).await.unwrap().into_parts();
    assert!(!armed.load(Ordering::Acquire), "an answer must have been lost");
    gate.is_up().await;
    assert_eq!(gate.find(&id).await.unwrap().next, Some(new.clone()));
    assert_eq!(gate.find(&new).await.unwrap().handle, second.handle);
    assert_eq!(gate.list(10).await.unwrap().summaries.len(), 1);
}
