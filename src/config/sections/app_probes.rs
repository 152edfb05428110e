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
const HEADERS_NOT_ALLOWED: [&str; 10] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
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
    /// URL that the app must answer with 2xx or 3xx. Absent: `tcp` is given.
    #[serde(default)]
    pub url: Option<String>,
    /// `host:port` that must accept a connection. Absent: `url` is given.
    #[serde(default)]
    pub tcp: Option<String>,
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
        let target = match (&raw.url, &raw.tcp) {
            (Some(url), None) => self.http_probe(section, url, &raw.headers)?,
            (None, Some(text)) => {
                if !raw.headers.is_empty() {
                    self.error(
                        &format!("{section}.headers"),
                        "is for `url`; `tcp` sends no request, so it has none",
                    );
                }
                ProbeTarget::Tcp(self.tcp_address(&format!("{section}.tcp"), text)?)
            }
            (Some(_), Some(_)) => {
                self.error(section, "has `url` and `tcp`; keep one of them");
                return None;
            }
            (None, None) => {
                self.error(
                    section,
                    "needs `url`, such as `http://127.0.0.1:3000/healthz`, or `tcp`, such as `127.0.0.1:3000`",
                );
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
