//! A server that hands each connection to a closure of the test, in raw bytes.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::RawConnection;

/// A server that runs a closure for each connection, with the head of the first request.
pub struct ScriptedServer {
    pub address: SocketAddr,
    pub heads: Arc<Mutex<Vec<String>>>,
    pub hits: Arc<AtomicUsize>,
}

impl ScriptedServer {
    pub fn start(script: impl Fn(&str, &mut RawConnection) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    pub fn on(listener: TcpListener, script: impl Fn(&str, &mut RawConnection) + Send + Sync + 'static) -> Self {
        let server = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            hits: Arc::default(),
        };
        let (heads, hits, script) = (Arc::clone(&server.heads), Arc::clone(&server.hits), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heads, hits, script) = (Arc::clone(&heads), Arc::clone(&hits), Arc::clone(&script));
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                    let mut wire = RawConnection {
                        stream,
                        left: Vec::new(),
                    };
                    let head = String::from_utf8_lossy(&wire.read_until("\r\n\r\n")).into_owned();
                    if head.is_empty() {
                        return;
                    }
                    hits.fetch_add(1, Ordering::SeqCst);
                    heads.lock().unwrap().push(head.clone());
                    script(&head, &mut wire);
                });
            }
        });
        server
    }

    pub fn count(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A whole response with a body, after which the connection ends.
pub fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nx-app: yes\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
