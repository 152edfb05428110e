//! Requests and answers on the wire: HTTP/1.1 and HTTP/2, TLS, upgrades, framing, limits, and the connection to the
//! app.

mod app_failures;
mod attack_regressions;
mod chromium_http2;
mod connection_ends;
mod connection_limits;
mod cross_origin;
mod forwarding;
mod http2_streams;
mod idle_connections;
mod interoperability;
mod lingering_load;
mod listener_tls;
mod lost_connections;
mod malformed_streams;
mod named_limits;
mod protocol_parity;
mod proxy_protocol;
mod rate_limits;
mod refusals;
mod slow_clients;
mod smuggling;
mod stripped_headers;
mod upgrades;
mod upstream_protocols;
