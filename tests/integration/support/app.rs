//! The app behind the gate: an HTTP/1.1 server that records every request and always answers 200.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// Headers in which the gate gives the app the caller's identity.
pub const IDENTITY_HEADERS: [&str; 10] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-cedargate-tenant",
    "x-cedargate-portal",
    "x-cedargate-roles",
    "x-cedargate-decision-id",
    "x-cedargate-revision",
    "x-cedargate-assertion",
];

/// One request as the app received it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An app that records every request and answers 200 with `{"app":"recording"}`.
#[derive(Clone)]
pub struct App {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl App {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&app.seen);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let seen = Arc::clone(&seen);
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let seen = Arc::clone(&seen);
                        async move {
                            let (head, body) = request.into_parts();
                            let Ok(body) = body.collect().await else {
                                return Err("truncated");
                            };
                            seen.lock().unwrap().push(Seen {
                                method: head.method.to_string(),
                                target: head.uri.to_string(),
                                headers: head.headers,
                                body: body.to_bytes(),
                            });
                            let mut response = Response::new(Full::new(Bytes::from_static(b"{\"app\":\"recording\"}")));
                            response.headers_mut().insert("x-app", http::HeaderValue::from_static("yes"));
                            Ok(response)
                        }
                    });
                    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        app
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().expect("the app saw a request")
    }
}
