//! `upstream.probes`: the app's own health endpoints, which the admin listener asks for the kubelet.
//!
//! An app that listens on loopback only cannot be probed from outside of its pod. The gate beside it can.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Position};

use super::upstream_url::{Authority, UpstreamUrl, authority};
use crate::config::check::Checker;
use crate::config::values::TimeSpan;

/// Headers that the HTTP library sets, and credentials: a probe must not need one.
const HEADERS_NOT_ALLOWED: [&str; 9] = [
    "authorization",
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Bytes of the name of a gRPC service.
const SERVICE_BYTES_MAX: usize = 127;
/// Headers of one probe.
const HEADERS_MAX: usize = 16;

/// Longest time of one probe: 1 ms to one minute.
type ProbeTimeout = TimeSpan<1, 60_000>;

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProbes {
    /// Asked by `/app/livez` of the admin listener. Absent: 404 there.
    pub livez: Option<RawProbe>,
    /// Asked by `/app/readyz`. Absent: 404 there.
    pub readyz: Option<RawProbe>,
    /// Asked by `/app/startupz`. Absent: 404 there.
    pub startupz: Option<RawProbe>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawProbe {
    /// URL that the app must answer with 2xx or 3xx. Absent: another target is given.
    #[serde(default)]
    pub url: Option<String>,
    /// `host:port` that must accept a connection. Absent: another target is given.
    #[serde(default)]
    pub tcp: Option<String>,
    /// `host:port` whose gRPC health service must answer `SERVING`, without TLS. Absent: another target is given.
    #[serde(default)]
    pub grpc: Option<String>,
    /// The service that `grpc` asks about. Absent: the server as a whole.
    #[serde(default)]
    pub service: Option<String>,
    /// Headers of the request, each as `Name: value`; only with `url`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Longest time of one probe, at most 1m.
    #[serde(default = "ProbeTimeout::seconds::<1>")]
    pub timeout: ProbeTimeout,
}

/// The app's probes, as far as they are configured.
#[derive(Clone, Debug, Default)]
pub struct AppProbes {
    pub livez: Option<AppProbe>,
    pub readyz: Option<AppProbe>,
    pub startupz: Option<AppProbe>,
}

#[derive(Clone, Debug)]
pub struct AppProbe {
    pub target: ProbeTarget,
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub enum ProbeTarget {
    /// The app must answer 2xx or 3xx.
    Http {
        url: UpstreamUrl,
        /// Path and query.
        target: Uri,
        headers: HeaderMap,
    },
    /// The app must accept a connection.
    Tcp(Authority),
    /// The app's gRPC health service must say that it serves.
    Grpc { authority: Authority, service: String },
}

impl Checker<'_> {
    pub fn app_probes(&mut self, raw: &RawProbes) -> AppProbes {
        let mut probe = |name: &str, raw: &Option<RawProbe>| {
            let raw = raw.as_ref()?;
            self.app_probe(&format!("upstream.probes.{name}"), raw)
        };
        AppProbes {
            livez: probe("livez", &raw.livez),
            readyz: probe("readyz", &raw.readyz),
            startupz: probe("startupz", &raw.startupz),
        }
    }

    fn app_probe(&mut self, section: &str, raw: &RawProbe) -> Option<AppProbe> {
        if raw.url.is_none() && !raw.headers.is_empty() {
            self.error(&format!("{section}.headers"), "is for `url`; other probes have no headers");
        }
        let service_key = format!("{section}.service");
        if raw.grpc.is_none() && raw.service.is_some() {
            self.error(&service_key, "is for `grpc`; other probes have no service");
        }
        let target = match (&raw.url, &raw.tcp, &raw.grpc) {
            (Some(url), None, None) => self.http_probe(section, url, &raw.headers)?,
            (None, Some(text), None) => ProbeTarget::Tcp(self.tcp_address(&format!("{section}.tcp"), text)?),
            (None, None, Some(text)) => {
                let service = raw.service.clone().unwrap_or_default();
                let is_name = service.bytes().all(|b| b.is_ascii_graphic());
                if service.len() > SERVICE_BYTES_MAX || !is_name {
                    self.error(
                        &service_key,
                        format!("is not the name of a service; use at most {SERVICE_BYTES_MAX} ASCII characters"),
                    );
                }
                ProbeTarget::Grpc {
                    authority: self.tcp_address(&format!("{section}.grpc"), text)?,
                    service,
                }
            }
            (None, None, None) => {
                self.error(
                    section,
                    "needs `url`, such as `http://127.0.0.1:3000/healthz`, or `tcp` or `grpc`, such as `127.0.0.1:3000`",
                );
                return None;
            }
            _ => {
                self.error(section, "has more than one of `url`, `tcp` and `grpc`; keep one");
                return None;
            }
        };
        Some(AppProbe {
            target,
            timeout: raw.timeout.get(),
        })
    }

    fn http_probe(&mut self, section: &str, text: &str, headers: &[String]) -> Option<ProbeTarget> {
        let key = format!("{section}.url");
        let headers = self.probe_headers(&format!("{section}.headers"), headers);
        let url = self.parse_url(&key, text)?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.fragment().is_none();
        let target = url[Position::BeforePath..Position::AfterQuery].parse::<Uri>().ok();
        let Some((authority, target)) = authority(&url).zip(target).filter(|_| is_http) else {
            self.error(
                &key,
                format!("`{text}` cannot be asked; write it as `http://127.0.0.1:3000/healthz`, or with `https`"),
            );
            return None;
        };
        Some(ProbeTarget::Http {
            url: if url.scheme() == "https" {
                UpstreamUrl::Https(authority)
            } else {
                UpstreamUrl::Http(authority)
            },
            target,
            headers,
        })
    }

    fn probe_headers(&mut self, section: &str, lines: &[String]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if lines.len() > HEADERS_MAX {
            self.error(section, format!("has {} headers; at most {HEADERS_MAX}", lines.len()));
            return headers;
        }
        for (n, line) in lines.iter().enumerate() {
            let key = format!("{section}[{n}]");
            let header = line.split_once(':').and_then(|(name, value)| {
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            match header {
                Some((name, _)) if HEADERS_NOT_ALLOWED.contains(&name.as_str()) => {
                    self.error(&key, format!("`{name}` cannot be a header of a probe"));
                }
                Some((name, value)) => drop(headers.append(name, value)),
                None => self.error(&key, format!("`{line}` is not a header; write it as `Name: value`")),
            }
        }
        headers
    }

    fn tcp_address(&mut self, key: &str, text: &str) -> Option<Authority> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let host = Host::parse(host).ok()?;
            let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
            Some(Authority {
                host: host.to_string(),
                port,
            })
        });
        if parsed.is_none() {
            self.error(key, format!("`{text}` is not `host:port`, such as `127.0.0.1:3000`"));
        }
        parsed
    }
}
