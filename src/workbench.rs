//! The workbench: a web page over a policy tree, for the browser of the user who started it.
//!
//! Serves the page and the calls of its script on one loopback address, and writes the same page with its data into one
//! file. The answers come from `cli::workbench`, which asks the functions of the commands; nothing here reads a policy.
//!
//! SECURITY: a page of any other site runs in the same browser. `access` admits a request only with the cookie that the
//! printed address sets, for this host and port, and from this origin. `answer` lets the page load nothing from
//! elsewhere and run no script but its own.

mod access;
mod answer;
mod events;
mod page;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};

use self::access::Admission;
pub(crate) use self::access::PageAccess;
use self::answer::Body;
pub(crate) use self::page::{Datum, standalone};

/// Bytes of the body of a call.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest time to read a head, or a body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at the same time: a browser opens six, and one more for events.
const CONNECTIONS_MAX: usize = 64;
/// Calls at work at the same time; more of them wait.
const CALLS_MAX: usize = 4;
/// Where the calls are.
const API: &str = "/api/";

/// A call of the page's script.
pub(crate) struct Call {
    /// `matrix` of `/api/matrix`.
    pub name: String,
    parameters: Vec<(String, String)>,
    /// `None`: the call only reads.
    pub body: Option<Value>,
}

/// The reason why a call has no answer.
#[derive(Debug)]
pub(crate) struct CallRefusal {
    pub status: StatusCode,
    /// For the user.
    pub message: String,
}

/// Answers the calls, with JSON. Runs on a thread of its own for each call.
pub(crate) type Api = Arc<dyn Fn(&Call) -> Result<Bytes, CallRefusal> + Send + Sync>;

/// Everything that a request needs.
pub(crate) struct PageServer {
    pub access: PageAccess,
    pub api: Api,
    /// The identity of the tree; a new one reaches every open page.
    pub tree: watch::Receiver<String>,
    /// Stack of the threads that answer calls: policies are read recursively.
    pub stack_bytes: usize,
}

/// A site with the bounds on its work.
struct Served {
    site: PageServer,
    calls: Arc<Semaphore>,
}

impl Call {
    /// A call that only reads, as the export makes it.
    pub fn reading(name: &str, parameters: &[(&str, &str)]) -> Self {
        Self {
            name: name.to_owned(),
            parameters: parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: None,
        }
    }

    /// A parameter of the address.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A parameter that the call needs.
    pub fn required(&self, name: &str) -> Result<&str, CallRefusal> {
        self.parameter(name)
            .ok_or_else(|| CallRefusal::invalid(format!("the parameter `{name}` is missing")))
    }
}

impl CallRefusal {
    /// The call itself is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            message: message.into(),
        }
    }

    /// There is no such call.
    pub fn unknown() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: "there is no such call".to_owned(),
        }
    }
}

impl From<String> for CallRefusal {
    fn from(message: String) -> Self {
        Self::invalid(message)
    }
}

/// Serves until the process ends. The listener's address is that of `site.access`.
pub(crate) async fn serve(listener: TcpListener, site: PageServer) -> std::io::Result<()> {
    let served = Arc::new(Served {
        site,
        calls: Arc::new(Semaphore::new(CALLS_MAX)),
    });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&connections).acquire_owned().await else {
            return Ok(());
        };
        let (stream, _peer): (_, SocketAddr) = match listener.accept().await {
            Ok(accepted) => accepted,
            // out of descriptors, for example: the next accept may succeed
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let served = Arc::clone(&served);
                async move { Ok::<_, Infallible>(served.answer(request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // a browser that goes away is no error
            drop(connection.await);
            drop(slot);
        });
    }
}

impl Served {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        match self.site.access.admit(&head) {
            Ok(Admission::Welcome(welcome)) => answer::welcome(&self.site.access, welcome),
            Ok(Admission::Admitted) => match head.uri.path().strip_prefix(API) {
                Some("events") if head.method == Method::GET => events::answer(self.site.tree.clone()),
                Some(name) => self.call(name, &head, body).await,
                None => answer::asset(head.uri.path()),
            },
            Err(rejection) => answer::rejected(rejection),
        }
    }

    async fn call(&self, name: &str, head: &http::request::Parts, body: Incoming) -> Response<Body> {
        let body = match head.method {
            Method::POST => match read(body).await {
                Ok(body) => Some(body),
                Err(refused) => return answer::refused(&refused),
            },
            _ => None,
        };
        let query = head.uri.query().unwrap_or_default();
        let call = Call {
            name: name.to_owned(),
            parameters: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            body,
        };
        match self.on_thread(call).await {
            Ok(json) => answer::json(StatusCode::OK, json),
            Err(refused) => answer::refused(&refused),
        }
    }

    async fn on_thread(&self, call: Call) -> Result<Bytes, CallRefusal> {
        let failed = |message: &str| CallRefusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: message.to_owned(),
        };
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        let permit = permit.map_err(|_closed| failed("the workbench ends"))?;
        let (sender, receiver) = oneshot::channel();
        let api = Arc::clone(&self.site.api);
        let work = move || {
            // the page may have gone away meanwhile
            drop(sender.send(api(&call)));
            drop(permit);
        };
        let thread = std::thread::Builder::new()
            .name("workbench-call".to_owned())
            .stack_size(self.site.stack_bytes);
        thread.spawn(work).map_err(|_why| failed("there is no thread for the call"))?;
        receiver
            .await
            .unwrap_or_else(|_panicked| Err(failed("the call failed inside of the workbench; its terminal may say why")))
    }
}

async fn read(body: Incoming) -> Result<Value, CallRefusal> {
    let bytes = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match bytes {
        Ok(Ok(collected)) => serde_json::from_slice(&collected.to_bytes())
            .map_err(|error| CallRefusal::invalid(format!("the body is not JSON: {error}"))),
        Ok(Err(_)) => Err(CallRefusal {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            message: format!("the body is longer than {BODY_BYTES_MAX} bytes"),
        }),
        Err(_) => Err(CallRefusal {
            status: StatusCode::REQUEST_TIMEOUT,
            message: "the body did not arrive in time".to_owned(),
        }),
    }
}
