//! The app behind the soak: answers 200 and keeps nothing, and echoes every byte after an upgrade.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

pub struct EchoApp {
    pub address: SocketAddr,
    count: Arc<AtomicU64>,
}

impl EchoApp {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let counted = Arc::clone(&counted);
                    let service = service_fn(move |request| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        answer(request)
                    });
                    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    tokio::spawn(connection.with_upgrades());
                }
            });
        });
        Self { address, count }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"app")));
    response.headers_mut().insert("x-app", http::HeaderValue::from_static("yes"));
    if request.headers().contains_key("upgrade") {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.body_mut() = Full::default();
        for (name, value) in [("connection", "upgrade"), ("upgrade", "echo/1")] {
            response.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
                drop(tokio::io::copy(&mut from, &mut to).await);
            }
        });
        return Ok(response);
    }
    let mut body = request.into_body();
    while let Some(piece) = body.frame().await {
        piece?;
    }
    Ok(response)
}
