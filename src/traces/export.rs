//! The exporter of spans: OTLP over HTTP or gRPC, as the standard `OTEL_EXPORTER_OTLP_*` variables say.
//!
//! The OpenTelemetry library reads endpoint, headers, compression and timeout itself. Here are the choice of the
//! protocol and the trust in the collector's certificate. gRPC needs a runtime for its connection, so it gets a thread
//! of its own, which ends when `Connection` is dropped.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _};
use tokio::sync::oneshot;

use crate::base::outbound::{blocking_client, read_ca_file};

/// One export, from connecting to the answer, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// A variable of the environment; an empty one counts as absent.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable of the exporter: the one for traces, else the one for every signal.
pub(super) fn exporter_variable(name: &str) -> Option<String> {
    variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

/// The forms of OTLP that the gate speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    Http,
    Grpc,
}

impl Transport {
    /// `Err` with the variable's text if it names another one. HTTP is the specification's default.
    pub fn from_environment() -> Result<Self, String> {
        match exporter_variable("PROTOCOL").as_deref() {
            None | Some("http/protobuf") => Ok(Self::Http),
            Some("grpc") => Ok(Self::Grpc),
            Some(other) => Err(other.to_owned()),
        }
    }
}

/// An exporter, and what has to live as long as it.
pub(super) struct Export {
    pub exporter: SpanExporter,
    /// `None`: HTTP, which has a client of its own.
    pub connection: Option<Connection>,
}

/// The thread that drives the connection to a collector that speaks gRPC.
#[derive(Debug)]
pub(super) struct Connection(#[expect(dead_code, reason = "its drop ends the thread")] oneshot::Sender<Infallible>);

impl Export {
    pub fn start(transport: Transport) -> Result<Self, String> {
        match transport {
            Transport::Http => Self::http(),
            Transport::Grpc => Self::grpc(),
        }
    }

    fn http() -> Result<Self, String> {
        let timeout = exporter_variable("TIMEOUT").and_then(|millis| millis.parse().ok());
        let timeout = timeout.map_or(EXPORT_TIMEOUT, Duration::from_millis);
        let client = blocking_client(ca_file().as_deref(), timeout)?;
        let builder = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary);
        Ok(Self {
            exporter: builder.build().map_err(|error| error.to_string())?,
            connection: None,
        })
    }

    fn grpc() -> Result<Self, String> {
        let mut builder = SpanExporter::builder().with_tonic();
        if exporter_variable("ENDPOINT").is_some_and(|url| url.starts_with("https:")) {
            let tls = ClientTlsConfig::new();
            builder = builder.with_tls_config(match ca_file() {
                Some(path) => tls.ca_certificate(Certificate::from_pem(read_ca_file(&path)?)),
                None => tls.with_native_roots(),
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (sender, end) = oneshot::channel();
        let exporter = {
            let _inside = runtime.enter();
            builder.build().map_err(|error| error.to_string())?
        };
        let drive = move || {
            let _ended = runtime.block_on(end).is_err();
        };
        let thread = std::thread::Builder::new().name("traces".to_owned()).spawn(drive);
        thread.map_err(|error| error.to_string())?;
        Ok(Self {
            exporter,
            connection: Some(Connection(sender)),
        })
    }
}

fn ca_file() -> Option<PathBuf> {
    exporter_variable("CERTIFICATE").map(PathBuf::from)
}
